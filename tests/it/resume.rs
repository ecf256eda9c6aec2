//! Interrupted seeds and second replicas: nothing is lost, nothing is done twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::kit::{
    Running, SOON, Sandbox, Snapshot, Tree, assert_nothing_published, assert_same_tree, eventually, needs,
    run, seed, staged, volseed,
};
use crate::order::names;

/// Enough that most of them are on the volume although nothing more comes: small files of an
/// archive are handed to the writers a mebibyte at a time.
const FILES: usize = 60;
const BYTES: usize = 50_000;

fn many() -> Tree {
    Tree::many_of("d", FILES, BYTES)
}

/// A volume on which a seed of `tree` stands still: all of it came but the archive's end.
#[track_caller]
fn nearly_seeded(sandbox: &Sandbox, tree: &Tree) -> (Running, PathBuf) {
    let volume = sandbox.volume();
    let running = seed("-", &volume).fed().json().start();
    running.feed(tree.members().unfinished());
    eventually("files in the stage", || staged(&volume) >= FILES / 2);
    (running, volume)
}

/// The same tree as a directory, to compare with.
fn reference(sandbox: &Sandbox, tree: &Tree) -> PathBuf {
    tree.write_to(&sandbox.directory("reference"))
}

/// Seeds the whole tree now and says how many files were not copied again.
#[track_caller]
fn restarted(tree: &Tree, volume: &Path, flags: &[&str]) -> u64 {
    let outcome = seed("-", volume).arguments(flags).json().input(tree.archive()).ends().exits(0);
    outcome.line("seeded")["reused"].as_u64().unwrap()
}

#[test]
fn after_a_kill_the_next_start_does_not_copy_again_what_was_finished() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (running, volume) = nearly_seeded(&sandbox, &tree);
    running.stopped_by(Signal::SIGKILL).0.killed_by(Signal::SIGKILL);
    assert_nothing_published(&volume);
    let reused = restarted(&tree, &volume, &[]);
    assert!(reused > 0 && reused <= FILES as u64, "{reused}");
    assert_same_tree(&reference(&sandbox, &tree), &volume);
}

#[test]
fn a_file_that_was_half_written_is_written_again() {
    let tree = many().file("large", b"0123456789abcdef".repeat(64 << 10));
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let running = seed("-", &volume).fed().start();
    let mut members = tree.members().unfinished();
    members.truncate(members.len() - 300_000);
    running.feed(members);
    eventually("files in the stage", || staged(&volume) >= FILES / 2);
    running.stopped_by(Signal::SIGKILL);
    assert!(restarted(&tree, &volume, &[]) <= FILES as u64);
    assert_same_tree(&reference(&sandbox, &tree), &volume);
}

#[test]
fn without_times_nothing_staged_is_trusted() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (running, volume) = nearly_seeded(&sandbox, &tree);
    running.stopped_by(Signal::SIGKILL);
    assert_eq!(restarted(&tree, &volume, &["--no-times"]), 0);
}

#[test]
fn hard_links_and_attributes_survive_a_restart() {
    let tree = many().file("own", "x").mode(0o4711).attribute("user.a", "1").hard_link("same", "own");
    let sandbox = Sandbox::new();
    let (running, volume) = nearly_seeded(&sandbox, &tree);
    running.stopped_by(Signal::SIGKILL);
    restarted(&tree, &volume, &[]);
    assert_same_tree(&reference(&sandbox, &tree), &volume);
}

#[test]
fn what_only_an_interrupted_seed_had_is_not_published() {
    let sandbox = Sandbox::new();
    let (running, volume) = nearly_seeded(&sandbox, &many().directory("old/only"));
    running.stopped_by(Signal::SIGKILL);
    let tree = Tree::many_of("d", FILES / 2, BYTES).file("new", "x");
    restarted(&tree, &volume, &[]);
    assert_same_tree(&reference(&sandbox, &tree), &volume);
}

/// After a seed of the first tree was interrupted, the volume gets to be exactly the second one.
#[track_caller]
fn becomes(first: &Tree, second: &Tree) {
    let sandbox = Sandbox::new();
    let (running, volume) = nearly_seeded(&sandbox, first);
    running.stopped_by(Signal::SIGKILL);
    restarted(second, &volume, &[]);
    assert_same_tree(&reference(&sandbox, second), &volume);
}

/// A file of the size and time of every other one that this made.
fn same(tree: Tree, path: &str) -> Tree {
    tree.file(path, "same size").modified(1_400_000_000, 1)
}

#[test]
fn what_changed_its_type_since_the_interruption_is_made_anew() {
    let old = Tree::new().file("a", "x").file("b/c", "x").symlink("l", "a").fifo("p");
    let old = old.file("twice", "x").hard_link("linked", "twice");
    let new = Tree::new().file("d", "x").file("a/b", "x").symlink("b", "a").file("l", "y").directory("p");
    let new = new.file("twice", "x").file("linked", "other");
    let old = (0..FILES).fold(old, |tree, number| tree.file(format!("d/{number}"), vec![b'x'; BYTES]));
    becomes(&old, &new);
}

#[test]
fn what_was_linked_at_the_interruption_and_is_not_now_is_parted() {
    let old = same(many(), "one").hard_link("two", "one").hard_link("three", "one");
    becomes(&old, &same(same(same(many(), "one").mode(0o600), "two").mode(0o640), "three"));
}

#[test]
fn what_was_not_linked_at_the_interruption_and_is_now_is_linked() {
    let old = same(same(many(), "one"), "two");
    becomes(&old, &same(many(), "one").hard_link("two", "one"));
}

#[test]
fn other_modes_and_attributes_than_at_the_interruption_are_applied_to_reused_files() {
    let old = same(many(), "f").mode(0o4755).attribute("user.old", "1").attribute("user.both", "1");
    becomes(&old, &same(many(), "f").mode(0o600).attribute("user.new", "1").attribute("user.both", "2"));
    let old = many().directory("e").mode(0o500).attribute("user.old", "1");
    becomes(&old, &many().directory("e").mode(0o750).attribute("user.new", "1"));
}

#[test]
fn a_file_that_comes_twice_is_the_last_one_also_after_an_interruption() {
    let first = many().members().file("twice", "1st one");
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let running = seed("-", &volume).fed().start();
    let filled = (0..30).fold(first, |archive, number| archive.file(format!("{number}"), vec![b'x'; BYTES]));
    running.feed(filled.clone().unfinished());
    eventually("files in the stage", || staged(&volume) > FILES);
    running.stopped_by(Signal::SIGKILL);
    seed("-", &volume).input(filled.file("twice", "2nd one").build()).ends().exits(0);
    assert_eq!(fs::read_to_string(volume.join("twice")).unwrap(), "2nd one");
}

#[test]
fn another_owner_on_the_restart_is_applied_to_reused_files() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (running, volume) = nearly_seeded(&sandbox, &tree);
    running.stopped_by(Signal::SIGKILL);
    let user = nix::unistd::geteuid().as_raw();
    let other = if user == 0 { 33 } else { user };
    restarted(&tree, &volume, &["--chown", &format!("{other}:{other}")]);
    Snapshot::of(&reference(&sandbox, &tree)).owned_by(other, other).assert_same(&Snapshot::of(&volume));
}

/// The signal ends a seed within a second, with this code, and what was staged is used again.
#[track_caller]
fn stops_resumable(signal: Signal, code: i32) {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (running, volume) = nearly_seeded(&sandbox, &tree);
    let (outcome, after) = running.stopped_by(signal);
    outcome.exits(code);
    assert!(after < SOON, "{after:?}");
    assert_nothing_published(&volume);
    assert!(restarted(&tree, &volume, &[]) > 0);
    assert_same_tree(&reference(&sandbox, &tree), &volume);
}

#[test]
fn sigterm_stops_a_seed_within_a_second_with_143() {
    stops_resumable(Signal::SIGTERM, 143);
}

#[test]
fn sigint_stops_a_seed_within_a_second_with_130() {
    stops_resumable(Signal::SIGINT, 130);
}

#[test]
fn sigterm_stops_a_seed_that_waits_for_a_silent_standard_input() {
    for from in ["-", "/dev/stdin"] {
        let sandbox = Sandbox::new();
        let running = seed(from, sandbox.volume()).fed().listening().start();
        running.says("listening");
        let (outcome, after) = running.stopped_by(Signal::SIGTERM);
        outcome.exits(143);
        assert!(after < SOON, "{after:?}");
    }
}

#[test]
fn sigterm_stops_a_replica_that_waits_for_another() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (_first, volume) = nearly_seeded(&sandbox, &tree);
    let second = seed(reference(&sandbox, &tree), &volume).start();
    second.says("waiting for another replica");
    let (outcome, after) = second.stopped_by(Signal::SIGTERM);
    outcome.exits(143);
    assert!(after < SOON, "{after:?}");
}

#[test]
fn sigterm_stops_a_wait() {
    let sandbox = Sandbox::new();
    let waiting = volseed(["wait"]).option("--to", sandbox.volume()).start();
    waiting.says("waiting");
    let (outcome, after) = waiting.stopped_by(Signal::SIGTERM);
    outcome.exits(143);
    assert!(after < SOON, "{after:?}");
}

#[test]
fn sigterm_stops_process_1_of_a_container() {
    if !needs::root() || !needs::tools(&["unshare"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let running = run("-", &volume, ["true"]).fed().in_container().start();
    eventually("it is at work", || volume.join(".volseed").exists());
    running.stopped_by(Signal::SIGTERM).0.exits(143);
}

#[test]
fn a_second_replica_waits_for_the_first_and_then_skips() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (mut first, volume) = nearly_seeded(&sandbox, &tree);
    let source = reference(&sandbox, &tree);
    let second = seed(&source, &volume).json().start();
    second.says("waiting for another replica");
    first.feed([0; 10_240]);
    first.end_input();
    first.ends().exits(0);
    let second = second.ends().exits(0);
    assert!(!second.has_line("seeding"), "{}", second.stderr);
    assert_same_tree(&source, &volume);
}

#[test]
fn many_replicas_at_once_seed_once() {
    let (sandbox, tree) = (Sandbox::new(), Tree::many("d", 200));
    let (source, volume) = (reference(&sandbox, &tree), sandbox.volume());
    let replicas: Vec<_> = (0..6).map(|_| seed(&source, &volume).json().start()).collect();
    let outcomes: Vec<_> = replicas.into_iter().map(|replica| replica.ends().exits(0)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.has_line("seeding")).count(), 1);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_holder_that_is_killed_is_replaced_at_once() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (first, volume) = nearly_seeded(&sandbox, &tree);
    let source = reference(&sandbox, &tree);
    let second = seed(&source, &volume).json().start();
    second.says("waiting for another replica");
    first.stopped_by(Signal::SIGKILL);
    let outcome = second.ends().exits(0);
    assert!(outcome.has_line("waited") && outcome.has_line("seeding"), "{}", outcome.stderr);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_replica_that_may_not_wait_longer_exits_75() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (_first, volume) = nearly_seeded(&sandbox, &tree);
    let source = reference(&sandbox, &tree);
    seed(source, &volume).option("--wait-timeout", "200ms").ends().fails(75, "another replica");
}

#[test]
fn wait_ends_once_the_volume_is_seeded_and_never_seeds() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let (mut first, volume) = nearly_seeded(&sandbox, &tree);
    let mut waiting = volseed(["wait"]).option("--to", &volume).start();
    assert!(waiting.is_running());
    first.feed([0; 10_240]);
    first.end_input();
    first.ends().exits(0);
    waiting.ends().exits(0);
    volseed(["wait"]).option("--to", &volume).ends().exits(0);
}

#[test]
fn wait_says_that_the_holder_failed() {
    let sandbox = Sandbox::new();
    let (mut first, volume) = nearly_seeded(&sandbox, &many());
    let waiting = volseed(["wait", "--wait-timeout", "3s"]).option("--to", &volume).start();
    waiting.says("waiting for another replica");
    first.feed("no header of a member".repeat(100));
    first.end_input();
    assert!(!first.ends().status.success());
    waiting.says("ended without completing it: waiting for another");
    waiting.ends().fails(75, "ended without completing it");
    let late = volseed(["wait", "--wait-timeout", "200ms"]).option("--to", &volume).ends();
    late.fails(75, "ended without completing it");
}

#[test]
fn wait_gives_up_with_75_and_leaves_the_volume_alone() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let wait = volseed(["wait", "--wait-timeout", "200ms"]).option("--to", &volume);
    wait.ends().fails(75, "volume");
    assert_nothing_published(&volume);
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0, "not even our directory");
}

#[test]
fn killed_at_any_moment_the_next_start_completes_and_no_record_is_early() {
    let (sandbox, tree) = (Sandbox::new(), Tree::many("d", 300).file("version", "1"));
    let source = reference(&sandbox, &tree);
    for moment in 0..16 {
        let volume = sandbox.directory(&format!("volume-{moment}"));
        let start = || seed(&source, &volume).option("--sentinel", "version");
        let mut running = start().start();
        std::thread::sleep(Duration::from_millis(2 * moment));
        if running.is_running() {
            running.stopped_by(Signal::SIGKILL);
        }
        if volume.join(".volseed/state.json").exists() || volume.join("version").exists() {
            assert_eq!(fs::read_dir(volume.join("d")).unwrap().count(), 300, "seen too early");
        }
        start().ends().exits(0);
        assert_same_tree(&source, &volume);
    }
}

/// A volume that was seeded with `tree` and then emptied by hand.
fn emptied(sandbox: &Sandbox, tree: &Tree) -> PathBuf {
    let volume = sandbox.volume();
    seed("-", &volume).input(tree.archive()).ends().exits(0);
    for name in names(&volume) {
        let path = volume.join(name);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
    }
    volume
}

#[test]
fn the_record_of_an_emptied_volume_does_not_vouch_for_the_next_seed() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let volume = emptied(&sandbox, &tree);
    let again = seed("-", &volume).fed().start();
    again.feed(tree.members().unfinished());
    eventually("files in the stage", || staged(&volume) >= FILES / 2);
    again.stopped_by(Signal::SIGKILL);
    // As if it had been killed when the first of its names was published.
    fs::create_dir(volume.join("d")).unwrap();
    volseed(["wait", "--wait-timeout", "100ms"]).option("--to", &volume).ends().exits(75);
    fs::remove_dir(volume.join("d")).unwrap();
    restarted(&tree, &volume, &[]);
    assert_same_tree(&reference(&sandbox, &tree), &volume);
}

#[test]
fn a_volume_that_is_seeded_again_is_of_the_next_generation() {
    let (sandbox, tree) = (Sandbox::new(), many());
    let volume = emptied(&sandbox, &tree);
    restarted(&tree, &volume, &[]);
    let status = volseed(["status", "--json"]).option("--to", &volume).ends().exits(0);
    assert!(status.stdout.contains("\"generation\": 2"), "{}", status.stdout);
}
