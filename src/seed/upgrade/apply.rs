//! The work after the seal: the new seed's entries get their places, and what they displace leaves them.
//!
//! Everything is a rename out of the claim, into it, or a link: a holder that was fenced can do none of them, but for
//! the candidates of `replace`. Nothing else is removed in the volume's tree: what goes is renamed to `aside` in the
//! claim, and looked at once more there, since a user may have changed it in that moment. Run again after a kill it finds
//! what is done, and goes on.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::Upgrade;
use super::candidate::claim_of;
use super::held::Held;
use super::look::{At, Decided, LeftOut, Missing};
use super::matrix::{Action, Why};
use super::walk::Visitor;
use crate::error::{Context, Result, printable};
use crate::seed::manifest::line::ListedAttrs;
use crate::seed::manifest::read::{ListedEntry, split};
use crate::seed::publish::saved::Saved;
use crate::seed::publish::{rename_narrow, rename_unless_there};
use crate::seed::stage::common::{full_path, join};
use crate::volume::records::{ASIDE, NEW, OFFERED, OLD, TREE, Unkept};
use crate::volume::{is_type, make_private, names, open_beneath, openat, stat_entry};

/// Where it is done.
pub(crate) struct Site<'a> {
    /// What is sealed, in the claim.
    pub stage: BorrowedFd<'a>,
    /// The state directory, and its path.
    pub state: (BorrowedFd<'a>, &'a Path),
    /// The generation of the new seed.
    pub generation: u64,
    /// The claim that it is done under.
    pub epoch: u64,
    /// Whether every call may be a round trip.
    pub is_remote: bool,
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

/// So many names of a directory are asked for one by one; for more of them it is read, since READDIR tells of all.
const ASKED: usize = 2;

/// An upgrade that is being carried out.
pub(super) struct Applying<'a> {
    pub(super) upgrade: Upgrade<'a>,
    pub(super) site: &'a Site<'a>,
    tree: OwnedFd,
    pub(super) aside: OwnedFd,
    /// The directories of `tree` in which somebody is at work, by path.
    staged_directories: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
    pub(super) held: Held,
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
        staged_directories: Mutex::default(),
        held: Held::default(),
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
    fn leaves(&self, at: At<'_>, decided: &[Decided<'_>]) -> Result<()> {
        let replaces = decided.iter().filter(|decided| decided.action == Action::Replace).count();
        if replaces > ASKED && !lock(&self.staged_directories).contains_key(at.path) {
            // It has changed since its names were made: an NFS client asks for each, unless it reads them all.
            let first = join(at.path, &decided[0].leaf.name);
            let _ = self.staged_parent(&first)?.map(|staged| names(staged.as_fd()));
        }
        let mut replacing = Vec::new();
        for Decided { leaf, found, action } in decided {
            let path = join(at.path, &leaf.name);
            match action {
                Action::Nothing => {}
                Action::Add => self.add(at, &leaf.name, &path)?,
                Action::Replace => replacing.extend(self.prepare(leaf, *found, path)?),
                Action::ReplaceAndSave => self.replace_and_save(at, leaf, *found, path)?,
                Action::Remove => {
                    (self.site.go_on)()?;
                    if self.set_aside(at, &leaf.name, &path)? {
                        self.done().removed += 1;
                        self.look_again(&path, leaf.old.as_ref())?;
                    }
                }
                Action::Stay(why, offers) => {
                    let offers = *offers && !self.is_placed(&path, *found)?;
                    self.stay(&path, *why, offers)?;
                }
            }
        }
        self.place_all(at, &replacing)
    }

    fn sweep(&self, at: At<'_>, candidates: &[Box<[u8]>]) -> Result<bool> {
        let mut is_swept = false;
        let is_earlier = |name: &[u8]| claim_of(name).is_some_and(|claim| claim < self.site.epoch);
        for name in candidates.iter().filter(|name| is_earlier(name)) {
            (self.site.go_on)()?;
            match fs::unlinkat(at.directory, &**name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => is_swept = true,
                // A user's, and no file; or it is open on an SMB server.
                Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS | Errno::BUSY | Errno::TXTBSY) => {}
                Err(error) => return Err(error).context("remove", || self.full(&join(at.path, name))),
            }
        }
        Ok(is_swept)
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
        lock(&self.staged_directories).remove(at.path);
        self.sync(at)
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

    fn stay(&self, path: &[u8], why: Why, offers: bool) -> Result<()> {
        self.done().stayed += 1;
        if offers && self.offer(path)? {
            self.done().offered.push((path.into(), why));
        }
        Ok(())
    }

    /// Moves what is staged at `path` to what is offered; whether anything was.
    pub(super) fn offer(&self, path: &[u8]) -> Result<bool> {
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

    pub(super) fn sync(&self, at: At<'_>) -> Result<()> {
        fs::fsync(at.directory).context("sync directory", || self.full(at.path))
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
    pub(super) fn staged_parent(&self, path: &[u8]) -> Result<Option<Arc<OwnedFd>>> {
        let (parent, _) = split(path);
        if let Some(known) = lock(&self.staged_directories).get(parent) {
            return Ok(Some(Arc::clone(known)));
        }
        let here: &[u8] = if parent.is_empty() { b"." } else { parent };
        match open_beneath(self.tree.as_fd(), here, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                lock(&self.staged_directories).insert(parent.to_vec(), Arc::clone(&directory));
                Ok(Some(directory))
            }
            // The new seed has nothing there, or a leaf in the place of the directory.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error).context("open staged", || self.full(path)),
        }
    }

    pub(super) fn is_staged(&self, path: &[u8]) -> Result<bool> {
        Ok(self.staged(path)?.is_some())
    }

    /// What is staged at `path`.
    pub(super) fn staged(&self, path: &[u8]) -> Result<Option<Stat>> {
        let Some(parent) = self.staged_parent(path)? else { return Ok(None) };
        stat_entry(parent.as_fd(), split(path).1).context("stat staged", || self.full(path))
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
