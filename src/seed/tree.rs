//! The staged tree's directories: made before what is in them, finished after it.
//!
//! A directory is made by whoever first needs it, and gets its owner, narrow mode, attributes and
//! time when the last of its children is done. Descriptors are kept within a limit: the oldest is
//! closed, and opened again from its parent if it is needed once more.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::entry::{Meta, Xattrs};
use super::fidelity::{Birth, Fidelity};
use crate::error::{Context, Result};
use crate::volume::{is_type, names, openat, remove_tree, stat_entry};

/// A directory of the seed. The root's path is empty.
#[derive(Debug)]
pub struct Dir {
    parent: Option<Arc<Dir>>,
    path: Box<[u8]>,
    meta: Mutex<Option<Meta>>,
    slot: Mutex<Slot>,
    /// The names that the seed has in here, where an earlier run may have left others.
    names: Mutex<HashSet<Box<[u8]>>>,
    /// The directory of the source, kept open for the writers while few enough are.
    source: Mutex<Option<Arc<OwnedFd>>>,
    /// What is not finished yet: children, and the producer while it may add some.
    pending: AtomicUsize,
}

#[derive(Debug, Default)]
struct Slot {
    open: Option<Arc<OpenDir>>,
    birth: Option<Birth>,
}

/// An open directory of the stage.
#[derive(Debug)]
pub struct OpenDir {
    fd: OwnedFd,
    /// What the first file in it was born with, and the mode that was asked for: where owners come
    /// from is the same for all files of a directory.
    file_birth: OnceLock<(u32, Birth)>,
}

impl OpenDir {
    fn new(fd: OwnedFd) -> Arc<OpenDir> {
        Arc::new(OpenDir { fd, file_birth: OnceLock::new() })
    }

    /// What a file that was just created with `mode` was born with.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn birth_of(&self, file: &OwnedFd, mode: u32) -> rustix::io::Result<Birth> {
        match self.file_birth.get() {
            Some((asked, birth)) if *asked == mode => Ok(*birth),
            _ => {
                let birth = Birth::of(&fs::fstat(file)?);
                let _ = self.file_birth.set((mode, birth));
                Ok(birth)
            }
        }
    }
}

impl AsFd for OpenDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// The path below the root, without a leading slash.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path of a child.
    pub fn child_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Says what the directory shall carry. The last word counts.
    pub fn set_meta(&self, meta: Meta) {
        *lock(&self.meta) = Some(meta);
    }

    /// Adds the extended attributes to what was said before.
    pub fn set_xattrs(&self, xattrs: Box<Xattrs>) {
        lock(&self.meta).get_or_insert_default().xattrs = Some(xattrs);
    }

    /// One more thing to wait for before the directory is finished.
    pub fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// All directories of one stage.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Dir>,
    path: PathBuf,
    resumed: bool,
    most_open: usize,
    open: Mutex<VecDeque<Arc<Dir>>>,
    open_sources: AtomicUsize,
}

impl Tree {
    /// The tree below `root`. In a `resumed` one things may be there already. At most `most_open`
    /// descriptors are kept.
    pub fn new(root: OwnedFd, path: &Path, resumed: bool, most_open: usize) -> Tree {
        let slot = Slot { open: Some(OpenDir::new(root)), birth: Some(Birth::default()) };
        let root = Dir {
            parent: None,
            path: Box::default(),
            meta: Mutex::default(),
            slot: Mutex::new(slot),
            names: Mutex::default(),
            source: Mutex::default(),
            pending: AtomicUsize::new(1),
        };
        Tree {
            root: Arc::new(root),
            path: path.to_owned(),
            resumed,
            most_open: most_open.max(16),
            open: Mutex::default(),
            open_sources: AtomicUsize::new(0),
        }
    }

    /// The root.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// Whether an earlier run may have left something in it.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The path of something below the root, for messages.
    pub fn full_path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }

    /// A new directory in `parent`, held by its maker until [`Tree::release`]. Nothing is done on
    /// the volume yet.
    pub fn directory(&self, parent: &Arc<Dir>, name: &[u8]) -> Arc<Dir> {
        parent.hold();
        Arc::new(Dir {
            parent: Some(Arc::clone(parent)),
            path: parent.child_path(name).into(),
            meta: Mutex::default(),
            slot: Mutex::default(),
            names: Mutex::default(),
            source: Mutex::default(),
            pending: AtomicUsize::new(1),
        })
    }

    /// The seed has this name in `dir`.
    pub fn expect(&self, dir: &Dir, name: &[u8]) {
        if self.resumed {
            lock(&dir.names).insert(name.into());
        }
    }

    /// Removes what an earlier run left in `dir` and the seed does not have.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn prune(&self, dir: &Arc<Dir>) -> Result<()> {
        if !self.resumed {
            return Ok(());
        }
        let fd = self.open(dir)?;
        let wanted = std::mem::take(&mut *lock(&dir.names));
        let path = || self.full_path(&dir.path);
        for name in names(fd.as_fd()).context("read directory", path)? {
            if !wanted.contains(&*name) {
                remove_tree(fd.as_fd(), &name)
                    .context("remove", || self.full_path(&dir.child_path(&name)))?;
            }
        }
        Ok(())
    }

    /// The directory's descriptor; makes the directory, and its parents, where that is still to do.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open(&self, dir: &Arc<Dir>) -> Result<Arc<OpenDir>> {
        let mut slot = lock(&dir.slot);
        if let Some(open) = &slot.open {
            return Ok(Arc::clone(open));
        }
        let parent = self.open(dir.parent.as_ref().expect("the root's descriptor is kept"))?;
        let made = slot.birth.is_some();
        if !made {
            let mode = lock(&dir.meta).as_ref().map_or(0o755, |meta| meta.mode);
            self.make(parent.as_fd(), dir, mode).context("create directory", || self.full_path(&dir.path))?;
        }
        let open = || {
            let fd = openat(parent.as_fd(), dir.name(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
            let birth = if made { None } else { Some(Birth::of(&fs::fstat(&fd)?)) };
            Ok::<_, Errno>((OpenDir::new(fd), birth))
        };
        let (open, birth) = open().context("open directory", || self.full_path(&dir.path))?;
        if let Some(birth) = birth {
            slot.birth = Some(birth);
        }
        slot.open = Some(Arc::clone(&open));
        drop(slot);
        self.close_oldest(dir);
        Ok(open)
    }

    /// Keeps the source's directory open for the writers, unless too many are.
    pub fn keep_source(&self, dir: &Dir, fd: &Arc<OwnedFd>) {
        if self.open_sources.load(Ordering::Relaxed) < self.most_open {
            self.open_sources.fetch_add(1, Ordering::Relaxed);
            *lock(&dir.source) = Some(Arc::clone(fd));
        }
    }

    /// The source's directory, where it is kept open.
    pub fn source(&self, dir: &Dir) -> Option<Arc<OwnedFd>> {
        lock(&dir.source).clone()
    }

    fn close_source(&self, dir: &Dir) {
        if lock(&dir.source).take().is_some() {
            self.open_sources.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// One thing less to wait for. The last one finishes the directory, and so on upwards.
    ///
    /// # Errors
    /// When its owner, mode, attributes or time cannot be set and must be.
    pub fn release(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
        let mut dir = dir;
        while dir.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let Some(parent) = &dir.parent else { return Ok(()) };
            self.finish(dir, fidelity)?;
            dir = parent;
        }
        Ok(())
    }

    fn finish(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
        let fd = self.open(dir)?;
        self.prune(dir)?;
        let birth = lock(&dir.slot).birth.unwrap_or_default();
        if let Some(meta) = lock(&dir.meta).take() {
            if self.resumed {
                fidelity.drop_other_xattrs(fd.as_fd(), &meta, || self.full_path(&dir.path))?;
            }
            fidelity.finish_directory(fd.as_fd(), &meta, birth, || self.full_path(&dir.path))?;
        }
        lock(&dir.slot).open = None;
        self.close_source(dir);
        Ok(())
    }

    fn make(&self, parent: BorrowedFd<'_>, dir: &Dir, mode: u32) -> rustix::io::Result<()> {
        // Wide enough for us to fill it; a narrow mode and the special bits come last.
        let mode = Mode::from_raw_mode(mode & 0o777 | 0o700);
        match fs::mkdirat(parent, dir.name(), mode) {
            Err(Errno::EXIST) if self.resumed => {
                let there = stat_entry(parent, dir.name())?;
                if there.is_some_and(|stat| is_type(&stat, FileType::Directory)) {
                    return fs::chmodat(parent, dir.name(), mode, AtFlags::empty());
                }
                remove_tree(parent, dir.name())?;
                fs::mkdirat(parent, dir.name(), mode)
            }
            made => made,
        }
    }

    fn close_oldest(&self, opened: &Arc<Dir>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::clone(opened));
        let mut tries = open.len();
        while open.len() > self.most_open && tries > 0 {
            tries -= 1;
            let Some(oldest) = open.pop_front() else { return };
            // One that somebody is at work with right now keeps its place at the end of the line.
            let closed = oldest.slot.try_lock().map(|mut slot| slot.open = None).is_ok();
            if !closed {
                open.push_back(oldest);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
