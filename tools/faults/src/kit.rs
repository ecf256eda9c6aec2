//! What the tests of volseed have and the sweeps need: trees, archives and snapshots.

#[path = "../../../tests/kit/compress.rs"]
pub(crate) mod compress;
#[path = "../../../tests/kit/needs.rs"]
pub(crate) mod needs;
#[path = "../../../tests/kit/snapshot.rs"]
pub(crate) mod snapshot;
#[path = "../../../tests/kit/tarball.rs"]
pub(crate) mod tarball;
#[path = "../../../tests/kit/tree.rs"]
pub(crate) mod tree;

pub(crate) use compress::Compression;
pub(crate) use snapshot::Snapshot;
pub(crate) use tarball::Tarball;
pub(crate) use tree::Tree;
