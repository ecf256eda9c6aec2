//! Who owns what was seeded: as in the source, as `--chown` says, or as far as a user's powers go.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::fidelity::kept;
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Snapshot, Tree, assert_nothing_published, needs, seed};

#[test]
fn owners_and_groups_are_kept_on_files_directories_and_symlinks() {
    if !needs::root() {
        return;
    }
    let tree = Tree::new().directory("d").owner(33, 34).file("d/f", "x").owner(1000, 33).file("su", "x");
    kept(&tree.mode(0o4755).owner(33, 33).symlink("l", "d/f").owner(5, 6).fifo("p").owner(7, 8));
}

#[test]
fn chown_takes_names_and_numbers_for_everything_that_is_seeded() {
    if !needs::root() {
        return;
    }
    for (spelled, owner) in [
        ("12:34", (12, 34)),
        ("12", (12, 12)),
        ("daemon", (1, 1)),
        ("daemon:34", (1, 34)),
        ("12:daemon", (12, 1)),
    ] {
        let sandbox = Sandbox::new();
        let tree = Tree::sample().file("su", "x").mode(0o4755).owner(33, 33);
        let source = tree.write_to(&sandbox.directory("source"));
        let volume = sandbox.volume();
        seed(&source, &volume).option("--chown", spelled).ends().exits(0);
        Snapshot::of(&source).owned_by(owner.0, owner.1).assert_same(&Snapshot::of(&volume));
    }
}

#[test]
fn chown_to_a_user_that_is_not_known_is_wrong_usage() {
    for spelled in ["nosuchuser", "4294967296", "4294967295", "-1", "0day", "1:0day", "1:nosuchgroup"] {
        let option = format!("--chown={spelled}");
        seed("/nowhere", "/nowhere").flag(&option).ends().fails(64, "--chown");
    }
}

#[test]
fn somebody_else_s_owners_are_one_warning_that_counts_them() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().owner(PROBE_ID, PROBE_ID).file("a", "x").file("b", "x").file("c", "x");
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    let outcome = seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).json().ends().exits(0);
    outcome.warns_once(3);
    Snapshot::of(&source).owned_by(PROBE_ID, PROBE_ID).assert_same(&Snapshot::of(&volume));
}

#[test]
fn the_owner_of_the_root_is_counted_with_the_others() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::new().file("a", "x").owner(PROBE_ID, PROBE_ID).write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    let start = || seed(&source, &volume).started_by(PROBE_ID, PROBE_ID);
    start().flag("--strict").ends().fails(77, "owner of '.'");
    assert_nothing_published(&volume);
    start().json().ends().exits(0).warns_once(1);
}

#[test]
fn somebody_else_s_owners_are_an_error_with_strict() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    let outcome = seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).flag("--strict").ends();
    outcome.fails(77, "owner");
    assert_nothing_published(&volume);
}

#[test]
fn setuid_bits_are_not_given_to_another_owner() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::new().file("su", "x").mode(0o4755).write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().exits(0);
    assert_eq!(fs::metadata(volume.join("su")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_user_s_own_read_only_directories_are_filled_and_published() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().directory("closed").mode(0o555).file("closed/inner/f", "x").mode(0o444);
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().exits(0);
    let expected = Snapshot::of(&source).owned_by(PROBE_ID, PROBE_ID).without_root();
    expected.assert_same(&Snapshot::of(&volume).without_root());
}

#[test]
fn attributes_of_read_only_files_and_directories_are_kept_without_root_too() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().owner(PROBE_ID, PROBE_ID).file("f", "x").mode(0o444).attribute("user.a", "1");
    let tree = tree.directory("d").mode(0o555).attribute("user.b", "2").file("d/f", "x").mode(0o400);
    let tree = tree.owner(PROBE_ID, PROBE_ID).attribute("user.c", "3");
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().exits(0);
    Snapshot::of(&source).owned_by(PROBE_ID, PROBE_ID).assert_same(&Snapshot::of(&volume));
}

/// A volume whose root has this owner, with a file of the user's where it is in use.
fn rooted(sandbox: &Sandbox, (user, group): (u32, u32), in_use: bool) -> PathBuf {
    let volume = sandbox.volume();
    if in_use {
        fs::write(volume.join("mine"), "mine").unwrap();
    }
    chown(&volume, Some(user), Some(group)).unwrap();
    volume
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn chown_reaches_a_root_of_root_s_empty_or_not_and_no_other() {
    if !needs::root() {
        return;
    }
    for in_use in [false, true] {
        for (before, after) in [((0, 0), (33, 34)), ((33, 34), (33, 34)), ((5, 6), (5, 6)), ((0, 6), (0, 6))]
        {
            let sandbox = Sandbox::new();
            let source = Tree::new().mode(0o750).file("a", "x").write_to(&sandbox.directory("source"));
            let volume = rooted(&sandbox, before, in_use);
            let outcome = seed(&source, &volume).option("--chown", "33:34").json().ends().exits(0);
            assert_eq!((owner(&volume), owner(&volume.join("a"))), (after, (33, 34)), "{before:?}");
            if after == (33, 34) {
                outcome.says_nothing_of("WARN");
            } else {
                outcome.says("left as it is").says(&format!("{}:{}", before.0, before.1));
                assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o755);
            }
            if in_use {
                assert_eq!(owner(&volume.join("mine")), (0, 0));
            }
        }
    }
}

#[test]
fn a_root_of_root_s_is_given_its_owner_when_the_volume_is_adopted() {
    if !needs::root() {
        return;
    }
    for (before, after) in [((0, 0), (33, 34)), ((5, 6), (5, 6))] {
        let sandbox = Sandbox::new();
        let source = Tree::new().file("mine", "x").write_to(&sandbox.directory("source"));
        let volume = rooted(&sandbox, before, true);
        let start = || seed(&source, &volume).option("--sentinel", "mine").option("--chown", "33:34").ends();
        start().exits(0).says("adopted");
        assert_eq!((owner(&volume), owner(&volume.join("mine"))), (after, (0, 0)));
        // Whose it is later is for others to say.
        chown(&volume, Some(0), Some(0)).unwrap();
        start().exits(0);
        assert_eq!(owner(&volume), (0, 0));
    }
}

#[test]
fn an_owner_that_the_root_cannot_have_is_a_loss() {
    if !needs::root() {
        return;
    }
    for adopts in [false, true] {
        let sandbox = Sandbox::new();
        let source = Tree::new().mode(0o777).file("mine", "x").write_to(&sandbox.directory("source"));
        let volume = rooted(&sandbox, (0, 0), adopts);
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        let start = || {
            let start = seed(&source, &volume).started_by(PROBE_ID, PROBE_ID);
            start.option("--sentinel", "mine").option("--chown", PROBE_ID.to_string())
        };
        start().flag("--strict").ends().fails(77, "owner");
        start().json().ends().exits(0).warns_once(1);
        assert_eq!(owner(&volume), (0, 0));
    }
}
