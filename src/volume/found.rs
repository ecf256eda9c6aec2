//! What a name on the volume stands for, mount points and protected files included, in the one call that a
//! `stat` would be.
//!
//! `statx` may be refused (seccomp) or not know of mounts (before Linux 5.8): then it is told by opening, which
//! asks the kernel alone. A mount that does not answer, such as a FUSE file system whose daemon is gone, is still
//! known to be one.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::{open_in_mount, stat_entry};

/// What a name in a directory stands for; a link is not followed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundEntry {
    /// Its type.
    pub file_type: FileType,
    /// Whether something is mounted there.
    pub is_mount: bool,
    /// Whether it may not be replaced or removed, not even by root (`chattr +i`, `+a`).
    pub is_fixed: bool,
    /// Why nothing else is known of what is mounted there.
    pub closed: Option<Errno>,
}

impl FoundEntry {
    /// Something of this type, of which nothing else is known.
    fn of(file_type: FileType) -> FoundEntry {
        FoundEntry { file_type, is_mount: false, is_fixed: false, closed: None }
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }
}

/// What `name` in `directory` is, where there is such a name.
///
/// # Errors
/// As `fstatat`, but for `ENOENT`, and for what a mount refuses.
pub(crate) fn look_at(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<FoundEntry>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let looked = match fs::statx(directory, name, flags, StatxFlags::BASIC_STATS) {
        Ok(found) => {
            let has = |wanted| found.stx_attributes.contains(wanted);
            let entry = FoundEntry {
                is_mount: has(StatxAttributes::MOUNT_ROOT),
                is_fixed: has(StatxAttributes::IMMUTABLE) || has(StatxAttributes::APPEND),
                ..FoundEntry::of(FileType::from_raw_mode(found.stx_mode.into()))
            };
            if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
                return Ok(Some(entry));
            }
            Ok(Some(entry))
        }
        Err(Errno::NOENT) => return Ok(None),
        // A seccomp profile that does not know the call, or a mount of another user.
        Err(_) => stat_entry(directory, name)
            .map(|found| found.map(|found| FoundEntry::of(FileType::from_raw_mode(found.st_mode)))),
    };
    match looked {
        Ok(None) => Ok(None),
        Ok(Some(found)) => Ok(Some(FoundEntry { is_mount: is_mount(directory, name), ..found })),
        Err(error) if is_mount(directory, name) => {
            let unknown = FoundEntry::of(FileType::Unknown);
            Ok(Some(FoundEntry { is_mount: true, closed: Some(error), ..unknown }))
        }
        Err(error) => Err(error),
    }
}

/// Whose a file is, what may be done with it, and which one it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortStat {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// Owner, group, mode, device and number of an open file. Unlike the whole of `fstat`, that is not asked of an NFS server
/// again after a change of what is in a directory.
///
/// # Errors
/// As `fstat`.
pub(crate) fn short_stat(file: impl AsFd) -> rustix::io::Result<ShortStat> {
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID | StatxFlags::GID | StatxFlags::INO;
    let found = match fs::statx(&file, "", AtFlags::EMPTY_PATH, wanted) {
        // Older than Linux 4.11, or a seccomp profile that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => {
            let Stat { st_uid: uid, st_gid: gid, st_mode: mode, st_dev: device, st_ino: inode, .. } =
                fs::fstat(file)?;
            return Ok(ShortStat { uid, gid, mode, device, inode });
        }
        found => found?,
    };
    Ok(ShortStat {
        uid: found.stx_uid,
        gid: found.stx_gid,
        mode: found.stx_mode.into(),
        device: fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
    })
}

/// Whether something is mounted on `name`, told by opening it as a place only: no file system is asked.
fn is_mount(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    matches!(open_in_mount(directory, name, OFlags::PATH | OFlags::NOFOLLOW), Err(Errno::XDEV))
}

/// Why this process may not make or replace names in `directory`; `None` where nothing is known against it.
/// Root is told as well of a directory that is immutable, mounted read-only, or closed by a server.
pub(crate) fn refuses_names(directory: BorrowedFd<'_>) -> Option<Errno> {
    let wanted = fs::Access::WRITE_OK | fs::Access::EXEC_OK;
    let answer = match fs::accessat(directory, ".", wanted, AtFlags::EACCESS) {
        // A seccomp profile may refuse the newer of the two calls (Linux 5.8), which is the only one that asks for
        // the effective user.
        Err(Errno::PERM) => fs::accessat(directory, ".", wanted, AtFlags::empty()),
        answer => answer,
    };
    answer.err().filter(|error| is_refusal(*error))
}

/// Whether it says that this user may not write there.
pub(crate) fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::ROFS | Errno::ACCESS | Errno::PERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_missing_names_are_told_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("link")).unwrap();
        let at = std::fs::File::open(dir.path()).unwrap();
        let look = |name: &str| look_at(at.as_fd(), name.as_bytes()).unwrap();
        assert!(look("d").unwrap().is_directory());
        assert_eq!(look("link").unwrap().file_type, FileType::Symlink);
        assert!(!look("d").unwrap().is_mount && look("missing").is_none());
        assert_eq!(refuses_names(at.as_fd()), None);
    }
}
