//! What is seeded: the real packages of `bench/corpus.sh`, or a made tree of some hundred files with the same oddities.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::kit::{Compression, Sandbox};

/// Its first top-level directory.
pub(crate) const FIRST_DIRECTORY: &str = "d00";
/// In a made tree.
pub(crate) const SENTINEL: &str = "d00/sentinel";
/// In the packages, deep in the largest top-level directory: what an image of WordPress would name.
const WORDPRESS: &str = "usr/share/wordpress/wp-includes/version.php";
/// What archives are named.
pub(crate) const ARCHIVES: [&str; 5] = ["tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2"];

/// In a made tree.
const MADE_FILES: u64 = 120;

pub(crate) struct Corpus {
    pub tree: PathBuf,
    pub sentinel: &'static str,
    archives: PathBuf,
    _sandbox: Sandbox,
}

impl Corpus {
    /// The packages, which are fetched once; or a made tree.
    pub(crate) fn new(packages: bool) -> Corpus {
        let sandbox = Sandbox::new();
        if packages {
            let made = Command::new("bench/corpus.sh").output().unwrap();
            assert!(made.status.success(), "bench/corpus.sh: {made:?}");
            let said = String::from_utf8(made.stdout).unwrap();
            let root = said.lines().next().and_then(|line| line.split_whitespace().nth(1)).unwrap();
            let archives = PathBuf::from(root);
            return Corpus { tree: archives.join("tree"), sentinel: WORDPRESS, archives, _sandbox: sandbox };
        }
        let tree = sandbox.path("tree");
        make_tree(&tree, MADE_FILES);
        let archives = sandbox.directory("archives");
        let plain = archive(&tree, &archives.join("corpus.tar"));
        let bytes = fs::read(&plain).unwrap();
        for (compression, name) in
            Compression::ALL.into_iter().zip(["tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2"])
        {
            if let Some(packed) = compression.pack(&bytes) {
                fs::write(archives.join(format!("corpus.{name}")), packed).unwrap();
            }
        }
        Corpus { tree, sentinel: SENTINEL, archives, _sandbox: sandbox }
    }

    /// What `--from` names: `directory` or one of the archives.
    pub(crate) fn source(&self, name: &str) -> PathBuf {
        if name == "directory" { self.tree.clone() } else { self.archives.join(format!("corpus.{name}")) }
    }
}

/// The tree as an archive.
pub(crate) fn archive(tree: &Path, at: &Path) -> PathBuf {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--file"]).arg(at);
    let made = tar.arg("--directory").arg(tree).arg(".").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    at.to_owned()
}

/// A tree of so many files with links, modes, owners and times of their own; always the same for the same number.
pub(crate) fn make_tree(root: &Path, files: u64) {
    let draw = &mut fastrand::Rng::with_seed(files);
    fs::create_dir(root).unwrap();
    let mut directories = vec![PathBuf::new()];
    for number in 0..files / 8 {
        let parent = if number < 6 { Path::new("") } else { drawn(draw, &directories) };
        directories.push(parent.join(format!("d{number:02}")));
        fs::create_dir(root.join(directories.last().unwrap())).unwrap();
    }
    directories.push("d01/empty".into());
    fs::create_dir(root.join("d01/empty")).unwrap();
    let mut entries = directories[1..].to_vec();
    directories.pop();
    let mut regular: Vec<PathBuf> = Vec::new();
    for number in 0..files {
        let name = drawn(draw, &directories).join(format!("f{number:03}"));
        let path = root.join(&name);
        match number % 20 {
            7 => symlink(format!("../target-{number}"), path).unwrap(),
            13 => fs::hard_link(root.join(drawn(draw, &regular)), path).unwrap(),
            _ => {
                let size = if number % 40 == 0 { 300_000 } else { *drawn(draw, &[0, 1, 1000, 4096, 9000]) };
                fs::write(&path, (0..size).map(|_| draw.u8(..)).collect::<Vec<u8>>()).unwrap();
                let mode = *drawn(draw, &[0o644, 0o600, 0o755, 0o440]);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                regular.push(name.clone());
            }
        }
        entries.push(name);
    }
    fs::write(root.join(SENTINEL), "there\n").unwrap();
    entries.push(SENTINEL.into());
    // Children first: their directories' times change with them.
    entries.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in entries {
        if draw.u8(..5) == 0 {
            lchown(root.join(&path), Some(33), Some(33)).unwrap();
        }
        set_time(&root.join(&path), draw.i64(1_000_000_000..1_500_000_000));
    }
    set_time(root, draw.i64(1_000_000_000..1_500_000_000));
    fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
}

/// Half a second after this one: every archive and file system keeps that.
pub(crate) fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 500_000_000 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// One of several.
pub(crate) fn drawn<'a, T>(draw: &mut fastrand::Rng, from: &'a [T]) -> &'a T {
    &from[draw.usize(..from.len())]
}
