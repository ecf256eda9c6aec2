//! Standard error, written without ever waiting for its reader.
//!
//! A pipe whose reader has stopped, or a terminal that is held with Ctrl-S, makes write(2) wait for as long
//! as that lasts, and a seed, its probes and its end by SIGTERM with it. `O_NONBLOCK` is no way out: the flag
//! belongs to the open file, which the app shares. So the kernel is asked for each write not to wait, or the
//! write goes through an open file of its own (`/proc/self/fd/2`, proc(5)). What finds no room is dropped,
//! and the caller is told. No descriptor is kept: the app, the supervisor and `--admin` find none.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, Result, pwritev2, retry_on_intr, write};
use rustix::net::{SendFlags, send};

/// What a pipe with any room takes whole (pipe(7), `PIPE_BUF`).
const PIPE_PIECE: usize = 4096;
/// What a terminal with any room takes (Linux drivers/tty/n_tty.c, `n_tty_poll`); only a line's end may need two.
const TERMINAL_PIECE: usize = 1;

/// What this process knows of its standard error.
#[derive(Debug, Default)]
pub(super) struct StandardError {
    /// The end of a text of which only the beginning was taken.
    rest: Vec<u8>,
}

impl StandardError {
    /// Writes `text`, after what is left of the one before. Returns whether it was taken: whole, or its
    /// beginning, and then what is left is kept for later. Never blocks.
    pub(super) fn write(&mut self, text: &[u8]) -> bool {
        if !self.rest.is_empty() {
            let count = write_some(&self.rest);
            self.rest.drain(..count);
            if !self.rest.is_empty() {
                return false;
            }
        }
        let count = write_some(text);
        if count > 0 {
            self.rest.extend_from_slice(&text[count..]);
        }
        count > 0 || text.is_empty()
    }

    /// Whether only the beginning of the last text was taken.
    pub(super) fn is_torn(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// Writes as much as finds room, and returns how many bytes that were. Allocates nothing.
pub(super) fn write_some(text: &[u8]) -> usize {
    let standard_error = std::io::stderr();
    let file = standard_error.as_fd();
    let Ok(stat) = fs::fstat(file) else { return 0 };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => repeat(text, |rest| send(file, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)),
        FileType::Fifo => match write_now(file, text) {
            // Older than Linux 6.4, another kernel, or refused by a seccomp profile.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE | Errno::PERM) => {
                write_reopened(file, text, PIPE_PIECE)
            }
            Ok(count) => count + repeat(&text[count..], |rest| write_now(file, rest)),
            Err(_) => 0,
        },
        FileType::CharacterDevice => write_reopened(file, text, TERMINAL_PIECE),
        // A file takes what it is given, at the offset that all who have it share.
        _ => repeat(text, |rest| write(file, rest)),
    }
}

/// Until all is written or nothing more is taken.
fn repeat(text: &[u8], write: impl Fn(&[u8]) -> Result<usize>) -> usize {
    let mut written = 0;
    while written < text.len() {
        match retry_on_intr(|| write(&text[written..])) {
            Ok(0) | Err(_) => break,
            Ok(count) => written += count,
        }
    }
    written
}

/// preadv2(2), `RWF_NOWAIT`, at the end of what was written before.
fn write_now(file: BorrowedFd<'_>, text: &[u8]) -> Result<usize> {
    retry_on_intr(|| pwritev2(file, &[IoSlice::new(text)], u64::MAX, ReadWriteFlags::NOWAIT))
}

fn write_reopened(file: BorrowedFd<'_>, text: &[u8], piece: usize) -> usize {
    match reopen() {
        Ok(own) => repeat(text, |rest| write(&own, rest)),
        // No /proc, another user's pipe or terminal, or too many open files.
        Err(_) => repeat(text, |rest| write_if_ready(file, &rest[..rest.len().min(piece)])),
    }
}

fn reopen() -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    fs::open("/proc/self/fd/2", flags, Mode::empty())
}

/// A piece for which there is room by poll(2). Another process may take that room before the write: this is
/// the one wait that is left, where the kernel offers neither of the other ways.
fn write_if_ready(file: BorrowedFd<'_>, piece: &[u8]) -> Result<usize> {
    match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::OUT)], Some(&Timespec::default()))? {
        0 => Err(Errno::AGAIN),
        _ => write(file, piece),
    }
}
