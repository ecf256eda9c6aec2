//! Health: the server that answers while volumes are seeded, and the client that asks it.
//!
//! Both know the progress and the configuration, never the volume.

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod container;
pub(crate) mod endpoint;
pub(crate) mod listen;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod proxy;
pub(crate) mod server;

/// The `Server` header of every answer: how the client tells ours from the app's.
pub(crate) const SERVER: &str = "volseed";
