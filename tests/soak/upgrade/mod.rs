//! Upgrades of a volume that a user has changed: killed at random moments.

mod images;
mod judge;
pub(crate) mod kills;
