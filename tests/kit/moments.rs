//! Real runs, stopped where it matters: in the middle of staging, in the middle of publishing.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Running, Tree, Volseed, eventually, staged};

/// Enough that the kill comes before the last of them is published.
const NAMES: usize = 1_500;

/// What takes long to publish: many names in the root, and one directory.
pub(crate) fn much_to_publish() -> Tree {
    let tree = Tree::new().file("d/e/file", "x");
    (0..NAMES).fold(tree, |tree, number| tree.file(format!("{number:05}"), format!("{number:08}")))
}

/// A seed that stands still: all of its tree came but the archive's end.
#[track_caller]
pub(crate) fn standing(seed: Volseed, tree: &Tree, volume: &Path) -> Running {
    let running = seed.fed().start();
    running.feed(tree.members().unfinished());
    // The record of the stage, and some of the tree.
    eventually("files in the stage", || staged(volume) >= 4);
    running
}

/// Kills a seed in the middle of staging.
#[track_caller]
pub(crate) fn killed_staging(seed: Volseed, tree: &Tree, volume: &Path) {
    standing(seed, tree, volume).stopped_by(Signal::SIGKILL).0.killed_by(Signal::SIGKILL);
}

/// Kills a seed when the first of its names is published; false where it was too late, and the volume
/// is complete.
#[track_caller]
pub(crate) fn killed_publishing(seed: Volseed, volume: &Path) -> bool {
    killed_publishing_to(volume, seed, volume)
}

/// The same, when the first name is published to this directory.
#[track_caller]
pub(crate) fn killed_publishing_to(directory: &Path, seed: Volseed, volume: &Path) -> bool {
    let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, directory, WatchFlags::MOVED_TO).unwrap();
    let running = seed.start();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    inotify::Reader::new(&watch, &mut buffer).next().unwrap();
    running.stopped_by(Signal::SIGKILL);
    let record = volume.join(".volseed/state.json").exists();
    assert!(record || fs::read_dir(volume.join(".volseed/claims/1")).unwrap().count() > 0);
    !record
}
