//! What counts as nothing on a volume: names of storage systems, mount points, and the directories that only lead
//! to these.
//!
//! A name of a storage system counts only as what that system makes of it: a file that a user has called
//! `.snapshot` is a user's file.

use std::fs::read_to_string;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::{Volume, look_at, names, open_in_mount, target};
use crate::error::{Context, Result};

/// Levels of directories that may lead to a mount point.
const MAX_LEVELS: usize = 3;
/// How many of them are looked through at most.
const MAX_DIRECTORIES: usize = 64;

/// Directories that storage systems keep in a root, and where that is told. `docs/state.md` has the same table.
const DIRECTORIES: &[(&str, &str)] = &[
    ("lost+found", "ext2 to ext4: mklost+found(8)"),
    (".snapshot", "NetApp ONTAP, Amazon FSx, Azure NetApp Files, PowerScale: snapshots over NFS"),
    ("~snapshot", "NetApp ONTAP: snapshots over SMB"),
    (".snapshots", "snapper(8); IBM Storage Scale"),
    (".snap", "CephFS: client_snapdir"),
    (".zfs", "ZFS: zfsprops(7), snapdir"),
    (".trashcan", "GlusterFS: trash translator"),
    (".lustre", "Lustre: lfs(1)"),
    (".fscrypt", "fscrypt(8): its metadata in a file system's root"),
    ("@eaDir", "Synology DSM: indexes"),
    ("#recycle", "Synology DSM: recycle bin"),
    ("#snapshot", "Synology DSM: snapshots"),
    ("@Recycle", "QNAP QTS: recycle bin"),
    ("@Recently-Snapshot", "QNAP QTS: snapshots"),
    (".Trash", "FreeDesktop.org trash specification"),
    ("System Volume Information", "Windows, on NTFS and exFAT"),
    ("$RECYCLE.BIN", "Windows, on NTFS and exFAT"),
    (".Trashes", "macOS"),
    (".Spotlight-V100", "macOS"),
    (".fseventsd", "macOS"),
];

/// Regular files that are kept there.
const FILES: &[(&str, &str)] =
    &[("aquota.user", "ext4 and others: quotacheck(8)"), ("aquota.group", "ext4 and others: quotacheck(8)")];

/// Names with a number.
const NUMBERED: &[Numbered] = &[
    // FreeDesktop.org trash specification: `.Trash-$uid`.
    Numbered { prefix: ".Trash-", digits: 1..=10, radix: 10, is_directory: true },
    // Linux fs/nfs/unlink.c: a removed file that is still open on a client.
    Numbered { prefix: ".nfs", digits: 24..=24, radix: 16, is_directory: false },
    // libfuse lib/fuse.c: the same of a FUSE file system.
    Numbered { prefix: ".fuse_hidden", digits: 16..=16, radix: 16, is_directory: false },
];

struct Numbered {
    prefix: &'static str,
    digits: std::ops::RangeInclusive<usize>,
    radix: u32,
    is_directory: bool,
}

impl Numbered {
    fn is(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| {
            self.digits.contains(&rest.len())
                && rest.iter().all(|byte| char::from(*byte).is_digit(self.radix))
        })
    }
}

/// Whether storage systems give this name to a directory, or to a file.
fn is_of_storage(name: &[u8], is_directory: bool) -> bool {
    let fixed = if is_directory { DIRECTORIES } else { FILES };
    fixed.iter().any(|(fixed, _)| fixed.as_bytes() == name)
        || NUMBERED.iter().any(|numbered| numbered.is_directory == is_directory && numbered.is(name))
}

impl Volume {
    /// The first of these names in the root that stands for something of a user's; `None` where the volume counts
    /// as empty.
    ///
    /// # Errors
    /// When a name cannot be looked at.
    pub(crate) fn first_content<'n>(&self, names: &'n [Box<[u8]>]) -> Result<Option<&'n [u8]>> {
        let mut budget = MAX_DIRECTORIES;
        for name in names {
            let counts =
                counts(self.root(), name, Some(&mut budget)).context("stat", || self.path_of(name))?;
            if counts {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Whether `name` in the root stands for something of a user's. Where nothing is mounted below the volume that
    /// is one call, as a `stat` is.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn has_content_at(&self, name: &[u8]) -> Result<bool> {
        let mut budget = self.has_mounts().then_some(MAX_DIRECTORIES);
        counts(self.root(), name, budget.as_mut()).context("stat", || self.path_of(name))
    }

    /// The place of the first of these names in the root, all of which are there, that stands for something of a
    /// user's. What cannot be told is something. Costs no call where nothing is mounted below the volume.
    pub(crate) fn first_listed<'n>(&self, mut names: impl Iterator<Item = &'n [u8]>) -> Option<usize> {
        let has_mounts = self.has_mounts();
        names.position(|name| {
            !(has_mounts || is_of_storage(name, true) || is_of_storage(name, false))
                || self.has_content_at(name).unwrap_or(true)
        })
    }

    /// Whether something is mounted below the volume, as far as the kernel tells (proc(5), mountinfo); else it may
    /// be. Asks no server.
    fn has_mounts(&self) -> bool {
        let Some(id) = target::mount_id(self.root()) else { return true };
        read_to_string("/proc/self/mountinfo").map_or(true, |mounts| has_child(&mounts, id))
    }
}

/// Whether a mount has another on top of it or below: that one's second field is its number.
fn has_child(mountinfo: &str, id: u64) -> bool {
    let mut parents = mountinfo.lines().filter_map(|line| line.split(' ').nth(1));
    parents.any(|parent| parent.parse() == Ok(id))
}

/// Without a `budget` a directory counts as it is.
fn counts(root: BorrowedFd<'_>, name: &[u8], budget: Option<&mut usize>) -> rustix::io::Result<bool> {
    let Some(found) = look_at(root, name)? else { return Ok(false) };
    if found.is_mount || is_of_storage(name, found.is_directory()) {
        return Ok(false);
    }
    let Some(budget) = budget.filter(|_| found.is_directory()) else { return Ok(true) };
    // What cannot be entered is somebody's.
    let opened = open_in_mount(root, name, OFlags::DIRECTORY | OFlags::RDONLY);
    Ok(!opened.is_ok_and(|fd| leads_within(fd, budget)))
}

/// Whether a directory holds mount points, or directories that lead to some, and nothing else: a container runtime
/// makes such ones on the way to what it mounts.
pub(crate) fn leads_to_mounts(directory: BorrowedFd<'_>) -> bool {
    let fd = open_in_mount(directory, b".", OFlags::DIRECTORY | OFlags::RDONLY);
    fd.is_ok_and(|fd| leads_within(fd, &mut MAX_DIRECTORIES.clone()))
}

fn leads_within(directory: OwnedFd, budget: &mut usize) -> bool {
    let mut left = vec![(directory, 1)];
    while let Some((directory, level)) = left.pop() {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        let Ok(names) = names(directory.as_fd()) else { return false };
        if names.is_empty() {
            return false;
        }
        for name in names {
            match look_at(directory.as_fd(), &name) {
                Ok(Some(found)) if found.is_mount => {}
                Ok(Some(found)) if found.is_directory() && level < MAX_LEVELS => {
                    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
                    match open_in_mount(directory.as_fd(), &name, flags) {
                        Ok(below) => left.push((below, level + 1)),
                        Err(_) => return false,
                    }
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_storage_system_counts_as_what_that_makes_of_it() {
        for (name, is_directory) in [
            ("lost+found", true),
            (".snapshot", true),
            ("@eaDir", true),
            (".Trash-1000", true),
            (".nfs00000000012345670000abcd", false),
            (".fuse_hidden0000000100000002", false),
            ("aquota.user", false),
        ] {
            assert!(is_of_storage(name.as_bytes(), is_directory), "{name}");
            assert!(!is_of_storage(name.as_bytes(), !is_directory), "{name}");
        }
        for name in [".nfs", ".nfs1", ".nfsserver", ".Trash-", ".Trash-me", "snapshot", ".DS_Store"] {
            assert!(
                !is_of_storage(name.as_bytes(), true) && !is_of_storage(name.as_bytes(), false),
                "{name}"
            );
        }
    }

    #[test]
    fn mounts_below_are_told_by_the_second_field() {
        let mounts = "27 1 0:5 / / rw - ext4 a rw\n28 27 0:6 / /v rw - ext4 b rw\n";
        assert!(has_child(mounts, 27) && !has_child(mounts, 28) && !has_child("", 1));
    }

    #[test]
    fn a_directory_without_a_mount_leads_to_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let at = std::fs::File::open(dir.path()).unwrap();
        assert!(!leads_to_mounts(at.as_fd()));
    }

    #[test]
    fn the_documentation_has_the_same_names() {
        let page = include_str!("../../docs/state.md");
        let numbered = NUMBERED.iter().map(|numbered| numbered.prefix);
        for name in DIRECTORIES.iter().chain(FILES).map(|(name, _)| *name).chain(numbered) {
            assert!(page.contains(&format!("`{name}")), "{name}");
        }
    }
}
