//! What is seeded inherits from the volume's root what a `cp -r` to it would: its default ACL, and its group where
//! it is setgid.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use crate::kit::forge::chown_all;
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Tarball, Tree, Volseed, assert_same_tree, mount, needs, seed};

/// The group of a team, of which `PROBE_ID` is a member where a test says so.
const TEAM: u32 = 2000;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// An ACL with a right for user 33, as linux/posix_acl_xattr.h has it: the rights of the owner, of user 33, of the
/// group, of the mask and of others.
fn acl([owner, user, group, mask, others]: [u8; 5]) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    let entries = [(1, owner, nobody), (2, user, 33), (4, group, nobody), (0x10, mask, nobody)];
    for (tag, bits, user) in entries.into_iter().chain([(0x20, others, nobody)]) {
        acl.extend([tag, 0, bits, 0]);
        acl.extend(user.to_le_bytes());
    }
    acl
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 1024];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

fn is(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mode() & 0o7777, found.gid())
}

fn source(sandbox: &Sandbox) -> PathBuf {
    let tree =
        Tree::new().file("top", "x").mode(0o664).directory("d").mode(0o775).file("d/f", "x").mode(0o640);
    let tree = tree.file("d/sg", "x").mode(0o755).symlink("link", "top").fifo("fifo");
    let source = tree.directory("closed").mode(0o555).write_to(&sandbox.directory("source"));
    chown_all(&source, PROBE_ID);
    fs::set_permissions(source.join("d/sg"), fs::Permissions::from_mode(0o2755)).unwrap();
    source
}

/// A root as kubelet makes it for `fsGroup`.
fn team_volume(sandbox: &Sandbox, owner: u32, mode: u32) -> PathBuf {
    let volume = sandbox.volume();
    chown(&volume, Some(owner), Some(TEAM)).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
    volume
}

/// As `PROBE_ID`, a member of the team or not.
fn as_somebody(seed: Volseed, is_member: bool) -> Volseed {
    let groups = if is_member { format!("{PROBE_ID},{TEAM}") } else { PROBE_ID.to_string() };
    let (user, group) = (PROBE_ID.to_string(), PROBE_ID.to_string());
    seed.under(["setpriv", "--reuid", &user, "--regid", &group, "--groups", &groups])
}

#[test]
fn group_and_setgid_of_the_root_are_inherited_by_who_is_in_the_group_and_who_is_not() {
    if !needs::root() || !needs::tools(&["setpriv"]) {
        return;
    }
    for (is_member, owner, mode) in [(true, 0, 0o2775), (true, PROBE_ID, 0o2770), (false, 0, 0o2777)] {
        for archived in [false, true] {
            let sandbox = Sandbox::new();
            let (source, volume) = (source(&sandbox), team_volume(&sandbox, owner, mode));
            let tar = Tarball::new().file("d/f", "x").edit(|header| header.set_mode(0o640)).build();
            let start = if archived { seed("-", &volume).input(tar) } else { seed(&source, &volume) };
            let outcome = as_somebody(start, is_member).json().ends().exits(0);
            assert_eq!(is(&volume), (mode, TEAM));
            assert_eq!(is(&volume.join("d/f")), (0o640, TEAM));
            assert_eq!(is(&volume.join("d")), (if archived { 0o2755 } else { 0o2775 }, TEAM));
            if !archived {
                // Who is not in the group cannot close a directory without the bit being taken away (chmod(2)).
                assert_eq!(outcome.stderr.contains("WARN"), !is_member, "{}", outcome.stderr);
                assert_eq!(is(&volume.join("top")), (0o664, TEAM));
                assert_eq!(is(&volume.join("d/sg")), (0o755, TEAM));
                assert_eq!((is(&volume.join("link")).1, is(&volume.join("fifo")).1), (TEAM, TEAM));
                assert_eq!(is(&volume.join("closed")).0 & 0o555, 0o555);
            }
            assert_eq!(is(&volume.join(".volseed")).0 & 0o7022, 0);
        }
    }
}

#[test]
fn another_owner_s_files_are_one_warning_and_get_group_and_setgid() {
    if !needs::root() || !needs::tools(&["setpriv"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::new().file("d/f", "x").write_to(&sandbox.directory("source"));
    let volume = team_volume(&sandbox, 0, 0o2775);
    let outcome = as_somebody(seed(&source, &volume), true).option("--chmod", "g=u").json().ends().exits(0);
    outcome.warns_once(2);
    assert_eq!(is(&volume.join("d")), (0o2775, TEAM));
    assert_eq!(is(&volume.join("d/f")), (0o664, TEAM));
}

#[test]
fn root_keeps_the_source_s_groups_and_chown_its_own() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (source(&sandbox), team_volume(&sandbox, 0, 0o2775));
    seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
    let volume = team_volume(&Sandbox::new(), 0, 0o2775);
    fs::create_dir_all(&volume).unwrap();
    seed(&source, &volume).option("--chown", "33:33").ends().exits(0);
    assert_eq!((is(&volume.join("d")), is(&volume.join("top"))), ((0o775, 33), (0o664, 33)));
    fs::remove_dir_all(volume).unwrap();
}

#[test]
fn the_default_acl_of_the_root_is_inherited_and_modes_are_not_widened() {
    if !needs::root() {
        return;
    }
    for in_use in [false, true] {
        for default in [acl([7, 7, 5, 7, 5]), acl([7, 7, 5, 7, 0]), acl([7, 5, 5, 5, 5])] {
            let sandbox = Sandbox::new();
            let (source, volume) = (source(&sandbox), sandbox.volume());
            if in_use {
                fs::write(volume.join("mine"), "mine").unwrap();
            }
            rustix::fs::lsetxattr(&volume, DEFAULT, &default, XattrFlags::empty()).unwrap();
            seed(&source, &volume).ends().exits(0);
            let (mask, others) = (u32::from(default[4 + 3 * 8 + 2]), u32::from(default[4 + 4 * 8 + 2]));
            let limit = 0o7700 | mask << 3 | others;
            for (path, mode) in
                [("top", 0o664), ("d", 0o775), ("d/f", 0o640), ("d/sg", 0o2755), ("closed", 0o555)]
            {
                let path = volume.join(path);
                assert_eq!(is(&path), (mode & limit, PROBE_ID), "{path:?}");
                let found = xattr(&path, ACCESS).unwrap();
                assert_eq!((found[4 + 8 + 2], found[4 + 8 + 4]), (default[4 + 8 + 2], 33));
                assert_eq!(u32::from(found[4 + 3 * 8 + 2]), mode >> 3 & mask, "{path:?}");
            }
            assert_eq!(xattr(&volume.join("d"), DEFAULT), Some(default));
            assert_eq!(xattr(&volume.join(".volseed"), DEFAULT), None);
            assert_eq!(is(&volume.join(".volseed")).0 & 0o7022, 0);
        }
    }
}

#[test]
fn the_acl_that_a_user_s_own_root_has_is_inherited_too() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (source(&sandbox), sandbox.volume_of(PROBE_ID));
    rustix::fs::lsetxattr(&volume, DEFAULT, &acl([7, 7, 5, 7, 5]), XattrFlags::empty()).unwrap();
    seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().exits(0);
    assert!(xattr(&volume.join("d/f"), ACCESS).is_some());
    let before = is(&volume);
    assert_eq!(xattr(&volume.join("d"), DEFAULT), xattr(&volume, DEFAULT));
    assert_eq!(is(&volume), before);
}

#[test]
fn a_stage_that_inherited_something_else_is_not_resumed() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let tree = Tree::many_of("d", 30, 50_000).file("e", "x");
    let running = seed("-", &volume).fed().start();
    running.feed(Tree::many_of("d", 30, 50_000).members().unfinished());
    crate::kit::eventually("a stage", || volume.join(".volseed/claims/1/stage/tree/d/00010").exists());
    drop(running);
    let default = acl([7, 7, 5, 7, 5]);
    rustix::fs::lsetxattr(&volume, DEFAULT, &default, XattrFlags::empty()).unwrap();
    seed("-", &volume).input(tree.archive()).ends().exits(0);
    for name in 0..30 {
        let path = volume.join(format!("d/{name:05}"));
        assert!(xattr(&path, ACCESS).is_some(), "{path:?}");
    }
}

#[test]
fn what_is_seeded_to_a_mount_on_the_volume_inherits_from_the_mount() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let (source, volume) = (source(&sandbox), sandbox.volume());
    fs::create_dir(volume.join("d")).unwrap();
    let _mount = mount::tmpfs(&volume.join("d"), "mode=755");
    let default = acl([7, 7, 5, 7, 5]);
    rustix::fs::lsetxattr(volume.join("d"), DEFAULT, &default, XattrFlags::empty()).unwrap();
    seed(&source, &volume).ends().exits(0);
    assert!(xattr(&volume.join("d/f"), ACCESS).is_some());
    assert_eq!(xattr(&volume.join("top"), ACCESS), None);
}
