//! Files with holes, in each of the four ways in which tar writes them down.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::kit::compress::pipe;
use crate::kit::{Sandbox, needs, seed};

/// The bytes of a sparse file come out whole, whichever way its archive writes the holes down.
#[track_caller]
fn sparse_is_read(format: &[&str]) {
    if !needs::tools(&["tar"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.directory("source");
    let file = File::create(source.join("sparse")).unwrap();
    for part in 0..40_u64 {
        file.write_all_at(b"an island of data", part * 100_000).unwrap();
    }
    file.set_len(5_000_000).unwrap();
    File::create(source.join("hole")).unwrap().set_len(1_000_000).unwrap();
    fs::write(source.join("z"), "what follows").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-c", "--sparse", "--sort=name"]).args(format).arg("-C").arg(&source).arg(".");
    let archive = pipe(&mut tar, b"");
    assert!(archive.len() < 1_000_000, "tar has found the holes");
    let volume = sandbox.volume();
    seed("-", &volume).input(archive).ends().exits(0);
    for name in ["sparse", "hole", "z"] {
        assert!(fs::read(source.join(name)).unwrap() == fs::read(volume.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn sparse_files_of_the_old_gnu_format_are_read() {
    sparse_is_read(&["--format=gnu"]);
}

#[test]
fn sparse_files_of_pax_format_0_0_are_read() {
    sparse_is_read(&["--format=posix", "--sparse-version=0.0"]);
}

#[test]
fn sparse_files_of_pax_format_0_1_are_read() {
    sparse_is_read(&["--format=posix", "--sparse-version=0.1"]);
}

#[test]
fn sparse_files_of_pax_format_1_0_are_read() {
    sparse_is_read(&["--format=posix", "--sparse-version=1.0"]);
}
