//! A directory as the source: listed by the writers, who also read it.
//!
//! A listing looks at names; a file's data and extended attributes are read where it is written. What depends on other
//! directories, hard links above all, is behind one lock, taken once for many names. Nothing is followed: a link is a
//! link.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use super::entry::{Meta, Time};
use super::exclude::Excluding;
use super::names::{LONGEST_PATH, is_reserved};
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::seed::engine::feed::Feed;
use crate::seed::engine::job::{CHUNK, Data, Entry, FileJob, Listing, OpenListing, WantedNames};
use crate::seed::stage::dir::Dir;
use crate::seed::stage::overrides::Overrides;
use crate::volume::{ShortStat, is_type, next_names, open_beneath, stat_entry};

/// What the files of a mounted ConfigMap or Secret are links into (Kubernetes `pkg/volume/util/atomic_writer.go`).
const CONFIG_MAP: &[u8] = b"..data";

/// Names that are read and looked at in one go, at least: enough that a lock taken for them costs little, few enough that
/// another writer can read the next of a large directory.
const NAMES: usize = 256;

/// The part of a source that is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// The names that are wanted of a directory, by its path; `None` for all.
    pub names: &'a (dyn Fn(&[u8]) -> Result<Option<WantedNames>> + Sync),
    /// Whether a directory of which only some are wanted is none of it, and just the way to them.
    pub has_ways: bool,
}

impl Part<'_> {
    /// What the directory at this path carries: of one that is just a way nothing that would be a call of its own.
    ///
    /// # Errors
    /// When it is not known what is wanted.
    pub(super) fn carried(&self, path: &[u8], meta: Meta) -> Result<Meta> {
        let is_way = self.has_ways && (self.names)(path)?.is_some();
        Ok(if is_way {
            Meta { mode: meta.mode & 0o777 | 0o700, mtime: None, xattrs: None, ..meta }
        } else {
            meta
        })
    }
}

/// The error for something of the source that was there a moment ago.
pub(crate) fn removed(path: &Path) -> Error {
    let error = Error::new(Exit::Io, "read directory", "it was removed while it was read").on(path);
    error.help("nothing of it was published; start again")
}

/// The first name of a file that has several: a directory of the seed and the name in it, and how many names are not met
/// yet.
struct FirstName {
    dir: Arc<Dir>,
    name: Box<[u8]>,
    left: u32,
}

/// A directory as the source of a seed.
pub(crate) struct Walk<'a> {
    root: &'a OwnedFd,
    path: &'a Path,
    ours: [ShortStat; 2],
    overrides: Overrides<'a>,
    only: Option<Part<'a>>,
    /// What the root of the source carries.
    pub root_meta: Meta,
    /// Listings that are not done.
    pending: AtomicUsize,
    seen: Mutex<WalkState<'a>>,
}

/// What a walk has met so far.
struct WalkState<'a> {
    excluding: &'a mut Excluding,
    /// Where a file with several names was met first, by device and inode.
    linked: HashMap<(u64, u64), FirstName>,
    skipped: u64,
}

/// A name as it was found.
struct FoundName {
    name: Box<[u8]>,
    /// Nothing where it is gone by now.
    stat: Option<Stat>,
    /// Of a symbolic link.
    target: Option<Box<[u8]>>,
}

impl<'a> Walk<'a> {
    /// Of everything below `root`, or of what is wanted `only`. The volume's root and the stage, `ours`, are refused as
    /// parts of it.
    ///
    /// # Errors
    /// When it is one of them.
    pub(crate) fn new(
        root: &'a OwnedFd,
        path: &'a Path,
        ours: [ShortStat; 2],
        overrides: Overrides<'a>,
        excluding: &'a mut Excluding,
        only: Option<Part<'a>>,
    ) -> Result<Walk<'a>> {
        let stat = fs::fstat(root).context("stat", path)?;
        let root_meta = meta_of(&stat, overrides);
        let seen = Mutex::new(WalkState { excluding, linked: HashMap::new(), skipped: 0 });
        let walk = Walk { root, path, ours, overrides, only, root_meta, pending: AtomicUsize::new(1), seen };
        walk.refuse_volume(&stat)?;
        Ok(walk)
    }

    /// Sockets and devices, which were not copied.
    pub(crate) fn skipped(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).skipped
    }

    /// Feeds what is in a directory, or what some of its names are.
    ///
    /// # Errors
    /// When something cannot be read, or a writer has failed.
    pub(crate) fn list(&self, listing: Listing, feed: &mut Feed<'_>) -> Result<()> {
        let Listing { dir, rest } = listing;
        let open = rest.map_or_else(|| self.open(&dir, feed), Ok)?;
        let found = self.read(&dir, open, feed)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.excluding.enter(dir.path());
        for found in found {
            let is_directory = found.stat.is_some_and(|stat| is_type(&stat, FileType::Directory));
            if seen.excluding.leaves_out(&found.name, is_directory) {
                continue;
            }
            let stat = found.stat.ok_or_else(|| removed(&self.full_path(&dir.child_path(&found.name))))?;
            self.refuse_reserved(&dir, &found.name)?;
            self.entry(&dir, found, &stat, &mut seen, feed)?;
        }
        drop(seen);
        if !dir.path().is_empty() {
            feed.directory_done(dir)?;
        }
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            feed.shared().progress.all_found();
        }
        Ok(())
    }

    /// Opens a directory.
    fn open(&self, dir: &Arc<Dir>, feed: &mut Feed<'_>) -> Result<OpenListing> {
        let path = self.full_path(dir.path());
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let here = if dir.path().is_empty() { b"." } else { dir.path() };
        let fd = open_beneath(self.root.as_fd(), here, flags, Mode::empty())
            .context("open directory", path.as_path())?;
        let fd = Arc::new(fd);
        feed.shared().tree.keep_source(dir, &fd);
        let wanted = self.only.map_or(Ok(None), |only| (only.names)(dir.path()))?;
        let is_way = wanted.is_some() && self.only.is_some_and(|only| only.has_ways);
        if !dir.path().is_empty()
            && !is_way
            && let Some(xattrs) =
                feed.shared().fidelity.read_xattrs(&fd, || path.clone(), || dir.path().to_vec())?
        {
            dir.set_xattrs(xattrs);
        }
        Ok(OpenListing { directory: fd, wanted })
    }

    /// Reads the next names of a directory, and looks at them. What is left of it is for others.
    fn read(&self, dir: &Arc<Dir>, open: OpenListing, feed: &mut Feed<'_>) -> Result<Vec<FoundName>> {
        let directory = Arc::clone(&open.directory);
        let read = next_names(directory.as_fd(), NAMES);
        let (mut names, is_end) = read.context("read directory", || self.full_path(dir.path()))?;
        if let Some(wanted) = &open.wanted {
            names.retain(|name| wanted.contains(name));
        }
        if !is_end {
            dir.retain();
            self.feed_listing(Listing { dir: Arc::clone(dir), rest: Some(open) }, feed)?;
            feed.flush()?;
        }
        self.look(dir, directory.as_fd(), names)
    }

    fn feed_listing(&self, listing: Listing, feed: &mut Feed<'_>) -> Result<()> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        feed.list(listing)
    }

    fn look(&self, dir: &Dir, directory: BorrowedFd<'_>, names: Vec<Box<[u8]>>) -> Result<Vec<FoundName>> {
        let look = |name: Box<[u8]>| {
            let path = || self.full_path(&dir.child_path(&name));
            let stat = stat_entry(directory, &name).context("stat", path)?;
            let is_link = stat.is_some_and(|stat| is_type(&stat, FileType::Symlink));
            let target = is_link.then(|| fs::readlinkat(directory, &*name, Vec::new())).transpose();
            let target = target.context("read link", path)?.map(|target| target.into_bytes().into());
            Ok(FoundName { name, stat, target })
        };
        names.into_iter().map(look).collect()
    }

    fn refuse_reserved(&self, dir: &Dir, name: &[u8]) -> Result<()> {
        if !dir.path().is_empty() || !is_reserved(name) {
            return Ok(());
        }
        let name = printable(name);
        let cause = format!("'{name}' in it is volseed's own name");
        Err(Error::new(Exit::Archive, "read directory", cause).on(self.path).help(format!(
            "seed from what the volume was seeded from, or leave it out with --exclude {name}"
        )))
    }

    fn entry(
        &self,
        dir: &Arc<Dir>,
        FoundName { name, target, .. }: FoundName,
        stat: &Stat,
        seen: &mut WalkState<'_>,
        feed: &mut Feed<'_>,
    ) -> Result<()> {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::Directory {
            self.refuse_volume(stat)?;
            let path = dir.child_path(&name);
            self.refuse_long(&path)?;
            let mut meta = self.meta(stat);
            if let Some(only) = &self.only {
                meta = only.carried(&path, meta)?;
            }
            let dir = feed.directory(dir, &name, meta)?;
            return self.feed_listing(Listing { dir, rest: None }, feed);
        }
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = seen.linked.get_mut(&id)
        {
            first.left = first.left.saturating_sub(1);
            let (first_dir, first_name, is_last) =
                (Arc::clone(&first.dir), first.name.clone(), first.left == 0);
            if is_last {
                seen.linked.remove(&id);
            }
            return feed.link(self.plain(dir, name, stat), first_dir, first_name);
        }
        let copied = matches!(file_type, FileType::RegularFile | FileType::Symlink | FileType::Fifo);
        if stat.st_nlink > 1 && copied {
            let left = u32::try_from(stat.st_nlink).unwrap_or(u32::MAX) - 1;
            seen.linked.insert(id, FirstName { dir: Arc::clone(dir), name: name.clone(), left });
        }
        match file_type {
            FileType::RegularFile => self.file(dir, name, stat, feed),
            FileType::Symlink => {
                if dir.path().is_empty() && *name == *CONFIG_MAP {
                    tracing::warn!(
                        source = %self.path.display(),
                        "its files are links to what kubelet replaces: --from {}/..data has the files themselves",
                        self.path.display()
                    );
                }
                let entry = self.plain(dir, name, stat);
                feed.symlink(entry, target.unwrap_or_default())
            }
            FileType::Fifo => {
                let entry = self.plain(dir, name, stat);
                feed.fifo(entry)
            }
            _ => {
                seen.skipped += 1;
                tracing::debug!(path = printable(&dir.child_path(&name)), "skipped a socket or device");
                Ok(())
            }
        }
    }

    fn file(&self, dir: &Arc<Dir>, name: Box<[u8]>, stat: &Stat, feed: &mut Feed<'_>) -> Result<()> {
        let size = stat.st_size as u64;
        // stat(2) counts blocks of 512 bytes.
        let stored = (stat.st_blocks as u64).saturating_mul(512).min(size);
        let holes = stored < size;
        let file = FileJob { dir: Arc::clone(dir), name, meta: self.meta(stat), size, stored, _charge: None };
        if holes || size <= CHUNK {
            let data = if holes { Data::WithHoles } else { Data::Whole };
            return feed.file(file, data);
        }
        let large = feed.large_file(file, true)?;
        feed.copy_chunks(&large, size, 0)
    }

    fn refuse_volume(&self, stat: &Stat) -> Result<()> {
        let is = |ours: &ShortStat| (stat.st_dev, stat.st_ino) == (ours.device, ours.inode);
        let what = match &self.ours {
            [volume, _] if is(volume) => "the volume itself",
            [_, stage] if is(stage) => "the directory of volseed's state",
            _ => return Ok(()),
        };
        Err(Error::new(Exit::Usage, "seed from", format!("{what} is in there")).on(self.path))
    }

    /// Directories are opened by their whole path, which also bounds how deep a seed is.
    fn refuse_long(&self, path: &[u8]) -> Result<()> {
        // With the zero byte at its end.
        if path.len() < LONGEST_PATH {
            return Ok(());
        }
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let cause = format!("below it is a directory whose path has {LONGEST_PATH} bytes or more");
        Err(Error::new(Exit::Archive, "read directory", cause).on(self.full_path(top).as_path()))
    }

    fn plain(&self, dir: &Arc<Dir>, name: Box<[u8]>, stat: &Stat) -> Entry {
        Entry { dir: Arc::clone(dir), name, meta: self.meta(stat), _charge: None }
    }

    fn meta(&self, stat: &Stat) -> Meta {
        meta_of(stat, self.overrides)
    }

    fn full_path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }
}

fn meta_of(stat: &Stat, overrides: Overrides<'_>) -> Meta {
    let mode = stat.st_mode & 0o7777;
    let mut meta =
        Meta { mode, uid: stat.st_uid, gid: stat.st_gid, mtime: Some(Time::of(stat)), xattrs: None };
    overrides.apply(&mut meta, FileType::from_raw_mode(stat.st_mode));
    meta
}
