//! Volumes that were complete and then emptied, with what stays there all the same.

use std::fs;
use std::path::Path;

use crate::kit::mount::{bind, dead};
use crate::kit::{Sandbox, Tree, assert_same_tree, needs, seed};

fn app() -> Tree {
    Tree::new().file("index", "i").file("wp/plugins/p", "p").directory("wp/uploads")
}

/// `rm -rf *`, which goes into mounts and leaves them.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_name() == ".volseed" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            empty(&path);
            fs::remove_dir(&path).ok();
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
}

fn empty_but_mounts(volume: &Path) {
    fs::remove_dir_all(volume.join("wp")).unwrap();
    fs::remove_file(volume.join("index")).unwrap();
}

#[test]
fn directories_that_lead_to_a_mount_do_not_keep_a_volume_from_being_emptied() {
    if !needs::root() {
        return;
    }
    for adopted in [false, true] {
        let sandbox = Sandbox::new();
        let source = app().write_to(&sandbox.directory("source"));
        let volume = sandbox.volume();
        if adopted {
            app().write_to(&volume);
        }
        fs::create_dir_all(volume.join("wp/uploads")).unwrap();
        let _mount = bind(&sandbox.directory("users"), &volume.join("wp/uploads"));
        let start = || seed(&source, &volume).option("--sentinel", "index").ends().exits(0);
        start().says(if adopted { "adopted" } else { "seeded" });
        start().says("already seeded");
        empty(&volume);
        start().says("emptied");
        assert_same_tree(&source, &volume);
        start().says("already seeded");
    }
}

#[test]
fn a_mount_that_does_not_answer_is_left_out_and_left_alone() {
    if !needs::root() || !needs::fuse() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = app().file("users/x", "x").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let _mount = dead(&volume.join("users"));
    let start = || seed(&source, &volume).json().ends().exits(0);
    start().warns_once(1);
    assert!(volume.join("index").exists());
    start().says("already seeded");
    empty_but_mounts(&volume);
    start().says("emptied");
    assert!(volume.join("wp/plugins/p").exists());
}

#[test]
fn a_volume_of_mounts_alone_is_seeded_once() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::new().file("data/x", "x").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    fs::create_dir(volume.join("data")).unwrap();
    let _mount = bind(&sandbox.directory("users"), &volume.join("data"));
    let start = || seed(&source, &volume).ends().exits(0);
    start();
    assert!(volume.join("data/x").exists());
    start().says("already seeded");
    fs::remove_file(volume.join("data/x")).unwrap();
    start().says("already seeded");
}

#[test]
fn what_a_storage_system_keeps_does_not_keep_a_volume_from_being_emptied() {
    let sandbox = Sandbox::new();
    let source = app().directory("lost+found").write_to(&sandbox.directory("source"));
    for adopted in [false, true] {
        let volume = sandbox.directory(if adopted { "adopted" } else { "seeded" });
        fs::create_dir(volume.join("lost+found")).unwrap();
        if adopted {
            fs::write(volume.join("index"), "i").unwrap();
        }
        let start = || seed(&source, &volume).option("--sentinel", "index").ends().exits(0);
        start();
        start().says("already seeded");
        empty(&volume);
        fs::create_dir_all(volume.join("lost+found")).unwrap();
        start().says("emptied");
        assert_same_tree(&source, &volume);
    }
    let nothing_else = Tree::new().directory("lost+found").write_to(&sandbox.directory("other"));
    let volume = sandbox.volume();
    for says in ["seeded", "already seeded"] {
        seed(&nothing_else, &volume).ends().exits(0).says(says);
    }
}
