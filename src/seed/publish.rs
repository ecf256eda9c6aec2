//! From the stage to its place: one rename for each top-level entry, the sentinel's last.
//!
//! A directory that exists on the volume is descended into, and what is below it decided name by
//! name; one that is a mount point is left to the caller, since no rename crosses it. It is one walk
//! without recursion, in which each directory is synced before the next: a run before this one may
//! have been killed before it could. Running it again after a kill moves what is left.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::losses::Lost;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::options::Existing;
use crate::volume::{change_mode, is_type, names, open_beneath, open_in_mount, openat, stat_entry};

/// Levels of which both directories stay open. Real trees are hardly deeper; what is below is opened from the
/// last of them.
const OPEN_LEVELS: usize = 16;

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

/// A directory of the stage, and the one of that name on the volume.
struct Pair {
    from: OwnedFd,
    to: OwnedFd,
}

/// A directory that both have, opened.
struct Directory {
    path: Vec<u8>,
    level: usize,
    pair: Rc<Pair>,
    /// What directories in it are opened from, and how much of their paths that stands for.
    near: (Rc<Pair>, usize),
}

/// A directory that both have, still to be looked through.
struct Common {
    path: Vec<u8>,
    level: usize,
    near: (Rc<Pair>, usize),
}

enum Next {
    Directory(Directory),
    Crossing(Crossing),
}

/// What is to be done in one directory.
#[derive(Default)]
struct Looked {
    moves: Vec<Box<[u8]>>,
    kept: u64,
}

/// One entry that is to be moved.
struct Move {
    path: Vec<u8>,
    name: Box<[u8]>,
    pair: Rc<Pair>,
}

/// Moves everything in `stage` to the same name in `volume`. What contains `sentinel` goes last, after
/// `cross` has copied what no rename can bring below a mount point. Before each move `go_on` says whether
/// it may. Every directory that both have is durable on return, whichever run moved things there.
///
/// Nothing is looked at twice: conflicts are found before the seal ([`check`]). One that appears after that is
/// reported at its entry, and what was moved by then stays for the next run.
///
/// # Errors
/// Exit 78 on a conflict; else that of `go_on` or what the file system says. Some may be moved by then.
pub fn publish(
    stage: BorrowedFd<'_>,
    volume: BorrowedFd<'_>,
    volume_path: &Path,
    sentinel: Option<&Path>,
    existing: Existing,
    go_on: &dyn Fn() -> Result<()>,
    mut cross: impl FnMut(Crossing) -> Result<Published>,
) -> Result<Published> {
    let mut walk = Walk::new(stage, volume, volume_path, existing)?;
    let mut published = Published::default();
    let (mut crossings, mut last) = (Vec::new(), None);
    while let Some(next) = walk.next()? {
        let directory = match next {
            Next::Directory(directory) => directory,
            Next::Crossing(crossing) => {
                crossings.push(crossing);
                continue;
            }
        };
        let Looked { moves, kept } = walk.look(&directory)?;
        published.kept += kept;
        for name in moves {
            let path = child_path(&directory.path, &name);
            let holds_sentinel =
                sentinel.is_some_and(|sentinel| sentinel.starts_with(std::ffi::OsStr::from_bytes(&path)));
            let entry = Move { path, name, pair: Rc::clone(&directory.pair) };
            if holds_sentinel {
                last = Some(entry);
            } else {
                go_on()?;
                published.count(entry.run(volume_path, existing)?);
            }
        }
        sync(&directory.pair, volume_path, &directory.path)?;
    }
    for crossing in crossings {
        let copied = cross(crossing)?;
        published.moved += copied.moved;
        published.kept += copied.kept;
        published.lost += copied.lost;
    }
    if let Some(entry) = last {
        go_on()?;
        published.count(entry.run(volume_path, existing)?);
        sync(&entry.pair, volume_path, &entry.path)?;
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
    if existing != Existing::Overwrite {
        return Ok(());
    }
    let mut walk = Walk::new(stage, volume, volume_path, existing)?;
    while let Some(next) = walk.next()? {
        if let Next::Directory(directory) = next {
            walk.look(&directory)?;
        }
    }
    Ok(())
}

/// Goes through the directories that stage and volume have in common, the deepest first.
struct Walk<'a> {
    volume_path: &'a Path,
    existing: Existing,
    left: Vec<Common>,
}

impl<'a> Walk<'a> {
    fn new(
        stage: BorrowedFd<'_>,
        volume: BorrowedFd<'_>,
        volume_path: &'a Path,
        existing: Existing,
    ) -> Result<Walk<'a>> {
        let from = stage.try_clone_to_owned().context("open stage of", volume_path)?;
        let to = volume.try_clone_to_owned().context("open volume", volume_path)?;
        let root = Common { path: Vec::new(), level: 0, near: (Rc::new(Pair { from, to }), 0) };
        Ok(Walk { volume_path, existing, left: vec![root] })
    }

    /// Opens the next directory.
    fn next(&mut self) -> Result<Option<Next>> {
        let Some(Common { path, level, near }) = self.left.pop() else { return Ok(None) };
        if path.is_empty() {
            return Ok(Some(Next::Directory(Directory { path, level, pair: Rc::clone(&near.0), near })));
        }
        let full = full_path(self.volume_path, &path);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let (above, rest) = (&near.0, &path[near.1..]);
        let open = |at: &OwnedFd| open_beneath(at.as_fd(), rest, flags, Mode::empty());
        let from = open(&above.from).context("open staged", full.as_path())?;
        let to = match open_in_mount(above.to.as_fd(), rest, flags) {
            Err(Errno::XDEV) => {
                let mounted = open(&above.to).context("open directory", full.as_path())?;
                return Ok(Some(Next::Crossing(Crossing { path, staged: from, mounted })));
            }
            opened => opened.context("open directory", full.as_path())?,
        };
        let pair = Rc::new(Pair { from, to });
        let near = if level < OPEN_LEVELS { (Rc::clone(&pair), path.len() + 1) } else { near };
        Ok(Some(Next::Directory(Directory { path, level, pair, near })))
    }

    /// Decides about everything in a directory. Directories that both have come next.
    fn look(&mut self, directory: &Directory) -> Result<Looked> {
        let (from, to) = (directory.pair.from.as_fd(), directory.pair.to.as_fd());
        // One look at the whole directory instead of one at each name.
        let there = names(to).context("read directory", || full_path(self.volume_path, &directory.path))?;
        let there: HashSet<Box<[u8]>> = there.into_iter().collect();
        let mut looked = Looked::default();
        for name in names(from).context("read stage of", self.volume_path)? {
            let path = child_path(&directory.path, &name);
            let full = full_path(self.volume_path, &path);
            let found = if there.contains(&name) { stat_entry(to, &name) } else { Ok(None) };
            let Some(there) = found.context("stat", full.as_path())? else {
                looked.moves.push(name);
                continue;
            };
            let Some(staged) = stat_entry(from, &name).context("stat staged", full.as_path())? else {
                continue;
            };
            let is_directory = |stat| is_type(stat, FileType::Directory);
            match (is_directory(&staged), is_directory(&there)) {
                (true, true) => {
                    let (level, near) = (directory.level + 1, directory.near.clone());
                    self.left.push(Common { path, level, near });
                }
                (false, false) if self.existing == Existing::Overwrite => {
                    refuse_mounted(to, &name, &full)?;
                    looked.moves.push(name);
                }
                (false, false) => {
                    looked.kept += 1;
                    tracing::debug!(path = printable(&path), "kept what the volume has");
                }
                (staged_is_directory, _) => {
                    self.other_type(staged_is_directory, &full)?;
                    looked.kept += 1;
                }
            }
        }
        Ok(looked)
    }

    /// A directory in a file's way, or the reverse: a conflict, or kept.
    fn other_type(&self, staged_is_directory: bool, full: &Path) -> Result<()> {
        if self.existing == Existing::Overwrite {
            let (wanted, found) =
                if staged_is_directory { ("directory", "file") } else { ("file", "directory") };
            let cause = format!("the seed has a {wanted} where the volume has a {found}");
            return Err(Error::new(Exit::Refused, "publish", cause)
                .on(full)
                .help("move it away; --existing overwrite replaces only files by files"));
        }
        let seed = if staged_is_directory { "a directory" } else { "a file" };
        tracing::warn!(
            path = full.display().to_string(),
            seed,
            "kept what the volume has, of another type than the seed's"
        );
        Ok(())
    }
}

impl Move {
    /// Whether it was moved; `false` where somebody made the name in between and it was kept.
    fn run(&self, volume_path: &Path, existing: Existing) -> Result<bool> {
        let full = full_path(volume_path, &self.path);
        let (from, to) = (self.pair.from.as_fd(), self.pair.to.as_fd());
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
        let (from, to, name) = (self.pair.from.as_fd(), self.pair.to.as_fd(), &*self.name);
        match fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
            // NFS, FUSE and old kernels do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link_or_rename(),
            result => result,
        }
    }

    /// A second name replaces nothing. A directory takes none (link(2)); its rename replaces nothing
    /// but an empty directory (rename(2)).
    fn link_or_rename(&self) -> rustix::io::Result<()> {
        let (from, to, name) = (self.pair.from.as_fd(), self.pair.to.as_fd(), &*self.name);
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
        let stat = fs::statat(&self.pair.from, &*self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_type(&stat, FileType::Directory) {
            return Err(Errno::ACCESS);
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        // It may not even be opened as it is.
        change_mode(self.pair.from.as_fd(), &self.name, (mode | Mode::RWXU).bits())?;
        let directory =
            openat(self.pair.from.as_fd(), &self.name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        let renamed = self.rename_unless_there();
        fs::fchmod(&directory, mode)?;
        renamed.map(|()| true)
    }
}

/// A file cannot be replaced where one of its own is mounted.
fn refuse_mounted(parent: BorrowedFd<'_>, name: &[u8], full: &Path) -> Result<()> {
    match open_in_mount(parent, name, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::XDEV) => Err(Error::new(Exit::Refused, "publish", "a file of its own is mounted there")
            .on(full)
            .help("unmount it, or leave --existing at keep")),
        opened => opened.map(drop).context("open", full),
    }
}

/// Makes durable what was moved to a directory, by this run or by one before it.
fn sync(pair: &Pair, volume_path: &Path, path: &[u8]) -> Result<()> {
    fs::fsync(&pair.to).context("sync directory", || full_path(volume_path, path))
}

fn child_path(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn full_path(volume: &Path, path: &[u8]) -> PathBuf {
    volume.join(std::ffi::OsStr::from_bytes(path))
}
