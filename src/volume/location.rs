//! Where volseed keeps its state: a name in a directory, asked for here and nowhere else.

use std::path::{Path, PathBuf};

/// The place of the state directory. Whether it is there is not known yet.
#[derive(Debug, Clone)]
pub(crate) struct Location<D> {
    /// The directory that it is in.
    pub parent: D,
    /// Its name there.
    pub name: String,
    /// Its path, for messages.
    pub path: PathBuf,
}

impl<D> Location<D> {
    /// `.volseed` in the root of a volume.
    pub(crate) fn in_root(root: D, volume: &Path) -> Location<D> {
        let name = super::records::DIRECTORY;
        Location { parent: root, name: name.to_owned(), path: volume.join(name) }
    }
}
