//! How many writers, and how many open directories.

use crate::options::Workers;
use crate::volume::{Kind, Place};

/// On a network file system: the requests that a Linux NFS client has in flight for one mount
/// (`max_session_slots`, 64 by default). More would only queue there.
const NETWORK: usize = 64;
/// On a file system whose place is not known, FUSE above all: it may be a network's, and a daemon on
/// this machine seldom answers more at once.
const UNKNOWN: usize = 32;
/// The most on a local file system: past it, writers queue for the same journal and the same
/// directories. Measured with `bench/local`.
const MOST_LOCAL: usize = 16;
/// The most directory descriptors that are kept open.
const MOST_OPEN_DIRECTORIES: usize = 4096;

/// The number of writers on a file system of this kind.
pub fn count(wished: Workers, kind: Kind) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match (wished, kind.place) {
        (Workers::Count(count), _) => count,
        // Nothing to wait for: one for each processor.
        (Workers::Auto, Place::Memory) => processors.min(MOST_LOCAL),
        // Some wait for the journal or the disk while the others go on.
        (Workers::Auto, Place::Local) => (2 * processors).min(MOST_LOCAL),
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
