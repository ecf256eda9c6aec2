//! The lock: a hint for when to try, held by the kernel for as long as its holder lives.
//!
//! It lies on a file that is never unlinked and never holds data. It is polled: a waiter can be
//! stopped at any moment, and on NFS a blocking lock sleeps up to 30 s between two tries anyway.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{Mode, OFlags};

use crate::cancel::Cancel;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::state::StateDir;
use crate::volume;

const FILE: &str = "lock";

/// First pause between two tries. A small seed on a local disk is over in a few of them.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause between two tries: what a waiter may lose against one that is told at once.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The lock, held. Dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// How long a waiter waits and what can end it.
pub struct Patience<'a> {
    /// Longest wait; `None` for ever.
    pub timeout: Option<Duration>,
    /// Ends the wait at once.
    pub cancel: &'a Cancel,
}

/// What happened while the lock was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Another replica holds it.
    Began,
    /// It still does: the kernel keeps a lock only for a holder that lives.
    Goes,
    /// It was got after so long.
    Ended(Duration),
}

impl Lock {
    /// Waits for the lock. `told` hears when a wait begins and when it ends.
    ///
    /// # Errors
    /// Exit 75 after the timeout, 71 when the file system has no locks; [`Error::cancelled`].
    pub fn acquire(state: &StateDir, patience: &Patience<'_>, mut told: impl FnMut(Waiting)) -> Result<Lock> {
        let path = state.path().join(FILE);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let file = volume::openat(state.fd(), FILE.as_bytes(), flags, Mode::RUSR | Mode::WUSR)
            .context("open lock", path.as_path())?;
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            if patience.cancel.is_set() {
                return Err(Error::cancelled());
            }
            match try_lock(&file) {
                Ok(true) => {
                    if pause > FIRST_PAUSE {
                        told(Waiting::Ended(began.elapsed()));
                    }
                    return Ok(Lock { _file: file });
                }
                Ok(false) if pause == FIRST_PAUSE => told(Waiting::Began),
                Ok(false) => told(Waiting::Goes),
                Err(error) => {
                    return Err(Error::os("lock", path.as_path(), std::io::Error::from(error))
                        .exit(Exit::System)
                        .help("volseed needs a volume whose file system has locks (on NFS: no 'nolock')"));
                }
            }
            if patience.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Err(Error::new(
                    Exit::Held,
                    "wait for volume",
                    "another replica has held it for --wait-timeout",
                )
                .on(state.path().parent().unwrap_or(state.path()))
                .help("start again, or allow a longer --wait-timeout"));
            }
            patience.cancel.sleep(jitter(pause));
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }
}

fn try_lock(file: &OwnedFd) -> nix::Result<bool> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Between three quarters of `pause` and all of it, so that replicas that started together part.
fn jitter(pause: Duration) -> Duration {
    let noise = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    let share = f64::from((noise ^ std::process::id().wrapping_mul(0x9e37_79b9)) % 1000) / 1000.0;
    pause.mul_f64(0.75 + share / 4.0)
}
