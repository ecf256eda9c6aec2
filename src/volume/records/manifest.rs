//! What a record says of the manifest beside it: enough to tell whether it is whole, and how to read it.

use serde::{Deserialize, Serialize};

use crate::text::Untrusted;

/// A manifest as its record names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ManifestRef {
    /// Of its bytes.
    pub digest: Untrusted,
    /// Its length.
    pub bytes: u64,
    /// What the volume did not keep of what it lists.
    #[serde(default, skip_serializing_if = "Unkept::is_nothing")]
    pub unkept: Unkept,
}

/// Attributes that a volume did not keep, or that were not asked of it: they are not compared with a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unkept {
    /// Owners and groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owners: bool,
    /// Modes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub modes: bool,
    /// Times.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub times: bool,
}

impl Unkept {
    fn is_nothing(&self) -> bool {
        *self == Unkept::default()
    }
}

impl ManifestRef {
    /// Its name in a stage.
    pub(crate) const STAGED: &str = "manifest";
    /// The name in a stage of what lists the part of a seed that is in it.
    pub(crate) const PART: &str = "part";

    /// How its name in the state directory begins.
    pub(crate) const PREFIX: &str = "manifest-";

    /// Its name in the state directory, once the volume has this generation.
    pub(crate) fn name(generation: u64) -> String {
        format!("{}{generation}", ManifestRef::PREFIX)
    }
}
