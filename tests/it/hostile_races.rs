//! A user who may write the volume's root changes it while volseed works there: directories for
//! links, `.volseed` for one of its own, files for FIFOs and hard links, at the moment when volseed
//! makes them, lists them or removes them.
//!
//! `VOLSEED_RACES=N` plays each race N times on each file system; a few are enough to see one that is
//! lost at once.

use std::ffi::CStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{ReadFlags, WatchFlags};

use crate::kit::attacker::{Attack, Attacker};
use crate::kit::forge::{Hands, States, chown_all, copy, falsify};
use crate::kit::mount::loop_device;
use crate::kit::scene::{APP, BOUND, Image, RootOf, Scene, judged};
use crate::kit::slowfs::slow;
use crate::kit::{Sandbox, Tree, needs};

/// Exit codes of a run under attack: the attacker may lose its own volume by that.
const DISTURBED: [i32; 5] = [0, 74, 75, 77, 78];

/// Directories and files that are swapped, enough that some are when volseed comes to them.
const MANY: usize = 300;

/// An attack on a volume: what stands ready for it, and what the attacker does from then on.
struct Race {
    name: &'static str,
    /// Of which roots it takes what only their writers may do.
    roots: &'static [RootOf],
    prepare: fn(&Scene, &States),
    attack: fn(&Attack, &Ways),
}

/// Where an attacker finds everything.
#[derive(Clone)]
struct Ways {
    volume: PathBuf,
    outside: PathBuf,
    /// How often this race was played before: an attack may come later each time.
    turn: usize,
}

impl Ways {
    fn state(&self) -> PathBuf {
        self.volume.join(".volseed")
    }

    /// What the attacker has made, on the volume.
    fn own(&self, name: &str) -> PathBuf {
        self.volume.join("own").join(name)
    }
}

const ANY: &[RootOf] = &RootOf::ALL;
/// Who may rename what is root's.
const RENAMES: &[RootOf] = &[RootOf::App, RootOf::Everybody];

const RACES: [Race; 9] = [
    Race { name: "swap_state_when_made", roots: RENAMES, prepare: own_state, attack: swap_state_when_made },
    Race {
        name: "swap_state_all_the_time",
        roots: RENAMES,
        prepare: own_state,
        attack: swap_state_all_the_time,
    },
    Race { name: "swap_state_for_link", roots: RENAMES, prepare: own_links, attack: swap_state_for_link },
    Race { name: "swap_listed_stage", roots: ANY, prepare: stage_of_directories, attack: swap_listed_stage },
    Race { name: "swap_removed", roots: ANY, prepare: stage_of_directories, attack: swap_removed },
    Race { name: "fill_stage", roots: ANY, prepare: stage_of_directories, attack: fill_stage },
    Race { name: "remake_claims", roots: ANY, prepare: stage_of_directories, attack: remake_claims },
    Race { name: "swap_records", roots: ANY, prepare: stage_of_directories, attack: swap_records },
    Race { name: "swap_published", roots: ANY, prepare: own_directories, attack: swap_published },
];

/// The app's own `own/state`, ready to be `.volseed`: a forged stage, with directories that nobody may
/// search so that they are changed.
fn own_state(scene: &Scene, states: &States) {
    own_links(scene, states);
    forge_state(&scene.volume.join("own/state"), states);
    chown_all(&scene.volume.join("own"), APP);
}

fn forge_state(at: &Path, states: &States) {
    copy(&states.staged, at);
    let tree = at.join("claims/1/stage/tree");
    falsify(&tree);
    for number in 0..MANY {
        let directory = tree.join(format!("d{number:05}"));
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o300)).unwrap();
    }
}

/// A directory of links out of the volume, one a name.
fn own_links(scene: &Scene, _: &States) {
    let links = scene.volume.join("own/links");
    fs::create_dir_all(&links).unwrap();
    for number in 0..MANY {
        let to = ["closed", "closed/key", "open", "of-stranger"][number % 4];
        symlink(scene.outside.join(to), links.join(format!("d{number:05}"))).unwrap();
        symlink(scene.outside.join("closed/key"), links.join(format!("f{number:05}"))).unwrap();
    }
    symlink(&scene.outside, scene.volume.join("own/outside")).unwrap();
    chown_all(&scene.volume.join("own"), APP);
}

fn stage_of_directories(scene: &Scene, states: &States) {
    own_links(scene, states);
    forge_state(&scene.state(), states);
    Hands::App.take(&scene.state());
}

/// Directories of the app's own, into which the image's entries are published.
fn own_directories(scene: &Scene, states: &States) {
    own_links(scene, states);
    for number in 0..MANY {
        let directory = scene.volume.join(format!("d{number:05}"));
        fs::create_dir(&directory).unwrap();
        lchown(&directory, Some(APP), Some(APP)).unwrap();
    }
}

fn swap_state_when_made(attack: &Attack, ways: &Ways) {
    let watch = attack.watch(WatchFlags::CREATE | WatchFlags::MOVED_TO, &[&ways.volume]);
    attack.ready();
    let mut swapped = false;
    while !swapped
        && watch.each(|_, name| {
            swapped |= is(name.as_deref(), ".volseed") && attack.exchange(&ways.state(), &ways.own("state"));
        })
    {}
    swap_all(attack, &ways.state().join("claims/1/stage/tree"), ways);
}

fn is(name: Option<&CStr>, wanted: &str) -> bool {
    name.is_some_and(|name| name.to_bytes() == wanted.as_bytes())
}

/// Every directory and file in `directory` whose name has a link of ours.
fn swap_all(attack: &Attack, directory: &Path, ways: &Ways) {
    for number in (0..MANY).rev() {
        let name = format!("d{number:05}");
        attack.exchange(&directory.join(&name), &ways.own("links").join(name));
    }
}

fn swap_state_all_the_time(attack: &Attack, ways: &Ways) {
    attack.ready();
    while attack.goes_on() {
        attack.exchange(&ways.state(), &ways.own("state"));
    }
}

fn swap_state_for_link(attack: &Attack, ways: &Ways) {
    let watch = attack.watch(WatchFlags::CREATE | WatchFlags::MOVED_TO, &[&ways.volume]);
    attack.ready();
    while watch.each(|_, name| {
        if is(name.as_deref(), ".volseed") {
            attack.exchange(&ways.state(), &ways.own("outside"));
        }
    }) {}
}

fn swap_listed_stage(attack: &Attack, ways: &Ways) {
    let tree = ways.state().join("claims/1/stage/tree");
    let watch = attack.watch(WatchFlags::ACCESS, &[&tree]);
    let directory = rustix::fs::open(&tree, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    attack.ready();
    if watch.count(1 + ways.turn % 3) {
        // Wherever it is by now.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory));
        swap_all(attack, Path::new(&path), ways);
    }
}

/// As names go, those that have yet to go are swapped.
fn swap_removed(attack: &Attack, ways: &Ways) {
    let claim = ways.state().join("claims/1");
    let (stage, tree) = (claim.join("stage"), claim.join("stage/tree"));
    let events = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::ACCESS;
    let watch = attack.watch(events, &[&ways.state(), &claim, &stage, &tree]);
    let directory = rustix::fs::open(&tree, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory)));
    attack.ready();
    let mut number = 0;
    while watch.each(|_, _| {
        for _ in 0..8 {
            let name = format!("d{:05}", number % MANY);
            attack.exchange(&path.join(&name), &ways.own("links").join(name));
            number += 1;
        }
    }) {}
    // The wrapper itself, too.
    attack.exchange(&stage, &ways.own("outside"));
}

/// FIFOs, links and hard links with the names of the image's files, in a stage that is listed.
fn fill_stage(attack: &Attack, ways: &Ways) {
    let tree = ways.state().join("claims/1/stage/tree");
    let watch = attack.watch(WatchFlags::ACCESS | WatchFlags::CREATE, &[&tree]);
    attack.ready();
    let mut round = 0;
    while watch.each(|_, _| {
        round += 1;
        if round > 3 {
            return;
        }
        for number in (0..MANY).rev() {
            let place = tree.join(format!("f{number:05}"));
            let made = match number % 3 {
                0 => nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).is_ok(),
                1 => symlink(ways.outside.join("closed/key"), &place).is_ok(),
                _ => fs::hard_link(ways.outside.join("open/file"), &place).is_ok(),
            };
            attack.count(made);
        }
    }) {}
}

/// Whatever is removed is made again, for as long as the test lasts.
fn remake_claims(attack: &Attack, ways: &Ways) {
    attack.ready();
    let state = ways.state();
    while attack.goes_on() {
        let made = fs::create_dir_all(state.join("claims/1/stage/tree/d/d/d")).is_ok();
        let link = symlink(&ways.outside, state.join("claims/1/sealed")).is_ok();
        attack.count(made || link);
    }
}

/// Records become FIFOs and links when they are looked at.
fn swap_records(attack: &Attack, ways: &Ways) {
    let claim = ways.state().join("claims/1");
    let (stage, claims) = (claim.join("stage"), ways.state().join("claims"));
    let fifo = ways.own("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let key = ways.own("key");
    symlink(ways.outside.join("closed/key"), &key).unwrap();
    let events = WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::CREATE;
    let watch = attack.watch(events, &[&ways.state(), &claims, &claim, &stage]);
    attack.ready();
    let mut turn = ways.turn;
    while watch.each(|what, name| {
        let Some(name) = name.filter(|_| !what.contains(ReadFlags::ISDIR)) else { return };
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        turn += 1;
        let other = if turn.is_multiple_of(2) { &fifo } else { &key };
        for directory in [&claim, &stage, &ways.state()] {
            attack.exchange(&directory.join(name), other);
        }
    }) {}
}

/// The app's own directories become links while entries are moved to them.
fn swap_published(attack: &Attack, ways: &Ways) {
    let first = ways.volume.join("d00000");
    let watch = attack.watch(WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::MOVED_TO, &[&first]);
    attack.ready();
    while watch.each(|_, _| swap_all(attack, &ways.volume, ways)) {}
}

/// As many names as the attackers know, in directories and as files.
fn image() -> Tree {
    (0..MANY).fold(Tree::new().file("index.php", "<?php").file("bin/tool", "x"), |tree, number| {
        tree.file(format!("d{number:05}/file"), format!("{number}")).file(format!("f{number:05}"), "x")
    })
}

fn races() -> usize {
    std::env::var("VOLSEED_RACES").ok().map_or(2, |text| text.parse().unwrap())
}

/// Plays every race on this file system, in a directory of its own each time.
#[track_caller]
fn play(sandbox: &Sandbox, below: &Path) {
    let states = States::of(&Image::new(sandbox), sandbox);
    let image = Image::at(&sandbox.directory("many"), image());
    let mut wrong = Vec::new();
    let (mut played, mut hits) = (0, 0);
    for race in &RACES {
        for number in 0..races() * race.roots.len() {
            let root = race.roots[number % race.roots.len()];
            let directory = below.join(format!("{}-{number}", race.name));
            fs::create_dir(&directory).unwrap();
            let scene = Scene::new(&directory, root);
            played += 1;
            match race.play(number, &scene, &states, &image) {
                Ok(count) => hits += count,
                Err(what) => wrong.push(format!("{} (root of {root:?}): {what}", race.name)),
            }
        }
    }
    eprintln!("{played} races, {} lost; attackers changed {hits} things", wrong.len());
    assert!(hits > 0, "nobody has attacked");
    assert!(wrong.is_empty(), "{} of {played} races:\n{}", wrong.len(), wrong.join("\n"));
}

impl Race {
    fn play(&self, turn: usize, scene: &Scene, states: &States, image: &Image) -> Result<u64, String> {
        (self.prepare)(scene, states);
        let ways = Ways { volume: scene.volume.clone(), outside: scene.outside.clone(), turn };
        let attack = self.attack;
        let attacker = Attacker::start(APP, move |does| attack(does, &ways));
        let ended = image.seed(&scene.volume).start().ends_within(BOUND);
        let hits = attacker.stop();
        let outcome = judged(ended, &DISTURBED)?;
        scene.is_untouched()?;
        image.is_all_that_root_owns(&scene.volume)?;
        for text in ["resumed=true", "publishing what an earlier run staged"] {
            if outcome.stderr.contains(text) {
                return Err(format!("what the attacker staged was used: {text}"));
            }
        }
        self.starts_again(scene, image)?;
        Ok(hits)
    }

    /// Without the attacker: whole, or refused until `.volseed` is removed.
    fn starts_again(&self, scene: &Scene, image: &Image) -> Result<(), String> {
        let again = |allowed: &[i32]| {
            let outcome = judged(image.seed(&scene.volume).start().ends_within(BOUND), allowed);
            let outcome = outcome.map_err(|error| format!("next start: {error}"))?;
            scene.is_untouched().map(|()| outcome.status.success())
        };
        if !again(&[0, 75, 78])? {
            scene.remove_state();
            again(&[0])?;
        }
        image.is_all_that_root_owns(&scene.volume)?;
        // What the attacker put in the place of the image's own was the attacker's, and stays.
        if self.name == "swap_published" { Ok(()) } else { image.is_within(&scene.volume) }
    }
}

#[test]
fn no_race_is_lost_in_memory() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    play(&sandbox, &sandbox.directory("races"));
}

#[test]
fn no_race_is_lost_on_ext4() {
    if !needs::file_system("ext4") {
        return;
    }
    let sandbox = Sandbox::new();
    let at = sandbox.directory("mounted");
    let _mounted = loop_device("ext4", &sandbox.directory("disks"), &at);
    let races = at.join("races");
    fs::create_dir(&races).unwrap();
    play(&sandbox, &races);
}

#[test]
fn no_race_is_lost_on_fuse() {
    let sandbox = Sandbox::new();
    let options = slowfs::Options { exchange: true, ..slowfs::Options::default() };
    let Some(volume) = slow(&sandbox, options) else { return };
    let races = volume.path().join("races");
    fs::create_dir(&races).unwrap();
    play(&sandbox, &races);
}
