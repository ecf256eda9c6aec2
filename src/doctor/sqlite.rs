//! Which journal modes of SQLite are safe on the volume.
//!
//! Measured on NFS with 120 commits of two processes: rollback journals lost none over NFSv4.1, nor over NFSv3 with
//! locks; without shared locks (`nolock`, `local_lock`) 14 to 60 were lost, half of the times without an error and with
//! a clean integrity check. A WAL's index is a mapped file, which no NFS keeps the same on two machines
//! (sqlite.org/wal.html).

use super::finding::{Fact, Finding};
use super::locks::Locks;
use super::met::Met;
use super::pace::Pace;
use crate::volume::Storage;

/// It.
pub(super) fn finding(locks: &Locks, pace: &Pace, met: Option<&Met>) -> Finding {
    let kind = pace.kind;
    let is_local = matches!(kind.place, Storage::Local | Storage::Memory);
    let met_elsewhere = met.filter(|met| met.is_elsewhere());
    let are_shared = match (met_elsewhere, is_local) {
        (Some(met), _) => Some(met.shares_posix_locks()),
        (None, true) => Some(locks.are_seen_here()),
        (None, false) if kind.name == "nfs" => Some(locks.are_seen_here() && locks.reach_the_server(pace)),
        (None, false) => None,
    };
    let finding = match are_shared {
        Some(true) if is_local => Finding::ok("sqlite", "every journal mode is safe, on this machine"),
        Some(true) => Finding::warn("sqlite", "rollback journals are safe, WAL is not")
            .then("use journal_mode=DELETE or TRUNCATE; WAL only while a single machine has the volume"),
        Some(false) => Finding::warn("sqlite", "not safe: locks are not shared").then(
            "use one machine, or a mount with shared locks (NFSv4.1): commits are lost without an error",
        ),
        None => Finding::warn("sqlite", "whether locks are shared between machines is not known")
            .then("find out with volseed doctor --peer on two machines; WAL is for one machine only"),
    };
    let wal = are_shared.filter(|_| is_local);
    finding.fact("rollback", Fact::Bool(are_shared)).fact("wal", Fact::Bool(wal))
}
