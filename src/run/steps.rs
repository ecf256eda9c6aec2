//! What a replica of the protocol is made of: the steps on its volume, what they tell, and how replicas agree.
//!
//! [`Work`] is what the protocol asks of a volume. On a real one it is [`super::work`]'s, in the tests that of
//! [`super::simulation`]. Nothing here knows in which order the steps come.

use std::time::Duration;

use super::acquire::Mode;
use super::gate::Next;
use crate::claims::beat::{Beat, Holder};
use crate::claims::expiry::Sharing;
use crate::claims::io::Files;
use crate::claims::store::Claim;
use crate::error::{Error, Result};
use crate::volume::records::{Complete, Public, Staged};

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
    /// Says what was done, before any hook that follows is run: the log has it also where that fails.
    fn report(&self, record: &Complete, published: &Self::Published);
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
    /// Not opened yet.
    pub(super) fn new() -> SourceSlot<S> {
        SourceSlot { opened: None, is_used: false }
    }

    /// The source, open.
    pub(super) async fn open<F: Files, W: Work<F, Source = S>>(&mut self, work: &W) -> Result<&S> {
        if self.opened.is_none() {
            self.opened = Some(work.open_source(self.is_used).await?);
        }
        Ok(self.opened.as_ref().expect("it was opened just now"))
    }

    /// The source, to be read to its end.
    pub(super) async fn take<F: Files, W: Work<F, Source = S>>(&mut self, work: &W) -> Result<S> {
        self.open(work).await?;
        self.is_used = true;
        Ok(self.opened.take().expect("it was opened just now"))
    }
}
