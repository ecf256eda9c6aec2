//! From one seed on a volume to the next: what differs between the two, what the user did meanwhile, and what follows
//! for every entry.
//!
//! The same walk serves twice. Before the seal it only looks: what has to be staged, and what is refused. After it
//! every decision is taken again, from what the volume has then, and carried out. So a run that was killed is finished
//! by any other that has both manifests and the rules, which are sealed with the tree.

pub(crate) mod apply;
mod aside;
pub(crate) mod candidate;
pub(crate) mod check;
mod differences;
mod held;
mod look;
pub(crate) mod matrix;
mod replace;
mod walk;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cli::values::Exclude;
use crate::seed::manifest::read::Manifest;
use crate::volume::Volume;
use matrix::Rule;

/// What the options say of paths, and what a look at the volume added to that.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// `--keep`.
    pub keep: Vec<Exclude>,
    /// `--protect`.
    pub protect: Vec<Exclude>,
    /// Directories of `--keep` in which the user changed something.
    pub held: Vec<Box<[u8]>>,
    /// What is put in place last.
    pub sentinel: Option<Box<[u8]>>,
}

/// Two seeds, and the volume that goes from one to the other.
#[derive(Clone, Copy)]
pub(crate) struct Upgrade<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// What was put on it; nothing where that is not known.
    pub old: Option<&'a Manifest>,
    /// What is to be on it.
    pub new: &'a Manifest,
    /// What the options say.
    pub rules: &'a Rules,
}

impl Rules {
    /// What holds for the entry at this path.
    pub(crate) fn of(&self, path: &[u8]) -> Rule {
        let file = Path::new(std::ffi::OsStr::from_bytes(path));
        if self.protect.iter().any(|pattern| pattern.leaves_out(file)) {
            return Rule::Protect;
        }
        match self.unit(path) {
            None => Rule::Default,
            Some(unit) if unit.len() == path.len() => Rule::Keep,
            Some(unit) if self.held.iter().any(|held| **held == *unit) => Rule::Held,
            Some(_) => Rule::Default,
        }
    }

    /// What `--keep` treats as one: the entry itself, or the outermost directory around it that a pattern matches.
    pub(crate) fn unit<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
        let is_kept = |unit: &[u8]| {
            let is_directory = unit.len() < path.len();
            let unit = Path::new(std::ffi::OsStr::from_bytes(unit));
            self.keep.iter().any(|pattern| pattern.matches(unit, is_directory))
        };
        ends.map(|end| &path[..end]).find(|unit| is_kept(unit))
    }
}
