//! A handle on the real binary: start it, wait for its lines, ask its health, signal it, see it end.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::http::{self, Answer};
use super::pipes::{Feeder, Transcript};
use super::{Outcome, PATIENCE, eventually};

/// What is going to be started.
#[derive(Default)]
pub(crate) struct Volseed {
    program: Option<OsString>,
    wrapper: Vec<OsString>,
    arguments: Vec<OsString>,
    app: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    user: Option<(u32, u32)>,
    directory: Option<PathBuf>,
    input: Input,
    standard_error: Option<Stdio>,
    in_namespace: bool,
}

#[derive(Default)]
enum Input {
    #[default]
    Nothing,
    Whole(Vec<u8>),
    Fed,
}

/// The program under test: the one that this build made, or the one that `VOLSEED_BIN` names.
pub(crate) fn binary() -> OsString {
    std::env::var_os("VOLSEED_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_volseed").into())
}

/// Without what would set options of volseed.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VOLSEED_") {
            command.env_remove(name);
        }
    }
}

/// `volseed` with these arguments.
pub(crate) fn volseed<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Volseed {
    Volseed::default().arguments(arguments)
}

/// `volseed seed --from … --to …`.
pub(crate) fn seed(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Volseed {
    volseed(["seed"]).option("--from", from).option("--to", to)
}

/// `volseed run --from … --to … -- APP…`.
pub(crate) fn run<A: AsRef<OsStr>>(
    from: impl AsRef<OsStr>,
    to: impl AsRef<OsStr>,
    app: impl IntoIterator<Item = A>,
) -> Volseed {
    let mut run = volseed(["run"]).option("--from", from).option("--to", to);
    run.app = app.into_iter().map(|part| part.as_ref().to_owned()).collect();
    run
}

/// `volseed health --listen …`.
pub(crate) fn health(address: SocketAddr) -> Volseed {
    volseed(["health"]).option("--listen", address.to_string())
}

impl Volseed {
    /// Another program in its place, to be started and watched in the same way.
    pub(crate) fn program(name: &str) -> Self {
        Self { program: Some(name.into()), ..Self::default() }
    }

    pub(crate) fn arguments<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|part| part.as_ref().to_owned()));
        self
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.arguments([name])
    }

    pub(crate) fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arguments([OsStr::new(name), value.as_ref()])
    }

    /// Log lines as JSON, which `Outcome::line` reads.
    pub(crate) fn json(self) -> Self {
        self.option("--log", "json")
    }

    pub(crate) fn listening(self) -> Self {
        self.option("--listen", "127.0.0.1:0")
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Another user, without supplementary groups. Needs root.
    pub(crate) fn started_by(mut self, user: u32, group: u32) -> Self {
        self.user = Some((user, group));
        self
    }

    /// Below another program, like `env --ignore-signal=HUP`.
    pub(crate) fn under<A: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = wrapper.into_iter().map(|part| part.as_ref().to_owned()).collect();
        self
    }

    /// As PID 1 of a PID namespace with a `/proc` of its own, like in a container. Needs root.
    pub(crate) fn in_container(mut self) -> Self {
        self.in_namespace = true;
        self.under(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
    }

    /// All of standard input.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Whole(bytes.into());
        self
    }

    /// Standard input that comes when the test says so.
    pub(crate) fn fed(mut self) -> Self {
        self.input = Input::Fed;
        self
    }

    /// Standard error of the test's own, which what is started says nothing of.
    pub(crate) fn standard_error(mut self, file: impl Into<Stdio>) -> Self {
        self.standard_error = Some(file.into());
        self
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub(crate) fn ends(self) -> Outcome {
        self.start().ends()
    }

    #[track_caller]
    pub(crate) fn start(self) -> Running {
        let binary = self.program.unwrap_or_else(binary);
        let mut line = self.wrapper;
        line.push(binary);
        line.extend(self.arguments);
        if !self.app.is_empty() {
            line.push("--".into());
            line.extend(self.app);
        }
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdout(Stdio::piped());
        command.stderr(self.standard_error.unwrap_or_else(Stdio::piped));
        without_settings(&mut command);
        command.envs(self.environment);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        command.stdin(match self.input {
            Input::Nothing => Stdio::null(),
            _ => Stdio::piped(),
        });
        let mut child = command.spawn().unwrap();
        let feeder = child.stdin.take().map(Feeder::start);
        let mut running = Running {
            stdout: Transcript::of(child.stdout.take().unwrap()),
            stderr: match child.stderr.take() {
                Some(pipe) => Transcript::of(pipe),
                None => Transcript::of(std::io::empty()),
            },
            child,
            feeder,
            in_namespace: self.in_namespace,
        };
        if let Input::Whole(bytes) = self.input {
            running.feed(bytes);
            running.end_input();
        }
        running
    }
}

/// A volseed, or the app it became. Killed with the test.
pub(crate) struct Running {
    child: Child,
    stdout: Transcript,
    stderr: Transcript,
    feeder: Option<Feeder>,
    in_namespace: bool,
}

impl Running {
    /// The process's number as the test sees it.
    pub(crate) fn pid(&self) -> i32 {
        let mut pid = None;
        eventually("a PID 1 in the namespace", || {
            pid = self.pid_so_far();
            pid.is_some()
        });
        pid.unwrap()
    }

    /// The same; nothing where the namespace has no PID 1 yet, or no longer.
    pub(crate) fn pid_so_far(&self) -> Option<i32> {
        let started = self.child.id() as i32;
        if !self.in_namespace {
            return Some(started);
        }
        let children = std::fs::read_to_string(format!("/proc/{started}/task/{started}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Waits for a line with this text on standard error.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> String {
        self.stderr.line_with(text)
    }

    /// Waits for a line with this text on standard error, and says whether it came before the end.
    pub(crate) fn said_before_its_end(&self, text: &str) -> bool {
        self.stderr.find(text).is_some()
    }

    /// Waits for a line with this text on the app's standard output.
    #[track_caller]
    pub(crate) fn prints(&self, text: &str) -> String {
        self.stdout.line_with(text)
    }

    /// Everything on standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Where the health server listens first.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        let line = self.says("listening");
        address_in(&line).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// The TCP addresses that the health server listens on, of which there are this many.
    #[track_caller]
    pub(crate) fn addresses(&self, count: usize) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        eventually("all addresses", || {
            let text = self.stderr();
            addresses =
                text.lines().filter(|line| line.contains("listening")).filter_map(address_in).collect();
            addresses.len() >= count
        });
        addresses
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        http::get(self.address(), path)
    }

    /// Gives it some of its standard input; never blocks the test.
    pub(crate) fn feed(&self, bytes: impl Into<Vec<u8>>) {
        self.feeder.as_ref().expect("started with an input").send(bytes.into());
    }

    /// Ends its standard input once all of it was taken.
    pub(crate) fn end_input(&mut self) {
        if let Some(feeder) = &mut self.feeder {
            feeder.end();
        }
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Sends the signal and says how it ended, and after how long.
    #[track_caller]
    pub(crate) fn stopped_by(self, signal: Signal) -> (Outcome, Duration) {
        let sent = Instant::now();
        self.signal(signal);
        let outcome = self.ends();
        (outcome, sent.elapsed())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Another volseed in the same PID namespace, as `docker exec` or a HEALTHCHECK starts it.
    pub(crate) fn beside(&self, arguments: &[&str]) -> Volseed {
        let target = self.pid().to_string();
        volseed(arguments).under(["nsenter", "--pid", "--mount", "--target", &target, "--"])
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ends(self) -> Outcome {
        self.ends_within(PATIENCE).unwrap_or_else(|said| panic!("did not end; it said:\n{said}"))
    }

    /// Waits for its end. Where that does not come in time it is killed, and what it said is the error.
    pub(crate) fn ends_within(mut self, limit: Duration) -> Result<Outcome, String> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(self.stderr());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.end_input();
        Ok(Outcome { status, stdout: self.stdout.whole(), stderr: self.stderr.whole() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `unshare --kill-child` takes the namespace with it.
        self.child.kill().ok();
        self.child.wait().ok();
        self.end_input();
    }
}

/// The TCP address that a log line says.
fn address_in(line: &str) -> Option<SocketAddr> {
    let field = line.split("address").nth(1).unwrap_or_default();
    let address: String = field
        .chars()
        .skip_while(|sign| !(sign.is_ascii_digit() || *sign == '['))
        .take_while(|sign| sign.is_ascii_hexdigit() || ".:[]".contains(*sign))
        .collect();
    address.parse().ok()
}
