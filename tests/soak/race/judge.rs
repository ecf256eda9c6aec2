//! What is promised of a race, and whether a round kept it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{report, row};

use super::differences;
use super::round::Round;

/// A holder was struck: its heirs have waited since.
pub(super) struct Wait {
    pub signal: Signal,
    pub holder: usize,
    pub since: Instant,
    pub epoch: u64,
    pub heirs: Vec<usize>,
}

/// How a holder went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    Killed,
    /// And a waiter froze with the lock that the dead one left, or an earlier holder with its own: no lock tells then.
    KilledAnotherFrozen,
    Frozen,
    /// Asked to end: it has half a second to say that it did.
    Terminated,
}

/// And the seconds from then to the next seeder.
pub(super) type Takeover = (Went, f64);

/// Longest time from a holder's end to the next seeder; nothing is promised of one that was asked to end.
fn promised(kind: &str, went: Went) -> Option<f64> {
    match went {
        Went::Killed if kind == "fuse" => Some(20.0),
        Went::Killed => Some(2.0),
        Went::KilledAnotherFrozen | Went::Frozen => Some(20.0),
        Went::Terminated => None,
    }
}

pub(super) fn takeover_rows(kind: &str, takeovers: &[Takeover]) -> Vec<Vec<String>> {
    let words = [
        (Went::Killed, "dead by SIGKILL"),
        (Went::KilledAnotherFrozen, "dead, another one frozen"),
        (Went::Frozen, "frozen"),
        (Went::Terminated, "dead by SIGTERM"),
    ];
    let mut rows = Vec::new();
    for (went, words) in words {
        let times: Vec<f64> =
            takeovers.iter().filter(|takeover| takeover.0 == went).map(|takeover| takeover.1).collect();
        if !times.is_empty() {
            let worst = times.iter().copied().fold(0.0, f64::max);
            let limit = promised(kind, went).map_or("—".to_owned(), |limit| limit.to_string());
            let (count, median) = (times.len(), report::median(times));
            rows.push(row![kind, words, count, format!("{median:.3}"), format!("{worst:.3}"), limit]);
        }
    }
    rows
}

/// A holder that was stopped for longer may have been taken over: 15 s of silence, less what a clock may differ.
const SUSPICIOUS_AFTER: Duration = Duration::from_secs(13);
/// What a killed replica may leave: records, and no data.
const LEFTOVER_BYTES: u64 = 16 << 10;
/// What stays in the state directory of a complete volume: the public and the private record, and the lock.
const RECORDS: [&str; 4] = ["state.json", "record.json", "manifest-1", "lock"];

impl Round<'_> {
    pub(super) fn may_be_taken_over(&self, holder: usize) -> bool {
        let holder = &self.replicas[holder];
        let was_stopped = holder.first_stop.is_some_and(|since| since.elapsed() > SUSPICIOUS_AFTER);
        was_stopped || !holder.lives() || holder.lost || holder.failed
    }

    /// A claim has one seeder, and it came in time.
    pub(super) fn at_work(&mut self, number: usize) {
        let Some(&epoch) = self.replicas[number].epochs.last() else { return };
        let seeder = *self.seeders.entry(epoch).or_insert(number);
        if seeder != number {
            self.wrong.push(format!("r{seeder} and r{number} seed under epoch {epoch}"));
        }
        let Some(wait) = self.wait.take_if(|wait| epoch > wait.epoch) else { return };
        // A process that waits for a disk dies late, and what it held is held until then.
        let since = self.replicas[wait.holder].ended.map_or(wait.since, |ended| ended.max(wait.since));
        let seconds = since.elapsed().as_secs_f64();
        let went = self.went(&wait);
        self.note_of(number, &format!("took {seconds:.3} s after {went:?}"));
        if let Some(limit) = promised(self.ground.kind, went).filter(|&limit| seconds > limit) {
            self.wrong
                .push(format!("the takeover after {went:?} took {seconds:.3} s, {limit} s are promised"));
        }
        self.takeovers.push((went, seconds));
    }

    fn went(&self, wait: &Wait) -> Went {
        match wait.signal {
            Signal::SIGSTOP => return Went::Frozen,
            Signal::SIGTERM => return Went::Terminated,
            _ => {}
        }
        let frozen_since = self
            .replicas
            .iter()
            .any(|other| other.is_stopped || other.last_stop.is_some_and(|last| last >= wait.since));
        // Who took over from a frozen one did so without the lock, which that one keeps.
        let before = wait.epoch.checked_sub(1).and_then(|before| self.owners.get(&before));
        let from_frozen = before.is_some_and(|&before| self.replicas[before].first_stop.is_some());
        if frozen_since || from_frozen { Went::KilledAnotherFrozen } else { Went::Killed }
    }

    /// All have ended.
    pub(super) fn judge(&mut self) {
        let mut wrong = Vec::new();
        for replica in &self.replicas {
            let ended_by_strike = match (replica.code, replica.killed_by) {
                (_, Some(signal)) => replica.struck.iter().any(|&struck| struck as i32 == signal),
                (Some(143), _) => replica.was_struck_by(Signal::SIGTERM),
                _ => false,
            };
            if replica.code == Some(0) && !replica.is_ready {
                wrong.push(format!("r{} ended well and was never the app", replica.number));
            } else if replica.code != Some(0) && !ended_by_strike {
                wrong.push(format!("r{} ended with {:?}", replica.number, replica.code));
            }
        }
        for (number, before, timestamp) in &self.suspicions {
            let published = self.replicas[*before].published.as_ref();
            if published.is_none_or(|published| published > timestamp) {
                wrong.push(format!("r{number} took over from r{before}, which lives"));
            }
        }
        wrong.extend(self.judge_state());
        let different = differences(&self.seed.expected, &self.root, self.seed.is_furnished);
        if !different.is_empty() {
            wrong.push(format!("not identical: {}", different.join("; ")));
        }
        self.wrong.append(&mut wrong);
    }

    /// Nothing is left but the records and the lock, and of the killed at most a few records.
    fn judge_state(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let state = self.root.join(".volseed");
        let record = fs::read_to_string(state.join("state.json")).unwrap();
        let epoch = serde_json::from_str::<Value>(&record).unwrap()["epoch"].as_u64().unwrap();
        let (killed, spared): (Vec<_>, Vec<_>) =
            self.replicas.iter().partition(|replica| replica.was_struck_by(Signal::SIGKILL));
        if !self.owners.contains_key(&epoch) && killed.is_empty() {
            wrong.push(format!("recorded by epoch {epoch}, of which no replica spoke"));
        }
        let owned: BTreeSet<u64> =
            spared.into_iter().flat_map(|replica| replica.epochs.iter().copied()).collect();
        let is_killed = !killed.is_empty();
        for entry in fs::read_dir(&state).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if RECORDS.contains(&name.as_str()) {
                continue;
            }
            let below = names(&entry.path());
            let of_a_survivor =
                below.iter().any(|epoch| epoch.parse().is_ok_and(|epoch| owned.contains(&epoch)));
            let (files, bytes) = files_below(&entry.path());
            if !is_killed || of_a_survivor || !["tmp", "claims"].contains(&name.as_str()) {
                wrong.push(format!("left behind: {name}: {below:?}, {files:?}"));
            } else if bytes > LEFTOVER_BYTES {
                wrong.push(format!("left behind: more than records: {files:?}"));
            }
            self.counts.add("left by the killed", below.len().max(1) as u64);
        }
        wrong
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The files below a directory, and their bytes.
fn files_below(directory: &Path) -> (Vec<PathBuf>, u64) {
    let (mut files, mut bytes, mut directories) = (Vec::new(), 0, vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                Ok(metadata) => {
                    bytes += metadata.len();
                    files.push(entry.path());
                }
                Err(_) => {}
            }
        }
    }
    (files, bytes)
}
