//! Replicas of two images that start at the same moment, or a little later, on a volume of the first.
//!
//! One replica upgrades it. An app starts only on the first image's tree or on the second's, and one whose replica was
//! started after the record was retired only on the second's. Every replica that nobody killed becomes the app; an old
//! one that finds the second image says so.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::corpus::drawn;
use crate::kit::mount::Mount;
use crate::kit::{Sandbox, needs};
use crate::race::views;
use crate::rounds::{Counts, Numbers};
use crate::{report, rounds, row};

use super::app::{AMID, ON_NEW, ON_OLD};
use super::images::{Image, Images};
use super::judge::Expected;
use super::replicas::{self, Contender};
use super::user::{Edits, User};
use super::{LIMIT, settled};

/// Lets replicas of two images race for one volume that the first of them seeded
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds on each file system
    #[arg(long, default_value_t = 4, value_name = "N")]
    rounds: u64,
    /// File systems: tmpfs, ext4, fuse
    #[arg(long, value_delimiter = ',', default_value = "tmpfs", value_name = "KIND,…")]
    on: Vec<String>,
    /// Replicas of a round at most
    #[arg(long, default_value_t = 16, value_name = "N")]
    replicas: u64,
    #[command(flatten)]
    numbers: Numbers,
}

/// One round in so many has replicas of the second image only; in one of so many the one that upgrades is killed.
const ALIKE: u64 = 8;
const KILLED: u64 = 4;
/// Late replicas come within so many times what an upgrade took lately.
const LATE: f64 = 1.5;
const COUNTED: [&str; 9] = [
    "rounds",
    "replicas",
    "of the first image",
    "finished by one of these",
    "killed",
    ON_OLD,
    ON_NEW,
    AMID,
    "the record was seen gone",
];

pub(crate) fn run(arguments: &Arguments) -> usize {
    if !needs::tools(&["bindfs"]) || !needs::fuse() {
        return 0;
    }
    let began = Instant::now();
    let images = Images::new();
    let (mut rows, mut broken) = (Vec::new(), 0);
    for kind in &arguments.on {
        let disk = Sandbox::on_disk();
        let (mounts, root, views) = views(kind, &disk);
        let took = Mutex::new(Duration::from_millis(100));
        let ground =
            Ground { root, views, images: &images, replicas: arguments.replicas, took, _mounts: mounts };
        let round = |number| ground.round(number, &mut arguments.numbers.draw(kind, number));
        let (mut total, numbers) = (Counts::default(), arguments.numbers.of(arguments.rounds));
        let name = format!("upgrade-races on {kind}");
        let was_broken =
            rounds::play(&name, numbers, arguments.numbers.jobs, round, |counts| total.add_all(counts));
        let mut row = row![kind];
        row.extend(COUNTED.iter().map(|name| total.of(name).to_string()));
        row.extend(row![was_broken]);
        rows.push(row);
        broken += was_broken;
    }
    let settings = format!("seed {}, 2 to {} replicas", arguments.numbers.seed, arguments.replicas);
    report::heading("upgrade-races", &settings, began.elapsed());
    let mut head = vec!["file system"];
    head.extend(COUNTED);
    head.push("broken");
    report::table(&head, &rows);
    broken
}

/// Where the rounds of one file system take place.
struct Ground<'a> {
    /// The volumes of the rounds are directories in it.
    root: PathBuf,
    /// The same directory as the replicas see it, one after the other.
    views: Vec<PathBuf>,
    images: &'a Images,
    replicas: u64,
    /// What the last upgrade took while the machine is as busy as it is.
    took: Mutex<Duration>,
    _mounts: Vec<Mount>,
}

/// What is done in a race, at a moment after its start.
enum Act {
    Start(usize, Image),
    /// The one that upgrades, if one does.
    Kill,
}

impl Ground<'_> {
    fn round(&self, number: u64, draw: &mut fastrand::Rng) -> Counts {
        let name = format!("round-{number}");
        let (volume, old) = (self.root.join(&name), self.root.join(format!("{name}-before")));
        std::fs::create_dir(&volume).unwrap();
        settled(self.images.start(&volume, Image::Old)).exits(0);
        let expected = Expected::of(&volume, User::new(self.images, &volume, number).edit_all(draw));
        let copied = Command::new("cp").arg("-a").arg(&volume).arg(&old).status().unwrap();
        assert!(copied.success());
        let race = Race { ground: self, name, volume, old, edits: &expected.edits };
        let counts = race.run(number, draw, &expected);
        for tree in [&race.volume, &race.old, &expected.edits.model] {
            std::fs::remove_dir_all(tree).unwrap();
        }
        counts
    }
}

struct Race<'a> {
    ground: &'a Ground<'a>,
    name: String,
    volume: PathBuf,
    /// The volume as it was before.
    old: PathBuf,
    edits: &'a Edits,
}

impl Race<'_> {
    fn run(&self, number: u64, draw: &mut fastrand::Rng, expected: &Expected) -> Counts {
        let (images, acts) = self.drawn(number, draw);
        let mut contenders: Vec<Contender> =
            images.into_iter().enumerate().map(|(number, image)| self.start(number, image, true)).collect();
        let is_over = AtomicBool::new(false);
        let (ended, retired) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(&is_over));
            let began = Instant::now();
            for contender in &mut contenders {
                contender.started = began;
                contender.running.end_input();
            }
            for (delay, act) in acts {
                std::thread::sleep((began + delay).saturating_duration_since(Instant::now()));
                match act {
                    Act::Start(number, image) => contenders.push(self.start(number, image, false)),
                    Act::Kill => replicas::kill(&mut contenders, draw),
                }
            }
            let ended = catch_unwind(AssertUnwindSafe(|| replicas::ended(contenders, LIMIT)));
            is_over.store(true, Ordering::Relaxed);
            (ended.unwrap_or_else(|panic| resume_unwind(panic)), watch.join().unwrap())
        });
        let mut counts = replicas::judge(&ended, retired);
        counts.add("the record was seen gone", retired.is_some().into());
        if ended.iter().any(|replica| replica.is_killed) {
            settled(self.ground.images.start(&self.volume, Image::New)).exits(0);
        }
        expected.check_end(&self.volume);
        counts
    }

    /// The images that start at once, and what follows, in its order.
    fn drawn(&self, number: u64, draw: &mut fastrand::Rng) -> (Vec<Image>, Vec<(Duration, Act)>) {
        // Rather few than many: each costs the machine the same, and most races are between two.
        let more = self.ground.replicas.saturating_sub(1) as f64 * draw.f64().powi(2);
        let mut images = vec![Image::New];
        for _ in 0..=(more as u64) {
            let others = [Image::Old, Image::Old, Image::New, Image::NewThatLeaves];
            images.push(if number % ALIKE == 1 { Image::New } else { *drawn(draw, &others) });
        }
        draw.shuffle(&mut images);
        let late = images.split_off(draw.usize(images.len() / 2..=images.len()));
        let longest = self.ground.took.lock().unwrap().mul_f64(LATE);
        let mut acts: Vec<(Duration, Act)> = Vec::new();
        for (index, image) in late.into_iter().enumerate() {
            acts.push((longest.mul_f64(draw.f64()), Act::Start(images.len() + index, image)));
        }
        if number % KILLED == 2 {
            let moment = longest.mul_f64(draw.f64());
            acts.push((moment, Act::Kill));
            // As what runs the container does.
            let next = Act::Start(images.len() + acts.len() - 1, *drawn(draw, &[Image::Old, Image::New]));
            acts.push((moment + longest.mul_f64(draw.f64() / 4.0), next));
        }
        acts.sort_by_key(|(delay, _)| *delay);
        (images, acts)
    }

    /// Starts a replica; with a gate it waits until its input ends.
    fn start(&self, number: usize, image: Image, gate: bool) -> Contender {
        let views = &self.ground.views;
        let volume = views[number % views.len()].join(&self.name);
        let program = std::env::current_exe().unwrap();
        let app = [Path::new("upgrade-app"), &self.old, &self.edits.model, &volume];
        let app = [program.as_path()].into_iter().chain(app);
        let replica = self.ground.images.run(&volume, image, app).json();
        let replica = match gate {
            true => replica.fed().under(["sh", "-c", "read gate; exec \"$@\" < /dev/null", "sh"]),
            false => replica,
        };
        Contender { number, image, started: Instant::now(), running: replica.start(), is_killed: false }
    }

    /// When the record was first seen gone, if it was. Learns what an upgrade takes.
    fn watch(&self, is_over: &AtomicBool) -> Option<Instant> {
        let (began, record) = (Instant::now(), self.volume.join(".volseed/state.json"));
        let mut retired = None;
        while !is_over.load(Ordering::Relaxed) {
            match (record.exists(), retired) {
                (false, None) => retired = Some(Instant::now()),
                (true, Some(_)) => {
                    *self.ground.took.lock().unwrap() = began.elapsed();
                    break;
                }
                _ => std::thread::sleep(Duration::from_micros(500)),
            }
        }
        retired
    }
}
