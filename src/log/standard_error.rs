//! Standard error, written without ever waiting for its reader.
//!
//! A pipe whose reader has stopped, or a terminal that is held with Ctrl-S, makes write(2) wait for as long as
//! that lasts: a seed, its probes and its end by SIGTERM would hang with it. `O_NONBLOCK` is no way out, since
//! the flag belongs to the open file, which the app shares. So each line is written through an open file of its own
//! (`/proc/self/fd/2`, proc(5)), and what does not fit is dropped. No descriptor is kept: the app, the supervisor and
//! what is beside it find none.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use rustix::net::{SendFlags, send};

/// What a pipe takes whole or not at all (pipe(7), `PIPE_BUF` on Linux).
const ATOMIC: usize = 4096;

/// Standard error, whatever it is by now.
#[derive(Debug, Clone, Copy)]
pub struct StandardError;

impl StandardError {
    /// Writes as much as is taken at once, and says how much that was.
    ///
    /// # Errors
    /// `EAGAIN` where nothing is taken; else as write(2).
    pub fn write_some(self, bytes: &[u8]) -> rustix::io::Result<usize> {
        let fd = std::io::stderr();
        let stat = fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => send(&fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            FileType::Fifo | FileType::CharacterDevice => match reopened() {
                Ok(own) => write_until_full(own.as_fd(), bytes),
                // Another user's, no /proc, or too many open files.
                Err(_) => write_if_ready(fd.as_fd(), bytes),
            },
            // A file takes what it is given.
            _ => retry_on_intr(|| rustix::io::write(&fd, bytes)),
        }
    }
}

impl io::Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.write_some(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for StandardError {
    fn as_raw_fd(&self) -> RawFd {
        std::io::stderr().as_raw_fd()
    }
}

fn reopened() -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    fs::open("/proc/self/fd/2", flags, Mode::empty())
}

fn write_until_full(own: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match retry_on_intr(|| rustix::io::write(own, &bytes[written..])) {
            Ok(count) => written += count,
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Without an open file of our own: the kernel is asked not to wait (preadv2(2), `RWF_NOWAIT`, which pipes know
/// since Linux 6.4), or whether there is room. Between that and the write another process may take it, which is
/// the one wait that is left.
fn write_if_ready(fd: BorrowedFd<'_>, bytes: &[u8]) -> rustix::io::Result<usize> {
    let piece = &bytes[..bytes.len().min(ATOMIC)];
    let now = [io::IoSlice::new(piece)];
    match retry_on_intr(|| rustix::io::pwritev2(fd, &now, u64::MAX, ReadWriteFlags::NOWAIT)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE | Errno::PERM) => {}
        written => return written,
    }
    let mut room = [PollFd::new(&fd, PollFlags::OUT)];
    match retry_on_intr(|| poll(&mut room, Some(&Timespec::default())))? {
        0 => Err(Errno::AGAIN),
        _ => retry_on_intr(|| rustix::io::write(fd, piece)),
    }
}
