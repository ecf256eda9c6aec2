//! From the stage to its place: one rename for each top-level entry, the sentinel's last.
//!
//! A directory that exists on the volume is descended into, and what is below it decided name by name
//! ([`CommonWalk`]); one that is a mount point is left to the caller, since no rename crosses it. Each directory
//! is synced before the next: a run before this one may have been killed before it could. Running it again after a
//! kill moves what is left.

pub(crate) mod mounts;
pub(crate) mod root;
pub(crate) mod saved;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use super::source::entry::Time;
use super::stage::common::{CommonWalk, Crossing, Directory, Looked, Next, Pair, WalkRules, full_path, join};
use super::stage::losses::{Loss, Lost};
use crate::cli::values::Existing;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::volume::{change_mode, is_type, leads_to_mounts, openat, stat_entry, user};

/// Names that are kept of what was replaced.
const MAX_NAMES: usize = 3;

/// What publishing did.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Renames.
    pub moved: u64,
    /// Entries of the seed that were left out since the volume had something of that name.
    pub kept: u64,
    /// Files of the volume that are the seed's now.
    pub replaced: Replaced,
    /// What the volume did not keep of what was copied to mount points, and of the root.
    pub lost: Lost,
}

impl Published {
    /// Adds what was done at a mount that the seed calls `below`.
    pub(crate) fn add(&mut self, below: &[u8], other: Published) {
        self.moved += other.moved;
        self.kept += other.kept;
        self.replaced.count += other.replaced.count;
        let room = MAX_NAMES.saturating_sub(self.replaced.first.len());
        let first = other.replaced.first.iter().take(room).map(|path| join(below, path).into());
        self.replaced.first.extend(first);
        self.lost += other.lost;
    }
}

/// Files that the seed's have taken the place of, and the first of their paths.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    /// How many.
    pub count: u64,
    first: Vec<Box<[u8]>>,
}

impl Replaced {
    fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.first.len() < MAX_NAMES {
            self.first.push(path.into());
        }
    }

    /// `'a', 'b', 'c', …`
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.first.iter().map(|path| format!("'{}'", printable(path))).collect();
        let more = if self.count > self.first.len() as u64 { ", …" } else { "" };
        format!("{}{more}", names.join(", "))
    }
}

/// One entry that is to be moved.
struct Move {
    path: Vec<u8>,
    name: Box<[u8]>,
    pair: Rc<Pair>,
    replaces: bool,
}

/// What became of an entry.
enum Moved {
    /// It is in its place.
    Done,
    /// It appeared meanwhile, and stays.
    Kept,
    /// What is there may not be replaced.
    Refused,
}

/// Moves everything in `stage` to the same name in `volume`. What contains `sentinel` goes last, after
/// `cross` has filled what no rename can bring below a mount point. Before each move `go_on` says whether
/// it may. Every directory that both have is durable on return, whichever run moved things there.
///
/// Conflicts are found before the seal ([`check`](mounts)). One that appears after that is kept and told.
///
/// # Errors
/// That of `go_on`, or what the file system says. Some may be moved by then.
pub(crate) fn publish(
    stage: BorrowedFd<'_>,
    volume: BorrowedFd<'_>,
    rules: WalkRules<'_>,
    sentinel: Option<&Path>,
    go_on: &dyn Fn() -> Result<()>,
    cross: impl FnOnce(Vec<Crossing>, &mut Published) -> Result<()>,
) -> Result<Published> {
    let mut walk = CommonWalk::new(stage, volume, rules)?;
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
        let Looked { moves, kept, .. } = walk.look(&directory)?;
        published.kept += kept.len() as u64;
        let time = own_parent_of_mounts(&directory, &rules, &mut published.lost)?;
        for (name, replaces) in moves {
            let path = join(&directory.path, &name);
            let holds_sentinel =
                sentinel.is_some_and(|sentinel| sentinel.starts_with(std::ffi::OsStr::from_bytes(&path)));
            let entry = Move { path, name, pair: Rc::clone(&directory.pair), replaces };
            if holds_sentinel {
                last = Some(entry);
            } else {
                go_on()?;
                entry.run(&rules, &mut published)?;
            }
        }
        if let Some(time) = time {
            // Nothing depends on it.
            let _ = fs::futimens(&directory.pair.to, &time.timestamps());
        }
        sync(&directory.pair, rules.path, &directory.path)?;
    }
    cross(crossings, &mut published)?;
    if let Some(entry) = last {
        go_on()?;
        entry.run(&rules, &mut published)?;
        sync(&entry.pair, rules.path, &entry.path)?;
    }
    Ok(published)
}

/// Gives a directory of root's that only leads to mount points the owner and mode that the seed has for it, and
/// returns its time: a container runtime has made it, and the app may have to write there. Before anything is moved
/// into it, so that a run after a kill need not know of it.
fn own_parent_of_mounts(
    directory: &Directory,
    rules: &WalkRules<'_>,
    lost: &mut Lost,
) -> Result<Option<Time>> {
    if directory.path.is_empty() || !user::is_root() {
        return Ok(None);
    }
    let Pair { from, to } = &*directory.pair;
    let full = || full_path(rules.path, &directory.path);
    let there = fs::fstat(to).context("stat", full)?;
    if (there.st_uid, there.st_gid) != (0, 0) || !leads_to_mounts(to.as_fd()) {
        return Ok(None);
    }
    let staged = fs::fstat(from).context("stat staged", full)?;
    let owner = |stat: &Stat| (stat.st_uid, stat.st_gid);
    let mode = |stat: &Stat| stat.st_mode & 0o7777;
    let path = || join(rules.below, &directory.path);
    if owner(&staged) != owner(&there)
        && fs::fchown(to, Some(Uid::from_raw(staged.st_uid)), Some(Gid::from_raw(staged.st_gid))).is_err()
    {
        lost.add(Loss::Owner, &path(), 1);
        lost.add_owner(owner(&there));
        return Ok(None);
    }
    if mode(&staged) != mode(&there) && fs::fchmod(to, Mode::from_raw_mode(mode(&staged))).is_err() {
        lost.add(Loss::Mode, &path(), 1);
    }
    Ok(Some(Time::of(&staged)))
}

impl Move {
    /// Moves it, and counts what became of it.
    fn run(&self, rules: &WalkRules<'_>, published: &mut Published) -> Result<()> {
        match self.rename(rules)? {
            Moved::Done => {
                published.moved += 1;
                if self.replaces {
                    published.replaced.add(&self.path);
                }
            }
            Moved::Kept => published.kept += 1,
            Moved::Refused => {
                published.kept += 1;
                published.lost.add(Loss::Unreplaced, &join(rules.below, &self.path), 1);
            }
        }
        Ok(())
    }

    fn rename(&self, rules: &WalkRules<'_>) -> Result<Moved> {
        let full = full_path(rules.path, &self.path);
        let (from, to) = (self.pair.from.as_fd(), self.pair.to.as_fd());
        let overwrites = rules.existing == Existing::Overwrite && (rules.repair.is_none() || self.replaces);
        if let Some(saved) = rules.repair.and_then(|repair| repair.saved)
            && self.replaces
        {
            saved.save(to, &self.name, &self.path).context("save", full.as_path())?;
        }
        let result = match overwrites {
            true => fs::renameat(from, &*self.name, to, &*self.name),
            false => rename_unless_there(from, to, &self.name),
        };
        match result {
            Ok(()) => Ok(Moved::Done),
            // Something is mounted there, the file is open on an SMB server, or it is another user's in a directory
            // with the sticky bit.
            Err(Errno::BUSY | Errno::TXTBSY | Errno::ACCESS | Errno::PERM)
                if overwrites && self.is_file_there() =>
            {
                Ok(Moved::Refused)
            }
            Err(Errno::EXIST) if rules.existing == Existing::Keep || rules.repair.is_some() => {
                Ok(Moved::Kept)
            }
            Err(Errno::EXIST) => {
                Err(Error::new(Exit::Refused, "publish", "it appeared on the volume meanwhile")
                    .on(full.as_path())
                    .help("something else writes to the volume; stop it and start again"))
            }
            Err(Errno::ACCESS) => {
                rename_narrow(from, to, &self.name).context("publish", full.as_path())?;
                Ok(Moved::Done)
            }
            Err(error) => Err(error).context("publish", full.as_path()),
        }
    }

    fn is_file_there(&self) -> bool {
        let found = stat_entry(self.pair.to.as_fd(), &self.name);
        found.is_ok_and(|found| found.is_some_and(|found| !is_type(&found, FileType::Directory)))
    }
}

/// Moves an entry to the same name in another directory, where nothing has it.
///
/// # Errors
/// `EXIST` where something has.
pub(crate) fn rename_unless_there(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<()> {
    match fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // NFS, FUSE, old kernels and seccomp profiles do not know the flag or the call. Where it is the
        // directory that refuses, the other calls say so, too.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM) => link_or_rename(from, to, name),
        result => result,
    }
}

/// A second name replaces nothing. A directory takes none (link(2)); its rename replaces nothing
/// but an empty directory (rename(2)).
fn link_or_rename(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let Err(error) = fs::linkat(from, name, to, name, AtFlags::empty()) else {
        return fs::unlinkat(from, name, AtFlags::empty());
    };
    let staged = stat_entry(from, name)?.ok_or(Errno::NOENT)?;
    let is_directory = is_type(&staged, FileType::Directory);
    match stat_entry(to, name)? {
        // It was linked, and the answer to that was lost: a server that is asked again says that it is there.
        Some(there) if (there.st_dev, there.st_ino) == (staged.st_dev, staged.st_ino) => {
            return fs::unlinkat(from, name, AtFlags::empty());
        }
        Some(_) if !is_directory => return Err(Errno::EXIST),
        _ if error == Errno::EXIST => return Err(Errno::EXIST),
        // A directory, or a file system without hard links.
        _ => {}
    }
    match fs::renameat(from, name, to, name) {
        Err(Errno::NOTEMPTY | Errno::NOTDIR) => Err(Errno::EXIST),
        renamed => renamed,
    }
}

/// A directory that its owner may not write cannot be moved by its owner either, since its `..`
/// changes: widen it for the moment.
///
/// # Errors
/// As [`rename_unless_there`].
pub(crate) fn rename_narrow(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_type(&stat, FileType::Directory) {
        return Err(Errno::ACCESS);
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    // It may not even be opened as it is.
    change_mode(from, name, (mode | Mode::RWXU).bits())?;
    let directory = openat(from, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    let renamed = rename_unless_there(from, to, name);
    fs::fchmod(&directory, mode)?;
    renamed
}

/// Makes durable what was moved to a directory, by this run or by one before it.
fn sync(pair: &Pair, volume_path: &Path, path: &[u8]) -> Result<()> {
    fs::fsync(&pair.to).context("sync directory", || full_path(volume_path, path))
}
