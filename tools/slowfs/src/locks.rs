//! The locks that `fcntl` takes: byte ranges of files, held by owners.

use fuser::Errno;
use nix::libc;

use crate::node::Result;

/// A range of a file, as its owner has it or wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub owner: u64,
    /// The open file that it was taken by.
    pub handle: u64,
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
    pub process: u32,
}

#[derive(Debug, Default)]
pub(crate) struct LockTable {
    held: Vec<(u64, Range)>,
}

impl LockTable {
    /// Whose lock is in the way.
    pub(crate) fn conflict(&self, file: u64, wanted: &Range) -> Option<Range> {
        let of_others = self.held.iter().filter(|(held_on, range)| {
            *held_on == file && range.owner != wanted.owner && range.overlaps(wanted)
        });
        of_others
            .map(|(_, range)| *range)
            .find(|range| range.kind == libc::F_WRLCK || wanted.kind == libc::F_WRLCK)
    }

    /// Takes, changes or gives back a lock.
    pub(crate) fn set(&mut self, file: u64, wanted: Range) -> Result<()> {
        if wanted.kind != libc::F_UNLCK && self.conflict(file, &wanted).is_some() {
            return Err(Errno::EAGAIN);
        }
        let mut kept = Vec::with_capacity(self.held.len() + 2);
        for (held_on, range) in self.held.drain(..) {
            if held_on != file || range.owner != wanted.owner || !range.overlaps(&wanted) {
                kept.push((held_on, range));
                continue;
            }
            if range.start < wanted.start {
                kept.push((file, Range { end: wanted.start - 1, ..range }));
            }
            if range.end > wanted.end {
                kept.push((file, Range { start: wanted.end + 1, ..range }));
            }
        }
        if wanted.kind != libc::F_UNLCK {
            kept.push((file, wanted));
        }
        self.held = kept;
        Ok(())
    }

    /// A close gives back what its process holds of the file.
    pub(crate) fn closed(&mut self, file: u64, owner: u64) {
        self.held.retain(|(held_on, range)| *held_on != file || range.owner != owner);
    }

    /// With the last descriptor the locks of the open file description go, too.
    pub(crate) fn released(&mut self, handle: u64) {
        self.held.retain(|(_, range)| range.handle != handle);
    }
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(owner: u64, start: u64, end: u64, kind: i32) -> Range {
        Range { owner, handle: owner, start, end, kind, process: 1 }
    }

    #[test]
    fn writers_exclude_others_and_readers_do_not() {
        let mut table = LockTable::default();
        table.set(5, range(1, 0, 9, libc::F_RDLCK)).unwrap();
        table.set(5, range(2, 0, 9, libc::F_RDLCK)).unwrap();
        assert!(table.set(5, range(3, 9, 9, libc::F_WRLCK)).is_err());
        table.set(5, range(3, 10, 19, libc::F_WRLCK)).unwrap();
        table.set(6, range(3, 0, 9, libc::F_WRLCK)).unwrap();
    }

    #[test]
    fn the_middle_of_a_lock_can_be_given_back() {
        let mut table = LockTable::default();
        table.set(5, range(1, 0, 9, libc::F_WRLCK)).unwrap();
        table.set(5, range(1, 4, 5, libc::F_UNLCK)).unwrap();
        table.set(5, range(2, 4, 5, libc::F_WRLCK)).unwrap();
        assert!(table.set(5, range(2, 3, 3, libc::F_WRLCK)).is_err());
        assert!(table.set(5, range(2, 6, 6, libc::F_WRLCK)).is_err());
    }

    #[test]
    fn a_close_gives_back_its_owner_s_locks() {
        let mut table = LockTable::default();
        table.set(5, range(1, 0, 9, libc::F_WRLCK)).unwrap();
        table.closed(5, 1);
        table.set(5, range(2, 0, 9, libc::F_WRLCK)).unwrap();
        table.released(2);
        table.set(5, range(3, 0, 9, libc::F_WRLCK)).unwrap();
    }
}
