//! Upgrades of files that have several names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, seed, volseed};

/// A volume that the first of two images seeded.
struct Site {
    sandbox: Sandbox,
    volume: PathBuf,
}

impl Site {
    fn of(old: &Tree) -> Site {
        let sandbox = Sandbox::new();
        let site = Site { volume: sandbox.volume(), sandbox };
        site.start("1", old).ends().exits(0);
        site
    }

    fn start(&self, version: &str, tree: &Tree) -> Volseed {
        let source = tree.write_to(&self.sandbox.directory(version));
        seed(source, &self.volume).option("--seed-version", version).option("--upgrade", "*")
    }

    fn upgrade(&self, new: &Tree) {
        self.start("2", new).ends().exits(0).says("upgraded");
    }

    fn reads(&self, path: &str) -> String {
        fs::read_to_string(self.volume.join(path)).unwrap_or_else(|error| error.to_string())
    }

    fn node(&self, path: &str) -> (u64, u64) {
        let found = fs::metadata(self.volume.join(path)).unwrap();
        (found.ino(), found.nlink())
    }

    /// The files of the volume are those of a fresh seed of this image, with the same names for the same files.
    #[track_caller]
    fn is(&self, new: &Tree) {
        let fresh = self.sandbox.directory("fresh");
        seed(new.write_to(&self.sandbox.directory("image")), &fresh).ends().exits(0);
        for root in [&fresh, &self.volume] {
            let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            for directory in ["a", "b", ""] {
                if let Ok(directory) = fs::File::open(root.join(directory)) {
                    directory.set_times(time).unwrap();
                }
            }
        }
        fs::remove_dir_all(fresh.join(".volseed")).unwrap();
        assert_same_tree(&fresh, &self.volume);
        volseed(["verify", "--digest", "--to"]).arguments([&self.volume]).ends().exits(0);
    }
}

fn group(text: &str) -> Tree {
    Tree::new().file("a/one", text).hard_link("a/two", "a/one").hard_link("b/three", "a/one")
}

#[test]
fn a_group_that_changes_stays_one_file() {
    let (old, new) = (group("old"), group("new, and longer"));
    let site = Site::of(&old);
    site.upgrade(&new);
    site.is(&new);
    assert_eq!(site.node("a/one"), site.node("b/three"));
    assert_eq!(site.node("a/one").1, 3);
}

#[test]
fn a_group_may_gain_and_lose_names() {
    let one = Tree::new().file("a/one", "text");
    let two = Tree::new().file("a/one", "text").hard_link("b/two", "a/one");
    let site = Site::of(&two);
    site.upgrade(&one);
    site.is(&one);
    // That the new name is one of the unchanged file is not promised: it may be a file of its own.
    let site = Site::of(&one);
    site.upgrade(&two);
    assert_eq!((site.reads("a/one"), site.reads("b/two")), ("text".to_owned(), "text".to_owned()));
    volseed(["verify", "--digest", "--to"]).arguments([&site.volume]).ends().exits(0);
}

#[test]
fn a_name_that_the_user_gave_another_file_is_saved_and_the_others_change() {
    let site = Site::of(&group("old"));
    fs::remove_file(site.volume.join("a/two")).unwrap();
    fs::write(site.volume.join("a/two"), "the user's own").unwrap();
    site.upgrade(&group("new, and longer"));
    for path in ["a/one", "a/two", "b/three"] {
        assert_eq!(site.reads(path), "new, and longer", "{path}");
    }
    assert_eq!(site.reads(".volseed/old/2/a/two"), "the user's own");
}

#[test]
fn a_name_that_the_user_removed_stays_away() {
    let site = Site::of(&group("old"));
    fs::remove_file(site.volume.join("a/one")).unwrap();
    site.upgrade(&group("new, and longer"));
    assert!(!site.volume.join("a/one").exists());
    assert_eq!(site.reads("b/three"), "new, and longer");
    assert_eq!(site.node("a/two"), site.node("b/three"));
}

#[test]
fn what_a_user_wrote_through_one_name_is_saved_under_each() {
    let site = Site::of(&group("old"));
    fs::write(site.volume.join("a/two"), "written by the user").unwrap();
    site.upgrade(&group("new, and longer"));
    for path in ["a/one", "a/two", "b/three"] {
        assert_eq!(site.reads(path), "new, and longer", "{path}");
        assert_eq!(site.reads(&format!(".volseed/old/2/{path}")), "written by the user", "{path}");
    }
}
