//! What is in files and about files: bytes, sizes, modes, owners, times.

use std::collections::BTreeSet;
use std::time::SystemTime;

use fuser::{Errno, FileAttr, TimeOrNow};
use nix::libc;

use crate::node::{Caller, READ, Result, WRITE, WSIZE};
use crate::quirks::Change;
use crate::reply::{BLOCK, Statfs};
use crate::tree::Tree;

/// What a SETATTR asks for.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<TimeOrNow>,
    pub modified: Option<TimeOrNow>,
    /// Whether it came by a descriptor that is open for writing.
    pub opened: bool,
}

impl Tree {
    pub(crate) fn change(&mut self, caller: Caller, number: u64, changes: Changes) -> Result<FileAttr> {
        let changes = self.possible(changes)?;
        let node = self.node_mut(number)?;
        if changes.mode.is_some() {
            node.owned_by(caller)?;
        }
        if changes.uid.is_some_and(|uid| uid != node.uid) && !caller.is_root() {
            return Err(Errno::EPERM);
        }
        if let Some(gid) = changes.gid.filter(|gid| *gid != node.gid) {
            node.owned_by(caller)?;
            if !caller.is_root() && gid != caller.gid {
                return Err(Errno::EPERM);
            }
        }
        if changes.size.is_some() && !changes.opened {
            node.allow(caller, WRITE).or_else(|error| node.owned_by(caller).map_err(|_| error))?;
        }
        let times = [changes.accessed, changes.modified];
        if times.iter().flatten().any(|time| matches!(time, TimeOrNow::SpecificTime(_))) {
            node.owned_by(caller)?;
        } else if times.iter().any(Option::is_some) {
            node.allow(caller, WRITE).or_else(|error| node.owned_by(caller).map_err(|_| error))?;
        }

        if changes.uid.is_some() || changes.gid.is_some() {
            node.drop_privileges();
            node.uid = changes.uid.unwrap_or(node.uid);
            node.gid = changes.gid.unwrap_or(node.gid);
        }
        if let Some(mode) = changes.mode {
            let kept = if caller.is_root() || caller.gid == node.gid { 0o7777 } else { 0o5777 };
            node.mode = mode & kept;
        }
        if let Some(size) = changes.size {
            self.resize(number, size)?;
        }
        let oldest = self.quirks.oldest_time;
        let node = self.node_mut(number)?;
        let now = SystemTime::now();
        let moment = |time: TimeOrNow| match time {
            TimeOrNow::SpecificTime(time) => oldest.map_or(time, |oldest| time.max(oldest)),
            TimeOrNow::Now => now,
        };
        node.accessed = changes.accessed.map_or(node.accessed, moment);
        node.modified = changes.modified.map_or(node.modified, moment);
        node.changed = now;
        self.attr(number)
    }

    /// What the file system makes of these changes.
    fn possible(&self, mut changes: Changes) -> Result<Changes> {
        let quirks = &self.quirks;
        let is_ignored = |asked: bool, change| match change {
            Change::Refused(errno) if asked => Err(errno),
            _ => Ok(change == Change::Ignored),
        };
        if is_ignored(changes.mode.is_some(), quirks.modes)? {
            changes.mode = None;
        }
        if is_ignored(changes.uid.is_some() || changes.gid.is_some(), quirks.owners)? {
            (changes.uid, changes.gid) = (None, None);
        }
        // The kernel sends the time of a truncation along with it.
        let sets_time = changes.accessed.is_some() || changes.modified.is_some();
        if is_ignored(sets_time && changes.size.is_none(), quirks.times)? {
            (changes.accessed, changes.modified) = (None, None);
        }
        Ok(changes)
    }

    pub(crate) fn open(&mut self, caller: Caller, number: u64, flags: i32) -> Result<()> {
        let node = self.node_mut(number)?;
        let wanted = match flags & libc::O_ACCMODE {
            libc::O_WRONLY => WRITE,
            libc::O_RDWR => READ | WRITE,
            _ => READ,
        };
        // A server lets the owner of a file read and write it whatever its mode says: the client may
        // have opened it when it had another one.
        node.allow(caller, wanted).or_else(|error| node.owned_by(caller).map_err(|_| error))?;
        node.opens += 1;
        if flags & libc::O_TRUNC != 0 {
            self.resize(number, 0)?;
            self.node_mut(number)?.touch();
        }
        Ok(())
    }

    pub(crate) fn close(&mut self, number: u64) {
        if let Ok(node) = self.node_mut(number) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.drop_unreachable(number);
    }

    pub(crate) fn read(&mut self, number: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let bytes = &self.node_mut(number)?.data()?.bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    /// Takes data as the client's page cache does: a full volume is told by the next close.
    pub(crate) fn write(&mut self, caller: Caller, number: u64, offset: u64, bytes: &[u8]) -> Result<u32> {
        let end = offset + bytes.len() as u64;
        let length = self.node_mut(number)?.data()?.bytes.len() as u64;
        let grown = end.saturating_sub(length);
        if grown > 0 && self.quirks.quota.is_some_and(|quota| self.used + grown > quota) {
            return Err(Errno::EDQUOT);
        }
        let full = self.capacity.is_some_and(|capacity| self.used + grown > capacity);
        let node = self.node_mut(number)?;
        if !caller.is_root() {
            node.drop_privileges();
        }
        node.touch();
        let data = node.data()?;
        data.unsent.extend(offset / WSIZE..end.div_ceil(WSIZE));
        if full {
            data.failed = Some(Errno::ENOSPC);
        } else {
            let (start, end) = (offset as usize, end as usize);
            data.bytes.resize(data.bytes.len().max(end), 0);
            data.bytes[start..end].copy_from_slice(bytes);
            self.used += grown;
        }
        Ok(bytes.len() as u32)
    }

    /// Pieces that the client has still to send of this file; from now on they are sent.
    pub(crate) fn unsent(&mut self, number: u64) -> BTreeSet<u64> {
        match self.node_mut(number).and_then(|node| node.data()) {
            Ok(data) => std::mem::take(&mut data.unsent),
            Err(_) => BTreeSet::new(),
        }
    }

    /// What went wrong with earlier writes of this file; told once.
    pub(crate) fn write_error(&mut self, number: u64) -> Result<()> {
        match self.node_mut(number)?.data() {
            Ok(data) => data.failed.take().map_or(Ok(()), Err),
            Err(_) => Ok(()),
        }
    }

    /// A piece that did not arrive: a hole is in its place. The size is the client's, which later pieces
    /// and a change of size tell the server as well.
    pub(crate) fn lose(&mut self, number: u64, piece: u64, errno: Errno) {
        if let Ok(data) = self.node_mut(number).and_then(|node| node.data()) {
            data.failed = Some(errno);
            let place = |piece: u64| usize::try_from(piece * WSIZE).unwrap_or(usize::MAX);
            let end = place(piece + 1).min(data.bytes.len());
            data.bytes[place(piece).min(end)..end].fill(0);
        }
    }

    /// The room that is left, unless it is to say something else.
    pub(crate) fn statfs(&self) -> Statfs {
        let capacity = self.capacity.or(self.quirks.quota).unwrap_or(1 << 40);
        let room = self.quirks.room;
        Statfs {
            blocks: capacity / BLOCK,
            free: room.free_blocks.unwrap_or(capacity.saturating_sub(self.used) / BLOCK),
            inodes: room.inodes.unwrap_or(1 << 20),
            free_inodes: room.free_inodes.unwrap_or(1 << 20),
            max_name: room.max_name.unwrap_or(255),
        }
    }

    fn resize(&mut self, number: u64, size: u64) -> Result<()> {
        let data = self.node_mut(number)?.data()?;
        let before = data.bytes.len() as u64;
        if size == before {
            return Ok(());
        }
        let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
        data.bytes.resize(size, 0);
        let node = self.node_mut(number)?;
        node.touch();
        self.used = self.used + size as u64 - before;
        Ok(())
    }
}
