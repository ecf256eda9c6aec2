//! Memory: a command stays within `--memory` and 32 MiB, whatever the source and the volume hold.

use std::fs;
use std::path::Path;
use std::process::Command;

use tar::EntryType;

use crate::kit::{Sandbox, Tarball, needs};

/// What a command may take besides `--memory`, in MiB (`docs/options.md`).
const BESIDE: u64 = 32;

/// Runs volseed: its exit code, and the most memory that it had resident, in KiB.
fn run(arguments: &[&str], memory: u64, input: &Path) -> (i32, u64) {
    let peak = "import resource, subprocess, sys\n\
                done = subprocess.run(sys.argv[2:], stdin=open(sys.argv[1]), stdout=subprocess.DEVNULL)\n\
                print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let output = Command::new("python3")
        .args(["-c", peak, input.to_str().unwrap(), env!("CARGO_BIN_EXE_volseed")])
        .args(arguments)
        .args(["--memory", &format!("{memory}MiB")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (exit, peak) = text.trim().split_once(' ').unwrap();
    (exit.parse().unwrap(), peak.parse().unwrap())
}

#[track_caller]
fn stays_within(memory: u64, arguments: &[&str], exit: i32, input: &Path) {
    let (ended, peak) = run(arguments, memory, input);
    assert_eq!(ended, exit, "{arguments:?}");
    assert!(peak <= (memory + BESIDE) << 10, "{arguments:?}: {peak} KiB");
}

#[test]
fn a_directory_of_a_hundred_thousand_files_stays_within_the_bound() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (sandbox.directory("source"), sandbox.volume());
    let large = source.join("large");
    fs::create_dir(&large).unwrap();
    for number in 0..100_000 {
        fs::File::create(large.join(format!("a-file-with-a-usual-name-{number}"))).unwrap();
    }
    let (from, to) = (source.to_str().unwrap(), volume.to_str().unwrap());
    stays_within(4, &["seed", "--from", from, "--to", to], 0, Path::new("/dev/null"));
}

#[test]
fn fifty_thousand_directories_stay_within_the_bound() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (sandbox.directory("source"), sandbox.volume());
    for number in 0..50_000 {
        fs::create_dir_all(source.join(format!("{}/a-directory-{number}", number / 1000))).unwrap();
    }
    let (from, to) = (source.to_str().unwrap(), volume.to_str().unwrap());
    stays_within(4, &["seed", "--from", from, "--to", to], 0, Path::new("/dev/null"));
}

#[test]
fn an_archive_of_attributes_stays_within_the_bound() {
    if !needs::root() || !needs::tools(&["python3"]) {
        return;
    }
    let value = vec![b'v'; 60_000];
    let many = |kind: EntryType| {
        let mut archive = Tarball::new().file("f", "x");
        for number in 0..300 {
            let xattrs: Vec<_> = (0..15).map(|at| format!("SCHILY.xattr.user.a{at}")).collect();
            let records: Vec<_> = xattrs.iter().map(|name| (name.as_str(), &value[..])).collect();
            archive = archive.pax(&records).member(kind, format!("m{number}"), "f", "");
        }
        archive.build()
    };
    // 270 MB of attributes, read through a pipe of which the other end is a file.
    for kind in [EntryType::Directory, EntryType::Link, EntryType::Regular] {
        let sandbox = Sandbox::new();
        let (archive, volume) = (sandbox.file("seed.tar", many(kind)), sandbox.volume());
        stays_within(16, &["seed", "--from", "-", "--to", volume.to_str().unwrap()], 0, &archive);
    }
}
