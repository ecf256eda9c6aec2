//! The one owner of signal dispositions.
//!
//! As PID 1 a process without a handler does not even notice SIGTERM (signal(7), "the init
//! process"), so handlers are installed on the first line of `main`. They note the signal and wake
//! whoever waits; what it means is decided elsewhere. The app gets every default back.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::error::{Context, Result};
use crate::exit::Exit;

/// The signals that ask volseed to end.
const ENDING: [i32; 4] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP];

/// The handlers, installed.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    wake: UnixStream,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// Exit 71 when the system refuses.
    pub fn install() -> Result<Signals> {
        let received = Arc::new(AtomicUsize::new(0));
        let install = || -> io::Result<UnixStream> {
            let (wake, handlers) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            for signal in ENDING {
                // In this order: who is woken finds the number.
                signal_hook::flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
                signal_hook::low_level::pipe::register(signal, handlers.try_clone()?)?;
            }
            Ok(wake)
        };
        let wake =
            install().context("install", "signal handlers").map_err(|error| error.exit(Exit::System))?;
        Ok(Signals { received, wake })
    }

    /// The signal that came last, if any did.
    pub fn received(&self) -> Option<u8> {
        u8::try_from(self.received.load(Ordering::SeqCst)).ok().filter(|signal| *signal > 0)
    }

    /// A stream that becomes readable when a signal comes.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn waker(&self) -> io::Result<UnixStream> {
        self.wake.try_clone()
    }
}

/// Keeps signals away from threads that are started while the returned guard lives, so that only the
/// main thread's calls are interrupted.
pub fn blocked() -> Blocked {
    let mut before = SigSet::empty();
    // Cannot fail with a valid `how` (pthread_sigmask(3)).
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    Blocked { before }
}

/// See [`blocked`].
pub struct Blocked {
    before: SigSet,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Gives the app what a fresh process has: default dispositions and an empty mask. A signal that
/// came before is returned instead, and must end us. To be called last before `exec`, with no other
/// thread left.
pub fn reset(signals: &Signals) -> Option<u8> {
    // Blocked until all is reset: what comes meanwhile is pending and found below.
    let guard = blocked();
    if let Some(signal) = signals.received() {
        return Some(signal);
    }
    for signal in 1..=libc::SIGRTMAX() {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: installs no handler; for numbers that the C library keeps to itself it fails,
            // and nothing changes.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    if let Some(signal) = pending() {
        return Some(signal);
    }
    drop(guard);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    None
}

/// A signal of ours that is pending; PID 1 would lose it once it is unblocked.
fn pending() -> Option<u8> {
    // SAFETY: sigset_t is plain data, and sigpending(2) fills it.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigpending(&mut set);
        SigSet::from_sigset_t_unchecked(set)
    };
    let waits = |signal: &&i32| Signal::try_from(**signal).is_ok_and(|signal| set.contains(signal));
    ENDING.iter().find(waits).and_then(|signal| u8::try_from(*signal).ok())
}
