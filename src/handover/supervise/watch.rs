//! The supervisor's whole life: pass signals on, reap, and when the app has ended or was given its
//! time to, end everything that is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::prctl;
use nix::unistd::{Pid, getpgrp, getpid, getsid};
use rustix::process::{WaitOptions, WaitStatus, wait};

use super::descendants;
use super::{FAILED, LIFELINE, Plan, STARTS, forget_standard_files, memory, terminal};
use crate::cli::values::{Mapping, SignalScope};
use crate::error::Error;
use crate::exit::Exit;
use crate::log::Console;
use crate::system::processes::Process;
use crate::system::signals;
use crate::system::signals::kernel;
use crate::system::signals::kernel::{ALL, Received};
use crate::system::signals::names;

const CHLD: u8 = libc::SIGCHLD as u8;
const CONT: u8 = libc::SIGCONT as u8;
const KILL: u8 = libc::SIGKILL as u8;
const STOP: u8 = libc::SIGSTOP as u8;
const TERM: u8 = libc::SIGTERM as u8;
const TSTP: u8 = libc::SIGTSTP as u8;
const WINCH: u8 = libc::SIGWINCH as u8;

/// What everyone who is left has after a last SIGTERM. With the 8 s of `--grace` it stays within the
/// 10 s after which Docker kills the container.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// What SIGKILL may take; a process in an uninterruptible call takes longer, and is the kernel's then.
const KILL_WAIT: Duration = Duration::from_millis(500);
/// What a process has that is found only when the others are killed.
const ASKED_LATE: Duration = Duration::from_millis(250);
/// How often that is looked at.
const KILL_AGAIN: Duration = Duration::from_millis(50);
/// What the seed may take to stop: it allows itself half of that.
const SEED_GRACE: Duration = Duration::from_secs(1);

/// Watches over the app until everything is over, and returns the code to exit with. Blocks for the
/// app's whole life.
pub(crate) fn watch(plan: &Plan) -> Exit {
    // `ps` and `top` would say `exe`.
    live_and_end(plan, c"volseed")
}

/// The same where volseed could not execute itself again: by its command line it still is one that seeds, so it has
/// another name.
pub(crate) fn watch_here(plan: &Plan) -> Exit {
    live_and_end(plan, c"volseed-init")
}

fn live_and_end(plan: &Plan, name: &CStr) -> Exit {
    // They were blocked before `exec`, but musl lets two of its own through when the runtime installs its
    // first handler.
    kernel::replace_mask(ALL);
    let _ = prctl::set_name(name);
    let _ = std::env::set_current_dir("/");
    forget_standard_files();
    let mut supervisor = Supervisor {
        plan,
        child: Pid::from_raw(plan.child),
        console: None,
        ended: None,
        childless: false,
        asked: None,
        deadline: None,
        stop_passed_on: false,
        told: 0,
        refused: 0,
        asked_to_end: BTreeSet::new(),
        killed: BTreeMap::new(),
    };
    supervisor.live();
    supervisor.end_the_rest();
    if plan.terminal {
        terminal::give_to(getpgrp());
    }
    supervisor.log_exit()
}

struct Supervisor<'a> {
    plan: &'a Plan,
    child: Pid,
    /// Made when there is something to say: it has no part in an idle supervisor's memory.
    console: Option<Console>,
    /// How the main child ended.
    ended: Option<WaitStatus>,
    /// Nobody is left: what is below us is always below a child of ours.
    childless: bool,
    /// When the first SIGTERM was passed on.
    asked: Option<Instant>,
    /// When waiting for the main child is over.
    deadline: Option<Instant>,
    /// Who stopped the app with SIGTSTP did so through us.
    stop_passed_on: bool,
    /// The last byte of the lifeline.
    told: u8,
    /// Signals that could not be passed on.
    refused: u32,
    /// Who got the last SIGTERM.
    asked_to_end: BTreeSet<i32>,
    killed: BTreeMap<i32, String>,
}

impl Supervisor<'_> {
    /// Until the main child has ended, or has not within its grace.
    fn live(&mut self) {
        // What came before there was anybody to wait for it.
        self.reap();
        while self.ended.is_none() {
            if self.deadline.is_none() {
                memory::give_back_program();
            }
            match kernel::wait(ALL, self.deadline) {
                Some(Received { signal: CHLD, .. }) => self.reap(),
                Some(received) => self.pass_on(received),
                // A seed's grace is short. Should the app have been started just then, it has its own.
                None => match self.asked.map(|asked| asked + self.grace()) {
                    Some(longer) if Some(longer) > self.deadline => self.deadline = Some(longer),
                    _ => return,
                },
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => {
                    let is_app = pid.as_raw_pid() == self.child.as_raw();
                    match status.stopping_signal() {
                        Some(signal) if is_app => self.stopped(signal),
                        None if is_app => self.ended = Some(status),
                        _ => {}
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return,
                Err(_) => {
                    self.childless = true;
                    return;
                }
            }
        }
    }

    fn pass_on(&mut self, received: Received) {
        let signal = received.signal;
        let asks_to_end = self.asks_to_end(received);
        let sent = match self.app_started() {
            // The terminal has another size: passed on it would be a process's, which asks volseed to end.
            false if signal == WINCH && !received.by_process => return,
            // The child is volseed, and knows what these mean.
            false if asks_to_end && !signals::ends_a_seed(signal) => TERM,
            false => signal,
            true => Mapping::apply(&self.plan.config.rewrite, signal),
        };
        if sent == 0 {
            return;
        }
        self.stop_passed_on |= sent == TSTP;
        let child = self.child.as_raw();
        let passed = match self.plan.config.signal_scope {
            SignalScope::Child => kernel::send(child, sent),
            // The app may have left its group, and nobody else need be in it.
            SignalScope::Group => match kernel::send(-child, sent) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => kernel::send(child, sent),
                passed => passed,
            },
        };
        if let Err(error) = passed {
            self.refuse(sent, &error);
        }
        if asks_to_end && self.asked.is_none() {
            let now = Instant::now();
            self.asked = Some(now);
            self.deadline = Some(now + self.grace());
        }
    }

    /// Whether it starts the grace.
    fn asks_to_end(&self, received: Received) -> bool {
        let Received { signal, by_process } = received;
        let is_resize = signal == WINCH && !by_process;
        signal == TERM || Some(signal) == self.plan.config.stop_signal && !is_resize
    }

    /// Says so once: a signal that is sent every second would fill the log.
    fn refuse(&mut self, signal: u8, error: &io::Error) {
        self.refused += 1;
        if self.refused == 1 {
            self.speak();
            tracing::warn!(
                signal = names::name(signal),
                pid = self.child.as_raw(),
                cause = crate::error::lowercase_first(&error.to_string()),
                "a signal could not be passed on"
            );
        }
    }

    /// What the child may take after SIGTERM.
    fn grace(&mut self) -> Duration {
        let grace = self.plan.config.grace;
        if self.app_started() { grace } else { grace.min(SEED_GRACE) }
    }

    /// Whether the app was executed: before, the child is volseed.
    fn app_started(&mut self) -> bool {
        // SAFETY: it was opened for this process, and is never closed.
        let lifeline = unsafe { BorrowedFd::borrow_raw(LIFELINE) };
        let mut bytes = [0; 8];
        while let Ok(count @ 1..) = rustix::io::read(lifeline, &mut bytes) {
            self.told = bytes[count - 1];
        }
        self.told == STARTS
    }

    /// The app was stopped.
    fn stopped(&mut self, signal: i32) {
        let job_control = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal);
        if !self.plan.terminal || !job_control {
            return;
        }
        let leads_session = getsid(None).is_ok_and(|session| session == getpid());
        if leads_session || getpid() == Pid::from_raw(1) {
            // Ctrl-Z, and no shell that could continue it: PID 1 would not have stopped either.
            let by_terminal = signal == libc::SIGTSTP && !self.stop_passed_on;
            if by_terminal && terminal::is_with(self.child) {
                let _ = kernel::send(-self.child.as_raw(), CONT);
            }
            return;
        }
        // A job of a shell's, which watches our group: it stops with its app, and continues with it.
        terminal::give_to(getpgrp());
        let _ = kernel::send(-getpgrp().as_raw(), TSTP);
        let _ = kernel::send(getpid().as_raw(), STOP);
        if terminal::is_with(getpgrp()) {
            terminal::give_to(self.child);
        }
        let _ = kernel::send(-self.child.as_raw(), CONT);
    }

    /// Everyone who is left: SIGTERM, some time, SIGKILL.
    fn end_the_rest(&mut self) {
        if self.ended.is_some() && self.childless {
            return;
        }
        let now = Instant::now();
        let grace_over = self.asked.unwrap_or(now) + self.grace();
        self.ask_to_end();
        self.wait_for_all(grace_over.max(now + LAST_WAIT));
        if !self.is_over() && self.ask_to_end() {
            self.wait_for_all(Instant::now() + ASKED_LATE);
        }
        let enough = Instant::now() + KILL_WAIT;
        while !self.is_over() && Instant::now() < enough {
            for process in self.send_to_all(KILL, |_| true) {
                self.killed.insert(process.pid, process.name);
            }
            self.wait_for_all(Instant::now() + KILL_AGAIN);
        }
    }

    /// Sends SIGTERM to everyone who has not got it yet, and SIGCONT to those of them who would not see it; whether
    /// there was one.
    fn ask_to_end(&mut self) -> bool {
        let asked = std::mem::take(&mut self.asked_to_end);
        let found = self.send_to_all(TERM, |process| !asked.contains(&process.pid));
        self.send_to_all(CONT, |process| process.is_stopped && !asked.contains(&process.pid));
        let has_new = found.iter().any(|process| !asked.contains(&process.pid));
        self.asked_to_end = found.into_iter().map(|process| process.pid).collect();
        has_new
    }

    fn is_over(&self) -> bool {
        self.ended.is_some() && self.childless
    }

    fn wait_for_all(&mut self, deadline: Instant) {
        while !self.is_over() {
            match kernel::wait(ALL, Some(deadline)) {
                Some(Received { signal: CHLD, .. }) => self.reap(),
                Some(received) if self.asks_to_end(received) && self.plan.config.grace.is_zero() => return,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Sends to every descendant that is `wanted`, and returns all; where `/proc` does not say who they are, to the
    /// app's group, or as PID 1 to every process.
    fn send_to_all(&mut self, signal: u8, wanted: impl Fn(&Process) -> bool) -> Vec<Process> {
        let Some(found) = descendants::find() else {
            let to = if getpid() == Pid::from_raw(1) { -1 } else { -self.child.as_raw() };
            let _ = kernel::send(to, signal);
            return Vec::new();
        };
        for process in found.iter().filter(|process| wanted(process)) {
            match kernel::send(process.pid, signal) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.refuse(signal, &error),
                _ => {}
            }
        }
        found
    }

    fn speak(&mut self) {
        let log = self.plan.log;
        self.console.get_or_insert_with(|| Console::start(log));
    }

    /// Says why it ended, and with what code volseed ends.
    fn log_exit(&mut self) -> Exit {
        self.speak();
        let started = self.app_started();
        let pid = self.child.as_raw();
        // Killed, and not even that has ended it yet.
        let signal = match self.ended {
            Some(status) => status.terminating_signal(),
            None => Some(i32::from(KILL)),
        };
        let signal = signal.and_then(|signal| u8::try_from(signal).ok());
        let code = self.ended.and_then(|status| status.exit_status());
        let code = match signal {
            Some(signal) => 128u8.saturating_add(signal),
            None => code.and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Bug.code()),
        };
        let signal = signal.map(names::name);
        if !started {
            // It has said itself why, unless it could not.
            if let (Some(signal), Some(console)) = (&signal, &self.console)
                && self.told != FAILED
            {
                console.error(
                    &Error::new(Exit::System, "seed", format!("process {pid} was ended by {signal}"))
                        .help("was memory short? start again: what is staged is kept"),
                );
            }
            return Exit::App(code);
        }
        let exit_code = Mapping::apply(&self.plan.config.exit_map, code);
        let command = self.plan.command.first().map(|name| name.as_os_str().to_string_lossy().into_owned());
        let killed = self.killed_names();
        let after = self.asked.map(|asked| format!("{:.1}s", asked.elapsed().as_secs_f64()));
        if exit_code != 0 || killed.is_some() {
            let code_is = signal.as_ref().map_or("the app's own", |_| "128 + the signal's number");
            tracing::warn!(command, pid, code, code_is, signal, exit_code, after, killed, "app ended");
        } else {
            tracing::info!(command, pid, code, signal, exit_code, after, "app ended");
        }
        Exit::App(exit_code)
    }

    /// Who had to be killed, the first few by name.
    fn killed_names(&self) -> Option<String> {
        const SHOWN: usize = 5;
        if self.killed.is_empty() {
            return None;
        }
        let name =
            |(pid, name): (&i32, &String)| format!("{} {pid}", crate::error::printable(name.as_bytes()));
        let mut names: Vec<String> = self.killed.iter().take(SHOWN).map(name).collect();
        if self.killed.len() > SHOWN {
            names.push(format!("and {} more", self.killed.len() - SHOWN));
        }
        Some(names.join(", "))
    }
}
