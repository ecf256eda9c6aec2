//! Memory: a command stays within `--memory` and 32 MiB, whatever the source and the volume hold.

use std::fs;
use std::path::Path;
use std::process::Command;

use tar::EntryType;

use crate::kit::{Sandbox, Tarball, needs};

/// What a command may take besides `--memory`, in MiB (`docs/options.md`).
const BESIDE: u64 = 32;

/// Runs volseed within the bound: what it prints.
#[track_caller]
fn stays_within(memory: u64, arguments: &[&str], exit: i32, input: &Path) -> String {
    let peak = "import resource, subprocess, sys\n\
                done = subprocess.run(sys.argv[2:], stdin=open(sys.argv[1]))\n\
                print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let output = Command::new("python3")
        .args(["-c", peak, input.to_str().unwrap(), env!("CARGO_BIN_EXE_volseed")])
        .args(arguments)
        // Of `verify` it is no option.
        .args(["--memory".to_owned(), format!("{memory}MiB")].iter().filter(|_| arguments[0] != "verify"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (text, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let (ended, peak) = last.split_once(' ').unwrap();
    assert_eq!(ended, exit.to_string(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let peak: u64 = peak.parse().unwrap();
    assert!(peak <= (memory + BESIDE) << 10, "{arguments:?}: {peak} KiB");
    text.to_owned()
}

/// Seeds a volume, verifies it, and plans an upgrade to the same.
fn every_command_stays_within(source: &Path, volume: &Path) {
    let (from, to) = (source.to_str().unwrap(), volume.to_str().unwrap());
    let run =
        |memory, arguments: &[&str], exit| stays_within(memory, arguments, exit, Path::new("/dev/null"));
    run(4, &["seed", "--from", from, "--to", to, "--seed-version", "1"], 0);
    for verify in [&["verify", "--to", to][..], &["verify", "--digest", "--to", to]] {
        let verified = run(4, verify, 0);
        assert!(verified.ends_with("as seeded"), "{verified}");
    }
    // It knows every directory twice.
    let plan = ["plan", "--from", from, "--to", to, "--seed-version", "2", "--upgrade", "1"];
    let planned = run(16, &plan, 1);
    assert!(planned.contains(": 0 added, 0 replaced"), "{planned}");
}

#[test]
fn a_directory_of_a_hundred_thousand_files_stays_within_the_bound() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (sandbox.directory("source"), sandbox.volume());
    fs::create_dir(source.join("large")).unwrap();
    let file = |root: &Path, number: usize| root.join(format!("large/a-file-with-a-usual-name-{number}"));
    for number in 0..100_000 {
        fs::write(file(&source, number), number.to_string()).unwrap();
    }
    every_command_stays_within(&source, &volume);
    for number in (0..100_000).step_by(1000) {
        fs::remove_file(file(&volume, number)).unwrap();
        fs::write(file(&volume, number + 1), "edited").unwrap();
        fs::write(file(&volume, 1_000_000 + number), "a user's").unwrap();
    }
    let (from, to) = (source.to_str().unwrap(), volume.to_str().unwrap());
    let verify = |exit| stays_within(4, &["verify", "--digest", "--to", to], exit, Path::new("/dev/null"));
    let verified = verify(1);
    let counts =
        "100001 entries compared (version 1): 100 modified, 100 missing; 100 entries are not from the seed";
    assert!(verified.ends_with(counts), "{verified}");
    stays_within(4, &["repair", "--modified", "--from", from, "--to", to], 0, Path::new("/dev/null"));
    let verified = verify(0);
    assert!(verified.ends_with("as seeded; 100 entries are not from the seed"), "{verified}");
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
    every_command_stays_within(&source, &volume);
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
