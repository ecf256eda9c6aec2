//! Signals by the kernel's numbers and sets, below the C library.
//!
//! musl and glibc keep the first real-time signals to themselves: their sets leave out 32 and 33 (musl
//! 34 too), and their calls refuse them. An init has to pass on every signal, so it asks the kernel.

use std::io;
use std::time::{Duration, Instant};

use nix::libc;

/// The highest number (signal(7), `_NSIG`).
pub(crate) const LAST: u8 = 64;
/// Every signal.
pub(crate) const ALL: Set = Set(u64::MAX);

/// Bytes of the kernel's `sigset_t`.
const SET_BYTES: usize = 8;
/// Its `siginfo_t` in numbers of four bytes: the signal, an error, and a code that is not above 0 where a process
/// sent it (sigaction(2)).
const INFO_INTS: usize = 32;
const CODE: usize = 2;

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its number.
    pub signal: u8,
    /// Whether a process sent it: the kernel says by itself that a child has ended, or that a terminal has
    /// another size.
    pub by_process: bool,
}

/// A set of signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Set(pub u64);

impl Set {
    /// The signals with these numbers.
    pub(crate) fn of(signals: impl IntoIterator<Item = u8>) -> Set {
        Set(signals.into_iter().fold(0, |set, signal| set | bit(signal)))
    }

    /// Whether `signal` is one of them.
    pub(crate) fn has(self, signal: u8) -> bool {
        self.0 & bit(signal) != 0
    }

    /// Those that are not in `others`.
    pub(crate) fn without(self, others: Set) -> Set {
        Set(self.0 & !others.0)
    }

    /// Their numbers, ascending.
    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (1..=LAST).filter(move |signal| self.has(*signal))
    }
}

fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// What happens when a signal comes for which there is no handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// What signal(7) says.
    Default = libc::SIG_DFL as isize,
    /// Nothing.
    Ignore = libc::SIG_IGN as isize,
}

/// The kernel's `struct sigaction`: handler, flags, restorer, mask. Both architectures have all four.
type Action = [u64; 4];

/// Replaces the calling thread's mask and returns the one before.
pub(crate) fn replace_mask(mask: Set) -> Set {
    change_mask(&raw const mask.0)
}

/// The calling thread's mask.
pub(crate) fn mask() -> Set {
    change_mask(std::ptr::null())
}

/// `mask` is eight bytes, or null, and then nothing changes.
fn change_mask(mask: *const u64) -> Set {
    let mut before = 0u64;
    // SAFETY: both pointers are to eight bytes that live as long as the call, or null.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, mask, &raw mut before, SET_BYTES) };
    Set(before)
}

/// Those that have come and are blocked.
pub(crate) fn pending() -> Set {
    let mut set = 0u64;
    // SAFETY: the pointer is to eight bytes.
    unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut set, SET_BYTES) };
    Set(set)
}

/// Those that are ignored.
pub(crate) fn ignored() -> Set {
    let is_ignored = |signal: &u8| {
        let mut action: Action = [0; 4];
        let done = change_action(*signal, std::ptr::null(), &raw mut action);
        done == 0 && action[0] == libc::SIG_IGN as u64
    };
    Set::of((1..=LAST).filter(is_ignored))
}

/// Sets what happens when `signal` comes. SIGKILL and SIGSTOP stay as they are.
pub(crate) fn dispose(signal: u8, disposition: Disposition) {
    let action: Action = [disposition as u64, 0, 0, 0];
    change_action(signal, &raw const action, std::ptr::null_mut());
}

/// Each pointer is to a whole structure, or null; 0 where it was done.
fn change_action(signal: u8, new: *const Action, old: *mut Action) -> libc::c_long {
    let signal = libc::c_long::from(signal);
    // SAFETY: the structures live as long as the call, and none installs a handler. A C library's own handler
    // for its own signals is only replaced right before `exec`, without a second thread.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SET_BYTES) }
}

/// Takes the next blocked signal out of `set` that has come or comes by `deadline`; blocks until then.
pub(crate) fn wait(set: Set, deadline: Option<Instant>) -> Option<Received> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left: Duration| [left.as_secs(), u64::from(left.subsec_nanos())]);
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout.as_ptr());
        let mut info = [0i32; INFO_INTS];
        // SAFETY: the pointers are to eight bytes, to as many as the kernel's structure has, and to a
        // timespec of two 64-bit numbers or nothing.
        let signal = unsafe {
            libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set.0, info.as_mut_ptr(), timeout, SET_BYTES)
        };
        match u8::try_from(signal) {
            Ok(signal) => return Some(Received { signal, by_process: info[CODE] <= 0 }),
            Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return None,
            // EINTR: stopped and continued, or traced.
            Err(_) => {}
        }
    }
}

/// Sends a signal to a process, or to a process group where `to` is negative (kill(2)).
///
/// # Errors
/// `ESRCH` where there is none, `EPERM` where none may be signalled.
pub(crate) fn send(to: i32, signal: u8) -> io::Result<()> {
    // SAFETY: takes two numbers.
    match unsafe { libc::kill(to, i32::from(signal)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
