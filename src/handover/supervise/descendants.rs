//! Every process below us, whatever group or session it has made for itself, from `/proc`.

use std::path::Path;
use std::{fs, io};

use nix::libc;
use nix::unistd::getpid;

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: i32,
    pub name: String,
    /// It is stopped, by a signal or a debugger.
    pub is_stopped: bool,
    parent: i32,
}

/// How often a look that fails is tried again.
const TRIES: u32 = 3;

/// The living processes below this one; nothing where `/proc` is not there or another namespace's.
pub(crate) fn find() -> Option<Vec<Process>> {
    let ours = getpid().as_raw();
    let own = fs::read_link("/proc/self").ok()?;
    if own.to_str()? != ours.to_string() {
        return None;
    }
    // One that cannot be read hides all that are below it.
    let all = (0..TRIES).find_map(|_| all().ok())?;
    Some(below(ours, all))
}

fn all() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        all.extend(stat(&entry.path())?.and_then(|stat| parse(pid, &stat)));
    }
    Ok(all)
}

/// What the kernel says of a process; nothing of one that has ended.
fn stat(process: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::read(process.join("stat")) {
            Ok(stat) => return Ok(Some(stat)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(None);
            }
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
    }
}

/// proc(5): `pid (name) state ppid …`; the name may hold anything, also parentheses.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let text = String::from_utf8_lossy(stat);
    let (head, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let name = head.split_once('(')?.1.to_owned();
    let is_stopped = matches!(state, "T" | "t");
    // One whose first thread has ended lives on in the others, and is called a zombie all the same.
    let threads = fields.nth(15).and_then(|threads| threads.parse::<u32>().ok());
    let is_over = state == "X" || state == "Z" && threads.is_none_or(|threads| threads <= 1);
    (!is_over).then_some(Process { pid, name, is_stopped, parent })
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
    fn names_may_hold_anything() {
        let found = parse(7, b"7 (a) Z (b) S 3 7 7 0").unwrap();
        assert_eq!((found.name.as_str(), found.parent), ("a) Z (b", 3));
        assert_eq!(parse(8, b"8 (gone) Z 1 8 8 0"), None);
        assert_eq!(parse(8, b"8"), None);
    }

    #[test]
    fn all_generations_are_found_and_nobody_else() {
        let all =
            vec![process(9, 8), process(1, 0), process(8, 5), process(5, 1), process(6, 0), process(7, 6)];
        let found: Vec<i32> = below(1, all).into_iter().map(|process| process.pid).collect();
        assert_eq!(found, [5, 8, 9]);
    }
}
