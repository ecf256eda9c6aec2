//! Directories in one another, deeper than any real tree.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};

use super::Volseed;

/// Deeper than a call for each level has stack for, and a descriptor for each may be open.
pub(crate) const DEEP: usize = 30_000;

/// Directories named `a` in one another; gone with this, at the latest: a sandbox could not remove them.
pub(crate) struct Nested(PathBuf);

impl Nested {
    /// Those that a program makes.
    pub(crate) fn of(at: &Path) -> Self {
        Self(at.join("a"))
    }

    pub(crate) fn make(at: &Path, levels: usize) -> Self {
        let nested = Self::of(at);
        let mut above = OwnedFd::from(fs::File::open(at).unwrap());
        for _ in 0..levels {
            rustix::fs::mkdirat(&above, "a", Mode::RWXU).unwrap();
            let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
            above = rustix::fs::openat(above.as_fd(), "a", flags, Mode::empty()).unwrap();
        }
        nested
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        Command::new("rm").arg("-rf").arg(&self.0).status().ok();
    }
}

/// Few descriptors are enough.
pub(crate) fn with_64_files(volseed: Volseed) -> Volseed {
    with_files(volseed, 64)
}

/// With a limit of so many open files.
pub(crate) fn with_files(volseed: Volseed, limit: u32) -> Volseed {
    let script = format!("ulimit -n {limit}; exec \"$@\"");
    volseed.under(["sh", "-c", &script, "sh"])
}
