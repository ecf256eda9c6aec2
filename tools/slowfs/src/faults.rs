//! What goes wrong, set while the mount is in use.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::Errno;

use crate::counts::Op;
use crate::notices::Notices;
use crate::tree::Tree;
use crate::wire::Wire;

/// An operation that fails.
#[derive(Debug, Clone)]
pub struct Fault {
    op: Op,
    errno: Errno,
    times: Option<u32>,
    name: Option<OsString>,
    takes_effect: bool,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub errno: Errno,
    /// It is done all the same.
    pub takes_effect: bool,
}

impl Fault {
    /// Every such operation fails with this error and has no effect. A failed write leaves a hole, and is
    /// told by the next close or fsync of the file, as an NFS client does it. The kernel that wrote it may go
    /// on to show what it has cached: look at it from beside.
    pub fn new(op: Op, errno: Errno) -> Fault {
        Fault { op, errno, times: None, name: None, takes_effect: false }
    }

    /// Only the next `times` fail.
    pub fn times(mut self, times: u32) -> Fault {
        self.times = Some(times);
        self
    }

    /// Only where this is the name of the file or directory: the last part of its path.
    pub fn named(mut self, name: impl Into<OsString>) -> Fault {
        self.name = Some(name.into());
        self
    }

    /// It is done all the same: the answer was lost, or not waited for. Not with lookups and writes.
    pub fn after_it_took_effect(mut self) -> Fault {
        self.takes_effect = true;
        self
    }
}

/// The faults that are to come.
#[derive(Debug, Default)]
pub(crate) struct Rules(Mutex<Vec<Fault>>);

impl Rules {
    /// How this operation is to fail.
    pub(crate) fn strike(&self, op: Op, name: &OsStr) -> Option<Failure> {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = rules.iter().position(|rule| {
            rule.op == op && rule.name.as_ref().is_none_or(|wanted| wanted == name) && rule.times != Some(0)
        })?;
        let rule = &mut rules[found];
        rule.times = rule.times.map(|times| times - 1);
        Some(Failure { errno: rule.errno, takes_effect: rule.takes_effect })
    }
}

/// A handle on what goes wrong on a mount.
#[derive(Debug, Clone)]
pub struct Faults {
    pub(crate) rules: Arc<Rules>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) tree: Arc<Mutex<Tree>>,
    pub(crate) notices: Arc<Notices>,
}

impl Faults {
    /// From now on this fails; of several faults that fit, the first given.
    pub fn fail(&self, fault: Fault) {
        self.rules.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// From now on these take so much longer, beside the slots.
    pub fn delay(&self, op: Op, by: Duration) {
        self.wire.delay(op, by);
    }

    /// Takes back every [`Faults::fail`] and [`Faults::delay`].
    pub fn clear(&self) {
        self.rules.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.wire.undelay();
    }

    /// From now on the server does what it is asked, and says nothing: to this operation, or to any.
    /// What hangs takes no slot, and ends with its caller when that is killed, as on NFS.
    pub fn hang(&self, op: Option<Op>) {
        self.wire.hang(op);
    }

    /// The server answers again, also what it was asked before.
    pub fn release(&self) {
        self.wire.release();
    }

    /// Operations that hang or are delayed at this moment.
    pub fn waiting(&self) -> usize {
        self.wire.parked()
    }

    /// The room on the volume, in bytes of file data.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).capacity = bytes;
    }

    /// The server forgets the handle of what `path`, below the root, names: who has it open gets
    /// `ESTALE` from then on, who looks it up by its name gets a new handle. False where nothing is
    /// there. Other mounts of the volume find out with their first `ESTALE`.
    pub fn forget_handle(&self, path: impl AsRef<Path>) -> bool {
        let (Some(parent), Some(name)) = (path.as_ref().parent(), path.as_ref().file_name()) else {
            return false;
        };
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(directory), Some(number)) = (tree.find(parent), tree.find(path.as_ref())) else {
            return false;
        };
        let forgotten = tree.forget(number);
        drop(tree);
        // An NFS client marks what is stale; FUSE would go on with the name that it has cached.
        self.notices.forget(directory, name.to_owned());
        forgotten
    }
}
