//! The staged tree's directories: made before what is in them, finished after it.
//!
//! A directory gets its time, and the mode and attributes that it could not be made with, when the
//! last of its children is done.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{self, FileType, Gid, Mode, Stat, Uid};
use rustix::io::Errno;

use super::dir::{Dir, MadeDirectory, lock};
use super::dir_cache::open_place;
use super::metadata::{Fidelity, InitialAttrs};
use super::owner::{Owner, create_as};
use super::refused;
use crate::error::{Context, Error, Result};
use crate::seed::engine::schedule::{Number, ROOT};
use crate::seed::manifest::line::Listed;
use crate::seed::manifest::write::ManifestWriter;
use crate::seed::source::entry::{EntryName, Meta, Naming, Time};
use crate::volume::{change_mode, entries, is_type, remove_tree, stat_entry};

/// What a tree may do on its volume.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreeOptions {
    /// Whether an earlier run may have left something in it.
    pub resumed: bool,
    /// Whether things may be created as their future owner.
    pub owners: bool,
    /// The most descriptors that are kept.
    pub open_directories: usize,
}

/// All directories of one stage.
pub(crate) struct Tree {
    pub(super) root: Arc<Dir>,
    pub(super) root_fd: Arc<OwnedFd>,
    pub(super) naming: Naming,
    pub(super) means: TreeOptions,
    /// Those whose descriptor is kept, and some that are finished.
    pub(super) open: Mutex<VecDeque<Weak<Dir>>>,
    pub(super) open_sources: AtomicUsize,
    pub(super) open_remains: AtomicUsize,
    /// Lists what is staged, where that is wanted.
    manifest: Option<ManifestWriter>,
    /// What is only listed, where nothing is staged.
    unstaged: Option<Unstaged>,
}

/// What was listed and not staged. A reader that asks the stage what it had is answered from here.
struct Unstaged {
    /// For what is known of no entry.
    model: Stat,
    /// What was listed, by path; empty where nobody asks.
    entries: Option<Mutex<HashMap<Box<[u8]>, Unmade>>>,
}

/// What an entry would be.
#[derive(Clone, Copy)]
struct Unmade {
    file_type: FileType,
    mode: u32,
    owner: Owner,
    mtime: Option<Time>,
}

impl Unstaged {
    fn add(&self, path: Vec<u8>, file_type: FileType, meta: &Meta) {
        let Some(entries) = &self.entries else { return };
        let (owner, mode, mtime) = ((meta.uid, meta.gid), meta.mode, meta.mtime);
        lock(entries).insert(path.into(), Unmade { file_type, mode, owner, mtime });
    }

    fn get(&self, path: &[u8]) -> Option<Stat> {
        let Unmade { file_type, mode, owner: (uid, gid), mtime } = *lock(self.entries.as_ref()?).get(path)?;
        let (st_mode, Time { seconds, nanoseconds }) =
            (file_type.as_raw_mode() | mode, mtime.unwrap_or_default());
        // Two names: its size is nothing to give back.
        let (st_mtime, st_mtime_nsec) = (seconds, nanoseconds.into());
        let mut stat = self.model;
        (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink) = (st_mode, uid, gid, 2);
        (stat.st_mtime, stat.st_mtime_nsec) = (st_mtime, st_mtime_nsec);
        Some(stat)
    }
}

impl Tree {
    /// The tree below `root`, most of which will belong to `owner`, where that is known.
    ///
    /// # Errors
    /// When the root cannot be looked at.
    pub(crate) fn new(
        root: OwnedFd,
        naming: Naming,
        means: TreeOptions,
        owner: Option<Owner>,
    ) -> Result<Tree> {
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
            open: Mutex::default(),
            open_sources: AtomicUsize::new(0),
            open_remains: AtomicUsize::new(0),
            manifest: None,
            unstaged: None,
        };
        if means.resumed {
            let found = entries(tree.root_fd.as_fd()).context("read directory", || tree.entry(b""))?;
            lock(&tree.root.facts).found = found;
        }
        Ok(tree)
    }

    /// The same tree, of which every entry is listed.
    pub(crate) fn listed_in(self, manifest: ManifestWriter) -> Tree {
        Tree { manifest: Some(manifest), ..self }
    }

    /// The same tree, of which nothing is staged. `asked` says that the reader may ask what it had.
    ///
    /// # Errors
    /// When the root cannot be looked at.
    pub(crate) fn unstaged(self, asked: bool) -> Result<Tree> {
        let model = fs::fstat(&self.root_fd).context("stat", || self.entry(b""))?;
        let unstaged = Unstaged { model, entries: asked.then(Mutex::default) };
        Ok(Tree { unstaged: Some(unstaged), ..self })
    }

    /// Whether its entries are staged, and not only listed.
    pub(crate) fn is_staged(&self) -> bool {
        self.unstaged.is_none()
    }

    /// Whether its entries are listed.
    pub(crate) fn is_listed(&self) -> bool {
        self.manifest.is_some()
    }

    /// Lists an entry that is staged as `name` in `dir`, where that is wanted.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub(crate) fn list_entry(&self, dir: &Dir, name: &[u8], meta: &Meta, entry: Listed) -> Result<()> {
        if let Some(unstaged) = &self.unstaged {
            let file_type = match entry {
                Listed::Symlink(_) => FileType::Symlink,
                Listed::Fifo => FileType::Fifo,
                Listed::File { .. } | Listed::Link(_) => FileType::RegularFile,
            };
            unstaged.add(dir.child_path(name), file_type, meta);
        }
        self.manifest
            .as_ref()
            .map_or(Ok(()), |manifest| manifest.list((&dir.path, &dir.gathered), name, meta, entry))
    }

    /// The manifest, to be ended once all is staged. `root` is what the seed says of its root.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn take_manifest(&mut self, root: Option<&Meta>) -> Result<Option<ManifestWriter>> {
        let manifest = self.manifest.take();
        if let Some(manifest) = &manifest {
            manifest.end_directory((b"", &self.root.gathered), root)?;
        }
        Ok(manifest)
    }

    /// The root.
    pub(crate) fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The root's descriptor, which may be read.
    pub(crate) fn root_fd(&self) -> &Arc<OwnedFd> {
        &self.root_fd
    }

    /// What messages call the entry at this path below the root.
    pub(crate) fn entry(&self, path: &[u8]) -> EntryName {
        self.naming.entry(path)
    }

    /// The error for the entry at this path, which could not be made.
    pub(crate) fn not_made(&self, act: &'static str, path: &[u8], cause: Errno) -> Error {
        refused::not_made(act, &self.naming, path, cause, || self.longest_name())
    }

    /// The error for a symbolic link to `target` at this path, which could not be made.
    pub(crate) fn no_symbolic_link(&self, path: &[u8], target: &[u8], cause: Errno) -> Error {
        refused::no_symbolic_link(&self.naming, path, target, cause, || self.longest_name())
    }

    /// The error for the entry at this path, which the volume does not tell apart from `other`, a path too.
    pub(crate) fn same_name(&self, path: &[u8], other: &[u8]) -> Error {
        refused::same_name(&self.naming, path, other)
    }

    /// The error for the entry at this path, whose last character the volume drops.
    pub(crate) fn end_dropped(&self, path: &[u8]) -> Error {
        refused::end_dropped(&self.naming, path)
    }

    fn longest_name(&self) -> Option<u64> {
        fs::fstatfs(&self.root_fd).ok().and_then(|found| u64::try_from(found.f_namelen).ok())
    }

    /// What the stage has of the seed under this name. Nothing of a directory that is not made yet.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn look(&self, dir: &Arc<Dir>, name: &[u8]) -> Result<Option<Stat>> {
        if dir.made.get().is_none() || dir.found(name).is_some() {
            return Ok(None);
        }
        if let Some(unstaged) = &self.unstaged {
            return Ok(unstaged.get(&dir.child_path(name)));
        }
        self.unless_stale(dir, || {
            let found = stat_entry(self.open(dir)?.as_fd(), name);
            found.map_err(|cause| self.not_made("look for", &dir.child_path(name), cause))
        })
    }

    /// A directory that was finished and forgotten, to be filled further and finished again with what
    /// it has now. Held by its reader alone.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn adopt(
        &self,
        number: Number,
        parent: &Arc<Dir>,
        name: &[u8],
        (stat, times): (&Stat, bool),
    ) -> Result<Arc<Dir>> {
        let dir = Dir::new(number, Some(Arc::clone(parent)), parent.child_path(name).into(), 1);
        parent.retain();
        let (owner, mtime) = ((stat.st_uid, stat.st_gid), times.then(|| Time::of(stat)));
        let meta = Meta { mode: stat.st_mode & 0o7777, uid: owner.0, gid: owner.1, mtime, xattrs: None };
        let path = || self.entry(&dir.path);
        if self.unstaged.is_some() {
            let made = MadeDirectory { owner: Some(owner), mtime, ..MadeDirectory::default() };
            let _ = dir.made.set(made);
            dir.set_meta(meta);
            return Ok(Arc::new(dir));
        }
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

    /// A new directory in `parent`, held by its listing and by its making until each calls
    /// [`Dir::release`]. Nothing is done on the volume yet.
    pub(crate) fn directory(&self, number: Number, parent: &Arc<Dir>, name: &[u8]) -> Arc<Dir> {
        parent.retain();
        let path = parent.child_path(name).into();
        Arc::new(Dir::new(number, Some(Arc::clone(parent)), path, 2))
    }

    /// The user that creates something in `dir` that will belong to `owner`; `None` is ourselves.
    pub(crate) fn creator(&self, dir: &Dir, owner: Owner) -> Option<Owner> {
        let made = dir.made.get().filter(|_| self.means.owners)?;
        made.birth.lets_create(owner).then_some(owner)
    }

    /// Makes a directory whose parent is made, with its owner and as much of its mode as is needed to
    /// fill it. One that an earlier run made is looked through. `created` is called when the parent's
    /// lock is no longer needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make(&self, dir: &Arc<Dir>, fidelity: &Fidelity, created: impl FnOnce()) -> Result<()> {
        let Some(parent_dir) = &dir.parent else { return Ok(()) };
        if let Some(unstaged) = &self.unstaged {
            unstaged.add(
                dir.path.to_vec(),
                FileType::Directory,
                &lock(&dir.facts).meta.clone().unwrap_or_default(),
            );
            let _ = dir.made.set(MadeDirectory::default());
            created();
            return Ok(());
        }
        let path = || self.entry(&dir.path);
        let parent = self.open(parent_dir)?;
        let (mode, owner) = {
            let facts = lock(&dir.facts);
            let meta = facts.meta.as_ref();
            let owner = meta.map(|meta| (meta.uid, meta.gid));
            // Wide enough for us to fill it; a narrow mode and the special bits come last.
            (meta.map_or(0o755, |meta| meta.mode) & 0o777 | 0o700, owner)
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

    /// Finishes a directory in which everything is done, and those above it of which it was the last. `ended` hears of
    /// each.
    ///
    /// # Errors
    /// When its owner, mode, attributes or time cannot be set and must be.
    pub(crate) fn finish_filled(
        &self,
        dir: &Arc<Dir>,
        fidelity: &Fidelity,
        ended: impl Fn(Number),
    ) -> Result<()> {
        let mut dir = dir;
        loop {
            let Some(parent) = &dir.parent else { return Ok(()) };
            self.unless_stale(dir, || self.finish(dir, fidelity))?;
            if let Some(manifest) = &self.manifest {
                manifest.end_directory((&dir.path, &dir.gathered), lock(&dir.facts).meta.as_ref())?;
            }
            lock(&dir.descriptors).open.take();
            self.close_source(dir);
            self.close_remains(dir);
            ended(dir.number);
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
    pub(crate) fn finish_root(&self) -> Result<()> {
        self.prune(&self.root)
    }

    /// Gives a directory that is filled what it could not be made with. Idempotent.
    fn finish(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
        if self.unstaged.is_some() {
            return Ok(());
        }
        let path = || dir.path.to_vec();
        self.prune(dir)?;
        let Some(meta) = lock(&dir.facts).meta.clone() else { return Ok(()) };
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
}
