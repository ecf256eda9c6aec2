//! Which operations there are, and how often each was asked for.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::{Index, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};

macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $op:ident $name:literal,)+) => {
        /// An operation as an NFS client knows it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op {
            $($(#[doc = $doc])+ $op,)+
        }

        impl Op {
            /// All of them.
            pub const ALL: &[Op] = &[$(Op::$op,)+];

            /// What it is called in counts and flags.
            pub fn name(self) -> &'static str {
                match self { $(Op::$op => $name,)+ }
            }
        }
    };
}

operations! {
    /// A name that is there.
    Lookup "lookup",
    /// A name that is not there, where no creation under that name followed at once.
    LookupMissed "lookup-missed",
    /// Attributes that the kernel had not cached.
    Getattr "getattr",
    /// A change of mode, owner, size or times.
    Setattr "setattr",
    /// An open that creates (OPEN).
    Create "create",
    /// An open of a file that is there (OPEN).
    Open "open",
    /// Data from the server.
    Read "read",
    /// A mebibyte of data at most, to the server.
    Write "write",
    /// A close of an opened file.
    Close "close",
    /// A directory made.
    Mkdir "mkdir",
    /// A symbolic link made.
    Symlink "symlink",
    /// A FIFO, socket or device made.
    Mknod "mknod",
    /// A hard link made.
    Link "link",
    /// A name removed.
    Unlink "unlink",
    /// A directory removed.
    Rmdir "rmdir",
    /// A name moved.
    Rename "rename",
    /// A mebibyte of a directory's entries at most.
    Readdir "readdir",
    /// The target of a symbolic link.
    Readlink "readlink",
    /// The question whether something may be done.
    Access "access",
    /// Room on the volume.
    Statfs "statfs",
    /// A lock taken, asked about or given back.
    Lock "lock",
    /// The demand that data be durable. Free: it costs the writes that it brings about.
    Fsync "fsync",
    /// A directory opened. Free, as the NFS client has its attributes.
    Opendir "opendir",
    /// Extended attributes. Free: the client knows that this server has none.
    Xattr "xattr",
    /// The last reference to an open file or directory gone. Free: the close was charged.
    Release "release",
}

impl Op {
    /// Whether it costs a round trip.
    pub fn is_charged(self) -> bool {
        !matches!(self, Op::Fsync | Op::Opendir | Op::Xattr | Op::Release)
    }

    /// The operation of this name.
    pub fn named(name: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.name() == name)
    }
}

/// How often each operation was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    by_op: Vec<u64>,
    /// The most round trips at one time since the mount.
    pub most_in_flight: u64,
    /// The longest chain of round trips of which each began after the one before was over.
    pub in_sequence: u64,
}

impl Counts {
    /// Round trips, all charged operations together.
    pub fn rpcs(&self) -> u64 {
        Op::ALL.iter().filter(|op| op.is_charged()).map(|op| self[*op]).sum()
    }

    /// One line of JSON: `{"rpcs":…,"most_in_flight":…,"in_sequence":…,"create":…,…}`.
    pub fn json(&self) -> String {
        let counts: Vec<_> = Op::ALL.iter().map(|op| format!("\"{}\":{}", op.name(), self[*op])).collect();
        format!(
            "{{\"rpcs\":{},\"most_in_flight\":{},\"in_sequence\":{},{}}}",
            self.rpcs(),
            self.most_in_flight,
            self.in_sequence,
            counts.join(",")
        )
    }
}

impl Index<Op> for Counts {
    type Output = u64;

    fn index(&self, op: Op) -> &u64 {
        self.by_op.get(op as usize).unwrap_or(&0)
    }
}

/// What came after an earlier look.
impl Sub<&Counts> for Counts {
    type Output = Counts;

    fn sub(self, earlier: &Counts) -> Counts {
        let by_op = Op::ALL.iter().map(|op| self[*op].saturating_sub(earlier[*op])).collect();
        let in_sequence = self.in_sequence - earlier.in_sequence;
        Counts { by_op, in_sequence, ..self }
    }
}

/// The round trips and what they were, but for what never came.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} round trips, {} in sequence", self.rpcs(), self.in_sequence)?;
        for op in Op::ALL.iter().filter(|op| self[**op] > 0) {
            write!(f, ", {} {}", self[*op], op.name())?;
        }
        Ok(())
    }
}

/// Counts while the mount is in use.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Metered>);

#[derive(Debug, Default)]
struct Metered {
    by_op: HashMap<Op, u64>,
    /// Lookups that found nothing, by directory, name and thread, until the creation comes that they
    /// were for.
    missed: HashMap<(u64, OsString, u32), u64>,
}

impl Meter {
    pub(crate) fn count(&self, op: Op, times: u64) {
        *self.lock().by_op.entry(op).or_default() += times;
    }

    pub(crate) fn missed(&self, directory: u64, name: &OsStr, thread: u32) {
        *self.lock().missed.entry((directory, name.to_owned(), thread)).or_default() += 1;
    }

    /// A creation came: an NFS client would not have sent the lookup before it.
    pub(crate) fn settle(&self, directory: u64, name: &OsStr, thread: u32) {
        let mut metered = self.lock();
        let key = (directory, name.to_owned(), thread);
        if let Some(count) = metered.missed.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                metered.missed.remove(&key);
            }
        }
    }

    pub(crate) fn counts(&self, most_in_flight: u64, in_sequence: u64) -> Counts {
        let metered = self.lock();
        let mut by_op: Vec<u64> =
            Op::ALL.iter().map(|op| metered.by_op.get(op).copied().unwrap_or(0)).collect();
        by_op[Op::LookupMissed as usize] = metered.missed.values().sum();
        Counts { by_op, most_in_flight, in_sequence }
    }

    fn lock(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
