//! Which version of the seed an adopted volume is of: the image's, where both have the same sentinel.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::cli::config::VolumeConfig;
use crate::seed::archived_file;
use crate::volume::{Volume, open_beneath};

/// The largest sentinel that is compared, in bytes: it names a version, and is not the app.
const MAX_BYTES: u64 = 1 << 20;

/// The image's version, where the volume's sentinel is byte for byte the image's. What cannot be read has no
/// known version, which is no failure.
pub(crate) fn version(config: &VolumeConfig, volume: &Volume) -> Option<String> {
    let version = config.seed_version.clone()?;
    has_same_sentinel(config, volume).then_some(version)
}

/// Whether the volume's sentinel is byte for byte the image's.
pub(crate) fn has_same_sentinel(config: &VolumeConfig, volume: &Volume) -> bool {
    compare(config, volume).unwrap_or(false)
}

fn compare(config: &VolumeConfig, volume: &Volume) -> Option<bool> {
    let sentinel = config.sentinel.as_deref()?;
    let there = regular(open(volume.root(), sentinel)?)?;
    let is_same = if config.from.is_dir() {
        let source = File::open(&config.from).ok()?;
        let shipped = regular(open(source.as_fd(), sentinel)?)?;
        is_same(shipped, there)
    } else if config.from.is_file() {
        archived_file(&config.from, sentinel, MAX_BYTES).is_some_and(|shipped| is_same(&shipped[..], there))
    } else {
        false
    };
    Some(is_same)
}

fn open(directory: std::os::fd::BorrowedFd<'_>, path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_beneath(directory, path.as_os_str().as_bytes(), flags, Mode::empty()).ok().map(File::from)
}

fn regular(file: File) -> Option<File> {
    let found = file.metadata().ok()?;
    (found.is_file() && found.len() <= MAX_BYTES).then_some(file)
}

fn is_same(one: impl Read, other: impl Read) -> bool {
    read(one).is_some_and(|one| read(other) == Some(one))
}

fn read(file: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
