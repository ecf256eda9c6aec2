//! Who seeds: exactly one replica at a time, and what follows when it dies, freezes or comes back stale.
//!
//! A lock alone is not safe: after a partition an NFS client may continue without it, and FUSE or SMB
//! mounts may grant it twice. So the lock and the heartbeat only tell *when to try* ([`rule`]); the
//! directory tree decides *who wins*, and stops a holder that came back late ([`claim`]). [`turn`] is the
//! protocol from the first look to the record. All of it is written against two small traits
//! ([`files`]): [`disk`] is the real volume, and the tests run thousands of schedules on a simulated one.

pub(crate) mod beat;
pub(crate) mod claiming;
pub(crate) mod cleanup;
pub(crate) mod disk;
pub(crate) mod expiry;
pub(crate) mod foreign;
pub(crate) mod gather;
pub(crate) mod heartbeat;
pub(crate) mod identity;
pub(crate) mod inspect;
pub(crate) mod io;
pub(crate) mod locking;
pub(crate) mod sealing;
pub(crate) mod store;
pub(crate) mod takeover;

pub(crate) use identity::Me;
