//! What a test needs of the machine. What is missing is said on standard error of a plain `cargo test`, and the test
//! passed over; with `CI` set it is a failure.

use std::io::Write;
use std::path::Path;

/// Root, for owners, mounts and devices.
#[track_caller]
pub(crate) fn root() -> bool {
    met(nix::unistd::geteuid().is_root(), "root")
}

/// Command-line tools.
#[track_caller]
pub(crate) fn tools(names: &[&str]) -> bool {
    names.iter().all(|name| met(in_path(name), name))
}

/// Everything a loop device with this file system takes.
#[track_caller]
pub(crate) fn file_system(kind: &str) -> bool {
    root()
        && tools(&["mount", &format!("mkfs.{kind}")])
        && met(Path::new("/dev/loop-control").exists(), "loop devices in /dev")
}

/// Everything a file system in user space takes.
#[track_caller]
pub(crate) fn fuse() -> bool {
    root() && met(Path::new("/dev/fuse").exists(), "/dev/fuse")
}

#[track_caller]
fn met(there: bool, what: &str) -> bool {
    if !there {
        let is_ci = std::env::var("CI").is_ok_and(|ci| !["", "false"].contains(&ci.as_str()));
        assert!(!is_ci, "CI has to have {what}");
        // Not by a macro, whose output the test harness keeps to itself when the test passes.
        let test = std::thread::current();
        let line = format!("skipped {}: needs {what}\n", test.name().unwrap_or("a test"));
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    there
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(name).exists())
}
