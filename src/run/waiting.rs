//! What a replica that waits remembers and says, and how long it pauses between two looks.

use std::time::Duration;

use super::acquire::{FIRST_PAUSE, Mode};
use super::protocol::Replica;
use super::steps::{Event, Work};
use crate::claims::beat::Beat;
use crate::claims::expiry::Watch;
use crate::claims::io::{Clock, Files};
use crate::claims::store::FoundClaim;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// The longest where a look costs nothing: what a waiter may lose against one that is told at once.
const LOCAL_PAUSE: Duration = Duration::from_millis(250);
/// The longest where a look costs round trips.
const REMOTE_PAUSE: Duration = Duration::from_millis(750);
/// First and longest pause of `wait`: the app beside it does not start a second later by it.
const WAIT_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The longest wait for another user to complete the volume, where `--wait-timeout` names none.
const OWNER_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What is remembered from look to look.
pub(super) struct Waiting<D> {
    pub(super) began: Duration,
    pub(super) pause: Duration,
    pub(super) watch: Watch,
    pub(super) looks: u32,
    /// Whether it was said that we wait for a holder, and for what only others can do.
    pub(super) is_told: bool,
    pub(super) is_told_outside: bool,
    /// The volume was complete, but is not yet at the version that is waited for.
    pub(super) is_outdated: bool,
    /// The state directory was open to others.
    pub(super) was_open: bool,
    /// The state directory that the lock is in.
    pub(super) inside: Option<D>,
    /// What was under the claim when we got the lock, to see whether it still moves.
    pub(super) at_lock: Option<(u64, Vec<u8>)>,
    /// The last claim that was released without a record, and its host.
    pub(super) failed: Option<(u64, String)>,
}

impl<D> Waiting<D> {
    /// Nothing was seen yet.
    pub(super) fn new(mode: Mode, now: Duration) -> Waiting<D> {
        Waiting {
            began: now,
            pause: if mode == Mode::Wait { WAIT_PAUSES.0 } else { FIRST_PAUSE },
            watch: Watch::default(),
            looks: 0,
            is_told: false,
            is_told_outside: false,
            is_outdated: false,
            was_open: false,
            inside: None,
            at_lock: None,
            failed: None,
        }
    }
}

impl<F: Files, C: Clock, W: Work<F>> Replica<'_, F, C, W> {
    /// Waits a moment for another replica to run the hook that the volume is complete but for.
    pub(super) async fn wait_for_hook(&self, waiting: &mut Waiting<F::Dir>) -> Result<()> {
        let over = || {
            let cause = "it is complete but for a hook, which no replica has run";
            let help = "start the image that the volume was made complete with, with its --hook; volseed status names what is owed. An older image takes the volume back with --rollback-from";
            (cause.to_owned(), help.to_owned())
        };
        self.wait_outside(Event::Pending, over, waiting).await
    }

    /// Waits a moment for what only others can do.
    pub(super) async fn wait_outside(
        &self,
        event: Event<'_>,
        over: impl Fn() -> (String, String),
        waiting: &mut Waiting<F::Dir>,
    ) -> Result<()> {
        let is_told = std::mem::replace(&mut waiting.is_told_outside, true);
        self.work.tell(if is_told { Event::WaitsUnseen } else { event });
        let waited = self.clock.now().saturating_sub(waiting.began);
        let longest = match self.rules.mode {
            Mode::Seed | Mode::Repair => Some(self.rules.timeout.unwrap_or(OWNER_PATIENCE)),
            Mode::Wait => self.rules.timeout,
        };
        if longest.is_some_and(|longest| waited >= longest) {
            let (cause, help) = over();
            return Err(Error::new(Exit::Held, "wait for volume", cause).on(self.store.volume).help(help));
        }
        self.clock.sleep(REMOTE_PAUSE).await.map_err(|_| Error::cancelled())
    }

    /// Says whom we wait for, and how far that is.
    pub(super) fn tell_of_holder(
        &self,
        found: Option<&FoundClaim<F::Dir>>,
        beat: Option<&Beat>,
        moved: bool,
        waiting: &mut Waiting<F::Dir>,
    ) {
        // It released the volume, and there is no record: a holder that has completed it leaves one.
        let released = found.filter(|_| beat.is_some_and(|beat| beat.released));
        if let Some(found) = released
            && waiting.failed.as_ref().is_none_or(|(epoch, _)| *epoch < found.epoch)
        {
            let host = found.holder.as_ref().map_or("?".into(), |holder| holder.host.to_string());
            self.work.tell(Event::HolderFailed(found.epoch, &host));
            waiting.failed = Some((found.epoch, host));
        }
        let found = found.filter(|_| released.is_none());
        if !std::mem::replace(&mut waiting.is_told, true) {
            let beat = beat.filter(|_| released.is_none());
            self.work.tell(Event::WaitBegan(found.and_then(|found| found.holder.as_ref()), beat));
        } else if found.is_none() && released.is_none() {
            self.work.tell(Event::WaitsUnseen);
        } else if moved {
            self.work.tell(Event::WaitGoes(beat));
        }
    }

    /// Until the next look.
    pub(super) async fn pause(&self, waiting: &mut Waiting<F::Dir>) -> Result<()> {
        let waited = self.clock.now().saturating_sub(waiting.began);
        if self.rules.timeout.is_some_and(|timeout| waited >= timeout) {
            return Err(self.timed_out(waiting));
        }
        let jitter = self.clock.random(waiting.pause.as_millis() as u64 / 4 + 1);
        let pause = waiting.pause - Duration::from_millis(jitter).min(waiting.pause);
        let rest = self.rules.timeout.map_or(pause, |timeout| pause.min(timeout.saturating_sub(waited)));
        self.clock.sleep(rest).await.map_err(|_| Error::cancelled())?;
        let longest = match self.rules.mode {
            Mode::Wait => WAIT_PAUSES.1,
            Mode::Seed | Mode::Repair if self.rules.remote => REMOTE_PAUSE,
            Mode::Seed | Mode::Repair => LOCAL_PAUSE,
        };
        waiting.pause = (waiting.pause * 3 / 2).min(longest);
        Ok(())
    }

    fn timed_out(&self, waiting: &Waiting<F::Dir>) -> Error {
        let (cause, help) = match (self.rules.mode, &waiting.failed) {
            (Mode::Seed | Mode::Repair, _) => (
                "another replica has held it for --wait-timeout".to_owned(),
                "start again, or allow a longer --wait-timeout",
            ),
            (Mode::Wait, None) if waiting.is_outdated => (
                "not upgraded within --wait-timeout".to_owned(),
                "is a container with this image, `volseed run` or `volseed seed`, and --upgrade at work on this volume?",
            ),
            (Mode::Wait, failed) => {
                let failed = failed
                    .as_ref()
                    .map(|(_, host)| format!(": the replica on host {host} ended without completing it"));
                (
                    format!("not seeded within --wait-timeout{}", failed.unwrap_or_default()),
                    "is another container with `volseed run` or `volseed seed` on this volume at work?",
                )
            }
        };
        Error::new(Exit::Held, "wait for volume", cause).on(self.store.volume).help(help)
    }
}
