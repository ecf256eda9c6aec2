//! One replica's way to a complete volume: wait until it is complete or ours, and if it is ours, make
//! it complete.
//!
//! What is done to the volume is for [`Work`]; in which order, and what follows when another replica
//! takes over meanwhile, is here.

use std::time::Duration;

use rustix::io::Errno;

use super::decision::{Decision, Known, Leftover, decide};
use crate::claims::beat::{Beat, Holder};
use crate::claims::disk::LOCK;
use crate::claims::expiry;
use crate::claims::expiry::{Lock, Seen, Sharing, Watch};
use crate::claims::io::{Clock, Files};
use crate::claims::store::{Claim, Claimed, Found, Ground, Sealing, State};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::mutant;
use crate::mutant::Mutant;
use crate::volume::records::{Complete, Public, Sealed};
use crate::volume::{Privacy, Wall, not_ours};

/// The first pause between two looks: a small seed on a local disk is over in a few of them.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest where a look costs nothing: what a waiter may lose against one that is told at once.
const LOCAL_PAUSE: Duration = Duration::from_millis(250);
/// The longest where a look costs round trips.
const REMOTE_PAUSE: Duration = Duration::from_millis(750);
/// While another replica holds the lock its heartbeat matters little: it is looked at once in so many
/// looks.
const LOOKS_A_BEAT: u32 = 4;

/// The longest wait for another user to complete the volume, where `--wait-timeout` names none.
const OWNER_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often a replica begins again, before that is an error.
const ROUNDS: u32 = 100;

/// How often what is left of a claim is removed before it is left where it is.
const CLEARING: u32 = 8;

/// What a replica does to the volume itself, and who is told.
#[allow(async_fn_in_trait)]
pub trait Work<F: Files> {
    /// Keeps the heart beating while it lives.
    type Beating;

    /// Whether the volume that `record` speaks of was emptied since.
    async fn emptied(&self, record: &Public) -> Result<bool>;
    /// Whether the sentinel is there.
    async fn sentinel(&self) -> Result<bool>;
    /// Who we are, for a claim that is made with or without the lock.
    fn holder(&self, locked: bool) -> Holder;
    /// Whether a claim was made on this kernel and mount.
    fn same_mount(&self, holder: &Holder) -> bool;
    /// Starts the heartbeat of a claim.
    fn beat(&self, claim: &Claim<F::Dir>) -> Result<Self::Beating>;
    /// What the source and the options make of the seed: another one is another seed's.
    async fn fingerprint(&self) -> Result<String>;
    /// Stages the whole tree. Nothing outside of the stage is touched.
    async fn stage(&self, claim: &Claim<F::Dir>, after: Option<&Public>) -> Result<Sealed>;
    /// Makes the stage durable. Until that is done the stage says that it is not known to be.
    async fn sync(&self, claim: &Claim<F::Dir>) -> Result<()>;
    /// Writes down in the stage what it will be once it is sealed.
    async fn note(&self, claim: &Claim<F::Dir>, sealed: &Sealed) -> Result<()>;
    /// Moves what is sealed to its place, and makes that durable. Asks before each move whether the
    /// heart still beats.
    async fn publish(&self, claim: &Claim<F::Dir>, sealed: &Sealed, beating: &Self::Beating) -> Result<()>;
    /// Whether none of the names that the record of a seed will list is there any more.
    async fn vanished(&self, record: &Complete) -> Result<bool>;
    /// The record of what was sealed.
    fn record(&self, epoch: u64, sealed: &Sealed) -> Complete;
    /// The record of what was there before volseed.
    async fn adopted(&self, epoch: u64) -> Result<Complete>;
    /// Ends the heartbeat. What was in flight of it is done on return.
    async fn still(&self, beating: Self::Beating);
    /// Something happened that others may want to know.
    fn tell(&self, event: Event<'_>);
}

/// What happens on the way.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The volume is another replica's; what is known of it.
    WaitBegan(Option<&'a Holder>, Option<&'a Beat>),
    /// It still is. `Some` where its heart has beaten since.
    WaitGoes(Option<&'a Beat>),
    /// The wait is over after so long.
    WaitEnded(Duration),
    /// The lock does not keep others out; why.
    NotShared(&'a str),
    /// The volume was claimed under this number, after a claim that was given up.
    TookOver(u64, Option<&'a Holder>),
    /// No earlier holder can do anything from here on.
    Fenced(u64),
    /// Another replica took over from us; how we noticed.
    Lost(u64, &'a Error),
    /// What an earlier holder sealed is published; whether it is another image's, of which a part is there.
    Resumed {
        /// Whether it is.
        other: bool,
    },
    /// What an earlier holder sealed is another image's, and is given up.
    GivenUp,
    /// The state directory was another user's, and is ours now.
    Foreign(u32),
    /// The state directory is another user's, and may not be had: that user has to complete the volume.
    WaitsForOwner(u32),
    /// It still is.
    OwnerAwaited,
    /// A hook has to run before the volume is complete.
    Pending,
    /// Others could enter the claim while it was filled: it is begun again; how we noticed.
    Opened(u64, &'a Error),
    /// The volume had been seeded, and was emptied.
    Emptied,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// It was complete.
    Found(Box<Public>),
    /// It was seeded before volseed, and is recorded so now.
    Adopted,
    /// It was made complete now.
    Completed(u64),
}

/// How replicas agree.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What the file system's lock is worth.
    pub sharing: Sharing,
    /// No other replica is at work, says who runs this.
    pub alone: bool,
    /// Whether looking costs round trips.
    pub remote: bool,
    /// The longest wait for others.
    pub timeout: Option<Duration>,
}

/// One replica at one volume.
pub struct Replica<'a, F: Files, C, W> {
    /// The volume's claims.
    pub ground: Ground<'a, F>,
    /// Our clock.
    pub clock: &'a C,
    /// What is done.
    pub work: &'a W,
    /// How replicas agree.
    pub rules: Rules,
}

enum Turn<D> {
    /// And whether the state is ours to tidy.
    Complete(Public, bool),
    Ours(Claim<D>),
}

impl<F: Files, C: Clock, W: Work<F>> Replica<'_, F, C, W> {
    /// Makes sure that the volume is complete.
    ///
    /// # Errors
    /// The first thing that went wrong while the volume was ours, exit 75 after the longest wait.
    pub async fn complete(&self) -> Result<Ended> {
        let mut lock = LockState { of: Lock::Unknown, usable: !self.rules.alone, rounds: 0 };
        if let Sharing::None(reason) = self.rules.sharing {
            lock.usable = false;
            if !self.rules.alone {
                tracing::debug!(reason, "replicas agree by heartbeats alone");
            }
        }
        let mut lost = false;
        loop {
            let claim = match self.turn(&mut lock).await? {
                Turn::Complete(record, is_ours) => {
                    if is_ours || lost {
                        self.until(async || self.ground.tidy(record.epoch).await).await;
                    }
                    self.ground.files.unlock().await;
                    return Ok(Ended::Found(record.into()));
                }
                Turn::Ours(claim) => claim,
            };
            match self.hold(claim, lock.of).await {
                Held::Done(ended) => {
                    self.ground.files.unlock().await;
                    return Ok(ended);
                }
                Held::Failed(error) => return Err(error),
                Held::Lost(epoch, cause) => self.work.tell(Event::Lost(epoch, &cause)),
                Held::Opened(epoch, cause) => self.work.tell(Event::Opened(epoch, &cause)),
            }
            self.release(&mut lock).await;
            self.another_round(&mut lock)?;
            lost = true;
        }
    }

    /// Waits until the volume is complete or ours.
    async fn turn(&self, lock: &mut LockState) -> Result<Turn<F::Dir>> {
        let began = self.clock.now();
        let (mut watch, mut pause) = (Watch::default(), FIRST_PAUSE);
        let mut waits = false;
        let (mut told, mut inside, mut was_open) = (false, None, false);
        // What was under the claim when we got the lock, to see whether it still moves.
        let (mut at_lock, mut looks): (Option<(u64, Vec<u8>)>, u32) = (None, 0);
        loop {
            let Some(state) = self.ground.state().await? else {
                self.another_round(lock)?;
                self.ground.make_state().await?;
                continue;
            };
            if let Some(owner) = state.foreign() {
                self.release(lock).await;
                let recorded = self.recorded(&state.dir).await?;
                match recorded.complete {
                    Some(record) => return Ok(Turn::Complete(record, false)),
                    None if recorded.is_pending => self.wait_for_hook(began, &mut told).await?,
                    None => self.displace(&state, owner, began, &mut told, lock).await?,
                }
                continue;
            }
            let barred = self.ground.files.barred_by(&state.dir).await;
            if let Some(owner) = barred.context("stat", self.ground.state.path.as_path())? {
                self.release(lock).await;
                let recorded = self.recorded(&state.dir).await?;
                match recorded.complete {
                    Some(record) => return Ok(Turn::Complete(record, false)),
                    None if recorded.is_pending => self.wait_for_hook(began, &mut told).await?,
                    None => self.wait_for_owner(owner, began, &mut told).await?,
                }
                continue;
            }
            was_open |= state.privacy == Privacy::Open && self.close(&state.dir).await?;
            let state = self.enter(state, &mut inside, lock).await?;
            let had = lock.of;
            self.try_lock(&state, lock).await?;
            let recorded = self.recorded(&state).await?;
            if recorded.is_pending {
                self.release(lock).await;
                self.wait_for_hook(began, &mut told).await?;
                continue;
            }
            if let Some(record) = recorded.complete {
                if waits {
                    self.work.tell(Event::WaitEnded(self.clock.now().saturating_sub(began)));
                }
                return Ok(Turn::Complete(record, true));
            }
            looks += 1;
            let look = lock.of != Lock::Theirs || looks % LOOKS_A_BEAT == 1 || !waits;
            let found = if look { self.ground.newest(&state).await? } else { None };
            if look {
                let seen = found.as_ref().map(|found| (found.epoch, found.beat.clone()));
                if lock.of == Lock::Ours && had != Lock::Ours {
                    at_lock = seen.clone();
                }
                let moved = watch.see(self.clock.now(), seen.clone());
                let beat = found.as_ref().and_then(|found| Beat::parse(&found.beat));
                let locked = found
                    .as_ref()
                    .and_then(|found| found.holder.as_ref())
                    .is_some_and(|holder| holder.locked);
                let same_claim =
                    at_lock.as_ref().map(|(epoch, _)| epoch) == seen.as_ref().map(|(epoch, _)| epoch);
                if lock.of == Lock::Ours && locked && same_claim && at_lock.is_some() && at_lock != seen {
                    lock.of = Lock::Unknown;
                    lock.usable = false;
                    self.ground.files.unlock().await;
                    self.work.tell(Event::NotShared("we got it while another holder's heart beats"));
                }
                if self.is_free(&watch, lock.of, found.as_ref(), beat.as_ref()) {
                    let holder = self.work.holder(lock.of == Lock::Ours);
                    let judged = found.as_ref().map_or(0, |found| found.epoch);
                    match self.ground.claim(&state, (judged, recorded.epoch), holder).await? {
                        Claimed::Ours(mut claim) => {
                            claim.was_open = was_open;
                            if waits {
                                self.work.tell(Event::WaitEnded(self.clock.now().saturating_sub(began)));
                            }
                            if let Some(found) = &found {
                                self.work.tell(Event::TookOver(claim.epoch, found.holder.as_ref()));
                            }
                            return Ok(Turn::Ours(claim));
                        }
                        Claimed::Late(claim) => self.clear_up(&claim).await,
                        Claimed::No => {}
                    }
                    self.clock.sleep(FIRST_PAUSE).await.map_err(|_| Error::cancelled())?;
                    continue;
                }
                if waits {
                    self.work.tell(Event::WaitGoes(if moved { beat.as_ref() } else { None }));
                } else {
                    let holder = found.as_ref().and_then(|found| found.holder.as_ref());
                    self.work.tell(Event::WaitBegan(holder, beat.as_ref()));
                    waits = true;
                }
            }
            let waited = self.clock.now().saturating_sub(began);
            if self.rules.timeout.is_some_and(|timeout| waited >= timeout) {
                return Err(Error::new(
                    Exit::Held,
                    "wait for volume",
                    "another replica has held it for --wait-timeout",
                )
                .on(self.ground.volume)
                .help("start again, or allow a longer --wait-timeout"));
            }
            let jitter = self.clock.random(pause.as_millis() as u64 / 4 + 1);
            let wait = pause - Duration::from_millis(jitter).min(pause);
            let left = self.rules.timeout.map_or(wait, |timeout| wait.min(timeout.saturating_sub(waited)));
            self.clock.sleep(left).await.map_err(|_| Error::cancelled())?;
            pause = (pause * 3 / 2).min(if self.rules.remote { REMOTE_PAUSE } else { LOCAL_PAUSE });
        }
    }

    /// What the record says, after a look at what it speaks of.
    async fn recorded(&self, state: &F::Dir) -> Result<Recorded> {
        let Some(record) = self.ground.record(state).await? else { return Ok(Recorded::default()) };
        let epoch = record.epoch;
        let is_current = !self.work.emptied(&record).await? && self.ground.still(&record).await?;
        let is_pending = is_current && !record.is_complete();
        Ok(Recorded { epoch, is_pending, complete: (is_current && !is_pending).then_some(record) })
    }

    /// One more beginning. A user that takes everything away each time must not keep us at it without end.
    fn another_round(&self, lock: &mut LockState) -> Result<()> {
        lock.rounds += 1;
        if lock.rounds <= ROUNDS {
            return Ok(());
        }
        Err(Error::new(Exit::Held, "claim volume", "its .volseed is changed or removed again and again")
            .on(self.ground.state.path.as_path())
            .help("let nothing else change it, and start again"))
    }

    /// Makes another user's state directory ours, or waits a moment for that user to complete the volume.
    async fn displace(
        &self,
        state: &State<F::Dir>,
        owner: u32,
        began: Duration,
        told: &mut bool,
        lock: &mut LockState,
    ) -> Result<()> {
        if self.ground.seize_state(state, owner).await? {
            self.work.tell(Event::Foreign(owner));
            return self.another_round(lock);
        }
        self.wait_for_owner(owner, began, told).await
    }

    /// Waits a moment for the other user whose the state directory is to complete the volume.
    async fn wait_for_owner(&self, owner: u32, began: Duration, told: &mut bool) -> Result<()> {
        let over = || {
            let cause = format!("its .volseed belongs to UID {owner}, which has not completed it");
            let help =
                format!("start it once as UID {owner}, which began, or remove .volseed from the volume");
            (cause, help)
        };
        self.wait_outside(&Event::WaitsForOwner(owner), over, began, told).await
    }

    /// Waits a moment for another replica to run the hook that the volume is complete but for.
    async fn wait_for_hook(&self, began: Duration, told: &mut bool) -> Result<()> {
        let over = || {
            let cause = "it is complete but for a hook, which no replica has run";
            (cause.to_owned(), "start the image that the volume was made complete with".to_owned())
        };
        self.wait_outside(&Event::Pending, over, began, told).await
    }

    /// Waits a moment for what only others can do.
    async fn wait_outside(
        &self,
        event: &Event<'_>,
        over: impl Fn() -> (String, String),
        began: Duration,
        told: &mut bool,
    ) -> Result<()> {
        match std::mem::replace(told, true) {
            true => self.work.tell(Event::OwnerAwaited),
            false => self.work.tell(event.clone()),
        }
        let waited = self.clock.now().saturating_sub(began);
        if waited >= self.rules.timeout.unwrap_or(OWNER_PATIENCE) {
            let (cause, help) = over();
            return Err(Error::new(Exit::Held, "wait for volume", cause).on(self.ground.volume).help(help));
        }
        self.clock.sleep(REMOTE_PAUSE).await.map_err(|_| Error::cancelled())
    }

    async fn close(&self, state: &F::Dir) -> Result<bool> {
        self.ground
            .files
            .close(state, Wall::Listed)
            .await
            .context("change mode of", self.ground.state.path.as_path())
    }

    /// Our own state directory; the lock is in it, and in no other.
    async fn enter(
        &self,
        state: State<F::Dir>,
        inside: &mut Option<F::Dir>,
        lock: &mut LockState,
    ) -> Result<F::Dir> {
        let files = self.ground.files;
        if let Some(before) = inside.replace(state.dir.clone())
            && lock.of != Lock::Unknown
            && !files.same(&before, &state.dir).await.unwrap_or(false)
        {
            self.release(lock).await;
        }
        Ok(state.dir)
    }

    async fn release(&self, lock: &mut LockState) {
        self.ground.files.unlock().await;
        lock.of = Lock::Unknown;
    }

    async fn try_lock(&self, state: &F::Dir, lock: &mut LockState) -> Result<()> {
        if !lock.usable || lock.of == Lock::Ours {
            return Ok(());
        }
        lock.of = match self.ground.files.lock(state).await {
            Ok(true) => Lock::Ours,
            Ok(false) => Lock::Theirs,
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                return Err(not_ours(&self.ground.state.path.join(LOCK), "not a regular file"));
            }
            Err(error) => {
                lock.usable = false;
                let cause = crate::error::lowercase_first(&std::io::Error::from(error).to_string());
                self.work.tell(Event::NotShared(&cause));
                Lock::Unknown
            }
        };
        Ok(())
    }

    fn is_free(&self, watch: &Watch, lock: Lock, found: Option<&Found<F::Dir>>, beat: Option<&Beat>) -> bool {
        if found.is_some_and(|found| matches!(found.privacy, Privacy::Foreign(_))) {
            // Nothing that another user says of its claim is believed.
            return true;
        }
        let seen = found.map(|found| self.seen(found, beat));
        let patience = expiry::patience(self.rules.sharing, lock, seen);
        self.rules.alone || watch.silence(self.clock.now()) >= patience
    }

    fn seen<'f>(&self, found: &'f Found<F::Dir>, beat: Option<&'f Beat>) -> Seen<'f> {
        let holder = found.holder.as_ref();
        Seen { holder, beat, same_mount: holder.is_some_and(|holder| self.work.same_mount(holder)) }
    }

    /// Makes the volume complete while it is ours.
    async fn hold(&self, mut claim: Claim<F::Dir>, lock: Lock) -> Held {
        let epoch = claim.epoch;
        let beating = match self.work.beat(&claim) {
            Ok(beating) => beating,
            Err(error) => return Held::Failed(error),
        };
        let result = self.make_complete(&mut claim, lock, &beating).await;
        self.work.still(beating).await;
        match result {
            Ok(ended) => {
                self.clear_up(&claim).await;
                Held::Done(ended)
            }
            Err(error) => {
                if let Ok(false) = self.ground.is_private(&claim).await {
                    self.leave(&claim).await;
                    return Held::Opened(epoch, error);
                }
                match self.ground.holds(&mut claim).await {
                    Ok(false) => Held::Lost(epoch, error),
                    // Ours, or not to be told: then what went wrong is what is said.
                    Ok(true) | Err(_) => {
                        self.leave(&claim).await;
                        Held::Failed(error)
                    }
                }
            }
        }
    }

    async fn make_complete(
        &self,
        claim: &mut Claim<F::Dir>,
        lock: Lock,
        beating: &W::Beating,
    ) -> Result<Ended> {
        let (ground, work) = (&self.ground, self.work);
        let sharing = self.rules.sharing;
        let is_dead = |found: &Found<F::Dir>| {
            let beat = Beat::parse(&found.beat);
            expiry::vouched(sharing, lock, self.seen(found, beat.as_ref()))
        };
        ground.fence(claim, is_dead, async || work.fingerprint().await).await?;
        work.tell(Event::Fenced(claim.epoch));
        ground.check_private_place(claim).await?;
        let record = claim.record.take();
        let emptied = match &record {
            Some(record) => work.emptied(record).await?,
            None => false,
        };
        let leftover = claim.leftover.clone();
        let same = match &leftover {
            Some((_, staged)) => staged.fingerprint == work.fingerprint().await?,
            None => false,
        };
        let known = Known {
            complete: record.is_some(),
            emptied,
            leftover: leftover.as_ref().map_or(Leftover::None, |(sealing, _)| match sealing {
                Sealing::Publishing if !mutant::on(Mutant::GiveUpPublishing) => Leftover::Publishing,
                _ => Leftover::Sealed { same },
            }),
            sentinel: work.sentinel().await?,
        };
        match (decide(known), leftover, &record) {
            (Decision::Skip, _, Some(record)) if record.is_complete() && ground.still(record).await? => {
                return Ok(Ended::Found(record.clone().into()));
            }
            // What was seen is another holder's work.
            (Decision::Skip, ..) => {
                return Err(Error::new(
                    Exit::Held,
                    "look at volume",
                    "another replica has taken over meanwhile",
                )
                .on(ground.state.path.as_path()));
            }
            (Decision::Adopt, leftover, _) => {
                if leftover.is_some() {
                    work.tell(Event::GivenUp);
                }
                ground.complete(claim, &work.adopted(claim.epoch).await?).await?;
                return Ok(Ended::Adopted);
            }
            (Decision::Publish, Some((sealing, staged)), _) => {
                let sealed = staged.sealed.expect("without it nothing is left over");
                work.tell(Event::Resumed { other: !same });
                if sealing == Sealing::Sealed {
                    ground.begin_publishing(claim).await?;
                }
                work.publish(claim, &sealed, beating).await?;
                let record = work.record(claim.epoch, &sealed);
                if !work.vanished(&record).await? {
                    ground.complete(claim, &record).await?;
                    return Ok(Ended::Completed(claim.epoch));
                }
                // Somebody removed what had been published before it could be recorded.
                work.tell(Event::Emptied);
                ground.discard_sealed(claim).await?;
            }
            (_, _, Some(_)) => {
                work.tell(Event::Emptied);
                // What is sealed was published under that record. It goes first: alone it would pass for
                // a seed that has yet to be published.
                ground.discard_sealed(claim).await?;
                // Else a kill while the new seed is published leaves the old record to vouch for it.
                ground.retire_record(claim).await?;
            }
            (_, Some(_), None) => {
                work.tell(Event::GivenUp);
                ground.give_up_sealed(claim).await?;
            }
            (_, None, None) => {}
        }
        self.seed(claim, record.as_ref(), beating).await
    }

    async fn seed(
        &self,
        claim: &Claim<F::Dir>,
        after: Option<&Public>,
        beating: &W::Beating,
    ) -> Result<Ended> {
        let (ground, work) = (&self.ground, self.work);
        let sealed = work.stage(claim, after).await?;
        let syncs_late = mutant::on(Mutant::SyncAfterSeal);
        if !syncs_late && !mutant::on(Mutant::SkipSync) {
            work.sync(claim).await?;
        }
        work.note(claim, &sealed).await?;
        if !mutant::on(Mutant::PublishUnsealed) {
            ground.seal(claim).await?;
        }
        if mutant::on(Mutant::RecordFirst) {
            ground.complete(claim, &work.record(claim.epoch, &sealed)).await?;
        }
        ground.begin_publishing(claim).await?;
        work.publish(claim, &sealed, beating).await?;
        // What it lists is looked at on the volume.
        let record = work.record(claim.epoch, &sealed);
        ground.complete(claim, &record).await?;
        if syncs_late {
            work.sync(claim).await?;
        }
        Ok(Ended::Completed(claim.epoch))
    }

    /// Removes the claim. On FUSE and NFS a waiter that reads our heartbeat just now is in the way for a
    /// moment.
    async fn clear_up(&self, claim: &Claim<F::Dir>) {
        self.until(async || self.ground.drop_claim(claim).await).await;
    }

    async fn until(&self, cleared: impl AsyncFn() -> bool) {
        for _ in 0..CLEARING {
            if cleared().await || self.clock.sleep(FIRST_PAUSE).await.is_err() {
                return;
            }
        }
    }

    /// Says that we are done with the volume, so that nobody waits for our heartbeat.
    async fn leave(&self, claim: &Claim<F::Dir>) {
        let beat = Beat { left: true, ..Beat::default() };
        let _ = self.ground.files.update(&claim.dir, crate::claims::store::HEARTBEAT, &beat.bytes()).await;
        self.ground.files.unlock().await;
    }
}

/// What a record says of the volume as it is.
#[derive(Default)]
struct Recorded {
    /// The claim that it is of, 0 without one.
    epoch: u64,
    /// Where the volume is complete by it.
    complete: Option<Public>,
    /// Where it is complete but for a hook.
    is_pending: bool,
}

/// The lock as far as we got, whether it is worth asking for, and how often we began again.
struct LockState {
    of: Lock,
    usable: bool,
    rounds: u32,
}

enum Held {
    Done(Ended),
    Failed(Error),
    Lost(u64, Error),
    Opened(u64, Error),
}
