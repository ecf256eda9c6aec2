//! One replica's way to a complete volume: acquire → fence → decide → stage → sync → seal → publish → record.
//!
//! Each step takes what the one before it returned. What a step does on a real volume is [`Work`]'s, what
//! replicas tell each other through directories is the [`ClaimStore`]'s; here is the order, and what follows when
//! another replica takes over. The calls are asynchronous for one reason: in the tests every one of them is a
//! point at which a replica may die ([`super::simulation`]). On a volume they block, and are ready at once.

use std::time::Duration;

use super::acquire::{Acquired, FIRST_PAUSE, LockState, Mode};
use super::decision::{Decision, Found, decide};
use super::gate::Next;
use crate::claims::beat::{Beat, Holder};
use crate::claims::expiry::{self, Lock, Sharing};
use crate::claims::io::{Clock, Files};
use crate::claims::store::{Claim, ClaimStore, HEARTBEAT, Leftover, PUBLISHING, STAGE};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::volume::records::{Complete, Public, Staged, to_bytes};

/// How often what is left of a claim is removed before it is left where it is.
const MAX_CLEAN_UPS: u32 = 8;
/// How often a stage that others could enter is staged again. A volume plug-in opens one once; some CIFS mounts
/// (`modefromsid`) never say the mode that a directory was given.
const MAX_OPENED: u32 = 5;

/// What a replica does to the volume itself, and who is told.
#[allow(async_fn_in_trait)]
pub(crate) trait Work<F: Files> {
    /// Keeps others from taking over while it lives.
    type Heartbeat;
    /// What is to be seeded, opened.
    type Source;
    /// A tree that is staged whole.
    type Staged;
    /// One that is durable, too, and says in its stage what it will be.
    type Synced;
    /// What was done, for the report.
    type Published;

    /// Whether the volume that `record` speaks of was emptied since.
    async fn is_emptied(&self, record: &Public) -> Result<bool>;
    /// Whether the sentinel is there.
    async fn has_sentinel(&self) -> Result<bool>;
    /// Why no state can be made on a volume that is complete without it.
    async fn refuses_state(&self) -> Option<String>;
    /// Who we are, for a claim that is made with or without the lock.
    fn holder(&self, locked: bool) -> Holder;
    /// Whether a claim was made on this kernel and mount.
    fn same_mount(&self, holder: &Holder) -> bool;
    /// Starts the heartbeat of a claim.
    fn start_heartbeat(&self, claim: &Claim<F::Dir>) -> Result<Self::Heartbeat>;
    /// Ends it. What was in flight of it is done on return.
    async fn stop(&self, heartbeat: Self::Heartbeat);
    /// Opens the source. `again` says that one was used up under a claim that was lost.
    async fn open_source(&self, again: bool) -> Result<Self::Source>;
    /// What the source and the options make of the seed: another one is another seed's.
    fn fingerprint(&self, source: &Self::Source) -> String;
    /// Stages the whole tree. Nothing outside of the stage is touched.
    async fn stage(
        &self,
        claim: &Claim<F::Dir>,
        source: Self::Source,
        after: Option<&Public>,
        heartbeat: &Self::Heartbeat,
    ) -> Result<Self::Staged>;
    /// What is next for the volume of `record`, by its version and this image's.
    async fn next(&self, record: &Public) -> Result<Next>;
    /// Asks this image's hook, if it has one, whether the volume of `record` may be upgraded now.
    async fn ask_before_upgrade(
        &self,
        claim: &Claim<F::Dir>,
        record: &Public,
        heartbeat: &Self::Heartbeat,
    ) -> Result<()>;
    /// Runs the hook that the volume is complete but for by `record`. `again` says that it may have run before.
    async fn run_hook(
        &self,
        claim: &Claim<F::Dir>,
        record: &Public,
        again: bool,
        heartbeat: &Self::Heartbeat,
    ) -> Result<()>;
    /// Stages what an upgrade of the volume of `record` needs; nothing where there is none to do after all.
    async fn stage_upgrade(
        &self,
        claim: &Claim<F::Dir>,
        source: Self::Source,
        record: &Public,
        heartbeat: &Self::Heartbeat,
    ) -> Result<Option<Self::Staged>>;
    /// Stages what is missing on the volume of `record`, or differs and is to be replaced; nothing where nothing is.
    async fn stage_repair(
        &self,
        claim: &Claim<F::Dir>,
        source: Self::Source,
        record: &Public,
        heartbeat: &Self::Heartbeat,
    ) -> Result<Option<Self::Staged>>;
    /// Makes the stage durable, and then writes down in it what it will be once it is sealed. Until then the
    /// stage says that it is not known to be durable.
    async fn sync(&self, claim: &Claim<F::Dir>, staged: Self::Staged) -> Result<Self::Synced>;
    /// Moves what is sealed to its place, and makes that durable. Asks before each move whether the heart still
    /// beats.
    async fn publish(
        &self,
        claim: &Claim<F::Dir>,
        whole: Whole<Self::Synced>,
        heartbeat: &Self::Heartbeat,
    ) -> Result<Self::Published>;
    /// The record of what was published.
    fn record(&self, epoch: u64, published: &Self::Published) -> Complete;
    /// Whether none of the names that the record of a seed lists is there any more.
    async fn is_gone(&self, record: &Complete) -> Result<bool>;
    /// Looks at what was there before volseed, and stages what of the seed is missing, where that is to be put there:
    /// the record, but for the names in it, and what is staged.
    async fn stage_adoption(
        &self,
        claim: &Claim<F::Dir>,
        heartbeat: &Self::Heartbeat,
    ) -> Result<(Complete, Option<Self::Staged>)>;
    /// The same record, once all that it is of is there.
    async fn adopt(&self, record: Complete) -> Result<Complete>;
    /// Something happened that others may want to know.
    fn tell(&self, event: Event<'_>);
}

/// What happens on the way.
#[derive(Debug, Clone)]
pub(crate) enum Event<'a> {
    /// The volume is another replica's; what is known of it.
    WaitBegan(Option<&'a Holder>, Option<&'a Beat>),
    /// Its heart has beaten since.
    WaitGoes(Option<&'a Beat>),
    /// We still wait, and see nothing of whom we wait for.
    WaitsUnseen,
    /// The wait is over after this long.
    WaitEnded(Duration),
    /// The holder of this claim, on this host, released the volume without completing it.
    HolderFailed(u64, &'a str),
    /// The lock does not keep others out; why.
    NotShared(&'a str),
    /// The volume was claimed under this number, after a claim that was given up.
    TookOver(u64, Option<&'a Holder>),
    /// No earlier holder can do anything from here on.
    Fenced(u64),
    /// Another replica took over from us; how we noticed.
    Lost(u64, &'a Error),
    /// What an earlier holder sealed is published; whether it is another image's.
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
    /// A hook of another image has to run before the volume is complete.
    Pending,
    /// Others could enter the claim while it was filled: it is begun again; how we noticed.
    Opened(u64, &'a Error),
    /// The volume had been seeded, and was emptied.
    Emptied,
}

/// A stage that is whole and durable.
pub(crate) enum Whole<S> {
    /// Staged by this run.
    Ours(S),
    /// By an earlier one, which did not publish all of it.
    Earlier(Box<Staged>),
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome<P> {
    /// It was complete.
    Found(Box<Public>),
    /// It was seeded before volseed, and gets no record: `wait` writes none, and for the reason that is given none
    /// can be written.
    Unrecorded(Option<String>),
    /// It was seeded before volseed, and is recorded so now; what was put there of the seed, where something was.
    Adopted(Box<Complete>, Option<P>),
    /// It was made complete now, but for the hook that the record names, if it names one.
    Completed(Box<Complete>, P),
    /// It was complete but for a hook, which has run now.
    Settled(Box<Public>),
    /// It was complete, and what was missing was put back, where anything was; or why it was not.
    Repaired(Result<Option<P>>),
}

/// How replicas agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// What is asked of us.
    pub(crate) mode: Mode,
    /// What the file system's lock is worth.
    pub(crate) sharing: Sharing,
    /// No other replica is at work, says who runs this.
    pub(crate) alone: bool,
    /// Whether looking costs round trips.
    pub(crate) remote: bool,
    /// The longest wait for others.
    pub(crate) timeout: Option<Duration>,
    /// Whether a wait is for this image's version of the volume: any version that is complete is not enough.
    pub(crate) needs_version: bool,
}

/// The source, opened when it is first needed: a volume that is complete or adopted needs none.
pub(super) struct SourceSlot<S> {
    opened: Option<S>,
    is_used: bool,
}

impl<S> SourceSlot<S> {
    /// The source, open.
    pub(super) async fn open<F: Files, W: Work<F, Source = S>>(&mut self, work: &W) -> Result<&S> {
        if self.opened.is_none() {
            self.opened = Some(work.open_source(self.is_used).await?);
        }
        Ok(self.opened.as_ref().expect("it was opened just now"))
    }

    async fn take<F: Files, W: Work<F, Source = S>>(&mut self, work: &W) -> Result<S> {
        self.open(work).await?;
        self.is_used = true;
        Ok(self.opened.take().expect("it was opened just now"))
    }
}

/// One replica at one volume.
pub(crate) struct Replica<'a, F: Files, C, W> {
    /// The volume's claims.
    pub(crate) store: ClaimStore<'a, F>,
    /// Our clock.
    pub(crate) clock: &'a C,
    /// What is done.
    pub(crate) work: &'a W,
    /// How replicas agree.
    pub(crate) rules: Rules,
}

/// How holding the volume ended.
enum Attempt<P> {
    Done(Outcome<P>),
    /// There is nothing for us to do on it, and another look says what follows.
    Nothing,
    Failed(Error),
    /// Another replica took over from the claim of this number.
    Lost(u64, Error),
    /// Others could enter it.
    Opened(u64, Error),
}

impl<F: Files, C: Clock, W: Work<F>> Replica<'_, F, C, W> {
    /// Makes sure that the volume is complete, or waits until another replica has.
    ///
    /// # Errors
    /// The first thing that went wrong while the volume was ours, exit 75 after the longest wait.
    pub(crate) async fn complete(&self) -> Result<Outcome<W::Published>> {
        let mut lock = LockState::new(self.rules.mode != Mode::Wait && !self.rules.alone);
        if let (Sharing::None(reason), true) = (self.rules.sharing, lock.usable) {
            lock.usable = false;
            tracing::debug!(reason, "replicas agree by heartbeats alone");
        }
        let mut source = SourceSlot { opened: None, is_used: false };
        let (mut lost, mut opened) = (false, 0);
        loop {
            let (claim, of_lock) = match self.acquire(&mut lock, &mut source).await? {
                Acquired::Ours(claim, lock) => (claim, lock),
                Acquired::Unrecorded(cause) => return Ok(Outcome::Unrecorded(cause)),
                Acquired::Complete { record, is_untidy } => {
                    if is_untidy || lost {
                        self.until_done(async || self.store.tidy(record.epoch).await).await;
                    }
                    self.store.files.unlock().await;
                    return Ok(Outcome::Found(record));
                }
            };
            match self.hold(claim, of_lock, &mut source).await {
                // What an earlier image left unfinished is finished now, and is to be upgraded in turn.
                Attempt::Done(Outcome::Completed(record, _)) if self.leads_on(&record).await? => {}
                Attempt::Nothing => {}
                Attempt::Done(outcome) => {
                    self.store.files.unlock().await;
                    return Ok(outcome);
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Lost(epoch, cause) => self.work.tell(Event::Lost(epoch, &cause)),
                Attempt::Opened(_, cause) if opened == MAX_OPENED => return Err(cause),
                Attempt::Opened(epoch, cause) => {
                    opened += 1;
                    self.work.tell(Event::Opened(epoch, &cause));
                }
            }
            self.release(&mut lock).await;
            self.another_round(&mut lock)?;
            lost = true;
        }
    }

    /// Whether something has to follow on a volume that was completed just now.
    async fn leads_on(&self, record: &Complete) -> Result<bool> {
        Ok(self.next(&Public::of(record, &to_bytes(record))).await? != Next::Start)
    }

    /// Makes the volume complete while it is ours.
    async fn hold(
        &self,
        mut claim: Box<Claim<F::Dir>>,
        lock: Lock,
        source: &mut SourceSlot<W::Source>,
    ) -> Attempt<W::Published> {
        let epoch = claim.epoch;
        let heartbeat = match self.work.start_heartbeat(&claim) {
            Ok(heartbeat) => heartbeat,
            Err(error) => return Attempt::Failed(error),
        };
        let result = self.make_complete(&mut claim, lock, source, &heartbeat).await;
        self.work.stop(heartbeat).await;
        let error = match result {
            Ok(outcome) => {
                self.clear_up(&claim).await;
                return outcome.map_or(Attempt::Nothing, Attempt::Done);
            }
            Err(error) => error,
        };
        if let Ok(false) = self.store.is_private(&claim).await {
            self.leave(&claim).await;
            return Attempt::Opened(epoch, error);
        }
        match self.store.holds(&mut claim).await {
            Ok(false) => Attempt::Lost(epoch, error),
            // Ours, or not to be told: then what went wrong is what is said.
            Ok(true) | Err(_) => {
                self.leave(&claim).await;
                Attempt::Failed(error)
            }
        }
    }

    /// The steps of a claim; nothing where it is for others to go on.
    async fn make_complete(
        &self,
        claim: &mut Claim<F::Dir>,
        lock: Lock,
        source: &mut SourceSlot<W::Source>,
        heartbeat: &W::Heartbeat,
    ) -> Result<Option<Outcome<W::Published>>> {
        let (store, work) = (&self.store, self.work);
        let found = self.fence(claim, lock, source).await?;
        if self.rules.mode == Mode::Repair {
            return self.put_back(claim, found, source, heartbeat).await.map(Some);
        }
        let other = found.leftover.is_some() && !found.is_same;
        let after = found.record.clone();
        match decide(found) {
            Decision::Keep(record) => return self.go_on(claim, record, source, heartbeat).await,
            Decision::Adopt { gives_up } => {
                if gives_up {
                    work.tell(Event::GivenUp);
                }
                return self.adopt(claim, heartbeat).await.map(Some);
            }
            Decision::Publish(leftover) => {
                work.tell(Event::Resumed { other });
                if let Some(outcome) = self.finish(claim, leftover, heartbeat).await? {
                    return Ok(Some(outcome));
                }
            }
            Decision::SeedAgain(_) => {
                work.tell(Event::Emptied);
                // What is sealed was published under that record. It goes first: alone it would pass for
                // a seed that has yet to be published.
                store.discard_sealed(claim).await?;
                // Else a kill while the new seed is published leaves the old record to vouch for it.
                store.retire_record(claim).await?;
            }
            Decision::Seed { gives_up: true } => {
                work.tell(Event::GivenUp);
                store.give_up_sealed(claim).await?;
            }
            Decision::Seed { gives_up: false } => {}
        }
        let source = source.take(work).await?;
        let staged = work.stage(claim, source, after.as_ref(), heartbeat).await?;
        let published = self.publish(claim, staged, heartbeat).await?;
        self.conclude(claim, published, heartbeat).await.map(Some)
    }

    /// Records what was published, and runs the hook that follows, where that is this image's.
    async fn conclude(
        &self,
        claim: &mut Claim<F::Dir>,
        published: W::Published,
        heartbeat: &W::Heartbeat,
    ) -> Result<Outcome<W::Published>> {
        let mut record = self.work.record(claim.epoch, &published);
        let public = self.store.complete(claim, PUBLISHING, &record).await?;
        if self.next(&public).await? == Next::Hook {
            self.settle(claim, public, false, heartbeat).await?;
            record.hook = None;
        }
        Ok(Outcome::Completed(record.into(), published))
    }

    /// Runs the hook that the volume is complete but for. Until it has succeeded the record says so, and no app starts.
    async fn settle(
        &self,
        claim: &mut Claim<F::Dir>,
        record: Public,
        again: bool,
        heartbeat: &W::Heartbeat,
    ) -> Result<Public> {
        // A hook cannot be fenced: who was frozen until now does not begin it beside another.
        if !self.store.holds(claim).await? {
            return Err(self.lost());
        }
        self.work.run_hook(claim, &record, again, heartbeat).await?;
        let settled = record.settled();
        self.store.renew(claim, &settled).await?;
        Ok(settled)
    }

    /// What follows on a volume that has a record.
    async fn go_on(
        &self,
        claim: &mut Claim<F::Dir>,
        record: Box<Public>,
        source: &mut SourceSlot<W::Source>,
        heartbeat: &W::Heartbeat,
    ) -> Result<Option<Outcome<W::Published>>> {
        match self.next(&record).await? {
            Next::Start => self.keep(record).await.map(Some),
            Next::Change => self.upgrade(claim, record, source, heartbeat).await.map(Some),
            Next::Hook => {
                let settled = self.settle(claim, *record, true, heartbeat).await?;
                Ok(Some(Outcome::Settled(settled.into())))
            }
            Next::Wait => Ok(None),
        }
    }

    /// Brings what is staged to its place.
    async fn publish(
        &self,
        claim: &Claim<F::Dir>,
        staged: W::Staged,
        heartbeat: &W::Heartbeat,
    ) -> Result<W::Published> {
        let (store, work) = (&self.store, self.work);
        let synced = work.sync(claim, staged).await?;
        let sealed = store.seal(claim, synced).await?;
        let publishing = store.begin_publishing(claim, sealed).await?;
        work.publish(claim, Whole::Ours(publishing.0), heartbeat).await
    }

    /// Records what was there before volseed. What is staged to complete it is no seed: nobody else publishes the
    /// rest of it, and after a kill the next holder looks again at what is missing.
    async fn adopt(&self, claim: &Claim<F::Dir>, heartbeat: &W::Heartbeat) -> Result<Outcome<W::Published>> {
        let (store, work) = (&self.store, self.work);
        let (record, staged) = work.stage_adoption(claim, heartbeat).await?;
        let (stage, published) = match staged {
            None => (STAGE, None),
            Some(staged) => {
                // Another image's, in the way of the seal.
                store.discard_sealed(claim).await?;
                (PUBLISHING, Some(self.publish(claim, staged, heartbeat).await?))
            }
        };
        let record = work.adopt(record).await?;
        store.complete(claim, stage, &record).await?;
        Ok(Outcome::Adopted(record.into(), published))
    }

    /// What is next for a volume with this record.
    pub(super) async fn next(&self, record: &Public) -> Result<Next> {
        match self.rules.mode {
            Mode::Seed => self.work.next(record).await,
            Mode::Wait if self.rules.needs_version => self.work.next(record).await,
            _ if !record.is_complete() => Ok(Next::Wait),
            Mode::Repair => Ok(Next::Change),
            Mode::Wait => Ok(Next::Start),
        }
    }

    /// Brings a complete volume to this image's version. Until its record is retired a kill, or an error, leaves it as
    /// it was: nothing is on it by then but the claim. From then on no app starts, and the next replica to claim it finishes it.
    async fn upgrade(
        &self,
        claim: &mut Claim<F::Dir>,
        record: Box<Public>,
        source: &mut SourceSlot<W::Source>,
        heartbeat: &W::Heartbeat,
    ) -> Result<Outcome<W::Published>> {
        let (store, work) = (&self.store, self.work);
        // What somebody sealed beside this record was published under it, or never.
        store.discard_sealed(claim).await?;
        let source = source.take(work).await?;
        let Some(staged) = work.stage_upgrade(claim, source, &record, heartbeat).await? else {
            return self.keep(record).await;
        };
        let synced = work.sync(claim, staged).await?;
        work.ask_before_upgrade(claim, &record, heartbeat).await?;
        let sealed = store.seal(claim, synced).await?;
        let publishing = store.begin_publishing(claim, sealed).await?;
        store.retire_record(claim).await?;
        let published = work.publish(claim, Whole::Ours(publishing.0), heartbeat).await?;
        self.conclude(claim, published, heartbeat).await
    }

    /// Puts back what is missing on a volume that stays complete all the while. Only what is staged here is moved: a
    /// holder that is fenced cannot move any more, as when it seeds. The public record gets the number of this claim,
    /// also where it failed: no other claim may ever have it.
    async fn put_back(
        &self,
        claim: &mut Claim<F::Dir>,
        found: Found,
        source: &mut SourceSlot<W::Source>,
        heartbeat: &W::Heartbeat,
    ) -> Result<Outcome<W::Published>> {
        let record = match found {
            Found { record: Some(record), is_emptied: false, .. } if record.is_complete() => record,
            _ => return Err(self.not_seeded()),
        };
        let restored = self.restore(claim, &record, source, heartbeat).await;
        if restored.is_err() && !self.store.holds(claim).await? {
            return restored.map(|done| Outcome::Repaired(Ok(done)));
        }
        self.store.renew(claim, &record).await?;
        Ok(Outcome::Repaired(restored))
    }

    /// The steps of a repair before its record.
    async fn restore(
        &self,
        claim: &Claim<F::Dir>,
        record: &Public,
        source: &mut SourceSlot<W::Source>,
        heartbeat: &W::Heartbeat,
    ) -> Result<Option<W::Published>> {
        let (store, work) = (&self.store, self.work);
        // What a seed left was published under that record.
        store.discard_sealed(claim).await?;
        let source = source.take(work).await?;
        match work.stage_repair(claim, source, record, heartbeat).await? {
            Some(staged) => self.publish(claim, staged, heartbeat).await.map(Some),
            None => Ok(None),
        }
    }

    /// The error for a volume that cannot be repaired.
    pub(super) fn not_seeded(&self) -> Error {
        let cause = "it is not completely seeded";
        Error::new(Exit::Refused, "repair volume", cause)
            .on(self.store.volume)
            .help("start the image on it: what is missing on a volume that is not complete is seeded")
    }

    /// No earlier holder can change the volume from here on; what is on it then.
    async fn fence(
        &self,
        claim: &mut Claim<F::Dir>,
        lock: Lock,
        source: &mut SourceSlot<W::Source>,
    ) -> Result<Found> {
        let (store, work) = (&self.store, self.work);
        let is_dead = |found: &crate::claims::store::FoundClaim<F::Dir>| {
            let beat = Beat::parse(&found.beat);
            expiry::is_confirmed_dead(self.rules.sharing, lock, self.seen(found, beat.as_ref()))
        };
        let fingerprint = async || Ok(work.fingerprint(source.open(work).await?));
        let leftover = store.fence(claim, is_dead, fingerprint).await?;
        work.tell(Event::Fenced(claim.epoch));
        store.check_private_place(claim).await?;
        let record = claim.record.take();
        let is_emptied = match &record {
            Some(record) => work.is_emptied(record).await?,
            None => false,
        };
        let is_same = match &leftover {
            Some(leftover) => leftover.staged.fingerprint == work.fingerprint(source.open(work).await?),
            None => false,
        };
        Ok(Found { record, is_emptied, leftover, is_same, has_sentinel: work.has_sentinel().await? })
    }

    /// The volume is complete by a record that was not there when we looked, before the claim.
    async fn keep(&self, record: Box<Public>) -> Result<Outcome<W::Published>> {
        if record.is_complete() && self.store.is_current(&record).await? {
            return Ok(Outcome::Found(record));
        }
        Err(self.lost())
    }

    fn lost(&self) -> Error {
        let cause = "another replica has taken over meanwhile";
        Error::new(Exit::Held, "look at volume", cause).on(self.store.state.path.as_path())
    }

    /// Publishes what an earlier holder sealed; nothing where somebody removed all of it before it could be
    /// recorded: then it is seeded again.
    async fn finish(
        &self,
        claim: &mut Claim<F::Dir>,
        leftover: Leftover,
        heartbeat: &W::Heartbeat,
    ) -> Result<Option<Outcome<W::Published>>> {
        let (store, work) = (&self.store, self.work);
        // What is left of an upgrade is nothing to begin an empty volume with.
        if let Some(before) = leftover.staged.before_upgrade(claim.epoch)
            && work.is_gone(&before).await?
        {
            work.tell(Event::Emptied);
            store.discard_sealed(claim).await?;
            return Ok(None);
        }
        let publishing = store.resume_publishing(claim, leftover).await?;
        let published = work.publish(claim, Whole::Earlier(publishing.0), heartbeat).await?;
        let record = work.record(claim.epoch, &published);
        if work.is_gone(&record).await? {
            work.tell(Event::Emptied);
            store.discard_sealed(claim).await?;
            return Ok(None);
        }
        self.conclude(claim, published, heartbeat).await.map(Some)
    }

    /// Removes the claim. On FUSE and NFS a waiter that reads our heartbeat just now is in the way for a
    /// moment.
    pub(super) async fn clear_up(&self, claim: &Claim<F::Dir>) {
        self.until_done(async || self.store.drop_claim(claim).await).await;
    }

    async fn until_done(&self, clean_up: impl AsyncFn() -> bool) {
        for _ in 0..MAX_CLEAN_UPS {
            if clean_up().await || self.clock.sleep(FIRST_PAUSE).await.is_err() {
                return;
            }
        }
    }

    /// Says that we are done with the volume, so that nobody waits for our heartbeat.
    async fn leave(&self, claim: &Claim<F::Dir>) {
        let beat = Beat { released: true, ..Beat::default() };
        let _ = self.store.files.update(&claim.dir, HEARTBEAT, &beat.bytes()).await;
        self.store.files.unlock().await;
    }
}
