//! A second process, for what one cannot find out alone: whether it sees the first one's locks, whether another user
//! may enter a private directory, whether a mapped page follows the file.
//!
//! It is volseed itself, with a command line that is not for people. Its standard input is the directory, so that it
//! depends on no path, and it answers in one line.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, dup2_stdin, dup2_stdout, execv, fork, setgid, setgroups, setuid,
};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::PipeFlags;

use super::directory::in_words;
use super::mapping::{LENGTH, Page};
use crate::cancel::Cancel;
use crate::claims::disk::try_lock;
use crate::claims::expiry::Lock;
use crate::exit::Exit;
use crate::volume::{openat, user};

/// The first word of its command line.
const WORD: &str = "doctor-helper";
/// How often it looks at a page that may change.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The files that are locked: by SQLite's kind of lock, and by volseed's.
pub(super) const POSIX_LOCK: &str = "posix-lock";
pub(super) const OFD_LOCK: &str = "ofd-lock";
/// The file that is mapped.
pub(super) const MAPPED: &str = "page";
/// How long a page may take to follow its file.
pub(super) const FOLLOWS: Duration = Duration::from_secs(2);

/// What it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether it gets the two locks.
    Locks,
    /// Whether it may enter the directory and make a file.
    Enter,
    /// Whether a file has what was written to its mapped page.
    Map,
    /// Whether a mapped page has what somebody writes to the file. It says `mapped` first.
    Watch,
}

impl Question {
    const ALL: [(Question, &'static str); 4] = [
        (Question::Locks, "locks"),
        (Question::Enter, "enter"),
        (Question::Map, "map"),
        (Question::Watch, "watch"),
    ];

    /// What a command line asks; nothing where it is another's.
    pub(crate) fn parse(args: &[OsString]) -> Option<Question> {
        let [_, word, question] = args else { return None };
        let (question, _) = Question::ALL.into_iter().find(|(_, name)| question == name)?;
        (word == WORD).then_some(question)
    }

    /// Starts a process that answers it, as another user where one is given. `at` is the directory.
    ///
    /// # Errors
    /// As `fork` and `pipe`.
    pub(super) fn start(self, at: BorrowedFd<'_>, other: Option<(u32, u32)>) -> Result<Asked> {
        let (_, name) = Question::ALL[self as usize];
        let words = ["volseed", WORD, name].map(|word| CString::new(word).unwrap_or_default());
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: until it executes, the child makes only system calls: all that it needs was made before.
        match unsafe { fork() }.map_err(in_rustix)? {
            ForkResult::Child => {
                let _ = execute(at, write.as_fd(), other, &words);
                // SAFETY: ends the child as it is: nothing of the parent's is run in it.
                unsafe { libc::_exit(1) }
            }
            ForkResult::Parent { child } => {
                drop(write);
                Ok(Asked { child, answers: BufReader::new(read.into()) })
            }
        }
    }

    /// Its answer; empty where it was killed, or could not be started.
    pub(super) fn ask(self, at: BorrowedFd<'_>, other: Option<(u32, u32)>) -> String {
        self.start(at, other).map(Asked::last).unwrap_or_default()
    }
}

/// Becomes the helper.
fn execute(
    at: BorrowedFd<'_>,
    answers: BorrowedFd<'_>,
    other: Option<(u32, u32)>,
    words: &[CString; 3],
) -> nix::Result<()> {
    dup2_stdin(at)?;
    dup2_stdout(answers)?;
    if let Some((uid, gid)) = other {
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    execv(c"/proc/self/exe", words).map(drop)
}

/// A helper at work.
pub(super) struct Asked {
    child: Pid,
    answers: BufReader<File>,
}

impl Asked {
    /// Its next line.
    pub(super) fn next(&mut self) -> String {
        let mut line = String::new();
        let _ = self.answers.read_line(&mut line);
        line.trim_end().to_owned()
    }

    /// Waits for its end; its last line.
    pub(super) fn last(mut self) -> String {
        let mut last = String::new();
        loop {
            match self.next() {
                line if line.is_empty() => break,
                line => last = line,
            }
        }
        let _ = waitpid(self.child, None);
        last
    }
}

fn in_rustix(error: nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// Answers a question, as the helper.
pub(crate) fn answer(question: Question) -> Exit {
    let stdin = io::stdin();
    let at = stdin.as_fd();
    let owner = user::stands_for_root(at);
    let answer = user::as_owner(owner, || match question {
        Question::Locks => {
            let told = [tried(try_posix(at)), tried(try_ofd(at))];
            Ok(told.join(" "))
        }
        Question::Enter => Ok(entered(at).map_or_else(in_short, |()| "entered".into())),
        Question::Map => map(at).map(|follows| if follows { "follows" } else { "differs" }.into()),
        Question::Watch => watch(at).map(|follows| if follows { "follows" } else { "differs" }.into()),
    });
    tell(&answer.unwrap_or_else(in_short))
}

fn tell(line: &str) -> Exit {
    match io::stdout().write_all(format!("{line}\n").as_bytes()) {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Io,
    }
}

fn in_short(error: Errno) -> String {
    format!("error {}", error.raw_os_error())
}

/// An error that a helper answered, in words.
pub(super) fn shown(answer: &str) -> String {
    let number = answer.strip_prefix("error ").and_then(|number| number.parse().ok());
    number.map_or_else(|| answer.to_owned(), |number| in_words(Errno::from_raw_os_error(number)))
}

fn tried(lock: Result<Lock>) -> String {
    match lock {
        Ok(Lock::Ours) => "granted".into(),
        Ok(Lock::Theirs) => "refused".into(),
        Ok(Lock::Unknown) => "unknown".into(),
        Err(error) => format!("error-{}", error.raw_os_error()),
    }
}

/// A file that is to be locked, made where it is not there yet.
pub(super) fn open_lock(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    openat(at, name.as_bytes(), OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)
}

fn try_posix(at: BorrowedFd<'_>) -> Result<Lock> {
    posix_lock(&open_lock(at, POSIX_LOCK)?)
}

fn try_ofd(at: BorrowedFd<'_>) -> Result<Lock> {
    try_lock(&open_lock(at, OFD_LOCK)?)
}

/// SQLite's kind of lock (fcntl(2), `F_SETLK`): of the process, which loses it when it closes any descriptor of the
/// file.
pub(super) fn posix_lock(file: &OwnedFd) -> Result<Lock> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    use nix::errno::Errno as Cause;
    match fcntl(file, FcntlArg::F_SETLK(&whole_file)) {
        Ok(_) => Ok(Lock::Ours),
        Err(Cause::EAGAIN | Cause::EACCES) => Ok(Lock::Theirs),
        Err(error) => Err(Errno::from_raw_os_error(error as i32)),
    }
}

/// Makes a file in the directory, as an attacker would.
fn entered(at: BorrowedFd<'_>) -> Result<()> {
    openat(at, b"intruder", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).map(drop)
}

fn map(at: BorrowedFd<'_>) -> Result<bool> {
    let (file, page) = mapped(at)?;
    page.set(b'm')?;
    let mut byte = [0];
    rustix::io::pread(&file, &mut byte, 0)?;
    Ok(byte == [b'm'])
}

fn watch(at: BorrowedFd<'_>) -> Result<bool> {
    let (_file, page) = mapped(at)?;
    let before = page.get();
    tell("mapped");
    let (began, pause) = (Instant::now(), Cancel::default());
    while began.elapsed() < FOLLOWS {
        if page.get() != before {
            return Ok(true);
        }
        pause.sleep(LOOK_EVERY);
    }
    Ok(false)
}

fn mapped(at: BorrowedFd<'_>) -> Result<(OwnedFd, Page)> {
    let file = openat(at, MAPPED.as_bytes(), OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)?;
    if (fs::fstat(&file)?.st_size as usize) < LENGTH {
        fs::ftruncate(&file, LENGTH as u64)?;
    }
    let page = Page::of(file.as_fd())?;
    Ok((file, page))
}
