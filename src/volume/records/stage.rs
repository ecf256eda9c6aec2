//! What a stage says of itself: what of it may be trusted, and once it is sealed, what it will be.

use std::os::fd::BorrowedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{from_bytes, read_whole, write};
use super::{Complete, FORMAT, HookEvent, ManifestRef, Name, Owed, Settings, Totals, boot_id};
use crate::error::Result;
use crate::text::Untrusted;

/// `stage.json`, beside the staged tree: what of it may be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// Layout of this record.
    pub format: u32,
    /// What the volume's generation will be when this is complete.
    pub generation: u64,
    /// The boot that everything unsynced was written under.
    pub boot: Option<String>,
    /// The mount that it was written through, where the kernel has a number for it that never comes again.
    pub mount: Option<u64>,
    /// What the source looked like: a stage of another one is worth nothing.
    pub fingerprint: String,
    /// Whether the volume held nothing when the seed began: its root then becomes the seed's.
    pub empty: bool,
    /// Set before a sync is asked for. Where it is still set, the sync's answer is not known: an error is
    /// reported once (syncfs(2)), and the kernel does not write those pages again.
    pub syncing: bool,
    /// Set once the whole tree is staged and synced; from here on only publishing is left.
    pub sealed: Option<Sealed>,
}

/// When a staged file with the right size and time is sure to hold its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// At once: a server said so before the time was set.
    ByServer,
    /// While the kernel runs: nothing that it does later can report a loss.
    WhileUp,
    /// Once a sync has said so; until then while the kernel runs and the volume stays mounted, since the next
    /// sync through this mount still reports an error that was reported to no other.
    BySync,
}

/// A stage that is whole and durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// What the volume's generation will be.
    pub generation: u64,
    /// The version of the seed, where `--seed-version` said it.
    pub version: Option<String>,
    /// What the seed held.
    pub totals: Totals,
    /// The options that it was made with.
    #[serde(default)]
    pub settings: Settings,
    /// Where it came from.
    #[serde(default)]
    pub source: Option<Name>,
    /// Its top-level names, the first of them at least.
    pub top: Vec<Name>,
    /// What lists every entry of it, beside its tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestRef>,
    /// Whether it only puts back what is missing on a complete volume: it is no seed, and nobody else finishes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repairs: bool,
    /// Whether the image that staged it has a hook to run once it is published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hook: bool,
    /// What the volume's root becomes, where it was empty and the seed says.
    pub root: Option<Root>,
    /// What it is an upgrade from, where it holds only what differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Box<UpgradeSeal>>,
}

/// All that the replica that finishes an upgrade has to know: for every replica the same follows for every entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpgradeSeal {
    /// The generation that it upgrades.
    pub generation: u64,
    /// What lists the seed of that.
    pub manifest: Option<ManifestRef>,
    /// The version of that, where it is known.
    pub from: Option<Untrusted>,
    /// The versions that the volume was at before, as its record will list them.
    pub before: Vec<Untrusted>,
    /// Top-level names of that generation: where none of them is left, the volume was emptied meanwhile.
    pub top: Vec<Name>,
    /// `--keep`.
    pub keep: Vec<String>,
    /// `--protect`.
    pub protect: Vec<String>,
    /// Directories of `--keep` in which the user had changed something.
    pub held: Vec<Name>,
    /// `--sentinel`, which is put in place last.
    pub sentinel: Option<Name>,
}

/// Owner, mode and time of the seed's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    /// Whether `--chown` asks for this owner: a root that is neither its nor root's then stays as it is.
    #[serde(default)]
    pub asked: bool,
    /// UID.
    pub uid: u32,
    /// GID.
    pub gid: u32,
    /// Permission bits, where the seed says.
    pub mode: Option<u32>,
    /// Modification time, seconds and nanoseconds since 1970; `None` where times are not set.
    pub mtime: Option<(i64, u32)>,
}

impl Sealed {
    /// The hook that follows once it is published, where one does.
    pub(crate) fn owes(&self) -> Option<Owed> {
        let upgrade = self.upgrade.as_ref();
        let event = if upgrade.is_some() { HookEvent::PostUpgrade } else { HookEvent::PostSeed };
        self.hook.then(|| Owed { event, from: upgrade.and_then(|upgrade| upgrade.from.clone()) })
    }
}

impl Staged {
    /// The record's name in the stage.
    pub(crate) const FILE: &str = "stage.json";

    /// The record of a stage that is begun now, through this mount.
    pub(crate) fn new(generation: u64, fingerprint: String, empty: bool, mount: Option<u64>) -> Staged {
        let boot = boot_id();
        Staged { format: FORMAT, generation, boot, mount, fingerprint, empty, syncing: false, sealed: None }
    }

    /// Reads the record of a stage from its bytes; what is none of this layout says nothing.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Staged> {
        from_bytes(bytes, Path::new(Staged::FILE)).ok()
    }

    /// Reads the record of a stage, where it has one of this layout.
    pub(crate) fn read(stage: BorrowedFd<'_>) -> Option<Staged> {
        Staged::parse(&read_whole(stage, Staged::FILE).ok()?)
    }

    /// Writes the record; it is durable on return.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn write(&self, stage: BorrowedFd<'_>, path: &Path) -> Result<()> {
        write(stage, Staged::FILE, self, path)
    }

    /// Whether it is sealed, and holds what an upgrade needs.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.upgrade.is_some())
    }

    /// Where it is an upgrade: a record of what the volume holds, half upgraded or not.
    pub(crate) fn before_upgrade(&self, epoch: u64) -> Option<Complete> {
        let sealed = self.sealed.as_ref()?;
        let upgrade = sealed.upgrade.as_ref()?;
        let top = upgrade.top.iter().chain(&sealed.top).cloned().collect();
        Some(Complete { top, ..Complete::adopted(epoch, None) })
    }

    /// Why what was staged may not be continued by the run that would begin `new`; `None` where it may: it is
    /// the same seed, and every file that looks whole is.
    pub(crate) fn distrusted_by(&self, new: &Staged, kept: Durability) -> Option<&'static str> {
        let same_kernel = self.boot.is_some() && self.boot == new.boot;
        let same_mount = self.mount.is_some() && self.mount == new.mount;
        let is_unheard = self.syncing;
        if self.fingerprint != new.fingerprint {
            return Some("the source or the options are others");
        }
        match kept {
            Durability::ByServer => None,
            Durability::WhileUp | Durability::BySync if !same_kernel => {
                Some("the machine was started again since")
            }
            Durability::WhileUp => None,
            Durability::BySync if !same_mount => Some("it was staged through another mount and not synced"),
            Durability::BySync if is_unheard => Some("whether its sync kept everything is not known"),
            Durability::BySync => None,
        }
    }
}
