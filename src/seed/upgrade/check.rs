//! The look before the seal: what an upgrade would do, what it has to stage for that, and what is refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::differences::{Leaf, leaves};
use super::look::{At, Decided, LeftOut};
use super::matrix::{Action, Why};
use super::walk::Visitor;
use super::{Rules, Upgrade};
use crate::error::Result;
use crate::seed::manifest::compare::Difference;
use crate::seed::manifest::line::{Listed, ListedAttrs};
use crate::seed::manifest::read::{ListedEntry, Manifest};
use crate::seed::manifest::verify::{Verification, unreadable};
use crate::seed::stage::common::join;
use crate::volume::Volume;

/// What follows for one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The new seed's is added.
    Add,
    /// A whole directory is.
    AddTree,
    /// The old seed's is replaced.
    Replace,
    /// The user's is, and kept in `.volseed/old`.
    ReplaceAndSave,
    /// The old seed's is removed.
    Remove,
    /// An empty directory of the old seed's is.
    RemoveDirectory,
    /// A directory gets the new seed's mode and owner.
    SetAttrs,
    /// It stays as it is; whether the new seed's is put in `.volseed/new`.
    Stay(Why, bool),
    /// It stays, with all below it.
    LeftOut(LeftOut),
}

/// All that follows.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By path.
    pub steps: BTreeMap<Box<[u8]>, Step>,
    /// Bytes that have to be staged, but for those of whole directories.
    pub bytes: u64,
}

impl Plan {
    /// How many steps are of this kind.
    pub(crate) fn count(&self, is: impl Fn(Step) -> bool) -> u64 {
        self.steps.values().filter(|step| is(**step)).count() as u64
    }
}

struct Checking<'a> {
    upgrade: &'a Upgrade<'a>,
    plan: Mutex<Plan>,
}

impl Upgrade<'_> {
    /// Looks at the volume, on so many threads. Changes nothing. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(crate) fn check(&self, threads: usize) -> Result<Plan> {
        let checking = Checking { upgrade: self, plan: Mutex::default() };
        self.walk(threads, &checking)?;
        self.visit_sentinel(&checking)?;
        Ok(checking.plan.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rules {
    /// Finds the directories of `--keep` in which the user changed something, where the seeds differ.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(crate) fn hold(
        &mut self,
        volume: &Volume,
        old: Option<&Manifest>,
        new: &Manifest,
        threads: usize,
    ) -> Result<()> {
        let Some(old) = old.filter(|_| !self.keep.is_empty()) else { return Ok(()) };
        let mut units: Vec<Box<[u8]>> = Vec::new();
        for path in old.below(b"").chain(new.below(b"")) {
            for leaf in leaves(Some(old), Some(new), path).map_err(unreadable)? {
                let path = join(path, &leaf.name);
                if let Some(unit) = self.unit(&path).filter(|unit| unit.len() < path.len())
                    && units.last().is_none_or(|last| **last != *unit)
                {
                    units.push(unit.into());
                }
            }
        }
        units.sort();
        units.dedup();
        for unit in units.into_iter().filter(|unit| old.directory(unit).is_some()) {
            let found = Verification::new(volume, old, true).run_below(&unit, threads)?;
            if found.differences.iter().any(|(_, difference)| *difference != Difference::Meta) {
                self.held.push(unit);
            }
        }
        Ok(())
    }
}

impl Checking<'_> {
    fn add(&self, path: Vec<u8>, step: Step, bytes: u64) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.bytes += bytes;
        plan.steps.insert(path.into(), step);
    }
}

impl Checking<'_> {
    fn leaf(&self, at: At<'_>, leaf: &Leaf, action: Action) -> Result<()> {
        let bytes = match leaf.new.as_ref().map(|new| &new.listed) {
            Some(Listed::File { size, .. }) => *size,
            _ => 0,
        };
        let path = join(at.path, &leaf.name);
        let touches = matches!(action, Action::Replace | Action::ReplaceAndSave | Action::Remove);
        if touches && let Some(why) = self.upgrade.is_fixed(at, &leaf.name)? {
            self.left_out(&path, why);
            return Ok(());
        }
        let (step, bytes) = match action {
            Action::Nothing => return Ok(()),
            Action::Add => (Step::Add, bytes),
            Action::Replace => (Step::Replace, bytes),
            Action::ReplaceAndSave => (Step::ReplaceAndSave, bytes),
            Action::Remove => (Step::Remove, 0),
            Action::Stay(why, true) => (Step::Stay(why, leaf.new.is_some()), bytes),
            Action::Stay(why, false) => (Step::Stay(why, false), 0),
        };
        self.add(path, step, bytes);
        Ok(())
    }
}

impl Visitor for Checking<'_> {
    fn sweep(&self, _: At<'_>, _: &[Box<[u8]>]) -> Result<bool> {
        Ok(false)
    }

    fn leaves(&self, at: At<'_>, decided: &[Decided<'_>]) -> Result<()> {
        decided.iter().try_for_each(|Decided { leaf, action, .. }| self.leaf(at, leaf, *action))
    }

    fn tree(&self, at: At<'_>, name: &[u8], _: Option<&ListedEntry>, action: Action) -> Result<()> {
        let step = match action {
            Action::Nothing | Action::Remove => return Ok(()),
            Action::Stay(why, offers) => Step::Stay(why, offers),
            Action::ReplaceAndSave => Step::ReplaceAndSave,
            Action::Add | Action::Replace => Step::AddTree,
        };
        self.add(join(at.path, name), step, 0);
        Ok(())
    }

    fn after_directory(&self, path: Vec<u8>) {
        self.add(path, Step::Add, 0);
    }

    fn gone(&self, path: Vec<u8>) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        // A leaf may come in its place.
        plan.steps.entry(path.into()).or_insert(Step::RemoveDirectory);
    }

    fn left_out(&self, path: &[u8], why: LeftOut) {
        self.add(path.to_vec(), Step::LeftOut(why), 0);
    }

    fn attrs(&self, at: At<'_>, _: ListedAttrs) -> Result<()> {
        self.add(at.path.to_vec(), Step::SetAttrs, 0);
        Ok(())
    }

    fn leave(&self, _: At<'_>) -> Result<()> {
        Ok(())
    }
}
