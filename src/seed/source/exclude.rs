//! What of a source `--exclude` leaves out, and which of its patterns had an effect.
//!
//! Knows paths only: the walk of a directory and the reader of an archive ask it, directory by directory.

use crate::cli::values::{Exclude, Reached};
use crate::error::printable;

/// The patterns, at one directory of the source.
pub(crate) struct Excluding {
    patterns: Vec<Exclude>,
    directory: Vec<u8>,
    /// What each pattern has reached in that directory; nothing where it is left out itself.
    reached: Option<Vec<Reached>>,
    had_effect: Vec<bool>,
    /// Entries that were left out; of a directory that was not walked, itself.
    pub count: u64,
}

impl Excluding {
    /// At the root.
    pub(crate) fn new(patterns: &[Exclude]) -> Excluding {
        let reached = Some(patterns.iter().map(Exclude::start).collect());
        let had_effect = vec![false; patterns.len()];
        Excluding { patterns: patterns.to_vec(), directory: Vec::new(), reached, had_effect, count: 0 }
    }

    /// Goes to the directory with this path below the root.
    pub(crate) fn enter(&mut self, directory: &[u8]) {
        if self.patterns.is_empty() || directory == self.directory {
            return;
        }
        self.directory = directory.to_vec();
        let mut reached: Vec<Reached> = self.patterns.iter().map(Exclude::start).collect();
        for name in directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            self.step(&mut reached, name);
            if self.is_covered(&reached, true) {
                self.reached = None;
                return;
            }
        }
        self.reached = Some(reached);
    }

    /// Whether the entry with this name in the directory is left out; counts it then.
    pub(crate) fn leaves_out(&mut self, name: &[u8], is_directory: bool) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let is_left_out = match self.reached.clone() {
            None => true,
            Some(mut reached) => {
                self.step(&mut reached, name);
                self.is_covered(&reached, is_directory)
            }
        };
        if is_left_out {
            self.count += 1;
            let slash = if self.directory.is_empty() { "" } else { "/" };
            let path = [&self.directory, slash.as_bytes(), name].concat();
            tracing::debug!(path = printable(&path), "excluded");
        }
        is_left_out
    }

    /// Whether a file with this path is left out; counts nothing.
    pub(crate) fn covers_file(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        self.patterns.iter().any(|pattern| pattern.leaves_out(path))
    }

    /// The patterns that left nothing out.
    pub(crate) fn without_effect(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().zip(&self.had_effect).filter(|(_, had)| !**had).map(|(one, _)| one.as_str())
    }

    fn step(&self, reached: &mut [Reached], name: &[u8]) {
        let name = String::from_utf8_lossy(name);
        for (reached, pattern) in reached.iter_mut().zip(&self.patterns) {
            *reached = pattern.step(*reached, &name);
        }
    }

    fn is_covered(&mut self, reached: &[Reached], is_directory: bool) -> bool {
        let mut is_covered = false;
        for ((pattern, reached), had_effect) in self.patterns.iter().zip(reached).zip(&mut self.had_effect) {
            let covers = pattern.covers(*reached, is_directory);
            *had_effect |= covers;
            is_covered |= covers;
        }
        is_covered
    }
}
