//! What a seed is made of: metadata as a source has it and as a file gets it, and how messages name an entry.

use std::path::{Path, PathBuf};

use rustix::fs::{Stat, Timespec, Timestamps};

use crate::error::Quoted;
use crate::volume::FileSystem;

/// Extended attributes: names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry carries besides its content.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    /// Permission bits with set-user-ID, set-group-ID and sticky: 0 to 0o7777.
    pub mode: u32,
    /// UID.
    pub uid: u32,
    /// GID.
    pub gid: u32,
    /// Modification time; `None` leaves it alone.
    pub mtime: Option<Time>,
    /// Extended attributes; a directory source's files have theirs read by the writer.
    pub xattrs: Option<Box<Xattrs>>,
}

/// A time since 1970, to the nanosecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// Where file systems begin or end to have times, in seconds: 32 bits with a sign, 32 bits without, FAT's 1980.
const TIME_LIMITS: [i64; 5] = [-(1 << 31), 0, 315_532_800, 1 << 31, 1 << 32];

impl Time {
    /// Which of the ranges it is in that a file system has as a whole, or not at all: its answer for one of them says
    /// nothing of another.
    pub(crate) fn range(self) -> u32 {
        TIME_LIMITS.iter().filter(|limit| self.seconds >= **limit).count() as u32
    }

    /// Of the last modification of what was stat'ed.
    pub(crate) fn of(stat: &Stat) -> Time {
        // Below 1,000,000,000 (inode(7)).
        Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
    }

    /// As `futimens` wants it, for both times: a file system on libfuse 2 that does not know `UTIME_OMIT`
    /// says yes to a call with it and sets neither (measured on bindfs 1.14).
    pub(crate) fn timestamps(self) -> Timestamps {
        let time = Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.into() };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// How messages name what is staged: by its path in the seed, and the volume.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    volume: PathBuf,
    kind: FileSystem,
    below: Vec<u8>,
}

impl Naming {
    /// For a stage of the whole seed.
    pub(crate) fn new(volume: &Path, kind: FileSystem) -> Naming {
        Naming { volume: volume.to_owned(), kind, below: Vec::new() }
    }

    /// For a stage of the part of the seed that is below `path`.
    pub(crate) fn below(self, path: &[u8]) -> Naming {
        Naming { below: path.to_vec(), ..self }
    }

    /// The file system.
    pub(crate) fn kind(&self) -> FileSystem {
        self.kind
    }

    /// The path in the seed of what is staged at `path`; `.` for its root.
    pub(crate) fn seed_path(&self, path: &[u8]) -> Vec<u8> {
        match (self.below.is_empty(), path.is_empty()) {
            (true, true) => b".".to_vec(),
            (true, false) => path.to_vec(),
            (false, true) => self.below.clone(),
            (false, false) => [&self.below, path].join(&b"/"[..]),
        }
    }

    /// The entry that is staged at `path`, as an error names it.
    pub(crate) fn entry(&self, path: &[u8]) -> EntryName {
        let (entry, volume) = (self.seed_path(path).quoted(), self.volume.as_path().quoted());
        EntryName(format!("{entry} on volume {volume} ({})", self.kind))
    }
}

/// An entry of a seed as an error names it: `'lib/x' on volume '/data' (nfs)`.
pub(crate) struct EntryName(String);

impl Quoted for EntryName {
    fn quoted(&self) -> String {
        self.0.clone()
    }
}

/// Whether volseed carries this extended attribute from a source to a volume.
pub(crate) fn carried(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability"
}
