//! What kind of server and mount this is: fixed when it is mounted.

use std::time::Duration;

use fuser::Errno;

use crate::quirks::Quirks;

/// What kind of server and mount this is.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a round trip takes. Zero: answered at once.
    pub rtt: Duration,
    /// Round trips at a time, at least 1. 64 is what a Linux NFSv4.1 client asks its server for.
    pub slots: usize,
    /// Owner and group of the root directory.
    pub owner: (u32, u32),
    /// Permission bits of the root directory.
    pub mode: u32,
    /// Whom the server takes its callers for.
    pub squash: Squash,
    /// Whether `fcntl` locks are to be had.
    pub locks: Locks,
    /// Bytes of file data that there is room for.
    pub capacity: Option<u64>,
    /// How long the kernel may answer from what it was told before. As long as nobody but this mount
    /// changes anything, which a long time stands for, an NFS client asks as rarely.
    pub cached: Duration,
    /// Whether two names can change places (renameat2(2), `RENAME_EXCHANGE`), which no network protocol
    /// has and many file systems in user space do.
    pub exchange: bool,
    /// What the file system refuses or does in another way.
    pub quirks: Quirks,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            rtt: Duration::ZERO,
            slots: 64,
            owner: (0, 0),
            mode: 0o755,
            squash: Squash::None,
            locks: Locks::Shared,
            capacity: None,
            cached: Duration::from_secs(3600),
            exchange: false,
            quirks: Quirks::default(),
        }
    }
}

/// Whom the server takes its callers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// For who they are; root may do everything.
    None,
    /// Root for nobody (65534), as `root_squash` in exports(5).
    Root,
    /// Everybody for this user and group, as an access point of EFS does. Nobody is root then.
    All(u32, u32),
}

/// Whether `fcntl` locks are to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// Kept by the server, shared by all its mounts. Waiting for one (`F_SETLKW`) is refused with
    /// `ENOLCK` where it would have to wait.
    Shared,
    /// Kept by each mount's kernel: two mounts may hold the same one, as with NFS's `local_lock`.
    Local,
    /// Refused with this error. `ENOSYS` would make the kernel keep them itself.
    Refused(Errno),
}
