//! A volume on a network: round trips are the cost, and servers are full, forgetful, mute, or take
//! root for nobody. All on slowfs, which counts what an NFS client would send.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use slowfs::{Counts, Errno, Fault, Mount, Op, Options, Squash};

use crate::kit::slowfs::{far, slow};
use crate::kit::{
    Outcome, Running, SOON, Sandbox, Snapshot, Tree, Volseed, assert_nothing_published, assert_same_tree,
    eventually, seed, staged, volseed,
};

/// What a seed costs beside its entries: the claim with its heartbeat, four records, the renames to their
/// places, a look at other claims, and the removal of its own. Each of them is one round trip of a protocol
/// that survives a kill between any two, and other replicas.
const BESIDES: u64 = 56;
/// The same for one that resumes what another left.
const RESUMED: u64 = 40;

/// Of the requests for a seed of one file, the longest chain in which each waits for the one before.
const IN_SEQUENCE: u64 = 55;

const DIRECTORIES: usize = 12;
const FILES: usize = 300;
const LINKS: usize = 24;

/// Files, and links of both kinds, spread over directories of two levels.
fn spread() -> Tree {
    let mut tree = Tree::new();
    for number in 0..FILES {
        let directory = number % DIRECTORIES;
        let body = format!("{number:08}").repeat(1 + number % 700);
        tree = tree.file(format!("top/{directory}/{number}"), body);
    }
    for number in 0..LINKS / 2 {
        let directory = number % DIRECTORIES;
        tree = tree.symlink(format!("top/{directory}/s{number}"), "elsewhere");
        tree = tree.hard_link(format!("top/{directory}/l{number}"), &format!("top/{directory}/{directory}"));
    }
    tree
}

/// Of the directories of `spread`: those with files, `top`, and the root.
const ALL_DIRECTORIES: u64 = DIRECTORIES as u64 + 2;

/// As many writers as an NFS client has slots.
fn far_seed(from: &Path, to: &Mount) -> Volseed {
    seed(from, to.path()).option("--workers", "64")
}

#[track_caller]
fn assert_within(counts: &Counts, budget: u64) {
    eprintln!("{counts}; budget {budget}");
    assert!(counts.rpcs() <= budget, "{} more than {budget}: {counts}", counts.rpcs() - budget);
}

/// What a seed of `spread` costs, with these options.
#[track_caller]
fn cost(sandbox: &Sandbox, volume: &Mount, flags: &[&str]) -> Counts {
    let source = spread().write_to(&sandbox.directory("source"));
    let before = volume.counts();
    far_seed(&source, volume).arguments(flags).ends().exits(0);
    volume.counts() - &before
}

#[test]
fn a_file_costs_four_round_trips_and_a_directory_or_link_two() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let counts = cost(&sandbox, &volume, &[]);
    assert_within(&counts, 4 * FILES as u64 + 2 * (ALL_DIRECTORIES + LINKS as u64) + BESIDES);
    assert_same_tree(&sandbox.path("source"), volume.path());
}

#[test]
fn a_start_on_a_complete_volume_does_not_ask_the_server_what_kind_of_volume_it_is() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    cost(&sandbox, &volume, &[]);
    let before = volume.counts();
    far_seed(&sandbox.path("source"), &volume).ends().exits(0).says("already seeded");
    let counts = volume.counts() - &before;
    assert_eq!(counts[Op::Statfs], 0, "{counts}");
}

#[test]
fn without_times_a_file_costs_three_round_trips() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let counts = cost(&sandbox, &volume, &["--no-times"]);
    assert_within(&counts, 3 * FILES as u64 + 2 * (ALL_DIRECTORIES + LINKS as u64) + BESIDES);
}

#[test]
fn files_of_another_owner_cost_no_more() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let counts = cost(&sandbox, &volume, &["--chown", "33:34"]);
    assert_within(&counts, 4 * FILES as u64 + 2 * (ALL_DIRECTORIES + LINKS as u64) + BESIDES);
    Snapshot::of(&sandbox.path("source")).owned_by(33, 34).assert_same(&Snapshot::of(volume.path()));
}

#[test]
fn a_stream_costs_no_more_than_a_directory() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    far_seed(Path::new("-"), &volume).input(spread().archive()).ends().exits(0);
    assert_within(&volume.counts(), 4 * FILES as u64 + 2 * (ALL_DIRECTORIES + LINKS as u64) + BESIDES);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_large_file_waits_until_its_directories_are_made() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let tree = Tree::many("z", 40).file("a/b/c/d/large", b"0123456789abcdef".repeat(1 << 20));
    let source = tree.write_to(&sandbox.directory("source"));
    volume.faults().delay(Op::Mkdir, Duration::from_millis(20));
    far_seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_seeded_volume_is_recognised_in_twelve_round_trips() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    cost(&sandbox, &volume, &[]);
    let beside = volume.beside(&sandbox.directory("beside")).unwrap();
    far_seed(&sandbox.path("source"), &beside).ends().exits(0);
    assert_within(&beside.counts(), 12);
}

#[test]
fn a_seed_of_one_file_sends_few_requests_one_after_the_other() {
    let in_sequence = || {
        let sandbox = Sandbox::new();
        let source = Tree::new().file("file", "x").write_to(&sandbox.directory("source"));
        let options = Options { rtt: Duration::from_millis(10), ..far() };
        let volume = slow(&sandbox, options)?;
        far_seed(&source, &volume).ends().exits(0);
        let counts = volume.counts();
        eprintln!("{counts}; {IN_SEQUENCE} in sequence are allowed");
        Some(counts.in_sequence)
    };
    // On a machine that is busy with something else there is time for heartbeats in between.
    for _ in 0..5 {
        match in_sequence() {
            Some(requests) if requests > IN_SEQUENCE => {}
            _ => return,
        }
    }
    panic!("more than {IN_SEQUENCE} requests, one after the other");
}

#[test]
fn what_a_failed_seed_had_finished_costs_nothing_again() {
    let end = |mut running: Running| {
        // The archive is cut short.
        running.end_input();
        running.ends().exits(65);
    };
    resumed_after(end, 0);
}

/// Nobody vouches for the death of a holder that was killed: what it had finished is linked from its
/// stage to a new one, and removed there.
#[test]
fn what_a_killed_seed_had_finished_costs_two_round_trips_a_file() {
    resumed_after(|running| drop(running.stopped_by(Signal::SIGKILL)), 2);
}

#[track_caller]
fn resumed_after(end: impl FnOnce(Running), calls_a_file: u64) {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    end(half_seeded(&volume));
    // Another client of the server: its kernel has seen nothing of all that.
    let beside = volume.beside(&sandbox.directory("beside")).unwrap();
    let again = far_seed(Path::new("-"), &beside).json().input(spread().archive());
    let outcome = again.ends().exits(0);
    let reused = outcome.line("seeded")["reused"].as_u64().unwrap();
    assert!(reused > 0);
    let waited =
        if outcome.has_line("waited") { outcome.line("waited")["seconds"].as_f64().unwrap() } else { 0.0 };
    let (left, counts) = (FILES as u64 - reused, beside.counts());
    // What each writer was at work with is removed and begun again.
    let begun = counts[Op::Unlink].min(64 + LINKS as u64);
    // A directory that is there is opened and read, and a look while waiting costs eight calls.
    let looks = 8 * (2.0 * waited + 6.0) as u64;
    let files = 4 * left + calls_a_file * reused + begun;
    let directories = (4 + 2 * calls_a_file) * ALL_DIRECTORIES;
    assert_within(&counts, files + directories + 2 * LINKS as u64 + looks + RESUMED);
    assert_same_tree(&source, beside.path());
}

/// A seed that stands still somewhere in the middle, until it is fed more.
#[track_caller]
fn half_seeded(volume: &Mount) -> Running {
    let running = far_seed(Path::new("-"), volume).fed().json().start();
    running.feed(half(spread().archive()));
    eventually("files in the stage", || staged(volume.path()) > 20);
    running
}

fn half(mut archive: Vec<u8>) -> Vec<u8> {
    archive.truncate(archive.len() / 2 / 512 * 512);
    archive
}

/// A seed ends with this code where an operation fails; after that it completes.
#[track_caller]
fn fails_then_completes(fault: Fault, code: i32, says: &str) {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    volume.faults().fail(fault);
    far_seed(&source, &volume).ends().fails(code, says);
    assert_nothing_published(volume.path());
    volume.faults().clear();
    far_seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_full_volume_ends_the_seed_with_73_and_with_room_it_completes() {
    fails_then_completes(Fault::new(Op::Close, Errno::ENOSPC).named("250"), 73, "no space left");
}

#[test]
fn a_used_up_quota_ends_the_seed_with_73_and_with_room_it_completes() {
    fails_then_completes(Fault::new(Op::Close, Errno::EDQUOT).named("250"), 73, "quota");
}

#[test]
fn an_input_or_output_error_ends_the_seed_with_74() {
    fails_then_completes(Fault::new(Op::Close, Errno::EIO).named("250"), 74, "(os error 5)");
    fails_then_completes(Fault::new(Op::Write, Errno::EIO).named("250"), 74, "(os error 5)");
}

#[test]
fn what_an_earlier_run_moved_is_made_durable_by_the_next() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source =
        Tree::new().file("there/a", "x").file("there/below/b", "y").write_to(&sandbox.directory("source"));
    std::fs::create_dir_all(volume.path().join("there/below")).unwrap();
    for directory in ["there", "below"] {
        volume.faults().fail(Fault::new(Op::Fsync, Errno::EIO).named(directory));
        // The second has nothing to move there.
        for _ in 0..2 {
            far_seed(&source, &volume).ends().fails(74, directory);
            assert!(!volume.path().join(".volseed/state.json").exists());
        }
        assert!(volume.path().join("there/a").exists());
        volume.faults().clear();
    }
    far_seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source.join("there/below"), &volume.path().join("there/below"));
}

#[test]
fn a_volume_that_becomes_full_half_way_ends_the_seed_with_73() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, Options { capacity: Some(300_000), ..far() }) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    far_seed(&source, &volume).ends().fails(73, "no space left");
    assert_nothing_published(volume.path());
    volume.faults().set_capacity(None);
    far_seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_directory_whose_handle_the_server_forgot_is_opened_anew() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    let mut running = half_seeded(&volume);
    let staged = below(&volume.path().join(".volseed"), "3").expect("a file of it is in the stage");
    assert!(volume.faults().forget_handle(staged.strip_prefix(volume.path()).unwrap()));
    let archive = spread().archive();
    running.feed(&archive[half(archive.clone()).len()..]);
    running.end_input();
    running.ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn wait_ends_when_the_server_no_longer_knows_the_volume() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let waiting = volseed(["wait", "--wait-timeout", "20s"]).option("--to", volume.path()).start();
    waiting.says("waiting for another replica");
    for op in [Op::Lookup, Op::Getattr] {
        volume.faults().fail(Fault::new(op, Errno::ESTALE));
    }
    waiting.ends().fails(74, "stale file handle");
}

/// The directory of this name, anywhere below.
fn below(directory: &Path, name: &str) -> Option<PathBuf> {
    let directories = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut directories = directories.filter(|path| path.is_dir());
    directories.find_map(|path| if path.ends_with(name) { Some(path) } else { below(&path, name) })
}

#[test]
fn while_the_volume_hangs_health_answers_and_sigterm_ends_within_a_second() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    let faults = volume.faults();
    faults.hang(Some(Op::Close));
    let running = far_seed(&source, &volume).listening().start();
    eventually("something hangs", || faults.waiting() > 0);
    faults.hang(None);
    assert_eq!([running.get("/livez").status, running.get("/readyz").status], [200, 503]);
    let (outcome, after) = running.stopped_by(Signal::SIGTERM);
    outcome.exits(143);
    assert!(after < SOON, "{after:?}");
    faults.release();
    far_seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_volume_that_hangs_from_the_start_does_not_keep_sigterm_and_health_waiting() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = spread().write_to(&sandbox.directory("source"));
    let faults = volume.faults();
    faults.hang(None);
    let running = far_seed(&source, &volume).listening().start();
    eventually("something hangs", || faults.waiting() > 0);
    assert_eq!(running.get("/livez").status, 200);
    let (outcome, after) = running.stopped_by(Signal::SIGTERM);
    outcome.exits(143);
    assert!(after < SOON, "{after:?}");
}

/// Seeds a volume on which everything belongs to this user, whatever is asked for.
#[track_caller]
fn squashed(squash: Squash, user: u32) -> Option<(Outcome, Counts)> {
    let sandbox = Sandbox::new();
    let volume = slow(&sandbox, Options { squash, owner: (user, user), ..far() })?;
    let source = spread().write_to(&sandbox.directory("source"));
    let outcome = far_seed(&source, &volume).json().ends().exits(0);
    let counts = volume.counts();
    Snapshot::of(&source).owned_by(user, user).assert_same(&Snapshot::of(volume.path()));
    Some((outcome, counts))
}

#[test]
fn where_root_is_squashed_the_owners_are_one_warning_that_counts_them() {
    let Some((outcome, _)) = squashed(Squash::Root, 65534) else { return };
    outcome.says("now of 65534:65534").warns_once(FILES as u64 + ALL_DIRECTORIES + LINKS as u64 / 2);
}

#[test]
fn an_access_point_s_owner_is_accepted_without_a_chown_or_a_warning() {
    let Some((outcome, counts)) = squashed(Squash::All(33, 33), 33) else { return };
    outcome.says_nothing_of("WARN");
    let of_times = FILES as u64 + ALL_DIRECTORIES + LINKS as u64 / 2;
    assert!(counts[Op::Setattr] <= of_times + BESIDES, "{counts}");
}
