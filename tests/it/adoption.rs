//! A volume that was seeded before volseed: what the image says of it, and `--adopt`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, seed, volseed};

fn image() -> Tree {
    Tree::new()
        .file("version.php", "1.0")
        .file("index.php", "<?php")
        .file("lib/a.php", "a")
        .file("lib/b.php", "b")
        .file("install/index.php", "installer")
}

/// The source as a directory, and as an archive.
fn sources(sandbox: &Sandbox) -> [PathBuf; 2] {
    [image().write_to(&sandbox.directory("source")), sandbox.file("seed.tar", image().archive())]
}

/// A volume onto which an entry point has copied these, and then was killed.
fn half_copy(sandbox: &Sandbox, name: &str) -> PathBuf {
    Tree::new()
        .file("version.php", "1.0")
        .file("lib/a.php", "a, changed by a user")
        .write_to(&sandbox.directory(name))
}

fn start(source: &Path, volume: &Path) -> Volseed {
    seed(source, volume).option("--sentinel", "version.php").option("--seed-version", "1.0")
}

fn verified(volume: &Path) -> Volseed {
    volseed(["verify", "--to"]).arguments([volume])
}

#[test]
fn a_half_copy_is_adopted_with_a_warning_and_repaired() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = half_copy(&sandbox, &format!("volume-{number}"));
        let adopted =
            start(source, &volume).ends().exits(0).says("adopted although entries of the image are missing");
        adopted.says("missing=3").says("index.php, install, lib/b.php");
        assert!(!volume.join("index.php").exists());
        verified(&volume).ends().exits(1).prints("missing   lib/b.php").prints("modified  lib/a.php");
        volseed(["repair", "--from"]).arguments([source]).option("--to", &volume).ends().exits(0);
        verified(&volume).ends().exits(1).prints("modified  lib/a.php");
        assert_eq!(fs::read_to_string(volume.join("lib/a.php")).unwrap(), "a, changed by a user");
        assert_eq!(fs::read_to_string(volume.join("install/index.php")).unwrap(), "installer");
    }
}

#[test]
fn it_can_be_refused_and_then_nothing_of_it_changes() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), half_copy(&sandbox, "volume"));
    let refused = start(&source, &volume).option("--adopt", "refuse").ends();
    refused
        .fails(78, "it has the image's sentinel and lacks 3 of its entries: index.php, install, lib/b.php");
    let mut names = crate::order::names(&volume);
    names.retain(|name| name != ".volseed");
    assert_eq!(names, ["lib", "version.php"]);
    assert!(!volume.join(".volseed/state.json").exists());
    // Also at the next start.
    start(&source, &volume).option("--adopt", "refuse").ends().exits(78);
    image().write_to(&volume);
    start(&source, &volume).option("--adopt", "refuse").ends().exits(0).says("adopted");
    verified(&volume).ends().exits(0);
}

#[test]
fn an_adopted_volume_can_be_upgraded() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), image().write_to(&sandbox.directory("volume")));
    fs::remove_dir_all(volume.join("install")).unwrap();
    start(&source, &volume).ends().exits(0).says("adopted");
    let tree =
        Tree::new().file("version.php", "2.0!").file("index.php", "<?php 2").file("install/index.php", "2");
    let newer = tree.write_to(&sandbox.directory("newer"));
    let upgrade = start(&newer, &volume).option("--seed-version", "2.0").option("--upgrade", "1.*");
    upgrade.ends().exits(0).says("upgraded");
    assert_eq!(fs::read_to_string(volume.join("index.php")).unwrap(), "<?php 2");
    assert!(!volume.join("lib/b.php").exists(), "what the image installed and dropped goes");
    assert!(!volume.join("install").exists(), "what the user deleted stays deleted");
}

#[test]
fn of_another_version_nothing_is_known() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), half_copy(&sandbox, "volume"));
    fs::write(volume.join("version.php"), "0.9").unwrap();
    let adopted = start(&source, &volume).option("--adopt", "refuse").ends().exits(0).says("adopted");
    adopted.says_nothing_of("missing");
    verified(&volume).ends().fails(78, "the volume's record names no manifest");
}

#[test]
fn a_whole_copy_is_known_as_if_it_had_been_seeded() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = image().write_to(&sandbox.directory(&format!("volume-{number}")));
        start(source, &volume).ends().exits(0).says("adopted").says_nothing_of("missing");
        assert_same_tree(&sandbox.path("source"), &volume);
        volseed(["verify", "--digest", "--to"]).arguments([&volume]).ends().exits(0);
    }
}
