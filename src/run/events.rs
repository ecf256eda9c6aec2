//! What happens between replicas, as the log and the health answers tell it. Decides nothing.

use std::path::{Display, Path};

use super::steps::Event;
use crate::claims::beat::{Beat, Holder};
use crate::progress::{Phase, Progress, seconds};
use crate::text::{Untrusted, rfc3339};

/// Tells of an event on `volume`.
pub(super) fn tell(event: &Event<'_>, volume: &Path, progress: &Progress) {
    match event {
        Event::WaitBegan(holder, beat) => {
            progress.wait_for(host(*holder));
            progress.enter(Phase::Waiting);
            follow(*beat, progress);
        }
        Event::WaitGoes(beat) => follow(*beat, progress),
        // A seeding replica may start at any time: nothing stalls.
        Event::WaitsUnseen => progress.touch(),
        Event::WaitsForOwner(_) | Event::Pending => progress.enter(Phase::Waiting),
        Event::WaitEnded(_) => progress.enter(Phase::Checking),
        Event::HolderFailed(..) => progress.wait_for(None),
        Event::TookOver(..) => progress.took_over(),
        _ => {}
    }
    log(event, volume);
}

fn log(event: &Event<'_>, volume: &Path) {
    let volume = volume.display();
    match event {
        Event::WaitBegan(holder, beat) => log_wait(volume, *holder, *beat),
        Event::WaitGoes(_) | Event::WaitsUnseen => {}
        Event::WaitEnded(time) => tracing::info!(seconds = seconds(*time), "waited"),
        Event::TookOver(epoch, holder) => {
            let (host, container) = (host(*holder), container(*holder));
            tracing::info!(%volume, epoch, host, container, "taking over");
        }
        Event::Fenced(epoch) => tracing::debug!(epoch, "claimed"),
        Event::Resumed { other: false } => {
            tracing::info!(%volume, "publishing what an earlier run staged");
        }
        Event::HolderFailed(epoch, host) => {
            tracing::warn!(%volume, host, epoch, "the last replica that held it ended without completing it: waiting for another");
        }
        Event::NotShared(reason) => {
            tracing::warn!(%volume, reason, "the lock does not keep other replicas out: going by heartbeats alone");
        }
        Event::Lost(epoch, cause) => {
            tracing::warn!(%volume, epoch, %cause, "lost the volume to another replica: waiting for it");
        }
        Event::Resumed { other: true } => {
            tracing::warn!(%volume, "another image's seed is half published: it is completed, and this image's is not made");
        }
        Event::GivenUp => {
            tracing::warn!(%volume, "another image had staged its seed and published nothing of it: given up");
        }
        Event::Foreign(uid) => {
            tracing::warn!(%volume, uid, "its .volseed belonged to another user: taken over, nothing staged in it is used");
        }
        Event::WaitsForOwner(uid) => {
            tracing::warn!(%volume, uid, "its .volseed belongs to another user, which has yet to complete it: waiting");
        }
        Event::Opened(epoch, cause) => {
            tracing::warn!(%volume, epoch, %cause, "owner or mode of the stage was changed while it was filled: staging it again");
        }
        Event::Pending => {
            tracing::warn!(%volume, "complete but for a hook of another image: waiting for a replica of that one (volseed status names it; --rollback-from takes the volume back)");
        }
        Event::Emptied => tracing::warn!(%volume, "it was seeded and then emptied; it is seeded again"),
    }
}

fn log_wait(volume: Display<'_>, holder: Option<&Holder>, beat: Option<&Beat>) {
    let (host, container) = (host(holder), container(holder));
    let (pid, epoch) = (holder.map(|holder| holder.pid), holder.map(|holder| holder.epoch));
    let since = holder.map(|holder| rfc3339(holder.since));
    let files = beat.map(|beat| beat.counts.files);
    tracing::info!(%volume, host, container, pid, epoch, since, files, "waiting for another replica");
}

fn host(holder: Option<&Holder>) -> Option<String> {
    holder.map(|holder| holder.host.to_string())
}

fn container(holder: Option<&Holder>) -> Option<String> {
    holder.and_then(|holder| holder.container.as_ref()).map(Untrusted::to_string)
}

fn follow(beat: Option<&Beat>, progress: &Progress) {
    if let Some(beat) = beat {
        progress.follow(&beat.counts);
    }
}
