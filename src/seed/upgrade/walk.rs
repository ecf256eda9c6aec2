//! Through the directories in which two seeds differ: what the volume has in each, and what follows.
//!
//! Only directories that lead to a difference are opened, each from the one that it is in: an NFS client that has just
//! opened a directory does not believe what it has cached of its names (nfs(5), close-to-open). No link is followed, and
//! no other mount entered.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{self, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::Upgrade;
use super::candidate::claim_of;
use super::differences::{Entry, Leaf, Names, attrs, leaves, names};
use super::matrix::{Action, Change, Found, Rule, Why, decide};
use crate::error::{Context, Result};
use crate::seed::manifest::compare::has_attrs;
use crate::seed::manifest::line::ListedAttrs;
use crate::seed::manifest::read::{ListedEntry, split};
use crate::seed::manifest::verify::unreadable;
use crate::seed::stage::common::{full_path, join};
use crate::system::parallel::work_off;
use crate::volume::records::Unkept;
use crate::volume::{entries_of, is_type, look_at, open_in_mount};

/// So many leaves of a directory are visited one after the other. Not fewer: whoever changes a directory has it for itself,
/// and threads that wait for one of it are missing in others.
const LEAVES: usize = 32;

/// A directory of the volume.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    /// Its path below the root.
    pub path: &'a [u8],
    /// The directory.
    pub directory: BorrowedFd<'a>,
}

/// Why everything below a directory is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeftOut {
    /// The user removed it.
    Removed,
    /// The user has something else in its place.
    Replaced,
    /// Something is mounted there.
    Mounted,
    /// This user may change nothing there.
    Closed,
}

impl LeftOut {
    /// As it is printed.
    pub(crate) fn text(self) -> &'static str {
        match self {
            LeftOut::Removed => "its directory was removed by the user",
            LeftOut::Replaced => "the user has something else in place of the directory",
            LeftOut::Mounted => "something is mounted there",
            LeftOut::Closed => "nothing may be changed there",
        }
    }
}

/// What follows for an entry that is no directory.
pub(super) struct Decided<'a> {
    /// The entry.
    pub leaf: &'a Leaf,
    /// What the volume has there.
    pub found: Option<&'a Stat>,
    /// What is to be done.
    pub action: Action,
}

/// Hears what follows for each entry. Called by several threads at once.
pub(super) trait Visitor: Sync {
    /// Candidates (see `replace`) are in a directory, before anything is decided on what it has. Whether any was removed.
    fn sweep(&self, at: At<'_>, candidates: &[&[u8]]) -> Result<bool>;
    /// For some entries of a directory that are none.
    fn leaves(&self, at: At<'_>, decided: &[Decided<'_>]) -> Result<()>;
    /// For a whole directory that only the new seed has. It replaces a leaf of the old one's, if anything.
    fn tree(&self, at: At<'_>, name: &[u8], old: Option<&ListedEntry>, action: Action) -> Result<()>;
    /// A leaf of the new seed's has to wait until the old one's directory is gone.
    fn after_directory(&self, path: Vec<u8>);
    /// A directory that only the old seed has may go once it is empty.
    fn gone(&self, path: Vec<u8>);
    /// Nothing below this path is touched.
    fn left_out(&self, path: &[u8], why: LeftOut);
    /// A directory that both have is as the old seed had it, and gets this mode and owner.
    fn attrs(&self, at: At<'_>, attrs: ListedAttrs) -> Result<()>;
    /// All of a directory was visited.
    fn leave(&self, at: At<'_>) -> Result<()>;
}

/// Which seeds have a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Old,
    New,
}

/// A piece of the way.
enum Part {
    /// A directory, which is in this one of the volume.
    Directory { path: Vec<u8>, of: Of, parent: Arc<OwnedFd> },
    /// Some of the leaves of one that is open.
    Leaves(Arc<OpenDirectory>, Range<usize>),
}

/// A directory whose leaves are visited, by several threads at once: in a large one each waits for the server.
struct OpenDirectory {
    path: Vec<u8>,
    directory: Arc<OwnedFd>,
    found: HashMap<Box<[u8]>, Stat>,
    leaves: Vec<Leaf>,
    attrs: Option<(ListedAttrs, ListedAttrs)>,
    /// Parts of the leaves that are not done yet.
    left: AtomicUsize,
}

impl OpenDirectory {
    fn at(&self) -> At<'_> {
        At { path: &self.path, directory: self.directory.as_fd() }
    }
}

impl Upgrade<'_> {
    /// Visits all that differs but for the sentinel, on so many threads. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// Those of the visitor, and what the file system says.
    pub(super) fn walk(&self, threads: usize, visitor: &dyn Visitor) -> Result<()> {
        let touched = self.touched().map_err(unreadable)?;
        let root = self.volume.root().try_clone_to_owned().context("open volume", self.volume.path())?;
        let first = vec![Part::Directory { path: Vec::new(), of: Of::Both, parent: Arc::new(root) }];
        work_off(threads, first, |part, more| match part {
            Part::Directory { path, of, parent } => self.visit((&path, of, &parent), &touched, more, visitor),
            Part::Leaves(open, range) => self.visit_leaves(&open, range, visitor),
        })
    }

    /// The directories in which the seeds differ, and those above them.
    fn touched(&self) -> io::Result<HashSet<Vec<u8>>> {
        let mut touched = HashSet::from([Vec::new()]);
        let paths: BTreeSet<&[u8]> =
            self.old.into_iter().flat_map(|old| old.below(b"")).chain(self.new.below(b"")).collect();
        for path in paths {
            let names = names(self.old, Some(self.new), path);
            let differs = !names.old.is_empty()
                || !names.new.is_empty()
                || attrs(self.old, Some(self.new), path).is_some()
                || !leaves(self.old, Some(self.new), path)?.is_empty();
            let mut path = path;
            while differs && touched.insert(path.to_vec()) {
                path = split(path).0;
            }
        }
        Ok(touched)
    }

    /// Visits the sentinel alone, if it differs and its directory is there.
    ///
    /// # Errors
    /// As [`Upgrade::walk`].
    pub(super) fn visit_sentinel(&self, visitor: &dyn Visitor) -> Result<()> {
        let Some(sentinel) = &self.rules.sentinel else { return Ok(()) };
        let (path, name) = split(sentinel);
        let changed = leaves(self.old, Some(self.new), path).map_err(unreadable)?;
        // One that the new seed does not have is volseed's own, and stays.
        let leaf = changed.iter().find(|leaf| *leaf.name == *name && leaf.new.is_some());
        let Some(leaf) = leaf else { return Ok(()) };
        let visited = self.open(path).and_then(|directory| {
            let at = At { path, directory: directory.as_fd() };
            let found = self.swept(at, &|found| found == name, visitor)?;
            let visited = self.decide(at, leaf, found.get(name)).and_then(|decided| {
                visitor.leaves(at, &[decided])?;
                visitor.leave(at)
            });
            visited.map_err(Missing::Error)
        });
        match visited {
            Ok(()) => Ok(()),
            Err(Missing::Error(error)) => Err(error),
            Err(Missing::LeftOut(why)) => {
                visitor.left_out(path, why);
                Ok(())
            }
        }
    }

    fn visit(
        &self,
        (path, of, parent): (&[u8], Of, &OwnedFd),
        touched: &HashSet<Vec<u8>>,
        more: &mut Vec<Part>,
        visitor: &dyn Visitor,
    ) -> Result<()> {
        let (old, new) = (self.old.filter(|_| of != Of::New), Some(self.new).filter(|_| of != Of::Old));
        let leaves = leaves(old, new, path).map_err(unreadable)?;
        let (names, attrs) = (names(old, new, path), attrs(old, new, path));
        let opened = self.open_in(parent, split(path).1, path).and_then(|directory| {
            let directory = Arc::new(directory);
            let part = |path, of| Part::Directory { path, of, parent: Arc::clone(&directory) };
            let below = names.both.iter().map(|name| join(path, name)).filter(|path| touched.contains(path));
            more.extend(below.map(|path| part(path, Of::Both)));
            if leaves.is_empty() && names.old.is_empty() && names.new.is_empty() && attrs.is_none() {
                return Ok(());
            }
            let mut wanted: HashSet<&[u8]> = names.old.iter().chain(&names.new).copied().collect();
            wanted.extend(leaves.iter().map(|leaf| &*leaf.name));
            let at = At { path, directory: directory.as_fd() };
            let found = self.swept(at, &|name| wanted.contains(name), visitor)?;
            let visited = (|| {
                self.visit_names(at, (&names, &leaves), &found, visitor, |path, of| {
                    more.push(part(path, of))
                })?;
                let leaves = self.own_leaves(path, leaves, &names, visitor);
                let parts = leaves.len().div_ceil(LEAVES);
                let open = OpenDirectory {
                    path: path.to_vec(),
                    directory: Arc::clone(&directory),
                    found,
                    leaves,
                    attrs,
                    left: AtomicUsize::new(parts),
                };
                if parts == 0 {
                    return self.leave(&open, visitor);
                }
                let open = Arc::new(open);
                let range = |part| part * LEAVES..open.leaves.len().min((part + 1) * LEAVES);
                more.extend((0..parts).map(|part| Part::Leaves(Arc::clone(&open), range(part))));
                Ok(())
            })();
            visited.map_err(Missing::Error)
        });
        match (opened, of) {
            (Ok(()), _) => Ok(()),
            (Err(Missing::Error(error)), _) => Err(error),
            (Err(Missing::LeftOut(_)), Of::Old) => Ok(()),
            (Err(Missing::LeftOut(why)), _) => {
                visitor.left_out(path, why);
                Ok(())
            }
        }
    }

    /// Visits the directories in one that only one of the seeds has; `more` hears of those that come next.
    fn visit_names(
        &self,
        at: At<'_>,
        (names, leaves): (&Names<'_>, &[Leaf]),
        found: &HashMap<Box<[u8]>, Stat>,
        visitor: &dyn Visitor,
        mut more: impl FnMut(Vec<u8>, Of),
    ) -> Result<()> {
        for name in &names.new {
            let old = leaves.iter().find(|leaf| *leaf.name == **name).filter(|leaf| leaf.old.is_some());
            if self.tree(at, (name, old), found, visitor)? {
                more(join(at.path, name), Of::New);
            }
        }
        for name in &names.old {
            let child = join(at.path, name);
            let is_there = found.get(*name).is_some_and(|found| is_type(found, FileType::Directory));
            if is_there {
                more(child.clone(), Of::Old);
                if self.rules.of(&child) == Rule::Default {
                    visitor.gone(child);
                }
            }
        }
        Ok(())
    }

    /// The leaves that are visited as such, each when its turn comes.
    fn own_leaves(
        &self,
        path: &[u8],
        leaves: Vec<Leaf>,
        names: &Names<'_>,
        visitor: &dyn Visitor,
    ) -> Vec<Leaf> {
        let is_own = |leaf: &Leaf| {
            let child = join(path, &leaf.name);
            let is_directory = |names: &[&[u8]]| names.contains(&&*leaf.name);
            if self.rules.sentinel.as_deref() == Some(&*child) || is_directory(&names.new) {
                return false;
            }
            let waits = is_directory(&names.old) && self.rules.of(&child) == Rule::Default;
            if waits {
                visitor.after_directory(child);
            }
            !waits
        };
        leaves.into_iter().filter(is_own).collect()
    }

    fn visit_leaves(&self, open: &OpenDirectory, range: Range<usize>, visitor: &dyn Visitor) -> Result<()> {
        let mut decided = Vec::with_capacity(range.len());
        for leaf in &open.leaves[range] {
            decided.push(self.decide(open.at(), leaf, open.found.get(&leaf.name))?);
        }
        visitor.leaves(open.at(), &decided)?;
        match open.left.fetch_sub(1, Ordering::AcqRel) {
            1 => self.leave(open, visitor),
            _ => Ok(()),
        }
    }

    /// After everything else: a mode may forbid it.
    fn leave(&self, open: &OpenDirectory, visitor: &dyn Visitor) -> Result<()> {
        let at = open.at();
        if let Some((was, wanted)) = open.attrs {
            let stat = fs::fstat(at.directory).context("stat", || full_path(self.volume.path(), at.path))?;
            if self.rules.of(at.path) != Rule::Protect && has_attrs(was, &stat, self.unkept()) {
                visitor.attrs(at, wanted)?;
            }
        }
        visitor.leave(at)
    }
}

/// Why a directory was not visited.
pub(super) enum Missing {
    LeftOut(LeftOut),
    Error(crate::error::Error),
}

impl Upgrade<'_> {
    /// Opens the directory at `path` of the volume, and every one above it.
    pub(super) fn open(&self, path: &[u8]) -> std::result::Result<OwnedFd, Missing> {
        let mut directory = self.open_in(self.volume.root(), b"", b"")?;
        let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            directory = self.open_in(&directory, split(&path[..end]).1, &path[..end])?;
        }
        Ok(directory)
    }

    /// Opens the directory `name` in `parent`, which has this path; without a name `parent` itself, again.
    fn open_in(&self, parent: impl AsFd, name: &[u8], path: &[u8]) -> std::result::Result<OwnedFd, Missing> {
        let name: &[u8] = if name.is_empty() { b"." } else { name };
        let open = || open_in_mount(parent.as_fd(), name, OFlags::DIRECTORY | OFlags::RDONLY);
        // All below it is left out for good: not for what was refused in one moment.
        match open().or_else(|_| open()) {
            Err(Errno::NOENT) => Err(Missing::LeftOut(LeftOut::Removed)),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(Missing::LeftOut(LeftOut::Replaced)),
            Err(Errno::XDEV) => Err(Missing::LeftOut(LeftOut::Mounted)),
            Err(Errno::ACCESS | Errno::PERM) => Err(Missing::LeftOut(LeftOut::Closed)),
            opened => {
                let full = || full_path(self.volume.path(), path);
                opened.context("open directory", full).map_err(Missing::Error)
            }
        }
    }

    /// What a directory of the volume has of the names that are `wanted`, once no earlier holder can change that any
    /// more.
    fn swept(
        &self,
        at: At<'_>,
        wanted: &dyn Fn(&[u8]) -> bool,
        visitor: &dyn Visitor,
    ) -> std::result::Result<HashMap<Box<[u8]>, Stat>, Missing> {
        let found = self.found(at, &|name| wanted(name) || claim_of(name).is_some())?;
        let candidates: Vec<&[u8]> =
            found.keys().map(|name| &**name).filter(|name| claim_of(name).is_some()).collect();
        if candidates.is_empty() || !visitor.sweep(at, &candidates).map_err(Missing::Error)? {
            return Ok(found);
        }
        // One of them may have got its place meanwhile.
        self.found(at, wanted)
    }

    fn found(
        &self,
        at: At<'_>,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> std::result::Result<HashMap<Box<[u8]>, Stat>, Missing> {
        let list = || entries_of(at.directory, wanted);
        // All that it leads to is left out for good: not for what was refused in one moment.
        match list().or_else(|_| list()) {
            // Since it was opened (getdents(2)).
            Err(Errno::NOENT) => Err(Missing::LeftOut(LeftOut::Removed)),
            found => {
                let full = || full_path(self.volume.path(), at.path);
                found.context("read directory", full).map_err(Missing::Error)
            }
        }
    }

    fn decide<'l>(&self, at: At<'_>, leaf: &'l Leaf, found: Option<&'l Stat>) -> Result<Decided<'l>> {
        let path = join(at.path, &leaf.name);
        let rule = self.rules.of(&path);
        let state = self.state(at, leaf, found, rule)?;
        // Where the old seed is not known, what is there may be its or the user's: it is kept elsewhere.
        let change = if self.old.is_none() && found.is_some() { Change::Changed } else { leaf.change };
        Ok(Decided { leaf, found, action: decide(change, state, rule) })
    }

    fn state(&self, at: At<'_>, leaf: &Leaf, found: Option<&Stat>, rule: Rule) -> Result<Found> {
        let Some(stat) = found else { return Ok(Found::Nothing) };
        let (directory, name) = (at.directory, &*leaf.name);
        let reads =
            matches!(rule, Rule::Keep | Rule::Held) || self.rules.unit(&join(at.path, name)).is_some();
        let entry = Entry { directory, name, stat, unkept: self.unkept(), reads };
        entry.found(leaf).context("read", || full_path(self.volume.path(), &join(at.path, name)))
    }

    /// A whole directory that only the new seed has, in the place of a leaf of the old one's, if anything. Whether the
    /// volume has a directory there: then what is in it comes next.
    fn tree(
        &self,
        at: At<'_>,
        (name, old): (&[u8], Option<&Leaf>),
        found: &HashMap<Box<[u8]>, Stat>,
        visitor: &dyn Visitor,
    ) -> Result<bool> {
        let path = join(at.path, name);
        let rule = self.rules.of(&path);
        let action = match (found.get(name), old) {
            (None, _) if rule == Rule::Held => Action::Stay(Why::Modified, true),
            // The user removed what was there: of another type or not, it stays away.
            (None, Some(_)) => Action::Stay(Why::Deleted, true),
            (None, None) => Action::Add,
            (Some(there), _) if is_type(there, FileType::Directory) => return Ok(true),
            (Some(_), None) => Action::Stay(Why::Conflict, true),
            (Some(there), Some(leaf)) => {
                let state = self.state(at, leaf, Some(there), rule)?;
                decide(Change::Changed, state, rule)
            }
        };
        if found.contains_key(name)
            && let Some(why) = self.is_fixed(at, name)?
        {
            visitor.left_out(&path, why);
            return Ok(false);
        }
        visitor.tree(at, name, old.and_then(|leaf| leaf.old.as_ref()), action).map(|()| false)
    }

    /// Why no rename can touch it.
    pub(super) fn is_fixed(&self, at: At<'_>, name: &[u8]) -> Result<Option<LeftOut>> {
        let found = look_at(at.directory, name);
        let found = found.context("stat", || full_path(self.volume.path(), &join(at.path, name)))?;
        Ok(found.and_then(|found| match (found.is_mount, found.is_fixed) {
            (true, _) => Some(LeftOut::Mounted),
            (_, true) => Some(LeftOut::Closed),
            _ => None,
        }))
    }

    /// What the volume did not keep of the old seed it will not keep of the new one.
    pub(super) fn unkept(&self) -> Unkept {
        self.old.map_or(self.new.unkept, |old| old.unkept)
    }
}
