//! Another program, started and watched until it ends: a hook.
//!
//! Owns its process: the user, directory, environment and signals that it begins with, its output line by line, and its
//! end. Nothing of its process group outlives it. Knows nothing of what it is for.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, set_parent_process_death_signal, waitid,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::users::Identity;
use super::{limits, signals};

/// How long a program has after a stop signal: within the 10 s that a container's stop takes (docker stop).
pub(crate) const LAST_SECONDS: Duration = Duration::from_secs(8);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The longest line of its output that is said in one piece, in bytes.
const MAX_LINE: usize = 4096;

/// A program, and what it begins with.
pub(crate) struct Program<'a> {
    /// From the root of the file system.
    pub path: &'a Path,
    /// Its one argument.
    pub argument: &'a str,
    /// Variables that are set, or unset, beside ours.
    pub environment: Vec<(&'static str, Option<OsString>)>,
    /// Who it runs as, where that is not us.
    pub user: Option<&'a Identity>,
    /// Its working directory.
    pub directory: BorrowedFd<'a>,
}

/// What becomes of a program that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nothing.
    GoOn,
    /// It is asked to end, and has [`LAST_SECONDS`].
    Stop,
    /// It ends at once.
    Kill,
}

/// A program's process.
pub(crate) struct Running {
    child: Child,
    group: Pid,
    output: Output,
}

/// What it says.
struct Output {
    /// Nothing once everybody has closed that.
    pipe: Option<OwnedFd>,
    line: Vec<u8>,
}

impl Program<'_> {
    /// Starts it. Its input is empty, and its output goes to who watches it. To be watched by the thread that starts it:
    /// it is killed when that ends.
    ///
    /// # Errors
    /// When it cannot be executed, or may not become the user.
    pub(crate) fn start(&self) -> io::Result<Running> {
        let (pipe, said) = pipe_with(PipeFlags::CLOEXEC)?;
        // Without a writer: it reads the end of its input. `/dev/null` need not be there.
        let (input, _) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)?;
        let mut command = Command::new(self.path);
        command.arg(self.argument);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(user) = self.user {
            command.env("HOME", &user.home);
            // A program opens `/dev/stderr` by its name.
            let _ = rustix::fs::fchown(&said, Some(rustix::fs::Uid::from_raw(user.uid)), None);
        }
        command.stdin(input).stdout(said.try_clone()?).stderr(said).process_group(0);
        let begin = beginning(self.directory.as_raw_fd(), self.user);
        // SAFETY: it makes system calls and allocates nothing, as the child of a process with threads must.
        unsafe { command.pre_exec(begin) };
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        Ok(Running { child, group, output: Output { pipe: Some(pipe), line: Vec::new() } })
    }
}

impl Running {
    /// Blocks until it ends, and says how it did. `say` hears each line meanwhile, and `wish` is asked again and again
    /// what becomes of it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) fn watch(
        mut self,
        mut say: impl FnMut(&[u8]),
        mut wish: impl FnMut() -> Wish,
    ) -> io::Result<ExitStatus> {
        let mut killed_at = None;
        loop {
            self.output.read(LOOK, &mut say);
            let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(self.group), flags) {
                Ok(None) | Err(Errno::INTR) => {}
                Ok(Some(_)) => break,
                Err(error) => return Err(error.into()),
            }
            match wish() {
                Wish::GoOn => {}
                Wish::Kill => self.signal(Signal::KILL),
                Wish::Stop => match killed_at {
                    None => {
                        self.signal(Signal::TERM);
                        killed_at = Some(Instant::now() + LAST_SECONDS);
                    }
                    Some(at) if at <= Instant::now() => self.signal(Signal::KILL),
                    Some(_) => {}
                },
            }
        }
        // Before it is reaped: until then its group is nobody else's.
        self.signal(Signal::KILL);
        self.output.read(Duration::ZERO, &mut say);
        self.output.end_line(&mut say);
        self.child.wait()
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }
}

impl Output {
    /// Says what comes within this time, and all that has come by then.
    fn read(&mut self, time: Duration, say: &mut impl FnMut(&[u8])) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: time.as_nanos().try_into().unwrap_or(0) };
        let pipe = self.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let _ = poll(&mut pipe.into_iter().collect::<Vec<_>>(), Some(&timeout));
        let mut buffer = [0; 8192];
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe.as_fd(), &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.add(&buffer[..length], say),
                Err(Errno::INTR) => {}
                // Nothing more for now.
                Err(_) => return,
            }
        }
    }

    fn add(&mut self, bytes: &[u8], say: &mut impl FnMut(&[u8])) {
        for byte in bytes {
            if *byte == b'\n' || self.line.len() == MAX_LINE {
                self.end_line(say);
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self, say: &mut impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            say(self.line.trim_ascii_end());
            self.line.clear();
        }
    }
}

/// What the child does before it executes the program: it is in that directory, with the signals and the limit that we were
/// started with, as this user.
fn beginning(
    directory: i32,
    user: Option<&Identity>,
) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let ids = user.map(|user| {
        let groups: Vec<_> = user.groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect();
        (rustix::process::Uid::from_raw(user.uid), rustix::process::Gid::from_raw(user.gid), groups)
    });
    let is_ours = user.is_none_or(Identity::is_ours);
    move || {
        // SAFETY: the directory is open in the child, a copy of who has it open.
        rustix::process::fchdir(unsafe { BorrowedFd::borrow_raw(directory) })?;
        limits::lower_open_files();
        signals::give_back_to_a_child();
        if let Some((uid, gid, groups)) = ids.as_ref().filter(|_| !is_ours) {
            set_thread_groups(groups)?;
            set_thread_res_gid(*gid, *gid, *gid)?;
            set_thread_res_uid(*uid, *uid, *uid)?;
        }
        // After that, which would unset it (prctl(2), `PR_SET_PDEATHSIG`): it goes with the thread that watches it.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    }
}
