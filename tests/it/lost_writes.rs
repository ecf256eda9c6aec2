//! Data that a file system took and lost, and says so late: with `close`, or to nobody because volseed
//! was killed first. The next run copies that file again.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use slowfs::{Errno, Fault, Mount, Op, Options};

use crate::kit::slowfs::slow;
use crate::kit::{
    Sandbox, Tree, Volseed, assert_nothing_published, assert_same_tree, eventually, seed, staged,
};

/// What is lost: small, of several writes, or named by the sentinel.
const FILES: [&str; 3] = ["small", "large", "d/version"];

fn tree() -> Tree {
    let large = b"0123456789abcdef".repeat(200 << 10);
    let tree = Tree::many("d", 40).file("small", "all of it").file("large", large);
    tree.file("d/version", "1.0").file("d/mode", "x").mode(0o4711).owner(33, 33)
}

struct Lossy {
    volume: Mount,
    source: PathBuf,
    beside: PathBuf,
}

/// The kernel that wrote it shows what it has cached: another client sees what has arrived.
#[track_caller]
fn is_on_the_server(source: &Path, volume: &Mount, at: &Path) {
    let beside = volume.beside(at).unwrap();
    assert_same_tree(source, beside.path());
}

impl Lossy {
    #[track_caller]
    fn new(sandbox: &Sandbox) -> Option<Lossy> {
        let source = tree().write_to(&sandbox.directory("source"));
        let volume = slow(sandbox, Options::default())?;
        Some(Lossy { volume, source, beside: sandbox.directory("beside") })
    }

    fn start(&self) -> Volseed {
        seed(&self.source, self.volume.path()).option("--sentinel", "d/version")
    }

    /// The next write to the file of this name does not arrive.
    fn loses(&self, path: &str, errno: Errno) {
        let name = path.rsplit('/').next().unwrap();
        self.volume.faults().fail(Fault::new(Op::Write, errno).named(name).times(1));
    }

    /// With room again: what the image ships, byte for byte.
    #[track_caller]
    fn completes(&self) {
        assert_nothing_published(self.volume.path());
        self.volume.faults().clear();
        self.start().ends().exits(0);
        is_on_the_server(&self.source, &self.volume, &self.beside);
    }
}

#[track_caller]
fn told_by_close(errno: Errno, code: i32) {
    for path in FILES {
        let sandbox = Sandbox::new();
        let Some(lossy) = Lossy::new(&sandbox) else { return };
        lossy.loses(path, errno);
        lossy.start().ends().fails(code, path);
        lossy.completes();
    }
}

#[test]
fn what_close_says_was_lost_for_want_of_space_is_copied_again() {
    told_by_close(Errno::ENOSPC, 73);
}

#[test]
fn what_close_says_was_lost_for_want_of_quota_is_copied_again() {
    told_by_close(Errno::EDQUOT, 73);
}

#[test]
fn what_close_says_was_lost_for_an_error_is_copied_again() {
    told_by_close(Errno::EIO, 74);
}

/// Twice in a row: what the second run knows to be lost is not whole for the third.
#[test]
fn what_is_lost_again_is_copied_once_more() {
    for path in FILES {
        let sandbox = Sandbox::new();
        let Some(lossy) = Lossy::new(&sandbox) else { return };
        for _ in 0..2 {
            lossy.loses(path, Errno::ENOSPC);
            lossy.start().ends().fails(73, path);
        }
        lossy.completes();
    }
}

/// Killed where the server has done this operation for one file and not answered yet. What was lost by
/// then is told to nobody any more.
#[track_caller]
fn killed_in(op: Op, loses: bool) {
    let large = b"0123456789abcdef".repeat(200 << 10);
    for (path, body) in [("small", b"all of it".to_vec()), ("large", large), ("d/version", b"1.0".to_vec())] {
        let sandbox = Sandbox::new();
        let Some(volume) = slow(&sandbox, Options::default()) else { return };
        let (first, tree) = (Tree::many("d", 40), Tree::many("d", 40).file(path, body));
        // Nobody vouches for the death of who is killed: it would be waited for.
        let start = || seed("-", volume.path()).option("--lock", "none");
        let faults = volume.faults();
        let mut running = start().fed().start();
        let archive = tree.archive();
        let (begin, rest) = archive.split_at(first.members().unfinished().len());
        running.feed(begin);
        eventually("the first files are staged", || staged(volume.path()) >= 40);
        faults.hang(Some(op));
        if loses {
            let name = path.rsplit('/').next().unwrap();
            faults.fail(Fault::new(Op::Write, Errno::ENOSPC).named(name).times(1));
        }
        running.feed(rest);
        let file = volume.path().join(".volseed/claims/1/stage/tree").join(path);
        // Where the operation comes after the one that tells of the loss, that is the end.
        eventually("it hangs", || file.exists() && faults.waiting() > 0 || !running.is_running());
        if running.is_running() {
            running.signal(Signal::SIGKILL);
        }
        faults.release();
        drop(running.ends());
        faults.clear();
        assert_nothing_published(volume.path());
        start().input(archive).ends().exits(0);
        let source = tree.write_to(&sandbox.directory("source"));
        is_on_the_server(&source, &volume, &sandbox.directory("beside"));
    }
}

#[test]
fn what_was_lost_before_a_kill_in_setting_the_time_is_copied_again() {
    killed_in(Op::Setattr, true);
}

#[test]
fn what_was_lost_before_a_kill_in_close_is_copied_again() {
    killed_in(Op::Close, true);
}

#[test]
fn a_kill_in_setting_the_time_or_in_close_loses_nothing() {
    killed_in(Op::Setattr, false);
    killed_in(Op::Close, false);
}
