//! Several replicas at one volume: one seeds, the others wait, and who dies or freezes is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::{
    Running, SOON, Sandbox, Tree, assert_nothing_published, assert_same_tree, eventually, needs, run, seed,
    staged, volseed,
};

const FILES: usize = 60;

fn many() -> Tree {
    Tree::many_of("d", FILES, 50_000)
}

/// A volume whose holder stands still until it is fed the end of its archive.
#[track_caller]
fn held(sandbox: &Sandbox, flags: &[&str]) -> (Running, PathBuf) {
    let volume = sandbox.volume();
    let holder = seed("-", &volume).arguments(flags).fed().json().start();
    holder.feed(many().members().unfinished());
    eventually("files in the stage", || staged(&volume) >= FILES / 2);
    (holder, volume)
}

/// What the fed archive lacks: two blocks of zeros end it.
fn end_of_archive() -> Vec<u8> {
    vec![0; 1024]
}

fn source(sandbox: &Sandbox) -> PathBuf {
    many().write_to(&sandbox.directory("source"))
}

/// What is left of ours on a volume that is complete.
fn ours(volume: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(volume.join(".volseed"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_waiter_names_the_holder_and_starts_its_app_when_it_is_done() {
    let sandbox = Sandbox::new();
    let (mut holder, volume) = held(&sandbox, &[]);
    let waiter = run(source(&sandbox), &volume, ["echo", "started"]).json().start();
    let line = waiter.says("waiting for another replica");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert!(line.contains(&host) && line.contains("\"epoch\":1") && line.contains("since"), "{line}");
    holder.feed(end_of_archive());
    holder.end_input();
    holder.ends().exits(0);
    let outcome = waiter.ends().exits(0);
    assert!(outcome.stdout.contains("started"));
    assert!(
        outcome.stderr.contains("already seeded") && !outcome.stderr.contains("\"seeding\""),
        "{}",
        outcome.stderr
    );
    assert_eq!(ours(&volume), ["lock", "manifest-1", "record.json", "state.json"]);
}

#[test]
fn a_waiters_health_shows_how_far_the_holder_is() {
    let sandbox = Sandbox::new();
    let (_holder, volume) = held(&sandbox, &[]);
    let waiter = run(source(&sandbox), &volume, ["true"]).json().listening().start();
    waiter.says("waiting for another replica");
    eventually("the holder's files in the waiter's answer", || {
        let answer = waiter.get("/livez");
        answer.status == 200 && answer.json()["files"].as_u64().is_some_and(|files| files >= FILES as u64 / 2)
    });
}

#[test]
fn a_wait_ends_at_once_with_sigterm() {
    let sandbox = Sandbox::new();
    let (_holder, volume) = held(&sandbox, &[]);
    let waiter = run(source(&sandbox), &volume, ["true"]).start();
    waiter.says("waiting for another replica");
    let (outcome, time) = waiter.stopped_by(Signal::SIGTERM);
    outcome.exits(143);
    assert!(time < SOON, "{time:?}");
}

#[test]
fn a_killed_holder_is_replaced_and_its_files_are_kept() {
    let sandbox = Sandbox::new();
    let (holder, volume) = held(&sandbox, &[]);
    let waiter = seed("-", &volume).json().input(many().archive()).start();
    waiter.says("waiting for another replica");
    holder.stopped_by(Signal::SIGKILL);
    let outcome = waiter.ends().exits(0);
    assert_eq!(outcome.line("taking over")["epoch"], 2);
    assert!(outcome.line("seeded")["reused"].as_u64().unwrap() > 0);
    assert_same_tree(&source(&sandbox), &volume);
    assert_eq!(ours(&volume), ["lock", "manifest-1", "record.json", "state.json"]);
}

/// A frozen holder keeps its lock; its heartbeat tells. When it comes back it changes nothing.
#[track_caller]
fn frozen_holder_is_replaced(flags: &[&str]) {
    let sandbox = Sandbox::new();
    let (mut holder, volume) = held(&sandbox, flags);
    holder.signal(Signal::SIGSTOP);
    let began = Instant::now();
    let heir = seed("-", &volume).arguments(flags).json().input(many().archive()).ends().exits(0);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(heir.line("seeded")["reused"].as_u64().unwrap() > 0);
    let published = fs::metadata(volume.join("d")).unwrap().modified().unwrap();
    holder.feed(end_of_archive());
    holder.end_input();
    holder.signal(Signal::SIGCONT);
    let late = holder.ends().exits(0);
    assert!(late.stderr.contains("lost the volume to another replica"), "{}", late.stderr);
    assert!(late.stderr.contains("already seeded"), "{}", late.stderr);
    assert_eq!(fs::metadata(volume.join("d")).unwrap().modified().unwrap(), published);
    assert_same_tree(&source(&sandbox), &volume);
}

#[test]
fn a_frozen_holder_is_replaced_although_it_has_the_lock() {
    frozen_holder_is_replaced(&[]);
}

#[test]
fn a_frozen_holder_is_replaced_where_there_is_no_lock() {
    frozen_holder_is_replaced(&["--lock", "lease"]);
}

#[test]
fn without_a_lock_a_holder_that_ended_in_good_order_is_not_waited_for() {
    let sandbox = Sandbox::new();
    let (holder, volume) = held(&sandbox, &["--lock", "lease"]);
    holder.stopped_by(Signal::SIGTERM).0.exits(143);
    let began = Instant::now();
    let again = seed("-", &volume).option("--lock", "lease").json().input(many().archive()).ends().exits(0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(again.line("seeded")["reused"].as_u64().unwrap() > 0);
}

#[test]
fn many_that_start_together_without_a_lock_seed_once() {
    let (sandbox, mut seeders) = (Sandbox::new(), 0);
    let (source, volume) = (source(&sandbox), sandbox.volume());
    let start = || seed(&source, &volume).option("--lock", "lease").json().start();
    let replicas: Vec<Running> = (0..8).map(|_| start()).collect();
    for replica in replicas {
        seeders += usize::from(replica.ends().exits(0).stderr.contains("\"seeded\""));
    }
    assert_eq!(seeders, 1);
    assert_same_tree(&source, &volume);
    assert_eq!(ours(&volume), ["manifest-1", "record.json", "state.json"]);
}

#[test]
fn locks_that_are_refused_are_done_without() {
    let sandbox = Sandbox::new();
    if !needs::fuse() {
        return;
    }
    let source = source(&sandbox);
    let options =
        slowfs::Options { locks: slowfs::Locks::Refused(slowfs::Errno::from_i32(37)), ..Default::default() };
    let Some(volume) = crate::kit::slowfs::slow(&sandbox, options) else { return };
    seed(&source, volume.path()).ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_volume_of_another_version_is_left_alone_and_both_are_named() {
    let sandbox = Sandbox::new();
    let (source, volume) = (source(&sandbox), sandbox.volume());
    seed(&source, &volume).option("--seed-version", "1.4").ends().exits(0);
    let newer = sandbox.directory("newer");
    Tree::new().file("new", "x").write_to(&newer);
    let outcome = run(&newer, &volume, ["true"]).option("--seed-version", "2.0").ends().exits(0);
    outcome.says("WARN complete for other settings").says("version 1.4 (asked: 2.0)");
    assert_same_tree(&source, &volume);
}

#[test]
fn what_another_version_had_begun_to_stage_is_not_gone_on_with() {
    let sandbox = Sandbox::new();
    let (holder, volume) = held(&sandbox, &["--seed-version", "1"]);
    holder.stopped_by(Signal::SIGTERM);
    let again =
        seed("-", &volume).option("--seed-version", "2").json().input(many().archive()).ends().exits(0);
    assert_eq!(again.line("seeded")["reused"], 0);
}

#[test]
fn status_tells_a_living_holder_from_a_dead_one() {
    let sandbox = Sandbox::new();
    let (holder, volume) = held(&sandbox, &[]);
    let status = || {
        let text = volseed(["status", "--json", "--to"]).arguments([&volume]).ends().exits(0).stdout;
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let alive = status();
    assert_eq!(
        (&alive[0]["state"], &alive[0]["claim"]["alive"]),
        (&"seeding".into(), &true.into()),
        "{alive}"
    );
    assert_eq!(alive[0]["claim"]["epoch"], 1);
    holder.stopped_by(Signal::SIGKILL);
    assert_eq!(status()[0]["claim"]["alive"], false);
    assert_nothing_published(&volume);
}

#[test]
fn a_claim_that_cannot_be_read_is_refused_and_nothing_touched() {
    let sandbox = Sandbox::new();
    let (holder, volume) = held(&sandbox, &[]);
    holder.stopped_by(Signal::SIGKILL);
    let record = volume.join(".volseed/claims/1/claim.json");
    let text = fs::read_to_string(&record).unwrap().replace("\"pid\"", "\"dip\"");
    fs::write(&record, text).unwrap();
    seed(source(&sandbox), &volume).ends().fails(78, "claim.json");
    assert!(staged(&volume) > 0);
    assert_nothing_published(&volume);
}

#[test]
fn a_state_of_another_users_is_taken_over() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (source(&sandbox), sandbox.volume());
    fs::create_dir(volume.join(".volseed")).unwrap();
    std::os::unix::fs::chown(volume.join(".volseed"), Some(4711), Some(4711)).unwrap();
    seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
}
