//! An unseeded volume that is not empty: its files, what is in the way, and mount points in it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::kit::nested::{DEEP, Nested, with_64_files};
use crate::kit::{Sandbox, Snapshot, Tree, mount, needs, seed};
use crate::order::{names, read, sandbox};

/// What becomes of a volume that holds files already.
#[track_caller]
fn existing(rule: &str) -> (Sandbox, PathBuf, i32) {
    let tree =
        Tree::new().file("both", "seed").file("d/both", "seed").file("d/new", "seed").file("new", "seed");
    let (sandbox, source, volume) = sandbox(&tree);
    let old = Tree::new().file("both", "mine").file("d/both", "mine").file("d/old", "mine");
    old.write_to(&volume);
    let outcome = seed(source, &volume).option("--existing", rule).ends();
    let code = if outcome.stderr.contains("error: ") { 78 } else { 0 };
    outcome.exits(code);
    (sandbox, volume, code)
}

#[test]
fn existing_keep_adds_only_what_is_missing() {
    let (_sandbox, volume, code) = existing("keep");
    assert_eq!(code, 0);
    assert_eq!([read(volume.join("both")), read(volume.join("d/both"))], ["mine", "mine"]);
    assert_eq!([read(volume.join("new")), read(volume.join("d/new"))], ["seed", "seed"]);
    assert_eq!(read(volume.join("d/old")), "mine");
}

#[test]
fn existing_overwrite_replaces_files_and_keeps_the_others() {
    let (_sandbox, volume, code) = existing("overwrite");
    assert_eq!(code, 0);
    assert_eq!([read(volume.join("both")), read(volume.join("d/both"))], ["seed", "seed"]);
    assert_eq!([read(volume.join("new")), read(volume.join("d/new"))], ["seed", "seed"]);
    assert_eq!(read(volume.join("d/old")), "mine");
}

#[test]
fn existing_fail_refuses_a_volume_that_is_not_empty() {
    let (_sandbox, volume, code) = existing("fail");
    assert_eq!(code, 78);
    assert_eq!(names(&volume), ["both", "d"]);
    assert!(!volume.join(".volseed/state.json").exists());
}

#[test]
fn existing_fail_overlooks_lost_and_found() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    fs::create_dir(volume.join("lost+found")).unwrap();
    seed(&source, &volume).option("--existing", "fail").ends().exits(0);
    assert!(volume.join("index.php").exists());
}

#[test]
fn overwrite_refuses_a_directory_in_the_way_of_a_file_and_the_reverse() {
    for (old, new) in [("a/file", "a"), ("a", "a/file"), ("d/a/file", "d/a"), ("d/a", "d/a/file")] {
        let tree = Tree::new().file("0first", "seed").file(new, "seed").file("zlast", "seed");
        let (_sandbox, source, volume) = sandbox(&tree);
        let before = Snapshot::of(&Tree::new().file(old, "mine").write_to(&volume));
        seed(&source, &volume)
            .option("--existing", "overwrite")
            .ends()
            .fails(78, new.trim_end_matches("/file"));
        before.without_times().assert_same(&Snapshot::of(&volume).without_times());
    }
}

#[test]
fn keep_leaves_what_is_in_the_way_and_adds_the_rest() {
    for (old, new) in [("a/file", "a"), ("a", "a/file"), ("d/a/file", "d/a"), ("d/a", "d/a/file")] {
        let tree = Tree::new().file("0first", "seed").file(new, "seed").file("zlast", "seed");
        let (_sandbox, source, volume) = sandbox(&tree);
        Tree::new().file(old, "mine").write_to(&volume);
        seed(&source, &volume).ends().exits(0);
        assert_eq!(read(volume.join(old)), "mine");
        assert_eq!([read(volume.join("0first")), read(volume.join("zlast"))], ["seed", "seed"]);
    }
}

#[test]
fn a_symlink_on_the_volume_is_never_followed() {
    for rule in ["keep", "overwrite"] {
        let tree = Tree::new().file("d/new", "seed").file("f", "seed");
        let (sandbox, source, volume) = sandbox(&tree);
        let outside = sandbox.directory("outside");
        let victim = sandbox.file("victim", "precious");
        symlink(&outside, volume.join("d")).unwrap();
        symlink(&victim, volume.join("f")).unwrap();
        seed(&source, &volume).option("--existing", rule).ends();
        assert!(names(&outside).is_empty());
        assert_eq!(read(&victim), "precious");
    }
}

#[test]
fn keep_counts_what_it_kept() {
    let (_sandbox, source, volume) =
        sandbox(&Tree::new().file("a", "seed").file("b", "seed").file("d/c", "seed"));
    Tree::new().file("a", "mine").file("d/c", "mine").write_to(&volume);
    let outcome = seed(source, &volume).json().ends().exits(0);
    assert_eq!(outcome.line("seeded")["kept"], 2);
}

/// A volume with a mount point in it is filled, on both sides of it.
#[track_caller]
fn filled_across(point: &str, mounted: impl Fn(&Sandbox, &Path) -> mount::Mount) {
    if !needs::root() {
        return;
    }
    let below = |name: &str| format!("{point}/{name}");
    let tree =
        Tree::new().file("a", "x").file(below("file"), "y").attribute("user.a", "1").directory(below("e"));
    let tree = tree.file(below("deep/file"), "z").owner(33, 33).mode(0o4755).symlink(below("link"), "a");
    let (sandbox, source, volume) = sandbox(&tree.hard_link(below("same"), &below("file")).fifo(below("p")));
    let at = volume.join(point);
    fs::create_dir_all(&at).unwrap();
    let _mount = mounted(&sandbox, &at);
    let device = fs::metadata(&at).unwrap().dev();
    seed(&source, &volume).ends().exits(0);
    Snapshot::of(&source.join(point)).assert_same(&Snapshot::of(&at));
    assert_eq!(fs::metadata(at.join("file")).unwrap().dev(), device, "on the other side");
    assert!(!at.join(".volseed").exists(), "left over");
    assert_eq!(read(volume.join("a")), "x");
    seed(&source, &volume).ends().exits(0).says("already seeded");
}

#[test]
fn a_tmpfs_inside_the_volume_is_filled_and_not_renamed_over() {
    filled_across("sub", |_, at| mount::tmpfs(at, "size=8m,mode=0755"));
    filled_across("far/down/sub", |_, at| mount::tmpfs(at, "size=8m,mode=0755"));
}

#[test]
fn a_bind_mount_inside_the_volume_is_filled_and_not_renamed_over() {
    filled_across("sub", |sandbox, at| mount::bind(&sandbox.directory("elsewhere"), at));
    filled_across("far/down/sub", |sandbox, at| mount::bind(&sandbox.directory("elsewhere"), at));
}

#[test]
fn hard_links_that_a_mount_point_parts_become_files() {
    if !needs::root() {
        return;
    }
    let tree = Tree::new().file("one", "shared").hard_link("sub/two", "one").hard_link("sub/three", "one");
    let (_sandbox, source, volume) = sandbox(&tree);
    let _mount = mount::tmpfs(&volume.join("sub"), "size=8m,mode=0755");
    seed(&source, &volume).ends().exits(0);
    for name in ["one", "sub/two", "sub/three"] {
        assert_eq!(read(volume.join(name)), "shared", "{name}");
    }
}

#[test]
fn a_seed_without_the_conflict_that_refused_the_one_before_is_published() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    fs::create_dir(volume.join("a")).unwrap();
    let wrong = Tree::new().file("a", "a file where the volume has a directory");
    seed("-", &volume).option("--existing", "overwrite").input(wrong.archive()).ends().exits(78);
    let right = Tree::new().file("a/b", "x");
    seed("-", &volume).option("--existing", "overwrite").input(right.archive()).ends().exits(0);
    assert_eq!(fs::read_to_string(volume.join("a/b")).unwrap(), "x");
}

#[test]
fn directories_that_both_have_are_filled_however_deep() {
    for rule in ["keep", "overwrite"] {
        let sandbox = Sandbox::new();
        let (source, volume) = (sandbox.directory("source"), sandbox.volume());
        // The deepest whose path is one that can be opened, here.
        let bottom = "a/".repeat(1900);
        let _seed = Nested::make(&source, 1900);
        fs::write(source.join(&bottom).join("file"), "seed").unwrap();
        let _volume = Nested::make(&volume, DEEP);
        fs::write(volume.join(&bottom).join("mine"), "mine").unwrap();
        let start = || with_64_files(seed(&source, &volume)).option("--existing", rule);
        start().option("--sentinel", "a/a/a/sentinel").ends().exits(0);
        assert_eq!(names(&volume.join(&bottom)), ["a", "file", "mine"]);
        assert!(volume.join("a/a/a/sentinel").exists());
    }
}
