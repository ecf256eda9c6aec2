//! Which entries are taken from a source, and whether it has them as a manifest says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::line::Listed;
use super::read::{ListedEntry, Lookup, Manifest, PART, join, split};
use super::verify::unreadable;
use crate::error::Result;
use crate::seed::engine::job::WantedNames;

/// A part of a seed.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    /// Names that are wanted of the source, by directory. Of a whole directory all are.
    names: BTreeMap<Box<[u8]>, WantedNames>,
    /// Directories that are wanted with all that is in them.
    whole: BTreeSet<Box<[u8]>>,
    /// Entries that are wanted for themselves.
    leaves: BTreeSet<Box<[u8]>>,
}

impl Wants {
    /// Wants an entry.
    pub(crate) fn add(&mut self, path: &[u8]) {
        self.reach(path);
        self.leaves.insert(path.into());
    }

    /// Wants a directory, and all that is in it.
    pub(crate) fn add_whole(&mut self, path: &[u8]) {
        self.reach(path);
        self.whole.insert(path.into());
    }

    /// Wants the first names of the files of which another one is wanted: an archive has their data there. To be called
    /// last.
    ///
    /// # Errors
    /// When the manifest cannot be read.
    pub(crate) fn add_first_names(&mut self, manifest: &Manifest) -> Result<()> {
        let (mut lookup, mut firsts) = (Lookup::of(manifest), Vec::new());
        self.entries(manifest, &mut |path| {
            let entry = lookup.entry(path).map_err(unreadable)?;
            if let Some(ListedEntry { listed: Listed::Link(first), .. }) = entry {
                firsts.push(first);
            }
            Ok(true)
        })?;
        firsts.iter().for_each(|first| self.reach(first));
        Ok(())
    }

    /// The names that are wanted of the directory at this path of the source; `None` for all.
    pub(crate) fn of(&self, path: &[u8]) -> Option<WantedNames> {
        let mut above = path;
        while !above.is_empty() {
            if self.whole.contains(above) {
                return None;
            }
            above = split(above).0;
        }
        Some(self.names.get(path).cloned().unwrap_or_default())
    }

    /// Holds what was staged against the manifest: every entry that is wanted must be as that says. The path of the
    /// first that is not.
    ///
    /// # Errors
    /// When a manifest cannot be read.
    pub(crate) fn first_other(&self, manifest: &Manifest, staged: &Manifest) -> Result<Option<Vec<u8>>> {
        let (mut wanted, mut found) = (Lookup::of(manifest), Lookup::of(staged));
        let directories = self.whole.iter().flat_map(|whole| manifest.below(whole));
        if let Some(path) = directories.into_iter().find(|path| staged.directory(path).is_none()) {
            return Ok(Some(path.to_vec()));
        }
        let mut other = None;
        self.entries(manifest, &mut |path| {
            let is_same = is_same(&mut wanted, &mut found, path)?;
            other = Some(path.to_vec()).filter(|_| !is_same);
            Ok(is_same)
        })?;
        Ok(other)
    }

    /// Tells of the path of all that is wanted, but for directories, until `each` wants no more.
    fn entries(&self, manifest: &Manifest, each: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<()> {
        for path in self.leaves.iter().filter(|path| !self.whole.contains(*path)) {
            if !each(path)? {
                return Ok(());
            }
        }
        for path in self.whole.iter().flat_map(|whole| manifest.below(whole)) {
            for range in manifest.ranges(path, PART) {
                for name in manifest.entries(path, &range).map_err(unreadable)?.keys() {
                    if !each(&join(path, name))? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn reach(&mut self, path: &[u8]) {
        let mut path = path;
        while !path.is_empty() {
            let (parent, name) = split(path);
            Arc::make_mut(self.names.entry(parent.into()).or_default()).insert(name.into());
            path = parent;
        }
    }
}

/// Whether a staged entry is what was listed. A further name may be staged as a file of its own.
fn is_same(wanted: &mut Lookup<'_>, found: &mut Lookup<'_>, path: &[u8]) -> Result<bool> {
    let first = |lookup: &mut Lookup<'_>| match lookup.entry(path)? {
        Some(entry) => lookup.first_name(entry),
        None => Ok(None),
    };
    let both = first(wanted).and_then(|wanted| Ok((wanted, first(found)?))).map_err(unreadable)?;
    Ok(match both {
        (Some(wanted), Some(found)) => match (wanted.listed, found.listed) {
            (Listed::File { size, digest, .. }, Listed::File { size: staged, digest: of, .. }) => {
                (size, digest) == (staged, of)
            }
            (wanted, found) => wanted == found,
        },
        _ => false,
    })
}
