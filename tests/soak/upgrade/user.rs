//! What a user does to the volume of the first image.
//!
//! For each edit it says what docs/upgrades.md promises of it, without asking volseed: what the volume has after the
//! upgrade, what is saved and offered, and what `volseed verify` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::corpus::set_time;

use super::images::{Images, Lists, copy};

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

/// Edits the volume, and the model where the edit stays.
pub(super) struct User<'a> {
    images: &'a Images,
    volume: &'a Path,
    edits: Edits,
}

impl<'a> User<'a> {
    /// Before the first edit; the number tells its model from others.
    pub(super) fn new(images: &'a Images, volume: &'a Path, number: u64) -> User<'a> {
        let model = images.sandbox.path(&format!("model-{number}"));
        fs::remove_dir_all(&model).ok();
        copy(&images.new, &model);
        let edits = Edits {
            model,
            new: images.new.clone(),
            texts: BTreeMap::new(),
            deleted: BTreeSet::new(),
            saved: BTreeSet::new(),
            offered: BTreeSet::new(),
            verified: BTreeSet::new(),
        };
        User { images, volume, edits }
    }

    /// Edits of every kind, a few of each.
    pub(super) fn edit_all(mut self, draw: &mut fastrand::Rng) -> Edits {
        let mut lists = self.images.lists.clone();
        for list in [&mut lists.same, &mut lists.changed, &mut lists.removed, &mut lists.added] {
            draw.shuffle(list);
        }
        self.modify(&lists, draw);
        self.delete(&lists, draw);
        self.add(&lists, draw);
        self.set_later(&lists.changed);
        self.edits
    }

    /// Settings, in the place of the image's.
    pub(super) fn replace(&mut self, path: &Path) {
        let difference = if self.remove_link(path) { "type" } else { "modified" };
        self.edits.verified.insert(line(difference, path));
        self.write(path, true);
    }

    /// A directory of the user's with so many files, in the place of the image's link where it has one.
    pub(super) fn fill(&mut self, directory: &Path, files: usize) {
        if self.remove_link(directory) {
            self.edits.verified.insert(line("type", directory));
        }
        let month = directory.join("2026/11");
        for tree in [self.volume, &self.edits.model] {
            fs::create_dir_all(tree.join(&month)).unwrap();
        }
        (0..files).for_each(|number| self.write(&month.join(format!("{number}.jpg")), true));
    }

    /// Of a directory that `--keep` names, and of which the second image changes these files, changes the first: all of
    /// it stays.
    pub(super) fn hold(&mut self, changed: &[PathBuf]) {
        self.write(&changed[0], true);
        for path in &changed[1..] {
            let model = self.edits.model.join(path);
            fs::remove_file(&model).unwrap();
            copy(&self.images.old.join(path), &model);
        }
        self.edits.offered.extend(changed.iter().cloned());
        self.edits.verified.extend(changed.iter().map(|path| line("modified", path)));
    }

    /// Removes a symbolic link of both images; whether there is one.
    fn remove_link(&self, path: &Path) -> bool {
        let is_link = self.volume.join(path).is_symlink();
        for tree in [self.volume, &self.edits.model].into_iter().filter(|_| is_link) {
            fs::remove_file(tree.join(path)).unwrap();
        }
        is_link
    }

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
        }
        for number in 0..draw.usize(1..4) {
            let directory = &lists.directories[draw.usize(..lists.directories.len())];
            self.write(&directory.join(format!("mine-{number}")), true);
        }
    }

    /// Of a file that changes neither its size nor its second the time says that it changed.
    fn set_later(&self, changed: &[PathBuf]) {
        let edits = &self.edits;
        let is_the_users = |path: &PathBuf| edits.texts.contains_key(path) || edits.deleted.contains(path);
        for path in changed.iter().filter(|path| !is_the_users(path)) {
            let [old, new] =
                [&self.images.old, &self.images.new].map(|tree| fs::metadata(tree.join(path)).unwrap());
            if (old.len(), old.mtime()) == (new.len(), new.mtime()) {
                let second = SystemTime::UNIX_EPOCH + Duration::from_secs(new.mtime() as u64 + 1);
                let times = fs::FileTimes::new().set_modified(second);
                fs::File::open(edits.model.join(path)).unwrap().set_times(times).unwrap();
            }
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
