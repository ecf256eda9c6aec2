//! One way to answer, whatever the operation.

use std::path::PathBuf;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen, ReplyStatfs,
};

use crate::locks::Range;
use crate::node::Result;

/// A reply that is sent later, from another thread.
pub(crate) trait Reply: Send + 'static {
    type Good: Send + 'static;

    fn send(self, result: Result<Self::Good>, cached: Duration);
}

macro_rules! replies {
    ($($reply:ty, $good:ty, |$self:ident, $value:pat_param, $cached:pat_param| $send:expr;)+) => {
        $(impl Reply for $reply {
            type Good = $good;

            fn send($self, result: Result<$good>, $cached: Duration) {
                match result {
                    Ok($value) => $send,
                    Err(errno) => $self.error(errno),
                }
            }
        })+
    };
}

// What is open stays cached: only this mount changes it, so that an NFS client would find it unchanged.
const KEEP: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

replies! {
    ReplyEmpty, (), |self, (), _| self.ok();
    ReplyEntry, FileAttr, |self, attr, cached| self.entry(&cached, &attr, Generation(0));
    ReplyAttr, FileAttr, |self, attr, cached| self.attr(&cached, &attr);
    ReplyOpen, u64, |self, handle, _| self.opened(FileHandle(handle), KEEP);
    ReplyCreate, (FileAttr, u64), |self, (attr, handle), cached| {
        self.created(&cached, &attr, Generation(0), FileHandle(handle), KEEP);
    };
    ReplyData, Vec<u8>, |self, bytes, _| self.data(&bytes);
    ReplyStatfs, Statfs, |self, it, _| {
        let block = BLOCK as u32;
        self.statfs(it.blocks, it.free, it.free, it.inodes, it.free_inodes, block, it.max_name, block);
    };
    ReplyLock, Option<Range>, |self, found, _| match found {
        Some(range) => self.locked(range.start, range.end, range.kind, range.process),
        None => self.locked(0, 0, nix::libc::F_UNLCK, 0),
    };
    ReplyDirectory, (), |self, (), _| self.ok();
    ReplyDirectoryPlus, (), |self, (), _| self.ok();
}

/// The unit of [`Statfs`], in bytes.
pub(crate) const BLOCK: u64 = 4096;

/// Room on the volume, in blocks.
pub(crate) struct Statfs {
    pub blocks: u64,
    pub free: u64,
    pub inodes: u64,
    pub free_inodes: u64,
    pub max_name: u32,
}

/// A link's target, as READLINK answers it.
pub(crate) fn target(path: PathBuf) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string())
}

/// What an operation ends with whose caller was killed.
pub(crate) const KILLED: Errno = Errno::EINTR;
