//! Seeds that are killed at random moments and started again until they are complete.
//!
//! Whenever the process dies, a sentinel or a record on the volume means that every file is there; and a restart ends
//! with the same tree as a seed that nobody disturbed, without copying again what was finished.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::corpus::{Corpus, drawn};
use crate::fidelity::volume;
use crate::kit::{Sandbox, Snapshot, Volseed, needs, seed};
use crate::rounds::{Counts, Numbers};
use crate::{report, rounds, row};

/// Kills seeds at random moments, and compares the whole tree after each restart
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds on each file system from each source; a third of them close after a line of the log
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: u64,
    /// File systems
    #[arg(long, value_delimiter = ',', default_value = "ext4,tmpfs", value_name = "KIND,…")]
    on: Vec<String>,
    /// Sources
    #[arg(long, value_delimiter = ',', default_value = "directory,tar.gz", value_name = "SOURCE,…")]
    from: Vec<String>,
    /// Debian's packages of bench/corpus.sh in place of a made tree
    #[arg(long)]
    corpus: bool,
    #[command(flatten)]
    numbers: Numbers,
}

/// The steps between the last staged file and the record are short: some kills wait for these lines.
const AIMED_AT: [&str; 3] = ["\"staged\"", "\"synced\"", "\"published\""];
const AIMED_WITHIN: Duration = Duration::from_millis(4);
/// One restart in so many is killed as well.
const KILL_AGAIN: u64 = 4;
/// Some runs are done before their moment comes, and are run again.
const ATTEMPTS: usize = 40;
const PHASES: [&str; 4] = ["nothing staged", "staging", "publishing", "record written"];

pub(crate) fn run(arguments: &Arguments) -> usize {
    if !needs::tools(&["tar"]) {
        return 0;
    }
    let began = Instant::now();
    let corpus = Corpus::new(arguments.corpus);
    let expected = Snapshot::of(&corpus.tree);
    let (mut rows, mut broken, mut kills) = (Vec::new(), 0, 0);
    for kind in &arguments.on {
        if kind != "tmpfs" && !needs::file_system(kind) {
            continue;
        }
        for source in &arguments.from {
            let trial = Trial::new(kind, corpus.source(source), &corpus, &expected);
            let name = format!("kill on {kind} from {source}");
            let round = |number| trial.round(number, &mut arguments.numbers.draw(&name, number));
            let mut total = Counts::default();
            let numbers = arguments.numbers.of(arguments.rounds);
            // One after the other: a moment is a share of the time that a seed takes alone.
            broken += rounds::play(&name, numbers, 1, round, |counts| total.add_all(counts));
            kills += PHASES.iter().map(|phase| total.of(phase)).sum::<u64>();
            let (staged, reused) = (total.of("staged"), total.of("reused"));
            let share = 100.0 * reused as f64 / staged.max(1) as f64;
            let mut row = row![kind, source, total.of("rounds")];
            row.extend(PHASES.iter().map(|phase| total.of(phase).to_string()));
            row.extend(row![total.of("too late"), staged, format!("{reused} ({share:.2} %)")]);
            rows.push(row);
        }
    }
    let tree = if arguments.corpus { "bench/corpus.sh" } else { "a made tree of 120 files" };
    report::heading("kill", &format!("{tree}, seed {}", arguments.numbers.seed), began.elapsed());
    let mut head = vec!["file system", "source", "complete and identical"];
    head.extend(PHASES);
    head.extend(["too late", "staged at the kill", "not copied again"]);
    report::table(&head, &rows);
    println!("{kills} kills, {broken} promises broken");
    broken
}

/// The rounds from one source on one file system.
struct Trial<'a> {
    kind: &'a str,
    from: PathBuf,
    sentinel: &'static str,
    expected: &'a Snapshot,
    whole: Duration,
}

/// What a dead process left.
struct Left {
    phase: &'static str,
    staged: u64,
}

impl<'a> Trial<'a> {
    fn new(kind: &'a str, from: PathBuf, corpus: &Corpus, expected: &'a Snapshot) -> Self {
        let mut trial = Self { kind, from, sentinel: corpus.sentinel, expected, whole: Duration::ZERO };
        let whole = report::median((0..3).map(|_| {
            let sandbox = Sandbox::on_disk();
            let (_mounted, volume) = volume(kind, &sandbox);
            let began = Instant::now();
            trial.seed(&volume).ends().exits(0);
            began.elapsed().as_secs_f64()
        }));
        trial.whole = Duration::from_secs_f64(whole);
        trial
    }

    fn seed(&self, volume: &Path) -> Volseed {
        seed(&self.from, volume).option("--sentinel", self.sentinel).json()
    }

    fn round(&self, number: u64, draw: &mut fastrand::Rng) -> Counts {
        let aim = (number % 3 == 2).then(|| *drawn(draw, &AIMED_AT));
        let mut counts = Counts::default();
        for _ in 0..ATTEMPTS {
            let sandbox = Sandbox::on_disk();
            let (_mounted, volume) = volume(self.kind, &sandbox);
            let Some(mut left) = self.killed(&volume, aim, draw, &mut counts) else {
                counts.add("too late", 1);
                continue;
            };
            if draw.u64(..KILL_AGAIN) == 0
                && let Some(again) = self.killed(&volume, None, draw, &mut counts)
            {
                left = again;
            }
            self.restart(&volume, &left, &mut counts);
            counts.add("rounds", 1);
            break;
        }
        counts
    }

    /// Starts a seed and kills it; nothing where it was done before the moment came.
    fn killed(
        &self,
        volume: &Path,
        aim: Option<&str>,
        draw: &mut fastrand::Rng,
        counts: &mut Counts,
    ) -> Option<Left> {
        let began = Instant::now();
        let running = self.seed(volume).start();
        let moment = match aim {
            // The steps in question take from microseconds to milliseconds.
            Some(line) if running.said_before_its_end(line) => {
                Instant::now() + AIMED_WITHIN.mul_f64(draw.f64().powi(3))
            }
            Some(_) => return None,
            None => began + self.whole.mul_f64(draw.f64()),
        };
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        let (outcome, _) = running.stopped_by(Signal::SIGKILL);
        if outcome.status.signal() != Some(Signal::SIGKILL as i32) {
            outcome.exits(0);
            return None;
        }
        let left = self.look(volume);
        counts.add(left.phase, 1);
        Some(left)
    }

    /// What the dead process left; nothing there may claim to be whole and not be it.
    fn look(&self, volume: &Path) -> Left {
        if volume.join(".volseed/state.json").exists() {
            self.compare("there is a record", volume);
            return Left { phase: PHASES[3], staged: 0 };
        }
        if volume.join(self.sentinel).exists() {
            self.compare("there is a sentinel", volume);
        }
        let staged = staged(volume);
        let is_ours = |name: &std::ffi::OsStr| name == ".volseed" || name == "lost+found";
        let published = fs::read_dir(volume).unwrap().any(|entry| !is_ours(&entry.unwrap().file_name()));
        let phase = if published { PHASES[2] } else { PHASES[usize::from(staged > 0)] };
        Left { phase, staged }
    }

    fn restart(&self, volume: &Path, left: &Left, counts: &mut Counts) {
        let outcome = self.seed(volume).ends().exits(0);
        assert!(volume.join(".volseed/state.json").exists(), "the restart ended well without a record");
        self.compare("it is complete", volume);
        assert_eq!(staged(volume), 0, "it is complete, and there are files in the stage");
        if left.phase == "staging" {
            counts.add("staged", left.staged);
            // A report without the number: the stage was whole, and only what comes after was left to do.
            if outcome.has_line("seeded") {
                counts.add("reused", outcome.line("seeded")["reused"].as_u64().unwrap_or(left.staged));
            }
        }
    }

    fn compare(&self, claim: &str, volume: &Path) {
        let differences = self.expected.differences(&Snapshot::of(volume));
        assert!(
            differences.is_empty(),
            "{claim}, but {}",
            differences[..differences.len().min(3)].join("; ")
        );
    }
}

/// Regular files in any stage, whole or not, one for all names of it.
fn staged(volume: &Path) -> u64 {
    let claims = volume.join(".volseed/claims");
    let (mut found, mut directories) = (BTreeSet::new(), vec![claims.clone()]);
    while let Some(directory) = directories.pop() {
        let below = directory.strip_prefix(&claims).unwrap();
        let is_staged =
            below.components().any(|part| part.as_os_str() == "stage" || part.as_os_str() == "sealed");
        for entry in fs::read_dir(&directory).into_iter().flatten().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if is_staged && metadata.is_file() && entry.file_name() != "stage.json" {
                found.insert(metadata.ino());
            }
        }
    }
    found.len() as u64
}
