//! A whole tree as it stands: bytes, modes, owners, times, links and extended attributes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    nodes: BTreeMap<PathBuf, Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    what: What,
    /// Permission bits with setuid, setgid and sticky.
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    attributes: BTreeMap<OsString, Vec<u8>>,
    /// The first name of the same file in this tree.
    same_as: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Directory,
    File { length: usize, hash: u64 },
    Symlink(PathBuf),
    Fifo,
    Other,
}

/// Fails with every difference between two trees, one a line.
#[track_caller]
pub(crate) fn assert_same_tree(expected: &Path, found: &Path) {
    Snapshot::of(expected).assert_same(&Snapshot::of(found));
}

impl Snapshot {
    /// What a user sees of a tree: without volseed's directory, without the time of the root,
    /// which changes with every entry.
    pub(crate) fn of(root: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        let mut first_names = HashMap::new();
        visit(root, Path::new("."), &mut nodes, &mut first_names);
        if let Some(node) = nodes.get_mut(Path::new(".")) {
            node.modified = (0, 0);
        }
        Self { nodes }
    }

    /// The same tree, had it been seeded for this owner.
    pub(crate) fn owned_by(mut self, user: u32, group: u32) -> Self {
        self.nodes.values_mut().for_each(|node| node.owner = (user, group));
        self
    }

    /// The same tree with one time everywhere.
    pub(crate) fn without_times(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.modified = (0, 0));
        self
    }

    /// The same tree without the times from a second on: those that no seed has set.
    pub(crate) fn without_times_since(mut self, second: i64) -> Self {
        let recent = self.nodes.values_mut().filter(|node| node.modified.0 >= second);
        recent.for_each(|node| node.modified = (0, 0));
        self
    }

    /// The same tree without the times of its directories, which change with what is in them.
    pub(crate) fn without_directory_times(mut self) -> Self {
        let directories = self.nodes.values_mut().filter(|node| node.what == What::Directory);
        directories.for_each(|node| node.modified = (0, 0));
        self
    }

    /// The same tree without what its root is.
    pub(crate) fn without_root(self) -> Self {
        self.without(&["."])
    }

    /// Whether it has what its root is.
    pub(crate) fn has_root(&self) -> bool {
        self.nodes.contains_key(Path::new("."))
    }

    /// The same tree without what these entries are; what is below them stays.
    pub(crate) fn without(mut self, paths: &[&str]) -> Self {
        self.nodes.retain(|path, _| !paths.iter().any(|without| path == Path::new(without)));
        self
    }

    /// What is the same in both trees.
    pub(crate) fn common(mut self, other: &Self) -> Self {
        self.nodes.retain(|path, node| other.nodes.get(path) == Some(node));
        self
    }

    /// The same tree without extended attributes.
    pub(crate) fn without_attributes(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.attributes.clear());
        self
    }

    /// The same tree, in which every name is a file of its own.
    pub(crate) fn without_links(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.same_as = None);
        self
    }

    /// The same tree, of which nobody asks whose it is.
    pub(crate) fn without_owners(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.owner = (0, 0));
        self
    }

    /// The same tree, of which nobody asks who may do what with it.
    pub(crate) fn without_modes(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.mode = 0);
        self
    }

    #[track_caller]
    pub(crate) fn assert_same(&self, found: &Self) {
        let differences = self.differences(found);
        assert!(
            differences.is_empty(),
            "{} differences:\n{}",
            differences.len(),
            differences.into_iter().take(20).collect::<Vec<_>>().join("\n")
        );
    }

    /// Everything that is not the same, one text each.
    pub(crate) fn differences(&self, found: &Self) -> Vec<String> {
        let mut differences = self.missing(found);
        let extra = found.nodes.keys().filter(|path| !self.nodes.contains_key(*path));
        differences.extend(extra.map(|path| format!("not expected: {path:?}")));
        differences
    }

    /// Every entry that neither of two trees has so. Between a file and a directory of the same name there may be
    /// nothing.
    pub(crate) fn in_neither(&self, one: &Self, other: &Self) -> Vec<String> {
        let paths = [self, one, other].into_iter().flat_map(|tree| tree.nodes.keys());
        let paths: BTreeSet<&PathBuf> = paths.collect();
        let mut found = Vec::new();
        for path in paths {
            let [here, one, other] = [self, one, other].map(|tree| tree.nodes.get(path));
            let is_directory = |node: Option<&Node>| node.is_some_and(|node| node.what == What::Directory);
            let makes_room = here.is_none() && is_directory(one) != is_directory(other);
            if here != one && here != other && !makes_room {
                found.push(format!("{path:?}\n  found {here:?}\n  of    {one:?}\n  and   {other:?}"));
            }
        }
        found
    }

    /// What of this tree is not there or is another; there may be more.
    pub(crate) fn missing(&self, found: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for (path, node) in &self.nodes {
            match found.nodes.get(path) {
                None => differences.push(format!("missing: {path:?}")),
                Some(other) if other != node => {
                    differences.push(format!("{path:?}\n  expected {node:?}\n  found    {other:?}"));
                }
                Some(_) => {}
            }
        }
        differences
    }
}

fn visit(
    root: &Path,
    path: &Path,
    nodes: &mut BTreeMap<PathBuf, Node>,
    first_names: &mut HashMap<u64, PathBuf>,
) {
    let full = root.join(path);
    let metadata = fs::symlink_metadata(&full).unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        What::Directory
    } else if kind.is_file() {
        file(&full)
    } else if kind.is_symlink() {
        What::Symlink(fs::read_link(&full).unwrap())
    } else if kind.is_fifo() {
        What::Fifo
    } else {
        What::Other
    };
    let mut children = Vec::new();
    if kind.is_dir() {
        children = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        children.sort();
    }
    let first = first_names.entry(metadata.ino()).or_insert_with(|| path.to_owned());
    let same_as = (!kind.is_dir() && first != path).then(|| first.clone());
    nodes.insert(
        path.to_owned(),
        Node {
            what,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            attributes: attributes(&full),
            same_as,
        },
    );
    for name in children {
        let at_the_root = path == Path::new(".");
        if !(at_the_root && (name == ".volseed" || name == "lost+found")) {
            let child = if at_the_root { PathBuf::from(&name) } else { path.join(&name) };
            visit(root, &child, nodes, first_names);
        }
    }
}

fn file(path: &Path) -> What {
    let bytes = fs::read(path).unwrap();
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    What::File { length: bytes.len(), hash: hasher.finish() }
}

/// The attributes that volseed promises to keep; others are the file system's own affair.
fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return BTreeMap::new();
    };
    names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| name.starts_with(b"user.") || *name == b"security.capability")
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(length);
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect()
}
