//! What holds after a power cut: no record and no sentinel without the whole seed, users' files as they were, and a next
//! run that completes the volume and leaves nothing behind. Of a repair or an upgrade: no edit is lost.

use std::fs;

use super::cut::{Cut, Recording};
use super::scenario::{CONTROL, COPIED, Scenario, Step, TREE, edit};
use crate::bench::{Bench, FileSystem, same};
use crate::kit::Snapshot;
use crate::room::names;
use crate::scenarios::{SENTINEL, users_files};

/// What the cut left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// No record.
    Incomplete,
    /// A record, rightly.
    Complete,
    /// The control: a sentinel, and less than the seed.
    Caught,
    /// The file system itself does not recover, as from a superblock of which a part was written.
    NotRecovered,
}

/// Where a repair keeps what it replaces, below the state directory.
const OLD: &str = "old";
/// What only one side has beside users' files.
const USERS: [&str; 5] = [".", "a", "a/f1", "b", "b/current"];

/// Cuts the power, and looks what is there.
///
/// # Errors
/// What was promised and is not so.
pub(crate) fn judge(
    bench: &Bench,
    kind: FileSystem,
    scenario: &Scenario,
    recording: &Recording,
    cut: Cut,
) -> Result<Found, String> {
    if scenario.edits().next().is_some() {
        return judge_edited(bench, kind, scenario, recording, cut);
    }
    let disk = bench.disk(recording.image(cut));
    let Ok(_mounted) = bench.mount(kind, &disk, "") else { return Ok(Found::NotRecovered) };
    if scenario.name == CONTROL {
        let is_caught = bench.has(COPIED) && !bench.seed.missing(&bench.found()).is_empty();
        return Ok(if is_caught { Found::Caught } else { Found::Incomplete });
    }
    let trial = Trial { bench, scenario };
    let has_record = bench.has(".volseed/state.json");
    if has_record {
        trial.check_seed("a record is there")?;
    } else if recording.is_after_mark(cut, 1) {
        return Err("volseed had ended, and there is no record".to_owned());
    }
    if scenario.command.contains("--sentinel") && bench.has(SENTINEL) {
        // What the root is comes after it.
        same(&bench.seed.clone().without_root().missing(&bench.found()), "a sentinel is there")?;
    }
    trial.check_users()?;
    trial.check_next()?;
    Ok(if has_record { Found::Complete } else { Found::Incomplete })
}

/// Each entry is as it was before or as the seed has it, no edit is lost, and the next run does what the first one was to
/// do. A volume that is repaired stays complete.
fn judge_edited(
    bench: &Bench,
    kind: FileSystem,
    scenario: &Scenario,
    recording: &Recording,
    cut: Cut,
) -> Result<Found, String> {
    let found = || bench.found().without_directory_times();
    let before = {
        let disk = bench.disk(recording.base.clone());
        let _mounted = bench.mount(kind, &disk, "")?;
        found()
    };
    let disk = bench.disk(recording.image(cut));
    let Ok(_mounted) = bench.mount(kind, &disk, "") else { return Ok(Found::NotRecovered) };
    let seed = bench.seed.clone().without_directory_times();
    if scenario.is_repair() {
        bench.check_status()?;
    }
    same(&found().in_neither(&before, &seed), "neither as before nor as seeded")?;
    let is_done = seed.missing(&found()).is_empty();
    if recording.is_after_mark(cut, 1) && !is_done {
        return Err("it had ended, and something differs".to_owned());
    }
    check_edits(bench, scenario)?;
    let first = Some(TREE).filter(|_| scenario.is_repair());
    for command in first.into_iter().chain([scenario.command]) {
        let next = bench.plain(command, None);
        if next.code != 0 {
            return Err(format!("the next run ended with {}: {}", next.code, next.stderr.trim()));
        }
    }
    same(&seed.differences(&found()), "after the next run")?;
    check_edits(bench, scenario)?;
    let left: Vec<_> = bench.left_behind().into_iter().filter(|name| !is_old(name)).collect();
    same(&left, "left behind")?;
    bench.check_status()?;
    Ok(if is_done { Found::Complete } else { Found::Incomplete })
}

fn is_old(name: &str) -> bool {
    name == OLD || name.starts_with(&format!("{OLD}/"))
}

/// Every edit is in its place, or was kept.
fn check_edits(bench: &Bench, scenario: &Scenario) -> Result<(), String> {
    let state = bench.volume().join(".volseed");
    let old: Vec<_> = names(&state).into_iter().filter(|name| is_old(name)).collect();
    for path in scenario.edits() {
        let kept = old.iter().filter(|name| name.ends_with(path)).map(|name| state.join(name));
        let mut places = kept.chain([bench.volume().join(path)]);
        if !places.any(|place| fs::read(place).is_ok_and(|there| there == edit(path).as_bytes())) {
            return Err(format!("the user's edit of {path} is lost"));
        }
    }
    Ok(())
}

struct Trial<'a> {
    bench: &'a Bench,
    scenario: &'a Scenario,
}

impl Trial<'_> {
    fn has_users(&self) -> bool {
        self.scenario.steps.iter().any(|step| matches!(step, Step::UsersFiles))
    }

    fn check_seed(&self, when: &str) -> Result<(), String> {
        let seed = self.bench.seed.clone();
        let seed = if self.has_users() { seed.without(&USERS) } else { seed };
        same(&seed.missing(&self.bench.found()), when)
    }

    fn check_users(&self) -> Result<(), String> {
        if !self.has_users() {
            return Ok(());
        }
        let place = self.bench.root.join("users");
        let files = Snapshot::of(&users_files().write_to(&place)).without(&[".", "a", "b"]);
        fs::remove_dir_all(place).map_err(|error| error.to_string())?;
        same(&files.missing(&self.bench.found()), "users' files")
    }

    fn check_next(&self) -> Result<(), String> {
        let next = self.bench.plain(self.scenario.command, None);
        if next.code != 0 {
            return Err(format!("the next run ended with {}: {}", next.code, next.stderr.trim()));
        }
        self.check_seed("after the next run")?;
        if !self.has_users() {
            same(&self.bench.seed.differences(&self.bench.found()), "after the next run")?;
        }
        self.check_users()?;
        same(&self.bench.left_behind(), "left behind")?;
        self.bench.check_status()
    }
}
