//! Runs a program under ptrace, counts its calls by kind, and lets one of them go wrong.
//!
//! The calls are counted over all threads and children, but only while they are the program: not in an app that it
//! has become or started. ptrace belongs to a thread: a run is traced by the thread that started it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

use crate::filter::Filter;
use crate::kinds::{KINDS, Kind};
use crate::launch::{self, Launch};
use crate::watchdog::Watchdog;

/// How `Ran::hit` names the descriptor that the log is written to.
pub(crate) const STANDARD_ERROR: &str = "standard error";

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and does nothing.
    Error(Errno),
    /// It takes effect and reports an error.
    After(Errno),
    /// It is asked for less: for the least that makes sense, or for a half.
    Short,
    /// The PID namespace is killed before it.
    KillBefore,
    /// The PID namespace is killed after it.
    KillAfter,
}

/// Which call.
#[derive(Debug, Clone)]
pub(crate) enum At {
    /// The n-th of a kind, from 1, by the kind's index.
    Nth(usize, u32),
    /// The first rename that has this text as an argument.
    Naming(&'static str),
}

/// How a run ended.
pub(crate) struct Ran {
    /// The exit code, or 128 and the signal's number.
    pub(crate) code: i32,
    /// Whether a signal ended it.
    pub(crate) signalled: bool,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
    /// It did not end in time.
    pub(crate) timed_out: bool,
    /// What the fault hit: the call and its thread's name.
    pub(crate) hit: Option<String>,
    /// How many calls of each kind there were.
    pub(crate) counts: Vec<u32>,
}

/// Runs a program to its end.
///
/// # Errors
/// It could not be started.
pub(crate) fn plain(launch: &Launch, watchdog: &Watchdog, patience: Duration) -> io::Result<Ran> {
    let started = launch.start(None)?;
    let late = watchdog.watch(started.pid, patience);
    started.go();
    let mut status = 0;
    loop {
        // SAFETY: `status` is written.
        let ended = unsafe { libc::waitpid(started.pid.as_raw(), &raw mut status, libc::__WALL) };
        if ended == started.pid.as_raw() {
            break;
        }
        assert_eq!(Errno::last(), Errno::EINTR, "a child that was started is waited for");
    }
    let (timed_out, (code, signalled)) = (watchdog.done(&late), ended(status));
    let (stdout, stderr) = started.output();
    Ok(Ran { code, signalled, stdout, stderr, timed_out, hit: None, counts: Vec::new() })
}

/// Runs a program to its end, with a fault at one call.
///
/// # Errors
/// It could not be started.
pub(crate) fn traced(
    launch: &Launch,
    fault: Option<(At, Fault)>,
    filter: &Filter,
    watchdog: &Watchdog,
    patience: Duration,
) -> io::Result<Ran> {
    let started = launch.start(Some(filter))?;
    let options = Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(started.pid, options).map_err(io::Error::from)?;
    let late = watchdog.watch(started.pid, patience);
    started.go();
    let mut tracer = Tracer {
        root: started.pid,
        program: PathBuf::from(&launch.words[0]),
        is_program: HashMap::new(),
        counts: vec![0; KINDS.len()],
        fault,
        finishing: None,
        hit: None,
        died_of: None,
    };
    let status = tracer.run();
    let timed_out = watchdog.done(&late);
    let (code, signalled) = tracer.died_of.map_or_else(|| ended(status), |signal| (128 + signal, true));
    let (stdout, stderr) = started.output();
    Ok(Ran { code, signalled, stdout, stderr, timed_out, hit: tracer.hit, counts: tracer.counts })
}

/// The exit code of a wait's status, and whether it was a signal.
fn ended(status: c_int) -> (i32, bool) {
    match libc::WIFEXITED(status) {
        true => (libc::WEXITSTATUS(status), false),
        false => (128 + libc::WTERMSIG(status), true),
    }
}

/// Signals of a process that has failed. The kernel does not let them end a PID 1 that is traced (signal.c,
/// `force_sig_info_to_task`).
const DEADLY: [c_int; 6] =
    [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS];

struct Tracer {
    root: Pid,
    program: PathBuf,
    /// By thread: whether it runs the program. Empty before the program's exec.
    is_program: HashMap<Pid, bool>,
    counts: Vec<u32>,
    fault: Option<(At, Fault)>,
    /// The thread whose call is on its way to its end, and what is done there.
    finishing: Option<(Pid, Fault)>,
    hit: Option<String>,
    /// A deadly signal of the first process.
    died_of: Option<c_int>,
}

impl Tracer {
    /// Until everything has ended. The status of the first process.
    fn run(&mut self) -> c_int {
        let (mut status, mut last) = (0, 0);
        loop {
            // SAFETY: `status` is written. Only this thread's children and tracees are waited for.
            let raw = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            let thread = Pid::from_raw(raw);
            match raw {
                -1 if Errno::last() == Errno::EINTR => {}
                -1 => return last,
                _ if libc::WIFSTOPPED(status) => self.stopped(thread, status),
                _ if thread == self.root => last = status,
                _ => {}
            }
        }
    }

    /// One thread stands still.
    fn stopped(&mut self, thread: Pid, status: c_int) {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        match event {
            libc::PTRACE_EVENT_SECCOMP => self.called(thread),
            libc::PTRACE_EVENT_EXEC => {
                let program = self.runs_program(thread);
                self.is_program.insert(thread, program);
                self.finished(thread);
            }
            0 if signal == libc::SIGTRAP | 0x80 => self.finished(thread),
            0 if DEADLY.contains(&signal) && self.is_of_root(thread) => {
                self.died_of = Some(signal);
                launch::kill(self.root).ok();
            }
            0 => resume(libc::PTRACE_CONT, thread, signal),
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK
                if self.finishing.is_some_and(|(of, fault)| of == thread && fault == Fault::KillAfter) =>
            {
                self.finished(thread);
            }
            _ => resume(libc::PTRACE_CONT, thread, 0),
        }
    }

    fn is_of_root(&self, thread: Pid) -> bool {
        Path::new(&format!("/proc/{}/task/{thread}", self.root)).exists()
    }

    fn runs_program(&self, thread: Pid) -> bool {
        std::fs::read_link(format!("/proc/{thread}/exe")).is_ok_and(|path| path == self.program)
    }

    /// A thread is about to make a call of some kind.
    fn called(&mut self, thread: Pid) {
        let index = ptrace::getevent(thread).unwrap_or(-1);
        let counted = !self.is_program.is_empty()
            && match self.is_program.get(&thread) {
                Some(&known) => known,
                None => {
                    let program = self.runs_program(thread);
                    self.is_program.insert(thread, program);
                    program
                }
            };
        let Some(index) = usize::try_from(index).ok().filter(|&index| counted && index < KINDS.len()) else {
            return resume(libc::PTRACE_CONT, thread, 0);
        };
        if let Some(commands) = KINDS[index].commands {
            let command = ptrace::getregs(thread).map_or(u64::MAX, |registers| arguments(&registers)[1]);
            if !commands.contains(&command) {
                return resume(libc::PTRACE_CONT, thread, 0);
            }
        }
        self.counts[index] += 1;
        match self.fault.clone() {
            Some((at, fault)) if self.hit.is_none() && self.is_at(&at, thread, index) => {
                self.strike(thread, &KINDS[index], fault);
            }
            _ => resume(libc::PTRACE_CONT, thread, 0),
        }
    }

    fn is_at(&self, at: &At, thread: Pid, index: usize) -> bool {
        match at {
            At::Nth(kind, nth) => *kind == index && self.counts[index] == *nth,
            At::Naming(text) => {
                KINDS[index].name.starts_with("rename")
                    && ptrace::getregs(thread).is_ok_and(|registers| {
                        arguments(&registers).iter().any(|&at| text_at(thread, at).as_deref() == Some(text))
                    })
            }
        }
    }

    fn strike(&mut self, thread: Pid, kind: &Kind, fault: Fault) {
        let Ok(mut registers) = ptrace::getregs(thread) else {
            return resume(libc::PTRACE_CONT, thread, 0);
        };
        self.hit = Some(described(thread, kind, &registers));
        match fault {
            Fault::Error(error) => {
                registers.orig_rax = u64::MAX;
                registers.rax = (-(error as i64)) as u64;
            }
            Fault::Short => {
                let (argument, least) = kind.short.unwrap_or((2, 1));
                let asked = arguments(&registers)[argument];
                set_argument(&mut registers, argument, (asked / 2).max(least).min(asked));
            }
            Fault::KillBefore => {
                launch::kill(self.root).ok();
                return;
            }
            Fault::After(_) | Fault::KillAfter => {
                self.finishing = Some((thread, fault));
                return resume(libc::PTRACE_SYSCALL, thread, 0);
            }
        }
        ptrace::setregs(thread, registers).ok();
        resume(libc::PTRACE_CONT, thread, 0);
    }

    /// A call that was let through has ended.
    fn finished(&mut self, thread: Pid) {
        match self.finishing {
            Some((of, fault)) if of == thread => {
                self.finishing = None;
                if fault == Fault::KillAfter {
                    launch::kill(self.root).ok();
                    return;
                }
                if let (Fault::After(error), Ok(mut registers)) = (fault, ptrace::getregs(thread)) {
                    // A call that failed by itself keeps its error.
                    if (registers.rax as i64) >= 0 {
                        registers.rax = (-(error as i64)) as u64;
                        ptrace::setregs(thread, registers).ok();
                    }
                }
            }
            _ => {}
        }
        resume(libc::PTRACE_CONT, thread, 0);
    }
}

/// By the number of the signal: nix has none for real-time signals.
fn resume(request: c_uint, thread: Pid, signal: c_int) {
    // SAFETY: a thread that is traced by this one; an error means that it was killed.
    unsafe { libc::ptrace(request, thread.as_raw(), ptr::null_mut::<u8>(), signal as usize as *mut u8) };
}

fn arguments(registers: &user_regs_struct) -> [u64; 6] {
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9]
}

fn set_argument(registers: &mut user_regs_struct, index: usize, value: u64) {
    match index {
        0 => registers.rdi = value,
        1 => registers.rsi = value,
        2 => registers.rdx = value,
        3 => registers.r10 = value,
        4 => registers.r8 = value,
        _ => registers.r9 = value,
    }
}

/// A text in a thread's memory, where the address is that of one.
fn text_at(thread: Pid, address: u64) -> Option<String> {
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut bytes = [0; 128];
    let read = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes[..read].iter().position(|&byte| byte == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A call for a reader: the name of its thread, the paths among its arguments, and what its first argument is open on.
fn described(thread: Pid, kind: &Kind, registers: &user_regs_struct) -> String {
    let of = std::fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    let all = arguments(registers);
    let paths = all[..5].iter().filter(|&&at| at > 1 << 16);
    let paths: Vec<String> = paths.filter_map(|&at| text_at(thread, at)).collect();
    let open = match all[0] as i32 {
        // Before each write volseed looks at what standard error is.
        2 if kind.name.starts_with("write") || kind.name == "fstat" => STANDARD_ERROR.to_owned(),
        descriptor => std::fs::read_link(format!("/proc/{thread}/fd/{descriptor}"))
            .map_or(String::new(), |path| path.display().to_string()),
    };
    format!("{}({}) in {} on {open}", kind.name, paths.join(", "), of.trim())
}
