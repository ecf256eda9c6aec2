//! The one owner of signal dispositions.
//!
//! As PID 1 a process without a handler does not even notice SIGTERM (signal(7), "the init
//! process"), so handlers are installed on the first line of `main`. They note the signal and wake
//! the waiting thread; what it means is decided elsewhere. The app gets back what we were started with.

pub(crate) mod inherited;
pub(crate) mod kernel;
pub(crate) mod names;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGWINCH};
use signal_hook::low_level;

use crate::error::{Context, Result};
use crate::exit::Exit;
use kernel::{ALL, Disposition, Received, Set};
use rustix::net::SendFlags;

/// The signals that ask volseed to end, by whatever they are sent: those that images name as STOPSIGNAL are among them
/// (haproxy's SIGUSR1, and 37 of systemd, SIGRTMIN+3).
const ENDING: [i32; 6] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, 37];
/// Apache's. One that a process sends; the kernel's says that the terminal has another size.
const WINCH: u8 = SIGWINCH as u8;
/// What must keep its meaning while we seed: errors of our own, a child's end, being continued.
const KEPT: [i32; 10] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
    SIGCHLD,
    libc::SIGCONT,
    libc::SIGPIPE,
];

/// The handlers, installed.
#[derive(Debug)]
pub(crate) struct Signals {
    received: Arc<AtomicUsize>,
    wake: UnixStream,
}

impl Signals {
    /// Installs the handlers. What ends volseed and was ignored when it started stays ignored: that is
    /// how `nohup` works.
    ///
    /// # Errors
    /// Exit 71 when the system refuses.
    pub(crate) fn install() -> Result<Signals> {
        let received = Arc::new(AtomicUsize::new(0));
        let install = || -> io::Result<UnixStream> {
            let (wake, handlers) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            // One for all of them: a container may allow few open files.
            let handlers = Arc::new(handlers);
            let waker = || {
                let handlers = Arc::clone(&handlers);
                move || {
                    let _ = rustix::net::send(&handlers, b"w", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                }
            };
            let noter = |signal: u8| {
                let (received, wake) = (Arc::clone(&received), waker());
                move || {
                    // In this order: who is woken finds the number.
                    received.store(signal.into(), Ordering::SeqCst);
                    wake();
                }
            };
            // SAFETY: each stores an atomic and makes a system call, which signal-safety(7) allows.
            unsafe {
                for signal in ending().iter() {
                    low_level::register(signal.into(), noter(signal))?;
                }
                if !inherited::ignored().has(WINCH) {
                    let note = noter(WINCH);
                    let note_a_process_s = move |info: &libc::siginfo_t| {
                        if info.si_code <= 0 {
                            note();
                        }
                    };
                    signal_hook_registry::register_sigaction(SIGWINCH, note_a_process_s)?;
                }
                low_level::register(SIGCHLD, waker())?;
            }
            Ok(wake)
        };
        let wake =
            install().context("install", "signal handlers").map_err(|error| error.exit(Exit::System))?;
        Ok(Signals { received, wake })
    }

    /// The signal that came last, if any did.
    pub(crate) fn received(&self) -> Option<u8> {
        u8::try_from(self.received.load(Ordering::SeqCst)).ok().filter(|signal| *signal > 0)
    }

    /// A stream that becomes readable when a signal comes or a child ends.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(crate) fn waker(&self) -> io::Result<UnixStream> {
        self.wake.try_clone()
    }
}

/// What ends volseed.
fn ending() -> Set {
    set(&ENDING).without(inherited::ignored())
}

fn set(signals: &[i32]) -> Set {
    Set::of(signals.iter().filter_map(|signal| u8::try_from(*signal).ok()))
}

/// Whether a signal ends a volseed that seeds, where a process sends it.
pub(crate) fn ends_a_seed(signal: u8) -> bool {
    signal == WINCH || set(&ENDING).has(signal)
}

/// Ignores the signals that are meant for the app while there is none yet: `docker kill -s USR2` must
/// not end a seed, nor Ctrl-Z stop it where nobody could continue it. As PID 1 the kernel sees to that.
/// To be called before there are threads: what a C library needs for them it installs later.
pub(crate) fn ignore_app_signals() {
    for signal in ALL.without(set(&ENDING)).without(set(&KEPT)).without(Set::of([WINCH])).iter() {
        kernel::dispose(signal, Disposition::Ignore);
    }
}

/// Reaps every child of this thread that has ended. As PID 1 we are given orphans; without a wait they stay zombies. They
/// become the main thread's (Linux `kernel/exit.c`, `find_new_reaper`); who starts a program on another thread waits for it
/// there (waitpid(2), `__WNOTHREAD`).
pub(crate) fn reap() {
    use nix::errno::Errno;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WNOTHREAD;
    loop {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Keeps signals away from threads that are started while the returned guard lives, so that only the
/// main thread's calls are interrupted.
pub(crate) fn blocked() -> Blocked {
    let mut before = SigSet::empty();
    // Cannot fail with a valid `how` (pthread_sigmask(3)).
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    Blocked { before }
}

/// See [`blocked`].
pub(crate) struct Blocked {
    before: SigSet,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Gives the app the mask and the dispositions that we were started with. A signal that came before is
/// returned instead, and must end us. To be called last before `exec`, with no other thread left.
pub(crate) fn restore_for_exec(signals: &Signals) -> Option<u8> {
    // Blocked until all is reset: what comes meanwhile is pending and found below.
    let before = kernel::replace_mask(ALL);
    reap();
    let came = signals.received();
    if came.is_none() {
        // A pending SIGWINCH would be gone with its handler, which ends with `exec` anyway.
        give_back(ALL.without(Set::of([WINCH])));
    }
    // PID 1 would lose what is pending once it is unblocked.
    let pending = kernel::pending();
    let came = came.or_else(|| ending().iter().find(|signal| pending.has(*signal))).or_else(pending_winch);
    kernel::replace_mask(if came.is_none() { inherited::mask() } else { before });
    came
}

fn give_back(signals: Set) {
    for signal in signals.iter() {
        let is_ignored = inherited::ignored().has(signal);
        kernel::dispose(signal, if is_ignored { Disposition::Ignore } else { Disposition::Default });
    }
}

/// Gives a child that will execute another program the mask and the dispositions that we were started with. Allocates
/// nothing.
pub(crate) fn give_back_to_a_child() {
    give_back(ALL);
    kernel::replace_mask(inherited::mask());
}

/// A SIGWINCH that a process sent and that is pending. One of the kernel's is taken away: the app asks for the
/// terminal's size when it starts.
fn pending_winch() -> Option<u8> {
    let is_wanted = !inherited::ignored().has(WINCH) && kernel::pending().has(WINCH);
    let taken = is_wanted.then(|| kernel::wait(Set::of([WINCH]), Some(Instant::now()))).flatten();
    taken.filter(|received: &Received| received.by_process).map(|received| received.signal)
}

/// Sets every signal to its default but SIGPIPE, which is ignored, and unblocks all.
pub(crate) fn reset_to_default() {
    for signal in ALL.iter() {
        kernel::dispose(signal, Disposition::Default);
    }
    ignore_sigpipe();
    kernel::replace_mask(Set::default());
}

/// For what is written after an `exec` that failed: standard error may have no reader any more.
pub(crate) fn ignore_sigpipe() {
    kernel::dispose(libc::SIGPIPE as u8, Disposition::Ignore);
}
