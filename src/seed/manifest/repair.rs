//! Which entries of a volume are put back, and whether a source has them as they were seeded.
//!
//! Decided from a comparison, before anything is staged. What is in the way of an entry, a directory in the place of a
//! file or a file in that of a directory, is left.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::compare::Difference;
use super::line::Listed;
use super::read::{ListedEntry, Lookup, Manifest, join, split};
use super::verify::{Comparison, unreadable};
use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;

/// What is put back.
#[derive(Debug, Default)]
pub(crate) struct RepairPlan {
    /// Names that are wanted of the source, by directory. Of a directory that is missing all are.
    wanted: BTreeMap<Box<[u8]>, HashSet<Box<[u8]>>>,
    /// Directories that are missing.
    whole: BTreeSet<Box<[u8]>>,
    /// Entries that are put back.
    pub(crate) missing: Vec<Box<[u8]>>,
    /// Entries that are replaced; what a user had there is saved.
    pub(crate) replaced: BTreeSet<Box<[u8]>>,
    /// Entries that differ and are left.
    pub(crate) left: Vec<(Box<[u8]>, Difference)>,
}

impl RepairPlan {
    /// To put back what is missing and, where `may_replace` lets it, what differs.
    ///
    /// # Errors
    /// That of `may_replace`; when the manifest cannot be read.
    pub(crate) fn new(
        manifest: &Manifest,
        comparison: Comparison,
        may_replace: impl Fn(&[u8]) -> Result<bool>,
    ) -> Result<RepairPlan> {
        let mut plan = RepairPlan::default();
        for (path, difference) in comparison.differences {
            let is_directory = manifest.directory(&path).is_some();
            match difference {
                Difference::Missing => {
                    plan.want(&path);
                    if is_directory {
                        plan.whole.insert(path.clone());
                    }
                    plan.missing.push(path);
                }
                _ if !is_directory && may_replace(&path)? => {
                    plan.want(&path);
                    plan.replaced.insert(path);
                }
                _ => plan.left.push((path, difference)),
            }
        }
        plan.want_first_names(manifest)?;
        Ok(plan)
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.replaced.is_empty()
    }

    /// The names that are wanted of the directory at this path of the source; `None` for all.
    pub(crate) fn wanted(&self, path: &[u8]) -> Option<HashSet<Box<[u8]>>> {
        let mut above = path;
        while !above.is_empty() {
            if self.whole.contains(above) {
                return None;
            }
            above = split(above).0;
        }
        Some(self.wanted.get(path).cloned().unwrap_or_default())
    }

    /// Holds what was staged against the manifest: every entry that is put back must be as it was seeded.
    ///
    /// # Errors
    /// Exit 78 where the source has another one, or none.
    pub(crate) fn check(&self, manifest: &Manifest, staged: &Manifest) -> Result<()> {
        let (mut wanted, mut found) = (Lookup::of(manifest), Lookup::of(staged));
        let leaves = self.missing.iter().filter(|path| !self.whole.contains(*path)).chain(&self.replaced);
        for path in leaves {
            same(&mut wanted, &mut found, path)?;
        }
        for path in self.whole.iter().flat_map(|whole| manifest.below(whole)) {
            if staged.directory(path).is_none() {
                return Err(another_source(path));
            }
            for name in manifest.entries(path).map_err(unreadable)?.keys() {
                same(&mut wanted, &mut found, &join(path, name))?;
            }
        }
        Ok(())
    }

    fn want(&mut self, path: &[u8]) {
        let mut path = path;
        while !path.is_empty() {
            let (parent, name) = split(path);
            self.wanted.entry(parent.into()).or_default().insert(name.into());
            path = parent;
        }
    }

    /// An archive has a further name only behind the first one.
    fn want_first_names(&mut self, manifest: &Manifest) -> Result<()> {
        let mut paths: Vec<Box<[u8]>> = self.missing.iter().chain(&self.replaced).cloned().collect();
        for whole in &self.whole {
            for path in manifest.below(whole) {
                paths.extend(
                    manifest.entries(path).map_err(unreadable)?.keys().map(|name| join(path, name).into()),
                );
            }
        }
        let mut lookup = Lookup::of(manifest);
        for path in paths {
            let entry = lookup.entry(&path).map_err(unreadable)?;
            if let Some(ListedEntry { listed: Listed::Link(first), .. }) = entry {
                self.want(&first);
            }
        }
        Ok(())
    }
}

/// Whether a staged entry is what was seeded. A further name may be staged as a file of its own.
fn same(wanted: &mut Lookup<'_>, found: &mut Lookup<'_>, path: &[u8]) -> Result<()> {
    let first = |lookup: &mut Lookup<'_>| match lookup.entry(path)? {
        Some(entry) => lookup.first_name(entry),
        None => Ok(None),
    };
    let both = first(wanted).and_then(|wanted| Ok((wanted, first(found)?))).map_err(unreadable)?;
    let is_same = match both {
        (Some(wanted), Some(found)) => match (wanted.listed, found.listed) {
            (Listed::File { size, digest, .. }, Listed::File { size: staged, digest: of, .. }) => {
                (size, digest) == (staged, of)
            }
            (wanted, found) => wanted == found,
        },
        _ => false,
    };
    if is_same { Ok(()) } else { Err(another_source(path)) }
}

fn another_source(path: &[u8]) -> Error {
    let cause = format!("the source has {} otherwise than it was seeded, or does not have it", path.quoted());
    Error::new(Exit::Refused, "repair volume", cause)
        .help("repair it with the image, and the options, that it was seeded with: volseed status shows the version")
}
