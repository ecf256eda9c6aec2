//! Up to 16 replicas race for one volume while they are killed, stopped, continued and terminated at random moments.
//!
//! A claim has one seeder; nobody takes over from a holder that lives; an app starts only on a complete and identical
//! tree; every survivor becomes the app; nothing is left behind; a dead or frozen holder is waited for no longer than
//! promised. On tmpfs and ext4 replicas agree by the lock; on FUSE, where two mounts over one directory do not share
//! locks, by the heartbeat alone. Knows of volseed its command line, its log lines and its state directory.

mod judge;
mod replica;
mod round;
mod seeds;
mod strikes;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use crate::fidelity::volume;
use crate::kit::mount::{self, Mount};
use crate::kit::{Sandbox, Snapshot, needs, seed};
use crate::rounds::{Counts, Numbers};
use crate::{report, rounds, row};
use round::Round;
use seeds::Seed;

/// Lets 2 to 16 replicas race for one volume, with SIGKILL, SIGSTOP, SIGCONT and SIGTERM at random moments
///
/// Each app compares the whole tree as its first act; each round ends with a comparison and a look at what is left.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds on each file system
    #[arg(long, default_value_t = 4, value_name = "N")]
    rounds: u64,
    /// File systems: tmpfs, ext4, fuse
    #[arg(long, value_delimiter = ',', default_value = "tmpfs", value_name = "KIND,…")]
    on: Vec<String>,
    /// Replicas that a round begins with at most
    #[arg(long, default_value_t = 16, value_name = "N")]
    replicas: u64,
    #[command(flatten)]
    numbers: Numbers,
}

/// Compares a volume with what has to be on it, says how they differ, and that it is there.
#[derive(clap::Args)]
pub(crate) struct AppArguments {
    expected: PathBuf,
    volume: PathBuf,
    /// The volume had entries of a user before.
    #[arg(long)]
    furnished: bool,
}

pub(crate) fn app(arguments: &AppArguments) -> ExitCode {
    let expected = seeds::listed(&arguments.expected, arguments.furnished);
    for difference in differences(&expected, &arguments.volume, arguments.furnished) {
        println!("{difference}");
    }
    println!("{READY}");
    ExitCode::SUCCESS
}

const READY: &str = "ready";

/// The first few ways in which a volume is not what it has to be, a line each.
fn differences(expected: &Snapshot, volume: &Path, furnished: bool) -> Vec<String> {
    let differences = expected.differences(&seeds::listed(volume, furnished));
    differences.into_iter().take(4).map(|difference| difference.replace('\n', " ")).collect()
}

/// Where the rounds of one file system take place.
struct Ground<'a> {
    arguments: &'a Arguments,
    kind: &'a str,
    /// The volumes of the rounds are directories in it.
    root: PathBuf,
    /// The same directory as the replicas see it, one after the other.
    views: Vec<PathBuf>,
    seeds: &'a [Seed],
    sandbox: &'a Sandbox,
    /// What an entry took in the last seeds that nobody disturbed.
    seconds_per_entry: Mutex<VecDeque<f64>>,
    _mounts: Vec<Mount>,
}

/// Seeds that the pace is taken from.
const PACE_OF: usize = 9;
/// One mount has to see at once what was done through the other.
const COHERENT: &str = "attr_timeout=0,entry_timeout=0,negative_timeout=0";

/// A file system, the directory where the rounds take place, and the same as the replicas see it one after the other.
pub(crate) fn views(kind: &str, disk: &Sandbox) -> (Vec<Mount>, PathBuf, Vec<PathBuf>) {
    let (mounted, root) = volume(if kind == "fuse" { "tmpfs" } else { kind }, disk);
    let (mut mounts, mut views) = (Vec::new(), vec![root.clone()]);
    if kind == "fuse" {
        views = ["first", "second"].map(|name| disk.directory(name)).to_vec();
        mounts.extend(views.iter().map(|view| mount::bindfs(&["-o", COHERENT], &root, view)));
    }
    // The views go before what they show.
    mounts.push(mounted);
    (mounts, root, views)
}

impl<'a> Ground<'a> {
    fn new(
        arguments: &'a Arguments,
        kind: &'a str,
        sandbox: &'a Sandbox,
        disk: &Sandbox,
        seeds: &'a [Seed],
    ) -> Self {
        let (mounts, root, views) = views(kind, disk);
        let pace = Mutex::new(VecDeque::new());
        let ground =
            Self { arguments, kind, root, views, seeds, sandbox, seconds_per_entry: pace, _mounts: mounts };
        for number in 0..5 {
            let alone = ground.views[0].join(format!("alone-{number}"));
            std::fs::create_dir(&alone).unwrap();
            let began = Instant::now();
            seed(&seeds[0].source, &alone).option("--workers", "1").ends().exits(0);
            ground.seeded_undisturbed(began.elapsed().as_secs_f64() / seeds[0].entries as f64);
        }
        ground
    }

    fn seeded_undisturbed(&self, seconds_per_entry: f64) {
        let mut pace = self.seconds_per_entry.lock().unwrap();
        pace.push_back(seconds_per_entry);
        if pace.len() > PACE_OF {
            pace.pop_front();
        }
    }

    /// What a seed takes while the machine is as busy as it is.
    fn seconds_for(&self, entries: usize) -> f64 {
        report::median(self.seconds_per_entry.lock().unwrap().iter().copied()) * entries as f64
    }
}

pub(crate) fn run(arguments: &Arguments) -> usize {
    if !needs::tools(&["tar", "bindfs"]) || !needs::fuse() {
        return 0;
    }
    let began = Instant::now();
    let sandbox = Sandbox::new();
    let seeds = seeds::all(&sandbox);
    let (mut rows, mut takeovers, mut broken) = (Vec::new(), Vec::new(), 0);
    for kind in &arguments.on {
        let disk = Sandbox::on_disk();
        let ground = Ground::new(arguments, kind, &sandbox, &disk, &seeds);
        let (mut total, mut times) = (Counts::default(), Vec::new());
        let numbers = arguments.numbers.of(arguments.rounds);
        let round = |number| Round::new(&ground, number).play();
        let was_broken =
            rounds::play(&format!("race on {kind}"), numbers, arguments.numbers.jobs, round, |played| {
                total.add_all(played.counts);
                times.extend(played.takeovers);
            });
        let mut row = row![kind];
        row.extend(COUNTED.iter().map(|name| total.of(name).to_string()));
        row.extend(row![was_broken]);
        rows.push(row);
        takeovers.extend(judge::takeover_rows(kind, &times));
        broken += was_broken;
    }
    let settings = format!("seed {}, 2 to {} replicas", arguments.numbers.seed, arguments.replicas);
    report::heading("race", &settings, began.elapsed());
    let mut head = vec!["file system"];
    head.extend(COUNTED);
    head.push("broken");
    report::table(&head, &rows);
    report::table(&["file system", "holder", "takeovers", "median s", "worst s", "promised s"], &takeovers);
    broken
}

const COUNTED: [&str; 12] = [
    "rounds",
    "replicas",
    "KILL",
    "TERM",
    "STOP",
    "of these long",
    "at a holder",
    "takeovers",
    "finished a sealed one",
    "lost and came back",
    "apps",
    "left by the killed",
];
