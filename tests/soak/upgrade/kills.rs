//! Upgrades that are killed at random moments, and started again.
//!
//! Whenever the process dies, the volume is as it was, or complete at the second image, or without a record and each of
//! its files whole; a start of either image ends with one of the first two, the next start of the second image with the
//! second. No edit of the user's is lost, and nothing is left behind.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::corpus::drawn;
use crate::fidelity::volume;
use crate::kit::{Outcome, Running, Sandbox, Volseed, needs};
use crate::rounds::{Counts, Numbers};
use crate::{report, rounds, row};

use super::images::{Image, Images};
use super::judge::{Expected, Phase};
use super::user::User;
use super::{LIMIT, settled};

/// Kills upgrades at random moments, and compares the whole volume after each kill and start
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds on each file system
    #[arg(long, default_value_t = 4, value_name = "N")]
    rounds: u64,
    /// File systems
    #[arg(long, value_delimiter = ',', default_value = "ext4,tmpfs", value_name = "KIND,…")]
    on: Vec<String>,
    #[command(flatten)]
    numbers: Numbers,
}

/// Some runs are done before their moment comes, and are run again.
const ATTEMPTS: usize = 40;
/// A run is killed so often at most before it is left to end.
const MAX_KILLS: u32 = 4;
const COUNTED: [&str; 7] = [
    "rounds",
    Phase::Old.name(),
    Phase::Amid.name(),
    Phase::New.name(),
    "finished by the old image",
    "left old by it",
    "too late",
];

pub(crate) fn run(arguments: &Arguments) -> usize {
    let began = Instant::now();
    let images = Images::new();
    let (mut rows, mut broken) = (Vec::new(), 0);
    for kind in &arguments.on {
        if kind != "tmpfs" && !needs::file_system(kind) {
            continue;
        }
        let name = format!("upgrade-kills on {kind}");
        let mut trial = None;
        let undisturbed = |_| Trial::new(kind, &images);
        broken +=
            rounds::play(&format!("{name}, none killed"), 0..1, 1, undisturbed, |made| trial = Some(made));
        let Some(trial) = trial else { continue };
        let round = |number| trial.round(number, &mut arguments.numbers.draw(&name, number));
        let (mut total, numbers) = (Counts::default(), arguments.numbers.of(arguments.rounds));
        // One after the other: a moment is a share of the time that an upgrade takes alone.
        let was_broken = rounds::play(&name, numbers, 1, round, |counts| total.add_all(counts));
        let mut row = row![kind];
        row.extend(COUNTED.iter().map(|name| total.of(name).to_string()));
        row.extend(row![was_broken]);
        rows.push(row);
        broken += was_broken;
    }
    report::heading("upgrade-kills", &format!("seed {}", arguments.numbers.seed), began.elapsed());
    let mut head = vec!["file system"];
    head.extend(COUNTED);
    head.push("broken");
    report::table(&head, &rows);
    broken
}

/// What the moment of a kill follows.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// The start, by a share of the time that an upgrade takes.
    Start,
    /// This line of the log.
    Line(&'static str),
    /// That the record is gone: from here on the upgrade is to be finished.
    Commit,
    /// That there is a record again.
    Record,
}

/// The steps from the last staged file to the new record are short: most kills wait for one of them.
const AIMS: [Aim; 6] =
    [Aim::Start, Aim::Line("\"staged\""), Aim::Line("\"synced\""), Aim::Commit, Aim::Commit, Aim::Record];
const AIMED_WITHIN: Duration = Duration::from_millis(6);

/// The rounds on one file system.
struct Trial<'a> {
    kind: &'a str,
    images: &'a Images,
    /// What an upgrade takes that is not killed.
    whole: Duration,
}

impl<'a> Trial<'a> {
    fn new(kind: &'a str, images: &'a Images) -> Self {
        let mut trial = Self { kind, images, whole: Duration::ZERO };
        let whole = report::median((0..3).map(|number| {
            let sandbox = Sandbox::on_disk();
            let (_mounted, volume) = volume(kind, &sandbox);
            let expected = trial.prepare(&volume, number, &mut fastrand::Rng::with_seed(number));
            let began = Instant::now();
            settled(trial.start(&volume, Image::New)).exits(0).says("\"upgraded\"");
            let took = began.elapsed().as_secs_f64();
            expected.check_end(&volume);
            took
        }));
        trial.whole = Duration::from_secs_f64(whole);
        trial
    }

    /// Seeds the volume by the first image, and edits it as a user does.
    fn prepare(&self, volume: &Path, number: u64, draw: &mut fastrand::Rng) -> Expected {
        settled(self.start(volume, Image::Old)).exits(0).says("\"seeded\"");
        Expected::of(volume, User::new(self.images, volume, number).edit_all(draw))
    }

    fn start(&self, volume: &Path, image: Image) -> Volseed {
        self.images.start(volume, image).json()
    }

    fn round(&self, number: u64, draw: &mut fastrand::Rng) -> Counts {
        let mut counts = Counts::default();
        for _ in 0..ATTEMPTS {
            let sandbox = Sandbox::on_disk();
            let (_mounted, volume) = volume(self.kind, &sandbox);
            let expected = self.prepare(&volume, number, draw);
            let Some(mut phase) = self.killed(&volume, &expected, Image::New, draw, &mut counts) else {
                counts.add("too late", 1);
                continue;
            };
            let again = draw.u32(..MAX_KILLS);
            for _ in 0..again.saturating_sub(1) {
                let image = *drawn(draw, &[Image::Old, Image::New]);
                phase = match self.killed(&volume, &expected, image, draw, &mut counts) {
                    Some(phase) => phase,
                    None => expected.check(&volume),
                };
            }
            if draw.bool() {
                self.start_the_old(&volume, &expected, phase, &mut counts);
            }
            settled(self.start(&volume, Image::New)).exits(0);
            expected.check_end(&volume);
            counts.add("rounds", 1);
            break;
        }
        counts
    }

    /// A start of the first image leaves the volume as it is, or finishes what was committed.
    fn start_the_old(&self, volume: &Path, expected: &Expected, phase: Phase, counts: &mut Counts) {
        settled(self.start(volume, Image::Old)).exits(0);
        let (after, name) = match phase {
            Phase::Old => (Phase::Old, "left old by it"),
            Phase::Amid => (Phase::New, "finished by the old image"),
            Phase::New => (Phase::New, "left new by it"),
        };
        assert_eq!(expected.check(volume), after, "after a start of the first image");
        counts.add(name, 1);
    }

    /// Starts an image and kills it; nothing where it was done before the moment came.
    fn killed(
        &self,
        volume: &Path,
        expected: &Expected,
        image: Image,
        draw: &mut fastrand::Rng,
        counts: &mut Counts,
    ) -> Option<Phase> {
        let began = Instant::now();
        let workers = draw.u8(1..=4).to_string();
        let mut running = self.start(volume, image).option("--workers", workers).start();
        let moment = self.moment(&mut running, volume, began, draw)?;
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        running.signal(Signal::SIGKILL);
        let outcome =
            running.ends_within(LIMIT).unwrap_or_else(|said| panic!("it outlives SIGKILL:\n{said}"));
        if !was_killed(&outcome) {
            outcome.exits(0);
            return None;
        }
        let phase = expected.check(volume);
        counts.add(phase.name(), 1);
        Some(phase)
    }

    /// When to kill it; nothing where it ended before.
    fn moment(
        &self,
        running: &mut Running,
        volume: &Path,
        began: Instant,
        draw: &mut fastrand::Rng,
    ) -> Option<Instant> {
        let came = match *drawn(draw, &AIMS) {
            Aim::Start => return Some(began + self.whole.mul_f64(draw.f64())),
            Aim::Line(line) => running.said_before_its_end(line),
            Aim::Commit => becomes(running, volume, false),
            Aim::Record => becomes(running, volume, false) && becomes(running, volume, true),
        };
        came.then(|| Instant::now() + AIMED_WITHIN.mul_f64(draw.f64().powi(3)))
    }
}

fn was_killed(outcome: &Outcome) -> bool {
    use std::os::unix::process::ExitStatusExt;
    outcome.status.signal() == Some(Signal::SIGKILL as i32)
}

/// Waits for the moment in which there is a record, or none; whether it came before the process ended.
fn becomes(running: &mut Running, volume: &Path, is_there: bool) -> bool {
    let record = volume.join(".volseed/state.json");
    while record.exists() != is_there {
        if !running.is_running() {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}
