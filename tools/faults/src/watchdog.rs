//! One thread that kills each run that does not end in time.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How often it looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Kills what is late.
#[derive(Clone, Default)]
pub(crate) struct Watchdog {
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    runs: HashMap<u64, Run>,
}

struct Run {
    process: OwnedFd,
    deadline: Instant,
    killed: bool,
}

/// A run that is watched.
pub(crate) struct Late(u64);

impl Watchdog {
    /// Starts its thread, which lasts as long as the process.
    pub(crate) fn start() -> Self {
        let watchdog = Self::default();
        let watched = Arc::clone(&watchdog.watched);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(PAUSE);
                let now = Instant::now();
                for run in watched.lock().unwrap().runs.values_mut().filter(|run| run.deadline < now) {
                    run.killed = true;
                    pidfd_send_signal(&run.process, Signal::KILL).ok();
                }
            }
        });
        watchdog
    }

    /// From now on, a process of this PID has to end within this time.
    pub(crate) fn watch(&self, pid: Pid, patience: Duration) -> Late {
        let pid = rustix::process::Pid::from_raw(pid.as_raw()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut watched = self.watched.lock().unwrap();
        let number = watched.next;
        watched.next += 1;
        watched.runs.insert(number, Run { process, deadline: Instant::now() + patience, killed: false });
        Late(number)
    }

    /// It has ended. Whether it was killed.
    pub(crate) fn done(&self, late: &Late) -> bool {
        self.watched.lock().unwrap().runs.remove(&late.0).is_some_and(|run| run.killed)
    }
}
