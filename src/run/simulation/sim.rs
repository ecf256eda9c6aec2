//! What all parts of a schedule share: virtual time, chance, the lives of replicas, what befalls them, and the lock.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::AddAssign;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::world::{Actor, Kind, World};
use crate::claims::disk::LOCK_ANSWER;
use crate::claims::expiry::Lock;
use crate::run::steps::Event;

/// From here on nothing goes wrong any more, in nanoseconds.
pub(super) const PEACE: u64 = 90_000_000_000;
/// How long a server keeps a lock for a client that it does not hear from, likewise.
const LEASE: u64 = 9_000_000_000;

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

pub(super) struct Task {
    pub(super) replica: usize,
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
}

#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) alive: bool,
    pub(super) done: bool,
    pub(super) frozen_until: u64,
    pub(super) host: usize,
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
    pub(super) now: Cell<u64>,
    pub(super) random: Cell<u64>,
    pub(super) timers: RefCell<BinaryHeap<Reverse<(u64, u64, usize)>>>,
    ticket: Cell<u64>,
    pub(super) started: RefCell<VecDeque<Task>>,
    pub(super) task: Cell<usize>,
    pub(super) lives: RefCell<Vec<Life>>,
    /// Since when and until when each host is cut off.
    pub(super) cuts: RefCell<Vec<(u64, u64)>>,
    /// From when until when the server is in its grace period, in which it answers nobody who asks for the lock.
    grace: (u64, u64),
    /// What replicas asked in it, and what they will be told.
    lock_calls: RefCell<BTreeMap<usize, Option<Lock>>>,
    /// One call in so many goes wrong; never where it is 0.
    pub(super) faults: Cell<u64>,
    /// Whether the app's user has a hand in it.
    pub(super) with_app: Cell<bool>,
    pub(super) totals: RefCell<Totals>,
    /// The replica whose hook runs.
    hook: Cell<Option<usize>>,
    /// The generations whose hook has succeeded.
    pub(super) hooks_done: RefCell<BTreeSet<u64>>,
    /// A file of the seed that a user has deleted; a repair may have put it back.
    pub(super) deleted: RefCell<Option<String>>,
    /// The file that a user has changed.
    pub(super) edited: RefCell<Option<String>>,
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
    /// Without faults until some are asked for.
    pub(super) fn new(kind: Kind, seed: u64) -> Sim {
        Sim {
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
        }
    }

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

    pub(super) async fn until(&self, time: u64) {
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

    pub(super) fn wake_at(&self, time: u64, task: usize) {
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

    pub(super) fn kill(&self, replica: usize) {
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
