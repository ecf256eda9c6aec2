//! What a user had in the place of an entry that is replaced: kept under its own path in a private directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::volume::records::OLD;
use crate::volume::{make_private, openat};

/// The most directories for one generation.
const MAX_RUNS: u32 = 10_000;

/// The directory for what is replaced in one run.
#[derive(Debug)]
pub(crate) struct Saved {
    directory: OwnedFd,
    /// Its path, for messages.
    pub(crate) path: PathBuf,
}

impl Saved {
    /// A new one in the state directory `state`, for this generation: `old/1`, `old/1.1`, …
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(state: BorrowedFd<'_>, path: &Path, generation: u64) -> Result<Saved> {
        let path = path.join(OLD);
        let old = make_private(state, OLD.as_bytes()).context("create directory", path.as_path())?.fd;
        for run in 0..MAX_RUNS {
            let name = if run == 0 { generation.to_string() } else { format!("{generation}.{run}") };
            let full = path.join(&name);
            let made =
                make_private(old.as_fd(), name.as_bytes()).context("create directory", full.as_path())?;
            if made.is_new {
                return Ok(Saved { directory: made.fd, path: full });
            }
        }
        let cause = "it holds too many directories";
        Err(Error::new(Exit::Refused, "save to", cause)
            .on(path.as_path())
            .help("remove what is not needed there"))
    }

    /// Keeps what is called `name` in `directory`, at `path` below the volume's root: it has a second name then, or
    /// was moved where the volume refuses that.
    ///
    /// # Errors
    /// When it can neither be linked nor moved. One that is gone is no error.
    pub(crate) fn save(&self, directory: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> rustix::io::Result<()> {
        let mut at = openat(self.directory.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        parts.pop();
        for part in parts {
            match fs::mkdirat(&at, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            at = openat(at.as_fd(), part, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        }
        let kept = match fs::linkat(directory, name, &at, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            // Hard links are refused, or this file's (proc(5), protected_hardlinks).
            Err(_) => fs::renameat(directory, name, &at, name),
            linked => linked,
        };
        match kept {
            Err(Errno::NOENT) => Ok(()),
            kept => kept.and_then(|()| fs::fsync(&at)),
        }
    }
}
