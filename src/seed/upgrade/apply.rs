//! The work after the seal: the new seed's entries get their places, and what they displace leaves them.
//!
//! Everything is a rename out of the claim, into it, or a link: a holder that was fenced can do none of them. Nothing
//! is removed in the volume's tree: what goes is renamed to `aside` in the claim, and looked at once more there, since a
//! user may have changed it in that moment. Run again after a kill it finds what is done, and goes on.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::Upgrade;
use super::aside::twice;
use super::differences::Leaf;
use super::matrix::{Action, Why};
use super::walk::{At, LeftOut, Missing, Visitor};
use crate::error::{Context, Result, printable};
use crate::seed::manifest::line::ListedAttrs;
use crate::seed::manifest::read::{ListedEntry, split};
use crate::seed::publish::saved::Saved;
use crate::seed::publish::{rename_narrow, rename_unless_there};
use crate::seed::source::entry::Time;
use crate::seed::stage::common::{full_path, join};
use crate::volume::records::{ASIDE, NEW, OFFERED, OLD, TREE, Unkept};
use crate::volume::{change_mode, is_type, make_private, open_beneath, openat, stat_entry};

/// Where it is done.
pub(crate) struct Site<'a> {
    /// What is sealed, in the claim.
    pub stage: BorrowedFd<'a>,
    /// The state directory, and its path.
    pub state: (BorrowedFd<'a>, &'a Path),
    /// The generation of the new seed.
    pub generation: u64,
    /// Asked before each rename.
    pub go_on: &'a (dyn Fn() -> Result<()> + Sync),
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Upgraded {
    /// Entries and whole directories that were added.
    pub added: u64,
    /// Entries that were replaced.
    pub replaced: u64,
    /// Entries that were removed.
    pub removed: u64,
    /// The user's that were replaced, or removed in the moment in which the user changed them.
    pub saved: Vec<Box<[u8]>>,
    /// The new seed's that were left out, and why.
    pub offered: Vec<(Box<[u8]>, Why)>,
    /// Entries that stay as they are.
    pub stayed: u64,
    /// What stays with all below it.
    pub left_out: Vec<(Box<[u8]>, LeftOut)>,
    /// Where the user's are now, if anywhere.
    pub old: Option<std::path::PathBuf>,
    /// Where the new seed's are now, if anywhere.
    pub new: Option<std::path::PathBuf>,
}

/// An upgrade that is being carried out.
pub(super) struct Applying<'a> {
    pub(super) upgrade: Upgrade<'a>,
    pub(super) site: &'a Site<'a>,
    tree: OwnedFd,
    pub(super) aside: OwnedFd,
    /// The directories of `tree` in which somebody is at work, by path.
    staged: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
    saved: Mutex<Option<Saved>>,
    /// Directories of the old seed, to go once they are empty.
    pub(super) gone: Mutex<Vec<Vec<u8>>>,
    /// Leaves in the places of such directories.
    after: Mutex<Vec<Vec<u8>>>,
    done: Mutex<Upgraded>,
}

/// Carries it out, on so many threads. Everything is durable on return. Blocks for as long as the file system does.
///
/// # Errors
/// Those of `go_on`, and what the file system says. What is in the way is left, not refused.
pub(crate) fn apply(upgrade: Upgrade<'_>, site: &Site<'_>, threads: usize) -> Result<Upgraded> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let tree = openat(site.stage, TREE.as_bytes(), flags, Mode::empty()).context("open", TREE)?;
    // Made before the seal: a holder that was fenced must not make it again.
    let aside = openat(site.stage, ASIDE.as_bytes(), flags, Mode::empty()).context("open", ASIDE)?;
    let applying = Applying {
        upgrade,
        site,
        tree,
        aside,
        staged: Mutex::default(),
        saved: Mutex::default(),
        gone: Mutex::default(),
        after: Mutex::default(),
        done: Mutex::default(),
    };
    let sentinel = applying.resume()?;
    upgrade.walk(threads, &applying)?;
    applying.remove_directories()?;
    applying.add_after_directories()?;
    applying.fill(sentinel)?;
    upgrade.visit_sentinel(&applying)?;
    applying.end()
}

impl Visitor for Applying<'_> {
    fn leaf(&self, at: At<'_>, leaf: &Leaf, found: Option<&Stat>, action: Action) -> Result<()> {
        let path = join(at.path, &leaf.name);
        match action {
            Action::Nothing => Ok(()),
            Action::Add => self.add(at, &leaf.name, &path),
            Action::Replace | Action::ReplaceAndSave => {
                self.replace(at, leaf, found, &path, action == Action::ReplaceAndSave)
            }
            Action::Remove => {
                (self.site.go_on)()?;
                if self.set_aside(at, &leaf.name, &path)? {
                    self.done().removed += 1;
                    self.look_again(&path, leaf.old.as_ref())?;
                }
                Ok(())
            }
            Action::Stay(why, offers) => self.stay(&path, why, offers),
        }
    }

    fn tree(&self, at: At<'_>, name: &[u8], old: Option<&ListedEntry>, action: Action) -> Result<()> {
        let path = join(at.path, name);
        match action {
            Action::Nothing | Action::Remove => Ok(()),
            Action::Add => self.add(at, name, &path),
            Action::Stay(why, offers) => self.stay(&path, why, offers),
            // A leaf makes room for a directory: it is absent for one round trip.
            Action::Replace | Action::ReplaceAndSave => {
                if !self.is_staged(&path)? {
                    return Ok(());
                }
                (self.site.go_on)()?;
                let made_room = self.set_aside(at, name, &path)?;
                self.add(at, name, &path)?;
                if made_room { self.look_again(&path, old) } else { Ok(()) }
            }
        }
    }

    fn after_directory(&self, path: Vec<u8>) {
        lock(&self.after).push(path);
    }

    fn gone(&self, path: Vec<u8>) {
        lock(&self.gone).push(path);
    }

    fn left_out(&self, path: &[u8], why: LeftOut) {
        self.done().left_out.push((path.into(), why));
    }

    fn attrs(&self, at: At<'_>, attrs: ListedAttrs) -> Result<()> {
        (self.site.go_on)()?;
        let Unkept { owners, modes, .. } = self.upgrade.unkept();
        if !owners {
            let owner = (Some(Uid::from_raw(attrs.uid)), Some(Gid::from_raw(attrs.gid)));
            unless_refused(fs::fchown(at.directory, owner.0, owner.1), || self.full(at.path))?;
        }
        if !modes {
            unless_refused(fs::fchmod(at.directory, Mode::from_raw_mode(attrs.mode)), || self.full(at.path))?;
        }
        Ok(())
    }

    fn leave(&self, at: At<'_>) -> Result<()> {
        lock(&self.staged).remove(at.path);
        fs::fsync(at.directory).context("sync directory", || self.full(at.path))
    }
}

impl Applying<'_> {
    /// Moves what is staged at `path` to its place, where nothing is.
    pub(super) fn add(&self, at: At<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        let Some(from) = self.staged_parent(path)? else { return Ok(()) };
        (self.site.go_on)()?;
        let added = match rename_unless_there(from.as_fd(), at.directory, name) {
            Err(Errno::ACCESS) => rename_narrow(from.as_fd(), at.directory, name),
            added => added,
        };
        match added {
            Ok(()) => self.done().added += 1,
            // An earlier run has moved it, or left it out.
            Err(Errno::NOENT) => {}
            Err(Errno::EXIST) => return self.stay(path, Why::Own, true),
            Err(error) => return Err(error).context("publish", || self.full(path)),
        }
        Ok(())
    }

    fn replace(&self, at: At<'_>, leaf: &Leaf, found: Option<&Stat>, path: &[u8], saves: bool) -> Result<()> {
        let Some(from) = self.staged_parent(path)? else { return Ok(()) };
        let Some(staged) = stat_entry(from.as_fd(), &leaf.name).context("stat staged", || self.full(path))?
        else {
            return Ok(());
        };
        (self.site.go_on)()?;
        let full = || self.full(path);
        let unchanged =
            leaf.old.as_ref().and_then(|old| old.attrs) == leaf.new.as_ref().and_then(|new| new.attrs);
        if let Some(there) = found.filter(|_| unchanged) {
            self.carry_over(from.as_fd(), &leaf.name, &staged, there).context("change staged", full)?;
        }
        if let Some(there) = found
            && (there.st_size, there.st_mtime) == (staged.st_size, staged.st_mtime)
        {
            // A server's ETag is made of size and time, and an opcode cache compares times alone.
            let time = Time { seconds: staged.st_mtime + 1, nanoseconds: 0 };
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            fs::utimensat(&from, &*leaf.name, &time.timestamps(), flags).context("set time of", full)?;
        }
        if saves && let Some(why) = self.upgrade.is_fixed(at, &leaf.name)? {
            self.left_out(path, why);
            return Ok(());
        }
        let mut made_room = false;
        if saves && self.with_saved(|saved| saved.link(at.directory, &leaf.name, path))? {
            self.done().saved.push(path.into());
        } else if saves {
            made_room = self.set_aside(at, &leaf.name, path)?;
        }
        match twice(|| fs::renameat(&from, &*leaf.name, at.directory, &*leaf.name)) {
            Ok(()) => self.done().replaced += 1,
            Err(Errno::NOENT) => {}
            // The file is open on an SMB server, or another user's in a directory with the sticky bit.
            Err(Errno::BUSY | Errno::TXTBSY | Errno::ACCESS | Errno::PERM | Errno::ISDIR) => {
                if self.refused(at, &leaf.name, path)? == LeftOut::Closed {
                    self.offer(path)?;
                }
            }
            Err(error) => return Err(error).context("publish", full),
        }
        if made_room { self.look_again(path, None) } else { Ok(()) }
    }

    /// Where only the user has changed owner or mode, the user's stay.
    fn carry_over(
        &self,
        from: BorrowedFd<'_>,
        name: &[u8],
        staged: &Stat,
        there: &Stat,
    ) -> rustix::io::Result<()> {
        let (owner, mode) = ((there.st_uid, there.st_gid), there.st_mode & 0o7777);
        if is_type(staged, FileType::Symlink) || is_type(there, FileType::Symlink) {
            return Ok(());
        }
        if (staged.st_uid, staged.st_gid) != owner {
            let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
            match fs::chownat(from, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        match staged.st_mode & 0o7777 == mode {
            true => Ok(()),
            false => change_mode(from, name, mode),
        }
    }

    fn stay(&self, path: &[u8], why: Why, offers: bool) -> Result<()> {
        self.done().stayed += 1;
        if offers && self.offer(path)? {
            self.done().offered.push((path.into(), why));
        }
        Ok(())
    }

    /// Moves what is staged at `path` to what is offered; whether anything was.
    fn offer(&self, path: &[u8]) -> Result<bool> {
        let Some(from) = self.staged_parent(path)? else { return Ok(false) };
        let full = || self.full(path);
        let offered = make_private(self.site.stage, OFFERED.as_bytes()).context("create directory", full)?.fd;
        let (parent, name) = split(path);
        let to = make_below(offered, parent).context("create directory", full)?;
        match fs::renameat(&from, name, &to, name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error).context("offer", full),
        }
    }

    fn add_after_directories(&self) -> Result<()> {
        for path in std::mem::take(&mut *lock(&self.after)) {
            let (parent, name) = split(&path);
            let Some(directory) = self.directory(parent)? else { continue };
            let at = At { path: parent, directory: directory.as_fd() };
            match stat_entry(at.directory, name).context("stat", || self.full(&path))? {
                None => self.add(at, name, &path)?,
                Some(found) if is_type(&found, FileType::Directory) => {
                    self.stay(&path, Why::Conflict, true)?
                }
                Some(_) => {}
            }
            self.leave(at)?;
        }
        Ok(())
    }

    /// What was offered leaves the claim, and what was done is told.
    fn end(self) -> Result<Upgraded> {
        let (state, path) = self.site.state;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let mut done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        if openat(self.site.stage, OFFERED.as_bytes(), flags, Mode::empty()).is_ok() {
            (self.site.go_on)()?;
            let place = Saved::create(state, path, NEW, self.site.generation)?;
            place.receive(self.site.stage, OFFERED).context("offer in", place.path.as_path())?;
            done.new = Some(place.path);
        }
        let saved = self.saved.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.old = saved.map(|saved| saved.path);
        done.saved.sort_unstable();
        done.offered.sort_unstable();
        done.left_out.sort_unstable();
        Ok(done)
    }

    pub(super) fn with_saved<T>(&self, act: impl FnOnce(&Saved) -> rustix::io::Result<T>) -> Result<T> {
        let mut saved = lock(&self.saved);
        if saved.is_none() {
            let (state, path) = self.site.state;
            *saved = Some(Saved::create(state, path, OLD, self.site.generation)?);
        }
        let saved = saved.as_ref().expect("it was made just now");
        act(saved).context("save in", saved.path.as_path())
    }

    /// The staged directory that `path` is in.
    fn staged_parent(&self, path: &[u8]) -> Result<Option<Arc<OwnedFd>>> {
        let (parent, _) = split(path);
        if let Some(known) = lock(&self.staged).get(parent) {
            return Ok(Some(Arc::clone(known)));
        }
        let here: &[u8] = if parent.is_empty() { b"." } else { parent };
        match open_beneath(self.tree.as_fd(), here, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                lock(&self.staged).insert(parent.to_vec(), Arc::clone(&directory));
                Ok(Some(directory))
            }
            // The new seed has nothing there, or a leaf in the place of the directory.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error).context("open staged", || self.full(path)),
        }
    }

    pub(super) fn is_staged(&self, path: &[u8]) -> Result<bool> {
        let Some(parent) = self.staged_parent(path)? else { return Ok(false) };
        Ok(stat_entry(parent.as_fd(), split(path).1).context("stat staged", || self.full(path))?.is_some())
    }

    /// A directory of the volume that may be gone, or something else by now.
    pub(super) fn directory(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        match self.upgrade.open(path) {
            Ok(directory) => Ok(Some(directory)),
            Err(Missing::LeftOut(_)) => Ok(None),
            Err(Missing::Error(error)) => Err(error),
        }
    }

    pub(super) fn done(&self) -> MutexGuard<'_, Upgraded> {
        lock(&self.done)
    }

    pub(super) fn full(&self, path: &[u8]) -> std::path::PathBuf {
        full_path(self.upgrade.volume.path(), path)
    }
}

/// Makes the directories of `path` in `directory`, and opens the last.
fn make_below(directory: OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    parts.into_iter().try_fold(directory, |directory, part| Ok(make_private(directory.as_fd(), part)?.fd))
}

/// What may not be changed in the volume's tree stays, and is told.
fn unless_refused(result: rustix::io::Result<()>, path: impl Fn() -> std::path::PathBuf) -> Result<()> {
    match result {
        Err(cause @ (Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOTSUP)) => {
            tracing::warn!(path = printable(path().as_os_str().as_encoded_bytes()), %cause, "the directory keeps its mode or owner");
            Ok(())
        }
        result => result.context("change", path),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
