//! How many writers, at what pace, and how many open directories: by the kind of the file system, and
//! within what the container may use.

use super::schedule::Pace;
use crate::cli::values::Workers;
use crate::system::limits;
use crate::system::limits::{FileBudget, Limits};
use crate::system::nfs::slots::session_slots;
use crate::volume::{FileSystem, Storage};

/// The least on NFS, however few slots its session has: a client of version 3 has none and sends
/// more. Processors play no part: a writer mostly waits.
const MIN_NFS_WRITERS: usize = 32;
/// On other network file systems: what a Linux NFS client has in flight for one mount by default.
const NETWORK: usize = 64;
/// On a file system whose place is not known, FUSE above all: it may be a network's, and a daemon on
/// this machine seldom answers more at once.
const UNKNOWN: usize = 32;
/// On a local file system. Two processors are as busy with 2 as with 32, and a cold source's disk is not: 10,492 files
/// took 0.57 s with 2, 0.38 with 4, 0.29 with 8, 0.25 with 16 and as much with 32.
const LOCAL: usize = 16;
/// What a writer needs besides its buffer, in bytes: the touched part of its stack, and the kernel's.
const OVERHEAD: u64 = 64 << 10;

/// How a seed is worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parallelism {
    /// Threads that write.
    pub writers: usize,
    /// How many entries of one directory they work on at once.
    pub pace: Pace,
    /// The most bytes that one call reads or writes.
    pub call: u64,
    /// Whether it pays to create as the owner: it saves a round trip, and costs four calls that are
    /// dearer than a change of owner in memory.
    pub as_owner: bool,
    /// Whether files are written past the page cache (`O_DIRECT`), which on NFS takes any size and
    /// address (Linux `fs/nfs/direct.c`). It saves a copy and the container's memory, and leaves no
    /// page to wait for, a wait that not even SIGKILL ends while a server is gone.
    pub direct: bool,
    /// Whether a file is created only where nothing is (`O_EXCL`): to an NFS server that is a call more.
    pub exclusive: bool,
    /// When a file's data may still be lost after it was written.
    pub flush: Flush,
    /// The most descriptors of directories that are kept, for each of their uses.
    pub open_directories: usize,
}

/// Which call is the last that can report that a file's data was lost: only after it the file gets the time
/// that says that it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// None but a sync of everything.
    Sync,
    /// `close`, and a second descriptor of the file still reaches it after that (close(2); nfs(5),
    /// "close-to-open"). By its name it would have to be looked up again.
    Close,
    /// `close`, where another descriptor would be one more for the daemon to flush (FUSE).
    OnlyClose,
}

/// The crew for a file system of this kind. Says so where a limit of the container leaves fewer than
/// the kind asks for; a number that was requested is kept. Directories are kept open for so many uses:
/// the stage, and what is copied or taken from.
pub(crate) fn crew(requested: Workers, kind: FileSystem, uses: u64) -> Parallelism {
    let limits = Limits::read();
    let remote = matches!(kind.place, Storage::Network | Storage::Unknown);
    let auto = match kind.place {
        Storage::Memory | Storage::Local => LOCAL,
        Storage::Network if kind.name == "nfs" => session_slots().max(MIN_NFS_WRITERS),
        Storage::Network => NETWORK,
        Storage::Unknown => UNKNOWN,
    };
    let writers = match requested {
        Workers::Count(count) => count,
        Workers::Auto => {
            let (writers, bound) = limits::bound(auto, &limits, OVERHEAD);
            if let Some(bound) = bound {
                tracing::warn!(writers, "fewer writers: {bound}");
            }
            writers
        }
    };
    Parallelism {
        writers,
        pace: if remote { REMOTE_PACE } else { LOCAL_PACE },
        call: if remote { REMOTE_CALL } else { LOCAL_CALL },
        as_owner: remote,
        direct: kind.name == "nfs",
        exclusive: kind.name != "nfs",
        flush: match kind.place {
            Storage::Memory | Storage::Local => Flush::Sync,
            Storage::Network => Flush::Close,
            Storage::Unknown => Flush::OnlyClose,
        },
        open_directories: FileBudget::of(limits.open_files).directories(writers, uses),
    }
}

/// Where every call is a round trip, a directory is given back after each creation. The first one goes
/// alone: an NFS client asks the server with it what its user may do in there (`ACCESS`), and two
/// would both ask. Later a second one waits for the lock, so that it is not idle between two; a third
/// would only keep a writer from other work.
const REMOTE_PACE: Pace = Pace { entries_a_turn: 1, first_turns: 1, turns_a_directory: 2 };
/// Where a creation takes microseconds, a turn of the queue must not take longer.
const LOCAL_PACE: Pace = Pace { entries_a_turn: 16, first_turns: usize::MAX, turns_a_directory: usize::MAX };
/// As much as an NFS client sends in one request (nfs(5), `wsize`), so that most files are one.
const REMOTE_CALL: u64 = 1 << 20;
/// Stays in the second-level cache between the read and the write.
const LOCAL_CALL: u64 = 256 << 10;
