//! The one directory on the volume that everything is tried in, and what is made there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::finding::Finding;
use crate::cancel::Cancel;
use crate::error::lowercase_first;
use crate::volume::{NESTED, Volume, is_refusal, make_private, openat, random, remove_directory};

/// How many calls are in flight while it is removed.
const REMOVERS: usize = 32;
/// What one write takes, in bytes.
const WRITE: usize = 1 << 20;

/// It, open for reading.
pub(super) struct TestDirectory {
    parent: Arc<OwnedFd>,
    /// Its name in the root: one that a seed ignores if it is left there, and that cannot be foreseen.
    pub(super) name: String,
    fd: Arc<OwnedFd>,
    cancel: Arc<Cancel>,
}

impl TestDirectory {
    /// Makes it, or says why it cannot be made.
    pub(super) fn create(
        volume: &Volume,
        cancel: &Arc<Cancel>,
    ) -> std::result::Result<TestDirectory, Finding> {
        let name = format!("{NESTED}{:016x}", random());
        let made = make_private(volume.root(), name.as_bytes()).map_err(|error| {
            let cause = in_words(error);
            let what = format!("a directory cannot be created in the root: {cause}");
            Finding::fail("root", what).then(match is_refusal(error) {
                true if error == Errno::ROFS => "mount the volume read-write for the container that seeds it",
                true => "run volseed as the user who owns the root, or give the root to volseed's user",
                false => "a seed would end with this error",
            })
        })?;
        let parent = Arc::clone(volume.shared_root());
        Ok(TestDirectory { parent, name, fd: Arc::new(made.fd), cancel: Arc::clone(cancel) })
    }

    /// Another one in it, to be removed before it.
    ///
    /// # Errors
    /// As `mkdirat`.
    pub(super) fn inside(&self, name: &str) -> rustix::io::Result<TestDirectory> {
        let fd = Arc::new(self.directory(name)?);
        let (parent, cancel) = (Arc::clone(&self.fd), Arc::clone(&self.cancel));
        Ok(TestDirectory { parent, name: name.to_owned(), fd, cancel })
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// When something is left.
    pub(super) fn remove(self) -> rustix::io::Result<()> {
        drop(self.fd);
        remove_directory(self.parent.as_fd(), self.name.as_bytes(), REMOVERS, &|| ())
    }

    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn cancel(&self) -> &Arc<Cancel> {
        &self.cancel
    }

    /// # Errors
    /// Once the end was asked for.
    pub(super) fn check(&self) -> rustix::io::Result<()> {
        if self.cancel.is_set() { Err(Errno::CANCELED) } else { Ok(()) }
    }

    /// A new directory in it, open for reading.
    ///
    /// # Errors
    /// As `mkdirat`.
    pub(super) fn directory(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let made = make_private(self.at(), name.as_bytes())?;
        Ok(made.fd)
    }

    /// A new file in it, open for reading and writing.
    ///
    /// # Errors
    /// As `openat`.
    pub(super) fn file(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        create(self.at(), name.as_bytes())
    }

    /// A new file with these bytes, closed.
    ///
    /// # Errors
    /// As the calls that it takes.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> rustix::io::Result<()> {
        let file = self.file(name)?;
        write_all(&file, bytes).and_then(|()| crate::volume::records::close(file))
    }
}

/// A new file in `at`, open for reading and writing.
///
/// # Errors
/// As `openat`.
pub(super) fn create(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(at, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
}

/// # Errors
/// As `pwrite`.
pub(super) fn write_all(file: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let part = &bytes[at..(at + WRITE).min(bytes.len())];
        at += rustix::io::retry_on_intr(|| rustix::io::pwrite(file, part, at as u64))?;
    }
    Ok(())
}

/// All of a file, opened by its name.
///
/// # Errors
/// As the calls that it takes.
pub(super) fn read_all(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let file = openat(at, name, OFlags::RDONLY, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; WRITE];
    loop {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut buffer, bytes.len() as u64))?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// What the file system says, as it is printed.
pub(super) fn in_words(error: Errno) -> String {
    lowercase_first(&std::io::Error::from(error).to_string())
}
