//! What leaves the volume's tree in an upgrade: it is renamed to `aside` in the claim, and looked at once more there.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::apply::{Applying, lock};
use super::differences::{ENTRIES, Entry, Leaf};
use super::look::{At, LeftOut};
use super::matrix::{Change, Found};
use super::walk::Visitor;
use crate::error::{Context, Result};
use crate::seed::manifest::digest::DataDigest;
use crate::seed::manifest::read::{ListedEntry, Lookup, split};
use crate::seed::manifest::verify::unreadable;
use crate::seed::stage::common::join;
use crate::volume::records::ASIDE;
use crate::volume::{is_type, names, openat, stat_entry};

/// Something of the old seed, or of the user's in its place, that a run before this one set aside.
pub(super) struct SetAside {
    path: Vec<u8>,
    old: Option<ListedEntry>,
}

impl Applying<'_> {
    /// Why no rename could touch it.
    pub(super) fn refused(&self, at: At<'_>, name: &[u8], path: &[u8]) -> Result<LeftOut> {
        let why = self.upgrade.is_fixed(at, name)?.unwrap_or(LeftOut::Closed);
        self.left_out(path, why);
        Ok(why)
    }

    /// Moves what the volume has to the claim; whether anything was there.
    pub(super) fn set_aside(&self, at: At<'_>, name: &[u8], path: &[u8]) -> Result<bool> {
        match twice(&|| fs::renameat(at.directory, name, &self.aside, &*name_of(path))) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::BUSY | Errno::TXTBSY | Errno::ACCESS | Errno::PERM) => {
                self.refused(at, name, path).map(|_| false)
            }
            Err(error) => Err(error).context("set aside", || self.full(path)),
        }
    }

    /// Whether what was set aside is what was put there. If not, it is the user's, and saved.
    pub(super) fn look_again(&self, path: &[u8], old: Option<&ListedEntry>) -> Result<()> {
        let name = name_of(path);
        let full = || self.full(path);
        let Some(stat) = stat_entry(self.aside.as_fd(), &name).context("stat", full)? else { return Ok(()) };
        let leaf = Leaf { name: Box::from(&*name), change: Change::Removed, old: old.cloned(), new: None };
        let is_ours = match is_type(&stat, FileType::Directory) {
            true => {
                let below =
                    openat(self.aside.as_fd(), &name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
                below.and_then(|below| names(below.as_fd())).context("read directory", full)?.is_empty()
            }
            false => {
                let (directory, unkept) = (self.aside.as_fd(), self.upgrade.unkept());
                let entry = Entry { directory, name: &name, stat: &stat, unkept, reads: false };
                entry.found(&leaf).context("read", full)? == Found::AsOld
            }
        };
        if is_ours {
            return Ok(());
        }
        self.with_saved(|saved| saved.take(self.aside.as_fd(), &name, path))?;
        self.done().saved.push(path.into());
        Ok(())
    }

    /// Goes on with what a run that was killed had set aside. Hands back the sentinel, if it was: its turn comes last.
    pub(super) fn resume(&self) -> Result<Option<SetAside>> {
        let left: BTreeSet<_> =
            names(self.aside.as_fd()).context("read directory", ASIDE)?.into_iter().collect();
        let Some(old) = self.upgrade.old.filter(|_| !left.is_empty()) else { return Ok(None) };
        let mut paths: BTreeMap<Box<[u8]>, Vec<u8>> = BTreeMap::new();
        for path in old.below(b"") {
            let mut here = vec![path.to_vec()];
            for range in old.ranges(path, ENTRIES) {
                let entries = old.entries(path, &range).map_err(unreadable)?;
                here.extend(entries.keys().map(|name| join(path, name)));
                let named = here.drain(..).map(|path| (name_of(&path), path));
                paths.extend(named.filter(|(name, _)| left.contains(name)));
            }
        }
        let (mut lookup, mut sentinel) = (Lookup::of(old), None);
        for path in left.iter().filter_map(|name| paths.remove(name)) {
            let entry = lookup.entry(&path).map_err(unreadable)?;
            let old = entry.map(|entry| lookup.first_name(entry)).transpose().map_err(unreadable)?.flatten();
            let is_sentinel = self.upgrade.rules.sentinel.as_deref() == Some(&*path);
            let set_aside = Some(SetAside { path, old });
            if is_sentinel { sentinel = set_aside } else { self.fill(set_aside)? }
        }
        Ok(sentinel)
    }

    /// Gives what is staged the place that was made for it, where it has not got it: nothing is there, and that would
    /// pass for deleted by the user. Then looks again at what was there.
    pub(super) fn fill(&self, set_aside: Option<SetAside>) -> Result<()> {
        let Some(SetAside { path, old }) = set_aside else { return Ok(()) };
        let (above, name) = split(&path);
        if self.is_staged(&path)?
            && let Some(parent) = self.directory(above)?
        {
            let at = At { path: above, directory: parent.as_fd() };
            if stat_entry(at.directory, name).context("stat", || self.full(&path))?.is_none() {
                self.add(at, name, &path)?;
                self.leave(at)?;
            }
        }
        self.look_again(&path, old.as_ref())
    }

    /// Directories of the old seed in which nothing is left, the deepest first.
    pub(super) fn remove_directories(&self) -> Result<()> {
        let mut gone = std::mem::take(&mut *lock(&self.gone));
        gone.sort_unstable_by(|one, other| other.cmp(one));
        for path in gone {
            let full = || self.full(&path);
            let Some(directory) = self.directory(&path)? else { continue };
            if !names(directory.as_fd()).context("read directory", full)?.is_empty() {
                self.done().stayed += 1;
                continue;
            }
            let (above, name) = split(&path);
            let Some(parent) = self.directory(above)? else { continue };
            let at = At { path: above, directory: parent.as_fd() };
            (self.site.go_on)()?;
            if self.set_aside(at, name, &path)? {
                self.done().removed += 1;
                self.look_again(&path, None)?;
                fs::fsync(&parent).context("sync directory", full)?;
            }
        }
        Ok(())
    }
}

/// What the entry at this path is called in `aside`: a run after a kill finds it by that.
fn name_of(path: &[u8]) -> Box<[u8]> {
    DataDigest::of(path).to_string().replace('/', "_").into_bytes().into()
}

/// Tries once more what was refused: what is left out is left out for good, and a server may refuse for a moment.
pub(super) fn twice(rename: &dyn Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    match rename() {
        Err(Errno::BUSY | Errno::TXTBSY | Errno::ACCESS | Errno::PERM) => rename(),
        renamed => renamed,
    }
}
