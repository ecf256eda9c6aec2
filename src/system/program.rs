//! Another program, started and watched until it ends: a hook.
//!
//! Owns its process: the user, directory, environment and signals that it begins with, its output line by line, and its
//! end. Nothing of its process group outlives it. Knows nothing of what it is for.

use std::ffi::{CString, OsString, c_char};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::{ForkResult, fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Gid, Pid, Signal, Uid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, fchdir, kill_process_group,
    set_parent_process_death_signal, setpgid, waitid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
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

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    fn of(status: WaitStatus) -> Ended {
        match status.exit_status() {
            Some(code) => Ended::Code(code),
            None => Ended::Signal(status.terminating_signal().unwrap_or(0)),
        }
    }
}

/// A program's process.
pub(crate) struct Running {
    /// It leads its process group.
    child: Pid,
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
        let (failed, failure) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)?;
        if let Some(user) = self.user {
            // A program opens `/dev/stderr` by its name.
            let _ = rustix::fs::fchown(&said, Some(Uid::from_raw(user.uid)), None);
        }
        let beginning = Beginning::of(self)?;
        // SAFETY: the child makes system calls and allocates nothing, as that of a process with threads must.
        let child = match unsafe { fork() }? {
            ForkResult::Child => {
                let error = beginning.begin(self.directory, &input, &said);
                let _ = rustix::io::write(&failure, &error.raw_os_error().to_ne_bytes());
                // SAFETY: ends this process, which shares nothing with its parent but descriptors.
                unsafe { libc::_exit(127) }
            }
            ForkResult::Parent { child } => Pid::from_raw(child.as_raw()).expect("a child has a number"),
        };
        drop(failure);
        let mut errno = [0; 4];
        if rustix::io::retry_on_intr(|| rustix::io::read(&failed, &mut errno))? == errno.len() {
            let _ = waitpid(child);
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)));
        }
        Ok(Running { child, output: Output { pipe: Some(pipe), line: Vec::new() } })
    }
}

/// All that the child needs, made before there is one.
struct Beginning {
    path: CString,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    user: Option<(Uid, Gid, Vec<Gid>)>,
    /// What the pointers are to.
    _texts: Vec<CString>,
}

impl Beginning {
    fn of(program: &Program<'_>) -> io::Result<Beginning> {
        let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let home = program.user.map(|user| ("HOME", Some(user.home.clone().into_os_string())));
        for (name, value) in program.environment.iter().cloned().chain(home) {
            variables.retain(|(known, _)| known != name);
            variables.extend(value.map(|value| (name.into(), value)));
        }
        let path = CString::new(program.path.as_os_str().as_bytes())?;
        let mut texts = vec![path.clone(), CString::new(program.argument)?];
        for (name, value) in variables {
            texts.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        let pointers = |texts: &[CString]| {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let user = program.user.filter(|user| !user.is_ours()).map(|user| {
            let groups = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
            (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
        });
        let (arguments, environment) = (pointers(&texts[..2]), pointers(&texts[2..]));
        Ok(Beginning { path, arguments, environment, user, _texts: texts })
    }

    /// Executes the program, or says why that failed: in that directory, with the signals and the limit that we were started
    /// with, as the user.
    fn begin(&self, directory: BorrowedFd<'_>, input: &OwnedFd, said: &OwnedFd) -> Errno {
        let begin = || -> rustix::io::Result<()> {
            setpgid(None, None)?;
            dup2_stdin(input)?;
            dup2_stdout(said)?;
            dup2_stderr(said)?;
            fchdir(directory)?;
            limits::lower_open_files();
            signals::give_back_to_a_child();
            if let Some((uid, gid, groups)) = &self.user {
                set_thread_groups(groups)?;
                set_thread_res_gid(*gid, *gid, *gid)?;
                set_thread_res_uid(*uid, *uid, *uid)?;
            }
            // After that, which would unset it (prctl(2), `PR_SET_PDEATHSIG`): it goes with the thread that watches it.
            set_parent_process_death_signal(Some(Signal::KILL))
        };
        if let Err(error) = begin() {
            return error;
        }
        // SAFETY: each is a list of strings that ends with a null pointer, and lives as long as `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        Errno::from_raw_os_error(nix::errno::Errno::last_raw())
    }
}

fn waitpid(child: Pid) -> io::Result<Option<WaitStatus>> {
    let waited = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()));
    Ok(waited?.map(|(_, status)| status))
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
    ) -> io::Result<Ended> {
        let mut killed_at = None;
        loop {
            self.output.read(LOOK, &mut say);
            let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(self.child), flags) {
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
        Ok(waitpid(self.child)?.map_or(Ended::Signal(0), Ended::of))
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.child, signal);
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
