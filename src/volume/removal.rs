//! Removing a tree with many calls in flight: where each costs a round trip, one after the other would
//! take longer than writing the tree took.
//!
//! A folder is removed once all that was in it is gone, by whoever removed the last of it. Folders are
//! taken from a stack, so that the deepest come first and few are open at a time.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::openat;

/// Stack of a thread, in bytes: it calls nothing that recurses.
const STACK: usize = 256 << 10;

struct Folder {
    name: Box<[u8]>,
    above: Option<Arc<Folder>>,
    fd: OnceLock<OwnedFd>,
    /// Folders in it that are still there, and one until its own entries have been seen to.
    left: AtomicUsize,
}

#[derive(Default)]
struct Work {
    folders: Vec<Arc<Folder>>,
    /// Folders that are not removed yet.
    open: usize,
    failed: Option<Errno>,
}

struct Removal<'a> {
    at: BorrowedFd<'a>,
    work: Mutex<Work>,
    changed: Condvar,
}

/// Removes the directory `name` in `at` and all that is below it, following no link, with so many threads.
/// Blocks until then.
///
/// # Errors
/// The first that stops it. What is not there is none.
pub fn remove_directory(at: BorrowedFd<'_>, name: &[u8], threads: usize) -> Result<()> {
    let removal = Removal { at, work: Mutex::default(), changed: Condvar::new() };
    removal.push(Folder { name: name.into(), above: None, fd: OnceLock::new(), left: AtomicUsize::new(1) });
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // As many as there may be; this one works, too.
            let helper = std::thread::Builder::new().name("remover".into()).stack_size(STACK);
            if helper.spawn_scoped(scope, || removal.work()).is_err() {
                break;
            }
        }
        removal.work();
    });
    removal.lock().failed.map_or(Ok(()), Err)
}

impl Removal<'_> {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, folder: Folder) {
        let mut work = self.lock();
        work.open += 1;
        work.folders.push(Arc::new(folder));
        self.changed.notify_one();
    }

    fn work(&self) {
        while let Some(folder) = self.next() {
            if let Err(error) = self.empty(&folder).and_then(|()| self.settle(folder)) {
                self.lock().failed.get_or_insert(error);
                self.changed.notify_all();
            }
        }
    }

    /// The next folder; nothing once all are gone or one cannot be removed.
    fn next(&self) -> Option<Arc<Folder>> {
        let mut work = self.lock();
        loop {
            if work.open == 0 || work.failed.is_some() {
                return None;
            }
            if let Some(folder) = work.folders.pop() {
                return Some(folder);
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Removes what is no folder in this one, and leaves the folders to whoever is free.
    fn empty(&self, folder: &Arc<Folder>) -> Result<()> {
        let (parent, flags) = (self.parent(folder), OFlags::DIRECTORY | OFlags::RDONLY);
        let fd = match openat(parent, &folder.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ACCESS) => {
                fs::chmodat(parent, &*folder.name, Mode::RWXU, AtFlags::empty())?;
                openat(parent, &folder.name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        let entries = entries(fd.as_fd())?;
        if !entries.is_empty() {
            // Ours to remove, whatever mode it was given.
            let _ = fs::fchmod(&fd, Mode::RWXU);
        }
        let fd = folder.fd.get_or_init(|| fd);
        for (name, is_folder) in entries {
            let unlinked =
                if is_folder { Err(Errno::ISDIR) } else { fs::unlinkat(fd, &*name, AtFlags::empty()) };
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    folder.left.fetch_add(1, Ordering::Relaxed);
                    let above = Some(Arc::clone(folder));
                    self.push(Folder { name, above, fd: OnceLock::new(), left: AtomicUsize::new(1) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One more of what was in `folder` is gone: with the last of it the folder goes, too.
    fn settle(&self, folder: Arc<Folder>) -> Result<()> {
        let mut next = Some(folder);
        while let Some(folder) = next {
            if folder.left.fetch_sub(1, Ordering::AcqRel) != 1 {
                return Ok(());
            }
            match fs::unlinkat(self.parent(&folder), &*folder.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
            let mut work = self.lock();
            work.open -= 1;
            if work.open == 0 {
                self.changed.notify_all();
            }
            drop(work);
            next = folder.above.clone();
        }
        Ok(())
    }

    fn parent<'f>(&'f self, folder: &'f Folder) -> BorrowedFd<'f> {
        folder.above.as_ref().and_then(|above| above.fd.get()).map_or(self.at, AsFd::as_fd)
    }
}

/// The names in a directory, and which of them are known to be directories.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(Box<[u8]>, bool)>> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut found = Vec::new();
    let mut entries = fs::RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push((name.into(), entry.file_type() == FileType::Directory));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_gone_and_what_its_links_point_to_is_not() {
        for threads in [1, 8] {
            let sandbox = tempfile::tempdir().unwrap();
            let path = |name: &str| sandbox.path().join(name);
            std::fs::create_dir_all(path("kept/below")).unwrap();
            for folder in 0..20 {
                std::fs::create_dir_all(path(&format!("tree/{folder}/a/b"))).unwrap();
                for file in 0..20 {
                    std::fs::write(path(&format!("tree/{folder}/a/{file}")), "x").unwrap();
                }
                std::os::unix::fs::symlink("../../kept", path(&format!("tree/{folder}/link"))).unwrap();
            }
            let at = std::fs::File::open(sandbox.path()).unwrap();
            remove_directory(at.as_fd(), b"tree", threads).unwrap();
            assert!(!path("tree").exists() && path("kept/below").exists(), "{threads} threads");
            assert_eq!(remove_directory(at.as_fd(), b"tree", threads), Ok(()));
        }
    }
}
