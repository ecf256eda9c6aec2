//! One replica's way to a complete volume: acquire → fence → decide → stage → sync → seal → publish → record.
//!
//! Each step takes what the one before it returned. What a step does on a real volume is [`Work`]'s, what
//! replicas tell each other through directories is the [`ClaimStore`]'s; here is the order, and what follows when
//! another replica takes over. The calls are asynchronous for one reason: in the tests every one of them is a
//! point at which a replica may die ([`super::simulation`]). On a volume they block, and are ready at once.

use super::acquire::{Acquired, FIRST_PAUSE, LockState, Mode};
use super::decision::{Decision, Found, decide};
use super::gate::Next;
use super::steps::{Event, Outcome, Rules, SourceSlot, Whole, Work};
use crate::claims::beat::Beat;
use crate::claims::expiry::{self, Lock, Sharing};
use crate::claims::io::{Clock, Files};
use crate::claims::store::{Claim, ClaimStore, HEARTBEAT, Leftover, PUBLISHING, STAGE};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::volume::records::{Complete, Public, to_bytes};

/// How often what is left of a claim is removed before it is left where it is.
const MAX_CLEAN_UPS: u32 = 8;
/// How often a stage that others could enter is staged again. A volume plug-in opens one once; some CIFS mounts
/// (`modefromsid`) never say the mode that a directory was given.
const MAX_OPENED: u32 = 5;

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
        let mut source = SourceSlot::new();
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
        self.work.report(&record, &published);
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
