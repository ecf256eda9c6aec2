//! A server that restarts lets its clients reclaim their locks first. Who asks for the lock meanwhile waits for the
//! answer beside its other calls, and uses the lock once there is one.

use std::time::Duration;

use nix::sys::signal::Signal;
use slowfs::{Mount, Op, Options};

use crate::kit::slowfs::{slow, told_as_nfs};
use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, eventually, needs, seed, staged};

const GIVEN_UP: &str = "the lock does not keep other replicas out";
const NFS: &str = "rw,vers=4.1,hard,local_lock=none,addr=192.0.2.7";
/// Longer than a replica waits for the lock before it does anything else.
const LONG: Duration = Duration::from_secs(7);

#[track_caller]
fn volume(sandbox: &Sandbox) -> Option<Mount> {
    needs::tools(&["sed", "mount"]).then(|| slow(sandbox, Options::default())).flatten()
}

/// From the standard input that the test feeds, or not.
fn replica(sandbox: &Sandbox, volume: &Mount) -> Volseed {
    seed("-", volume.path()).fed().under(told_as_nfs(sandbox, volume.path(), NFS))
}

#[test]
fn a_lock_that_is_not_answered_for_keeps_nobody_from_seeding() {
    let sandbox = Sandbox::new();
    let Some(volume) = volume(&sandbox) else { return };
    let source = Tree::many("d", 20).write_to(&sandbox.directory("source"));
    volume.faults().hang(Some(Op::Lock));
    let nfs = told_as_nfs(&sandbox, volume.path(), NFS);
    seed(&source, volume.path()).under(nfs).ends().exits(0).says_nothing_of(GIVEN_UP);
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_waiter_uses_the_lock_once_the_server_has_answered() {
    let sandbox = Sandbox::new();
    let Some(volume) = volume(&sandbox) else { return };
    let holder = replica(&sandbox, &volume).start();
    holder.feed(Tree::many_of("d", 40, 50_000).members().unfinished());
    eventually("files in the stage", || staged(volume.path()) >= 20);
    volume.faults().hang(Some(Op::Lock));
    let waiter = replica(&sandbox, &volume).json().start();
    waiter.says("waiting for another replica");
    std::thread::sleep(LONG);
    volume.faults().release();
    std::thread::sleep(Duration::from_secs(2));
    let (_, took) = holder.stopped_by(Signal::SIGKILL);
    let began = std::time::Instant::now();
    // Without the lock it would wait for 15 s of silence.
    waiter.says("taking over");
    assert!(began.elapsed() + took < Duration::from_secs(8), "{:?}", began.elapsed());
    let (outcome, _) = waiter.stopped_by(Signal::SIGTERM);
    outcome.says_nothing_of(GIVEN_UP);
}
