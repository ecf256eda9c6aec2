//! What every test stands on: a sandbox, trees and archives, a running volseed, and patience with a deadline.

pub mod app;
pub mod attacker;
pub mod compress;
pub mod forge;
pub mod http;
pub mod moments;
pub mod mount;
pub mod needs;
pub mod nested;
pub mod outcome;
pub mod pipes;
pub mod python;
pub mod records;
pub mod sandbox;
pub mod scene;
pub mod slowfs;
pub mod snapshot;
pub mod table;
pub mod tarball;
pub mod tree;
pub mod unread;
pub mod volseed;

use std::path::Path;
use std::time::{Duration, Instant};

pub use compress::Compression;
pub use outcome::Outcome;
pub use sandbox::Sandbox;
pub use snapshot::{Snapshot, assert_same_tree};
pub use tarball::Tarball;
pub use tree::Tree;
pub use volseed::{Running, Volseed, health, run, seed, volseed};

/// Long enough for anything that is not broken, also on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What volseed promises within a second, with room for two loaded cores. What the promise guards against, a volume
/// that hangs or a holder that is silent, takes 10 s and more.
pub const SOON: Duration = Duration::from_secs(5);

/// Waits until the condition holds; the test fails where it does not in time.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Regular files that stand in the private stage of a volume.
pub fn staged(volume: &Path) -> usize {
    files_below(&volume.join(".volseed/claims"), |path| {
        path.components().any(|part| part.as_os_str() == "stage")
    })
}

/// The volume shows nothing of a seed: neither an entry nor a record.
#[track_caller]
pub fn assert_nothing_published(volume: &Path) {
    let entries: Vec<_> = std::fs::read_dir(volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != ".volseed")
        .collect();
    assert!(entries.is_empty(), "published: {entries:?}");
    assert!(!volume.join(".volseed/state.json").exists(), "there is a record of a seed that was refused");
}

fn files_below(directory: &Path, wanted: impl Fn(&Path) -> bool + Copy) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), wanted),
            Ok(kind) if kind.is_file() => usize::from(wanted(&entry.path())),
            _ => 0,
        })
        .sum()
}
