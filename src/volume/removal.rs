//! Removing trees, with one thread or with many calls in flight: where each costs a round trip, one after
//! the other would take longer than writing the tree took.
//!
//! A directory is removed once all that was in it is gone, by the thread that removed the last of it.
//! Directories are taken from a stack, so that the deepest come first and few are open at a time. How many
//! that are is bounded, however deep the tree is: what is below the last that may stay open is moved up to
//! the top directory. No link is followed, and nothing in another mount is touched.

#[cfg(test)]
pub(crate) mod tests;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::{entries_with_types, open_in_mount, openat};

/// Stack of a thread, in bytes: it calls nothing that recurses.
const STACK: usize = 256 << 10;
/// Directories that stay open for each thread: real trees are hardly deeper.
const LEVELS: usize = 24;
/// Directories that stay open in all: a quarter of the usual limit of 1,024 descriptors.
const MAX_LEVELS: usize = 256;
/// The same where the file system refuses to move a directory up.
const MAX_OPEN: usize = 512;
/// Names that are tried for a directory that is moved up. They are random: one that is taken is bad luck.
const TRIES: usize = 16;

struct Folder {
    name: Box<[u8]>,
    above: Option<Arc<Folder>>,
    fd: OnceLock<OwnedFd>,
    /// Folders in it that are still there, and one until its own entries have been seen to.
    left: AtomicUsize,
    /// Whether it counts among those that stay open for what is in them.
    stays_open: AtomicBool,
}

impl Folder {
    fn new(name: Box<[u8]>, above: Option<Arc<Folder>>) -> Arc<Folder> {
        let (left, stays_open) = (AtomicUsize::new(1), AtomicBool::new(false));
        Arc::new(Folder { name, above, fd: OnceLock::new(), left, stays_open })
    }
}

#[derive(Default)]
struct RemovalQueue {
    folders: Vec<Arc<Folder>>,
    /// Folders that are not removed yet.
    open: usize,
    failed: Option<Errno>,
}

struct Removal<'a> {
    at: BorrowedFd<'a>,
    top: Arc<Folder>,
    levels: usize,
    staying_open: AtomicUsize,
    work: Mutex<RemovalQueue>,
    changed: Condvar,
    removed: &'a (dyn Fn() + Sync),
}

/// Removes `name` in `at`, whatever it is, and all that is below it, following no link. Blocks until then,
/// and starts no thread.
///
/// # Errors
/// As [`remove_directory`].
pub(crate) fn remove_tree(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_directory(at, name, 1, &|| ()),
        Err(error) => Err(error),
    }
}

/// Removes the directory `name` in `at` and all that is below it, following no link, with this number of
/// threads. Calls `removed` for everything that is removed. Blocks until all is.
///
/// # Errors
/// The first that stops it; the other threads end after what they are at. `EBUSY` where another mount is
/// below it or is it. A name that is not there is none.
pub(crate) fn remove_directory(
    at: BorrowedFd<'_>,
    name: &[u8],
    threads: usize,
    removed: &(dyn Fn() + Sync),
) -> Result<()> {
    Removal::new(at, name, threads, removed).run(threads)
}

impl<'a> Removal<'a> {
    fn new(at: BorrowedFd<'a>, name: &[u8], threads: usize, removed: &'a (dyn Fn() + Sync)) -> Removal<'a> {
        let top = Folder::new(name.into(), None);
        let work = RemovalQueue { folders: vec![Arc::clone(&top)], open: 1, failed: None };
        Removal {
            at,
            top,
            levels: (LEVELS * threads.max(1)).min(MAX_LEVELS),
            staying_open: AtomicUsize::new(0),
            work: Mutex::new(work),
            changed: Condvar::new(),
            removed,
        }
    }

    fn run(&self, threads: usize) -> Result<()> {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // As many as there may be; this one works, too.
                let helper = std::thread::Builder::new().name("remover".into()).stack_size(STACK);
                if helper.spawn_scoped(scope, || self.work()).is_err() {
                    break;
                }
            }
            self.work();
        });
        self.lock().failed.map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, RemovalQueue> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the directory `name` in `above` to the next thread that is free.
    fn push(&self, above: &Arc<Folder>, name: Box<[u8]>) {
        above.left.fetch_add(1, Ordering::Relaxed);
        let folder = Folder::new(name, Some(Arc::clone(above)));
        let mut work = self.lock();
        work.open += 1;
        work.folders.push(folder);
        self.changed.notify_one();
    }

    fn work(&self) {
        while let Some(folder) = self.next() {
            let is_gone = self.is_removed(&folder);
            let emptied = if is_gone { Ok(()) } else { self.empty(&folder) };
            if let Err(error) = emptied.and_then(|()| self.settle(folder, is_gone)) {
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

    /// Removes a directory that is empty: one call instead of four, and no more than one in vain where it is not.
    fn is_removed(&self, folder: &Folder) -> bool {
        let removed = fs::unlinkat(self.parent(folder), &*folder.name, AtFlags::REMOVEDIR);
        matches!(removed, Ok(()) | Err(Errno::NOENT))
    }

    /// Removes what is no directory in this one. A directory is left to the next thread that is free, or
    /// moved up where too many stay open for what is in them.
    fn empty(&self, folder: &Arc<Folder>) -> Result<()> {
        let Some(fd) = self.open(self.parent(folder), &folder.name)? else { return Ok(()) };
        let entries = entries_with_types(fd.as_fd())?;
        if !entries.is_empty() {
            // Ours to remove, whatever mode it was given.
            let _ = fs::fchmod(&fd, Mode::RWXU);
        }
        let fd = folder.fd.get_or_init(|| fd).as_fd();
        let mut stays_open = None;
        for (name, file_type) in entries {
            let unlinked = match file_type {
                FileType::Directory => Err(Errno::ISDIR),
                _ => fs::unlinkat(fd, &*name, AtFlags::empty()),
            };
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => (self.removed)(),
                Err(Errno::ISDIR | Errno::PERM) => {
                    if *stays_open.get_or_insert_with(|| self.stays_open(folder, self.levels)) {
                        self.push(folder, name);
                    } else {
                        self.move_up(folder, fd, name)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether this folder, too, may stay open until what is in it is gone.
    fn stays_open(&self, folder: &Folder, most: usize) -> bool {
        if folder.stays_open.load(Ordering::Relaxed) {
            return true;
        }
        let has_room = self.staying_open.fetch_add(1, Ordering::Relaxed) < most;
        if !has_room {
            self.staying_open.fetch_sub(1, Ordering::Relaxed);
        }
        folder.stays_open.store(has_room, Ordering::Relaxed);
        has_room
    }

    /// Moves a directory to the top one, as one of whose own it is removed. Where that is refused, it is
    /// removed where it is.
    fn move_up(&self, folder: &Arc<Folder>, fd: BorrowedFd<'_>, name: Box<[u8]>) -> Result<()> {
        let top = self.top.fd.get().expect("the top is opened before what is in it");
        let (mut refused, mut widened) = (Errno::EXIST, false);
        for _ in 0..TRIES {
            let unique = format!("{:016x}", super::random());
            match fs::renameat(fd, &*name, top, unique.as_bytes()) {
                Ok(()) => {
                    self.push(&self.top, unique.into_bytes().into());
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                // Its `..` changes, so that it has to be writable itself (rename(2)).
                Err(Errno::ACCESS) if !widened && self.widen(fd, &name).is_ok() => widened = true,
                Err(error) => {
                    refused = error;
                    break;
                }
            }
        }
        if !self.stays_open(folder, MAX_OPEN) {
            return Err(refused);
        }
        self.push(folder, name);
        Ok(())
    }

    /// One more of what was in `folder` is gone: with the last of it the folder goes, too, if it is not gone.
    fn settle(&self, folder: Arc<Folder>, is_gone: bool) -> Result<()> {
        let (mut next, mut is_gone) = (Some(folder), is_gone);
        while let Some(folder) = next {
            if folder.left.fetch_sub(1, Ordering::AcqRel) != 1 {
                return Ok(());
            }
            if !std::mem::take(&mut is_gone) {
                match fs::unlinkat(self.parent(&folder), &*folder.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            (self.removed)();
            if folder.stays_open.load(Ordering::Relaxed) {
                self.staying_open.fetch_sub(1, Ordering::Relaxed);
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

    /// Opens a directory to be emptied; nothing where it is gone.
    fn open(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let opened = match open_in_mount(parent, name, flags) {
            Err(Errno::ACCESS) => {
                self.widen(parent, name).and_then(|place| openat(place.as_fd(), b".", flags, Mode::empty()))
            }
            opened => opened,
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::XDEV) => Err(Errno::BUSY),
            // No directory: another took its place, or it is one of the files that cannot be removed.
            Err(Errno::NOTDIR | Errno::LOOP) => match fs::unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Gives a directory that we may not read a mode that lets us empty it, and returns its place
    /// (`O_PATH`).
    fn widen(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        let place = open_in_mount(parent, name, OFlags::DIRECTORY | OFlags::PATH)?;
        // fchmod takes no `O_PATH` descriptor (open(2)), but this is the directory itself.
        let itself = format!("/proc/self/fd/{}", place.as_raw_fd());
        match fs::chmodat(CWD, itself, Mode::RWXU, AtFlags::empty()) {
            Ok(()) => return Ok(place),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(_) => return Err(Errno::ACCESS),
        }
        // No /proc: by its name, and not through a link (Linux 6.6, and a C library that knows it).
        match super::change_mode(parent, name, 0o700) {
            Ok(()) => Ok(place),
            Err(_) => Err(Errno::ACCESS),
        }
    }
}
