//! What is removed from a volume: however deep it is, and whatever modes it was given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::kit::nested::{DEEP, Nested, with_64_files};
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, needs, seed};

/// The tree in the stage of a seed whose archive was cut short.
fn failed(volume: &Path, start: impl Fn(Volseed) -> Volseed) -> PathBuf {
    let mut archive = Tree::sample().archive();
    archive.truncate(archive.len() / 2);
    start(seed("-", volume)).input(archive).ends().exits(65);
    let claim = fs::read_dir(volume.join(".volseed/claims")).unwrap().next().unwrap().unwrap();
    claim.path().join("stage/tree")
}

#[test]
fn what_is_left_in_a_stage_is_removed_however_deep() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let tree = failed(&volume, |seed| seed);
    let _nested = Nested::make(&tree, DEEP);
    with_64_files(seed("-", &volume)).input(Tree::sample().archive()).ends().exits(0);
    assert_same_tree(&Tree::sample().write_to(&sandbox.directory("expected")), &volume);
    assert!(!tree.exists());
}

#[test]
fn a_directory_in_the_place_of_a_record_is_removed_however_deep() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let tree = failed(&volume, |seed| seed);
    let record = tree.with_file_name("stage.json.tmp");
    fs::create_dir(&record).unwrap();
    let _nested = Nested::make(&record, DEEP);
    seed("-", &volume).input(Tree::sample().archive()).ends().exits(0);
    assert_same_tree(&Tree::sample().write_to(&sandbox.directory("expected")), &volume);
}

#[test]
fn what_is_left_in_a_stage_is_removed_whatever_its_modes_keep_out() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume_of(PROBE_ID);
    let tree = failed(&volume, |seed| seed.started_by(PROBE_ID, PROBE_ID));
    let narrow: Vec<_> = (1..40).map(|levels| tree.join("a/".repeat(levels))).collect();
    for (directory, mode) in narrow.iter().rev().zip([0, 0o500, 0o300, 0o100].into_iter().cycle()) {
        fs::create_dir_all(directory).unwrap();
        chown(directory, Some(PROBE_ID), Some(PROBE_ID)).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    let again = seed("-", &volume).started_by(PROBE_ID, PROBE_ID).input(Tree::sample().archive());
    again.ends().exits(0);
    assert!(!volume.join("a").exists() && volume.join("index.php").exists());
}
