//! What volseed records on a volume.
//!
//! `state.json` tells every user that the volume is complete ([`Public`]), `record.json` tells its owner the
//! rest ([`Complete`]) and names the manifest ([`ManifestRef`]), and `stage.json` is in each stage ([`Staged`]). What follows from a record is for others
//! to say.

pub(crate) mod file;
pub(crate) mod manifest;
pub(crate) mod public;
pub(crate) mod record;
pub(crate) mod stage;

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(crate) use file::{Access, close, from_bytes, read_whole, to_bytes, write_whole};
pub(crate) use manifest::{ManifestRef, Unkept};
pub(crate) use public::Public;
pub(crate) use record::{Complete, HookEvent, Owed, Settings};
pub(crate) use stage::{Durability, Root, Sealed, Staged, UpgradeSeal};

use super::user;
use crate::error::Result;
use crate::text;

/// The name of the directory of everything of ours, where no other is given.
pub(crate) const DIRECTORY: &str = ".volseed";

/// Where replaced files of users are kept, in the state directory.
pub(crate) const OLD: &str = "old";

/// Where files of a new seed are that an upgrade left out, in the state directory.
pub(crate) const NEW: &str = "new";

/// Where a stage has what an upgrade took from its place on the volume.
pub(crate) const ASIDE: &str = "aside";

/// Where a stage has what a new seed offers and the volume does not take.
pub(crate) const OFFERED: &str = "offered";

/// The staged tree's name in a stage.
pub(crate) const TREE: &str = "tree";

/// The layout of the records that this volseed writes and reads.
pub(crate) const FORMAT: u32 = 2;

/// How many top-level names a record lists. More say nothing more about whether they are still there.
pub(crate) const TOP_LISTED: usize = 256;

/// A file name in JSON: text where it is UTF-8, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Name {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Name {
    /// The name's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Text(text) => text.as_bytes(),
            Name::Bytes(bytes) => bytes,
        }
    }
}

/// On one line, and cut where it is longer than a name.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::shown(self.as_bytes()))
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Name {
        match std::str::from_utf8(bytes) {
            Ok(text) => Name::Text(text.to_owned()),
            Err(_) => Name::Bytes(bytes.to_owned()),
        }
    }
}

/// How a volume came to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// By volseed.
    Seeded,
    /// Before volseed: its sentinel was there.
    Adopted,
}

/// What a seed held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Regular files, without further links to them.
    pub files: u64,
    /// Directories, without the root.
    pub directories: u64,
    /// Symbolic and hard links, and FIFOs.
    pub links: u64,
    /// Bytes of file data.
    pub bytes: u64,
}

/// Seconds since 1970, for people: nothing is decided by it.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// This boot of this kernel, where the kernel says (proc(5), `/proc/sys/kernel/random/boot_id`).
pub(crate) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// What may help a user who may not enter the state: a `chmod -R`, or a restored backup, took away that everybody may
/// read what says that the volume is complete.
pub(crate) fn opened_to_us<T>(opened: Result<T>) -> Result<T> {
    opened.map_err(|error| match error.errno() {
        Some(Errno::ACCESS) if !user::is_root() => error.help(
            "run volseed as the owner of .volseed (often root, with --user for the app), or let that owner open it: chmod 755 .volseed, and 644 for the state.json in it",
        ),
        _ => error,
    })
}
