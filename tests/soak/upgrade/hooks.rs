//! Upgrades with a hook that fails now and then, killed at random moments in and around it, and started again.
//!
//! The hook and the app note in one journal when they begin and end. No app of the second image starts before
//! `post-upgrade` has ended well since the last kill; an image of the first version starts only on its own tree, or
//! waits; in the end the hook has succeeded and the volume is at the second version.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::fidelity::volume;
use crate::kit::mount::Mount;
use crate::kit::{Sandbox, Volseed, needs};
use crate::rounds::{Counts, Numbers};
use crate::{report, rounds, row};

use super::images::{Image, Images};
use super::judge::Phase;
use super::{LIMIT, settled};

/// Kills upgrades in and around a hook that fails now and then
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

/// Fails where its process number ends in 7 or 3, and takes a moment.
const HOOK: &str = r#"#!/bin/sh
at=$(dirname "$0")
echo "begins $1" >>"$at/journal"
sleep 0.02
case $$ in
*[37]) echo "fails $1" >>"$at/journal"; exit 1 ;;
esac
echo "ends $1" >>"$at/journal"
"#;
/// Starts that are killed, at most, in a round.
const MAX_KILLS: u32 = 6;
/// Starts until the hook succeeds.
const ATTEMPTS: usize = 60;
/// What a kill waits for; the longest time after it.
const AIMS: [&str; 4] =
    ["begins pre-upgrade", "ends pre-upgrade", "begins post-upgrade", "ends post-upgrade"];
const AIMED_WITHIN: Duration = Duration::from_millis(12);
const COUNTED: [&str; 6] = ["rounds", "killed", "not killed in time", "hook failed", "waited", "old started"];

pub(crate) fn run(arguments: &Arguments) -> usize {
    let began = Instant::now();
    let images = Images::new();
    let (mut rows, mut broken) = (Vec::new(), 0);
    for kind in &arguments.on {
        if kind != "tmpfs" && !needs::file_system(kind) {
            continue;
        }
        let name = format!("upgrade-hooks on {kind}");
        let round = |number| Round::new(kind, &images).play(&mut arguments.numbers.draw(&name, number));
        let (mut total, numbers) = (Counts::default(), arguments.numbers.of(arguments.rounds));
        let was_broken =
            rounds::play(&name, numbers, arguments.numbers.jobs, round, |counts| total.add_all(counts));
        let mut row = row![kind];
        row.extend(COUNTED.iter().map(|name| total.of(name).to_string()));
        row.extend(row![was_broken]);
        rows.push(row);
        broken += was_broken;
    }
    report::heading("upgrade-hooks", &format!("seed {}", arguments.numbers.seed), began.elapsed());
    let mut head = vec!["file system"];
    head.extend(COUNTED);
    head.push("broken");
    report::table(&head, &rows);
    broken
}

/// One volume, its hook, and what was noted.
struct Round<'a> {
    images: &'a Images,
    volume: PathBuf,
    sandbox: Sandbox,
    _mounted: Mount,
    counts: Counts,
}

impl<'a> Round<'a> {
    fn new(kind: &str, images: &'a Images) -> Self {
        let sandbox = Sandbox::on_disk();
        let (_mounted, volume) = volume(kind, &sandbox);
        sandbox.program("hook", HOOK);
        settled(images.start(&volume, Image::Old)).exits(0);
        Round { images, volume, sandbox, _mounted, counts: Counts::default() }
    }

    fn play(mut self, draw: &mut fastrand::Rng) -> Counts {
        for _ in 0..1 + draw.u32(..MAX_KILLS) {
            self.kill(draw);
            if draw.bool() {
                self.start_the_old();
            }
        }
        for attempt in 0.. {
            let outcome = settled(self.start(Image::New));
            if outcome.status.code() == Some(0) {
                break;
            }
            assert_eq!(outcome.status.code(), Some(69), "{}", outcome.stderr);
            assert!(attempt < ATTEMPTS, "the hook never succeeds: {}", self.journal());
            self.counts.add("hook failed", 1);
        }
        self.check_journal();
        assert_eq!(Phase::of(&self.volume), Phase::New, "{}", self.journal());
        assert!(self.journal().ends_with("app of New\n"), "{}", self.journal());
        self.counts.add("rounds", 1);
        self.counts
    }

    /// An image with an app that notes that it was started.
    fn start(&self, image: Image) -> Volseed {
        let journal = self.sandbox.path("journal");
        let app = ["sh".into(), "-c".into(), format!("echo 'app of {image:?}' >>'{}'", journal.display())];
        let start = self.images.run(&self.volume, image, app);
        start.option("--hook", self.sandbox.path("hook")).option("--workers", "2")
    }

    fn kill(&mut self, draw: &mut fastrand::Rng) {
        let (aim, from) = (AIMS[draw.usize(..AIMS.len())], self.journal().len());
        let mut running = self.start(Image::New).start();
        while !self.journal()[from..].contains(aim) && running.is_running() {
            std::hint::spin_loop();
        }
        std::thread::sleep(AIMED_WITHIN.mul_f64(draw.f64()));
        let is_killed = running.is_running();
        if is_killed {
            running.signal(Signal::SIGKILL);
        }
        running.ends_within(LIMIT).unwrap_or_else(|said| panic!("it outlives SIGKILL:\n{said}"));
        self.counts.add(if is_killed { "killed" } else { "not killed in time" }, 1);
        if is_killed {
            note(&self.sandbox.path("journal"), "killed");
        }
        self.check_journal();
    }

    /// It starts on its own tree, or on the second one once that is complete, or waits for the second image.
    fn start_the_old(&mut self) {
        let outcome = settled(self.start(Image::Old).option("--wait-timeout", "50ms"));
        match outcome.status.code() {
            Some(0) => self.counts.add("old started", 1),
            Some(75) => self.counts.add("waited", 1),
            _ => panic!("the first image ended with {}:\n{}", outcome.status, outcome.stderr),
        }
        self.check_journal();
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.sandbox.path("journal")).unwrap_or_default()
    }

    /// No app is started while a hook is owed.
    fn check_journal(&self) {
        let journal = self.journal();
        let (mut is_changed, mut is_owed) = (false, false);
        for line in journal.lines() {
            match line {
                // From here on the tree may be the second one's.
                "ends pre-upgrade" => is_changed = true,
                "begins post-upgrade" => (is_changed, is_owed) = (true, true),
                "ends post-upgrade" => is_owed = false,
                "app of New" => assert!(is_changed && !is_owed, "an app starts too early:\n{journal}"),
                "app of Old" => assert!(!is_owed, "an app starts while a hook is owed:\n{journal}"),
                _ => {}
            }
        }
    }
}

fn note(journal: &Path, line: &str) {
    use std::io::Write;
    let file = fs::OpenOptions::new().append(true).create(true).open(journal);
    writeln!(file.unwrap(), "{line}").unwrap();
}
