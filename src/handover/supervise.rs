//! Staying as the container's init beside the app.
//!
//! Two processes from the start: the supervisor, and the child that seeds and then becomes the app by
//! the same `exec` as without a supervisor. The supervisor executes volseed again ([`watch`]), so that
//! nothing of the command line, the runtime or the allocator's past stays in its memory, and then does
//! nothing but wait for signals: all are blocked, and `rt_sigtimedwait` takes them one by one, so none
//! is lost and nothing is polled.

pub(crate) mod descendants;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod terminal;
pub(crate) mod watch;

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::prctl::{set_child_subreaper, set_name, set_pdeathsig};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_raw, execv, fork, getpid, getppid, setpgid};

use super::identity;
use super::sockets::aside;
use crate::cli::{LogArgs, SuperviseArgs};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::system::signals;
use crate::system::signals::kernel;
use crate::system::signals::kernel::ALL;
use crate::system::users::Identity;
pub(crate) use plan::Plan;
pub(crate) use watch::watch;

/// Where the supervisor finds its end of the lifeline.
const LIFELINE: i32 = 3;
/// The numbers of descriptors that may be open where neither the kernel nor /proc helps to close them: volseed has
/// opened fewer, and the app was handed no higher ones as a rule.
const MAX_FILES: i32 = 4096;
/// What the reader can do where there may be no further process.
const NO_PROCESS: &str = "is the limit of processes reached (--pids-limit)?";
/// What the child writes before it executes the app, and after that failed.
const STARTS: u8 = b'+';
const FAILED: u8 = b'-';

/// The child's end of a pipe that tells the supervisor whether a code is the app's or ours.
#[derive(Debug)]
pub(crate) struct Lifeline {
    pipe: OwnedFd,
    /// Who has the other end.
    supervisor: Pid,
}

impl Lifeline {
    /// The app is executed now.
    pub(crate) fn app_starts(&self) {
        self.tell(STARTS);
    }

    /// It was not.
    pub(crate) fn app_failed(&self) {
        self.tell(FAILED);
    }

    fn tell(&self, byte: u8) {
        // Two bytes always have room in a pipe; without a supervisor nobody needs to know.
        let _ = rustix::io::write(&self.pipe, &[byte]);
    }
}

/// Who this process is from here on.
#[derive(Debug)]
pub(crate) enum Role {
    /// The child, which seeds and becomes the app.
    App(Lifeline),
    /// The supervisor, and everything is over.
    Over(Exit),
}

/// Makes two processes of this one. To be called before there is a second thread. In the parent this
/// returns only where volseed could not be executed again, when the app has ended.
///
/// # Errors
/// Exit 71 when there may be no further process.
pub(crate) fn split(config: &SuperviseArgs, command: &[OsString], log: LogArgs) -> Result<Role> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK);
    let (theirs, ours) = pipe.context("create", "pipe").map_err(|error| error.exit(Exit::System))?;
    let before = kernel::replace_mask(ALL);
    let supervisor = getpid();
    if supervisor != Pid::from_raw(1) {
        // Orphans then come to us and not to the machine's init. Older than all kernels we know (3.4).
        let _ = set_child_subreaper(true);
    }
    let terminal = terminal::is_ours();
    // SAFETY: there is no second thread whose locks the child could find held.
    let forked = unsafe { fork() };
    match forked.context("start", "the app's process") {
        Err(error) => {
            kernel::replace_mask(before);
            Err(error.exit(Exit::System).help(NO_PROCESS))
        }
        Ok(ForkResult::Child) => {
            // In the parent, too: the first of them does it.
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            if terminal {
                terminal::give_to(getpid());
            }
            signals::ignore_app_signals();
            kernel::replace_mask(before);
            Ok(Role::App(Lifeline { pipe: aside(ours), supervisor }))
        }
        Ok(ForkResult::Parent { child }) => {
            let _ = setpgid(child, child);
            drop(ours);
            let (child, config, command) = (child.as_raw(), config.clone(), command.to_owned());
            let plan = Plan { child, config, terminal, log, command };
            Ok(Role::Over(watch_anew(&plan, theirs)))
        }
    }
}

/// Starts a process that lives beside the app, as a child of the supervisor's: the app must not find a
/// child that it has not started. It ends with the supervisor, which asks everyone who is left. Nothing is
/// open to it but standard error and what is `kept`, and it is the app's user: what answers strangers has
/// no business being root. To be called without a second thread.
///
/// # Errors
/// Exit 71 when there may be no further process.
pub(crate) fn beside(
    lifeline: &Lifeline,
    kept: &[RawFd],
    user: Option<&Identity>,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = kernel::replace_mask(ALL);
    // SAFETY: there is no second thread whose locks a child could find held.
    let ended = match unsafe { fork() }.context("start", "process for --admin") {
        Ok(ForkResult::Child) => live_beside(lifeline, kept, user, work),
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            _ => Err(Error::new(Exit::System, "start", "no further process").on("process for --admin")),
        },
        Err(error) => Err(error),
    };
    kernel::replace_mask(before);
    ended.map_err(|error| error.exit(Exit::System).help(NO_PROCESS))
}

/// Leaves the work to a child of its own, which the supervisor is given once this process is gone.
fn live_beside(
    lifeline: &Lifeline,
    kept: &[RawFd],
    user: Option<&Identity>,
    work: impl FnOnce() -> Result<()>,
) -> ! {
    let between = getpid();
    // SAFETY: there is no second thread whose locks a child could find held.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {}
        Ok(ForkResult::Parent { .. }) => leave(0),
        Err(_) => leave(1),
    }
    // A parent's death counts from then on.
    while getppid() == between {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // Before asking to end with the supervisor, which a change of the user would undo (prctl(2)).
    if user.is_some_and(|user| identity::assume(user).is_err()) {
        // The app's own start fails for the same reason, and says so.
        leave(1);
    }
    let _ = set_pdeathsig(Some(nix::sys::signal::Signal::SIGKILL));
    if getppid() != lifeline.supervisor {
        // It had ended before.
        leave(1);
    }
    let _ = set_name(c"volseed-admin");
    // Not in the app's group, nor in its terminal's.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let _ = std::env::set_current_dir("/");
    signals::reset_to_default();
    forget_standard_files();
    close_all_but(|file| file <= 2 || kept.contains(&file));
    leave(u8::from(work().is_err()))
}

fn leave(code: u8) -> ! {
    // SAFETY: ends this process without what its parent has registered to be done at its own end.
    unsafe { libc::_exit(code.into()) }
}

/// Executes volseed as a supervisor. All signals stay blocked on the way.
fn watch_anew(plan: &Plan, lifeline: OwnedFd) -> Exit {
    if lifeline.as_raw_fd() == LIFELINE {
        let _ = rustix::io::fcntl_setfd(&lifeline, rustix::io::FdFlags::empty());
    } else {
        // SAFETY: whatever has that number in this process is not needed any more: what runs from here
        // on is `execv`, or `watch`, which knows of no other file.
        let _ = unsafe { dup2_raw(&lifeline, LIFELINE) }.map(std::mem::forget);
    }
    std::mem::forget(lifeline);
    close_above(LIFELINE);
    let Err(_) = execv(c"/proc/self/exe", &plan.arguments());
    // No /proc, or no room for it: then in this image, which is larger.
    watch::watch_here(plan)
}

/// Closes what the app was handed and the supervisor has no use for.
fn close_above(last: i32) {
    let (first, all, no_flags) = (last + 1, u32::MAX, 0);
    // SAFETY: nothing with such a number is used any more, see above.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, all, no_flags) };
    if closed != 0 {
        // Older than Linux 5.9, or refused by a seccomp profile that does not know it.
        close_all_but(|file| file <= last);
    }
}

/// Closes every descriptor that is not to be kept.
fn close_all_but(kept: impl Fn(i32) -> bool) {
    let open = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (0..MAX_FILES).collect::<Vec<i32>>(),
    };
    for file in open.into_iter().filter(|file| !kept(*file)) {
        // SAFETY: nothing in this process uses it any more.
        unsafe { libc::close(file) };
    }
}

/// Standard input and output are the app's: a reader at their other end must see when it has ended.
fn forget_standard_files() {
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
    match null {
        Ok(null) => {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
        }
        Err(_) => {
            for file in [0, 1] {
                // SAFETY: nothing is read from or written to them in this process.
                unsafe { libc::close(file) };
            }
        }
    }
}
