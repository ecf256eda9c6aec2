//! Whether the volume answers: what the log says once nothing has been finished for a while, and when that is over.
//!
//! Goes by the counters and the kernel's list of mounts, and touches no volume. Its own looks are counted and not
//! the time between them: a container that was paused does not take that for the volume's silence.

use std::time::Duration;

use crate::progress::{Phase, Progress, QUIET, seconds};
use crate::system::mounts::Mount;
use crate::text::rfc3339;
use crate::volume::FileSystem;
use crate::volume::records::now;

/// How often the counters are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct AnswerWatch {
    /// When anything last moved.
    moved: Duration,
    /// How often that was seen since.
    looks: u32,
    /// The volume that was told of.
    silent: Option<String>,
}

impl AnswerWatch {
    /// One look, [`LOOK_EVERY`] after the one before.
    pub(super) fn look(&mut self, progress: &Progress) {
        let moved = progress.moved();
        if moved != self.moved {
            if let Some(volume) = self.silent.take() {
                let seconds = seconds(moved.saturating_sub(self.moved));
                tracing::info!(volume, seconds, "the volume answers again");
            }
            (self.moved, self.looks) = (moved, 0);
        } else {
            self.looks += 1;
            if LOOK_EVERY * self.looks >= QUIET && self.silent.is_none() {
                self.silent = tell(progress);
            }
        }
    }
}

/// Says what is waited for, where that is the volume; its name then.
fn tell(progress: &Progress) -> Option<String> {
    let (phase, mount) = (progress.phase(), Mount::of(&progress.place()));
    let is_remote = || mount.as_ref().is_some_and(|mount| FileSystem::of_remote(&mount.kind).is_some());
    let is_waited_for = match phase {
        Phase::Checking | Phase::Seeding | Phase::Upgrading | Phase::Publishing => {
            !progress.waits_for_source()
        }
        // A disk may well take that long to write what it was given.
        Phase::Syncing => is_remote(),
        Phase::Waiting | Phase::Migrating | Phase::Complete | Phase::Failed => false,
    };
    if !is_waited_for {
        return None;
    }
    let (volume, mount) = (progress.volume(), mount.as_ref());
    tracing::warn!(
        volume,
        server = mount.and_then(Mount::server),
        mount = mount.map(|mount| &*mount.source),
        fstype = mount.map(|mount| &*mount.kind),
        phase = phase.name(),
        since = rfc3339(now().saturating_sub(progress.snapshot().stall_seconds)),
        "the volume has not answered for {} s: waiting for it",
        QUIET.as_secs()
    );
    Some(volume)
}
