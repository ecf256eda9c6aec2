//! What replicas tell each other: whose a claim is, and its heartbeat.

use serde::{Deserialize, Serialize};

use crate::progress::Counts;
use crate::text::Untrusted;

/// Bytes of a heartbeat: one write, whole or not at all on every file system that we know.
const BEAT_BYTES: usize = 256;

/// `claim.json`: who claimed the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Layout of this record.
    pub format: u32,
    /// Number of the claim, from 1.
    pub epoch: u64,
    /// Tells this claim from every other one.
    pub nonce: String,
    /// Host name.
    pub host: Untrusted,
    /// The container's id, where it can be told.
    pub container: Option<Untrusted>,
    /// Process number in its own namespace.
    pub pid: u32,
    /// Seconds since 1970, for people.
    pub since: u64,
    /// The boot of the kernel that it runs on.
    pub boot: Option<String>,
    /// The volume's device number on that kernel.
    pub device: u64,
    /// Whether it holds the lock.
    pub locked: bool,
}

/// The heartbeat: changes with every beat, and says how far the holder is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Raised with every beat.
    pub count: u64,
    /// How much is done.
    #[serde(flatten)]
    pub counts: Counts,
    /// The holder has released the volume cleanly, and touches nothing any more.
    #[serde(default, rename = "left")]
    pub released: bool,
}

impl Beat {
    /// As it is written: always of the same length, so that no rest of an older one remains.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a heartbeat has string keys only");
        bytes.resize(BEAT_BYTES.max(bytes.len() + 1) - 1, b' ');
        bytes.push(b'\n');
        bytes
    }

    /// What can be read of it; one that is torn counts as a beat that says nothing.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Beat> {
        serde_json::from_slice(bytes).ok()
    }
}
