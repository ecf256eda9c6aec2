//! Starts a program as PID 1 of a PID namespace with mounts of its own, as a container runtime does.
//!
//! Between the clone and the exec, the child only makes system calls with what was prepared before: the other threads
//! of this process do not exist there, and whatever lock they held is held for ever.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_char, c_long};
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::filter::Filter;

/// What a pipe holds at most.
const PIPE_BYTES: usize = 1 << 20;

/// A program to start.
#[derive(Default)]
pub(crate) struct Launch {
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// What it reads from standard input.
    pub(crate) input: Vec<u8>,
    /// Another user than root.
    pub(crate) user: Option<u32>,
    /// Directories that are mounted on others.
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
}

/// A program that was started.
pub(crate) struct Started {
    /// Its PID here. Inside, it is 1.
    pub(crate) pid: Pid,
    /// It waits for a byte before it does anything.
    go: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Started {
    /// Lets it begin.
    pub(crate) fn go(&self) {
        rustix::io::write(&self.go, b"x").unwrap();
    }

    /// What it wrote; it has ended, with all that it started.
    pub(crate) fn output(self) -> (String, String) {
        (whole(self.stdout.as_fd()), whole(self.stderr.as_fd()))
    }
}

/// What is in the pipe.
fn whole(pipe: BorrowedFd) -> String {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(read @ 1..) = rustix::io::read(pipe, &mut chunk[..]) {
        bytes.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// All that the child needs.
struct Prepared {
    words: Vec<CString>,
    /// To `words`, and to `environment` below.
    pointers: Vec<*const c_char>,
    _environment: Vec<CString>,
    environment_pointers: Vec<*const c_char>,
    binds: Vec<(CString, CString)>,
    descriptors: [i32; 3],
    go: i32,
    user: Option<u32>,
}

impl Launch {
    /// Starts it; it waits for `go`.
    ///
    /// # Errors
    /// The machine has no room for another process.
    pub(crate) fn start(&self, filter: Option<&Filter>) -> io::Result<Started> {
        let (go_read, go) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdin, feed) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdout, stdout_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_write) = pipe_with(PipeFlags::CLOEXEC)?;
        if !self.input.is_empty() {
            fcntl_setpipe_size(&feed, PIPE_BYTES)?;
            assert_eq!(
                rustix::io::write(&feed, &self.input)?,
                self.input.len(),
                "the input fits into a pipe"
            );
        }
        drop(feed);
        let descriptors = [stdin.as_raw_fd(), stdout_write.as_raw_fd(), stderr_write.as_raw_fd()];
        let prepared = self.prepared(descriptors, go_read.as_raw_fd());
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;
        // SAFETY: as fork(2); the child makes only system calls, with memory that was prepared before.
        match unsafe { libc::syscall(libc::SYS_clone, c_long::from(flags), 0, 0, 0, 0) } {
            -1 => Err(io::Error::last_os_error()),
            0 => child(&prepared, filter),
            pid => Ok(Started { pid: Pid::from_raw(pid as i32), go, stdout, stderr }),
        }
    }

    fn prepared(&self, descriptors: [i32; 3], go: i32) -> Prepared {
        let text = |text: &OsStr| CString::new(text.as_bytes()).unwrap();
        let path = |path: &Path| text(path.as_os_str());
        let words: Vec<CString> = self.words.iter().map(|word| text(word.as_ref())).collect();
        let environment = vec![text("PATH=/usr/bin:/bin".as_ref()), text("HOME=/".as_ref())];
        let pointers = |texts: &[CString]| {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>()
        };
        Prepared {
            pointers: pointers(&words),
            words,
            environment_pointers: pointers(&environment),
            _environment: environment,
            binds: self.binds.iter().map(|(from, to)| (path(from), path(to))).collect(),
            descriptors,
            go,
            user: self.user,
        }
    }
}

/// The child, until it is the program.
fn child(prepared: &Prepared, filter: Option<&Filter>) -> ! {
    // SAFETY: only system calls, with pointers into `prepared`, which lives until the exec.
    unsafe {
        let mut byte = 0_u8;
        libc::read(prepared.go, (&raw mut byte).cast(), 1);
        libc::setsid();
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let failed = libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, ptr::null()) != 0
            || prepared.binds.iter().any(|(from, to)| {
                libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) != 0
            })
            || (0..3).any(|number| libc::dup2(prepared.descriptors[number as usize], number) != number)
            || filter.is_some_and(|filter| filter.install() != 0)
            || prepared.user.is_some_and(|user| !becomes(user));
        if failed {
            libc::_exit(125);
        }
        libc::execve(
            prepared.words[0].as_ptr(),
            prepared.pointers.as_ptr(),
            prepared.environment_pointers.as_ptr(),
        );
        libc::_exit(125)
    }
}

/// By the system calls alone: the C library would look for other threads.
fn becomes(user: u32) -> bool {
    // SAFETY: no pointer but one that may be null, as the list is empty.
    unsafe {
        libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) == 0
            && libc::syscall(libc::SYS_setgid, user) == 0
            && libc::syscall(libc::SYS_setuid, user) == 0
    }
}

/// Kills a program that was started, and with it all of its PID namespace.
///
/// # Errors
/// It is not there any more.
pub(crate) fn kill(pid: Pid) -> Result<(), Errno> {
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
}
