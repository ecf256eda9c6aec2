//! A process that is volseed and then the app: how it is started, what it says, and what is known of it.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kit;

use super::strikes::Until;

/// What a replica says, in the order in which it is heard.
pub(super) enum Said {
    Log(String),
    App(String),
    /// One of its two pipes is closed.
    Closed,
}

pub(super) type Event = (usize, Said);

pub(super) struct Replica {
    pub number: usize,
    process: Child,
    pub open_pipes: usize,
    pub code: Option<i32>,
    pub killed_by: Option<i32>,
    pub ended: Option<Instant>,
    pub epochs: Vec<u64>,
    pub struck: Vec<Signal>,
    pub first_stop: Option<Instant>,
    pub last_stop: Option<Instant>,
    pub is_stopped: bool,
    pub until: Until,
    pub waits: bool,
    /// It was fenced, and said so.
    pub lost: bool,
    pub failed: bool,
    pub handed_over: bool,
    pub is_ready: bool,
    pub complained: bool,
    pub seeding_since: Option<Instant>,
    /// When it said that it had published, by its own clock.
    pub published: Option<String>,
}

impl Replica {
    /// Starts it; with a gate it waits until that is closed.
    pub(super) fn start(
        number: usize,
        arguments: &[String],
        gate: Option<&PipeReader>,
        events: &Sender<Event>,
    ) -> Self {
        let binary = kit::binary();
        let mut command = match gate {
            None => Command::new(binary),
            Some(_) => {
                let mut command = Command::new("sh");
                command.args(["-c", "read gate; exec \"$@\" < /dev/null", "sh"]).arg(binary);
                command
            }
        };
        kit::without_settings(&mut command);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(gate.map_or(Stdio::null(), |gate| gate.try_clone().unwrap().into()));
        let mut process = command.spawn().unwrap();
        listen(number, process.stdout.take().unwrap(), Said::App, events);
        listen(number, process.stderr.take().unwrap(), Said::Log, events);
        Self {
            number,
            process,
            open_pipes: 2,
            code: None,
            killed_by: None,
            ended: None,
            epochs: Vec::new(),
            struck: Vec::new(),
            first_stop: None,
            last_stop: None,
            is_stopped: false,
            until: Until::Brief,
            waits: false,
            lost: false,
            failed: false,
            handed_over: false,
            is_ready: false,
            complained: false,
            seeding_since: None,
            published: None,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Its process is waited for only once both pipes are closed: the number is its own until then.
        kill(Pid::from_raw(self.process.id() as i32), signal).ok();
    }

    /// Both pipes are closed: it ended, or is about to.
    pub(super) fn reap(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let status = self.process.wait().unwrap();
        (self.code, self.killed_by) = (status.code().or(Some(-1)), status.signal());
        self.is_stopped = false;
        self.ended = Some(Instant::now());
    }

    pub(super) fn has_ended(&self) -> bool {
        self.code.is_some()
    }

    pub(super) fn was_struck_by(&self, signal: Signal) -> bool {
        self.struck.contains(&signal)
    }

    pub(super) fn lives(&self) -> bool {
        !self.has_ended() && !self.was_struck_by(Signal::SIGKILL) && !self.was_struck_by(Signal::SIGTERM)
    }

    /// Whether it can still be struck, and can take over.
    pub(super) fn is_at_large(&self) -> bool {
        self.lives() && !self.is_stopped && !self.handed_over
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn listen(number: usize, pipe: impl Read + Send + 'static, said: fn(String) -> Said, events: &Sender<Event>) {
    let events = events.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // Most of the lines are of single files, and say nothing of replicas.
            if !line.contains("\"message\":\"file\"") {
                events.send((number, said(line))).ok();
            }
        }
        events.send((number, Said::Closed)).ok();
    });
}
