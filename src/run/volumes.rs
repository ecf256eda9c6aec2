//! What is done with each volume of a run, one after the other: it is seeded, or waited for.
//!
//! Blocking, on a thread of its own: a volume may hang, and the health server must not wait for
//! it. Knows nothing of health, signals or the hand-over.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::acquire::Mode;
use super::protocol::Replica;
use super::report::log_exceptions;
use super::settings;
use super::steps::{Outcome, Rules};
use super::work::{Done, VolumeWork};
use crate::cancel::Cancel;
use crate::claims::disk::{BootClock, Disk};
use crate::claims::expiry::Sharing;
use crate::claims::io::block_on;
use crate::claims::locking::sharing;
use crate::claims::store::ClaimStore;
use crate::cli::config::VolumeConfig;
use crate::cli::values::LockMode;
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::system::mounts::Mount;
use crate::system::nfs;
use crate::volume::records::{Complete, Public};
use crate::volume::user::Owner;
use crate::volume::{Ourselves, Storage, Volume, user};

/// Makes sure that every volume is complete, or waits until it is. Blocks until they are.
///
/// # Errors
/// The first thing that went wrong; what was done until then stays, for the next run to resume. Exit 75 after
/// `--wait-timeout`.
pub(crate) fn complete(
    mode: Mode,
    volumes: &[VolumeConfig],
    progress: &Arc<Progress>,
    cancel: &Arc<Cancel>,
) -> Result<()> {
    for config in volumes {
        one(mode, config, progress, cancel).map_err(|error| explain(error, config, progress))?;
    }
    progress.enter(Phase::Complete);
    Ok(())
}

fn one(mode: Mode, config: &VolumeConfig, progress: &Arc<Progress>, cancel: &Arc<Cancel>) -> Result<()> {
    progress.set_volume(&config.to, config.to.clone());
    progress.enter(Phase::Checking);
    let volume = Volume::open(&config.to, config.state_dir.as_deref())?;
    if let Ok(place) = std::fs::read_link(format!("/proc/self/fd/{}", volume.root().as_raw_fd())) {
        progress.set_volume(&config.to, place);
    }
    // A server takes what `--chown` names for the group, too.
    let asked = |user: Owner| config.owner.filter(|asked| asked.0 == user.0).unwrap_or(user);
    user::work_as(volume.user().map(asked), || on(&volume, mode, config, progress, cancel))
}

/// The same for a volume that is open, by a thread that may write there.
fn on(
    volume: &Volume,
    mode: Mode,
    config: &VolumeConfig,
    progress: &Arc<Progress>,
    cancel: &Arc<Cancel>,
) -> Result<()> {
    warn(mode, config, volume);
    let rules = rules(mode, config, volume)?;
    let ourselves = if mode == Mode::Wait { Ourselves::onlooker() } else { Ourselves::new() };
    let disk = Disk::new(Arc::clone(&ourselves), rules.remote, Arc::clone(progress));
    let clock = BootClock { cancel };
    let mut work = VolumeWork::new(config, volume, ourselves, progress, cancel)?;
    work.only_waits = mode == Mode::Wait;
    let replica = Replica { store: ClaimStore::on(volume, &disk), clock: &clock, work: &work, rules };
    let path = volume.path().display();
    match block_on(replica.complete())? {
        Outcome::Found(record) | Outcome::Settled(record) => already_seeded(config, volume, &record),
        Outcome::Unrecorded(cause) => {
            tracing::info!(volume = %path, not_recorded = cause, "seeded before volseed");
        }
        Outcome::Adopted(record, completed) => adopted(config, &record, completed.as_ref()),
        Outcome::Repaired(done) => match done? {
            None => tracing::info!(volume = %path, "nothing to repair"),
            Some(done) => {
                log_exceptions(config, &done);
                done.repairs.iter().for_each(|repairs| repairs.report(volume.path()));
            }
        },
        Outcome::Completed(record, _) => settings::compare_private(config, &record),
    }
    Ok(())
}

/// What a server that did not answer in time leaves behind, where the mount gives up then.
fn explain(error: Error, config: &VolumeConfig, progress: &Progress) -> Error {
    let gave_up = matches!(error.errno(), Some(Errno::IO | Errno::TIMEDOUT));
    if gave_up
        && !error.is_below(&config.from)
        && Mount::of(&progress.place()).is_some_and(|mount| mount.gives_up())
    {
        return error.help(
            "mount the volume hard (nfs(5)): a soft mount gives up on a server that is slow or restarts, and what was written is lost",
        );
    }
    error
}

/// Says what of the settings may not do what was meant.
fn warn(mode: Mode, config: &VolumeConfig, volume: &Volume) {
    let used = &volume.state().path;
    if let Some(state_dir) = config.state_dir.as_deref().filter(|dir| dir != used) {
        tracing::warn!(state_dir = %state_dir.display(), used = %used.display(), "--state-dir is not used: the volume has its state in its root");
    }
    if mode == Mode::Seed && volume.is_container_layer() {
        let volume = config.to.display();
        tracing::warn!(%volume, "it is on the container's own layer: its data will be lost with the container; mount a volume there");
    }
}

fn rules(mode: Mode, config: &VolumeConfig, volume: &Volume) -> Result<Rules> {
    let kind = volume.kind()?;
    let sharing = match config.lock {
        LockMode::Auto => sharing(kind, nfs::mount_options(volume.root()).as_deref()),
        LockMode::Lease => Sharing::None("--lock lease"),
        LockMode::None => Sharing::None("--lock none"),
    };
    Ok(Rules {
        mode,
        sharing,
        alone: config.lock == LockMode::None,
        remote: !matches!(kind.place, Storage::Local | Storage::Memory),
        timeout: config.wait_timeout,
        needs_version: config.upgrade.is_asked(),
    })
}

fn adopted(config: &VolumeConfig, record: &Complete, completed: Option<&Done>) {
    let repairs = completed.and_then(|done| {
        log_exceptions(config, done);
        done.repairs.as_ref()
    });
    repairs.iter().for_each(|repairs| repairs.name_first());
    tracing::info!(
        volume = %config.to.display(),
        sentinel = config.sentinel.as_ref().map(|path| path.display().to_string()),
        version = record.version.as_ref().map(ToString::to_string),
        put_back = repairs.map(|repairs| repairs.plan.missing.len()),
        "adopted"
    );
}

fn already_seeded(config: &VolumeConfig, volume: &Volume, record: &Public) {
    settings::compare(config, volume, record);
    let files = record.totals.map(|totals| totals.files);
    tracing::info!(volume = %config.to.display(), epoch = record.epoch, files, "already seeded");
}
