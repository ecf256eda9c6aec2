//! Descriptors of a tree's directories, within a limit: one that was not used for long is closed, and opened again
//! from its parent, as is one whose handle the server has forgotten (`ESTALE`).
//!
//! They only stand for a place (`O_PATH`): opening a directory for reading would cost an NFS client a round trip
//! (close-to-open, nfs(5)).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};

use super::dir::{Dir, lock};
use super::owner::create_as;
use super::tree::Tree;
use crate::error::{Context, Result, printable};
use crate::volume::openat;

/// How often one thing is tried again after the server forgot a directory's handle (`ESTALE`): each
/// time from a parent further up.
const STALE_TRIES: usize = 4;

impl Tree {
    /// The descriptor of a directory that is made; it stands for the place only (`O_PATH`).
    ///
    /// # Errors
    /// When it has to be opened again and cannot be.
    pub(crate) fn open(&self, dir: &Arc<Dir>) -> Result<Arc<OwnedFd>> {
        // Not by a call for each level: a seed may be deeper than a writer's stack.
        let (mut above, mut closed) = (dir, Vec::new());
        let mut fd = loop {
            let Some(parent) = &above.parent else { break Arc::clone(&self.root_fd) };
            if let Some(fd) = &lock(&above.descriptors).open {
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
    pub(crate) fn unless_stale<T>(&self, dir: &Arc<Dir>, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            match act() {
                Err(error) if error.is_stale() && tries < STALE_TRIES => {
                    tries += 1;
                    tracing::debug!(directory = %printable(&dir.path), "its handle is stale");
                    let mut forgotten = Some(dir);
                    for _ in 0..1 << tries {
                        let Some(dir) = forgotten else { break };
                        lock(&dir.descriptors).open.take();
                        forgotten = dir.parent.as_ref();
                    }
                }
                result => return result,
            }
        }
    }

    /// Keeps the source's directory open for the writers, unless too many are.
    pub(crate) fn keep_source(&self, dir: &Dir, fd: &Arc<OwnedFd>) {
        if self.open_sources.load(Ordering::Relaxed) < self.means.open_directories {
            self.open_sources.fetch_add(1, Ordering::Relaxed);
            lock(&dir.descriptors).source = Some(Arc::clone(fd));
        }
    }

    /// The source's directory, where it is kept open.
    pub(crate) fn source(&self, dir: &Dir) -> Option<Arc<OwnedFd>> {
        lock(&dir.descriptors).source.clone()
    }

    pub(super) fn close_source(&self, dir: &Dir) {
        if lock(&dir.descriptors).source.take().is_some() {
            self.open_sources.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn open_to_read(&self, dir: &Arc<Dir>) -> Result<OwnedFd> {
        openat(self.open(dir)?.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
            .context("open directory", || self.entry(&dir.path))
    }

    /// Keeps a descriptor, and closes one that was not used for long where there are too many.
    pub(super) fn keep(&self, dir: &Arc<Dir>, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        dir.used.store(true, Ordering::Relaxed);
        let before = lock(&dir.descriptors).open.replace(Arc::clone(&fd));
        let mut open = lock(&self.open);
        if before.is_none() {
            open.push_back(Arc::downgrade(dir));
        }
        while open.len() > self.means.open_directories {
            let Some(oldest) = open.pop_front() else { break };
            let Some(dir) = oldest.upgrade() else { continue };
            if dir.used.swap(false, Ordering::Relaxed) && lock(&dir.descriptors).open.is_some() {
                // A second chance.
                open.push_back(oldest);
            } else {
                lock(&dir.descriptors).open.take();
            }
        }
        fd
    }
}

/// A descriptor that stands for a directory's place; nothing can be read from it.
pub(super) fn open_place(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(parent.as_fd(), name, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())
}
