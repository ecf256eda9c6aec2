//! Two images of one app: of a made tree, or of any other, whose files the second one changes, removes and adds to.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::corpus::{SENTINEL, make_tree, set_time};
use crate::kit::{Sandbox, Volseed, run, seed};

/// Files of the first image.
const FILES: u64 = 120;
/// Changed files that keep their size and time, and those of which only the mode changes.
const OF_SAME_SIZE: usize = 4;
const OTHER_MODES: usize = 2;
/// A top-level directory that only the first image has, and one that only the second has.
const GONE: &str = "gone";
const FRESH: &str = "fresh";
/// A file that becomes a directory, a directory that becomes a file, and a link with another target.
const BECOMES_A_DIRECTORY: &str = "becomes-a-directory";
const BECOMES_A_FILE: &str = "becomes-a-file";
const LINK: &str = "link";

pub(super) struct Images {
    pub old: PathBuf,
    pub new: PathBuf,
    pub lists: Lists,
    pub sentinel: PathBuf,
    pub versions: [String; 2],
    pub sandbox: Sandbox,
}

/// How many files the second image changes, removes and adds.
pub(super) struct Amounts {
    pub changed: usize,
    pub removed: usize,
    pub added: usize,
}

/// Which image a replica is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Image {
    Old,
    New,
    /// The second one, without `--upgrade`.
    NewThatLeaves,
}

/// Regular files with one name, by what the second image does to them.
#[derive(Default, Clone)]
pub(super) struct Lists {
    pub same: Vec<PathBuf>,
    pub changed: Vec<PathBuf>,
    pub removed: Vec<PathBuf>,
    pub added: Vec<PathBuf>,
    /// Of the first image.
    pub directories: Vec<PathBuf>,
}

impl Images {
    pub(super) fn new() -> Images {
        let sandbox = Sandbox::new();
        let (old, new) = (sandbox.path("old"), sandbox.path("new"));
        make_tree(&old, FILES);
        for (path, text) in [("gone/a", "a"), ("gone/sub/b", "b"), (BECOMES_A_DIRECTORY, "x")] {
            write_new(&old.join(path), text);
        }
        write_new(&old.join(BECOMES_A_FILE).join("inside"), "inside");
        symlink("old", old.join(LINK)).unwrap();
        set_time(&old.join(LINK), 1_400_000_000);
        copy(&old, &new);
        let of_its_own = [BECOMES_A_DIRECTORY, BECOMES_A_FILE, SENTINEL].map(Path::new);
        let mut lists = Lists::of(&old, &of_its_own);
        lists.change(&new, GONE.as_ref(), &Amounts { changed: 24, removed: 10, added: 8 });
        change_types(&new);
        fs::write(new.join(SENTINEL), "there, version 2\n").unwrap();
        set_time(&new.join(SENTINEL), 1_600_000_000);
        let versions = ["1.0", "2.0"].map(str::to_owned);
        Images { old, new, lists, sentinel: SENTINEL.into(), versions, sandbox }
    }

    /// What a container of an image does with a volume.
    pub(super) fn start(&self, volume: &Path, image: Image) -> Volseed {
        self.options(seed(self.source(image), volume), image)
    }

    /// The same, with an app.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        volume: &Path,
        image: Image,
        app: impl IntoIterator<Item = A>,
    ) -> Volseed {
        self.options(run(self.source(image), volume, app), image)
    }

    fn source(&self, image: Image) -> &Path {
        if image == Image::Old { &self.old } else { &self.new }
    }

    fn options(&self, volseed: Volseed, image: Image) -> Volseed {
        let [old, new] = &self.versions;
        let volseed = volseed.option("--sentinel", &self.sentinel);
        match image {
            Image::Old => volseed.option("--seed-version", old),
            Image::NewThatLeaves => volseed.option("--seed-version", new),
            Image::New => volseed.option("--seed-version", new).option("--upgrade", old),
        }
    }
}

impl Lists {
    /// Every file of the tree but those at or below these paths, all alike in both images as yet.
    pub(super) fn of(tree: &Path, without: &[&Path]) -> Lists {
        let mut lists = Lists::default();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(tree.join(&directory)).unwrap().map(Result::unwrap) {
                let (path, metadata) = (directory.join(entry.file_name()), entry.metadata().unwrap());
                if without.iter().any(|without| path.starts_with(without)) {
                    continue;
                } else if metadata.is_dir() {
                    directories.push(path.clone());
                    lists.directories.push(path);
                } else if metadata.is_file() && metadata.nlink() == 1 {
                    lists.same.push(path);
                }
            }
        }
        lists.same.sort();
        lists.directories.sort();
        lists
    }

    /// Makes the second image's tree of a copy of the first's: without the directory `gone`, and with one more.
    pub(super) fn change(&mut self, new: &Path, gone: &Path, amounts: &Amounts) {
        let draw = &mut fastrand::Rng::with_seed(2);
        let (removed, same) =
            std::mem::take(&mut self.same).into_iter().partition(|path| path.starts_with(gone));
        (self.removed, self.same) = (removed, same);
        fs::remove_dir_all(new.join(gone)).unwrap();
        draw.shuffle(&mut self.same);
        self.changed = self.same.split_off(self.same.len() - amounts.changed);
        let removed = self.same.split_off(self.same.len() - amounts.removed);
        self.change_files(new, draw);
        removed.iter().for_each(|path| fs::remove_file(new.join(path)).unwrap());
        self.removed.extend(removed);
        let stay: Vec<&PathBuf> = self.directories.iter().filter(|path| !path.starts_with(gone)).collect();
        for number in 0..amounts.added {
            let path = stay[draw.usize(..stay.len())].join(format!("added-{number}"));
            write_new(&new.join(&path), &format!("added {number}"));
            self.added.push(path);
        }
        write_new(&new.join(FRESH).join("deep/er/file"), "fresh");
        fs::hard_link(new.join(FRESH).join("deep/er/file"), new.join(FRESH).join("name")).unwrap();
    }

    fn change_files(&mut self, new: &Path, draw: &mut fastrand::Rng) {
        for (number, path) in self.changed.iter().enumerate() {
            let path = new.join(path);
            let before = fs::metadata(&path).unwrap();
            let size = if number < OF_SAME_SIZE { before.len().max(1) as usize } else { draw.usize(1..9000) };
            fs::write(&path, (0..size).map(|_| draw.u8(..)).collect::<Vec<u8>>()).unwrap();
            // As images do that are built with SOURCE_DATE_EPOCH.
            let is_later = number >= OF_SAME_SIZE && before.len() as usize != size;
            set_time(&path, before.mtime() + i64::from(is_later) * 1000);
        }
        for path in self.same.drain(..OTHER_MODES) {
            fs::set_permissions(new.join(&path), fs::Permissions::from_mode(0o700)).unwrap();
            self.changed.push(path);
        }
    }
}

/// A file becomes a directory, a directory a file, and a link has another target.
fn change_types(new: &Path) {
    fs::remove_file(new.join(BECOMES_A_DIRECTORY)).unwrap();
    write_new(&new.join(BECOMES_A_DIRECTORY).join("inside"), "inside");
    fs::remove_dir_all(new.join(BECOMES_A_FILE)).unwrap();
    write_new(&new.join(BECOMES_A_FILE), "a file");
    fs::remove_file(new.join(LINK)).unwrap();
    symlink("new", new.join(LINK)).unwrap();
    set_time(&new.join(LINK), 1_500_000_000);
}

fn write_new(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    set_time(path, 1_400_000_000);
}

pub(super) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
}
