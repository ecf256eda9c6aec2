//! What was staged: how it becomes durable, what it will be once it is sealed, and the figures for the report.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::publish::mounts::Mounts;
use super::stage::durable::{self, Synced};
use super::stage::losses::Lost;
use crate::error::Result;
use crate::volume::records::{Durability, Sealed, Staged};
use crate::volume::{FileSystem, Storage};

/// When a file that is staged on such a file system, and has its time, is sure to be kept.
pub(super) fn kept(kind: FileSystem) -> Durability {
    match (kind.place, kind.name) {
        // Their clients write a file back before `close` returns (nfs(5), mount.cifs(8)).
        (_, "nfs" | "cifs") => Durability::ByServer,
        // FUSE: its daemon took the data when the file was closed, and may not have written it further.
        (Storage::Memory, _) | (_, "fuse") => Durability::WhileUp,
        _ => Durability::BySync,
    }
}

/// What staging did, for the report.
#[derive(Debug)]
pub(crate) struct Staging {
    /// The tree, whatever the stage that it is in is called.
    pub(super) tree: Arc<OwnedFd>,
    /// What was staged.
    pub sealed: Sealed,
    /// The record of its stage, not sealed yet.
    pub(super) staged: Staged,
    /// When what is staged is sure to be kept.
    pub(super) kept: Durability,
    /// Files that an earlier run had finished.
    pub reused: u64,
    /// Writers at work.
    pub writers: usize,
    /// What the writers took together.
    pub busy: Duration,
    /// The part of it that files took.
    pub busy_with_files: Duration,
    /// Creations that could only happen one after the other: the longest chain of them.
    pub longest_chain: u64,
    /// Sockets and devices of the source, which are not copied.
    pub skipped: u64,
    /// Entries of the source that `--exclude` left out.
    pub excluded: u64,
    /// What the volume did not keep.
    pub lost: Lost,
    /// What is staged at mounts below the volume.
    pub(super) mounts: Mounts,
    /// From the first look at the source to the last close.
    pub stage_time: Duration,
    /// The sync.
    pub sync_time: Duration,
}

impl Staging {
    /// Whether nothing but a sync says that what is staged is kept.
    pub(crate) fn is_kept_by_sync(&self) -> bool {
        self.kept == Durability::BySync
    }

    /// Makes what is staged durable. `root` is from before the first look at it.
    ///
    /// # Errors
    /// What the file system reports as lost.
    pub(crate) fn sync(&self, root: BorrowedFd<'_>, stage: BorrowedFd<'_>, path: &Path) -> Result<Synced> {
        durable::sync(root, stage, path, self.kept, self.writers)
    }

    /// Says in its stage that a sync is asked for, whose answer is not known; durable on return.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn mark_syncing(&self, stage: BorrowedFd<'_>, path: &Path) -> Result<()> {
        Staged { syncing: true, ..self.staged.clone() }.write(stage, path)
    }

    /// Writes down in its stage what it will be once it is sealed; durable on return.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn note(&self, stage: BorrowedFd<'_>, path: &Path) -> Result<()> {
        Staged { sealed: Some(self.sealed.clone()), ..self.staged.clone() }.write(stage, path)
    }
}
