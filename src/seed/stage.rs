//! The stage: what is made of a source before any of it is on the volume.

pub(crate) mod case;
pub(crate) mod common;
pub(crate) mod dir;
pub(crate) mod dir_cache;
pub(crate) mod durable;
pub(crate) mod inheritance;
pub(crate) mod leftovers;
pub(crate) mod losses;
pub(crate) mod metadata;
pub(crate) mod overrides;
pub(crate) mod owner;
pub(crate) mod refusals;
pub(crate) mod refused;
pub(crate) mod sentinel;
pub(crate) mod space;
pub(crate) mod tree;
pub(crate) mod writer;
