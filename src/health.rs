//! Health: the server that answers while volumes are seeded, and the client that asks it.
//!
//! Both know the progress and the configuration, never the volume.

pub mod admin;
pub mod client;
mod container;
pub mod listen;
mod metrics;
pub mod page;
mod proxy;
pub mod server;

/// The `Server` header of every answer: how the client tells ours from the app's.
pub const SERVER: &str = "volseed";
