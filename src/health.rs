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

use tokio::runtime::{Builder, Runtime};

use crate::error::{Context, Result};
use crate::exit::Exit;

/// A runtime on the calling thread.
///
/// # Errors
/// Exit 71 when it cannot be had.
pub(crate) fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("start", "runtime").map_err(|error| error.exit(Exit::System))
}

/// The `Server` header of every answer: how the client tells ours from the app's.
pub(crate) const SERVER: &str = "volseed";
