//! How an upgrade replaces files where every call may be a round trip: through second names beside their places.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use slowfs::{Errno, Mount, Op, Options, Quirks};

use crate::kit::slowfs::{far, quirky, slow};
use crate::kit::{Sandbox, Snapshot, Tree, Volseed, eventually, seed};

/// A volume far away that the first image has seeded, and both images.
struct Far {
    volume: Mount,
    images: [PathBuf; 2],
    sandbox: Sandbox,
}

impl Far {
    fn new(options: Options) -> Option<Far> {
        let sandbox = Sandbox::new();
        let volume = slow(&sandbox, options)?;
        let image = |name: &str, bytes| {
            let tree = Tree::many_of("d", 60, bytes).file("d/sub/deep", name).file("version", name);
            tree.write_to(&sandbox.directory(name))
        };
        let images = [image("old", 512), image("new, and longer", 1024)];
        let site = Far { volume, images, sandbox };
        site.start(0).ends().exits(0);
        Some(site)
    }

    fn start(&self, image: usize) -> Volseed {
        let start = seed(&self.images[image], self.volume.path()).option("--lock", "none");
        start.option("--seed-version", (image + 1).to_string()).option("--upgrade", "1")
    }

    /// Names in the directory of most files that no image has.
    fn candidates(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.volume.path().join("d")).unwrap();
        let paths = names.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().as_encoded_bytes().starts_with(b".volseed")).collect()
    }

    /// The volume has what a seed of the second image would have put there, each file with one name.
    #[track_caller]
    fn is_new(&self) {
        let fresh = self.sandbox.directory("fresh");
        seed(&self.images[1], &fresh).ends().exits(0);
        for volume in [&fresh, self.volume.path()] {
            fs::remove_dir_all(volume.join(".volseed")).unwrap();
        }
        let [wanted, found] = [&fresh, self.volume.path()].map(|volume| Snapshot::of(volume).without_times());
        wanted.assert_same(&found);
        let files = fs::read_dir(self.volume.path().join("d")).unwrap().map(|entry| entry.unwrap());
        let mut files = files.filter(|entry| entry.file_type().unwrap().is_file());
        assert!(files.all(|entry| entry.metadata().unwrap().nlink() == 1));
    }
}

#[test]
fn a_file_that_is_replaced_gets_a_second_name_first() {
    let Some(site) = Far::new(far()) else { return };
    let before = site.volume.counts()[Op::Link];
    site.start(1).ends().exits(0).says("replaced=62");
    assert_eq!(site.volume.counts()[Op::Link] - before, 62);
    site.is_new();
}

#[test]
fn files_are_replaced_where_hard_links_are_refused() {
    let refused = Quirks { hard_links: Some(Errno::EPERM), ..Quirks::default() };
    let Some(site) = Far::new(quirky(refused)) else { return };
    site.start(1).ends().exits(0).says("replaced=62");
    site.is_new();
}

#[test]
fn second_names_that_a_kill_left_go_with_the_next_start() {
    let Some(site) = Far::new(far()) else { return };
    let own = [own_file(&site, 9_000_000), own_directory(&site)];
    for round in 0.. {
        assert!(round < 20, "no kill left any");
        let running = site.start(1).start();
        eventually("one is there", || site.candidates().len() > own.len());
        running.stopped_by(Signal::SIGKILL);
        if site.candidates().len() > own.len() {
            break;
        }
    }
    site.start(0).ends().exits(0);
    assert_eq!(site.candidates().len(), own.len());
    // Those of a claim to come, and what is no file, are the user's.
    fs::remove_file(&own[0]).unwrap();
    fs::remove_dir(&own[1]).unwrap();
    site.is_new();
}

#[test]
fn a_file_of_the_images_with_such_a_name_stays() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, Options::default()) else { return };
    let name = "d/.volseed-1-AAAAAAAAAAAAAAAAAAAAAA";
    let image = |text: &str| {
        let tree = Tree::new().file("d/changed", text).file(name, "of the image");
        tree.write_to(&sandbox.directory(text))
    };
    for (version, text) in [("1", "old"), ("2", "new, and longer")] {
        let start = seed(image(text), volume.path()).option("--lock", "none").option("--upgrade", "1");
        start.option("--seed-version", version).ends().exits(0);
    }
    assert_eq!(fs::read_to_string(volume.path().join(name)).unwrap(), "of the image");
    assert_eq!(fs::read_to_string(volume.path().join("d/changed")).unwrap(), "new, and longer");
}

fn own_file(site: &Far, claim: u64) -> PathBuf {
    let path = site.volume.path().join(format!("d/.volseed-{claim}-AAAAAAAAAAAAAAAAAAAAAA"));
    fs::write(&path, "a user's").unwrap();
    path
}

fn own_directory(site: &Far) -> PathBuf {
    let path = site.volume.path().join(Path::new("d/.volseed-1-AAAAAAAAAAAAAAAAAAAAAA"));
    fs::create_dir(&path).unwrap();
    path
}
