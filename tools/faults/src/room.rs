//! The directory of one run: a volume, the seed beside all rooms, and what a scenario has before it begins.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::filter::Filter;
use crate::kinds::KINDS;
use crate::kit::{Compression, Snapshot};
use crate::launch::Launch;
use crate::scenarios::{Scenario, Step, remove, seed, users_files, write_older};
use crate::tracer::{self, At, Fault, Ran};
use crate::watchdog::Watchdog;

/// Later than all times in the seed, and in the past.
const NOT_OF_A_SEED: i64 = 1_700_000_000;

/// What all rooms share.
pub(crate) struct Lab {
    /// volseed.
    pub(crate) program: PathBuf,
    /// Where the seed and the rooms are.
    pub(crate) root: PathBuf,
    /// How long a run may take.
    pub(crate) patience: Duration,
    /// The seed.
    pub(crate) seed: Snapshot,
    /// By kind; and for all kinds.
    filters: Vec<Filter>,
    all: Filter,
    renames: Filter,
    watchdog: Watchdog,
}

/// A room.
pub(crate) struct Room<'a> {
    lab: &'a Lab,
    scenario: &'a Scenario,
    path: PathBuf,
    /// The volume, where it is not a directory.
    _slowfs: Option<slowfs::Mount>,
}

/// What is in a room.
#[derive(PartialEq, Eq, Clone)]
pub(crate) struct Contents {
    /// By directory of the room: trees without volseed's state.
    pub(crate) trees: Vec<(&'static str, Snapshot)>,
    /// The names of everything, with volseed's state.
    pub(crate) names: Vec<String>,
    /// The records.
    pub(crate) records: Vec<Vec<u8>>,
}

/// Directories of a room whose trees are compared.
const PLACES: [&str; 4] = ["volume", "second", "below", "made"];

impl Contents {
    /// The tree of one directory of the room.
    pub(crate) fn tree(&self, name: &str) -> Option<&Snapshot> {
        self.trees.iter().find(|(known, _)| *known == name).map(|(_, tree)| tree)
    }

    /// Whether there is something of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

impl Lab {
    /// Makes the seed, as a directory and as archives, in a directory that is there and empty.
    pub(crate) fn new(program: &Path, root: &Path, patience: Duration) -> Self {
        let tree = seed();
        let directory = tree.write_to(&root.join("tree"));
        write_older(&tree, &root.join("older"));
        let list: Vec<String> = names(&directory);
        fs::write(root.join("list"), list.join("\n")).unwrap();
        for (compression, name) in
            Compression::ALL.iter().zip(["tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2"])
        {
            if let Some(bytes) = compression.pack(&tree.archive()) {
                fs::write(root.join(name), bytes).unwrap();
            }
        }
        Self {
            program: program.to_owned(),
            root: root.to_owned(),
            patience,
            seed: Snapshot::of(&directory),
            filters: (0..KINDS.len()).map(|kind| Filter::of(|index| index == kind)).collect(),
            all: Filter::of(|_| true),
            renames: Filter::of(|index| KINDS[index].name.starts_with("rename")),
            watchdog: Watchdog::start(),
        }
    }

    /// A room that is as the scenario wants it.
    pub(crate) fn room<'a>(&'a self, scenario: &'a Scenario, job: usize) -> Room<'a> {
        let path = self.root.join(format!("room-{job}"));
        fs::remove_dir_all(&path).ok();
        let mut room = Room { lab: self, scenario, path, _slowfs: None };
        room.directory("volume");
        if scenario.slowfs {
            let at = room.path.join("volume");
            room._slowfs = Some(slowfs::Mount::new(slowfs::Options::default(), &at).unwrap());
        }
        scenario.before.iter().for_each(|&step| room.step(step));
        room
    }
}

impl Room<'_> {
    /// The seed of the lab.
    pub(crate) fn seed(&self) -> &Snapshot {
        &self.lab.seed
    }

    fn directory(&self, name: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, self.scenario.user, self.scenario.user).unwrap();
    }

    fn step(&self, step: Step) {
        match step {
            Step::Directory(name) => self.directory(name),
            Step::UsersFiles => drop(users_files().write_to(&self.path.join("volume"))),
            Step::File(name, text) => fs::write(self.path.join(name), self.filled(text)).unwrap(),
            Step::Ran(command) => drop(self.plain(command)),
            Step::KilledAfter(command, name) => self.killed(command, At::Naming(name), Fault::KillAfter),
            Step::KilledAt(command, kind, nth) => {
                let kind = KINDS.iter().position(|known| known.name == kind).expect("a kind of the table");
                self.killed(command, At::Nth(kind, nth), Fault::KillBefore);
            }
            Step::Removed(names) => {
                remove(names.iter().map(|name| self.path.join("volume").join(name)));
            }
            Step::Emptied => {
                for entry in fs::read_dir(self.path.join("volume")).unwrap().map(Result::unwrap) {
                    match entry.file_type().unwrap().is_dir() {
                        _ if entry.file_name() == ".volseed" => {}
                        true => fs::remove_dir_all(entry.path()).unwrap(),
                        false => fs::remove_file(entry.path()).unwrap(),
                    }
                }
            }
        }
    }

    fn killed(&self, command: &str, at: At, fault: Fault) {
        let ran = self.traced(command, Some((at, fault)));
        assert!(ran.hit.is_some() && ran.signalled, "{}: was not killed: {}", self.scenario.name, ran.stderr);
    }

    /// A command with its placeholders filled in.
    fn filled(&self, command: &str) -> String {
        let lab = self.lab.root.display();
        let own = std::env::current_exe().unwrap();
        let mut text = command
            .replace("{app}", &format!("{} app {{volume}} {lab}/list", own.display()))
            .replace("{room}", &self.path.display().to_string())
            .replace("{volume}", &self.path.join("volume").display().to_string());
        for name in ["older", "tree", "tar.gz", "tar.zst", "tar.xz", "tar.bz2", "tar"] {
            text = text.replace(&format!("{{{name}}}"), &format!("{lab}/{name}"));
        }
        text
    }

    fn launch(&self, command: &str) -> Launch {
        let words = self.filled(command);
        let program = self.lab.program.display().to_string();
        Launch {
            words: [program].into_iter().chain(words.split_whitespace().map(str::to_owned)).collect(),
            input: self
                .scenario
                .input
                .map(|name| fs::read(self.lab.root.join(name)).unwrap())
                .unwrap_or_default(),
            user: self.scenario.user,
            binds: self
                .scenario
                .binds
                .iter()
                .map(|(from, to)| (self.path.join(from), self.path.join(to)))
                .collect(),
        }
    }

    /// Runs it without a fault.
    pub(crate) fn plain(&self, command: &str) -> Ran {
        tracer::plain(&self.launch(command), &self.lab.watchdog, self.lab.patience).unwrap()
    }

    /// Runs it with a fault, or counts its calls.
    pub(crate) fn traced(&self, command: &str, fault: Option<(At, Fault)>) -> Ran {
        let filter = match &fault {
            Some((At::Nth(kind, _), _)) => &self.lab.filters[*kind],
            Some((At::Naming(_), _)) => &self.lab.renames,
            None => &self.lab.all,
        };
        tracer::traced(&self.launch(command), fault, filter, &self.lab.watchdog, self.lab.patience).unwrap()
    }

    /// What is in it now.
    pub(crate) fn contents(&self) -> Contents {
        let there = PLACES.iter().map(|&name| (name, self.path.join(name)));
        let record = |name: &str| fs::read(self.path.join("volume/.volseed").join(name)).unwrap_or_default();
        Contents {
            trees: there
                .filter(|(_, path)| path.exists())
                .map(|(name, path)| (name, Snapshot::of(&path).without_times_since(NOT_OF_A_SEED)))
                .collect(),
            names: names(&self.path),
            records: ["state.json", "record.json"].map(record).into(),
        }
    }
}

/// The names of everything below a directory.
pub(crate) fn names(root: &Path) -> Vec<String> {
    let (mut names, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            names.push(entry.path().strip_prefix(root).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    names.sort();
    names
}
