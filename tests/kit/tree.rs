//! A tree literal that becomes a directory or an archive.
//!
//! `Tree::new().directory("web").mode(0o750).file("web/index.php", "<?php")`: what follows an entry
//! changes that entry. Times differ from entry to entry and have nanoseconds, so that every
//! comparison is also one of times. Parents that are not named are made.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use tar::{EntryType, Header};

use super::Tarball;

#[derive(Debug, Clone)]
pub(crate) struct Tree {
    entries: Vec<Entry>,
    known: BTreeSet<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Empty for the root.
    path: Vec<u8>,
    what: What,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, u32),
    attributes: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
}

impl Tree {
    /// A root; `mode`, `owner` and the like that follow are the root's.
    pub(crate) fn new() -> Self {
        let empty = Self { entries: Vec::new(), known: BTreeSet::new() };
        empty.add(b"", What::Directory, 0o755)
    }

    /// A small web application with a bit of everything.
    pub(crate) fn sample() -> Self {
        Self::new()
            .file("index.php", "<?php phpinfo();")
            .file("empty", "")
            .file("bin/tool", vec![b'x'; 70_000])
            .mode(0o755)
            .hard_link("bin/alias", "bin/tool")
            .directory("uploads")
            .mode(0o770)
            .symlink("current", "releases/1")
            .file("releases/1/notes.txt", "first")
    }

    /// Many files of a kibibyte in one directory, told apart by their bytes.
    pub(crate) fn many(directory: &str, count: usize) -> Self {
        Self::many_of(directory, count, 1 << 10)
    }

    /// Many files of this size in one directory, told apart by their bytes.
    pub(crate) fn many_of(directory: &str, count: usize, bytes: usize) -> Self {
        (0..count).fold(Self::new(), |tree, number| {
            let body = format!("{number:08}").repeat(bytes / 8);
            tree.file(format!("{directory}/{number:05}"), body)
        })
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, body: impl Into<Vec<u8>>) -> Self {
        self.add(path.as_ref(), What::File(body.into()), 0o644)
    }

    pub(crate) fn directory(self, path: impl AsRef<[u8]>) -> Self {
        self.add(path.as_ref(), What::Directory, 0o755)
    }

    pub(crate) fn symlink(self, path: impl AsRef<[u8]>, target: &str) -> Self {
        self.add(path.as_ref(), What::Symlink(target.into()), 0o777)
    }

    /// A second name; the target stands before it.
    pub(crate) fn hard_link(self, path: impl AsRef<[u8]>, target: &str) -> Self {
        self.add(path.as_ref(), What::HardLink(target.into()), 0o644)
    }

    pub(crate) fn fifo(self, path: impl AsRef<[u8]>) -> Self {
        self.add(path.as_ref(), What::Fifo, 0o640)
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.last().mode = mode;
        self
    }

    pub(crate) fn owner(mut self, user: u32, group: u32) -> Self {
        self.last().owner = (user, group);
        self
    }

    pub(crate) fn modified(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.last().modified = (seconds, nanoseconds);
        self
    }

    pub(crate) fn attribute(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.last().attributes.push((name, value.into()));
        self
    }

    fn last(&mut self) -> &mut Entry {
        self.entries.last_mut().unwrap()
    }

    fn add(mut self, path: &[u8], what: What, mode: u32) -> Self {
        if !path.is_empty() && self.known.contains(path) {
            panic!("twice in the tree: {}", path.escape_ascii());
        }
        if let Some(slash) = path.iter().rposition(|&byte| byte == b'/')
            && !self.known.contains(&path[..slash])
        {
            self = self.add(&path[..slash], What::Directory, 0o755);
        }
        self.known.insert(path.to_vec());
        let number = self.entries.len() as i64;
        self.entries.push(Entry {
            path: path.to_vec(),
            what,
            mode,
            owner: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
            modified: (1_500_000_000 + number, 123_456_789),
            attributes: Vec::new(),
        });
        self
    }

    /// Makes the tree; the directory may be there already.
    #[track_caller]
    pub(crate) fn write_to(&self, root: &Path) -> PathBuf {
        for entry in &self.entries {
            let path = entry.below(root);
            match &entry.what {
                What::Directory => fs::create_dir_all(&path).unwrap(),
                What::File(body) => fs::write(&path, body).unwrap(),
                What::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
                What::HardLink(target) => {
                    fs::hard_link(root.join(OsStr::from_bytes(target)), &path).unwrap();
                }
                What::Fifo => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }
        }
        // Children first: filling a directory changes its time, and a narrow mode keeps others out.
        for entry in self.entries.iter().rev() {
            entry.dress(&entry.below(root));
        }
        root.to_owned()
    }

    /// The same as an archive, in the order of the literal.
    pub(crate) fn archive(&self) -> Vec<u8> {
        self.members().build()
    }

    /// The archive without its end, as much of a stream as has come so far.
    pub(crate) fn members(&self) -> Tarball {
        self.entries.iter().fold(Tarball::new(), |archive, entry| entry.append(archive))
    }
}

impl Entry {
    fn below(&self, root: &Path) -> PathBuf {
        root.join(OsStr::from_bytes(&self.path))
    }

    fn dress(&self, path: &Path) {
        if matches!(self.what, What::HardLink(_)) {
            return;
        }
        let (seconds, nanoseconds) = self.modified;
        if (self.owner.0, self.owner.1) != (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        {
            std::os::unix::fs::lchown(path, Some(self.owner.0), Some(self.owner.1)).unwrap();
        }
        for (name, value) in &self.attributes {
            rustix::fs::lsetxattr(path, *name, value, XattrFlags::empty()).unwrap();
        }
        if !matches!(self.what, What::Symlink(_)) {
            fs::set_permissions(path, fs::Permissions::from_mode(self.mode)).unwrap();
        }
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn append(&self, archive: Tarball) -> Tarball {
        let (kind, link, body): (_, &[u8], &[u8]) = match &self.what {
            What::Directory => (EntryType::Directory, b"", b""),
            What::File(body) => (EntryType::Regular, b"", body),
            What::Symlink(target) => (EntryType::Symlink, target, b""),
            What::HardLink(target) => (EntryType::Link, target, b""),
            What::Fifo => (EntryType::Fifo, b"", b""),
        };
        let mut name = self.path.clone();
        if self.path.is_empty() {
            name.push(b'.');
        }
        if matches!(self.what, What::Directory) {
            name.push(b'/');
        }
        let (seconds, nanoseconds) = self.modified;
        let time = decimal(seconds, nanoseconds);
        let attributes: Vec<_> = self
            .attributes
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
            .collect();
        let mut records: Vec<(&str, &[u8])> = vec![("mtime", time.as_bytes())];
        records.extend(attributes.iter().map(|(key, value)| (key.as_str(), *value)));
        if name.len() > 100 {
            records.push(("path", &name));
        }
        if link.len() > 100 {
            records.push(("linkpath", link));
        }
        let short = |long: &[u8]| long[..long.len().min(100)].to_vec();
        archive.pax(&records).member(kind, short(&name), short(link), body).edit(|header: &mut Header| {
            header.set_mode(self.mode);
            header.set_uid(self.owner.0.into());
            header.set_gid(self.owner.1.into());
            header.set_mtime(seconds.max(0) as u64);
        })
    }
}

/// Seconds as pax writes them: -0.5 is half a second before the epoch.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000)
}
