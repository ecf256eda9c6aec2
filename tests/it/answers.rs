//! A volume that does not answer: one warning that says what is waited for, one line once that is over.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use slowfs::{Errno, Fault, Mount, Op, Options};

use crate::kit::mount::private;
use crate::kit::slowfs::{slow, told_as_nfs};
use crate::kit::{Running, Sandbox, Tree, eventually, needs, seed, staged};

const SILENT: &str = "the volume has not answered for 10 s";
const OVER: &str = "the volume answers again";

struct Hung {
    volume: Mount,
    source: PathBuf,
    sandbox: Sandbox,
}

impl Hung {
    #[track_caller]
    fn new() -> Option<Hung> {
        let sandbox = Sandbox::new();
        let source = Tree::many("d", 40).write_to(&sandbox.directory("source"));
        let volume = slow(&sandbox, Options::default())?;
        Some(Hung { volume, source, sandbox })
    }

    fn start(&self) -> Running {
        seed(&self.source, self.volume.path()).json().listening().start()
    }
}

/// The fields of the line with this message, once it is there.
#[track_caller]
fn line(running: &Running, message: &str) -> Value {
    serde_json::from_str(&running.says(message)).unwrap()
}

/// It hangs in this phase, and is told to; so is the end of that.
#[track_caller]
fn is_told(hung: &Hung, mut running: Running, phase: &str) {
    let told = line(&running, SILENT);
    assert_eq!([&told["level"], &told["phase"]], ["WARN", phase], "{told}");
    let mount = [&told["mount"], &told["fstype"]].map(|field| field.as_str().unwrap_or_default());
    assert!(mount == ["slowfs", "fuse"] || mount[1].starts_with("fuse"), "{told}");
    assert_eq!(told["volume"], hung.volume.path().to_str().unwrap());
    assert!(told["since"].as_str().is_some_and(|time| time.starts_with("20")), "{told}");
    assert_eq!(running.get("/readyz").json()["seconds_left"], Value::Null);
    hung.volume.faults().release();
    let over = line(&running, OVER);
    assert!(over["seconds"].as_f64().is_some_and(|seconds| seconds >= 10.0), "{over}");
    running.end_input();
    let outcome = running.ends().exits(0);
    for message in [SILENT, OVER] {
        assert_eq!(outcome.stderr.matches(message).count(), 1, "{}", outcome.stderr);
    }
}

#[test]
fn a_volume_that_hangs_at_the_first_look_is_told() {
    let Some(hung) = Hung::new() else { return };
    hung.volume.faults().hang(None);
    is_told(&hung, hung.start(), "checking");
}

/// Seeds from standard input, and hangs at this operation once some files are staged.
#[track_caller]
fn hangs_later(hung: &Hung, op: Op, ends: bool) -> Running {
    let mut running = seed("-", hung.volume.path()).fed().json().listening().start();
    let archive = Tree::many("d", 80).archive();
    let (begin, rest) = archive.split_at(archive.len() / 2);
    running.feed(begin);
    eventually("some is staged", || staged(hung.volume.path()) > 5);
    hung.volume.faults().hang(Some(op));
    running.feed(rest);
    if ends {
        running.end_input();
    }
    running
}

/// Whether the source has more to say or not.
#[test]
fn a_volume_that_hangs_while_files_are_staged_is_told() {
    for ends in [true, false] {
        let Some(hung) = Hung::new() else { return };
        is_told(&hung, hangs_later(&hung, Op::Close, ends), "seeding");
    }
}

#[test]
fn a_volume_that_hangs_when_all_is_staged_is_told() {
    let Some(hung) = Hung::new() else { return };
    is_told(&hung, hangs_later(&hung, Op::Rename, true), "syncing");
}

/// Between two moves: renames take long, so that there is time to hang.
#[test]
fn a_volume_that_hangs_while_the_seed_is_published_is_told() {
    let Some(hung) = Hung::new() else { return };
    hung.volume.faults().delay(Op::Rename, Duration::from_millis(700));
    let running = hung.start();
    eventually("it is published", || running.get("/readyz").json()["phase"] == "publishing");
    hung.volume.faults().hang(Some(Op::Rename));
    is_told(&hung, running, "publishing");
}

#[test]
fn a_mount_below_the_volume_that_hangs_is_named() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, below) = (sandbox.directory("source"), sandbox.volume().join("below"));
    Tree::many("below", 20).file("index", "i").write_to(&source);
    fs::create_dir(&below).unwrap();
    if !needs::fuse() {
        return;
    }
    private();
    let mounted = Mount::new(Options::default(), &below).unwrap();
    mounted.faults().hang(Some(Op::Create));
    let running = seed(&source, sandbox.volume()).json().start();
    let told = line(&running, SILENT);
    assert_eq!([&told["mount"], &told["volume"]], ["slowfs", sandbox.volume().to_str().unwrap()], "{told}");
    mounted.faults().release();
    running.ends().exits(0);
}

/// Nothing is finished either, and the volume is not the reason.
#[test]
fn a_source_that_says_nothing_is_no_volume_that_hangs() {
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().listening().start();
    running.feed(Tree::many_of("d", 40, 50_000).members().unfinished());
    eventually("nothing has moved", || running.get("/readyz").json()["stall_seconds"].as_u64() > Some(12));
    assert_eq!(running.get("/readyz").json()["seconds_left"], Value::Null);
    running.stopped_by(Signal::SIGTERM).0.exits(143).says_nothing_of("has not answered");
}

#[test]
fn a_container_that_was_paused_does_not_blame_the_volume() {
    let Some(hung) = Hung::new() else { return };
    hung.volume.faults().delay(Op::Create, Duration::from_millis(100));
    let running = seed(&hung.source, hung.volume.path()).option("--workers", "1").start();
    eventually("some is staged", || staged(hung.volume.path()) > 5);
    running.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(12));
    running.signal(Signal::SIGCONT);
    running.ends().exits(0).says_nothing_of("has not answered");
}

/// As a soft mount gives up.
#[test]
fn an_error_of_a_soft_nfs_mount_says_to_mount_it_hard() {
    if !needs::tools(&["sed", "mount"]) {
        return;
    }
    for (errno, options, is_soft) in [
        (Errno::EIO, "rw,vers=4.1,soft,proto=tcp,addr=192.0.2.7", true),
        (Errno::ETIMEDOUT, "rw,vers=4.1,softerr,proto=tcp,addr=192.0.2.7", true),
        (Errno::EIO, "rw,vers=4.1,hard,proto=tcp,addr=192.0.2.7", false),
        (Errno::EDQUOT, "rw,vers=4.1,soft,proto=tcp,addr=192.0.2.7", false),
    ] {
        let Some(hung) = Hung::new() else { return };
        hung.volume.faults().fail(Fault::new(Op::Close, errno).named("00007"));
        let nfs = told_as_nfs(&hung.sandbox, hung.volume.path(), options);
        let outcome = seed(&hung.source, hung.volume.path()).under(nfs).ends();
        assert_eq!(outcome.stderr.contains("help: mount the volume hard"), is_soft, "{}", outcome.stderr);
    }
}
