//! Which entries of a volume are put back, and whether a source has them as they were seeded.
//!
//! Decided from a comparison, before anything is staged. What is in the way of an entry, a directory in the place of a
//! file or a file in that of a directory, is left.

use std::collections::BTreeSet;

use super::compare::Difference;
use super::read::Manifest;
use super::verify::Comparison;
use super::wants::Wants;
use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;

/// What is put back.
#[derive(Debug, Default)]
pub(crate) struct RepairPlan {
    /// What is taken from the source.
    pub(crate) wants: Wants,
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
                Difference::Missing if is_directory => {
                    plan.wants.add_whole(&path);
                    plan.missing.push(path);
                }
                Difference::Missing => {
                    plan.wants.add(&path);
                    plan.missing.push(path);
                }
                _ if !is_directory && may_replace(&path)? => {
                    plan.wants.add(&path);
                    plan.replaced.insert(path);
                }
                _ => plan.left.push((path, difference)),
            }
        }
        plan.wants.add_first_names(manifest)?;
        Ok(plan)
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.replaced.is_empty()
    }

    /// Holds what was staged against the manifest: every entry that is put back must be as it was seeded.
    ///
    /// # Errors
    /// Exit 78 where the source has another one, or none.
    pub(crate) fn check(&self, manifest: &Manifest, staged: &Manifest) -> Result<()> {
        let Some(path) = self.wants.first_other(manifest, staged)? else { return Ok(()) };
        let cause =
            format!("the source has {} otherwise than it was seeded, or does not have it", path.quoted());
        Err(Error::new(Exit::Refused, "repair volume", cause).help(
            "repair it with the image, and the options, that it was seeded with: volseed status shows the version",
        ))
    }
}
