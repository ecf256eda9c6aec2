//! The manifest of a seed, and `volseed verify`, which holds a volume against it.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::kit::moments::killed_staging;
use crate::kit::needs;
use crate::kit::{Outcome, Sandbox, Tree, Volseed, seed, volseed};

/// When every file of [`image`] was changed, in seconds since 1970.
const TIME: i64 = 1_400_000_000;

fn image() -> Tree {
    Tree::new()
        .file("index.php", "<?php")
        .modified(TIME, 0)
        .file("lib/a.php", "aaaa")
        .modified(TIME, 5000)
        .hard_link("lib/b.php", "lib/a.php")
        .symlink("lib/current", "a.php")
        .fifo("lib/pipe")
        .directory("empty")
        .file("with space/\u{e9}\\\n", "x")
        .modified(TIME, 0)
}

/// A volume that [`image`] was seeded to.
fn seeded(sandbox: &Sandbox) -> PathBuf {
    let (source, volume) = (image().write_to(&sandbox.directory("source")), sandbox.volume());
    seed(source, &volume).ends().exits(0);
    volume
}

fn verify(volume: &Path) -> Volseed {
    volseed(["verify", "--to"]).arguments([volume])
}

/// What differs, as `verify` prints it, without the last line.
fn differences(outcome: &Outcome) -> Vec<String> {
    let lines: Vec<String> = outcome.stdout.lines().map(str::to_owned).collect();
    lines[..lines.len() - 1].to_vec()
}

fn set_time(path: &Path, seconds: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

fn manifest(volume: &Path) -> String {
    fs::read_to_string(volume.join(".volseed/manifest-1")).unwrap()
}

/// The entries that a volume's manifest lists, but for the root, of which an archive says nothing.
fn listed(volume: &Path) -> Vec<String> {
    let manifest = manifest(volume);
    assert!(manifest.starts_with("volseed-manifest 1\n"), "{manifest}");
    let is_entry = |line: &&str| ["f ", "l ", "h ", "p ", "d "].iter().any(|kind| line.starts_with(kind));
    let lines = manifest.lines().filter(is_entry).filter(|line| !line.starts_with("d . "));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_entry_is_listed_whatever_the_source() {
    let sandbox = Sandbox::new();
    let source = image().write_to(&sandbox.directory("source"));
    let archive = image().archive();
    seed(&source, sandbox.directory("directory")).ends().exits(0);
    seed(sandbox.file("seed.tar", &archive), sandbox.directory("tar")).ends().exits(0);
    seed("-", sandbox.directory("stdin")).input(archive).ends().exits(0);
    let [mut directory, tar, mut stdin] =
        ["directory", "tar", "stdin"].map(|name| listed(&sandbox.path(name)));
    assert_eq!(tar, stdin);
    let lines = [
        "f \\303\\251\\134\\012 1 1400000000 ",
        "f a.php 4 1400000000.000005000 ",
        "h b.php lib/a.php",
        "l current a.php",
        "p pipe",
    ];
    for line in lines {
        assert!(stdin.iter().any(|it| it.starts_with(line)), "{line:?} in {stdin:#?}");
    }
    // Of a directory, either name of a file may come first.
    let is_linked = |line: &String| ["f a", "f b", "h a", "h b"].iter().any(|name| line.starts_with(name));
    directory.retain(|line| !is_linked(line));
    stdin.retain(|line| !is_linked(line));
    assert_eq!(directory, stdin);
}

#[test]
fn a_seeded_volume_is_as_seeded() {
    let sandbox = Sandbox::new();
    let volume = seeded(&sandbox);
    for flags in [&[][..], &["--digest"]] {
        let outcome = verify(&volume).arguments(flags).ends().exits(0);
        assert!(outcome.stdout.contains(": 9 entries compared: as seeded\n"), "{}", outcome.stdout);
    }
}

#[test]
fn what_differs_is_told_by_its_path() {
    let sandbox = Sandbox::new();
    let volume = seeded(&sandbox);
    fs::write(volume.join("index.php"), "<?PHP").unwrap();
    fs::remove_dir_all(volume.join("with space")).unwrap();
    fs::remove_file(volume.join("lib/pipe")).unwrap();
    fs::create_dir(volume.join("lib/pipe")).unwrap();
    fs::set_permissions(volume.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_file(volume.join("lib/current")).unwrap();
    std::os::unix::fs::symlink("b.php", volume.join("lib/current")).unwrap();
    fs::write(volume.join("users.txt"), "a user's").unwrap();
    let outcome = verify(&volume).ends().exits(1);
    let expected = [
        "meta      empty",
        "modified  index.php",
        "modified  lib/current",
        "type      lib/pipe",
        "missing   with space",
    ];
    assert_eq!(differences(&outcome), expected);
    let summary = ": 8 entries compared: 2 modified, 1 missing, 1 type, 1 meta; 1 entry is not from the seed";
    assert!(outcome.stdout.trim_end().ends_with(summary), "{}", outcome.stdout);
    let json = verify(&volume).arguments(["--json"]).ends().exits(1);
    let lines: Vec<Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!((&lines[1]["path"], &lines[1]["difference"]), (&"index.php".into(), &"modified".into()));
    assert_eq!((&lines[5]["modified"], &lines[5]["extra"]), (&2.into(), &1.into()));
}

#[test]
fn only_data_tells_of_a_change_that_kept_size_and_time() {
    let sandbox = Sandbox::new();
    let volume = seeded(&sandbox);
    fs::write(volume.join("index.php"), "<?PHP").unwrap();
    set_time(&volume.join("index.php"), TIME as u64);
    assert_eq!(differences(&verify(&volume).ends().exits(0)), [""; 0]);
    assert_eq!(
        differences(&verify(&volume).arguments(["--digest"]).ends().exits(1)),
        ["modified  index.php"]
    );
}

#[test]
fn a_restored_volume_with_new_times_is_as_seeded() {
    let sandbox = Sandbox::new();
    let volume = seeded(&sandbox);
    for name in ["index.php", "lib/a.php"] {
        set_time(&volume.join(name), 1_500_000_000);
    }
    verify(&volume).ends().exits(0);
}

#[test]
fn a_resumed_seed_lists_what_it_reused() {
    let sandbox = Sandbox::new();
    let tree = Tree::many("d", 400).file("last", "x");
    let (archive, volume) = (sandbox.file("seed.tar", tree.archive()), sandbox.volume());
    killed_staging(seed("-", &volume), &tree, &volume);
    seed(&archive, &volume).ends().exits(0);
    let outcome = verify(&volume).arguments(["--digest"]).ends().exits(0);
    assert!(outcome.stdout.contains(": 402 entries compared: as seeded"), "{}", outcome.stdout);
}

#[test]
fn large_and_sparse_files_have_the_digest_of_their_data() {
    let sandbox = Sandbox::new();
    let source = sandbox.directory("source");
    let data: Vec<u8> = (0..20_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(source.join("large"), &data).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(30 << 20).unwrap();
    sparse.write_all_at(&data[..1000], 17 << 20).unwrap();
    let volume = sandbox.volume();
    seed(&source, &volume).ends().exits(0);
    verify(&volume).arguments(["--digest"]).ends().exits(0);
    for (name, at) in [("large", 9_000_000), ("sparse", 5 << 20)] {
        let path = volume.join(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"!", at).unwrap();
        file.set_modified(modified).unwrap();
    }
    let outcome = verify(&volume).arguments(["--digest"]).ends().exits(1);
    assert_eq!(differences(&outcome), ["modified  large", "modified  sparse"]);
}

#[test]
fn what_a_user_had_before_the_seed_is_not_listed() {
    let sandbox = Sandbox::new();
    let (source, volume) = (image().write_to(&sandbox.directory("source")), sandbox.volume());
    fs::create_dir(volume.join("lib")).unwrap();
    fs::write(volume.join("lib/a.php"), "a user's").unwrap();
    seed(source, &volume).ends().exits(0);
    assert!(manifest(&volume).contains("\nx lib/a.php\n"), "{}", manifest(&volume));
    let outcome = verify(&volume).ends();
    assert!(!outcome.stdout.contains("lib/a.php"), "{}", outcome.stdout);
}

#[test]
fn owners_that_a_volume_does_not_keep_are_not_compared() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().file("a", "x").owner(12, 34).file("b", "y").mode(0o644);
    let (archive, volume) = (sandbox.file("seed.tar", tree.archive()), sandbox.volume_of(33));
    // As the volume's owner, who may give nothing away.
    seed(archive, &volume).started_by(33, 33).ends().exits(0);
    verify(&volume).ends().exits(0);
}

#[test]
fn a_manifest_that_is_damaged_or_another_ones_is_refused() {
    let sandbox = Sandbox::new();
    let volume = seeded(&sandbox);
    let path = volume.join(".volseed/manifest-1");
    let whole = fs::read(&path).unwrap();
    let flipped: Vec<u8> = whole.iter().map(|byte| if *byte == b'4' { b'5' } else { *byte }).collect();
    for bytes in [&whole[..whole.len() - 1], &flipped, b"", &whole.repeat(2)] {
        fs::write(&path, bytes).unwrap();
        verify(&volume).ends().fails(78, "verify volume");
    }
    fs::remove_file(&path).unwrap();
    verify(&volume).ends().fails(78, "verify volume");
    fs::create_dir(&path).unwrap();
    verify(&volume).ends().fails(78, "verify volume");
    // An app starts whatever the manifest is.
    seed(sandbox.path("source"), &volume).ends().exits(0).says("already seeded");
}

#[test]
fn a_volume_that_is_not_seeded_cannot_be_verified() {
    let sandbox = Sandbox::new();
    verify(&sandbox.volume()).ends().fails(78, "it is not seeded");
}

#[test]
fn an_emptied_volume_that_is_seeded_again_has_one_manifest() {
    let sandbox = Sandbox::new();
    let volume = seeded(&sandbox);
    for entry in fs::read_dir(&volume).unwrap().map(Result::unwrap).filter(|it| it.file_name() != ".volseed")
    {
        Command::new("rm").arg("-rf").arg(entry.path()).status().unwrap();
    }
    seed(sandbox.path("source"), &volume).ends().exits(0);
    let left = crate::order::names(&volume.join(".volseed"));
    assert!(left.contains(&"manifest-2".to_owned()) && !left.contains(&"manifest-1".to_owned()), "{left:?}");
    verify(&volume).arguments(["--digest"]).ends().exits(0);
}

/// An app that never rests: it writes, deletes, renames and replaces what was seeded in `directory`, until `is_over`.
fn busy_app(directory: &Path, is_over: &AtomicBool) {
    let [a, b] = ["00000", "00001"].map(|name| directory.join("lib").join(name));
    let (lib, aside) = (directory.join("lib"), directory.join("aside"));
    let text = fs::read(&a).unwrap();
    while !is_over.load(Relaxed) {
        fs::write(&a, "other").unwrap();
        fs::rename(&a, &b).unwrap();
        fs::create_dir(&a).unwrap();
        fs::remove_dir(&a).unwrap();
        std::os::unix::fs::symlink("00001", &a).unwrap();
        fs::remove_file(&a).unwrap();
        fs::rename(&lib, &aside).unwrap();
        fs::remove_dir_all(&aside).unwrap();
        fs::write(&lib, "no directory").unwrap();
        fs::remove_file(&lib).unwrap();
        fs::create_dir(&lib).unwrap();
        [&a, &b].iter().for_each(|path| fs::write(path, &text).unwrap());
    }
}

#[test]
fn a_volume_is_verified_beside_apps_that_change_it() {
    const APPS: [&str; 2] = ["app-1", "app-2"];
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let image = APPS.iter().fold(Tree::many("quiet", 20), |tree, app| {
        let lib = |name: &str| format!("{app}/lib/{name}");
        tree.file(lib("00000"), "x".repeat(100_000)).file(lib("00001"), "y".repeat(100_000))
    });
    seed(image.write_to(&sandbox.directory("source")), &volume).ends().exits(0);
    let is_over = AtomicBool::new(false);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        APPS.iter().for_each(|app| {
            let (directory, is_over) = (volume.join(app), &is_over);
            scope.spawn(move || busy_app(&directory, is_over));
        });
        let flags = [&[][..], &["--digest"], &["--json"]];
        let outcomes = (0..40).map(|number| verify(&volume).arguments(flags[number % 3]).ends()).collect();
        is_over.store(true, Relaxed);
        outcomes
    });
    for outcome in outcomes {
        assert!(matches!(outcome.status.code(), Some(0 | 1)), "{outcome:?}");
        assert_eq!(outcome.stderr, "");
        assert!(!outcome.stdout.contains("quiet"), "{outcome:?}");
    }
}
