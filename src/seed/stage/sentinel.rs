//! The sentinel of a seed that has none: staged as an empty file, to be published last.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Uid};

use super::overrides::Overrides;
use super::refusals::is_refusal;
use crate::cli::config::VolumeConfig;
use crate::error::{Context, Result};
use crate::exit::Exit;
use crate::seed::manifest::digest::DataDigest;
use crate::seed::manifest::line::Listed;
use crate::seed::manifest::write::ManifestWriter;
use crate::seed::source::entry::{Meta, Time};
use crate::volume::records;
use crate::volume::{change_mode, openat, stat_entry};

/// Stages an empty sentinel in `tree` where `--sentinel` names one and the seed has none. Directories that
/// it needs are made; those that are finished keep their time.
///
/// # Errors
/// Exit 78 where it would lie behind a link; else what the file system says.
pub(crate) fn ensure(
    tree: BorrowedFd<'_>,
    tree_path: &Path,
    wishes: &VolumeConfig,
    overrides: Overrides<'_>,
    manifest: Option<&ManifestWriter>,
) -> Result<()> {
    let Some(sentinel) = &wishes.sentinel else { return Ok(()) };
    let full = tree_path.join(sentinel);
    let name = sentinel.file_name().unwrap_or_default().as_bytes();
    let mut directory = openat(tree, b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
        .context("open directory", full.as_path())?;
    for part in sentinel.parent().unwrap_or(Path::new("")).components() {
        let Component::Normal(part) = part else { continue };
        let part = part.as_bytes();
        if stat_entry(directory.as_fd(), part).context("stat", full.as_path())?.is_none() {
            let made = keeping_time(&directory, || {
                fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755))?;
                own(directory.as_fd(), part, wishes)?;
                set_mode(directory.as_fd(), part, (0o755, overrides.mode(0o755, true)), wishes)
            });
            made.context("create directory of", full.as_path())?;
        }
        let below = openat(directory.as_fd(), part, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
        directory = below.context("open directory of sentinel", full.as_path()).map_err(|error| {
            error
                .exit(Exit::Refused)
                .help("--sentinel must lie in real directories of the seed, not behind a link")
        })?;
    }
    if stat_entry(directory.as_fd(), name).context("stat", full.as_path())?.is_some() {
        return Ok(());
    }
    let made = keeping_time(&directory, || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        records::close(openat(directory.as_fd(), name, flags, Mode::from_raw_mode(0o644))?)?;
        own(directory.as_fd(), name, wishes)?;
        set_mode(directory.as_fd(), name, (0o644, overrides.mode(0o644, false)), wishes)
    });
    made.context("create sentinel", full.as_path())?;
    let Some(manifest) = manifest else { return Ok(()) };
    let Some(found) = stat_entry(directory.as_fd(), name).context("stat", full.as_path())? else {
        return Ok(());
    };
    let time = wishes.times.then(|| Time::of(&found));
    let meta = Meta { mode: found.st_mode & 0o7777, uid: found.st_uid, gid: found.st_gid, ..Meta::default() };
    let entry = Listed::File { size: 0, time, digest: DataDigest::of(b"") };
    let parent = sentinel.parent().unwrap_or(Path::new("")).as_os_str().as_bytes();
    manifest.list_alone(parent, name, &meta, entry)
}

fn own(directory: BorrowedFd<'_>, name: &[u8], wishes: &VolumeConfig) -> rustix::io::Result<()> {
    let Some((uid, gid)) = wishes.owner else { return Ok(()) };
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match fs::chownat(directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
        Err(cause) if !wishes.strict && is_refusal(cause) => Ok(()),
        result => result,
    }
}

fn set_mode(
    directory: BorrowedFd<'_>,
    name: &[u8],
    (has, wanted): (u32, u32),
    wishes: &VolumeConfig,
) -> rustix::io::Result<()> {
    if has == wanted {
        return Ok(());
    }
    match change_mode(directory, name, wanted) {
        Err(cause) if !wishes.strict && is_refusal(cause) => Ok(()),
        result => result,
    }
}

/// Changes a finished directory and gives it back the time that it had.
fn keeping_time(directory: &OwnedFd, change: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let stat = fs::fstat(directory)?;
    change()?;
    match fs::futimens(directory, &Time::of(&stat).timestamps()) {
        // Then it had no time of the seed's.
        Err(cause) if is_refusal(cause) => Ok(()),
        result => result,
    }
}
