//! What the replicas of a round bring: trees of three sizes, as directory and as archive, for an empty volume and for
//! one that holds a user's files.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::corpus::{FIRST_DIRECTORY, archive, make_tree, set_time};
use crate::kit::{Sandbox, Snapshot};

pub(super) struct Seed {
    pub name: String,
    /// What `--from` names.
    pub source: PathBuf,
    /// The same as a directory.
    pub tree: PathBuf,
    /// What has to be on the volume in the end.
    pub model: PathBuf,
    pub expected: Snapshot,
    pub entries: usize,
    pub bytes: u64,
    pub is_furnished: bool,
}

/// A directory of a user's own on a furnished volume.
const OWN: &str = "own";

pub(super) fn all(sandbox: &Sandbox) -> Vec<Seed> {
    [40, 120, 400].into_iter().flat_map(|files| of(sandbox, files)).collect()
}

fn of(sandbox: &Sandbox, files: u64) -> Vec<Seed> {
    let tree = sandbox.path(&format!("source-{files}"));
    make_tree(&tree, files);
    let packed = archive(&tree, &sandbox.path(&format!("source-{files}.tar")));
    let furnished = sandbox.path(&format!("furnished-{files}"));
    let copied = Command::new("cp").arg("-a").arg(&tree).arg(&furnished).status().unwrap();
    assert!(copied.success());
    furnish(&furnished, &tree);
    let mut seeds = Vec::new();
    for (model, is_furnished) in [(&tree, false), (&furnished, true)] {
        let (entries, bytes) = size(model);
        for (form, source) in [("directory", &tree), ("tar", &packed)] {
            seeds.push(Seed {
                name: format!("{form} of {files}"),
                source: source.clone(),
                tree: tree.clone(),
                model: model.clone(),
                expected: listed(model, is_furnished),
                entries,
                bytes,
                is_furnished,
            });
        }
    }
    seeds
}

/// A tree as it is compared: a user's directory keeps its mode, and its time says when something was last put in it.
pub(super) fn listed(root: &Path, is_furnished: bool) -> Snapshot {
    let listed = Snapshot::of(root);
    if is_furnished { listed.without(&[".", FIRST_DIRECTORY, OWN]) } else { listed }
}

/// Puts a user's files where a seed comes to: in a directory of the seed's, in one of its own, and in place of a file
/// that the seed has, too.
pub(super) fn furnish(volume: &Path, source: &Path) {
    let shared = fs::metadata(source.join(FIRST_DIRECTORY)).unwrap();
    for name in [FIRST_DIRECTORY, OWN] {
        let path = volume.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, shared.permissions()).unwrap();
        chown(&path, Some(shared.uid()), Some(shared.gid())).unwrap();
    }
    let mut files: Vec<PathBuf> = fs::read_dir(source)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1))
        .map(|entry| entry.file_name().into())
        .collect();
    files.sort();
    for name in
        [Path::new(FIRST_DIRECTORY).join("user's"), Path::new(OWN).join("user's"), files.swap_remove(0)]
    {
        let path = volume.join(name);
        // A name that a copy linked elsewhere would be written through.
        fs::remove_file(&path).ok();
        fs::write(&path, "the user's\n").unwrap();
        set_time(&path, 1_000_000_000);
    }
}

/// Entries and bytes of files.
fn size(root: &Path) -> (usize, u64) {
    let (mut entries, mut bytes, mut directories) = (1, 0, vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            entries += 1;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file() {
                bytes += metadata.len();
            }
        }
    }
    (entries, bytes)
}
