//! What a user had in the place of an entry that is replaced: kept under its own path in a private directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::seed::manifest::read::{join, split};
use crate::volume::{entries, is_type, make_private, names, open_beneath, openat};

/// What is kept in such directories.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Displaced {
    /// How many entries, but for directories.
    pub files: u64,
    /// Their length, in bytes.
    pub bytes: u64,
}

/// What is in the directory `kind` of the state directory; nothing where there is none, or this user may not look.
/// Blocks for as long as the file system does: each entry is looked at.
pub(crate) fn displaced(state: BorrowedFd<'_>, kind: &str) -> Option<Displaced> {
    let (mut found, mut paths) = (Displaced::default(), vec![kind.as_bytes().to_vec()]);
    while let Some(path) = paths.pop() {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let entries = open_beneath(state, &path, flags, Mode::empty()).and_then(|it| entries(it.as_fd()));
        match entries {
            Ok(entries) => {
                for (name, stat) in entries {
                    if is_type(&stat, FileType::Directory) {
                        paths.push(join(&path, &name));
                    } else {
                        found.files += 1;
                        found.bytes += stat.st_size as u64;
                    }
                }
            }
            Err(_) if path == kind.as_bytes() => return None,
            // It was removed meanwhile.
            Err(_) => {}
        }
    }
    Some(found)
}

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
    /// A new one for this generation in the directory `kind` of the state directory: `old/1`, `old/1.1`, …
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(state: BorrowedFd<'_>, path: &Path, kind: &str, generation: u64) -> Result<Saved> {
        let path = path.join(kind);
        let kinds = make_private(state, kind.as_bytes()).context("create directory", path.as_path())?.fd;
        for run in 0..MAX_RUNS {
            let name = if run == 0 { generation.to_string() } else { format!("{generation}.{run}") };
            let full = path.join(&name);
            let made =
                make_private(kinds.as_fd(), name.as_bytes()).context("create directory", full.as_path())?;
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
        if self.link(directory, name, path)? { Ok(()) } else { self.take(directory, name, path) }
    }

    /// Gives it a second name there; whether the volume lets us. One that is gone counts as linked.
    ///
    /// # Errors
    /// When the directories for it cannot be made.
    pub(crate) fn link(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> rustix::io::Result<bool> {
        let (at, own) = self.place(path)?;
        match fs::linkat(directory, name, &at, own, AtFlags::empty()) {
            Ok(()) => fs::fsync(&at).map(|()| true),
            Err(Errno::NOENT) => Ok(true),
            // Hard links are refused, or this file's (proc(5), protected_hardlinks).
            Err(_) => Ok(false),
        }
    }

    /// Moves it there.
    ///
    /// # Errors
    /// When it cannot be moved. One that is gone is no error.
    pub(crate) fn take(&self, directory: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> rustix::io::Result<()> {
        let (at, own) = self.place(path)?;
        match fs::renameat(directory, name, &at, own) {
            Err(Errno::NOENT) => Ok(()),
            moved => moved.and_then(|()| fs::fsync(&at)),
        }
    }

    /// Moves all that is in the directory `name` of `stage` there, and removes that.
    ///
    /// # Errors
    /// When something cannot be moved.
    pub(crate) fn receive(&self, stage: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        let from = openat(stage, name.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        for entry in names(from.as_fd())? {
            fs::renameat(&from, &*entry, &self.directory, &*entry)?;
        }
        fs::fsync(&self.directory)?;
        fs::unlinkat(stage, name, AtFlags::REMOVEDIR)
    }

    /// The directory for what has this path below the volume's root, and its name there.
    fn place<'p>(&self, path: &'p [u8]) -> rustix::io::Result<(OwnedFd, &'p [u8])> {
        let mut at = openat(self.directory.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        let (parents, own) = split(path);
        for part in parents.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            match fs::mkdirat(&at, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            at = openat(at.as_fd(), part, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        }
        Ok((at, own))
    }
}
