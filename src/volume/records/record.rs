//! The private record, `record.json`: all that is known of a complete volume, for its owner alone.
//!
//! It says nothing without the public record beside it, which names it by its digest.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::from_bytes;
use super::{FORMAT, ManifestRef, Name, Origin, TOP_LISTED, Totals, now};
use crate::error::Result;
use crate::text::Untrusted;

/// The options that a seed was made with and that a complete volume ignores, by name. A name that is not there
/// was not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Settings(pub BTreeMap<String, Untrusted>);

impl Settings {
    /// The names of all settings, in the order in which a warning names them.
    pub(crate) const NAMES: [&str; 5] = ["chown", "chmod", "exclude", "source", "archive"];

    /// With one more, where it is given.
    pub(crate) fn with(mut self, name: &str, value: Option<String>) -> Settings {
        self.0.extend(value.map(|value| (name.to_owned(), value.into())));
        self
    }

    /// The value of one.
    pub(crate) fn value(&self, name: &str) -> Option<&Untrusted> {
        self.0.get(name)
    }

    /// Whether `other` must be the same for two seeds to be the same. What a source and its archive look like is
    /// not known to everybody who asks.
    pub(crate) fn is_optional(name: &str) -> bool {
        matches!(name, "source" | "archive")
    }
}

/// When a hook runs, by the word that it is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HookEvent {
    /// After a seed.
    PostSeed,
    /// Before an upgrade, which it may refuse.
    PreUpgrade,
    /// After it.
    PostUpgrade,
}

impl HookEvent {
    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            HookEvent::PostSeed => "post-seed",
            HookEvent::PreUpgrade => "pre-upgrade",
            HookEvent::PostUpgrade => "post-upgrade",
        }
    }
}

/// A hook that follows a seed or an upgrade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Owed {
    /// Which it is.
    pub event: HookEvent,
    /// The version that the volume was at before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Untrusted>,
}

/// `record.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Complete {
    /// Layout of this record.
    pub format: u32,
    /// How often this volume was seeded or upgraded, from 1.
    pub generation: u64,
    /// The version of the seed, where it is known.
    pub version: Option<Untrusted>,
    /// The versions that it was upgraded from, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Untrusted>,
    /// The claim that completed it.
    pub epoch: u64,
    /// How it came to be complete.
    pub origin: Origin,
    /// Where the seed came from; nothing of an adopted volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// The options that it was made with.
    #[serde(default)]
    pub settings: Settings,
    /// What the seed held, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
    /// What lists every entry of the seed; nothing where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestRef>,
    /// Top-level names of the seed; at least one of them is there on a volume that nobody emptied.
    pub top: Vec<Name>,
    /// When it was completed, in seconds since 1970, for people.
    pub finished: u64,
    /// The volseed that wrote this.
    pub volseed: Untrusted,
    /// The hook that follows. While the public record says `pending` it has yet to succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<Owed>,
}

impl Complete {
    /// The record's name in the state directory.
    pub(crate) const FILE: &str = "record.json";

    /// A record of this volseed's, of a seed.
    pub(crate) fn seeded(epoch: u64, generation: u64, version: Option<String>, totals: Totals) -> Complete {
        Complete { totals: Some(totals), generation, ..Complete::new(Origin::Seeded, epoch, version) }
    }

    /// A record of this volseed's, of a volume that was there before.
    pub(crate) fn adopted(epoch: u64, version: Option<String>) -> Complete {
        Complete::new(Origin::Adopted, epoch, version)
    }

    /// With its top-level names.
    pub(crate) fn holding(mut self, mut top: Vec<Name>) -> Complete {
        top.truncate(TOP_LISTED);
        self.top = top;
        self
    }

    fn new(origin: Origin, epoch: u64, version: Option<String>) -> Complete {
        Complete {
            format: FORMAT,
            generation: 1,
            version: version.map(Untrusted::from),
            before: Vec::new(),
            epoch,
            origin,
            source: None,
            settings: Settings::default(),
            totals: None,
            manifest: None,
            top: Vec::new(),
            finished: now(),
            volseed: env!("CARGO_PKG_VERSION").to_owned().into(),
            hook: None,
        }
    }

    /// Reads a record from its bytes; `path` is for messages.
    ///
    /// # Errors
    /// Exit 78 when they are no record of this layout.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Complete> {
        from_bytes(bytes, path)
    }
}
