//! Making a stage durable: one `syncfs`, or an fsync of every file and directory where that call is refused
//! (seccomp, gVisor) and nothing else keeps the data.
//!
//! A file is opened for its fsync after it was written. The kernel still reports a lost write through such a
//! descriptor, as long as no other has heard of it (Linux `lib/errseq.c`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::seed::manifest::read::Manifest;
use crate::seed::{TREE, open_directory};
use crate::system::parallel::{parts, work_off};
use crate::volume::records::{Durability, ManifestRef};
use crate::volume::{
    Volume, change_mode, entries_with_types, open_beneath, open_in_mount, openat, stat_entry,
};

/// Files of one directory that a thread takes at once.
const BATCH: usize = 64;

/// How it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synced {
    /// In one call, or without any since the file system keeps data without.
    AtOnce,
    /// File by file: so many files and directories.
    OneByOne(u64),
}

/// Makes what is below `stage` durable. `root` is from before the first look at what is staged: an error since then is
/// told through it (syncfs(2)).
///
/// # Errors
/// What the file system reports as lost.
pub(crate) fn sync(
    root: BorrowedFd<'_>,
    stage: BorrowedFd<'_>,
    path: &Path,
    kept: Durability,
    threads: usize,
) -> Result<Synced> {
    match fs::syncfs(root) {
        Ok(()) => Ok(Synced::AtOnce),
        Err(Errno::PERM | Errno::NOSYS) if kept != Durability::BySync => Ok(Synced::AtOnce),
        Err(Errno::PERM | Errno::NOSYS) => {
            let count = one_by_one(stage, threads).context("sync file of stage on", path)?;
            if stat_entry(stage, ManifestRef::STAGED.as_bytes()).context("stat manifest on", path)?.is_some()
            {
                sync_file(stage, ManifestRef::STAGED.as_bytes()).context("sync manifest on", path)?;
            }
            fs::fsync(stage).context("sync stage on", path)?;
            fs::fsync(root).context("sync directory", path)?;
            Ok(Synced::OneByOne(count))
        }
        Err(error) => Err(error).context("sync volume", path),
    }
}

/// Makes durable what is on a volume already and a seed has, too: in one call, or where that is refused, the directories
/// that `manifest` lists.
///
/// # Errors
/// What the file system reports as lost.
pub(crate) fn sync_there(volume: &Volume, manifest: &Manifest, threads: usize) -> Result<()> {
    match fs::syncfs(volume.root()) {
        Err(Errno::PERM | Errno::NOSYS) => {}
        synced => return synced.context("sync volume", volume.path()),
    }
    manifest.sync().context("sync manifest on", volume.path())?;
    let directories = manifest.below(b"").map(<[u8]>::to_vec).collect();
    let synced = work_off(threads, directories, |path, _| {
        let here: &[u8] = if path.is_empty() { b"." } else { &path };
        match open_in_mount(volume.root(), here, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(directory) => fs::fsync(directory),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(()),
            Err(error) => Err(error),
        }
    });
    synced.context("sync directory", volume.path())
}

/// What is left to do: a directory by its path, or files of one that is open.
enum SyncTask {
    Directory(Vec<u8>),
    Files(std::sync::Arc<OwnedFd>, Vec<Box<[u8]>>),
}

fn one_by_one(stage: BorrowedFd<'_>, threads: usize) -> rustix::io::Result<u64> {
    let tree = match open_directory(stage, TREE) {
        Err(Errno::NOENT) => return Ok(0),
        tree => tree?,
    };
    let done = AtomicU64::new(0);
    work_off(threads, vec![SyncTask::Directory(Vec::new())], |task, more| {
        match task {
            SyncTask::Directory(path) => {
                more.append(&mut sync_directory(tree.as_fd(), &path)?);
                done.fetch_add(1, Ordering::Relaxed);
            }
            SyncTask::Files(directory, names) => {
                names.iter().try_for_each(|name| sync_file(directory.as_fd(), name))?;
                done.fetch_add(names.len() as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    })?;
    Ok(done.into_inner())
}

/// Syncs a directory; what is in it comes next, files before more directories: few are open.
fn sync_directory(tree: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Vec<SyncTask>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let here = if path.is_empty() { b"." } else { path };
    let directory = match open_beneath(tree, here, flags, Mode::empty()) {
        // Its owner may have taken the right to read it from itself, in the seed.
        Err(Errno::ACCESS) => with_right(tree, here, || open_beneath(tree, here, flags, Mode::empty()))?,
        opened => opened?,
    };
    fs::fsync(&directory)?;
    let (mut tasks, mut files) = (Vec::new(), Vec::new());
    let directory = std::sync::Arc::new(directory);
    for (name, file_type) in entries_with_types(directory.as_fd())? {
        let file_type = match file_type {
            FileType::Unknown => match stat_entry(directory.as_fd(), &name)? {
                Some(found) => FileType::from_raw_mode(found.st_mode),
                None => continue,
            },
            known => known,
        };
        match file_type {
            FileType::Directory => tasks.push(SyncTask::Directory(super::common::join(path, &name))),
            FileType::RegularFile => files.push(name),
            // A link and a FIFO are in their directory.
            _ => {}
        }
    }
    tasks.extend(parts(files, BATCH).map(|files| SyncTask::Files(std::sync::Arc::clone(&directory), files)));
    Ok(tasks)
}

fn sync_file(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let open = || openat(directory, name, OFlags::RDONLY, Mode::empty());
    let file = match open() {
        Err(Errno::ACCESS) => with_right(directory, name, open)?,
        opened => opened?,
    };
    fs::fsync(&file)
}

/// Opens what its owner may not read, with that right for the moment. The stage is private.
fn with_right(
    directory: BorrowedFd<'_>,
    path: &[u8],
    open: impl Fn() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let mode = stat_entry(directory, path)?.ok_or(Errno::NOENT)?.st_mode & 0o7777;
    change_mode(directory, path, mode | 0o500)?;
    let opened = open();
    change_mode(directory, path, mode)?;
    opened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_and_directory_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..200 {
            let deep = dir.path().join(format!("{TREE}/d{}/e", number % 7));
            std::fs::create_dir_all(&deep).unwrap();
            std::fs::write(deep.join(format!("{number}")), "x").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", dir.path().join(TREE).join("link")).unwrap();
        let stage = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(one_by_one(stage.as_fd(), 4).unwrap(), 200 + 7 + 7 + 1);
    }
}
