//! A directory as the source: walked by the producer, read by the writers.
//!
//! The walk lists and stats; a file's data and extended attributes are read where it is written.
//! Nothing is followed: a link is a link.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use super::entry::{Meta, Time};
use super::exclude::Excluding;
use super::names::{LONGEST_PATH, is_reserved};
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::seed::engine::job::{CHUNK, Data, Entry, FileJob};
use crate::seed::engine::pipeline::Feed;
use crate::seed::stage::dir::Dir;
use crate::seed::stage::overrides::Overrides;
use crate::volume::{is_type, names, open_beneath, stat_entry};

/// What the files of a mounted ConfigMap or Secret are links into (Kubernetes `pkg/volume/util/atomic_writer.go`).
const CONFIG_MAP: &[u8] = b"..data";

/// What a walk met besides what it fed.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// What the root of the source carries.
    pub root: Meta,
    /// Sockets and devices, which are not copied.
    pub skipped: u64,
}

/// The names that are wanted of a directory, by its path; `None` for all.
pub(crate) type Wanted<'a> = &'a dyn Fn(&[u8]) -> Result<Option<HashSet<Box<[u8]>>>>;

/// Feeds everything below `root`, or what is wanted `only`. The volume's root and the stage, `ours`, are
/// refused as parts of it.
///
/// # Errors
/// When something cannot be read, or a writer has failed.
pub(crate) fn produce(
    root: &OwnedFd,
    path: &Path,
    ours: &[Stat; 2],
    overrides: Overrides<'_>,
    excluding: &mut Excluding,
    only: Option<Wanted<'_>>,
    feed: &mut Feed<'_>,
) -> Result<Walked> {
    let stat = fs::fstat(root).context("stat", path)?;
    let mut walk =
        Walk { root, path, ours, overrides, excluding, only, feed, linked: HashMap::new(), skipped: 0 };
    walk.refuse_volume(&stat)?;
    let root_meta = walk.meta(&stat);
    let top = walk.feed.root();
    let mut open = vec![top];
    while let Some(dir) = open.pop() {
        walk.list(&dir, &mut open)?;
        if !dir.path().is_empty() {
            walk.feed.directory_done(dir)?;
        }
    }
    walk.feed.shared().progress.all_found();
    Ok(Walked { root: root_meta, skipped: walk.skipped })
}

/// The error for something of the source that was there a moment ago.
pub(crate) fn removed(path: &Path) -> Error {
    let error = Error::new(Exit::Io, "read directory", "it was removed while it was read").on(path);
    error.help("nothing of it was published; start again")
}

/// A directory of the seed and a name in it.
type EntryRef = (Arc<Dir>, Box<[u8]>);

struct Walk<'a, 'f> {
    root: &'a OwnedFd,
    path: &'a Path,
    ours: &'a [Stat; 2],
    overrides: Overrides<'a>,
    excluding: &'a mut Excluding,
    only: Option<Wanted<'a>>,
    feed: &'a mut Feed<'f>,
    /// Where a file with several names was met first, by device and inode.
    linked: HashMap<(u64, u64), EntryRef>,
    skipped: u64,
}

impl Walk<'_, '_> {
    fn list(&mut self, dir: &Arc<Dir>, open: &mut Vec<Arc<Dir>>) -> Result<()> {
        let path = self.full_path(dir.path());
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let here = if dir.path().is_empty() { b"." } else { dir.path() };
        let fd = open_beneath(self.root.as_fd(), here, flags, Mode::empty())
            .context("open directory", path.as_path())?;
        let fd = Arc::new(fd);
        self.feed.shared().tree.keep_source(dir, &fd);
        if !dir.path().is_empty()
            && let Some(xattrs) =
                self.feed.shared().fidelity.read_xattrs(&fd, || path.clone(), || dir.path().to_vec())?
        {
            dir.set_xattrs(xattrs);
        }
        self.excluding.enter(dir.path());
        let wanted = self.only.map_or(Ok(None), |only| only(dir.path()))?;
        for name in names(fd.as_fd()).context("read directory", path.as_path())? {
            let child = || self.full_path(&dir.child_path(&name));
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&name)) {
                continue;
            }
            let stat = stat_entry(fd.as_fd(), &name).context("stat", child)?;
            let is_directory = stat.is_some_and(|stat| is_type(&stat, FileType::Directory));
            if self.excluding.leaves_out(&name, is_directory) {
                continue;
            }
            let stat = stat.ok_or_else(|| removed(&self.full_path(&dir.child_path(&name))))?;
            if dir.path().is_empty() && is_reserved(&name) {
                let name = printable(&name);
                let cause = format!("'{name}' in it is volseed's own name");
                return Err(Error::new(Exit::Archive, "read directory", cause).on(self.path).help(format!(
                    "seed from what the volume was seeded from, or leave it out with --exclude {name}"
                )));
            }
            self.entry(dir, &fd, name, &stat, open)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &Arc<Dir>,
        fd: &OwnedFd,
        name: Box<[u8]>,
        stat: &Stat,
        open: &mut Vec<Arc<Dir>>,
    ) -> Result<()> {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::Directory {
            self.refuse_volume(stat)?;
            self.refuse_long(&dir.child_path(&name))?;
            let meta = self.meta(stat);
            open.push(self.feed.directory(dir, &name, meta)?);
            return Ok(());
        }
        if stat.st_nlink > 1
            && let Some((first, first_name)) = self.linked.get(&(stat.st_dev, stat.st_ino))
        {
            let (first, first_name) = (Arc::clone(first), first_name.clone());
            let entry = self.plain(dir, name, stat);
            return self.feed.link(entry, first, first_name);
        }
        let copied = matches!(file_type, FileType::RegularFile | FileType::Symlink | FileType::Fifo);
        if stat.st_nlink > 1 && copied {
            self.linked.insert((stat.st_dev, stat.st_ino), (Arc::clone(dir), name.clone()));
        }
        match file_type {
            FileType::RegularFile => self.file(dir, name, stat),
            FileType::Symlink => {
                if dir.path().is_empty() && *name == *CONFIG_MAP {
                    tracing::warn!(
                        source = %self.path.display(),
                        "its files are links to what kubelet replaces: --from {}/..data has the files themselves",
                        self.path.display()
                    );
                }
                let target = fs::readlinkat(fd, &*name, Vec::new())
                    .context("read link", || self.full_path(&dir.child_path(&name)))?;
                let entry = self.plain(dir, name, stat);
                self.feed.symlink(entry, target.into_bytes().into())
            }
            FileType::Fifo => {
                let entry = self.plain(dir, name, stat);
                self.feed.fifo(entry)
            }
            _ => {
                self.skipped += 1;
                tracing::debug!(path = printable(&dir.child_path(&name)), "skipped a socket or device");
                Ok(())
            }
        }
    }

    fn file(&mut self, dir: &Arc<Dir>, name: Box<[u8]>, stat: &Stat) -> Result<()> {
        let size = stat.st_size as u64;
        // stat(2) counts blocks of 512 bytes.
        let stored = (stat.st_blocks as u64).saturating_mul(512).min(size);
        let holes = stored < size;
        let file = FileJob { dir: Arc::clone(dir), name, meta: self.meta(stat), size, stored, _charge: None };
        if holes || size <= CHUNK {
            let data = if holes { Data::WithHoles } else { Data::Whole };
            return self.feed.file(file, data);
        }
        let large = self.feed.large_file(file, true)?;
        self.feed.copy_chunks(&large, size, 0)
    }

    fn refuse_volume(&self, stat: &Stat) -> Result<()> {
        let is = |ours: &Stat| (stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino);
        let what = match self.ours {
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
        let mode = stat.st_mode & 0o7777;
        let mut meta =
            Meta { mode, uid: stat.st_uid, gid: stat.st_gid, mtime: Some(Time::of(stat)), xattrs: None };
        self.overrides.apply(&mut meta, FileType::from_raw_mode(stat.st_mode));
        meta
    }

    fn full_path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }
}
