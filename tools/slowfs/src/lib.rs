//! A file system in memory that behaves like a network volume far away, or like one that refuses half of
//! what Unix has, for tests and benches.
//!
//! It stands for both ends of an NFSv4.1 mount: what the client would send is charged one round trip
//! each, with so many under way at a time as there are slots, and what the client keeps to itself is
//! free. What it cannot see as an NFS client does, it takes as follows:
//!
//! - **Create** and **open** are one OPEN. **Close** is one CLOSE for each of them, at its first
//!   `close(2)` (FUSE's FLUSH); further ones, of descriptors that `dup` made, only send what was written
//!   since.
//! - **Written data** is taken at once and sent by what an NFS client sends it for: a close, an fsync,
//!   a change or a question of attributes. It goes in pieces of 1 MiB, all at once; then comes the
//!   operation itself. A full volume is told by the close. (A client adds one COMMIT to a file of
//!   several pieces; that is not charged.)
//! - **A lookup that finds nothing** is answered at once. FUSE asks before every creation; an NFS
//!   client creates without asking. Where the same thread creates, links or renames to that name next,
//!   the lookup is forgotten, else it counts as one round trip (which it did not take).
//! - **Directories** are read a mebibyte at a time, with attributes (READDIRPLUS); opening one is free.
//! - **Attributes and names** are cached for as long as [`Options::cached`] says. After a creation the
//!   kernel asks for its directory's attributes anew, on NFS as here.
//! - **Extended attributes** are unknown (`ENOSYS`), which the kernel asks about once. [`Quirks`] may keep
//!   or refuse them; a call of them is free in any case.
//! - **The kernel holds a directory's lock** while something in it is created, on FUSE as on NFS: two
//!   creations in one directory never overlap.
//! - **Permissions** are checked here, by the caller's fsuid and fsgid; nothing is known of further
//!   groups. An owner may write his own file whatever its mode says.
//!
//! [`Quirks`] make it a file system that cannot keep everything: one that ignores case, or has no links,
//! owners or times.
//!
//! See [`Mount`] for how to begin.

mod counts;
mod data;
mod faults;
mod filesystem;
mod locks;
mod mount;
mod node;
mod notices;
mod options;
mod quirks;
mod reply;
mod server;
mod tree;
mod wire;
mod xattrs;

pub use counts::{Counts, Op};
pub use faults::{Fault, Faults};
pub use fuser::Errno;
pub use mount::Mount;
pub use options::{Locks, Options, Squash};
pub use quirks::{Change, Quirks, Room, Xattrs};
