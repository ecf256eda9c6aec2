//! A hook: the program of `--hook`, called while the volume is ours, and watched until it ends.
//!
//! Owns its process: the user, directory, environment and signals that it begins with, its output, which goes to our log
//! line by line, and its end. Nothing of its process group outlives it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::work::{Heartbeat, VolumeWork};
use crate::claims::store::Claim;
use crate::cli::config::Hook;
use crate::error::{Context, Error, Result, lowercase_first, printable};
use crate::exit::Exit;
use crate::progress::{Phase, seconds};
use crate::system::users::Identity;
use crate::system::{limits, signals};
use crate::volume::records::{HookEvent, Public};

/// How long a hook has after a stop signal: within the 10 s that a container's stop takes (docker stop).
pub(super) const LAST_SECONDS: Duration = Duration::from_secs(8);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The longest line of its output that is logged in one piece, in bytes.
const MAX_LINE: usize = 4096;

/// What a hook is called for.
struct Call<'a> {
    event: HookEvent,
    old: Option<&'a str>,
    new: Option<&'a str>,
    /// Whether it may have run before.
    again: bool,
}

impl VolumeWork<'_> {
    /// Asks the hook whether the volume of `record` may be upgraded now. Blocks until it ends.
    ///
    /// # Errors
    /// Exit 69 where it says no.
    pub(super) fn call_before_upgrade(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        let Some(hook) = &self.config.hook else { return Ok(()) };
        let complete = self.complete_record(claim, record)?;
        let call = Call {
            event: HookEvent::PreUpgrade,
            old: complete.version.as_ref().map(crate::text::Untrusted::raw),
            new: self.config.seed_version.as_deref(),
            // That an earlier one got so far is not written down.
            again: claim.inherited,
        };
        self.call(hook, &call, heartbeat)
    }

    /// Runs the hook that `record` says is owed. Blocks until it ends.
    ///
    /// # Errors
    /// Exit 69 where it fails; then it is still owed.
    pub(super) fn call_owed(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        record: &Public,
        again: bool,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        let complete = self.complete_record(claim, record)?;
        let (Some(hook), Some(owed)) = (&self.config.hook, &complete.hook) else { return Ok(()) };
        let call = Call {
            event: owed.event,
            old: owed.from.as_ref().map(crate::text::Untrusted::raw),
            new: self.config.seed_version.as_deref(),
            again,
        };
        self.call(hook, &call, heartbeat)
    }

    fn call(&self, hook: &Hook, call: &Call<'_>, heartbeat: &Heartbeat) -> Result<()> {
        self.progress.enter(Phase::Migrating);
        let (event, began) = (call.event.word(), Instant::now());
        tracing::info!(hook = event, program = %hook.program.display(), again = call.again, "calling");
        let named = format!("call hook '{event}'");
        let place = std::path::absolute(self.volume.path()).unwrap_or_else(|_| self.volume.path().to_owned());
        let running = Running::start(hook, call, self.volume.root(), &place);
        let running = running.map_err(|error| {
            let cause = lowercase_first(&error.to_string());
            Error::new(Exit::Hook, named.clone(), cause)
                .on(hook.program.as_path())
                .help("does it begin with #! and the path of an interpreter that is there, and may the user of --user execute it?")
        })?;
        let status = running.watch(event, || {
            self.progress.touch();
            match (heartbeat.is_lost(), heartbeat.stop().is_set()) {
                (true, _) => Wish::Kill,
                (false, true) => Wish::Stop,
                (false, false) => Wish::GoOn,
            }
        });
        let status = status.context("watch", "hook").map_err(|error| error.exit(Exit::System))?;
        self.progress.enter(Phase::Checking);
        if status.success() {
            tracing::info!(hook = event, seconds = seconds(began.elapsed()), "called");
            return Ok(());
        }
        if heartbeat.is_lost() {
            return Err(Error::new(Exit::Held, named, "another replica has taken over meanwhile"));
        }
        if heartbeat.stop().is_set() {
            return Err(Error::cancelled());
        }
        let cause = match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with {code}"),
            (None, signal) => format!("it was ended by signal {}", signal.unwrap_or_default()),
        };
        let help = match call.event {
            HookEvent::PreUpgrade => {
                "nothing was changed; what it said is in the log above, and the next start asks it again"
            }
            HookEvent::PostSeed | HookEvent::PostUpgrade => {
                "no app starts before it has succeeded; what it said is in the log above, and the next start calls it again"
            }
        };
        Err(Error::new(Exit::Hook, named, cause).on(hook.program.as_path()).help(help))
    }
}

/// What becomes of a hook that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    GoOn,
    /// It is asked to end, and has [`LAST_SECONDS`].
    Stop,
    /// At once: the volume is another replica's.
    Kill,
}

/// A hook's process.
struct Running {
    child: Child,
    group: Pid,
    /// What it says; nothing once everybody has closed that.
    output: Option<OwnedFd>,
    line: Vec<u8>,
}

impl Running {
    fn start(hook: &Hook, call: &Call<'_>, root: BorrowedFd<'_>, volume: &Path) -> io::Result<Running> {
        let (output, said) = pipe_with(PipeFlags::CLOEXEC)?;
        // Without a writer: it reads the end of its input. `/dev/null` need not be there.
        let (input, _) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&output, rustix::fs::OFlags::NONBLOCK)?;
        let mut command = Command::new(&hook.program);
        command.arg(call.event.word()).env("VOLSEED_VOLUME", volume);
        let versions = [("VOLSEED_OLD_VERSION", call.old), ("VOLSEED_NEW_VERSION", call.new)];
        let resumed = ("VOLSEED_RESUMED", call.again.then_some("1"));
        for (name, value) in versions.into_iter().chain([resumed]) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(user) = &hook.user {
            command.env("HOME", &user.home);
            // A program opens `/dev/stderr` by its name.
            let _ = rustix::fs::fchown(&said, Some(rustix::fs::Uid::from_raw(user.uid)), None);
        }
        command.stdin(input).stdout(said.try_clone()?).stderr(said).process_group(0);
        let begin = beginning(root.as_raw_fd(), hook.user.as_ref());
        // SAFETY: it makes system calls and allocates nothing, as the child of a process with threads must.
        unsafe { command.pre_exec(begin) };
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        Ok(Running { child, group, output: Some(output), line: Vec::new() })
    }

    /// Until it ends, and says how it did. What it says is logged meanwhile.
    fn watch(mut self, event: &str, wish: impl Fn() -> Wish) -> io::Result<ExitStatus> {
        let mut killed_at = None;
        loop {
            self.log(event, LOOK);
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
        self.log(event, Duration::ZERO);
        self.end_line(event);
        self.child.wait()
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    /// Logs what it says within this time, and all that it has said by then.
    fn log(&mut self, event: &str, time: Duration) {
        let Some(output) = &self.output else { return std::thread::sleep(time) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: time.as_nanos().try_into().unwrap_or(0) };
        let _ = poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&timeout));
        let mut buffer = [0; 8192];
        while let Some(output) = &self.output {
            match rustix::io::read(output.as_fd(), &mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => self.add(event, &buffer[..length]),
                Err(Errno::INTR) => {}
                // Nothing more for now.
                Err(_) => return,
            }
        }
    }

    fn add(&mut self, event: &str, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' || self.line.len() == MAX_LINE {
                self.end_line(event);
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self, event: &str) {
        if !self.line.is_empty() {
            tracing::info!(hook = event, "{}", printable(self.line.trim_ascii_end()));
            self.line.clear();
        }
    }
}

/// What the child does before it executes the program: it is in the volume's root, with the signals and the limit that we
/// were started with, as this user.
fn beginning(root: i32, user: Option<&Identity>) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let ids = user.map(|user| {
        let groups: Vec<_> = user.groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect();
        (rustix::process::Uid::from_raw(user.uid), rustix::process::Gid::from_raw(user.gid), groups)
    });
    let is_ours = user.is_none_or(crate::system::users::Identity::is_ours);
    move || {
        // SAFETY: our root is open for as long as the hook is watched.
        rustix::process::fchdir(unsafe { BorrowedFd::borrow_raw(root) })?;
        limits::lower_open_files();
        signals::give_back_to_a_child();
        if let Some((uid, gid, groups)) = ids.as_ref().filter(|_| !is_ours) {
            set_thread_groups(groups)?;
            set_thread_res_gid(*gid, *gid, *gid)?;
            set_thread_res_uid(*uid, *uid, *uid)?;
        }
        Ok(())
    }
}
