//! Waiting until the volume is complete or ours: the one loop of `run`, `seed` and `wait`.
//!
//! Every look costs round trips on a network volume, so a complete one is recognised before anything else is
//! asked, and a waiter looks less and less often. `wait` runs the same loop and changes nothing: it makes no
//! state directory, takes no lock, and makes no claim.

use std::time::Duration;

use rustix::io::Errno;

use super::gate::Next;
use super::protocol::Replica;
use super::steps::{Event, SourceSlot, Work};
use super::waiting::Waiting;
use crate::claims::beat::Beat;
use crate::claims::disk::LOCK;
use crate::claims::expiry::{self, Lock, Seen};
use crate::claims::io::{Clock, Files};
use crate::claims::store::{Claim, Claimed, FoundClaim, State};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::volume::records::Public;
use crate::volume::{Privacy, Wall, foreign_state};

/// The first pause between two looks: a small seed on a local disk is over in a few of them.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// While another replica holds the lock its heartbeat matters little: it is looked at once in so many
/// looks.
const LOOKS_A_BEAT: u32 = 4;
/// How often a replica begins again, before that is an error.
const MAX_ROUNDS: u32 = 100;

/// What a replica is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Make the volume complete.
    Seed,
    /// Wait until another replica has.
    Wait,
    /// Put back what is missing on a complete volume.
    Repair,
}

/// What came of waiting.
pub(super) enum Acquired<D> {
    /// The volume is complete.
    Complete {
        record: Box<Public>,
        /// Something of a claim may be left in the state directory.
        is_untidy: bool,
    },
    /// Seeded before volseed came, and to be left without a record; why none can be written.
    Unrecorded(Option<String>),
    /// It is ours, with the lock as it is.
    Ours(Box<Claim<D>>, Lock),
}

/// The lock as far as we got, whether it is worth asking for, and how often we began again.
pub(super) struct LockState {
    pub(super) of: Lock,
    pub(super) usable: bool,
    rounds: u32,
}

impl LockState {
    pub(super) fn new(usable: bool) -> LockState {
        LockState { of: Lock::Unknown, usable, rounds: 0 }
    }
}

/// What came of a look where there was no state directory.
enum Stateless<D> {
    /// We have made it: it was new a moment ago.
    Made(D),
    /// It is over, or another look has to follow.
    Over(Option<Acquired<D>>),
}

/// What a record says of the volume as it is.
enum Recorded {
    /// Nothing that is still true; the claim that it is of, 0 without one.
    Not(u64),
    /// The volume is complete, perhaps but for a hook; and what is next.
    Yes(Box<Public>, Next),
}

impl Recorded {
    fn needs_a_claim(&self) -> bool {
        matches!(self, Recorded::Not(_) | Recorded::Yes(_, Next::Change | Next::Hook))
    }
}

impl<F: Files, C: Clock, W: Work<F>> Replica<'_, F, C, W> {
    /// Waits until the volume is complete or ours.
    pub(super) async fn acquire(
        &self,
        lock: &mut LockState,
        source: &mut SourceSlot<W::Source>,
    ) -> Result<Acquired<F::Dir>> {
        let mut waiting = Waiting::new(self.rules.mode, self.clock.now());
        loop {
            if let Some(acquired) = self.look(&mut waiting, lock, source).await? {
                return Ok(acquired);
            }
        }
    }

    /// One look, and the pause after it; nothing where another has to follow.
    async fn look(
        &self,
        waiting: &mut Waiting<F::Dir>,
        lock: &mut LockState,
        source: &mut SourceSlot<W::Source>,
    ) -> Result<Option<Acquired<F::Dir>>> {
        let (dir, is_new) = match self.store.state_dir().await? {
            Some(dir) => (dir, false),
            None => match self.without_state(waiting, lock, source).await? {
                Stateless::Made(dir) => (dir, true),
                Stateless::Over(acquired) => return Ok(acquired),
            },
        };
        // What another replica has put into a new one by now shows once ours is the highest claim.
        let mut recorded = if is_new { Recorded::Not(0) } else { self.recorded(&dir).await? };
        if self.rules.mode != Mode::Wait && recorded.needs_a_claim() {
            let Some(is_locked) = self.enter(&dir, &recorded, waiting, lock).await? else { return Ok(None) };
            if is_locked && !is_new {
                // Of before we had the lock it says nothing of its holder's last act.
                recorded = self.recorded(&dir).await?;
            }
        }
        let recorded = match recorded {
            Recorded::Yes(record, Next::Start) => {
                return Ok(Some(self.completed(record, &dir, waiting).await));
            }
            Recorded::Yes(_, Next::Wait) => {
                self.release(lock).await;
                self.wait_for_hook(waiting).await?;
                return Ok(None);
            }
            Recorded::Yes(record, Next::Change | Next::Hook) => {
                waiting.is_outdated = true;
                record.epoch
            }
            Recorded::Not(_) if self.rules.mode == Mode::Repair => return Err(self.not_seeded()),
            Recorded::Not(epoch) => epoch,
        };
        waiting.looks += 1;
        if lock.of != Lock::Theirs || waiting.looks % LOOKS_A_BEAT == 1 || !waiting.is_told {
            let found = if is_new { None } else { self.newest(&dir).await? };
            // A wait does not remove what is left of the claim that completed it.
            let found = found.filter(|found| self.rules.mode != Mode::Wait || found.epoch > recorded);
            let beat = found.as_ref().and_then(|found| Beat::parse(&found.beat));
            let moved = self.watch(waiting, lock, found.as_ref()).await;
            if self.rules.mode != Mode::Wait && self.is_free(waiting, lock.of, found.as_ref(), beat.as_ref())
            {
                return self.try_claim(&dir, found.as_ref(), recorded, waiting, lock).await;
            }
            self.tell_of_holder(found.as_ref(), beat.as_ref(), moved, waiting);
        }
        self.pause(waiting).await?;
        Ok(None)
    }

    async fn newest(&self, state: &F::Dir) -> Result<Option<FoundClaim<F::Dir>>> {
        match self.store.newest(state).await {
            // Another user's claims are its own business.
            Err(error) if self.rules.mode == Mode::Wait && error.exit_code() == Exit::Permission => Ok(None),
            found => found,
        }
    }

    /// Makes sure that the state directory is ours, and tries for the lock; whether we got it now, and nothing where
    /// another look has to follow.
    async fn enter(
        &self,
        dir: &F::Dir,
        recorded: &Recorded,
        waiting: &mut Waiting<F::Dir>,
        lock: &mut LockState,
    ) -> Result<Option<bool>> {
        let Some(state) = self.store.owned(dir.clone()).await? else { return Ok(None) };
        if let Some(owner) = self.another_owner(&state).await? {
            self.release(lock).await;
            match recorded {
                // What another user says is owed is not ours to do.
                Recorded::Yes(_, Next::Hook) => self.wait_for_hook(waiting).await?,
                _ => self.displace(&state, owner, waiting, lock).await?,
            }
            return Ok(None);
        }
        waiting.was_open |= state.privacy == Privacy::Open && self.close(dir).await?;
        self.stay_in(dir, waiting, lock).await;
        let is_locked = self.try_lock(dir, lock).await?;
        if is_locked {
            waiting.at_lock = None;
        }
        Ok(Some(is_locked))
    }

    async fn completed(
        &self,
        record: Box<Public>,
        dir: &F::Dir,
        waiting: &Waiting<F::Dir>,
    ) -> Acquired<F::Dir> {
        if waiting.is_told {
            self.work.tell(Event::WaitEnded(self.clock.now().saturating_sub(waiting.began)));
        }
        // A holder that was killed after the record, or that is at it, leaves directories that no other user may
        // enter who walks the volume.
        let is_untidy =
            self.rules.mode == Mode::Seed && self.store.files.has_directories(dir).await.unwrap_or(false);
        Acquired::Complete { record, is_untidy }
    }

    /// There is no state directory: the first replica makes it, once it knows that its source is there.
    async fn without_state(
        &self,
        waiting: &mut Waiting<F::Dir>,
        lock: &mut LockState,
        source: &mut SourceSlot<W::Source>,
    ) -> Result<Stateless<F::Dir>> {
        let has_sentinel = self.work.has_sentinel().await?;
        match self.rules.mode {
            Mode::Repair => return Err(self.not_seeded()),
            Mode::Wait if has_sentinel && !self.rules.needs_version => {
                return Ok(Stateless::Over(Some(Acquired::Unrecorded(None))));
            }
            Mode::Wait => {
                waiting.watch.see(self.clock.now(), None);
                self.tell_of_holder(None, None, false, waiting);
                self.pause(waiting).await?;
            }
            Mode::Seed => {
                match has_sentinel {
                    // What is wrong with it is said before the volume is touched.
                    false => drop(source.open(self.work).await?),
                    true => {
                        if let Some(cause) = self.work.refuses_state().await {
                            return Ok(Stateless::Over(Some(Acquired::Unrecorded(Some(cause)))));
                        }
                    }
                }
                self.another_round(lock)?;
                if let Some(dir) = self.store.make_state().await? {
                    return Ok(Stateless::Made(dir));
                }
            }
        }
        Ok(Stateless::Over(None))
    }

    /// What the record says, after a look at what it speaks of.
    async fn recorded(&self, state: &F::Dir) -> Result<Recorded> {
        let Some(record) = self.store.record(state).await? else { return Ok(Recorded::Not(0)) };
        if self.work.is_emptied(&record).await? || !self.store.is_current(&record).await? {
            return Ok(Recorded::Not(record.epoch));
        }
        match self.next(&record).await {
            Ok(next) => Ok(Recorded::Yes(record.into(), next)),
            Err(error) => match self.store.is_current(&record).await {
                // An upgrade retired it meanwhile: the private record that it names is gone, or is another one.
                Ok(false) => Ok(Recorded::Not(record.epoch)),
                Ok(true) | Err(_) => Err(error),
            },
        }
    }

    /// The other user whose the state directory is, where that keeps us from working in it.
    async fn another_owner(&self, state: &State<F::Dir>) -> Result<Option<u32>> {
        if let Some(owner) = state.foreign() {
            return Ok(Some(owner));
        }
        let barred = self.store.files.barred_by(&state.dir).await;
        barred.context("stat", self.store.state.path.as_path())
    }

    /// One more beginning. A user that takes everything away each time must not keep us at it without end.
    pub(super) fn another_round(&self, lock: &mut LockState) -> Result<()> {
        lock.rounds += 1;
        if lock.rounds <= MAX_ROUNDS {
            return Ok(());
        }
        Err(Error::new(Exit::Held, "claim volume", "its .volseed is changed or removed again and again")
            .on(self.store.state.path.as_path())
            .help("let nothing else change it, and start again"))
    }

    /// Makes another user's state directory ours, or waits a moment for that user to complete the volume.
    async fn displace(
        &self,
        state: &State<F::Dir>,
        owner: u32,
        waiting: &mut Waiting<F::Dir>,
        lock: &mut LockState,
    ) -> Result<()> {
        if state.foreign().is_some() && self.store.seize_state(state, owner).await? {
            self.work.tell(Event::Foreign(owner));
            return self.another_round(lock);
        }
        let over = || {
            let cause = format!("its .volseed belongs to UID {owner}, which has not completed it");
            let help =
                format!("start it once as UID {owner}, which began, or remove .volseed from the volume");
            (cause, help)
        };
        self.wait_outside(Event::WaitsForOwner(owner), over, waiting).await
    }

    async fn close(&self, state: &F::Dir) -> Result<bool> {
        let closed = self.store.files.close(state, Wall::Listed).await;
        closed.context("change mode of", self.store.state.path.as_path())
    }

    /// The lock is in this state directory, and in no other.
    async fn stay_in(&self, state: &F::Dir, waiting: &mut Waiting<F::Dir>, lock: &mut LockState) {
        if let Some(before) = waiting.inside.replace(state.clone())
            && lock.usable
            && !self.store.files.same(&before, state).await.unwrap_or(false)
        {
            self.release(lock).await;
        }
    }

    pub(super) async fn release(&self, lock: &mut LockState) {
        self.store.files.unlock().await;
        lock.of = Lock::Unknown;
    }

    /// Whether we got the lock now.
    async fn try_lock(&self, state: &F::Dir, lock: &mut LockState) -> Result<bool> {
        if !lock.usable || lock.of == Lock::Ours {
            return Ok(false);
        }
        lock.of = match self.store.files.lock(state).await {
            Ok(lock) => lock,
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                return Err(foreign_state(&self.store.state.path.join(LOCK), "not a regular file"));
            }
            Err(error) => {
                lock.usable = false;
                let cause = crate::error::lowercase_first(&std::io::Error::from(error).to_string());
                self.work.tell(Event::NotShared(&cause));
                Lock::Unknown
            }
        };
        Ok(lock.of == Lock::Ours)
    }

    /// Notes what is seen of the newest claim; whether it is new. A holder whose heart beats although we got the
    /// lock that it says it holds shows that the lock keeps nobody out.
    async fn watch(
        &self,
        waiting: &mut Waiting<F::Dir>,
        lock: &mut LockState,
        found: Option<&FoundClaim<F::Dir>>,
    ) -> bool {
        let seen = found.map(|found| (found.epoch, found.beat.clone()));
        if lock.of == Lock::Ours && waiting.at_lock.is_none() {
            waiting.at_lock = seen.clone();
        }
        let is_locked = found.and_then(|found| found.holder.as_ref()).is_some_and(|holder| holder.locked);
        let has_moved = match (&waiting.at_lock, &seen) {
            (Some((at_lock, then)), Some((epoch, now))) => at_lock == epoch && then != now,
            _ => false,
        };
        if lock.of == Lock::Ours && is_locked && has_moved {
            lock.usable = false;
            self.release(lock).await;
            self.work.tell(Event::NotShared("we got it while another holder's heart beats"));
        }
        waiting.watch.see(self.clock.now(), seen)
    }

    fn is_free(
        &self,
        waiting: &Waiting<F::Dir>,
        lock: Lock,
        found: Option<&FoundClaim<F::Dir>>,
        beat: Option<&Beat>,
    ) -> bool {
        if found.is_some_and(|found| matches!(found.privacy, Privacy::Foreign(_))) {
            // Nothing that another user says of its claim is trusted.
            return true;
        }
        let seen = found.map(|found| self.seen(found, beat));
        let patience = expiry::patience(self.rules.sharing, lock, seen);
        self.rules.alone || waiting.watch.silence(self.clock.now()) >= patience
    }

    pub(super) fn seen<'f>(&self, found: &'f FoundClaim<F::Dir>, beat: Option<&'f Beat>) -> Seen<'f> {
        let holder = found.holder.as_ref();
        Seen { holder, beat, same_mount: holder.is_some_and(|holder| self.work.same_mount(holder)) }
    }

    /// Claims the volume, after the claim `found` is over and the record is of the claim `recorded`.
    async fn try_claim(
        &self,
        state: &F::Dir,
        found: Option<&FoundClaim<F::Dir>>,
        recorded: u64,
        waiting: &Waiting<F::Dir>,
        lock: &LockState,
    ) -> Result<Option<Acquired<F::Dir>>> {
        let holder = self.work.holder(lock.of == Lock::Ours);
        let judged = found.map_or(0, |found| found.epoch);
        match self.store.claim(state, (judged, recorded), holder).await? {
            Claimed::Won(mut claim) => {
                claim.was_open = waiting.was_open;
                if waiting.is_told {
                    self.work.tell(Event::WaitEnded(self.clock.now().saturating_sub(waiting.began)));
                }
                if let Some(found) = found {
                    self.work.tell(Event::TookOver(claim.epoch, found.holder.as_ref()));
                }
                return Ok(Some(Acquired::Ours(claim.into(), lock.of)));
            }
            Claimed::Superseded(claim) => self.clear_up(&claim).await,
            Claimed::Lost => {}
        }
        self.clock.sleep(FIRST_PAUSE).await.map_err(|_| Error::cancelled())?;
        Ok(None)
    }
}
