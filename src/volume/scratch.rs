//! A private directory that is not on a volume, where an image is listed. It goes with its handle.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::{make_private, names, random, remove_tree};
use crate::error::{Error, Result};

/// A private directory that is not on the volume.
pub(crate) struct Scratch {
    parent: OwnedFd,
    name: String,
    /// It, open for reading.
    pub directory: OwnedFd,
    /// Its path, for messages.
    pub path: PathBuf,
}

impl Scratch {
    /// Makes one, in `TMPDIR` or in memory.
    ///
    /// # Errors
    /// When there is no such place.
    pub(crate) fn create() -> Result<Scratch> {
        let places = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
        let mut failed = None;
        for place in &places {
            match Scratch::create_in(place) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let error = failed.expect("there is at least one place");
        Err(Error::os("create directory in", places[0].as_path(), error)
            .help("set TMPDIR to a directory that may be written: the image is listed there"))
    }

    fn create_in(place: &Path) -> rustix::io::Result<Scratch> {
        let parent = fs::open(place, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let name = format!("volseed-{:016x}", random());
        let directory = make_private(parent.as_fd(), name.as_bytes())?.fd;
        Ok(Scratch { path: place.join(&name), parent, name, directory })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let names = names(self.directory.as_fd()).unwrap_or_default();
        for name in names {
            let _ = remove_tree(self.directory.as_fd(), &name);
        }
        let _ = fs::unlinkat(&self.parent, self.name.as_str(), AtFlags::REMOVEDIR);
    }
}
