//! Order, waiting and report: one run of volseed from the first look at its volumes to the last record.

pub(crate) mod acquire;
pub(crate) mod adoption;
pub(crate) mod answers;
pub(crate) mod control;
pub(crate) mod decision;
pub(crate) mod emptied;
pub(crate) mod events;
pub(crate) mod floors;
pub(crate) mod gate;
pub(crate) mod hook;
pub(crate) mod plan;
pub(crate) mod protocol;
pub(crate) mod repair;
pub(crate) mod report;
pub(crate) mod settings;
#[cfg(test)]
pub(crate) mod simulation;
pub(crate) mod status;
pub(crate) mod steps;
pub(crate) mod upgrade;
pub(crate) mod verify;
pub(crate) mod volumes;
pub(crate) mod waiting;
pub(crate) mod work;
