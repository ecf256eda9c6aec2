//! Two images of one app, and what a user does to the volume of the first.
//!
//! For each edit it says what docs/upgrades.md promises of it, without asking volseed: what the volume has after the
//! upgrade, what is saved and offered, and what `volseed verify` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::corpus::{SENTINEL, make_tree, set_time};
use crate::kit::{Sandbox, Volseed, run, seed};

/// Files of the first image.
const FILES: u64 = 120;
/// What the second image does to them.
const CHANGED: usize = 24;
const OF_SAME_SIZE: usize = 4;
const REMOVED: usize = 10;
const OTHER_MODES: usize = 2;
const ADDED: usize = 8;
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
    lists: Lists,
    sandbox: Sandbox,
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
struct Lists {
    same: Vec<PathBuf>,
    changed: Vec<PathBuf>,
    removed: Vec<PathBuf>,
    added: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

/// What a user did, and what follows.
pub(super) struct Edits {
    /// The tree after the upgrade.
    pub model: PathBuf,
    /// The second image.
    pub new: PathBuf,
    /// What the user wrote, by path: somewhere on the volume at any time.
    pub texts: BTreeMap<PathBuf, String>,
    /// What the user removed: never there again.
    pub deleted: BTreeSet<PathBuf>,
    /// Of what the user wrote: replaced by the second image's.
    pub saved: BTreeSet<PathBuf>,
    /// Of the second image's: left out.
    pub offered: BTreeSet<PathBuf>,
    /// The lines of `volseed verify` but for the last.
    pub verified: BTreeSet<String>,
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
        let mut lists = Lists::of(&old);
        make_second(&new, &mut lists);
        Images { old, new, lists, sandbox }
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
        let volseed = volseed.option("--sentinel", SENTINEL);
        match image {
            Image::Old => volseed.option("--seed-version", "1.0"),
            Image::NewThatLeaves => volseed.option("--seed-version", "2.0"),
            Image::New => volseed.option("--seed-version", "2.0").option("--upgrade", "1.*"),
        }
    }

    /// What a user does to the volume of the first image.
    pub(super) fn edit(&self, volume: &Path, number: u64, draw: &mut fastrand::Rng) -> Edits {
        let model = self.sandbox.path(&format!("model-{number}"));
        fs::remove_dir_all(&model).ok();
        copy(&self.new, &model);
        let edits = Edits {
            model,
            new: self.new.clone(),
            texts: BTreeMap::new(),
            deleted: BTreeSet::new(),
            saved: BTreeSet::new(),
            offered: BTreeSet::new(),
            verified: BTreeSet::new(),
        };
        let mut lists = self.lists.clone();
        for list in [&mut lists.same, &mut lists.changed, &mut lists.removed, &mut lists.added] {
            draw.shuffle(list);
        }
        let mut user = User { images: self, volume, edits };
        user.modify(&lists, draw);
        user.delete(&lists, draw);
        user.add(&lists, draw);
        self.set_later(&lists.changed, &user.edits);
        user.edits
    }

    /// Of a file that changes neither its size nor its second the time says that it changed.
    fn set_later(&self, changed: &[PathBuf], edits: &Edits) {
        let is_the_users = |path: &PathBuf| edits.texts.contains_key(path) || edits.deleted.contains(path);
        for path in changed.iter().filter(|path| !is_the_users(path)) {
            let [old, new] = [&self.old, &self.new].map(|tree| fs::metadata(tree.join(path)).unwrap());
            if (old.len(), old.mtime()) == (new.len(), new.mtime()) {
                let second = SystemTime::UNIX_EPOCH + Duration::from_secs(new.mtime() as u64 + 1);
                let times = fs::FileTimes::new().set_modified(second);
                fs::File::open(edits.model.join(path)).unwrap().set_times(times).unwrap();
            }
        }
    }
}

impl Lists {
    fn of(tree: &Path) -> Lists {
        let mut lists = Lists::default();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(tree.join(&directory)).unwrap().map(Result::unwrap) {
                let (path, metadata) = (directory.join(entry.file_name()), entry.metadata().unwrap());
                if metadata.is_dir() {
                    directories.push(path.clone());
                    lists.directories.push(path);
                } else if metadata.is_file() && metadata.nlink() == 1 && path != Path::new(SENTINEL) {
                    lists.same.push(path);
                }
            }
        }
        let is_of_images =
            |path: &PathBuf| [BECOMES_A_DIRECTORY, BECOMES_A_FILE].iter().any(|it| path.starts_with(it));
        lists.same.retain(|path| !is_of_images(path) && !path.starts_with(GONE));
        lists.directories.retain(|path| !is_of_images(path));
        lists.same.sort();
        lists.directories.sort();
        lists.removed = vec!["gone/a".into(), "gone/sub/b".into()];
        lists
    }
}

/// Makes the second image of a copy of the first.
fn make_second(new: &Path, lists: &mut Lists) {
    let draw = &mut fastrand::Rng::with_seed(2);
    draw.shuffle(&mut lists.same);
    lists.changed = lists.same.split_off(lists.same.len() - CHANGED);
    let removed = lists.same.split_off(lists.same.len() - REMOVED);
    for (number, path) in lists.changed.iter().enumerate() {
        let path = new.join(path);
        let before = fs::metadata(&path).unwrap();
        let size = if number < OF_SAME_SIZE { before.len().max(1) as usize } else { draw.usize(1..9000) };
        fs::write(&path, (0..size).map(|_| draw.u8(..)).collect::<Vec<u8>>()).unwrap();
        // As images do that are built with SOURCE_DATE_EPOCH.
        let is_later = number >= OF_SAME_SIZE && before.len() as usize != size;
        set_time(&path, before.mtime() + i64::from(is_later) * 1000);
    }
    for path in lists.same.drain(..OTHER_MODES) {
        fs::set_permissions(new.join(&path), fs::Permissions::from_mode(0o700)).unwrap();
        lists.changed.push(path);
    }
    removed.iter().for_each(|path| fs::remove_file(new.join(path)).unwrap());
    lists.removed.extend(removed);
    fs::remove_dir_all(new.join(GONE)).unwrap();
    let stays = |path: &&PathBuf| !path.starts_with(GONE);
    for number in 0..ADDED {
        let directories: Vec<&PathBuf> = lists.directories.iter().filter(stays).collect();
        let path = directories[draw.usize(..directories.len())].join(format!("added-{number}"));
        write_new(&new.join(&path), &format!("added {number}"));
        lists.added.push(path);
    }
    write_new(&new.join(FRESH).join("deep/er/file"), "fresh");
    fs::hard_link(new.join(FRESH).join("deep/er/file"), new.join(FRESH).join("name")).unwrap();
    fs::remove_file(new.join(BECOMES_A_DIRECTORY)).unwrap();
    write_new(&new.join(BECOMES_A_DIRECTORY).join("inside"), "inside");
    fs::remove_dir_all(new.join(BECOMES_A_FILE)).unwrap();
    write_new(&new.join(BECOMES_A_FILE), "a file");
    fs::remove_file(new.join(LINK)).unwrap();
    symlink("new", new.join(LINK)).unwrap();
    set_time(&new.join(LINK), 1_500_000_000);
    fs::write(new.join(SENTINEL), "there, version 2\n").unwrap();
    set_time(&new.join(SENTINEL), 1_600_000_000);
}

/// Edits the volume, and the model where the edit stays.
struct User<'a> {
    images: &'a Images,
    volume: &'a Path,
    edits: Edits,
}

impl User<'_> {
    fn modify(&mut self, lists: &Lists, draw: &mut fastrand::Rng) {
        for path in lists.same.iter().take(draw.usize(1..4)) {
            self.write(path, true);
            self.edits.verified.insert(line("modified", path));
        }
        for path in lists.changed.iter().take(draw.usize(1..5)) {
            self.write(path, false);
            self.edits.saved.insert(path.clone());
        }
        for path in lists.removed.iter().take(draw.usize(..3)) {
            self.write(path, true);
        }
    }

    fn delete(&mut self, lists: &Lists, draw: &mut fastrand::Rng) {
        let (same, changed) = (draw.usize(..3), draw.usize(..3));
        let same = lists.same.iter().rev().take(same);
        let changed: Vec<&PathBuf> = lists.changed.iter().rev().take(changed).collect();
        for path in same.chain(changed.iter().copied()) {
            fs::remove_file(self.edits.model.join(path)).unwrap();
            self.edits.verified.insert(line("missing", path));
            self.remove(path);
        }
        self.edits.offered.extend(changed.into_iter().cloned());
        for path in lists.removed.iter().rev().take(draw.usize(..2)) {
            self.remove(path);
        }
    }

    /// Files of the user's own: in the places of new ones, and elsewhere, also in a directory that is to go.
    fn add(&mut self, lists: &Lists, draw: &mut fastrand::Rng) {
        for path in lists.added.iter().take(draw.usize(..3)) {
            self.write(path, true);
            self.edits.offered.insert(path.clone());
            self.edits.verified.insert(line("modified", path));
        }
        for number in 0..draw.usize(1..4) {
            let directory = &lists.directories[draw.usize(..lists.directories.len())];
            self.write(&directory.join(format!("mine-{number}")), true);
        }
    }

    fn write(&mut self, path: &Path, stays: bool) {
        let text = format!("the user's {}, {}\n", path.display(), self.edits.texts.len());
        let at = self.volume.join(path);
        fs::write(&at, &text).unwrap();
        set_time(&at, 1_650_000_000);
        if stays {
            let model = self.edits.model.join(path);
            self.make_parents(path);
            fs::write(&model, &text).unwrap();
            let metadata = fs::metadata(&at).unwrap();
            chown(&model, Some(metadata.uid()), Some(metadata.gid())).unwrap();
            fs::set_permissions(&model, metadata.permissions()).unwrap();
            set_time(&model, 1_650_000_000);
        }
        self.edits.texts.insert(path.to_owned(), text);
    }

    fn remove(&mut self, path: &Path) {
        fs::remove_file(self.volume.join(path)).unwrap();
        self.edits.deleted.insert(path.to_owned());
    }

    /// What of the first image stays for what is in it.
    fn make_parents(&self, path: &Path) {
        let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents {
            let at = self.edits.model.join(parent);
            if !at.exists() {
                let metadata = fs::metadata(self.images.old.join(parent)).unwrap();
                fs::create_dir(&at).unwrap();
                chown(&at, Some(metadata.uid()), Some(metadata.gid())).unwrap();
                fs::set_permissions(&at, metadata.permissions()).unwrap();
            }
        }
    }
}

/// A line of `volseed verify`.
fn line(difference: &str, path: &Path) -> String {
    format!("{difference:<9} {}", path.display())
}

fn write_new(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    set_time(path, 1_400_000_000);
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
}
