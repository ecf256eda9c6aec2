//! Through the directories in which two seeds differ: what the volume has in each, and what follows.
//!
//! Only directories that lead to a difference are opened, each from the one that it is in: an NFS client that has just
//! opened a directory does not believe what it has cached of its names (nfs(5), close-to-open).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{self, FileType, Stat};

use super::Upgrade;
use super::differences::{Leaf, Names, attrs, leaves, names};
use super::look::{At, Decided, LeftOut, Missing};
use super::matrix::{Action, Rule};
use crate::error::{Context, Result};
use crate::seed::manifest::compare::has_attrs;
use crate::seed::manifest::line::ListedAttrs;
use crate::seed::manifest::read::{ListedEntry, split};
use crate::seed::manifest::verify::unreadable;
use crate::seed::stage::common::{full_path, join};
use crate::system::parallel::work_off;
use crate::volume::is_type;

/// So many leaves of a directory are visited one after the other. Not fewer: the kernel lets one thread
/// at a time change a directory, and those that wait for it are missing in others.
const LEAVES: usize = 32;

/// Hears what follows for each entry. Called by several threads at once.
pub(super) trait Visitor: Sync {
    /// Candidates (see `replace`) are in a directory, before anything is decided on what it has. Whether any was removed.
    fn sweep(&self, at: At<'_>, candidates: &[Box<[u8]>]) -> Result<bool>;
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
            if self.visit_tree(at, (name, old), found, visitor)? {
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
