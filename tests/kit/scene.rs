//! A volume that another user may write, and what beside it must stay as it is.
//!
//! Every scene has a canary tree outside of the volume, a file on the volume that is root's alone, and
//! a volume's root that another user may write. What a test does to the volume is its own affair; the
//! scene says whether more was touched than the volume.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Outcome, Sandbox, Snapshot, Tree, Volseed, seed};

/// The app's user, as Debian's www-data.
pub(crate) const APP: u32 = 33;
/// Somebody who is neither root nor the app.
pub(crate) const STRANGER: u32 = 4711;
/// Nothing that is on a volume may hold volseed for longer.
pub(crate) const BOUND: Duration = Duration::from_secs(20);
/// A claim that looks alive is waited for: shorter than the bound, so that it does not look like a hang.
const WAIT: &str = "2s";

/// A file on the volume that only root may read, below a directory that counts for nothing.
const ROOT_ONLY: &str = "lost+found/root-only";

/// Whose the volume's root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootOf {
    /// The app's user's.
    App,
    /// Root's, and everybody may write it: an `emptyDir`.
    Everybody,
    /// The same, where only its owner may rename or remove a thing.
    Sticky,
}

impl RootOf {
    pub(crate) const ALL: [RootOf; 3] = [RootOf::App, RootOf::Everybody, RootOf::Sticky];
}

/// What the image ships.
pub(crate) struct Image {
    pub archive: Vec<u8>,
    pub directory: PathBuf,
    pub tree: Tree,
}

impl Image {
    /// A bit of everything. `uploads/key` is the app's, and as large and as old as the file on the
    /// volume that is root's alone: what takes the one for the other gives it away.
    pub(crate) fn new(sandbox: &Sandbox) -> Image {
        let tree = Tree::new()
            .file("index.php", "<?php phpinfo();")
            .file("bin/tool", vec![b'x'; 70_000])
            .mode(0o755)
            .hard_link("bin/alias", "bin/tool")
            .directory("uploads")
            .mode(0o770)
            .owner(APP, APP)
            .file("uploads/key", "of the image")
            .mode(0o600)
            .owner(APP, APP)
            .modified(1_400_000_000, 1)
            .symlink("current", "bin")
            .file("conf/app.ini", "x = 1");
        Image::at(&sandbox.directory("image"), tree)
    }

    /// Any tree, which is also written to an empty directory to compare with.
    pub(crate) fn at(directory: &Path, tree: Tree) -> Image {
        Image { archive: tree.archive(), directory: tree.write_to(directory), tree }
    }

    /// `volseed seed` from the archive, with a bound on the wait for others.
    pub(crate) fn seed(&self, volume: &Path) -> Volseed {
        seed("-", volume).option("--wait-timeout", WAIT).input(self.archive.clone())
    }

    /// `volseed run`, the same.
    pub(crate) fn run(&self, volume: &Path) -> Volseed {
        let run = super::run("-", volume, ["true"]);
        run.option("--wait-timeout", WAIT).input(self.archive.clone())
    }

    /// The volume holds exactly what the image ships, but for the root itself.
    pub(crate) fn is_on(&self, volume: &Path) -> Result<(), String> {
        let differences = self.snapshot().differences(&Snapshot::of(volume).without_root());
        none_of("the volume is not what the image ships", differences)
    }

    /// The volume holds what the image ships, and perhaps more.
    pub(crate) fn is_within(&self, volume: &Path) -> Result<(), String> {
        let missing = self.snapshot().missing(&Snapshot::of(volume).without_root());
        none_of("the volume does not hold what the image ships", missing)
    }

    /// No regular file on the volume is root's and has other bytes than one of the image's, but for
    /// records in directories of root's. One that was not finished has a part of them.
    pub(crate) fn is_all_that_root_owns(&self, volume: &Path) -> Result<(), String> {
        let mut shipped = Vec::new();
        each_file(&self.directory, &mut |path| shipped.push(fs::read(path).unwrap()));
        let mut forged = Vec::new();
        each_file(volume, &mut |path| {
            let bytes = fs::read(path).unwrap();
            let is_of_the_image = shipped.iter().any(|whole| whole.starts_with(&bytes));
            if of_root(path) && !is_of_the_image && !(is_record(path) && of_root(path.parent().unwrap())) {
                forged.push(format!("{path:?} is root's, and not of the image"));
            }
        });
        none_of("forged", forged)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.directory).without_root()
    }
}

fn of_root(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().uid() == 0
}

fn is_record(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    ["lock", "heartbeat"].contains(&&*name) || name.contains(".json") || name.starts_with("manifest")
}

/// Calls it for every regular file below, but for what is ours or does not count at the root.
fn each_file(directory: &Path, call: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_file() {
            call(&path);
        } else if kind.is_dir() && ![".volseed", "lost+found"].iter().any(|name| entry.file_name() == *name) {
            each_file(&path, call);
        }
    }
}

fn none_of(what: &str, differences: Vec<String>) -> Result<(), String> {
    let count = differences.len();
    let first = differences.into_iter().take(3).collect::<Vec<_>>().join("\n    ");
    if count == 0 { Ok(()) } else { Err(format!("{what} ({count}):\n    {first}")) }
}

/// A volume and its surroundings, below one directory of one file system.
pub(crate) struct Scene {
    pub volume: PathBuf,
    pub outside: PathBuf,
    before: Snapshot,
    root_only: RootOnly,
}

#[derive(Debug, PartialEq, Eq)]
struct RootOnly {
    bytes: Vec<u8>,
    owner: (u32, u32),
    mode: u32,
    modified: (i64, i64),
}

impl Scene {
    /// In an empty directory.
    pub(crate) fn new(below: &Path, root: RootOf) -> Scene {
        let (volume, outside) = (below.join("volume"), below.join("outside"));
        fs::create_dir_all(&volume).unwrap();
        canaries().write_to(&outside);
        Tree::new()
            .directory("lost+found")
            .file(ROOT_ONLY, "of root only")
            .mode(0o600)
            .modified(1_400_000_000, 1)
            .write_to(&volume);
        let (user, mode) = match root {
            RootOf::App => (APP, 0o755),
            RootOf::Everybody => (0, 0o777),
            RootOf::Sticky => (0, 0o1777),
        };
        chown(&volume, Some(user), Some(user)).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
        let before = Snapshot::of(&outside);
        let root_only = RootOnly::read(&volume);
        Scene { volume, outside, before, root_only }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.volume.join(".volseed")
    }

    /// A place in `.volseed`, which is itself the empty one.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.state() } else { self.state().join(name) }
    }

    /// The file on the volume that is root's alone.
    pub(crate) fn root_only(&self) -> PathBuf {
        self.volume.join(ROOT_ONLY)
    }

    /// Nothing outside was touched, and nothing of root's on the volume.
    pub(crate) fn is_untouched(&self) -> Result<(), String> {
        none_of("outside of the volume", self.before.differences(&Snapshot::of(&self.outside)))?;
        let now = RootOnly::read(&self.volume);
        if now == self.root_only { Ok(()) } else { Err(format!("root's file on the volume is now {now:?}")) }
    }

    /// Removes what is in the way of another seed.
    pub(crate) fn remove_state(&self) {
        remove(&self.state());
    }
}

impl Drop for Scene {
    /// Trees may be nested deeper than a recursion of ours.
    fn drop(&mut self) {
        remove(&self.volume);
    }
}

impl RootOnly {
    fn read(volume: &Path) -> RootOnly {
        let path = volume.join(ROOT_ONLY);
        let metadata = fs::symlink_metadata(&path).unwrap();
        RootOnly {
            bytes: fs::read(&path).unwrap(),
            owner: (metadata.uid(), metadata.gid()),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn canaries() -> Tree {
    Tree::new()
        .mode(0o711)
        .file("closed/key", "secret")
        .mode(0o400)
        .directory("closed/empty")
        .mode(0)
        .file("open/file", "for all")
        .file("open/index.php", "not of the image")
        .fifo("open/pipe")
        .directory("of-stranger")
        .owner(STRANGER, STRANGER)
        .mode(0o700)
}

pub(crate) fn remove(path: &Path) {
    assert!(Command::new("rm").arg("-rf").arg(path).status().unwrap().success());
}

/// What it said and how it ended, as a test of hostile input expects that: one of these exit codes,
/// no control characters, one line that begins with `error:` where it failed and none else.
pub(crate) fn judged(ended: Result<Outcome, String>, allowed: &[i32]) -> Result<Outcome, String> {
    let outcome = ended.map_err(|said| format!("hangs; it said:\n{}", last_lines(&said)))?;
    let text = &outcome.stderr;
    let told = |what: &str| format!("{what}; {}; it said:\n{}", outcome.status, last_lines(text));
    let Some(code) = outcome.status.code().filter(|code| allowed.contains(code)) else {
        return Err(told(&format!("not one of {allowed:?}")));
    };
    for (text, stream) in [(text, "standard error"), (&outcome.stdout, "standard output")] {
        if let Some(sign) = text.chars().find(|sign| sign.is_control() && *sign != '\n') {
            return Err(told(&format!("{sign:?} on {stream}")));
        }
    }
    let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
    if errors != usize::from(code != 0) {
        return Err(told(&format!("{errors} lines begin with error:")));
    }
    Ok(outcome)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().map(|line| format!("    {}", line.escape_debug())).collect::<Vec<_>>().join("\n")
}
