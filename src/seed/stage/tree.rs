//! The staged tree's directories: made before what is in them, finished after it.
//!
//! A directory gets its time, and the mode and attributes that it could not be made with, when the
//! last of its children is done. Descriptors are kept within a limit: one that was not used for long
//! is closed, and opened again from its parent if it is needed once more. They only stand for a place
//! (`O_PATH`): opening a directory for reading would cost an NFS client a round trip
//! (close-to-open, nfs(5)).

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{self, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::case;
use super::metadata::{Fidelity, InitialAttrs};
use super::owner::{Owner, create_as};
use super::refused;
use crate::error::{Context, Error, Result, printable};
use crate::seed::engine::schedule::{Number, ROOT};
use crate::seed::source::entry::{EntryName, Meta, Naming, Time, Xattrs};
use crate::volume::{change_mode, entries, is_type, openat, remove_tree, stat_entry};

/// How often one thing is tried again after the server forgot a directory's handle (`ESTALE`): each
/// time from a parent further up.
const STALE_TRIES: usize = 4;

/// A directory of the seed. The root's path is empty.
#[derive(Debug)]
pub struct Dir {
    number: Number,
    parent: Option<Arc<Dir>>,
    path: Box<[u8]>,
    meta: Mutex<Option<Meta>>,
    open: Mutex<Option<Arc<OwnedFd>>>,
    /// Whether it was used since the last look for descriptors to close.
    used: AtomicBool,
    made: OnceLock<MadeDirectory>,
    /// What the first file in it was born with, and what was asked for: where owners and modes come
    /// from is the same for all files of a directory.
    file_birth: OnceLock<((u32, Option<Owner>), InitialAttrs)>,
    /// What an earlier run left in it and the seed was not seen to have.
    found: Mutex<HashMap<Box<[u8]>, Stat>>,
    /// Whether anything was created or removed in it.
    changed: AtomicBool,
    /// The directory of the source, kept open for the writers while few enough are.
    source: Mutex<Option<Arc<OwnedFd>>>,
    /// The same directory as an earlier holder staged it, and may still hold it open.
    remains: Mutex<Option<Remains>>,
    /// What is not finished yet: children, its making, and the producer while it may add some.
    pending: AtomicUsize,
}

/// A directory of which only whole files may be taken: its holder may still write there.
#[derive(Debug, Clone)]
struct Remains {
    directory: Arc<OwnedFd>,
    entries: Arc<HashMap<Box<[u8]>, Stat>>,
}

impl Remains {
    fn of(directory: OwnedFd) -> rustix::io::Result<Remains> {
        let entries = entries(directory.as_fd())?.into();
        Ok(Remains { directory: directory.into(), entries })
    }
}

/// What a directory had once it was made.
#[derive(Debug, Clone, Copy, Default)]
struct MadeDirectory {
    birth: InitialAttrs,
    /// Who was to own it.
    owner: Option<Owner>,
    /// Its time, where an earlier run made it.
    mtime: Option<Time>,
}

impl Dir {
    fn new(number: Number, parent: Option<Arc<Dir>>, path: Box<[u8]>, pending: usize) -> Dir {
        Dir {
            number,
            parent,
            path,
            meta: Mutex::default(),
            open: Mutex::default(),
            used: AtomicBool::new(false),
            made: OnceLock::new(),
            file_birth: OnceLock::new(),
            found: Mutex::default(),
            changed: AtomicBool::new(false),
            source: Mutex::default(),
            remains: Mutex::default(),
            pending: AtomicUsize::new(pending),
        }
    }

    /// Its number in the schedule.
    pub fn number(&self) -> Number {
        self.number
    }

    /// The path below the root, without a leading slash.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// What it is in; nothing for the root.
    pub fn parent(&self) -> Option<&Arc<Dir>> {
        self.parent.as_ref()
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

    /// Sets the attributes of the directory. The last call counts.
    pub fn set_meta(&self, meta: Meta) {
        *lock(&self.meta) = Some(meta);
    }

    /// Adds the extended attributes to what was said before.
    pub fn set_xattrs(&self, xattrs: Box<Xattrs>) {
        lock(&self.meta).get_or_insert_default().xattrs = Some(xattrs);
    }

    /// One more thing to wait for before the directory is finished.
    pub fn retain(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One thing less to wait for; whether it was the last.
    pub fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// What an earlier run left under this name, until it is [`settled`](Dir::settled).
    pub fn found(&self, name: &[u8]) -> Option<Stat> {
        lock(&self.found).get(name).copied()
    }

    /// What was found under this name is reused or removed. Not before: a writer that is interrupted by a
    /// stale handle begins again and has to know of it.
    pub fn settled(&self, name: &[u8]) {
        lock(&self.found).remove(name);
    }

    /// What an earlier holder left under this name in a directory that it may still hold open, and that
    /// directory.
    pub fn remaining(&self, name: &[u8]) -> Option<(Arc<OwnedFd>, Stat)> {
        let remains = lock(&self.remains);
        let remains = remains.as_ref()?;
        Some((Arc::clone(&remains.directory), *remains.entries.get(name)?))
    }

    /// Something was created or removed in it: its time has to be set.
    pub fn mark_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// What a file in here was born with, which was just created with `mode` by `owner`.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn file_birth(
        &self,
        file: &OwnedFd,
        mode: u32,
        owner: Option<Owner>,
    ) -> rustix::io::Result<InitialAttrs> {
        match self.file_birth.get() {
            Some((asked, birth)) if *asked == (mode, owner) => Ok(*birth),
            _ => {
                let birth = InitialAttrs::of(&fs::fstat(file)?);
                let _ = self.file_birth.set(((mode, owner), birth));
                Ok(birth)
            }
        }
    }

    fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

impl Drop for Dir {
    /// One directory after the other: a call for each level could be more than a stack holds.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(dir) = above {
            above = Arc::into_inner(dir).and_then(|mut dir| dir.parent.take());
        }
    }
}

/// What a tree may do on its volume.
#[derive(Debug, Clone, Copy)]
pub struct TreeOptions {
    /// Whether an earlier run may have left something in it.
    pub resumed: bool,
    /// Whether things may be created as their future owner.
    pub owners: bool,
    /// The most descriptors that are kept.
    pub open_directories: usize,
}

/// All directories of one stage.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Dir>,
    root_fd: Arc<OwnedFd>,
    naming: Naming,
    means: TreeOptions,
    numbers: AtomicUsize,
    /// Numbers that stand for nothing any more.
    spare: Mutex<Vec<Number>>,
    open: Mutex<VecDeque<Arc<Dir>>>,
    open_sources: AtomicUsize,
    open_remains: AtomicUsize,
}

impl Tree {
    /// The tree below `root`, most of which will belong to `owner`, where that is known.
    ///
    /// # Errors
    /// When the root cannot be looked at.
    pub fn new(root: OwnedFd, naming: Naming, means: TreeOptions, owner: Option<Owner>) -> Result<Tree> {
        let dir = Dir::new(ROOT, None, Box::default(), 1);
        if let Some((uid, gid)) = owner.filter(|_| means.owners) {
            // So that its owner may create in it; where that is refused, we do.
            let _ = fs::fchown(&root, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
        let birth = InitialAttrs::of(&fs::fstat(&root).context("stat", || naming.entry(b""))?);
        let _ = dir.made.set(MadeDirectory { birth, ..MadeDirectory::default() });
        let tree = Tree {
            root: Arc::new(dir),
            root_fd: Arc::new(root),
            naming,
            means,
            numbers: AtomicUsize::new(ROOT + 1),
            spare: Mutex::default(),
            open: Mutex::default(),
            open_sources: AtomicUsize::new(0),
            open_remains: AtomicUsize::new(0),
        };
        if means.resumed {
            let found = entries(tree.root_fd.as_fd()).context("read directory", || tree.entry(b""))?;
            *lock(&tree.root.found) = found;
        }
        Ok(tree)
    }

    /// The same tree, to which whole files are taken from `remains`, an earlier holder's. Where it cannot
    /// be read, nothing is.
    pub fn taking_from(self, remains: Option<OwnedFd>) -> Tree {
        *lock(&self.root.remains) = remains.and_then(|remains| Remains::of(remains).ok());
        self
    }

    /// The root.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The root's descriptor, which may be read.
    pub fn root_fd(&self) -> &OwnedFd {
        &self.root_fd
    }

    /// What messages call the entry at this path below the root.
    pub fn entry(&self, path: &[u8]) -> EntryName {
        self.naming.entry(path)
    }

    /// The error for the entry at this path, which could not be made.
    pub fn not_made(&self, act: &'static str, path: &[u8], cause: Errno) -> Error {
        refused::not_made(act, &self.naming, path, cause, || self.longest_name())
    }

    /// The error for a symbolic link to `target` at this path, which could not be made.
    pub fn no_symbolic_link(&self, path: &[u8], target: &[u8], cause: Errno) -> Error {
        refused::no_symbolic_link(&self.naming, path, target, cause, || self.longest_name())
    }

    /// The error for the entry at this path, which the volume does not tell apart from `other`, a path too.
    pub fn same_name(&self, path: &[u8], other: &[u8]) -> Error {
        refused::same_name(&self.naming, path, other)
    }

    /// The error for the entry at this path, whose last character the volume drops.
    pub fn end_dropped(&self, path: &[u8]) -> Error {
        refused::end_dropped(&self.naming, path)
    }

    /// Makes way for `name`, which could not be made since it is there: an earlier try of ours, or of an earlier
    /// run under another spelling, is removed.
    ///
    /// # Errors
    /// Exit 78 where it is another name of the seed, which the volume does not tell apart.
    pub fn make_way(&self, dir: &Dir, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let path = || self.entry(&dir.child_path(name));
        if let Some(other) = case::other_spelling(directory, name).context("read directory", path)? {
            if dir.found(&other).is_none() {
                let other = if other.is_empty() { Vec::new() } else { dir.child_path(&other) };
                return Err(self.same_name(&dir.child_path(name), &other));
            }
            dir.settled(&other);
        }
        remove_tree(directory, name).context("remove", path)
    }

    fn longest_name(&self) -> Option<u64> {
        fs::fstatfs(&self.root_fd).ok().and_then(|found| u64::try_from(found.f_namelen).ok())
    }

    /// A number for something with a lock of its own.
    pub fn number(&self) -> Number {
        lock(&self.spare).pop().unwrap_or_else(|| self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes the numbers of what is finished, and forgets it.
    pub fn recycle(&self, numbers: Vec<Number>) {
        lock(&self.spare).extend(numbers);
        lock(&self.open).retain(|dir| lock(&dir.open).is_some());
    }

    /// What the stage has of the seed under this name. Nothing of a directory that is not made yet.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn look(&self, dir: &Arc<Dir>, name: &[u8]) -> Result<Option<Stat>> {
        if dir.made.get().is_none() || dir.found(name).is_some() {
            return Ok(None);
        }
        self.unless_stale(dir, || {
            let found = stat_entry(self.open(dir)?.as_fd(), name);
            found.map_err(|cause| self.not_made("look for", &dir.child_path(name), cause))
        })
    }

    /// A directory that was finished and forgotten, to be filled further and finished again with what
    /// it has now. Held by its producer alone.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn adopt(&self, parent: &Arc<Dir>, name: &[u8], stat: &Stat, times: bool) -> Result<Arc<Dir>> {
        let dir = Dir::new(self.number(), Some(Arc::clone(parent)), parent.child_path(name).into(), 1);
        parent.retain();
        let (owner, mtime) = ((stat.st_uid, stat.st_gid), times.then(|| Time::of(stat)));
        let meta = Meta { mode: stat.st_mode & 0o7777, uid: owner.0, gid: owner.1, mtime, xattrs: None };
        let path = || self.entry(&dir.path);
        let fd = self.unless_stale(parent, || {
            let above = self.open(parent)?;
            if stat.st_mode & 0o700 != 0o700 {
                change_mode(above.as_fd(), name, meta.mode | 0o700).context("change mode of", path)?;
                dir.mark_changed();
            }
            let creator = self.creator(parent, owner);
            create_as(creator, || open_place(&above, name)).context("open directory", path)
        })?;
        let birth = InitialAttrs::of(&fs::fstat(&fd).context("stat", path)?);
        let _ = dir.made.set(MadeDirectory { birth, owner: Some(owner), mtime });
        dir.set_meta(meta);
        let dir = Arc::new(dir);
        self.keep(&dir, fd);
        Ok(dir)
    }

    /// A new directory in `parent`, held by its producer and by its making until each calls
    /// [`Tree::release`]. Nothing is done on the volume yet.
    pub fn directory(&self, parent: &Arc<Dir>, name: &[u8]) -> Arc<Dir> {
        parent.retain();
        let path = parent.child_path(name).into();
        Arc::new(Dir::new(self.number(), Some(Arc::clone(parent)), path, 2))
    }

    /// The user that creates something in `dir` that will belong to `owner`; `None` is ourselves.
    pub fn creator(&self, dir: &Dir, owner: Owner) -> Option<Owner> {
        let made = dir.made.get().filter(|_| self.means.owners)?;
        made.birth.lets_create(owner).then_some(owner)
    }

    /// Makes a directory whose parent is made, with its owner and as much of its mode as is needed to
    /// fill it. One that an earlier run made is looked through. `created` is called when the parent's
    /// lock is no longer needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(&self, dir: &Arc<Dir>, fidelity: &Fidelity, created: impl FnOnce()) -> Result<()> {
        let Some(parent_dir) = &dir.parent else { return Ok(()) };
        let path = || self.entry(&dir.path);
        let parent = self.open(parent_dir)?;
        let (mode, owner) = {
            let meta = lock(&dir.meta);
            let owner = meta.as_ref().map(|meta| (meta.uid, meta.gid));
            // Wide enough for us to fill it; a narrow mode and the special bits come last.
            (meta.as_ref().map_or(0o755, |meta| meta.mode) & 0o777 | 0o700, owner)
        };
        let found = parent_dir.found(dir.name());
        let there = found.filter(|found| is_type(found, FileType::Directory));
        if found.is_some() && there.is_none() {
            remove_tree(parent.as_fd(), dir.name()).context("remove", path)?;
            parent_dir.settled(dir.name());
        }
        let creator = owner.and_then(|owner| self.creator(parent_dir, owner));
        let fd = match there {
            Some(there) => {
                created();
                if there.st_mode & 0o700 != 0o700 {
                    // Where that is refused, filling it may be as well, and says so.
                    let _ = change_mode(parent.as_fd(), dir.name(), mode);
                    dir.mark_changed();
                }
                create_as(creator, || open_place(&parent, dir.name())).context("open directory", path)?
            }
            None => {
                parent_dir.mark_changed();
                dir.mark_changed();
                let made =
                    create_as(creator, || fs::mkdirat(&*parent, dir.name(), Mode::from_raw_mode(mode)));
                created();
                match made {
                    Err(Errno::EXIST) => self.make_again(parent_dir, &parent, dir, mode)?,
                    made => made.map_err(|cause| self.not_made("create directory", &dir.path, cause))?,
                }
                // As the owner: what a user may do in it is asked of the server once for each.
                create_as(creator, || open_place(&parent, dir.name())).context("open directory", path)?
            }
        };
        let mut birth = match there {
            Some(there) if !dir.changed.load(Ordering::Relaxed) => InitialAttrs::of(&there),
            _ => InitialAttrs::of(&fs::fstat(&fd).context("stat", path)?),
        };
        if let Some(owner) = owner {
            // Now, so that what is in it can be created by its owner.
            fidelity.own_directory(&fd, owner, &mut birth, || dir.path.to_vec())?;
        }
        let _ = dir.made.set(MadeDirectory { birth, owner, mtime: there.as_ref().map(Time::of) });
        self.keep(dir, fd);
        if there.is_some() {
            self.list(dir, fidelity)?;
            parent_dir.settled(dir.name());
        }
        self.open_remains(dir, parent_dir);
        Ok(())
    }

    /// Finds what an earlier holder left in the same directory. What cannot be read is written again.
    fn open_remains(&self, dir: &Dir, parent: &Dir) {
        let Some((above, stat)) = parent.remaining(dir.name()) else { return };
        if !is_type(&stat, FileType::Directory)
            || self.open_remains.load(Ordering::Relaxed) >= self.means.open_directories
        {
            return;
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let opened = openat(above.as_fd(), dir.name(), flags, Mode::empty()).and_then(Remains::of);
        if let Ok(remains) = opened {
            self.open_remains.fetch_add(1, Ordering::Relaxed);
            *lock(&dir.remains) = Some(remains);
        }
    }

    /// What is left there is nobody's, and goes with the rest.
    fn close_remains(&self, dir: &Dir) {
        if lock(&dir.remains).take().is_some() {
            self.open_remains.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The descriptor of a directory that is made; it stands for the place only (`O_PATH`).
    ///
    /// # Errors
    /// When it has to be opened again and cannot be.
    pub fn open(&self, dir: &Arc<Dir>) -> Result<Arc<OwnedFd>> {
        // Not by a call for each level: a seed may be deeper than a writer's stack.
        let (mut above, mut closed) = (dir, Vec::new());
        let mut fd = loop {
            let Some(parent) = &above.parent else { break Arc::clone(&self.root_fd) };
            if let Some(fd) = &*lock(&above.open) {
                above.used.store(true, Ordering::Relaxed);
                break Arc::clone(fd);
            }
            closed.push((above, parent));
            above = parent;
        };
        while let Some((dir, parent)) = closed.pop() {
            let owner = dir.made.get().and_then(|made| made.owner);
            let creator = owner.and_then(|owner| self.creator(parent, owner));
            let opened = create_as(creator, || open_place(&fd, dir.name()));
            fd = self.keep(dir, opened.context("open directory", || self.entry(&dir.path))?);
        }
        Ok(fd)
    }

    /// Does `act`, and does it again where the server has forgotten the handle of `dir`: it is opened
    /// again from further and further up, at last from the root. `act` must be idempotent.
    ///
    /// # Errors
    /// Those of `act`.
    pub fn unless_stale<T>(&self, dir: &Arc<Dir>, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            match act() {
                Err(error) if error.is_stale() && tries < STALE_TRIES => {
                    tries += 1;
                    tracing::debug!(directory = %printable(&dir.path), "its handle is stale");
                    let mut forgotten = Some(dir);
                    for _ in 0..1 << tries {
                        let Some(dir) = forgotten else { break };
                        lock(&dir.open).take();
                        forgotten = dir.parent.as_ref();
                    }
                }
                result => return result,
            }
        }
    }

    /// Keeps the source's directory open for the writers, unless too many are.
    pub fn keep_source(&self, dir: &Dir, fd: &Arc<OwnedFd>) {
        if self.open_sources.load(Ordering::Relaxed) < self.means.open_directories {
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
        if dir.release() { self.finish_filled(dir, fidelity) } else { Ok(()) }
    }

    /// Finishes a directory in which everything is done, and those above it of which it was the last.
    ///
    /// # Errors
    /// As [`Tree::release`].
    pub fn finish_filled(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
        let mut dir = dir;
        loop {
            let Some(parent) = &dir.parent else { return Ok(()) };
            self.unless_stale(dir, || self.finish(dir, fidelity))?;
            lock(&dir.open).take();
            self.close_source(dir);
            self.close_remains(dir);
            if !parent.release() {
                return Ok(());
            }
            dir = parent;
        }
    }

    /// Finishes the root: removes what an earlier run left there and the seed does not have.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn finish_root(&self) -> Result<()> {
        self.prune(&self.root)
    }

    /// Gives a directory that is filled what it could not be made with. Idempotent.
    fn finish(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
        let path = || dir.path.to_vec();
        self.prune(dir)?;
        let Some(meta) = lock(&dir.meta).clone() else { return Ok(()) };
        let MadeDirectory { mut birth, owner, mtime } = dir.made.get().copied().unwrap_or_default();
        // An archive may say later whose it is.
        if owner != Some((meta.uid, meta.gid)) {
            fidelity.own_directory(&*self.open(dir)?, (meta.uid, meta.gid), &mut birth, path)?;
        }
        let mode = fidelity.directory_mode_for(&meta, birth, path)?;
        if birth.has_mode(mode) && meta.xattrs.is_none() {
            let unchanged = !dir.changed.load(Ordering::Relaxed) && mtime.is_some() && mtime == meta.mtime;
            if unchanged
                || meta.mtime.is_none()
                || fidelity.set_directory_time(&*self.open(dir)?, &meta, path)?
            {
                return Ok(());
            }
        }
        fidelity.finish_file(&self.open_to_read(dir)?, &meta, mode, birth, path)
    }

    /// Finds out what an earlier run left in a directory: names, sizes and times come together from
    /// an NFS server, so that no file of them has to be asked about.
    fn list(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
        let path = || self.entry(&dir.path);
        // As its owner, who will create in it: the server is asked once what that user may do.
        let owner = dir.made.get().and_then(|made| made.owner);
        let creator = owner.and_then(|owner| self.creator(dir, owner));
        let place = self.open(dir)?;
        let (fd, found) = create_as(creator, || {
            let fd = openat(place.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
            let found = entries(fd.as_fd())?;
            Ok((fd, found))
        })
        .context("read directory", path)?;
        *lock(&dir.found) = found;
        match &*lock(&dir.meta) {
            Some(meta) => fidelity.drop_other_xattrs(&fd, meta, || dir.path.to_vec()),
            None => Ok(()),
        }
    }

    /// Removes what an earlier run left and the seed does not have.
    fn prune(&self, dir: &Arc<Dir>) -> Result<()> {
        let left: Vec<Box<[u8]>> = lock(&dir.found).keys().cloned().collect();
        for name in left {
            let fd = self.open(dir)?;
            dir.mark_changed();
            remove_tree(fd.as_fd(), &name).context("remove", || self.entry(&dir.child_path(&name)))?;
            dir.settled(&name);
        }
        Ok(())
    }

    /// A directory that is there already: made before the server forgot its parent, or another name.
    fn make_again(&self, above: &Dir, parent: &OwnedFd, dir: &Dir, mode: u32) -> Result<()> {
        let path = || self.entry(&dir.path);
        let found = stat_entry(parent.as_fd(), dir.name()).context("stat", path)?;
        let is_directory = found.is_some_and(|found| is_type(&found, FileType::Directory));
        let other = case::other_spelling(parent.as_fd(), dir.name()).context("read directory", path)?;
        if is_directory && other.is_none() {
            return Ok(());
        }
        self.make_way(above, parent.as_fd(), dir.name())?;
        let made = fs::mkdirat(parent, dir.name(), Mode::from_raw_mode(mode));
        made.map_err(|cause| self.not_made("create directory", &dir.path, cause))
    }

    fn open_to_read(&self, dir: &Arc<Dir>) -> Result<OwnedFd> {
        openat(self.open(dir)?.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
            .context("open directory", || self.entry(&dir.path))
    }

    /// Keeps a descriptor, and closes one that was not used for long where there are too many.
    fn keep(&self, dir: &Arc<Dir>, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        dir.used.store(true, Ordering::Relaxed);
        let before = lock(&dir.open).replace(Arc::clone(&fd));
        let mut open = lock(&self.open);
        if before.is_none() {
            open.push_back(Arc::clone(dir));
        }
        while open.len() > self.means.open_directories {
            let Some(oldest) = open.pop_front() else { break };
            if oldest.used.swap(false, Ordering::Relaxed) && lock(&oldest.open).is_some() {
                // A second chance.
                open.push_back(oldest);
            } else {
                lock(&oldest.open).take();
            }
        }
        fd
    }
}

/// A descriptor that stands for a directory's place; nothing can be read from it.
fn open_place(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(parent.as_fd(), name, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
