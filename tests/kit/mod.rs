//! What every test stands on: a sandbox, trees and archives, a running volseed, and patience with a deadline.

#![allow(dead_code, unused_imports, reason = "the integration tests and the soaks each use a part")]

pub(crate) mod app;
pub(crate) mod attacker;
pub(crate) mod compress;
pub(crate) mod forge;
pub(crate) mod http;
pub(crate) mod moments;
pub(crate) mod mount;
pub(crate) mod needs;
pub(crate) mod nested;
pub(crate) mod outcome;
pub(crate) mod pipes;
pub(crate) mod python;
pub(crate) mod records;
pub(crate) mod sandbox;
pub(crate) mod scene;
pub(crate) mod slowfs;
pub(crate) mod snapshot;
pub(crate) mod table;
pub(crate) mod tarball;
pub(crate) mod tree;
pub(crate) mod unread;
pub(crate) mod volseed;

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use compress::Compression;
pub(crate) use outcome::Outcome;
pub(crate) use sandbox::Sandbox;
pub(crate) use snapshot::{Snapshot, assert_same_tree};
pub(crate) use tarball::Tarball;
pub(crate) use tree::Tree;
pub(crate) use volseed::{Running, Volseed, binary, health, run, seed, volseed, without_settings};

/// Long enough for anything that is not broken, also on a loaded machine with two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What volseed promises within a second, with room for two loaded cores. What the promise guards against, a volume
/// that hangs or a holder that is silent, takes 10 s and more.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Waits until the condition holds; the test fails where it does not in time.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Regular files of the seed that stand in the private stage of a volume.
pub(crate) fn staged(volume: &Path) -> usize {
    files_below(&volume.join(".volseed/claims"), |path| {
        let parts = path.components().map(|part| part.as_os_str());
        parts.clone().zip(parts.skip(1)).any(|pair| pair.0 == "stage" && pair.1 == "tree")
    })
}

/// The volume shows nothing of a seed: neither an entry nor a record.
#[track_caller]
pub(crate) fn assert_nothing_published(volume: &Path) {
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

/// Every other test believes this one: the archive of a tree is the tree, says the system's tar.
#[test]
fn a_tree_is_the_same_as_a_directory_and_as_an_archive() {
    if !needs::root() || !needs::tools(&["tar"]) {
        return;
    }
    let long = "n/".repeat(70) + "file";
    let tree = Tree::sample().file("su", "x").mode(0o4755).owner(33, 34).attribute("user.a", "1\n2");
    let tree = tree.file(long.as_str(), "x").modified(-2, 500_000_000).symlink("far", &long).fifo("p");
    let sandbox = Sandbox::new();
    let unpacked = sandbox.directory("unpacked");
    let mut tar = std::process::Command::new("tar");
    tar.args(["-x", "-p", "--xattrs", "--xattrs-include=*", "--same-owner", "-C"]).arg(&unpacked);
    compress::pipe(&mut tar, &tree.archive());
    assert_same_tree(&tree.write_to(&sandbox.directory("written")), &unpacked);
}
