//! `--state-dir`: the place of the state beside the root, on the same mount, where renames lead from one to the
//! other.
//!
//! What is asked here costs requests of its own, which only volumes pay that have one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::records::DIRECTORY;
use super::target::{is_same_directory, is_same_mount};
use super::{Location, NESTED, is_nested, names, openat, random, stat_entry};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;

/// The most directories from the state directory up to the top of its mount.
const MAX_LEVELS: usize = 256;

/// Where the state is of the volume `to`, whose root is open: `dir`, or nothing where there is a `.volseed` in the
/// root, which is used then.
///
/// # Errors
/// Exit 64 when `dir` is in another mount or inside of the root, 73 when its parent is not there.
pub(crate) fn locate(root: &Arc<OwnedFd>, to: &Path, dir: &Path) -> Result<Option<Location<Arc<OwnedFd>>>> {
    if stat_entry(root.as_fd(), DIRECTORY.as_bytes()).context("stat", to)?.is_some() {
        return Ok(None);
    }
    let wrong = |cause: &str| Error::new(Exit::Usage, "use state directory", cause.to_owned()).on(dir);
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let parent = fs::open(above, flags, Mode::empty()).context("open directory", above).map_err(|error| {
        error
            .exit(Exit::Volume)
            .help("the parent of --state-dir must be there: mount the volume, or create it")
    })?;
    if !is_same_mount(root.as_fd(), parent.as_fd()) {
        return Err(wrong("it is not in the mount of --to").help(
            "both are directories of one mounted volume; leave --state-dir out where a part of one is mounted (subPath)",
        ));
    }
    if is_inside(&parent, root.as_fd()).context("look at parents of", dir)? {
        return Err(
            wrong("it is inside of --to").help("leave --state-dir out: the state is in .volseed there")
        );
    }
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or(DIRECTORY).to_owned();
    Ok(Some(Location { parent: Arc::new(parent), name, path: dir.to_owned() }))
}

/// Whether `directory` is `root` or below it.
fn is_inside(directory: &OwnedFd, root: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut at = directory.try_clone().map_err(|_| Errno::MFILE)?;
    for _ in 0..MAX_LEVELS {
        if is_same_directory(at.as_fd(), root) {
            return Ok(true);
        }
        let above = openat(at.as_fd(), b"..", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        if is_same_directory(at.as_fd(), above.as_fd()) || !is_same_mount(at.as_fd(), above.as_fd()) {
            return Ok(false);
        }
        at = above;
    }
    Ok(false)
}

/// Whether a directory can be renamed from `state`, a directory of ours, into `root`. Two that are in one mount may
/// still be apart: by project quotas, or on file systems that join others.
///
/// # Errors
/// Exit 78 when it cannot.
pub(crate) fn check_renames(state: BorrowedFd<'_>, root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    // What a run left that was killed right here.
    for name in names(root).context("read directory", path)?.iter().filter(|name| is_nested(name)) {
        let _ = fs::unlinkat(root, &**name, AtFlags::REMOVEDIR);
    }
    let name = format!("{NESTED}{:016x}", random());
    fs::mkdirat(state, &name, Mode::RWXU).context("create directory", path)?;
    match fs::renameat(state, &name, root, &name) {
        Ok(()) => fs::unlinkat(root, &name, AtFlags::REMOVEDIR).context("remove directory", path),
        Err(Errno::XDEV) => {
            let _ = fs::unlinkat(state, &name, AtFlags::REMOVEDIR);
            let cause = "nothing can be renamed from it to the volume's root";
            Err(Error::new(Exit::Refused, "use state directory", cause)
                .on(path)
                .help("leave --state-dir out, or name a directory of the same file system and quota"))
        }
        Err(error) => {
            let _ = fs::unlinkat(state, &name, AtFlags::REMOVEDIR);
            Err(error).context("rename a directory into", path)
        }
    }
}
