//! What `--to` names, as far as it is no volume: the root of the system, or a directory of the container's own
//! layer, which is removed with the container.
//!
//! Asks the kernel alone, and no server: a volume that is seeded costs no request more. What cannot be told is
//! taken for a volume.

use std::fs::read_to_string;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, Statx, StatxFlags};

use super::FileSystem;

/// Whether it is the same directory as `/`, by whatever path it was opened.
pub(crate) fn is_system_root(directory: BorrowedFd<'_>) -> bool {
    open_root().is_some_and(|root| is_same_directory(root.as_fd(), directory))
}

/// Whether two descriptors are of one directory.
pub(crate) fn is_same_directory(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Whether it is in the same mount as `/`, and that is an overlay of an image's layers.
pub(crate) fn is_container_layer(directory: BorrowedFd<'_>) -> bool {
    let Some(root) = open_root() else { return false };
    is_layered(root.as_fd()) && is_same_mount(root.as_fd(), directory)
}

fn open_root() -> Option<OwnedFd> {
    fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Device and inode of a directory, wherever it is mounted.
fn identity(directory: BorrowedFd<'_>) -> Option<(u64, u64)> {
    if let Some(found) = look(directory, StatxFlags::INO) {
        return Some((fs::makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino));
    }
    let found = fs::fstat(directory).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// Whether they were opened through one mount: by its number (Linux 5.8), or by the device.
pub(crate) fn is_same_mount(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (mount_id(one), mount_id(other)) {
        (Some(one), Some(other)) => one == other,
        _ => identity(one).zip(identity(other)).is_some_and(|(one, other)| one.0 == other.0),
    }
}

/// The mount that it was opened through, as mountinfo numbers it (Linux 5.8).
pub(crate) fn mount_id(directory: BorrowedFd<'_>) -> Option<u64> {
    look(directory, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
}

/// What the kernel has of it, without asking a server; `None` where it does not tell what is `wanted`.
fn look(directory: BorrowedFd<'_>, wanted: StatxFlags) -> Option<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = fs::statx(directory, "", flags, wanted).ok()?;
    (found.stx_mask & wanted.bits() != 0).then_some(found)
}

/// The storage drivers vfs, btrfs and zfs use a plain directory, which looks like any machine's root.
fn is_layered(root: BorrowedFd<'_>) -> bool {
    let Ok(found) = fs::fstatfs(root) else { return false };
    match FileSystem::of_magic(found.f_type as u64).name {
        "overlay" => true,
        "fuse" => read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| is_fuse_overlay(&mounts)),
        _ => false,
    }
}

/// Whether the last that was mounted on `/` is a fuse-overlayfs (proc(5), mountinfo).
fn is_fuse_overlay(mountinfo: &str) -> bool {
    let on_root = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    let source = on_root.and_then(|line| line.split_once(" - ")).map(|(_, source)| source);
    source.is_some_and(|source| source.split(' ').take(2).any(|field| field.ends_with("fuse-overlayfs")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_overlay_is_told_by_its_type_or_its_source() {
        let mounted = |source: &str| {
            is_fuse_overlay(&format!(
                "22 27 0:21 / /proc rw - proc proc rw\n27 1 0:5 / / rw,relatime - {source}\n"
            ))
        };
        assert!(mounted("fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0"));
        assert!(mounted("fuse fuse-overlayfs rw"));
        assert!(!mounted("fuse.sshfs me@host:/ rw"));
        assert!(!is_fuse_overlay(""));
    }
}
