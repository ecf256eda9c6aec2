//! What volseed does, seen from outside: every test starts the real binary.
//!
//! One binary, one file per capability, and a kit. Nothing here uses the library. Tests that need
//! root or a tool say so and pass where it is missing; where `CI` is set that is a failure.

#![allow(clippy::unwrap_used)]

#[path = "../kit/mod.rs"]
mod kit;

mod adoption;
mod answers;
mod archives_bounded;
mod archives_damaged;
mod archives_generated;
mod archives_refused;
mod archives_sparse;
mod asking;
mod backups;
mod balancers;
mod blocked_log;
mod candidates;
mod case;
mod chmod;
mod doctor;
mod emptied;
mod engine;
mod exclude;
mod existing;
mod fidelity;
mod forged;
mod grace;
mod handover;
mod health;
mod hooks;
mod hostile_claims;
mod hostile_mounts;
mod hostile_plants;
mod hostile_races;
mod hostile_records;
mod inheritance;
mod losses;
mod lost_writes;
mod manifest;
mod memory;
mod mounts;
mod mounts_resumed;
mod network;
mod options;
mod order;
mod owners;
mod records;
mod removal;
mod repair;
mod replicas;
mod resume;
mod served;
mod slowfs;
mod sockets;
mod sources;
mod space;
mod squash;
mod state_dir;
mod status;
mod stop;
mod supervise;
mod target;
mod twins;
mod upgrade;
mod upgrade_links;
mod version;
mod versions_awaited;
mod words;
