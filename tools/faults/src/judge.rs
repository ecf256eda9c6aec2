//! What volseed promises, whatever happens to a call: a documented exit code and one error line, an app that only
//! starts on a complete volume, users' files untouched, and a next run that completes the volume and leaves nothing
//! behind.

use std::path::Path;

use crate::kit::Snapshot;
use crate::room::{Contents, Room};
use crate::scenarios::{Ends, SENTINEL, Scenario};
use crate::tracer::{Fault, Ran, STANDARD_ERROR};

/// What docs/exit-codes.md has.
const CODES: [i32; 14] = [0, 64, 65, 66, 69, 70, 71, 73, 74, 75, 77, 78, 126, 127];

/// What a run may say that the volume does not keep, and a tree without it.
type Loss = (&'static str, fn(Snapshot) -> Snapshot);
const LOSSES: [Loss; 5] = [
    ("the owner of", Snapshot::without_owners),
    ("the mode of", Snapshot::without_modes),
    ("the time of", Snapshot::without_times),
    ("extended attribute", Snapshot::without_attributes),
    ("hard link", Snapshot::without_links),
];

/// What a warning has on paths that stay as they are.
const TOLD: [&str; 2] = ["not replaced", "left a stage on a mount"];

/// A scenario without a fault.
pub(crate) struct Baseline {
    /// What is there in the end.
    pub(crate) after: Contents,
    /// The exit code of the first run and of the next one.
    pub(crate) codes: [i32; 2],
    /// Calls of each kind.
    pub(crate) counts: Vec<u32>,
}

/// How a run that broke nothing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The call was not made this time.
    NotReached,
    /// It was of no consequence.
    Succeeded,
    /// The run ended with an error.
    Failed,
    /// The run was killed.
    Killed,
    /// It succeeded, and said what the volume does not keep.
    KeptLess,
}

/// Runs a scenario without a fault.
///
/// # Errors
/// It is not as it should be even so.
pub(crate) fn baseline(scenario: &Scenario, room: &Room) -> Result<Baseline, String> {
    let first = room.traced(scenario.command, None);
    let said = |what| format!("{what}: {}", first.stderr.trim());
    check_end(&first).and_then(|()| check_app(scenario, &first)).map_err(said)?;
    let next = room.plain(scenario.command);
    let after = room.contents();
    if let Ends::Complete(on_volume) = scenario.ends {
        same(&on_volume(room.seed().clone()).missing(&after.trees[0].1), "without a fault")?;
        check_status(room)?;
    }
    Ok(Baseline { after, codes: [first.code, next.code], counts: first.counts })
}

/// A run with a fault.
pub(crate) struct Trial<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) room: &'a Room<'a>,
    pub(crate) baseline: &'a Baseline,
    /// What was there before it.
    pub(crate) before: Contents,
    pub(crate) fault: Fault,
    pub(crate) ran: &'a Ran,
}

impl Trial<'_> {
    /// Judges the run, and the next one, which it makes.
    ///
    /// # Errors
    /// What was promised and is not so.
    pub(crate) fn judge(&self) -> Result<Verdict, String> {
        let ran = self.ran;
        let killed = ran.hit.is_some() && matches!(self.fault, Fault::KillBefore | Fault::KillAfter);
        if !killed {
            self.check_end_of(ran)?;
        } else if !ran.signalled {
            return Err("it survived SIGKILL".to_owned());
        }
        let usual = ran.code == self.baseline.codes[0];
        if ran.hit.is_none() && !usual {
            return Err(format!("exit code {} although no call failed", ran.code));
        }
        let between = self.room.contents();
        self.check_users(&between)?;
        self.check_claims_of_completeness(&between)?;
        if !self.left_out() {
            check_app(self.scenario, ran)?;
        }
        self.check_next()?;
        Ok(match () {
            () if ran.hit.is_none() => Verdict::NotReached,
            () if killed => Verdict::Killed,
            () if !usual => Verdict::Failed,
            () if self.kept_less() => Verdict::KeptLess,
            () => Verdict::Succeeded,
        })
    }

    /// `volseed health` says "no" with 1 and without an error.
    fn check_end_of(&self, ran: &Ran) -> Result<(), String> {
        let answers = ["health", "verify"].iter().any(|command| self.scenario.command.starts_with(command));
        let is_answer = answers && (ran.code, ran.signalled) == (1, false);
        if is_answer { Ok(()) } else { check_end(ran) }
    }

    /// It said that the volume does not keep something.
    fn kept_less(&self) -> bool {
        self.losses().is_some()
    }

    /// It said that something is not on the volume.
    fn left_out(&self) -> bool {
        ["left out", "lack a part of the seed"].iter().any(|said| self.ran.stderr.contains(said))
    }

    /// Whether a warning says of this path, or of a directory above it, that it stays as it is: as the seed calls it
    /// (`'b/current'`) or in full (`path=/volume/b/.volseed-1`).
    fn is_told(&self, path: &str) -> bool {
        let said = |line: &&str| TOLD.iter().any(|told| line.contains(told));
        let warnings = || self.ran.stderr.lines().filter(said);
        Path::new(path).ancestors().filter(|above| !above.as_os_str().is_empty()).any(|above| {
            let mut names = warnings().flat_map(|line| line.split('\'').skip(1).step_by(2));
            let mut paths =
                warnings().flat_map(|line| line.split(' ')).filter_map(|word| word.strip_prefix("path="));
            names.any(|name| Path::new(name) == above) || paths.any(|path| Path::new(path).ends_with(above))
        })
    }

    fn losses(&self) -> Option<&str> {
        self.ran.stderr.lines().find(|line| line.contains("does not keep all of the seed"))
    }

    /// What is not to change has not changed.
    fn check_users(&self, now: &Contents) -> Result<(), String> {
        for (name, before) in &self.before.trees {
            let kept = match self.baseline.after.tree(name) {
                Some(end) => before.clone().common(end),
                None => before.clone(),
            };
            let missing =
                now.tree(name).map_or_else(|| vec!["all of it".to_owned()], |now| kept.missing(now));
            same(&missing, &format!("users' files in {name}"))?;
        }
        Ok(())
    }

    /// A record or a sentinel that was not there before means that the volume is complete.
    fn check_claims_of_completeness(&self, now: &Contents) -> Result<(), String> {
        for (place, expected) in &self.baseline.after.trees {
            let appeared = |name: &str| now.has(name) && !self.before.has(name);
            let record = format!("{place}/.volseed/state.json");
            if appeared(&record) {
                self.compare("a record is there", place, expected, now)?;
            }
            let has_sentinel = self.scenario.command.contains("--sentinel") && !self.before.has(&record);
            if has_sentinel && appeared(&format!("{place}/{SENTINEL}")) {
                // What the root is comes after it.
                let rest = expected.clone().without_root();
                self.compare("a sentinel is there", place, &rest, now)?;
            }
        }
        Ok(())
    }

    /// The next run.
    fn check_next(&self) -> Result<(), String> {
        let next = self.room.plain(self.scenario.command);
        let ended = check_end(&next).and_then(|()| match self.left_out() {
            true => Ok(()),
            false => check_app(self.scenario, &next),
        });
        ended.map_err(|what| format!("the next run: {what}: {}", next.stderr.trim()))?;
        if !self.baseline.codes.contains(&next.code) {
            return Err(format!("the next run ended with {}: {}", next.code, next.stderr.trim()));
        }
        let end = self.room.contents();
        if matches!(self.scenario.ends, Ends::Untouched) {
            return if end == self.before { Ok(()) } else { Err("something has changed".to_owned()) };
        }
        for (place, expected) in &self.baseline.after.trees {
            self.compare("after the next run", place, expected, &end)?;
        }
        // Its number says how often the volume was seeded, as far as that is known after a fault.
        let manifests = |names: &[String]| names.iter().filter(|name| is_manifest(name)).count();
        let as_many = manifests(&end.names) == manifests(&self.baseline.after.names);
        let is_expected = |name: &String| self.baseline.after.has(name) || is_manifest(name) && as_many;
        let is_expected =
            |name: &String| is_expected(name) || saved_first(name).is_some_and(|it| is_expected(&it));
        let is_told = |name: &String| name.split_once('/').is_some_and(|(_, path)| self.is_told(path));
        let extra: Vec<&String> =
            end.names.iter().filter(|name| !is_expected(name) && !is_told(name)).collect();
        if !extra.is_empty() {
            return Err(format!("left behind: {extra:?}"));
        }
        match self.scenario.ends {
            Ends::Complete(_) => check_status(self.room),
            _ => Ok(()),
        }
    }

    /// All is as without a fault, but for what the run said that the volume does not keep.
    fn compare(&self, when: &str, place: &str, expected: &Snapshot, now: &Contents) -> Result<(), String> {
        let losses = self.losses().unwrap_or_default();
        let less = |mut tree: Snapshot| {
            for (_, without) in LOSSES.iter().filter(|(kind, _)| losses.contains(kind)) {
                tree = without(tree);
            }
            tree
        };
        let found = now.tree(place).ok_or_else(|| format!("{when}, there is no {place}"))?;
        let found = if expected.has_root() { found.clone() } else { found.clone().without_root() };
        let mut differences = less(expected.clone()).differences(&less(found));
        differences.retain(|difference| !difference.split('"').nth(1).is_some_and(|path| self.is_told(path)));
        if self.left_out() {
            differences.retain(|difference| !difference.starts_with("missing: "));
        }
        same(&differences, &format!("{when}, {place}"))
    }
}

/// What `volume/.volseed/old/1.2/a` would be called had no run before it saved anything: a run that is repeated saves to
/// a directory of its own.
fn saved_first(name: &str) -> Option<String> {
    let (place, path) = name.split_once("/.volseed/old/")?;
    let (run, below) = path.split_at(path.find('/').unwrap_or(path.len()));
    Some(format!("{place}/.volseed/old/{}{below}", run.split_once('.')?.0))
}

/// The exit code and the lines that go with it.
fn check_end(ran: &Ran) -> Result<(), String> {
    if ran.timed_out {
        return Err("it did not end in time".to_owned());
    }
    if ran.signalled {
        return Err(format!("it died of signal {}", ran.code - 128));
    }
    if !CODES.contains(&ran.code) {
        return Err(format!("exit code {}", ran.code));
    }
    // A line whose write failed may be missing.
    let unsaid = ran.hit.as_ref().is_some_and(|call| call.ends_with(STANDARD_ERROR));
    let lines = ran.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    match (ran.code, lines) {
        (0, 0) | (1.., 1) => Ok(()),
        (1.., 0) if unsaid => Ok(()),
        (code, lines) => Err(format!("exit code {code} with {lines} error lines")),
    }
}

/// The app is started once and finds a complete volume, or is not started.
fn check_app(scenario: &Scenario, ran: &Ran) -> Result<(), String> {
    let expected = if ran.code == 0 && scenario.command.ends_with("{app}") { "app: complete\n" } else { "" };
    if ran.signalled && ran.stdout == "app: complete\n" {
        return Ok(());
    }
    let is_app = ran.stdout.starts_with("app: ") || !expected.is_empty();
    match is_app && ran.stdout != expected {
        true => Err(format!("exit code {}, and the app said {:?}", ran.code, ran.stdout)),
        false => Ok(()),
    }
}

fn check_status(room: &Room) -> Result<(), String> {
    let status = room.plain("status --to {volume}");
    match status.code == 0 && status.stdout.contains(": complete\n") {
        true => Ok(()),
        false => Err(format!("status: exit code {}: {}", status.code, status.stdout.trim())),
    }
}

fn same(differences: &[String], what: &str) -> Result<(), String> {
    match differences {
        [] => Ok(()),
        some => Err(format!("{what}: {}", some[..some.len().min(3)].join("; "))),
    }
}

fn is_manifest(name: &str) -> bool {
    name.contains("/.volseed/manifest-")
}
