//! The kernel's requests, one by one.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use nix::libc;

use crate::counts::Op;
use crate::data::Changes;
use crate::locks::Range;
use crate::node::{Content, READ, WSIZE};
use crate::options::Locks;
use crate::reply::target;
use crate::server::{About, Server};
use crate::xattrs;

/// Handles of open files and directories: no two are the same, whatever mount they belong to.
static LAST_HANDLE: AtomicU64 = AtomicU64::new(0);

fn new_handle() -> u64 {
    LAST_HANDLE.fetch_add(1, Relaxed) + 1
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_CACHE_SYMLINKS;
        if self.options.locks != Locks::Local {
            wanted |= InitFlags::FUSE_POSIX_LOCKS;
        }
        let wanted = wanted & config.capabilities();
        let told = |_| io::Error::other("the kernel does not take what it offered");
        config.add_capabilities(wanted).map_err(told)?;
        config.set_max_write(WSIZE as u32).map_err(|_| io::Error::other("max_write"))?;
        // Reads ahead are the only requests in the background; the wire has its own bound.
        config.set_max_background(1024).map_err(|_| io::Error::other("max_background"))?;
        config.set_congestion_threshold(1024).map_err(|_| io::Error::other("congestion_threshold"))?;
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree();
        let result = match self.rules.strike(Op::Lookup, name) {
            Some(failure) => Err(failure.errno),
            None => tree.lookup(self.caller(request), parent.0, name),
        };
        drop(tree);
        if result == Err(Errno::ENOENT) {
            self.meter.missed(parent.0, name, request.pid());
            self.answer(request, Op::LookupMissed, 0, reply, result);
        } else {
            self.meter.count(Op::Lookup, 1);
            self.answer(request, Op::Lookup, 0, reply, result);
        }
    }

    fn getattr(&self, request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(request, Op::Getattr, About::Node(number.0), reply, |tree, _| tree.attr(number.0));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _changed_time: Option<SystemTime>,
        _backup: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes { mode, uid, gid, size, accessed, modified, opened: handle.is_some() };
        self.serve(request, Op::Setattr, About::Node(number.0), reply, |tree, caller| {
            tree.change(caller, number.0, changes)
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        self.serve(request, Op::Readlink, About::Node(number.0), reply, |tree, _| {
            tree.target(number.0).map(target)
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        self.make(request, Op::Mknod, (parent, name), reply, |tree, caller| {
            let content = match mode & libc::S_IFMT {
                libc::S_IFREG => Content::File(Default::default()),
                libc::S_IFIFO => Content::Special(FileType::NamedPipe, 0),
                libc::S_IFSOCK => Content::Special(FileType::Socket, 0),
                libc::S_IFCHR => Content::Special(FileType::CharDevice, device),
                libc::S_IFBLK => Content::Special(FileType::BlockDevice, device),
                _ => return Err(Errno::EINVAL),
            };
            tree.make(caller, parent.0, name, mode, content)
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(request, Op::Mkdir, (parent, name), reply, |tree, caller| {
            tree.make_directory(caller, parent.0, name, mode)
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(request, Op::Unlink, About::Name(name), reply, |tree, caller| {
            tree.unlink(caller, parent.0, name)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(request, Op::Rmdir, About::Name(name), reply, |tree, caller| {
            tree.rmdir(caller, parent.0, name)
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.make(request, Op::Symlink, (parent, name), reply, |tree, caller| {
            tree.make(caller, parent.0, name, 0o777, Content::Symlink(target.to_owned()))
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let exchanges = self.options.exchange && flags == RenameFlags::RENAME_EXCHANGE;
        self.make(request, Op::Rename, (new_parent, new_name), reply, |tree, caller| {
            if exchanges {
                return tree.exchange(caller, (parent.0, name), (new_parent.0, new_name));
            }
            tree.rename(caller, (parent.0, name), (new_parent.0, new_name), flags)
        });
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.make(request, Op::Link, (parent, name), reply, |tree, caller| {
            tree.link(caller, number.0, parent.0, name)
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.make(request, Op::Create, (parent, name), reply, |tree, caller| {
            let attr = tree.create(caller, parent.0, name, mode, flags & libc::O_EXCL != 0)?;
            Ok((attr, new_handle()))
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(request, Op::Open, About::Node(number.0), reply, |tree, caller| {
            tree.open(caller, number.0, flags.0).map(|()| new_handle())
        });
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(request, Op::Read, About::Node(number.0), reply, |tree, _| {
            tree.read(number.0, offset, size)
        });
    }

    /// Taken at once, as by a client's page cache; sent by what follows (see `flushes`).
    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.tree().write(self.caller(request), number.0, offset, data) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The CLOSE is charged to the first descriptor that goes; those that `dup` made send what was
        // written since.
        let first = self.closed.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.0);
        let op = if first { Op::Close } else { Op::Fsync };
        self.serve(request, op, About::Node(number.0), reply, |tree, _| {
            tree.locks.closed(number.0, owner.0);
            tree.write_error(number.0)
        });
    }

    fn release(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Op::Release, About::Node(number.0), reply, |tree, _| {
            self.closed.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
            tree.locks.released(handle.0);
            tree.close(number.0);
            Ok(())
        });
    }

    fn fsync(
        &self,
        request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Op::Fsync, About::Node(number.0), reply, |tree, _| tree.write_error(number.0));
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(request, Op::Opendir, About::Node(number.0), reply, |tree, caller| {
            tree.node(number.0)?.allow(caller, READ).map(|()| new_handle())
        });
    }

    fn readdir(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = self.tree();
        let result = self.entries(&tree, handle.0, number.0, offset).map(|entries| {
            let mut bytes = 0;
            for (place, (name, number)) in entries.iter().enumerate().skip(offset as usize) {
                let Ok(node) = tree.node(*number) else { continue };
                if reply.add(INodeNo(*number), place as u64 + 1, node.kind(), name) {
                    break;
                }
                bytes += 24 + name.len() as u64;
            }
            bytes
        });
        drop(tree);
        self.directory(request, handle.0, reply, result);
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let tree = self.tree();
        let result = self.entries(&tree, handle.0, number.0, offset).map(|entries| {
            let mut bytes = 0;
            for (place, (name, entry)) in entries.iter().enumerate().skip(offset as usize) {
                // The kernel keeps what it is told here: nothing that was moved or removed since.
                let is_there = name == "."
                    || name == ".."
                    || tree
                        .node(number.0)
                        .and_then(|it| it.entries())
                        .is_ok_and(|it| it.get(name) == Some(entry));
                let Some(attr) = tree.attr(*entry).ok().filter(|_| is_there) else { continue };
                let cached = self.options.cached;
                if reply.add(INodeNo(*entry), place as u64 + 1, name, &cached, &attr, Generation(0)) {
                    break;
                }
                bytes += 152 + name.len() as u64;
            }
            bytes
        });
        drop(tree);
        self.directory(request, handle.0, reply, result);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Op::Fsync, About::Node(number.0), reply, |_, _| Ok(()));
    }

    fn statfs(&self, request: &Request, number: INodeNo, reply: ReplyStatfs) {
        self.serve(request, Op::Statfs, About::Node(number.0), reply, |tree, _| Ok(tree.statfs()));
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Op::Xattr, About::Node(number.0), reply, |tree, caller| {
            tree.set_xattr(caller, number.0, name, value, flags)
        });
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.meter.count(Op::Xattr, 1);
        xattrs::send(reply, size, self.tree().xattr(number.0, name));
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.meter.count(Op::Xattr, 1);
        xattrs::send(reply, size, self.tree().list_xattrs(number.0));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(request, Op::Xattr, About::Node(number.0), reply, |tree, caller| {
            tree.remove_xattr(caller, number.0, name)
        });
    }

    fn access(&self, request: &Request, number: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.serve(request, Op::Access, About::Node(number.0), reply, |tree, caller| {
            tree.node(number.0)?.allow(caller, mask.bits() as u32 & 7)
        });
    }

    fn getlk(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        reply: ReplyLock,
    ) {
        let wanted = Range { owner: owner.0, handle: handle.0, start, end, kind, process };
        self.serve(request, Op::Lock, About::Node(number.0), reply, |tree, _| match self.options.locks {
            Locks::Refused(errno) => Err(errno),
            _ => Ok(tree.locks.conflict(number.0, &wanted)),
        });
    }

    fn setlk(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        let wanted = Range { owner: owner.0, handle: handle.0, start, end, kind, process };
        self.serve(request, Op::Lock, About::Node(number.0), reply, |tree, _| match self.options.locks {
            Locks::Refused(errno) => Err(errno),
            _ => tree.locks.set(number.0, wanted).map_err(|busy| if waits { Errno::ENOLCK } else { busy }),
        });
    }
}
