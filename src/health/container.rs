//! What runs in this container, by what `/proc` shows to everybody: command lines, names, control groups.
//!
//! PID 1 need not be the container's: a pod may share its processes, and then that is `pause`. And `/proc`
//! may be missing, another namespace's, or hide what is another user's (`hidepid`): then it is said
//! that nothing is known, and never that the app runs.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use crate::cli::config::SUPERVISOR;
use crate::system::processes::{self, Process};

/// The name of the process that `--admin` is answered by.
const ADMIN: &str = "volseed-admin";

/// How far below the container's main process a volseed that seeds for it may be: an init and a shell
/// script may be between. One that is further below is the app's own business.
const MAX_DEPTH: usize = 2;

/// A process as it is seen from another of the same container.
#[derive(Debug)]
struct ContainerProcess {
    process: Process,
    command: Vec<OsString>,
}

/// The processes of this container.
#[derive(Debug)]
pub(crate) struct Container {
    processes: Vec<ContainerProcess>,
    /// This one and those that started it: a shell that asks is not the app.
    askers: Vec<i32>,
    our_name: String,
}

impl Container {
    /// What is seen now.
    pub(crate) fn look() -> Container {
        let Some(own) = read("self") else {
            return Container { processes: Vec::new(), askers: Vec::new(), our_name: String::new() };
        };
        let askers = ancestors(own.pid);
        let mut pids = processes::all().unwrap_or_default();
        pids.sort_unstable();
        let groups = |process: &str| fs::read(format!("/proc/{process}/cgroup")).ok();
        let ours = groups("self");
        // PID 1's is the container's, unless the pod shares its processes: then it is none of ours.
        let together = pids.iter().any(|pid| !askers.contains(pid) && groups(&pid.to_string()) == ours);
        let here = |pid: &i32| !together || groups(&pid.to_string()) == ours;
        let processes = pids.into_iter().filter(here).filter_map(with_command).collect();
        Container { processes, askers, our_name: own.name }
    }

    fn others(&self) -> impl Iterator<Item = &ContainerProcess> {
        self.processes.iter().filter(|found| !self.askers.contains(&found.process.pid))
    }

    /// The command lines of volseeds that may be at work for this container: the lowest number first.
    pub(crate) fn volseeds(&self) -> impl Iterator<Item = &[OsString]> {
        let is_volseed = |found: &&ContainerProcess| {
            let supervises = found.command.get(1).is_some_and(|word| word == SUPERVISOR);
            found.process.name == self.our_name && !supervises && self.depth(&found.process) <= MAX_DEPTH
        };
        self.others().filter(is_volseed).map(|found| &found.command[..])
    }

    /// The command line of the volseed that answers for the app.
    pub(crate) fn admin(&self) -> Option<&[OsString]> {
        self.others().find(|found| found.process.name == ADMIN).map(|found| &found.command[..])
    }

    /// How many of this container's processes are above it.
    fn depth(&self, process: &Process) -> usize {
        let (mut depth, mut parent) = (0, process.parent);
        // A parent has not always the lower number, and what was read may not fit together.
        while let Some(above) = self.processes.iter().find(|other| other.process.pid == parent)
            && depth <= MAX_DEPTH
        {
            (depth, parent) = (depth + 1, above.process.parent);
        }
        depth
    }

    /// Whether any process can be seen that could be the app.
    pub(crate) fn shows_the_app(&self) -> bool {
        self.others().any(|found| found.process.name != ADMIN)
    }
}

/// Nothing for one that has ended or is a thread of the kernel's: neither has a command line.
fn with_command(pid: i32) -> Option<ContainerProcess> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let command = line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    Some(ContainerProcess { process: read(pid)?, command })
}

fn read(process: impl Display) -> Option<Process> {
    processes::read(process).ok().flatten()
}

/// A process, its parent and so on. Without PID 1, which is what we ask for where it has started us.
fn ancestors(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    while let Some(parent) = read(all[all.len() - 1]).map(|process| process.parent)
        && parent > 1
        && !all.contains(&parent)
    {
        all.push(parent);
    }
    all
}
