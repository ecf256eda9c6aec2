//! Processes as `/proc` shows them to everybody.

use std::fmt::Display;
use std::{fs, io};

use nix::libc;

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Its program's name, at most 15 bytes.
    pub name: String,
    /// It is stopped, by a signal or a debugger.
    pub is_stopped: bool,
}

/// How often a look that fails is tried again.
pub(crate) const TRIES: u32 = 3;

/// The process with this number, or `self`; nothing where it has ended.
///
/// # Errors
/// When it cannot be told.
pub(crate) fn read(process: impl Display) -> io::Result<Option<Process>> {
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::read(format!("/proc/{process}/stat")) {
            Ok(stat) => return Ok(parse(&stat)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(None);
            }
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
    }
}

/// The numbers of all processes.
///
/// # Errors
/// When `/proc` cannot be listed.
pub(crate) fn all() -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        all.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(all)
}

/// proc(5): `pid (name) state ppid …`; the name may hold anything, also parentheses.
fn parse(stat: &[u8]) -> Option<Process> {
    let text = String::from_utf8_lossy(stat);
    let (head, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let (pid, name) = head.split_once(" (")?;
    let (pid, name) = (pid.parse().ok()?, name.to_owned());
    let is_stopped = matches!(state, "T" | "t");
    // One whose first thread has ended lives on in the others, and is called a zombie all the same.
    let threads = fields.nth(15).and_then(|threads| threads.parse::<u32>().ok());
    let is_over = state == "X" || state == "Z" && threads.is_none_or(|threads| threads <= 1);
    (!is_over).then_some(Process { pid, name, is_stopped, parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let found = parse(b"7 (a) Z (b) S 3 7 7 0").unwrap();
        assert_eq!((found.name.as_str(), found.parent), ("a) Z (b", 3));
        assert_eq!(parse(b"8 (gone) Z 1 8 8 0"), None);
        assert_eq!(parse(b"8"), None);
    }
}
