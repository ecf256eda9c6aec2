//! One directory of a staged tree: what is known of it, and what it waits for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{self, Stat};

use super::leftovers::Remains;
use super::metadata::InitialAttrs;
use super::owner::Owner;
use crate::seed::engine::schedule::Number;
use crate::seed::manifest::write::Gathered;
use crate::seed::source::entry::{Meta, Time, Xattrs};

/// A directory of the seed. The root's path is empty.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(super) number: Number,
    pub(super) parent: Option<Arc<Dir>>,
    pub(super) path: Box<[u8]>,
    pub(super) facts: Mutex<Facts>,
    pub(super) descriptors: Mutex<Descriptors>,
    /// Whether it was used since the last look for descriptors to close.
    pub(super) used: AtomicBool,
    pub(super) made: OnceLock<MadeDirectory>,
    /// What the first file in it was born with, and what was asked for: where owners and modes come
    /// from is the same for all files of a directory.
    pub(super) file_birth: OnceLock<((u32, Option<Owner>), InitialAttrs)>,
    /// Whether anything was created or removed in it.
    pub(super) changed: AtomicBool,
    /// Lines of the manifest for what is in it.
    pub(super) gathered: Mutex<Gathered>,
    /// What is not finished yet: children, its making, and the listings that may add some.
    pub(super) pending: AtomicUsize,
}

/// What is known of a directory and may change.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) meta: Option<Meta>,
    /// What an earlier run left in it and the seed was not seen to have.
    pub(super) found: HashMap<Box<[u8]>, Stat>,
    /// The same directory as an earlier holder staged it, and may still hold it open.
    pub(super) remains: Option<Remains>,
}

/// Descriptors that are kept while few enough are.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// Of the directory's place.
    pub(super) open: Option<Arc<OwnedFd>>,
    /// Of the same directory of the source.
    pub(super) source: Option<Arc<OwnedFd>>,
}

/// What a directory had once it was made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MadeDirectory {
    pub(super) birth: InitialAttrs,
    /// Who was to own it.
    pub(super) owner: Option<Owner>,
    /// Its time, where an earlier run made it.
    pub(super) mtime: Option<Time>,
}

impl Dir {
    pub(super) fn new(number: Number, parent: Option<Arc<Dir>>, path: Box<[u8]>, pending: usize) -> Dir {
        Dir {
            number,
            parent,
            path,
            used: AtomicBool::new(false),
            facts: Mutex::default(),
            descriptors: Mutex::default(),
            made: OnceLock::new(),
            file_birth: OnceLock::new(),
            changed: AtomicBool::new(false),
            gathered: Mutex::default(),
            pending: AtomicUsize::new(pending),
        }
    }

    /// Its number in the schedule.
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// The path below the root, without a leading slash.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// What it is in; nothing for the root.
    pub(crate) fn parent(&self) -> Option<&Arc<Dir>> {
        self.parent.as_ref()
    }

    /// The path of a child.
    pub(crate) fn child_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Sets the attributes of the directory. The last call counts.
    pub(crate) fn set_meta(&self, meta: Meta) {
        lock(&self.facts).meta = Some(meta);
    }

    /// Adds the extended attributes to what was said before.
    pub(crate) fn set_xattrs(&self, xattrs: Box<Xattrs>) {
        lock(&self.facts).meta.get_or_insert_default().xattrs = Some(xattrs);
    }

    /// One more thing to wait for before the directory is finished.
    pub(crate) fn retain(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One thing less to wait for; whether it was the last.
    pub(crate) fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// What an earlier run left under this name, until it is [`settled`](Dir::settled).
    pub(crate) fn found(&self, name: &[u8]) -> Option<Stat> {
        lock(&self.facts).found.get(name).copied()
    }

    /// What was found under this name is reused or removed. Not before: a writer that is interrupted by a
    /// stale handle begins again and has to know of it.
    pub(crate) fn settled(&self, name: &[u8]) {
        lock(&self.facts).found.remove(name);
    }

    /// What an earlier holder left under this name in a directory that it may still hold open, and that
    /// directory.
    pub(crate) fn remaining(&self, name: &[u8]) -> Option<(Arc<OwnedFd>, Stat)> {
        let facts = lock(&self.facts);
        let remains = facts.remains.as_ref()?;
        Some((Arc::clone(&remains.directory), *remains.entries.get(name)?))
    }

    /// Something was created or removed in it: its time has to be set.
    pub(crate) fn mark_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// What a file in here was born with, which was just created with `mode` by `owner`.
    ///
    /// # Errors
    /// As `fstat`.
    pub(crate) fn file_birth(
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

    pub(super) fn name(&self) -> &[u8] {
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
