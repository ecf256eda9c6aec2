use super::*;
use std::fs::{create_dir_all, set_permissions, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Deeper than a call for each level has stack for, and a descriptor for each may be open.
const DEEP: usize = 30_000;

/// In memory where that is to be had: a disk takes long to make deep trees.
fn sandbox() -> (TempDir, OwnedFd) {
    let sandbox = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let at = std::fs::File::open(sandbox.path()).unwrap().into();
    (sandbox, at)
}

/// Directories named `name` in one another.
fn nest(at: BorrowedFd<'_>, name: &str, levels: usize) {
    let mut above = at.try_clone_to_owned().unwrap();
    for _ in 0..levels {
        fs::mkdirat(&above, name, Mode::RWXU).unwrap();
        above = openat(above.as_fd(), name.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
            .unwrap();
    }
}

/// Whether this is root, in a mount namespace of this thread's own.
fn may_mount() -> bool {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI has to have root");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>).unwrap();
    true
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn a_tree_is_gone_and_what_its_links_point_to_is_not() {
    for threads in [1, 8] {
        let (sandbox, at) = sandbox();
        let path = |name: &str| sandbox.path().join(name);
        create_dir_all(path("kept/below")).unwrap();
        for folder in 0..20 {
            create_dir_all(path(&format!("tree/{folder}/a/b"))).unwrap();
            for file in 0..20 {
                write(path(&format!("tree/{folder}/a/{file}")), "x").unwrap();
            }
            symlink("../../kept", path(&format!("tree/{folder}/link"))).unwrap();
        }
        remove_directory(at.as_fd(), b"tree", threads, &|| ()).unwrap();
        assert!(!path("tree").exists() && path("kept/below").exists(), "{threads} threads");
        assert_eq!(remove_directory(at.as_fd(), b"tree", threads, &|| ()), Ok(()));
    }
}

#[test]
fn what_is_no_directory_is_removed_by_any_name() {
    let (sandbox, at) = sandbox();
    let path = |name: &str| sandbox.path().join(name);
    create_dir_all(path("kept/below")).unwrap();
    symlink("kept", path("link")).unwrap();
    write(path("file"), "x").unwrap();
    for name in ["link", "file", "nothing"] {
        assert_eq!(remove_tree(at.as_fd(), name.as_bytes()), Ok(()), "{name}");
        assert!(path(name).symlink_metadata().is_err(), "{name}");
    }
    symlink("kept", path("link")).unwrap();
    assert_eq!(remove_directory(at.as_fd(), b"link", 1, &|| ()), Ok(()));
    assert!(path("kept/below").exists());
}

#[test]
fn a_tree_deeper_than_descriptors_and_stack_allow_is_gone() {
    for threads in [1, 8] {
        let (_sandbox, at) = sandbox();
        fs::mkdirat(&at, "tree", Mode::RWXU).unwrap();
        let tree = openat(at.as_fd(), b"tree", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        nest(tree.as_fd(), "a", DEEP);
        for beside in 0..8 {
            nest(tree.as_fd(), &format!("beside{beside}"), 300);
        }
        let removal = Removal::new(at.as_fd(), b"tree", threads, &|| ());
        assert_eq!(removal.run(threads), Ok(()));
        assert_eq!(removal.staying_open.into_inner(), 0, "{threads} threads: all were counted out again");
        assert_eq!(crate::volume::names(at.as_fd()), Ok(Vec::new()));
    }
}

#[test]
fn no_more_directories_stay_open_than_may() {
    let (_sandbox, at) = sandbox();
    nest(at.as_fd(), "a", 1000);
    let removal = Removal::new(at.as_fd(), b"a", 1, &|| ());
    let mut moved_up = 0;
    while let Some(folder) = removal.next() {
        removal.empty(&folder).unwrap();
        moved_up += usize::from(&*folder.name != b"a");
        assert!(removal.staying_open.load(Ordering::Relaxed) <= LEVELS);
        removal.settle(folder, false).unwrap();
    }
    // One rename for each `LEVELS`, and none for a tree that is not deeper.
    assert_eq!(moved_up, 1000 / LEVELS);
}

#[test]
fn another_mount_is_not_entered_and_stops_the_removal() {
    if !may_mount() {
        return;
    }
    for kind in ["tmpfs", "bind"] {
        for threads in [1, 8] {
            let (sandbox, at) = sandbox();
            let path = |name: &str| sandbox.path().join(name);
            for directory in ["elsewhere", "tree/a/point", "tree/b"] {
                create_dir_all(path(directory)).unwrap();
            }
            let (from, flags) = match kind {
                "tmpfs" => ("tmpfs".into(), MsFlags::empty()),
                _ => (path("elsewhere"), MsFlags::MS_BIND),
            };
            let point = path("tree/a/point");
            mount(Some(&from), &point, Some("tmpfs"), flags, None::<&str>).unwrap();
            let _mounted = Mounted(&point);
            write(point.join("kept"), "x").unwrap();
            for name in ["tree", "tree/a/point"] {
                assert_eq!(remove_directory(at.as_fd(), name.as_bytes(), threads, &|| ()), Err(Errno::BUSY));
                assert!(point.join("kept").exists(), "{kind}, {threads} threads");
            }
        }
    }
}

#[test]
fn without_openat2_another_device_is_another_mount() {
    if !may_mount() {
        return;
    }
    let (sandbox, at) = sandbox();
    let point = sandbox.path().join("point");
    create_dir_all(sandbox.path().join("a/b")).unwrap();
    create_dir_all(&point).unwrap();
    mount(Some("tmpfs"), &point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let _mounted = Mounted(&point);
    for open in [open_in_mount, crate::volume::open_on_device] {
        assert!(open(at.as_fd(), b"a/b", OFlags::DIRECTORY).is_ok());
        assert_eq!(open(at.as_fd(), b"point", OFlags::DIRECTORY).err(), Some(Errno::XDEV));
    }
}

#[test]
fn a_directory_whose_mode_keeps_us_out_is_widened_and_not_through_a_link() {
    let (sandbox, at) = sandbox();
    let path = |name: &str| sandbox.path().join(name);
    let mode = |name: &str| path(name).metadata().unwrap().mode() & 0o7777;
    for name in ["narrow", "kept"] {
        create_dir_all(path(name)).unwrap();
        set_permissions(path(name), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    symlink("kept", path("link")).unwrap();
    let removal = Removal::new(at.as_fd(), b"any", 1, &|| ());
    assert!(removal.widen(at.as_fd(), b"link").is_err());
    assert!(removal.widen(at.as_fd(), b"narrow").is_ok());
    assert_eq!([mode("kept"), mode("narrow")], [0, 0o700]);
}
