//! How many writers, and how many open directories.

use crate::options::Workers;
use crate::volume::{Kind, Place};

/// On a network file system: the requests that a Linux NFS client has in flight for one mount
/// (`max_session_slots`, 64 by default). More would only queue there.
const NETWORK: usize = 64;
/// On a file system whose place is not known, FUSE above all: it may be a network's, and a daemon on
/// this machine seldom answers more at once.
const UNKNOWN: usize = 32;
/// The least and the most on a local file system. Two for each processor: one may wait for the disk
/// that the source is read from, the journal or a directory's lock while the other works. Fewer than
/// four leave a cold source's disk idle; past sixteen they queue for the same journal.
const LOCAL: (usize, usize) = (4, 16);
/// The most directory descriptors that are kept open.
const MOST_OPEN_DIRECTORIES: usize = 4096;

/// The number of writers on a file system of this kind.
pub fn count(wished: Workers, kind: Kind) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match (wished, kind.place) {
        (Workers::Count(count), _) => count,
        (Workers::Auto, Place::Memory | Place::Local) => (2 * processors).clamp(LOCAL.0, LOCAL.1),
        (Workers::Auto, Place::Network) => NETWORK,
        (Workers::Auto, Place::Unknown) => UNKNOWN,
    }
}

/// A quarter of what this process may open: each writer needs two more, and the app's share is not
/// ours to use up.
pub fn most_open_directories() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 4).unwrap_or(usize::MAX).clamp(16, MOST_OPEN_DIRECTORIES)
}
