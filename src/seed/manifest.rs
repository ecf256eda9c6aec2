//! The manifest: what a seed put on a volume, entry by entry, as text.
//!
//! Written while a tree is staged, sealed with it, and read when the volume is compared with it. A line is an entry;
//! lines of one directory stand together in blocks, of which a directory may have several. What a later line says of a
//! name counts. docs/manifest.md describes the format.

pub(crate) mod compare;
pub(crate) mod digest;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
pub(crate) mod line;
pub(crate) mod read;
pub(crate) mod repair;
pub(crate) mod verify;
pub(crate) mod wants;
pub(crate) mod write;
