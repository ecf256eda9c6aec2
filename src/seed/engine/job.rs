//! What writers are given to do: entries of the seed, and the parts of large files.
//!
//! Says where each belongs in the schedule, and does nothing itself.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::schedule::{Number, Slot};
use super::workers::Flush;
use crate::seed::manifest::digest::DataDigest;
use crate::seed::manifest::line::Listed;
use crate::seed::source::entry::{Meta, Xattrs};
use crate::seed::source::slab::{Charge, Piece};
use crate::seed::stage::dir::Dir;
use crate::seed::stage::metadata::InitialAttrs;

/// Files from here on are cut into chunks of this size, so that one does not hold up the end. In
/// bytes; small enough that two writers share a 16 MiB file.
pub(crate) const CHUNK: u64 = 8 << 20;

/// A file as its source describes it.
#[derive(Debug)]
pub(crate) struct FileJob {
    /// Where it goes.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// What it carries.
    pub meta: Meta,
    /// Its length in bytes, holes included.
    pub size: u64,
    /// The bytes of it that are no holes.
    pub stored: u64,
    /// The memory that this takes, where it counts: given back with it.
    pub _charge: Option<Charge>,
}

impl FileJob {
    /// Its path below the root.
    pub(crate) fn path(&self) -> Vec<u8> {
        self.dir.child_path(&self.name)
    }
}

impl Entry {
    /// Its path below the root.
    pub(crate) fn path(&self) -> Vec<u8> {
        self.dir.child_path(&self.name)
    }
}

/// What the queue holds.
#[derive(Debug)]
pub(crate) enum Task {
    /// Part of a source, to be listed.
    List(Listing),
    /// Part of the seed, to be written.
    Write(Job),
}

impl Task {
    /// Where it belongs in the schedule.
    pub(crate) fn place(&self) -> Slot {
        match self {
            Task::List(_) => Slot::Listing,
            Task::Write(job) => job.place(),
        }
    }
}

/// A directory of a source that is one, or what is left of it once some of its names are read.
#[derive(Debug)]
pub(crate) struct Listing {
    /// What it becomes, held until all of its names are listed.
    pub dir: Arc<Dir>,
    /// The directory, once it is open: its next names are read from there.
    pub rest: Option<OpenListing>,
}

/// A directory of the source that is being read.
#[derive(Debug)]
pub(crate) struct OpenListing {
    /// The directory.
    pub directory: Arc<OwnedFd>,
    /// The names that are wanted of it; `None` for all.
    pub wanted: Option<WantedNames>,
}

/// Names of a directory.
pub(crate) type WantedNames = Arc<HashSet<Box<[u8]>>>;

/// A unit of work for a writer.
#[derive(Debug)]
pub(crate) enum Job {
    /// A directory, to be made.
    Directory(Arc<Dir>),
    /// A directory in which everything is done, to be finished.
    Finish(Arc<Dir>),
    /// A whole file.
    File(FileJob, Data),
    /// A large file, to be created.
    Large(Arc<LargeFile>),
    /// A part of it.
    Chunk(Arc<LargeFile>, Chunk),
    /// An entry without data.
    Special(Entry, Special),
}

/// What an entry without data is.
#[derive(Debug)]
pub(crate) enum Special {
    /// A symbolic link to this path.
    Symlink(Box<[u8]>),
    /// A FIFO.
    Fifo,
    /// Another name for the file of this name in that directory, which is already written.
    Link(Arc<Dir>, Box<[u8]>),
}

impl Special {
    /// As a manifest lists it.
    pub(crate) fn listed(&self) -> Listed {
        match self {
            Special::Symlink(target) => Listed::Symlink(target.clone()),
            Special::Fifo => Listed::Fifo,
            Special::Link(dir, name) => Listed::Link(dir.child_path(name).into()),
        }
    }
}

/// Where a file's data is.
#[derive(Debug)]
pub(crate) enum Data {
    /// A file of its own.
    Whole,
    /// The same, with holes.
    WithHoles,
    /// In the archive, from this byte on.
    At(u64),
    /// In a slab.
    Slab(Piece),
}

impl Job {
    /// Whether it writes a file.
    pub(crate) fn has_data(&self) -> bool {
        matches!(self, Job::File(..) | Job::Large(_) | Job::Chunk(..))
    }

    /// Where it belongs in the schedule.
    fn place(&self) -> Slot {
        match self {
            Job::Finish(_) => Slot::Free,
            Job::Large(large) => Slot::File { parent: large.file.dir.number(), own: large.number },
            Job::Chunk(large, _) => Slot::Part(large.number),
            Job::Directory(dir) => match dir.parent() {
                Some(parent) => Slot::Directory { parent: parent.number(), own: dir.number() },
                None => Slot::Free,
            },
            Job::File(file, _) => Slot::In(file.dir.number()),
            Job::Special(entry, _) => Slot::In(entry.dir.number()),
        }
    }
}

/// An entry without data.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it goes.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// What it carries.
    pub meta: Meta,
    /// The memory that this takes, where it counts: given back with it.
    pub _charge: Option<Charge>,
}

/// A part of a large file.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// So many bytes at this offset of the file.
    Copy {
        /// In bytes from the file's start.
        offset: u64,
        /// In bytes.
        length: u64,
        /// Where they are in the source: in bytes from the start of its file or of the archive.
        from: u64,
    },
    /// This piece goes to this offset.
    Write {
        /// In bytes from the file's start.
        offset: u64,
        /// The data.
        piece: Piece,
    },
    /// All others were handed out. Has the digest of all data where a reader has taken it; without it every other
    /// one was a block.
    Last(Option<DataDigest>),
}

/// A file that several writers write at once.
#[derive(Debug)]
pub(crate) struct LargeFile {
    /// What it is.
    pub file: FileJob,
    /// Its own number in the schedule.
    pub number: Number,
    /// Whether its data is in a file of its own in the source.
    pub has_source: bool,
    /// Chunks that are not written; the last one finishes the file.
    pub pending: AtomicU64,
    /// What it is written through, once it is created.
    pub opened: Mutex<Option<Opened>>,
    /// Digests of its blocks that are copied, by their number.
    pub blocks: Mutex<Vec<(u64, DataDigest)>>,
    /// The digest of all of it, where a reader has taken it.
    pub whole: OnceLock<DataDigest>,
}

/// A large file on the volume.
#[derive(Debug, Clone)]
pub(crate) enum Opened {
    /// An earlier run finished it; the source's file, where it has one of its own.
    Reused(Option<Arc<OwnedFd>>),
    /// To be written.
    Open(Arc<Handles>),
}

/// What a large file is read from and written to.
#[derive(Debug)]
pub(crate) struct Handles {
    /// The source's file, where it has one of its own.
    pub source: Option<OwnedFd>,
    /// The file itself.
    pub target: Target,
}

/// A file that was created and is not finished.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// What it was born with.
    pub birth: InitialAttrs,
    /// The mode that it may have, by its owner.
    pub mode: u32,
    /// The source's, where it is a directory.
    pub xattrs: Option<Box<Xattrs>>,
    /// When its data may still be lost after it was written.
    pub flush: Flush,
}

impl LargeFile {
    /// A file of which chunks will come, and [`Chunk::Last`] last; `number` is its own in the
    /// schedule.
    pub(crate) fn new(file: FileJob, number: Number, has_source: bool) -> Arc<LargeFile> {
        let pending = AtomicU64::new(1);
        let (opened, blocks, whole) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Arc::new(LargeFile { file, number, has_source, pending, opened, blocks, whole })
    }

    /// The digest of its data, once all chunks are written.
    pub(crate) fn digest(&self) -> DataDigest {
        self.whole.get().copied().unwrap_or_else(|| {
            let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            blocks.sort_unstable_by_key(|(block, _)| *block);
            DataDigest::of_blocks(self.file.size, &blocks)
        })
    }

    /// One more chunk will come.
    pub(crate) fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }
}
