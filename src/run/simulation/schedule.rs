//! One schedule: which replicas start when, what users and the power do meanwhile, and how it ends.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use super::calls::{Calls, Ticks};
use super::forgery;
use super::forgery::APP;
use super::promises::{
    Moment, USERS_TEXT, check_repaired, check_tree, is_retired_since, recorded_image, start_app,
};
use super::replica::{SENTINEL, SmallSeed, image};
use super::sim::{Life, PEACE, Sim, Task, Totals};
use super::world::{Kind, ROOT, USERS};
use crate::claims::store::{ClaimStore, PUBLISHING, SEALED, STAGE};
use crate::run::acquire::Mode;
use crate::run::protocol::Replica;
use crate::run::steps::{Outcome, Rules};
use crate::volume::Location;
use crate::volume::records::{Complete, DIRECTORY, ManifestRef, OLD, Public};

/// By then everybody must be done, in nanoseconds.
const END: u64 = 800_000_000_000;
/// The most replicas that a schedule starts, restarts included.
const MAX_REPLICAS: usize = 9;

/// One schedule.
pub(crate) struct Schedule {
    sim: Rc<Sim>,
    tasks: Vec<Option<Task>>,
    boot: u64,
    seed: u64,
    users: bool,
    quiet: bool,
    emptied: bool,
    power_cut_at: Option<u64>,
    is_to_be_emptied: bool,
    is_to_be_repaired: bool,
    is_to_be_edited: bool,
    /// Whether the app's user forged what is in `.volseed`; by that it may mislead itself.
    forged: bool,
    /// When `.volseed` is given away, and to which user.
    given: Vec<(u64, u32)>,
    /// Whether something else copied a part of the seed to the volume, the sentinel with it.
    is_half_copy: bool,
    /// Whether the images have a hook.
    hooks: bool,
    /// The last replica, which starts when all others are dead, is of the image that the volume is at.
    is_last: bool,
    /// Whether replicas of the first image take the second one's version back.
    rolls_back: bool,
    /// Whether the power fails soon after the first upgrade is sealed.
    cuts_upgrade: bool,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        let kinds = [Kind::Local, Kind::Server, Kind::Unshared, Kind::ServerTwice];
        let kind = kinds[(seed % 4) as usize];
        let sim = Rc::new(Sim::new(kind, seed));
        let quiet = sim.chance(10);
        sim.faults.set(if quiet { 0 } else { [40, 120, 400][sim.random(3) as usize] });
        let users = sim.chance(3);
        let with_app = sim.chance(4);
        sim.with_app.set(with_app);
        let mut forged = false;
        {
            let mut world = sim.world.borrow_mut();
            world.one_journal = sim.chance(2);
            match sim.random(3) {
                0 => {}
                1 if with_app => {
                    let part = [STAGE, SEALED, PUBLISHING][sim.random(3) as usize];
                    forgery::plant(&mut world, part, "boot 0 0");
                    forged = true;
                }
                _ => drop(world.make(ROOT, DIRECTORY.as_bytes(), 0)),
            }
            world.sync();
            if users {
                world.put(USERS, b"users");
            }
        }
        let is_cut = kind == Kind::Local && (sim.chance(2) || !sim.world.borrow().one_journal);
        let power_cut_at = is_cut.then(|| sim.random(3_000_000_000));
        let is_to_be_emptied = sim.chance(3);
        let is_to_be_repaired = !with_app && sim.chance(3);
        let is_to_be_edited = !with_app && !is_to_be_repaired && sim.chance(2);
        let mut given = Vec::new();
        if with_app && !forged && sim.chance(2) {
            let at = sim.random(4_000_000_000);
            given.push((at, APP));
            if sim.chance(3) {
                given.push((at + sim.random(4_000_000_000), 0));
            }
            given.reverse();
        }
        let is_half_copy = !with_app && !has_two_images(seed) && sim.chance(4);
        if is_half_copy {
            half_copy(&sim);
        }
        let hooks = !with_app && sim.chance(3);
        let rolls_back = !with_app && has_two_images(seed) && sim.chance(4);
        let cuts_upgrade = kind == Kind::Local && sim.chance(2);
        Schedule {
            sim,
            tasks: Vec::new(),
            boot: 0,
            seed,
            users,
            quiet,
            emptied: false,
            power_cut_at,
            is_to_be_emptied,
            is_to_be_repaired,
            is_to_be_edited: is_to_be_edited && !is_half_copy,
            forged,
            given,
            is_half_copy,
            hooks,
            is_last: false,
            rolls_back,
            cuts_upgrade,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The promise that was broken.
    pub(crate) fn run(mut self) -> Result<Totals, String> {
        let first = 3 + self.sim.random(3);
        for _ in 0..first {
            let at = self.sim.random(if self.sim.chance(2) { 10_000_000 } else { 20_000_000_000 });
            self.start_replica(at, self.some_user());
        }
        loop {
            self.admit();
            let next = self.sim.timers.borrow_mut().pop();
            let Some(Reverse((time, _, number))) = next else {
                if std::mem::take(&mut self.is_to_be_repaired) {
                    self.repair();
                    continue;
                }
                if std::mem::take(&mut self.is_to_be_emptied) {
                    self.empty();
                    continue;
                }
                break;
            };
            if self.power_cut_at.is_some_and(|at| at <= time) {
                self.power_cut_at = None;
                self.power_cut(time);
                continue;
            }
            self.sim.now.set(time.max(self.sim.now.get()));
            self.give(time);
            self.edit();
            if self.cuts_upgrade && self.sim.world.borrow().retired.is_some() {
                self.cuts_upgrade = false;
                self.power_cut_at = Some(time + self.sim.random(500_000_000));
            }
            self.step(number);
            if let Some(broken) = self.sim.world.borrow().broken.clone() {
                return Err(broken);
            }
            if time > END {
                return Err(format!("not done after {END} ns: {:?}", self.sim.lives.borrow()));
            }
        }
        self.at_the_end()?;
        Ok(*self.sim.totals.borrow())
    }

    /// A user changes a file of a complete volume. Only then: what changes between an upgrade's look at a file and its
    /// rename is nobody's promise.
    fn edit(&mut self) {
        let sim = Rc::clone(&self.sim);
        let is_time = self.is_to_be_edited && sim.totals.borrow().apps > 0 && sim.chance(100);
        if !is_time || !sim.world.borrow().is_vouched_for() {
            return;
        }
        self.is_to_be_edited = false;
        let paths: Vec<String> =
            recorded_image(&sim).map(|it| image(it).into_keys().collect()).unwrap_or_default();
        let Some(path) = paths.get(sim.random(paths.len().max(1) as u64) as usize) else { return };
        if sim.world.borrow_mut().edit(path, USERS_TEXT) {
            sim.show(|| format!("a user changes {path}"));
            *sim.edited.borrow_mut() = Some(format!("/{path}"));
        }
    }

    fn step(&mut self, number: usize) {
        let Some(task) = self.tasks.get_mut(number).and_then(Option::as_mut) else { return };
        let life = self.sim.lives.borrow()[task.replica].clone();
        if !life.alive {
            self.tasks[number] = None;
            return;
        }
        if life.frozen_until > self.sim.now.get() {
            self.sim.wake_at(life.frozen_until, number);
            return;
        }
        self.sim.task.set(number);
        let replica = task.replica;
        let polled = task.future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_ready() {
            self.tasks[number] = None;
        }
        let alive = self.sim.lives.borrow()[replica].alive;
        if !alive {
            self.tasks[number] = None;
            let restarts = self.sim.lives.borrow().len() < MAX_REPLICAS;
            if restarts && !self.sim.chance(4) {
                let after = self.sim.random(5_000_000_000);
                self.start_replica(self.sim.now.get() + after, self.some_user());
            }
        }
    }

    fn admit(&mut self) {
        while let Some(task) = self.sim.started.borrow_mut().pop_front() {
            self.tasks.push(Some(task));
            self.sim.wake_at(self.sim.now.get(), self.tasks.len() - 1);
        }
    }

    /// Root, or where the app's user has a hand in it, now and then that user. In peace root comes back: until then
    /// that user's replicas could only wait for it, each to its timeout.
    fn some_user(&self) -> u32 {
        let is_app =
            self.sim.with_app.get() && !self.forged && self.sim.now.get() < PEACE && self.sim.chance(3);
        if is_app { APP } else { 0 }
    }

    /// `chown -R` of everything in `.volseed`, as stock entry points do it at every start.
    fn give(&mut self, now: u64) {
        while let Some((_, user)) = self.given.pop_if(|(at, _)| *at <= now) {
            let mut world = self.sim.world.borrow_mut();
            if let Some(state) = world.state() {
                world.give(state, user);
                self.sim.totals.borrow_mut().changed_hands += 1;
                self.sim.show(|| format!("everything in .volseed is given to user {user}"));
            }
        }
    }

    fn start_replica(&self, at: u64, user: u32) {
        let mode = if self.sim.chance(6) { Mode::Wait } else { Mode::Seed };
        self.start_in_mode(mode, at, user);
    }

    fn start_in_mode(&self, mode: Mode, at: u64, user: u32) {
        let sim = &self.sim;
        let replica = sim.lives.borrow().len();
        let kind = sim.world.borrow().kind;
        let host = match kind {
            Kind::Local => 0,
            Kind::Server | Kind::Unshared => sim.random(3) as usize,
            Kind::ServerTwice => replica,
        };
        let hosts = sim.cuts.borrow().len().max(host + 1);
        sim.cuts.borrow_mut().resize(hosts, (0, 0));
        sim.lives.borrow_mut().push(Life { alive: true, done: false, frozen_until: 0, host });
        sim.totals.borrow_mut().replicas += 1;
        // Root may be gone for good, and then that user's container fails, and is started again.
        // The same where only another image's could run the hook.
        let is_patient = user == 0 && mode != Mode::Wait && !self.hooks;
        let timeout = (!is_patient).then_some(Duration::from_secs(60));
        let waits = mode == Mode::Wait;
        let needs_version = waits && has_two_images(self.seed) && sim.chance(2);
        let (sharing, remote) = (kind.sharing(), kind.is_remote());
        let rules = Rules { mode, sharing, alone: false, remote, timeout, needs_version };
        let calls = Calls { sim: Rc::clone(sim), replica, host, user, actor: Rc::default() };
        let boot = format!("boot {host} {}", self.boot);
        // Nothing of what was published from another user's state directory is known, so there it has one.
        let image = match mode {
            Mode::Repair => recorded_image(sim).unwrap_or(1),
            _ if self.is_last => recorded_image(sim).unwrap_or(1),
            _ if has_two_images(self.seed) && !sim.with_app.get() => 1 + sim.random(2) as u32,
            _ => 1,
        };
        let repairs = mode == Mode::Repair;
        let (calls_of_work, adopts) = (calls.clone(), self.is_half_copy);
        let rollback_from = (self.rolls_back && image == 1 && sim.chance(2)).then_some(2);
        let work = SmallSeed {
            calls: calls_of_work,
            image,
            boot,
            repairs,
            adopts,
            hooks: self.hooks,
            rollback_from,
            waits,
            only: RefCell::default(),
        };
        let clock = Ticks { sim: Rc::clone(sim), replica, enough: Rc::default() };
        let (users, quiet, rolls_back) = (self.users, self.quiet, self.rolls_back);
        let shared = Rc::clone(sim);
        sim.start(replica, async move {
            shared.until(at).await;
            let (volume, root) = (Path::new("/"), ROOT);
            let state = Location::in_root(root, volume);
            let store = ClaimStore { files: &calls, root: &root, volume, state: &state };
            let ended = Replica { store, clock: &clock, work: &work, rules }.complete().await;
            match ended {
                Ok(Outcome::Repaired(Err(error))) => {
                    shared.show(|| format!("replica {replica} failed: {error}"));
                    shared.kill(replica);
                }
                Ok(_) if mode == Mode::Repair => {
                    shared.lives.borrow_mut()[replica].done = true;
                    shared.unlock(replica);
                    check_repaired(&shared);
                }
                // Who only waits starts where nothing but the sentinel is to be seen.
                Ok(Outcome::Unrecorded(_)) => {
                    shared.lives.borrow_mut()[replica].done = true;
                    shared.unlock(replica);
                }
                // An upgrade took the record away after its last look: its app counts as one that was running.
                Ok(outcome) if is_retired_since(&shared, &outcome) => {
                    shared.lives.borrow_mut()[replica].done = true;
                    shared.unlock(replica);
                }
                Ok(_) => {
                    let upgraded_to =
                        if (mode == Mode::Seed || needs_version) && !rolls_back { image } else { 0 };
                    start_app(&shared, users, replica, upgraded_to);
                }
                // A client that has cached that nothing is there says that it is not seeded.
                Err(error)
                    if mode == Mode::Repair
                        && quiet
                        && !kind.is_remote()
                        && shared.world.borrow().retired.is_none() =>
                {
                    shared.breaks(format!("a repair failed: {error}"))
                }
                Err(error) if is_patient && mode == Mode::Seed && is_undisturbed(&shared, quiet) => {
                    shared.breaks(format!("a start failed, and nothing was wrong: {error}"))
                }
                // A container that fails is started again.
                Err(error) => {
                    shared.show(|| format!("replica {replica} failed: {error}"));
                    shared.kill(replica);
                }
            }
        });
    }

    fn power_cut(&mut self, at: u64) {
        let sim = Rc::clone(&self.sim);
        sim.now.set(at);
        sim.totals.borrow_mut().power_cuts += 1;
        sim.show(|| "the power fails".to_owned());
        self.boot += 1;
        let started = sim.totals.borrow().apps > 0;
        for life in &mut *sim.lives.borrow_mut() {
            life.alive = false;
        }
        self.tasks.iter_mut().for_each(|task| *task = None);
        sim.timers.borrow_mut().clear();
        sim.started.borrow_mut().clear();
        sim.world.borrow_mut().power_cut(|bound| sim.random(bound));
        if started && !self.emptied {
            check_tree(&sim, self.users, Moment::PowerCut);
        }
        for _ in 0..2 {
            let after = sim.random(100_000_000);
            self.start_replica(at + after, self.some_user());
        }
        if sim.chance(3) {
            self.power_cut_at = Some(at + sim.random(2_000_000_000));
        }
    }

    /// A user deletes a file of a volume that is complete, and replicas put it back while others start.
    fn repair(&mut self) {
        let sim = Rc::clone(&self.sim);
        let Some(image_number) = recorded_image(&sim).filter(|_| sim.totals.borrow().apps > 0) else {
            return;
        };
        let paths: Vec<String> = image(image_number).into_keys().collect();
        let path = &paths[sim.random(paths.len() as u64) as usize];
        sim.show(|| format!("a user deletes {path}"));
        sim.world.borrow_mut().delete(path);
        sim.edited.borrow_mut().take_if(|edited| edited[1..] == *path);
        *sim.deleted.borrow_mut() = Some(format!("/{path}"));
        let at = sim.now.get();
        for mode in [Mode::Repair, Mode::Repair, Mode::Seed] {
            let after = sim.random(1_000_000_000);
            self.start_in_mode(mode, at + after, 0);
        }
    }

    /// A user empties a volume that is complete, after every app has ended.
    fn empty(&mut self) {
        let sim = Rc::clone(&self.sim);
        let at = sim.now.get();
        if sim.totals.borrow().apps == 0 {
            return;
        }
        self.emptied = true;
        sim.show(|| "a user empties the volume".to_owned());
        self.users = false;
        sim.edited.take();
        sim.world.borrow_mut().empty();
        for _ in 0..4 {
            let after = sim.random(2_000_000_000);
            self.start_replica(at + after, self.some_user());
        }
    }

    /// Runs one more replica to its end.
    fn run_another(&mut self) -> Result<(), String> {
        self.start_in_mode(Mode::Seed, self.sim.now.get(), 0);
        self.admit();
        while let Some(Reverse((time, _, number))) = { self.sim.timers.borrow_mut().pop() } {
            self.sim.now.set(time.max(self.sim.now.get()));
            self.step(number);
            self.admit();
            if time > 2 * END {
                return Err("the last replica is not done".into());
            }
        }
        Ok(())
    }

    fn at_the_end(&mut self) -> Result<(), String> {
        // Somebody has to be left to complete the volume.
        let all_dead = self.sim.lives.borrow().iter().all(|life| !life.alive);
        if all_dead {
            self.sim.faults.set(0);
            self.is_last = true;
            self.run_another()?;
            if self.hooks && !self.sim.lives.borrow().last().is_some_and(|last| last.done) {
                // It has finished another image's upgrade, whose hook is that image's to run.
                self.run_another()?;
            }
            if !self.sim.lives.borrow().last().is_some_and(|last| last.done) {
                return Err("nobody disturbed the last replica, and it failed".into());
            }
        }
        if let Some(broken) = self.sim.world.borrow().broken.clone() {
            return Err(broken);
        }
        if let Some(waits) = self.sim.lives.borrow().iter().position(|life| life.alive && !life.done) {
            return Err(format!("replica {waits} lives and never started its app"));
        }
        let mut world = self.sim.world.borrow_mut();
        let state = match world.look_up(0, ROOT, DIRECTORY.as_bytes(), false) {
            // All only waited.
            Err(_) if self.is_half_copy => return Ok(()),
            state => state.map_err(|error| error.to_string())?,
        };
        let left = world.names(state).map_err(|error| error.to_string())?;
        let record = world.look_up(0, state, Complete::FILE.as_bytes(), false);
        let record = record.and_then(|record| world.data(record).map(<[u8]>::to_vec));
        let record = record.ok().and_then(|bytes| Complete::parse(&bytes, Path::new(Complete::FILE)).ok());
        let manifest = ManifestRef::name(record.map_or(1, |record| record.generation));
        // What a user had changed stays for good.
        let records =
            [Public::FILE.as_bytes(), Complete::FILE.as_bytes(), manifest.as_bytes(), OLD.as_bytes()];
        if is_undisturbed(&self.sim, self.quiet) && left.iter().any(|name| !records.contains(&&**name)) {
            let names: Vec<_> = left.iter().map(|name| String::from_utf8_lossy(name)).collect();
            return Err(format!("left behind: {names:?}"));
        }
        Ok(())
    }
}

/// Most schedules have one image; a rollout has two.
fn has_two_images(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

/// An entry point copied a part of the image, the sentinel with it, and was killed; then a user changed a file.
fn half_copy(sim: &Sim) {
    for (path, data) in image(1) {
        if path == SENTINEL || sim.chance(2) {
            sim.world.borrow_mut().put(&path, &data);
            if path != SENTINEL && sim.chance(4) && sim.edited.borrow().is_none() {
                sim.world.borrow_mut().edit(&path, USERS_TEXT);
                *sim.edited.borrow_mut() = Some(format!("/{path}"));
            }
        }
    }
}

/// Whether nothing went wrong so far.
fn is_undisturbed(sim: &Sim, quiet: bool) -> bool {
    let Totals { crashes, power_cuts, changed_hands, .. } = *sim.totals.borrow();
    quiet && crashes + power_cuts + changed_hands == 0
}
