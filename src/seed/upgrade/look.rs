//! What a volume has in one directory, and what follows for the entries in it.
//!
//! No link is followed, and no other mount entered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::Upgrade;
use super::candidate::claim_of;
use super::differences::{Entry, Leaf};
use super::matrix::{Action, Change, Found, Rule, Why, decide};
use super::walk::Visitor;
use crate::error::{Context, Result};
use crate::seed::manifest::read::{Lookup, split};
use crate::seed::stage::common::{full_path, join};
use crate::volume::records::Unkept;
use crate::volume::{entries_of, is_type, look_at, open_in_mount};

/// How often a directory is listed until no candidate is in it. Only a user who makes them, or a client that believes
/// names which are gone, needs more than two.
const SWEEPS: u32 = 100;

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
    pub(super) fn open_in(
        &self,
        parent: impl AsFd,
        name: &[u8],
        path: &[u8],
    ) -> std::result::Result<OwnedFd, Missing> {
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
    pub(super) fn swept(
        &self,
        at: At<'_>,
        wanted: &dyn Fn(&[u8]) -> bool,
        visitor: &dyn Visitor,
    ) -> std::result::Result<HashMap<Box<[u8]>, Stat>, Missing> {
        let mut sweeps = 0;
        loop {
            // By their names alone: one that gets its place before it is looked at may be what was just looked at.
            let candidates = RefCell::default();
            let found = self.found(at, &|name| {
                if claim_of(name).is_some() {
                    Vec::push(&mut candidates.borrow_mut(), Box::from(name));
                }
                wanted(name)
            })?;
            let mut candidates: Vec<Box<[u8]>> = candidates.into_inner();
            candidates.retain(|name| !self.is_listed(&join(at.path, name)));
            sweeps += 1;
            if candidates.is_empty()
                || sweeps > SWEEPS
                || !visitor.sweep(at, &candidates).map_err(Missing::Error)?
            {
                return Ok(found);
            }
        }
    }

    /// Whether a seed has it, or that cannot be read: then it is no candidate.
    fn is_listed(&self, path: &[u8]) -> bool {
        let mut seeds = self.old.into_iter().chain([self.new]);
        seeds.any(|seed| !matches!(Lookup::of(seed).entry(path), Ok(None)))
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

    pub(super) fn decide<'l>(
        &self,
        at: At<'_>,
        leaf: &'l Leaf,
        found: Option<&'l Stat>,
    ) -> Result<Decided<'l>> {
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
    pub(super) fn visit_tree(
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
