//! The source of a seed, opened and not yet read.
//!
//! Knows what it looks like from outside: a directory, a file, standard input. What is in it is for
//! `directory` and `archive`.

pub(crate) mod archive;
pub(crate) mod decompress;
pub(crate) mod directory;
pub(crate) mod entry;
pub(crate) mod exclude;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
pub(crate) mod headers;
pub(crate) mod links;
pub(crate) mod lookup;
pub(crate) mod members;
pub(crate) mod names;
pub(crate) mod slab;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::cli::config::VolumeConfig;
use crate::cli::values::Exclude;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::volume::Volume;
use entry::Time;

/// How often a silent standard input is left for a cancellation: a fifth of what that may take.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) content: SourceContent,
    /// What it looked like, and the options: a stage of anything else is not resumed.
    pub(crate) fingerprint: String,
}

/// Where its bytes come from.
#[derive(Debug)]
pub(crate) enum SourceContent {
    /// To be walked.
    Directory(OwnedFd),
    /// An archive, and what it looked like where it is a regular file.
    File(File, Option<FileLook>),
    /// An archive.
    Stdin,
}

/// What tells that a file was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileLook {
    /// In bytes.
    pub size: u64,
    mtime: Time,
}

impl FileLook {
    fn of(stat: &Stat) -> FileLook {
        FileLook { size: stat.st_size as u64, mtime: Time::of(stat) }
    }

    /// Looks again, once all of the file was read.
    ///
    /// # Errors
    /// Exit 74 when it looks different.
    pub(crate) fn check(self, file: &File, path: &Path) -> Result<()> {
        if FileLook::of(&fs::fstat(file).context("stat", path)?) == self {
            return Ok(());
        }
        let error = Error::new(Exit::Io, "read archive", "it was changed while it was read").on(path);
        Err(error.help("nothing of it was published; start again once the archive is whole"))
    }
}

impl Source {
    /// What it looks like from outside, with the options that change what is seeded.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Opens the source of a volume. Nothing of it is read yet.
    ///
    /// # Errors
    /// Exit 66 when it is not there or a device, 64 when it is the volume.
    pub(crate) fn open(config: &VolumeConfig, volume: &Volume) -> Result<Source> {
        let path = config.from.as_path();
        let mut wishes = format!("owner {:?}, version {:?}", config.owner, config.seed_version);
        if let Some(chmod) = &config.chmod {
            wishes.push_str(&format!(", mode {chmod}"));
        }
        let excluded: Vec<&str> = config.exclude.iter().map(Exclude::as_str).collect();
        if !excluded.is_empty() {
            wishes.push_str(&format!(", without {excluded:?}"));
        }
        if path.as_os_str() == "-" {
            return Ok(Source {
                content: SourceContent::Stdin,
                fingerprint: format!("standard input, {wishes}"),
            });
        }
        // Not there, or not in what leads there: the image is not what was meant.
        let missing = |error: Errno| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::os("open source", path, error)
                .exit(Exit::Source)
                .help("--from names what the image ships: is it in the image?"),
            _ => Error::os("open source", path, error),
        };
        // Before it is opened, which can have effects on a device.
        let found = FileType::from_raw_mode(fs::stat(path).map_err(missing)?.st_mode);
        if matches!(found, FileType::CharacterDevice | FileType::BlockDevice) {
            return Err(Error::new(Exit::Source, "open source", "it is a device").on(path));
        }
        let file = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(missing)?;
        let stat = fs::fstat(&file).context("stat", path)?;
        let root = fs::fstat(volume.root()).context("stat", volume.path())?;
        if (stat.st_dev, stat.st_ino) == (root.st_dev, root.st_ino) {
            return Err(Error::new(Exit::Usage, "seed from", "it is the volume itself").on(path));
        }
        let fingerprint = format!(
            "{:?}, size {}, time {}.{:09}, {wishes}",
            path.as_os_str(),
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec
        );
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => SourceContent::Directory(file),
            FileType::RegularFile => SourceContent::File(file.into(), Some(FileLook::of(&stat))),
            _ => SourceContent::File(file.into(), None),
        };
        Ok(Source { content, fingerprint })
    }
}

#[cfg(any(fuzzing, test))]
impl Source {
    /// The same archive, read as if it came through a pipe.
    pub(crate) fn into_pipe(mut self) -> Source {
        if let SourceContent::File(_, look) = &mut self.content {
            *look = None;
        }
        self
    }
}

/// Standard input, which may stay silent: cancellation ends the wait.
pub(crate) struct Stdin {
    /// That wish.
    pub cancel: Arc<Cancel>,
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            if self.cancel.is_set() {
                return Err(io::Error::other("stopped"));
            }
            let mut wait = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut wait, Some(&LOOK_EVERY)) {
                Ok(0) | Err(Errno::INTR) => {}
                // Closed or broken, too: reading says which. Past std's own buffer, of which poll knows nothing.
                _ => match rustix::io::read(&stdin, &mut *buffer) {
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    read => return Ok(read?),
                },
            }
        }
    }
}

/// Whether standard input has nothing to read right now.
pub(crate) fn stdin_is_silent() -> bool {
    let stdin = std::io::stdin();
    let mut wait = [PollFd::new(&stdin, PollFlags::IN)];
    matches!(poll(&mut wait, Some(&Timespec::default())), Ok(0))
}
