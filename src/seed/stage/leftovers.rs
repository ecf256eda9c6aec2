//! What an earlier run left in a stage: listed once for a directory, reused or removed by name, and what the seed does
//! not have is removed when the directory is finished.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use super::case;
use super::dir::{Dir, lock};
use super::metadata::Fidelity;
use super::owner::create_as;
use super::tree::Tree;
use crate::error::{Context, Result};
use crate::volume::{entries, is_type, openat, remove_tree, stat_entry};

/// A directory of which only whole files may be taken: its holder may still write there.
#[derive(Debug, Clone)]
pub(super) struct Remains {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) entries: Arc<HashMap<Box<[u8]>, Stat>>,
}

impl Remains {
    pub(super) fn of(directory: OwnedFd) -> rustix::io::Result<Remains> {
        let entries = entries(directory.as_fd())?.into();
        Ok(Remains { directory: directory.into(), entries })
    }
}

impl Tree {
    /// The same tree, to which whole files are taken from `remains`, an earlier holder's. Where it cannot
    /// be read, nothing is.
    pub(crate) fn taking_from(self, remains: Option<OwnedFd>) -> Tree {
        lock(&self.root.facts).remains = remains.and_then(|remains| Remains::of(remains).ok());
        self
    }

    /// Finds what an earlier holder left in the same directory. What cannot be read is written again.
    pub(super) fn open_remains(&self, dir: &Dir, parent: &Dir) {
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
            lock(&dir.facts).remains = Some(remains);
        }
    }

    /// What is left there is nobody's, and goes with the rest.
    pub(super) fn close_remains(&self, dir: &Dir) {
        if lock(&dir.facts).remains.take().is_some() {
            self.open_remains.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Finds out what an earlier run left in a directory: names, sizes and times come together from
    /// an NFS server, so that no file of them has to be asked about.
    pub(super) fn list(&self, dir: &Arc<Dir>, fidelity: &Fidelity) -> Result<()> {
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
        let meta = {
            let mut facts = lock(&dir.facts);
            facts.found = found;
            facts.meta.clone()
        };
        match &meta {
            Some(meta) => fidelity.drop_other_xattrs(&fd, meta, || dir.path.to_vec()),
            None => Ok(()),
        }
    }

    /// Removes what an earlier run left and the seed does not have.
    pub(super) fn prune(&self, dir: &Arc<Dir>) -> Result<()> {
        let left: Vec<Box<[u8]>> = lock(&dir.facts).found.keys().cloned().collect();
        for name in left {
            let fd = self.open(dir)?;
            dir.mark_changed();
            remove_tree(fd.as_fd(), &name).context("remove", || self.entry(&dir.child_path(&name)))?;
            dir.settled(&name);
        }
        Ok(())
    }

    /// A directory that is there already: made before the server forgot its parent, or another name.
    pub(super) fn make_again(&self, above: &Dir, parent: &OwnedFd, dir: &Dir, mode: u32) -> Result<()> {
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

    /// Makes way for `name`, which could not be made since it is there: an earlier try of ours, or of an earlier
    /// run under another spelling, is removed.
    ///
    /// # Errors
    /// Exit 78 where it is another name of the seed, which the volume does not tell apart.
    pub(crate) fn make_way(&self, dir: &Dir, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
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
}
