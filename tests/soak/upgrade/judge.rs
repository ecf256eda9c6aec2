//! What a volume has to be before, amid and after an upgrade, and whether it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kit::{Snapshot, volseed};

use super::settled;
use super::user::Edits;

/// What the volume's record says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is at the first image.
    Old,
    /// There is no record: the upgrade has begun to change the tree, or is about to.
    Amid,
    /// It is at the second image.
    New,
}

impl Phase {
    pub(super) fn of(volume: &Path) -> Phase {
        let Ok(record) = fs::read(volume.join(".volseed/state.json")) else { return Phase::Amid };
        let record: Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["state"], "complete");
        match record["generation"].as_u64() {
            Some(1) => Phase::Old,
            Some(2) => Phase::New,
            other => panic!("the generation is {other:?}"),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Phase::Old => "killed: old",
            Phase::Amid => "killed: amid",
            Phase::New => "killed: new",
        }
    }
}

/// What stays in the state directory of a volume that was upgraded once.
const RECORDS: [&str; 4] = ["lock", "manifest-2", "record.json", "state.json"];
/// And what of the user's and of the image's is kept there.
const DISPLACED: [&str; 2] = ["old", "new"];

/// A volume of which it is known what it has to be.
pub(super) struct Expected {
    /// As it was before the upgrade, in all but its root's time.
    pub old: Snapshot,
    /// As it is after it, but for the times of directories.
    pub new: Snapshot,
    pub edits: Edits,
}

impl Expected {
    /// Of a volume before its upgrade.
    pub(super) fn of(volume: &Path, edits: Edits) -> Expected {
        let new = Snapshot::of(&edits.model).without_directory_times();
        Expected { old: Snapshot::of(volume), new, edits }
    }

    /// What the volume has to be while no replica is at work. Panics where it is not.
    #[track_caller]
    pub(super) fn check(&self, volume: &Path) -> Phase {
        let (phase, found) = (Phase::of(volume), Snapshot::of(volume));
        let wrong = match phase {
            Phase::Old => self.old.differences(&found),
            Phase::New => self.new.differences(&found.without_directory_times()),
            // Names of one file are moved one after the other.
            Phase::Amid => {
                let [found, old, new] = [found, self.old.clone(), self.new.clone()]
                    .map(|tree| tree.without_directory_times().without_links());
                found.in_neither(&old, &new)
            }
        };
        assert!(wrong.is_empty(), "{phase:?}: {}", few(&wrong));
        self.check_edits(volume, phase);
        phase
    }

    /// Whatever the user wrote is on the volume, and what the user removed is not there again.
    #[track_caller]
    fn check_edits(&self, volume: &Path, phase: Phase) {
        let there: BTreeSet<Vec<u8>> = files(volume).into_values().collect();
        for (path, text) in &self.edits.texts {
            assert!(there.contains(text.as_bytes()), "{phase:?}: the user's {path:?} is lost");
        }
        if phase == Phase::New {
            self.check_displaced(volume);
        }
    }

    /// Just what has to be saved and offered is.
    #[track_caller]
    fn check_displaced(&self, volume: &Path) {
        let saved: BTreeMap<PathBuf, Vec<u8>> = self
            .edits
            .saved
            .iter()
            .map(|path| (path.clone(), self.edits.texts[path].clone().into()))
            .collect();
        let read = |path: &PathBuf| (path.clone(), fs::read(self.edits.new.join(path)).unwrap());
        let offered = self.edits.offered.iter().map(read).collect();
        assert_same_files("saved", &saved, &displaced(volume, DISPLACED[0]));
        assert_same_files("offered", &offered, &displaced(volume, DISPLACED[1]));
    }

    /// It is at the second image, volseed says so, and nothing is left of what brought it there.
    #[track_caller]
    pub(super) fn check_end(&self, volume: &Path) {
        assert_eq!(self.check(volume), Phase::New);
        let left: Vec<String> = fs::read_dir(volume.join(".volseed"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| ![&RECORDS[..], &DISPLACED].concat().contains(&name.as_str()))
            .collect();
        assert!(left.is_empty(), "left behind in .volseed: {}", left.join(", "));
        let verified = settled(volseed(["verify", "--digest", "--to"]).arguments([volume]));
        assert_eq!(
            verified.status.code(),
            Some(i32::from(!self.edits.verified.is_empty())),
            "{}",
            verified.stderr
        );
        let mut lines: Vec<&str> = verified.stdout.lines().collect();
        lines.pop();
        let expected: Vec<&str> = self.edits.verified.iter().map(String::as_str).collect();
        lines.sort_unstable();
        assert_eq!(lines, expected, "what volseed verify says");
    }
}

#[track_caller]
fn assert_same_files(what: &str, expected: &BTreeMap<PathBuf, Vec<u8>>, found: &BTreeMap<PathBuf, Vec<u8>>) {
    let different = expected.keys().chain(found.keys()).find(|path| expected.get(*path) != found.get(*path));
    if let Some(path) = different {
        let shown = |tree: &BTreeMap<PathBuf, Vec<u8>>| {
            tree.get(path).map(|text| String::from_utf8_lossy(text).into_owned())
        };
        panic!("{what}: {path:?} is {:?}, expected {:?}", shown(found), shown(expected));
    }
}

/// The files of all runs of the upgrade below `old` or `new`, whatever a run is called.
fn displaced(volume: &Path, kind: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let (kind, mut all) = (volume.join(".volseed").join(kind), BTreeMap::new());
    for run in fs::read_dir(&kind).into_iter().flatten().map(Result::unwrap) {
        for (path, text) in files(&run.path()) {
            let other = all.insert(path.clone(), text.clone());
            assert!(
                other.is_none_or(|other| other == text),
                "two runs keep two versions of {path:?} in {kind:?}"
            );
        }
    }
    all
}

/// Every regular file below a directory, by its path there.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut directories) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(path).unwrap());
            }
        }
    }
    found
}

/// The first few, in a line.
pub(super) fn few(differences: &[String]) -> String {
    differences.iter().take(4).map(|one| one.replace('\n', " ")).collect::<Vec<_>>().join("; ")
}
