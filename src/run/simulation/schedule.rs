//! One schedule: which replicas start when, what befalls them, and what must hold all the while.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::AddAssign;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::forgery;
use super::forgery::APP;
use super::replica::{Calls, SENTINEL, SmallSeed, Ticks, image, manifest};
use super::world::{Actor, Kind, ROOT, USERS, World};
use crate::claims::disk::LOCK_ANSWER;
use crate::claims::expiry::Lock;
use crate::claims::store::{ClaimStore, PUBLISHING, SEALED, STAGE};
use crate::run::acquire::Mode;
use crate::run::protocol::Replica;
use crate::run::steps::{Event, Outcome, Rules};
use crate::volume::Location;
use crate::volume::records::{Complete, DIRECTORY, ManifestRef, OLD, Public};

/// From here on nothing goes wrong any more, in nanoseconds.
const PEACE: u64 = 90_000_000_000;
/// What a user writes.
const USERS_TEXT: &[u8] = b"a user's";
/// By then everybody must be done.
const END: u64 = 800_000_000_000;
/// How long a server keeps a lock for a client that it does not hear from.
const LEASE: u64 = 9_000_000_000;
/// The most replicas that a schedule starts, restarts included.
const MAX_REPLICAS: usize = 9;

/// What may befall a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What may befall every call.
    Usual,
    /// The same, more often: a moment that matters.
    Often,
    /// Likewise, and its answer may be lost.
    NotTwice,
}

struct Task {
    replica: usize,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

#[derive(Debug, Clone)]
struct Life {
    alive: bool,
    done: bool,
    frozen_until: u64,
    host: usize,
}

/// A server that restarts lets its clients reclaim their locks first: up to 90 s (Linux `nfsv4gracetime`).
fn grace_of(kind: Kind, seed: u64) -> (u64, u64) {
    let random = Sim::mixed(seed);
    let begins = random % 20_000_000_000;
    match kind == Kind::Server && random.is_multiple_of(3) {
        true => (begins, begins + random % 90_000_000_000),
        false => (0, 0),
    }
}

/// What all parts of a schedule share.
pub(crate) struct Sim {
    pub world: RefCell<World>,
    now: Cell<u64>,
    random: Cell<u64>,
    timers: RefCell<BinaryHeap<Reverse<(u64, u64, usize)>>>,
    ticket: Cell<u64>,
    started: RefCell<VecDeque<Task>>,
    task: Cell<usize>,
    lives: RefCell<Vec<Life>>,
    /// Since when and until when each host is cut off.
    cuts: RefCell<Vec<(u64, u64)>>,
    /// From when until when the server is in its grace period, in which it answers nobody who asks for the lock.
    grace: (u64, u64),
    /// What replicas asked in it, and what they will be told.
    lock_calls: RefCell<BTreeMap<usize, Option<Lock>>>,
    /// One call in so many goes wrong; never where it is 0.
    faults: Cell<u64>,
    /// Whether the app's user has a hand in it.
    with_app: Cell<bool>,
    totals: RefCell<Totals>,
    /// The replica whose hook runs.
    hook: Cell<Option<usize>>,
    /// The generations whose hook has succeeded.
    hooks_done: RefCell<BTreeSet<u64>>,
    /// A file of the seed that a user has deleted; a repair may have put it back.
    deleted: RefCell<Option<String>>,
    /// The file that a user has changed.
    edited: RefCell<Option<String>>,
    shows: bool,
}

/// What happened in a schedule.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub calls: u64,
    pub replicas: u64,
    pub crashes: u64,
    pub freezes: u64,
    pub cuts: u64,
    pub power_cuts: u64,
    pub changed_hands: u64,
    pub takeovers: u64,
    pub lost: u64,
    pub apps: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, of: Totals) {
        self.calls += of.calls;
        self.replicas += of.replicas;
        self.crashes += of.crashes;
        self.freezes += of.freezes;
        self.cuts += of.cuts;
        self.power_cuts += of.power_cuts;
        self.changed_hands += of.changed_hands;
        self.takeovers += of.takeovers;
        self.lost += of.lost;
        self.apps += of.apps;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { calls, replicas, crashes, freezes, cuts, power_cuts, changed_hands, .. } = self;
        let Totals { takeovers, lost, apps, .. } = self;
        write!(
            f,
            "{calls} calls of {replicas} replicas; {crashes} killed, {freezes} frozen, {cuts} cut off, \
             {power_cuts} power cuts, {changed_hands} changes of hands; {takeovers} takeovers, {lost} came back late; {apps} apps started"
        )
    }
}

impl Sim {
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.now.get())
    }

    /// SplitMix64.
    pub(crate) fn random(&self, bound: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        Sim::mixed(state) % bound.max(1)
    }

    fn mixed(state: u64) -> u64 {
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Once in so many times.
    pub(crate) fn chance(&self, once_in: u64) -> bool {
        self.random(once_in) == 0
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.until(self.now.get() + time.as_nanos() as u64).await;
    }

    async fn until(&self, time: u64) {
        let mut waits = false;
        poll_fn(|_| {
            if waits && self.now.get() >= time {
                return Poll::Ready(());
            }
            // Once: a task that does several things is polled for each of them.
            if !std::mem::replace(&mut waits, true) {
                self.wake_at(time, self.task.get());
            }
            Poll::Pending
        })
        .await;
    }

    fn wake_at(&self, time: u64, task: usize) {
        self.ticket.set(self.ticket.get() + 1);
        self.timers.borrow_mut().push(Reverse((time, self.ticket.get(), task)));
    }

    pub(crate) fn start(&self, replica: usize, future: impl Future<Output = ()> + 'static) {
        self.started.borrow_mut().push_back(Task { replica, future: Box::pin(future) });
    }

    fn latency(&self) -> u64 {
        let most = if self.world.borrow().kind.is_remote() { 20_000_000 } else { 2_000_000 };
        self.random(most)
    }

    /// What comes before a call has its effect.
    pub(crate) async fn before(&self, replica: usize, host: usize, fault: Fault) {
        self.totals.borrow_mut().calls += 1;
        let rate = if fault == Fault::Usual { self.faults.get() } else { self.faults.get() / 6 };
        if rate > 0 && self.now.get() < PEACE && self.chance(rate) {
            self.befall(replica, host).await;
        }
        self.until(self.now.get() + self.latency()).await;
        self.reach(replica, host).await;
    }

    /// What comes between a call's effect and its answer.
    pub(crate) async fn after(&self, replica: usize, host: usize) {
        self.until(self.now.get() + self.latency()).await;
        self.reach(replica, host).await;
    }

    /// Waits while the host is cut off or the replica frozen.
    async fn reach(&self, replica: usize, host: usize) {
        loop {
            let cut = self.cuts.borrow()[host].1;
            let frozen = self.lives.borrow()[replica].frozen_until;
            let until = cut.max(frozen);
            if until <= self.now.get() {
                return;
            }
            self.until(until).await;
        }
    }

    /// Whether a sync or a close that comes now says that data was lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.faults.get() > 0 && self.now.get() < PEACE && self.chance(20)
    }

    async fn befall(&self, replica: usize, host: usize) {
        let long = if self.chance(2) { 3_000_000_000 } else { 12_000_000_000 + self.random(30_000_000_000) };
        match self.random(4) {
            0 => {
                self.show(|| format!("replica {replica} is killed"));
                self.kill(replica);
                std::future::pending::<()>().await;
            }
            1 if self.world.borrow().kind.is_remote() => {
                self.totals.borrow_mut().cuts += 1;
                self.cuts.borrow_mut()[host] = (self.now.get(), self.now.get() + long);
            }
            _ => {
                self.totals.borrow_mut().freezes += 1;
                self.lives.borrow_mut()[replica].frozen_until = self.now.get() + long;
            }
        }
    }

    fn kill(&self, replica: usize) {
        self.totals.borrow_mut().crashes += 1;
        self.lives.borrow_mut()[replica].alive = false;
        self.unlock(replica);
    }

    /// Asks for the lock. A server in its grace period is waited for beside what the replica does.
    pub(crate) async fn ask_for_lock(self: &Rc<Self>, replica: usize) -> Lock {
        let asked = self.lock_calls.borrow().get(&replica).copied();
        match asked {
            Some(None) => return Lock::Unknown,
            Some(Some(answer)) => {
                self.lock_calls.borrow_mut().remove(&replica);
                return answer;
            }
            None if !(self.grace.0..self.grace.1).contains(&self.now.get()) => return self.lock(replica),
            None => {}
        }
        self.lock_calls.borrow_mut().insert(replica, None);
        let sim = Rc::clone(self);
        self.start(replica, async move {
            sim.until(sim.grace.1 + sim.latency()).await;
            if sim.lock_calls.borrow().contains_key(&replica) {
                let answer = sim.lock(replica);
                sim.lock_calls.borrow_mut().insert(replica, Some(answer));
            }
        });
        self.sleep(LOCK_ANSWER).await;
        Lock::Unknown
    }

    fn lock(&self, replica: usize) -> Lock {
        let mut world = self.world.borrow_mut();
        if world.kind == Kind::ServerTwice {
            return Lock::Ours;
        }
        let host = self.lives.borrow()[replica].host;
        // A kernel remembers what it has given, also what the server has taken back meanwhile
        // (Linux fs/nfs/nfs4proc.c, `_nfs4_proc_setlk` asks its own table first).
        if world.local_locks.get(&host).is_some_and(|holder| *holder != replica) {
            return Lock::Theirs;
        }
        if let Some(holder) = world.lock
            && holder != replica
        {
            let (since, until) = self.cuts.borrow()[self.lives.borrow()[holder].host];
            let given_up = until > self.now.get() && self.now.get() - since > LEASE;
            if !given_up {
                return Lock::Theirs;
            }
        }
        world.lock = Some(replica);
        world.local_locks.insert(host, replica);
        Lock::Ours
    }

    pub(crate) fn unlock(&self, replica: usize) {
        self.lock_calls.borrow_mut().remove(&replica);
        let mut world = self.world.borrow_mut();
        if world.lock == Some(replica) {
            world.lock = None;
        }
        world.local_locks.retain(|_, holder| *holder != replica);
    }

    /// A replica is about to claim. Where one kernel keeps the lock, and no other user has it, that is done by the one who
    /// has it, unless it is frozen: the death of a holder without it shows late.
    pub(crate) fn claims(&self, locked: bool) {
        let is_sure = self.world.borrow().kind == Kind::Local && !self.with_app.get();
        if !locked && is_sure && self.totals.borrow().freezes == 0 {
            self.breaks("a claim is made without the lock".to_owned());
        }
    }

    pub(crate) fn hear(&self, event: &Event<'_>, actor: &Cell<Actor>) {
        match event {
            Event::Fenced(_) => self.world.borrow_mut().fenced(&actor.get()),
            Event::TookOver(..) => self.totals.borrow_mut().takeovers += 1,
            Event::Lost(..) => {
                self.totals.borrow_mut().lost += 1;
                actor.set(Actor::default());
            }
            // After a lease that was over a holder may beat on without its lock; a server that is slow says nothing.
            Event::NotShared(cause) if self.grace.1 > 0 && !cause.contains("heart") => {
                self.breaks(format!("the lock of a server in its grace period is given up: {cause}"));
            }
            _ => {}
        }
    }

    /// With `VOLSEED_SHOW` set, what happens is told.
    pub(crate) fn show(&self, what: impl FnOnce() -> String) {
        if self.shows {
            println!("{:?} {}", self.now(), what());
        }
    }

    /// The hook of the volume's version begins. Only while its earlier run is frozen, or has just thawed, may there be two.
    pub(crate) fn hook_begins(&self, replica: usize) {
        self.show(|| format!("replica {replica} calls its hook"));
        let other = self.hook.replace(Some(replica)).filter(|other| *other != replica);
        let is_at_work = |it: usize| {
            let life = &self.lives.borrow()[it];
            life.alive && life.frozen_until + 3_000_000_000 < self.now.get()
        };
        let is_sure = self.world.borrow().kind == Kind::Local && !self.with_app.get();
        if is_sure && is_at_work(replica) && other.is_some_and(is_at_work) {
            self.breaks("a hook is called while another run of it is at work".to_owned());
        }
    }

    /// It ends, and says whether it succeeded.
    pub(crate) fn hook_ends(&self, replica: usize, generation: u64, succeeded: bool) {
        self.show(|| format!("the hook of replica {replica} has ended: {succeeded}"));
        if self.hook.get() == Some(replica) {
            self.hook.set(None);
        }
        if succeeded {
            self.hooks_done.borrow_mut().insert(generation);
        }
    }

    pub(crate) fn breaks(&self, what: String) {
        self.world.borrow_mut().broken.get_or_insert(what);
    }
}

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
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        let kinds = [Kind::Local, Kind::Server, Kind::Unshared, Kind::ServerTwice];
        let kind = kinds[(seed % 4) as usize];
        let sim = Rc::new(Sim {
            world: RefCell::new(World::new(kind)),
            now: Cell::new(1),
            random: Cell::new(seed),
            grace: grace_of(kind, seed),
            lock_calls: RefCell::default(),
            timers: RefCell::default(),
            ticket: Cell::new(0),
            started: RefCell::default(),
            task: Cell::new(0),
            lives: RefCell::default(),
            cuts: RefCell::default(),
            faults: Cell::new(0),
            with_app: Cell::new(false),
            totals: RefCell::default(),
            hook: Cell::default(),
            hooks_done: RefCell::default(),
            deleted: RefCell::default(),
            edited: RefCell::default(),
            shows: std::env::var_os("VOLSEED_SHOW").is_some(),
        });
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

/// Whether the record that a replica saw last was retired after that.
fn is_retired_since<P>(sim: &Sim, outcome: &Outcome<P>) -> bool {
    let seen = match outcome {
        Outcome::Found(record) | Outcome::Settled(record) => record.generation,
        Outcome::Completed(record, _) => record.generation,
        Outcome::Unrecorded(_) | Outcome::Adopted(..) | Outcome::Repaired(_) => return false,
    };
    sim.world.borrow().retired.is_some_and(|retired| retired >= seen)
}

fn start_app(sim: &Sim, users: bool, replica: usize, image: u32) {
    sim.totals.borrow_mut().apps += 1;
    if let Some(there) = recorded_image(sim).filter(|there| *there < image) {
        sim.breaks(format!("an app of image {image} starts on image {there}"));
    }
    sim.lives.borrow_mut()[replica].done = true;
    sim.unlock(replica);
    if recorded(sim).is_some_and(|it| it.hook.is_some() && !sim.hooks_done.borrow().contains(&it.generation))
    {
        sim.breaks("an app starts, and the hook that is owed has not succeeded".to_owned());
    }
    check_tree(sim, users, Moment::Start);
}

/// The image that the volume's record names.
fn recorded_image(sim: &Sim) -> Option<u32> {
    recorded(sim)?.version?.raw().parse().ok()
}

/// The volume's private record.
fn recorded(sim: &Sim) -> Option<Complete> {
    let mut world = sim.world.borrow_mut();
    let state = world.look_up(0, ROOT, DIRECTORY.as_bytes(), false).ok()?;
    let record = world.look_up(0, state, Complete::FILE.as_bytes(), false).ok()?;
    Complete::parse(world.data(record).ok()?, Path::new(Complete::FILE)).ok()
}

/// A replica says that it has put back all that was missing.
fn check_repaired(sim: &Sim) {
    let mut found = BTreeMap::new();
    sim.world.borrow().files(ROOT, "", &mut found);
    if sim.world.borrow().retired.is_some() {
        // An upgrade may have begun since.
        return;
    }
    let image = image(recorded_image(sim).unwrap_or(0));
    if image.is_empty() || image.into_keys().any(|path| !found.contains_key(&format!("/{path}"))) {
        sim.breaks("repaired, and a file is missing".to_owned());
    }
}

/// When the tree has to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// An app starts.
    Start,
    /// The power failed after an app had started. A record that the app's replica saw may be gone again:
    /// then the next one records what is whole anyway.
    PowerCut,
}

/// The volume has to be whole, and of one image: the one that its record names.
fn check_tree(sim: &Sim, users: bool, when: Moment) {
    let (mut found, record, listed) = {
        let mut world = sim.world.borrow_mut();
        let mut found = BTreeMap::new();
        world.files(ROOT, "", &mut found);
        let state = world.look_up(0, ROOT, DIRECTORY.as_bytes(), false);
        let mut read = |name: &str| {
            let record = world.look_up(0, state.ok()?, name.as_bytes(), false).ok()?;
            world.data(record).map(<[u8]>::to_vec).ok()
        };
        let record = read(Public::FILE).and(read(Complete::FILE));
        let record = record.and_then(|bytes| Complete::parse(&bytes, Path::new(Complete::FILE)).ok());
        let listed = record.as_ref().and_then(|record| read(&ManifestRef::name(record.generation)));
        (found, record, listed)
    };
    let kept = found.remove(&format!("/{USERS}"));
    if users && kept.is_none() {
        return sim.breaks(format!("a user's file is gone: {when:?}"));
    }
    let version = match &record {
        Some(record) => record.version.as_ref().and_then(|version| version.raw().parse().ok()).unwrap_or(0),
        // Then an upgrade has yet to be finished.
        None if when == Moment::PowerCut && sim.world.borrow().retired.is_some() => return,
        None if when == Moment::PowerCut => {
            if found.contains_key("/b") {
                1
            } else {
                2
            }
        }
        None => return sim.breaks(format!("no record: {when:?}")),
    };
    if record.is_some() && listed != Some(manifest(version)) {
        sim.breaks(format!("not the manifest of image {version}: {when:?}"));
    }
    let mut wanted: BTreeMap<String, Vec<u8>> =
        image(version).into_iter().map(|(path, data)| (format!("/{path}"), data)).collect();
    if let Some(deleted) = &*sim.deleted.borrow()
        && !found.contains_key(deleted)
    {
        wanted.remove(deleted);
    }
    if let Some(edited) = &*sim.edited.borrow() {
        if !sim.world.borrow().has_content(ROOT, USERS_TEXT) {
            sim.breaks(format!("what a user has written is gone: {when:?}"));
        }
        if found.get(edited).is_some_and(|found| found == USERS_TEXT) {
            match wanted.get(edited).cloned() {
                Some(wanted) => drop(found.insert(edited.clone(), wanted)),
                None => drop(found.remove(edited)),
            }
        }
    }
    if found != wanted {
        let shown: Vec<String> =
            found.iter().map(|(path, data)| format!("{path}={}", String::from_utf8_lossy(data))).collect();
        sim.breaks(format!("not the whole of image {version}: {when:?}: {}", shown.join(" ")));
    }
}
