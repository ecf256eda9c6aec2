//! From the stage to its place: one rename for each top-level entry, the sentinel's last.
//!
//! A directory that exists on the volume is descended into, and what is below it decided name by
//! name; one that is a mount point is left to the caller, since no rename crosses it. Everything is
//! looked at before anything is moved, so that a conflict leaves the volume as it was. Running it
//! again after a kill moves what is left.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::fidelity::Lost;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::options::Existing;
use crate::volume::{is_type, names, openat, stat_entry};

/// What publishing did.
#[derive(Debug, Default)]
pub struct Published {
    /// Renames.
    pub moved: u64,
    /// Entries of the seed that were left out since the volume had something of that name.
    pub kept: u64,
    /// What the volume did not keep of what was copied to mount points, and of the root.
    pub lost: Lost,
}

impl Published {
    fn count(&mut self, moved: bool) {
        if moved {
            self.moved += 1;
        } else {
            self.kept += 1;
        }
    }
}

/// A directory that is a mount point on the volume: its content has to be copied.
#[derive(Debug)]
pub struct Crossing {
    /// Below the root.
    pub path: Vec<u8>,
    /// The staged directory.
    pub staged: OwnedFd,
    /// What is mounted there.
    pub mounted: OwnedFd,
}

/// One entry that is to be moved.
struct Move {
    path: Vec<u8>,
    name: Box<[u8]>,
    from: std::rc::Rc<OwnedFd>,
    to: std::rc::Rc<OwnedFd>,
}

/// Moves everything in `stage` to the same name in `volume`. What contains `sentinel` goes last,
/// after `cross` has copied what no rename can bring below a mount point. Before each move `go_on` says
/// whether it may.
///
/// # Errors
/// Exit 78 on a conflict, before anything is moved; else that of `go_on` or what the file system says,
/// with some moved.
pub fn publish(
    stage: BorrowedFd<'_>,
    volume: BorrowedFd<'_>,
    volume_path: &Path,
    sentinel: Option<&Path>,
    existing: Existing,
    go_on: &dyn Fn() -> Result<()>,
    mut cross: impl FnMut(Crossing) -> Result<Published>,
) -> Result<Published> {
    let Plan { moves, crossings, mut published, .. } = Plan::make(stage, volume, volume_path, existing)?;
    let holds_sentinel = |entry: &&Move| {
        sentinel.is_some_and(|path| path.starts_with(std::ffi::OsStr::from_bytes(&entry.path)))
    };
    let (last, first): (Vec<&Move>, Vec<&Move>) = moves.iter().partition(holds_sentinel);
    for entry in first {
        go_on()?;
        published.count(entry.run(volume_path, existing)?);
    }
    for crossing in crossings {
        let copied = cross(crossing)?;
        published.moved += copied.moved;
        published.kept += copied.kept;
        published.lost += copied.lost;
    }
    for entry in last {
        go_on()?;
        published.count(entry.run(volume_path, existing)?);
    }
    let mut synced: Option<&OwnedFd> = None;
    for entry in &moves {
        if !synced.is_some_and(|last| std::ptr::eq(last, &*entry.to)) {
            let parent = full_path(volume_path, &entry.path);
            fs::fsync(&*entry.to).context("sync directory of", parent.as_path())?;
            synced = Some(&entry.to);
        }
    }
    Ok(published)
}

/// Looks for conflicts between what is staged and the volume, and moves nothing.
///
/// # Errors
/// Exit 78 on a conflict.
pub fn check(
    stage: BorrowedFd<'_>,
    volume: BorrowedFd<'_>,
    volume_path: &Path,
    existing: Existing,
) -> Result<()> {
    // Only files that shall be replaced can be in a wrong place.
    match existing {
        Existing::Overwrite => Plan::make(stage, volume, volume_path, existing).map(drop),
        Existing::Keep | Existing::Fail => Ok(()),
    }
}

struct Plan<'a> {
    volume_path: &'a Path,
    existing: Existing,
    moves: Vec<Move>,
    crossings: Vec<Crossing>,
    published: Published,
}

impl<'a> Plan<'a> {
    fn make(
        stage: BorrowedFd<'_>,
        volume: BorrowedFd<'_>,
        volume_path: &'a Path,
        existing: Existing,
    ) -> Result<Plan<'a>> {
        let (moves, crossings) = (Vec::new(), Vec::new());
        let mut plan = Plan { volume_path, existing, moves, crossings, published: Published::default() };
        let from = stage.try_clone_to_owned().context("open stage of", volume_path)?;
        let to = volume.try_clone_to_owned().context("open volume", volume_path)?;
        plan.directory(from.into(), to.into(), &[])?;
        Ok(plan)
    }

    fn directory(&mut self, from: std::rc::Rc<OwnedFd>, to: std::rc::Rc<OwnedFd>, path: &[u8]) -> Result<()> {
        // One look at the whole directory instead of one at each name.
        let there = names(to.as_fd()).context("read directory", || full_path(self.volume_path, path))?;
        let there: HashSet<Box<[u8]>> = there.into_iter().collect();
        for name in names(from.as_fd()).context("read stage of", self.volume_path)? {
            let mut child = path.to_vec();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(&name);
            let full = full_path(self.volume_path, &child);
            let found = if there.contains(&name) { stat_entry(to.as_fd(), &name) } else { Ok(None) };
            let Some(there) = found.context("stat", full.as_path())? else {
                self.moves.push(Move { path: child, name, from: from.clone(), to: to.clone() });
                continue;
            };
            let staged = stat_entry(from.as_fd(), &name).context("stat staged", full.as_path())?;
            let Some(staged) = staged else { continue };
            self.existing(&staged, &there, child, name, (&from, &to))?;
        }
        Ok(())
    }

    /// Decides about a name that the volume has too.
    fn existing(
        &mut self,
        staged: &Stat,
        there: &Stat,
        path: Vec<u8>,
        name: Box<[u8]>,
        (from, to): (&std::rc::Rc<OwnedFd>, &std::rc::Rc<OwnedFd>),
    ) -> Result<()> {
        let is_directory = |stat| is_type(stat, FileType::Directory);
        let full = full_path(self.volume_path, &path);
        match (is_directory(staged), is_directory(there)) {
            (true, true) => {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY;
                let below = openat(from.as_fd(), &name, flags, Mode::empty())
                    .context("open staged", full.as_path())?;
                let target = openat(to.as_fd(), &name, flags, Mode::empty())
                    .context("open directory", full.as_path())?;
                if is_mount_point(to.as_fd(), &name, there).context("open directory", full.as_path())? {
                    self.crossings.push(Crossing { path, staged: below, mounted: target });
                    return Ok(());
                }
                self.directory(below.into(), target.into(), &path)
            }
            (false, false) if self.existing == Existing::Overwrite => {
                if is_mount_point(to.as_fd(), &name, there).context("open", full.as_path())? {
                    return Err(Error::new(Exit::Refused, "publish", "a file of its own is mounted there")
                        .on(full.as_path())
                        .help("unmount it, or leave --existing at keep"));
                }
                self.moves.push(Move { path, name, from: from.clone(), to: to.clone() });
                Ok(())
            }
            (false, false) => {
                self.published.kept += 1;
                tracing::debug!(path = printable(&path), "kept what the volume has");
                Ok(())
            }
            (staged_is_directory, _) if self.existing == Existing::Overwrite => {
                let (wanted, found) =
                    if staged_is_directory { ("directory", "file") } else { ("file", "directory") };
                Err(Error::new(
                    Exit::Refused,
                    "publish",
                    format!("the seed has a {wanted} where the volume has a {found}"),
                )
                .on(full.as_path())
                .help("move it away; --existing overwrite replaces only files by files"))
            }
            (staged_is_directory, _) => {
                self.published.kept += 1;
                let seed = if staged_is_directory { "a directory" } else { "a file" };
                tracing::warn!(
                    path = full.display().to_string(),
                    seed,
                    "kept what the volume has, of another type than the seed's"
                );
                Ok(())
            }
        }
    }
}

impl Move {
    /// Whether it was moved; `false` where somebody made the name in between and it was kept.
    fn run(&self, volume_path: &Path, existing: Existing) -> Result<bool> {
        let full = full_path(volume_path, &self.path);
        let (from, to) = (self.from.as_fd(), self.to.as_fd());
        let result = match existing {
            Existing::Overwrite => fs::renameat(from, &*self.name, to, &*self.name),
            Existing::Keep | Existing::Fail => self.rename_unless_there(),
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if existing == Existing::Keep => Ok(false),
            Err(Errno::EXIST) => {
                Err(Error::new(Exit::Refused, "publish", "it appeared on the volume meanwhile")
                    .on(full.as_path())
                    .help("something else writes to the volume; stop it and start again"))
            }
            Err(Errno::ACCESS) => self.rename_narrow().context("publish", full.as_path()),
            Err(error) => Err(error).context("publish", full.as_path()),
        }
    }

    fn rename_unless_there(&self) -> rustix::io::Result<()> {
        let (from, to, name) = (self.from.as_fd(), self.to.as_fd(), &*self.name);
        match fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
            // NFS, FUSE and old kernels do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link_or_rename(),
            result => result,
        }
    }

    /// A second name replaces nothing. A directory takes none (link(2)); its rename replaces nothing
    /// but an empty directory (rename(2)).
    fn link_or_rename(&self) -> rustix::io::Result<()> {
        let (from, to, name) = (self.from.as_fd(), self.to.as_fd(), &*self.name);
        match fs::linkat(from, name, to, name, AtFlags::empty()) {
            Ok(()) => fs::unlinkat(from, name, AtFlags::empty()),
            Err(Errno::EXIST) => Err(Errno::EXIST),
            // A directory, or a file system without hard links.
            Err(_) => {
                let staged = stat_entry(from, name)?.ok_or(Errno::NOENT)?;
                if !is_type(&staged, FileType::Directory) && stat_entry(to, name)?.is_some() {
                    return Err(Errno::EXIST);
                }
                match fs::renameat(from, name, to, name) {
                    Err(Errno::NOTEMPTY | Errno::NOTDIR) => Err(Errno::EXIST),
                    renamed => renamed,
                }
            }
        }
    }

    /// A directory that its owner may not write cannot be moved by its owner either, since its `..`
    /// changes: widen it for the moment.
    fn rename_narrow(&self) -> rustix::io::Result<bool> {
        let stat = fs::statat(&*self.from, &*self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_type(&stat, FileType::Directory) {
            return Err(Errno::ACCESS);
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let directory =
            openat(self.from.as_fd(), &self.name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        fs::fchmod(&directory, mode | Mode::RWXU)?;
        let renamed = self.rename_unless_there();
        fs::fchmod(&directory, mode)?;
        renamed.map(|()| true)
    }
}

/// Whether `name` in `parent` is the root of another mount. `openat2` knows; where it is not to be
/// had, another device does.
fn is_mount_point(parent: BorrowedFd<'_>, name: &[u8], there: &Stat) -> rustix::io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    match fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Ok(_) => Ok(false),
        Err(Errno::XDEV) => Ok(true),
        Err(Errno::NOSYS | Errno::PERM) => Ok(fs::fstat(parent)?.st_dev != there.st_dev),
        Err(error) => Err(error),
    }
}

fn full_path(volume: &Path, path: &[u8]) -> PathBuf {
    volume.join(std::ffi::OsStr::from_bytes(path))
}
