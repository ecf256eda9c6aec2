//! What runs in this container, by what `/proc` shows to everybody: command lines, names, control groups.
//!
//! PID 1 need not be the container's: a pod may share its processes, and then that is `pause`. And `/proc`
//! may be missing, another namespace's, or hide what is another user's (`hidepid`): then it is said
//! that nothing is known, and never that the app runs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use crate::cli::config::SUPERVISOR;

/// The name of the process that `--admin` is answered by.
const ADMIN: &str = "volseed-admin";

/// How far below the container's main process a volseed that seeds for it may be: an init and a shell
/// script may be between. One that is further below is the app's own business.
const MAX_DEPTH: usize = 2;

/// A process as it is seen from another of the same container.
#[derive(Debug)]
struct ContainerProcess {
    pid: u32,
    parent: u32,
    /// Its program's name, from `/proc/PID/comm`.
    name: String,
    command: Vec<OsString>,
}

/// The processes of this container.
#[derive(Debug)]
pub(crate) struct Container {
    processes: Vec<ContainerProcess>,
    /// This one and those that started it: a shell that asks is not the app.
    askers: Vec<u32>,
    our_name: String,
}

impl Container {
    /// What is seen now.
    pub(crate) fn look() -> Container {
        let our_name = name("self").unwrap_or_default();
        let Some(own) = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()) else {
            return Container { processes: Vec::new(), askers: Vec::new(), our_name };
        };
        let askers = ancestors(own);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<u32> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        let groups = |process: &str| fs::read(format!("/proc/{process}/cgroup")).ok();
        let ours = groups("self");
        // PID 1's is the container's, unless the pod shares its processes: then it is none of ours.
        let together = pids.iter().any(|pid| !askers.contains(pid) && groups(&pid.to_string()) == ours);
        let here = |pid: &u32| !together || groups(&pid.to_string()) == ours;
        let processes = pids.into_iter().filter(here).filter_map(process).collect();
        Container { processes, askers, our_name }
    }

    fn others(&self) -> impl Iterator<Item = &ContainerProcess> {
        self.processes.iter().filter(|process| !self.askers.contains(&process.pid))
    }

    /// The command lines of volseeds that may be at work for this container: the lowest number first.
    pub(crate) fn volseeds(&self) -> impl Iterator<Item = &[OsString]> {
        let is_volseed = |process: &&ContainerProcess| {
            let supervises = process.command.get(1).is_some_and(|word| word == SUPERVISOR);
            process.name == self.our_name && !supervises && self.depth(process) <= MAX_DEPTH
        };
        self.others().filter(is_volseed).map(|process| &process.command[..])
    }

    /// The command line of the volseed that answers for the app.
    pub(crate) fn admin(&self) -> Option<&[OsString]> {
        self.others().find(|process| process.name == ADMIN).map(|process| &process.command[..])
    }

    /// How many of this container's processes are above it.
    fn depth(&self, process: &ContainerProcess) -> usize {
        let (mut depth, mut parent) = (0, process.parent);
        // A parent has not always the lower number, and what was read may not fit together.
        while let Some(above) = self.processes.iter().find(|other| other.pid == parent)
            && depth <= MAX_DEPTH
        {
            (depth, parent) = (depth + 1, above.parent);
        }
        depth
    }

    /// Whether any process can be seen that could be the app.
    pub(crate) fn shows_the_app(&self) -> bool {
        self.others().any(|process| process.name != ADMIN)
    }
}

fn name(process: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim_end().to_owned())
}

/// Nothing for one that has ended or is a thread of the kernel's: neither has a command line.
fn process(pid: u32) -> Option<ContainerProcess> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let command = line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    Some(ContainerProcess { pid, parent: parent(pid)?, name: name(&pid.to_string())?, command })
}

/// A process, its parent and so on. Without PID 1, which is what we ask for where it has started us.
fn ancestors(mut pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    while let Some(parent) = parent(pid).filter(|parent| *parent > 1 && !all.contains(parent)) {
        all.push(parent);
        pid = parent;
    }
    all
}

/// The fourth field of proc(5)'s `/proc/PID/stat`, behind a name that may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
