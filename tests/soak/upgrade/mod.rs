//! Upgrades of a volume that a user has changed: killed at random moments, by replicas of both images
//! at once, and of real trees.

pub(crate) mod app;
pub(crate) mod hooks;
mod images;
mod judge;
pub(crate) mod kills;
pub(crate) mod races;
pub(crate) mod real;
mod replicas;
mod user;

use std::time::Duration;

use crate::kit::{Outcome, Volseed};

/// What is not broken has ended by then, also after a takeover without a lock, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(300);

/// Waits for its end.
#[track_caller]
fn settled(volseed: Volseed) -> Outcome {
    volseed.start().ends_within(LIMIT).unwrap_or_else(|said| panic!("not after {LIMIT:?}; it said:\n{said}"))
}
