//! A file, directory, link or special file as the server keeps it, and who may do what with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::options::Squash;

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// What one write carries at most, in bytes: the wsize that Linux agrees on with most servers.
pub(crate) const WSIZE: u64 = 1 << 20;

pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const SEARCH: u32 = 1;

/// Who asks, as the server takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub uid: u32,
    pub gid: u32,
}

impl Caller {
    pub(crate) fn squashed(self, squash: Squash) -> Caller {
        match squash {
            Squash::All(uid, gid) => Caller { uid, gid },
            Squash::Root if self.uid == 0 => Caller { uid: 65534, gid: 65534 },
            Squash::Root | Squash::None => self,
        }
    }

    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub content: Content,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub accessed: SystemTime,
    pub modified: SystemTime,
    pub changed: SystemTime,
    /// Its last name, which faults may ask for.
    pub name: OsString,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// Open descriptions; the data outlives its last name until they are gone.
    pub opens: u32,
}

#[derive(Debug)]
pub(crate) enum Content {
    File(Data),
    Directory { entries: BTreeMap<OsString, u64>, parent: u64 },
    Symlink(PathBuf),
    Special(FileType, u32),
}

#[derive(Debug, Default)]
pub(crate) struct Data {
    pub bytes: Vec<u8>,
    /// Pieces of [`WSIZE`] bytes that the client holds and has not sent.
    pub unsent: BTreeSet<u64>,
    /// Why something of it could not be written, until a close or fsync has said so.
    pub failed: Option<Errno>,
}

impl Node {
    pub(crate) fn new(content: Content, mode: u32, owner: (u32, u32), name: OsString) -> Node {
        let now = SystemTime::now();
        let links = if matches!(content, Content::Directory { .. }) { 2 } else { 1 };
        Node {
            content,
            mode: mode & 0o7777,
            uid: owner.0,
            gid: owner.1,
            links,
            accessed: now,
            modified: now,
            changed: now,
            name,
            xattrs: BTreeMap::new(),
            opens: 0,
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        match self.content {
            Content::File(_) => FileType::RegularFile,
            Content::Directory { .. } => FileType::Directory,
            Content::Symlink(_) => FileType::Symlink,
            Content::Special(kind, _) => kind,
        }
    }

    pub(crate) fn attr(&self, number: u64) -> FileAttr {
        let size = match &self.content {
            Content::File(data) => data.bytes.len() as u64,
            Content::Directory { .. } => 4096,
            Content::Symlink(target) => target.as_os_str().len() as u64,
            Content::Special(..) => 0,
        };
        let device = if let Content::Special(_, device) = self.content { device } else { 0 };
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: self.accessed,
            mtime: self.modified,
            ctime: self.changed,
            crtime: self.changed,
            kind: self.kind(),
            perm: self.mode as u16,
            nlink: self.links,
            uid: self.uid,
            gid: self.gid,
            rdev: device,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Whether the caller may do all of `wanted` with it.
    pub(crate) fn allow(&self, caller: Caller, wanted: u32) -> Result<()> {
        let bits = if caller.uid == self.uid {
            self.mode >> 6
        } else if caller.gid == self.gid {
            self.mode >> 3
        } else {
            self.mode
        };
        if caller.is_root() || bits & wanted == wanted { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// What only its owner and root may do.
    pub(crate) fn owned_by(&self, caller: Caller) -> Result<()> {
        if caller.is_root() || caller.uid == self.uid { Ok(()) } else { Err(Errno::EPERM) }
    }

    pub(crate) fn entries(&self) -> Result<&BTreeMap<OsString, u64>> {
        match &self.content {
            Content::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn entries_mut(&mut self) -> Result<&mut BTreeMap<OsString, u64>> {
        match &mut self.content {
            Content::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn data(&mut self) -> Result<&mut Data> {
        match &mut self.content {
            Content::File(data) => Ok(data),
            Content::Directory { .. } => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn touch(&mut self) {
        self.modified = SystemTime::now();
        self.changed = self.modified;
    }

    /// What a server takes away when somebody else than root writes, or the owner changes.
    pub(crate) fn drop_privileges(&mut self) {
        if matches!(self.content, Content::File(_)) {
            self.mode &= !0o4000;
            if self.mode & 0o010 != 0 {
                self.mode &= !0o2000;
            }
        }
    }
}
