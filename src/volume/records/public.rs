//! The public record, `state.json`: that the volume is complete, for every user of it.
//!
//! Who may read the volume may be anybody, a web server's visitors included. So it has counts, and digests of
//! names, versions and options under a random salt: who knows a value can compare it, and who can guess one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::from_bytes;
use super::{Complete, FORMAT, Name, Origin, TOP_LISTED, Totals};
use crate::error::Result;
use crate::text::Untrusted;
use crate::volume::random;

/// Whether an app may start on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Readiness {
    /// It may.
    Complete,
    /// Only once a hook has run.
    Pending,
}

/// The first 64 bits of a salted BLAKE3 digest, as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(u64);

impl From<Digest> for String {
    fn from(Digest(number): Digest) -> String {
        format!("{number:016x}")
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Digest, &'static str> {
        let digest = u64::from_str_radix(&text, 16).map(Digest).map_err(|_| "no digest")?;
        if String::from(digest) == text { Ok(digest) } else { Err("no digest") }
    }
}

/// What digests are made under, so that the same value has another one on every volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Salt(String);

impl Salt {
    fn new() -> Salt {
        Salt(format!("{:016x}{:016x}", random(), random()))
    }

    /// The digest of a value of this kind.
    pub(crate) fn digest(&self, kind: &str, value: &[u8]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for part in [self.0.as_bytes(), kind.as_bytes(), value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        Digest(u64::from_be_bytes(first))
    }
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Public {
    /// Layout of this record.
    pub format: u32,
    /// Whether an app may start.
    pub state: Readiness,
    /// How it came to be complete.
    pub origin: Origin,
    /// The claim that completed it, or that changed it last.
    pub epoch: u64,
    /// How often this volume was seeded or upgraded, from 1.
    pub generation: u64,
    /// What the seed held, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
    /// One top-level name as it is: while it is there, the volume was not emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<Name>,
    /// What the digests are made under.
    pub salt: Salt,
    /// Of the top-level names.
    pub top: Vec<Digest>,
    /// Of the version, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Digest>,
    /// Of the versions before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Digest>,
    /// Of the options that it was made with.
    #[serde(default)]
    pub settings: BTreeMap<String, Digest>,
    /// Of the private record's bytes.
    pub record: Digest,
}

impl Public {
    /// The record's name in the state directory.
    pub(crate) const FILE: &str = "state.json";

    /// What everybody may know of `record`, which is written as `bytes`.
    pub(crate) fn of(record: &Complete, bytes: &[u8]) -> Public {
        let salt = Salt::new();
        let version = |version: &Untrusted| salt.digest("version", version.raw().as_bytes());
        let settings = &record.settings.0;
        Public {
            format: FORMAT,
            state: if record.hook.is_some() { Readiness::Pending } else { Readiness::Complete },
            origin: record.origin,
            epoch: record.epoch,
            generation: record.generation,
            totals: record.totals,
            present: record.top.first().cloned(),
            top: record.top.iter().map(|name| salt.digest("top", name.as_bytes())).collect(),
            version: record.version.as_ref().map(version),
            before: record.before.iter().map(version).collect(),
            settings: settings
                .iter()
                .map(|(name, value)| (name.clone(), salt.digest(name, value.raw().as_bytes())))
                .collect(),
            record: salt.digest("record", bytes),
            salt,
        }
    }

    /// Reads a record from its bytes; `path` is for messages.
    ///
    /// # Errors
    /// Exit 78 when they are no record of this layout.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Public> {
        let mut record: Public = from_bytes(bytes, path)?;
        record.top.truncate(TOP_LISTED);
        Ok(record)
    }

    /// Whether an app may start, as far as this record tells.
    pub(crate) fn is_complete(&self) -> bool {
        self.state == Readiness::Complete
    }

    /// The same once its hook has run, for everything that is written of it.
    pub(crate) fn settled(self) -> Public {
        Public { state: Readiness::Complete, ..self }
    }

    /// Whether a top-level entry of the volume is one of the seed's.
    pub(crate) fn lists(&self, name: &[u8]) -> bool {
        self.top.contains(&self.salt.digest("top", name))
    }

    /// Whether these are the bytes of the private record that belongs to this one.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        self.record == self.salt.digest("record", bytes)
    }

    /// Whether it is of the same version as an image, which may know none.
    pub(crate) fn is_at(&self, version: Option<&str>) -> bool {
        version.map_or(self.version.is_none(), |version| self.has_version(version))
    }

    /// Whether this is `earlier`, or was written in its place by a claim that left the seed's record as it is.
    pub(crate) fn renews(&self, earlier: &Public) -> bool {
        (&self.salt, self.record) == (&earlier.salt, earlier.record)
    }

    /// Whether the volume is of this version.
    pub(crate) fn has_version(&self, version: &str) -> bool {
        self.version == Some(self.salt.digest("version", version.as_bytes()))
    }

    /// Whether this option had this value.
    pub(crate) fn has_setting(&self, name: &str, value: Option<&Untrusted>) -> bool {
        let digest = value.map(|value| self.salt.digest(name, value.raw().as_bytes()));
        self.settings.get(name) == digest.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_record_tells_values_apart_and_names_none() {
        let record = Complete::adopted(3, Some("1.2.3".into()))
            .holding(["index.php", "secret"].map(|name| Name::from(name.as_bytes())).to_vec());
        let public = Public::of(&record, b"bytes");
        assert!(public.has_version("1.2.3") && !public.has_version("1.2.4"));
        assert!(public.lists(b"secret") && !public.lists(b"other"));
        assert!(public.is_of(b"bytes") && !public.is_of(b"byte"));
        let text = serde_json::to_string(&public).unwrap();
        assert!(!text.contains("secret") && !text.contains("1.2.3"), "{text}");
        assert_ne!(public.salt, Public::of(&record, b"bytes").salt);
    }

    #[test]
    fn digests_are_read_only_as_they_are_written() {
        let digest = |text: &str| Digest::try_from(text.to_owned());
        assert_eq!(digest("00000000000000ff"), Ok(Digest(255)));
        for text in ["ff", "+0000000000000ff", "00000000000000FF", "", "0000000000000000ff"] {
            assert!(digest(text).is_err(), "{text:?}");
        }
    }
}
