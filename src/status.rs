//! `volseed status`: what the volume's state records, for people or as JSON. Changes nothing.

use std::fmt::Write;
use std::os::fd::AsFd;

use serde::Serialize;

use crate::config::VolumeConfig;
use crate::coordinate::{self, Holder};
use crate::error::Result;
use crate::seed;
use crate::state::{Complete, StateDir};
use crate::volume::Volume;

/// The state of one volume.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The volume's root.
    pub volume: String,
    /// `complete`, `seeding`, `publishing` or `unseeded`.
    pub state: &'static str,
    /// Where the sentinel is configured: whether it is there.
    pub sentinel: Option<bool>,
    /// The complete record.
    pub complete: Option<Complete>,
    /// Who claimed the volume last without completing it, alive or not.
    pub claim: Option<Holder>,
}

/// Looks at a volume. Blocks for as long as its file system does.
///
/// # Errors
/// Exit 73 when the volume cannot be opened, 78 when what is there is no state of ours.
pub fn status(config: &VolumeConfig) -> Result<Status> {
    let volume = Volume::open(&config.to)?;
    let state = StateDir::open(&volume)?;
    let complete = state.as_ref().map(StateDir::complete).transpose()?.flatten();
    let found = state.as_ref().map(coordinate::find).transpose()?.flatten();
    let sealed = found
        .as_ref()
        .zip(state.as_ref())
        .is_some_and(|(found, state)| seed::sealed(found.stage.as_fd(), state.path()).is_some());
    let name = match (&complete, &found) {
        (Some(_), _) => "complete",
        (None, Some(_)) if sealed => "publishing",
        (None, Some(_)) => "seeding",
        (None, None) => "unseeded",
    };
    let sentinel =
        config.sentinel.as_ref().map(|path| volume.find(path)).transpose()?.map(|found| found.is_some());
    Ok(Status {
        volume: config.to.display().to_string(),
        state: name,
        sentinel,
        complete,
        claim: found.and_then(|found| found.holder),
    })
}

/// For people: a few lines a volume.
pub fn text(statuses: &[Status]) -> String {
    let mut text = String::new();
    for status in statuses {
        let _ = writeln!(text, "{}: {}", status.volume, status.state);
        if let Some(record) = &status.complete {
            let totals = record.totals;
            let origin = format!("{:?}", record.origin).to_lowercase();
            let source = crate::error::printable(record.source.as_bytes());
            let finished = std::time::UNIX_EPOCH + std::time::Duration::from_secs(record.finished);
            let _ = writeln!(
                text,
                "  {origin}     {} from {source}",
                humantime::format_rfc3339_seconds(finished)
            );
            let _ = writeln!(
                text,
                "  holds      {} files, {} directories, {} links, {}",
                totals.files,
                totals.directories,
                totals.links,
                indicatif::HumanBytes(totals.bytes)
            );
            let _ = writeln!(text, "  epoch      {}, generation {}", record.epoch, record.generation);
        }
        if let Some(claim) = &status.claim {
            let since = std::time::UNIX_EPOCH + std::time::Duration::from_secs(claim.since);
            let _ = writeln!(
                text,
                "  claimed    by process {} on host {} since {}",
                claim.pid,
                claim.host,
                humantime::format_rfc3339_seconds(since)
            );
        }
        if let Some(sentinel) = status.sentinel {
            let _ = writeln!(text, "  sentinel   {}", if sentinel { "there" } else { "not there" });
        }
    }
    text
}
