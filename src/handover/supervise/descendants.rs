//! Every process below us, whatever group or session it has made for itself, from `/proc`.

use std::io;

use nix::unistd::getpid;

use crate::system::processes::{self, Process, TRIES};

/// The living processes below this one; nothing where `/proc` is not there or another namespace's.
pub(crate) fn find() -> Option<Vec<Process>> {
    let ours = processes::read("self").ok()??.pid;
    if ours != getpid().as_raw() {
        return None;
    }
    // One that cannot be read hides all that are below it.
    let all = (0..TRIES).find_map(|_| all().ok())?;
    Some(below(ours, all))
}

fn all() -> io::Result<Vec<Process>> {
    let found = processes::all()?.into_iter().map(processes::read);
    found.filter_map(io::Result::transpose).collect()
}

fn below(root: i32, all: Vec<Process>) -> Vec<Process> {
    let (mut found, mut rest): (Vec<Process>, Vec<Process>) = (Vec::new(), all);
    loop {
        let is_below =
            |process: &Process| process.parent == root || found.iter().any(|it| it.pid == process.parent);
        let (below, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_below);
        if below.is_empty() {
            return found;
        }
        found.extend(below);
        rest = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        Process { pid, name: String::new(), is_stopped: false, parent }
    }

    #[test]
    fn all_generations_are_found_and_nobody_else() {
        let all =
            vec![process(9, 8), process(1, 0), process(8, 5), process(5, 1), process(6, 0), process(7, 6)];
        let found: Vec<i32> = below(1, all).into_iter().map(|process| process.pid).collect();
        assert_eq!(found, [5, 8, 9]);
    }
}
