//! `volseed repair`: what is missing is put back, and with `--modified` what differs is replaced.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::kit::{Sandbox, Tree, Volseed, seed, volseed};

fn image() -> Tree {
    Tree::new()
        .file("index.php", "<?php")
        .file("lib/a.php", "aaaa")
        .hard_link("lib/b.php", "lib/a.php")
        .symlink("lib/current", "a.php")
        .fifo("lib/pipe")
        .file("themes/dark/style.css", "p { color: white }")
        .mode(0o640)
        .file("themes/light/style.css", "p { color: black }")
}

/// The source as a directory, and as an archive.
fn sources(sandbox: &Sandbox) -> [PathBuf; 2] {
    [image().write_to(&sandbox.directory("source")), sandbox.file("seed.tar", image().archive())]
}

fn repair(source: &Path, volume: &Path) -> Volseed {
    volseed(["repair", "--from"]).arguments([source]).option("--to", volume)
}

#[track_caller]
fn is_as_seeded(volume: &Path) {
    volseed(["verify", "--digest", "--to"]).arguments([volume]).ends().exits(0);
}

fn state(volume: &Path) -> Vec<String> {
    crate::order::names(&volume.join(".volseed"))
}

#[test]
fn what_is_missing_is_put_back_from_either_source() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = sandbox.directory(&format!("volume-{number}"));
        seed(source, &volume).ends().exits(0);
        for name in ["index.php", "lib/b.php", "lib/current", "lib/pipe"] {
            fs::remove_file(volume.join(name)).unwrap();
        }
        fs::remove_dir_all(volume.join("themes")).unwrap();
        repair(source, &volume).ends().exits(0).says("put_back=5 replaced=0");
        is_as_seeded(&volume);
        assert_eq!(state(&volume), ["lock", "manifest-1", "record.json", "state.json"]);
    }
}

#[test]
fn users_files_and_what_they_changed_stay() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), sandbox.volume());
    seed(&source, &volume).ends().exits(0);
    fs::write(volume.join("index.php"), "a user's").unwrap();
    fs::write(volume.join("lib/mine.php"), "a user's, too").unwrap();
    fs::remove_file(volume.join("lib/a.php")).unwrap();
    repair(&source, &volume).ends().exits(0).says("--modified replaces them");
    assert_eq!(fs::read_to_string(volume.join("index.php")).unwrap(), "a user's");
    assert_eq!(fs::read_to_string(volume.join("lib/mine.php")).unwrap(), "a user's, too");
    assert_eq!(fs::read_to_string(volume.join("lib/a.php")).unwrap(), "aaaa");
}

#[test]
fn what_is_replaced_is_kept_under_its_path_and_never_twice_in_one_place() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = sandbox.directory(&format!("volume-{number}"));
        seed(source, &volume).ends().exits(0);
        for (text, place) in [("first", "old/1"), ("second", "old/1.1")] {
            fs::write(volume.join("themes/dark/style.css"), text).unwrap();
            fs::remove_file(volume.join("lib/current")).unwrap();
            symlink("elsewhere", volume.join("lib/current")).unwrap();
            fs::set_permissions(volume.join("index.php"), fs::Permissions::from_mode(0o600)).unwrap();
            let repaired = repair(source, &volume).flag("--modified").ends().exits(0);
            repaired.says("put_back=0 replaced=3").says(place);
            is_as_seeded(&volume);
            let kept = volume.join(".volseed").join(place);
            assert_eq!(fs::read_to_string(kept.join("themes/dark/style.css")).unwrap(), text);
            assert_eq!(fs::read_link(kept.join("lib/current")).unwrap(), Path::new("elsewhere"));
        }
        let old = fs::metadata(volume.join(".volseed/old")).unwrap();
        assert_eq!(old.mode() & 0o777, 0o700, "what is kept may hold secrets");
    }
}

#[test]
fn a_directory_in_the_place_of_a_file_stays() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), sandbox.volume());
    seed(&source, &volume).ends().exits(0);
    fs::remove_file(volume.join("lib/pipe")).unwrap();
    fs::create_dir(volume.join("lib/pipe")).unwrap();
    fs::write(volume.join("lib/pipe/mine"), "a user's").unwrap();
    repair(&source, &volume).flag("--modified").ends().exits(0).says("left=1");
    assert_eq!(fs::read_to_string(volume.join("lib/pipe/mine")).unwrap(), "a user's");
}

#[test]
fn a_source_that_is_another_ones_is_refused_and_nothing_is_changed() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), sandbox.volume());
    seed(&source, &volume).ends().exits(0);
    fs::remove_file(volume.join("index.php")).unwrap();
    fs::remove_dir_all(volume.join("themes/dark")).unwrap();
    let without = |name: &str| {
        let other = image().write_to(&sandbox.directory(&format!("without {}", name.replace('/', " "))));
        fs::remove_file(other.join(name)).unwrap();
        other
    };
    fs::write(source.join("index.php"), "<?PHP").unwrap();
    for other in [source, without("themes/dark/style.css"), without("index.php")] {
        repair(&other, &volume).ends().fails(78, "otherwise than it was seeded");
        assert!(!volume.join("index.php").exists() && !volume.join("themes/dark").exists());
        assert_eq!(state(&volume), ["lock", "manifest-1", "record.json", "state.json"]);
    }
}

#[test]
fn a_volume_that_is_as_seeded_and_one_that_is_not_seeded_need_no_repair() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), sandbox.volume());
    repair(&source, &volume).ends().fails(78, "not completely seeded");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    seed(&source, &volume).ends().exits(0);
    repair(&source, &volume).ends().exits(0).says("nothing to repair");
    assert_eq!(state(&volume), ["lock", "manifest-1", "record.json", "state.json"]);
}

#[test]
fn two_repairs_at_once_agree() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), sandbox.volume());
    seed(&source, &volume).ends().exits(0);
    for _ in 0..5 {
        fs::remove_dir_all(volume.join("themes")).unwrap();
        fs::write(volume.join("index.php"), "a user's").unwrap();
        let start = || repair(&source, &volume).flag("--modified").start();
        for running in [start(), start(), start()] {
            running.ends().exits(0);
        }
        is_as_seeded(&volume);
    }
    seed(&source, &volume).ends().exits(0).says("already seeded");
    assert_eq!(state(&volume), ["lock", "manifest-1", "old", "record.json", "state.json"]);
}
