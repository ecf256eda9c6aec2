//! The replicas of a race, and what is promised of each.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::{Outcome, Running};
use crate::rounds::Counts;

use super::app::{AMID, ON_NEW, ON_OLD};
use super::images::Image;

/// A replica that runs.
pub(super) struct Contender {
    pub number: usize,
    pub image: Image,
    pub running: Running,
    pub started: Instant,
    pub is_killed: bool,
}

/// One that has ended.
pub(super) struct Ended {
    number: usize,
    image: Image,
    outcome: Outcome,
    started: Instant,
    pub is_killed: bool,
}

/// Kills the replica that upgrades the volume, or where none does a drawn one.
pub(super) fn kill(contenders: &mut [Contender], draw: &mut fastrand::Rng) {
    let upgrades = |contender: &Contender| contender.running.stderr().contains("\"staging what differs\"");
    let victim = contenders.iter().position(upgrades).unwrap_or_else(|| draw.usize(..contenders.len()));
    contenders[victim].running.signal(Signal::SIGKILL);
    contenders[victim].is_killed = true;
}

/// Waits until all are the app, and that has ended.
pub(super) fn ended(contenders: Vec<Contender>, limit: Duration) -> Vec<Ended> {
    let deadline = Instant::now() + limit;
    let ended = contenders.into_iter().map(|contender| {
        let Contender { number, image, running, started, is_killed } = contender;
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = running
            .ends_within(left)
            .unwrap_or_else(|said| panic!("r{number}, {image:?}, is not the app after {limit:?}:\n{said}"));
        Ended { number, image, outcome, started, is_killed }
    });
    ended.collect()
}

/// Panics with what was broken and what all of them said; the record was gone at this moment.
pub(super) fn judge(ended: &[Ended], retired: Option<Instant>) -> Counts {
    let mut counts = Counts::default();
    counts.add("rounds", 1);
    let mut wrong: Vec<String> = ended.iter().flat_map(|replica| replica.wrong(retired)).collect();
    let upgrades: Vec<&Ended> = ended.iter().filter(|replica| replica.outcome.has_line("upgraded")).collect();
    let is_undisturbed = !ended.iter().any(|replica| replica.is_killed);
    if upgrades.len() > 1 || is_undisturbed && upgrades.len() != 1 {
        wrong.push(format!("{} replicas upgraded it", upgrades.len()));
    }
    if is_undisturbed && ended.iter().any(|replica| replica.outcome.stderr.contains("lost the volume")) {
        wrong.push("somebody took over from a holder that lives".to_owned());
    }
    let said: String = ended.iter().map(Ended::transcript).collect();
    assert!(wrong.is_empty(), "{}\n{said}", wrong.join("; "));
    let of_the_first = |replica: &Ended| u64::from(replica.image == Image::Old);
    counts.add("finished by one of these", upgrades.into_iter().map(of_the_first).sum());
    for replica in ended {
        counts.add("replicas", 1);
        counts.add("of the first image", of_the_first(replica));
        counts.add("killed", replica.is_killed.into());
        for line in [ON_OLD, ON_NEW, AMID] {
            counts.add(line, replica.outcome.stdout.lines().any(|said| said == line).into());
        }
    }
    counts
}

impl Ended {
    fn wrong(&self, retired: Option<Instant>) -> Option<String> {
        let Ended { number, image, outcome, started, .. } = self;
        let status = outcome.status;
        if self.is_killed && status.signal() == Some(Signal::SIGKILL as i32) {
            return None;
        }
        if status.code() != Some(0) {
            return Some(format!("r{number}, {image:?}, ended with {status}"));
        }
        let said: Vec<&str> = outcome.stdout.lines().collect();
        let is_late = retired.is_some_and(|retired| *started > retired);
        let is_right = match (self.found_the_first(), image, &said[..]) {
            (false, _, [ON_NEW]) => true,
            // The volume may have become another between its look and its app's.
            (true, Image::Old | Image::NewThatLeaves, [ON_OLD] | [ON_NEW] | [AMID, ON_NEW]) => !is_late,
            _ => false,
        };
        let warning = match (self.found_the_first(), image) {
            (false, Image::Old) => "version 2.0 (asked: 1.0)",
            (true, Image::NewThatLeaves) => "version 1.0 (asked: 2.0)",
            _ => "",
        };
        if !is_right {
            Some(format!("r{number}, {image:?}, late: {is_late}: its app said {said:?}"))
        } else if !outcome.stderr.contains(warning) && !outcome.stderr.contains("another version than") {
            Some(format!("r{number}, {image:?}, did not say '{warning}'"))
        } else {
            None
        }
    }

    /// Whether it read the record of the first image, and left the volume as it was.
    fn found_the_first(&self) -> bool {
        let Ended { outcome, .. } = self;
        outcome.has_line("already seeded") && outcome.line("already seeded")["epoch"] == 1
    }

    fn transcript(&self) -> String {
        let Ended { number, image, outcome, .. } = self;
        let lines = outcome.stderr.lines().map(|line| format!("    r{number} {line}\n"));
        format!("    r{number} {image:?}, {}\n", outcome.status) + &lines.collect::<String>()
    }
}
