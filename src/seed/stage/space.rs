//! Whether a seed fits on its volume, told while the source is read: the first entry that does not fit any more
//! ends the seed, before most of it is written.
//!
//! Only what is sure is refused. What a file system says may be no number at all, and what it holds may be
//! smaller there: those that compress are not asked, and a server is taken to make a quarter of it, without blocks.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::StatFs;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::text::byte_size;
use crate::volume::{FileSystem, Storage, user};

/// How much smaller a server may store what it is sent: more than text that is compressed with zstd.
const SHRINKS: u64 = 4;

/// What is free on a volume, and what the seed has taken of it so far.
#[derive(Debug)]
pub(crate) struct Space {
    volume: PathBuf,
    /// What a file's data is rounded up to, in bytes.
    block: u64,
    bytes: Account,
    inodes: Account,
}

#[derive(Debug, Default)]
struct Account {
    needed: AtomicU64,
    free: Option<u64>,
    /// The least that is stored of what is needed, as its divisor.
    shrinks: u64,
}

impl Space {
    /// Of the volume at `path`, which `found` was just said of.
    pub(crate) fn new(path: PathBuf, kind: FileSystem, found: &StatFs) -> Space {
        Space::of(path, kind, &Numbers::from(found), user::is_root())
    }

    /// What is not known of a stage that an earlier run has filled in part: that is not free any more.
    pub(crate) fn unknown() -> Space {
        Space { volume: PathBuf::new(), block: 1, bytes: Account::default(), inodes: Account::default() }
    }

    fn of(volume: PathBuf, kind: FileSystem, found: &Numbers, is_root: bool) -> Space {
        let is_certain = matches!(kind.place, Storage::Local | Storage::Memory);
        // An overlay is as its upper layer.
        let shrinks = if is_certain && kind.name != "overlay" { 1 } else { SHRINKS };
        // What is kept for root counts for root.
        let blocks = if is_root { found.blocks_free } else { found.blocks_available };
        let blocks = blocks.filter(|_| !matches!(kind.name, "btrfs" | "zfs" | "bcachefs" | "f2fs"));
        // Some that answer for a server say 0 for what they do not know.
        let is_number = |free: &u64| is_certain || *free > 0;
        let bytes = blocks.filter(is_number).map(|blocks| blocks.saturating_mul(found.block));
        let inodes = found.inodes_free.filter(is_number);
        // A client names what it sends in one request as its block (Linux `fs/nfs/super.c`: `wsize`).
        let block = if is_certain { found.block } else { 1 };
        Space {
            volume,
            block,
            bytes: Account { needed: AtomicU64::new(0), free: bytes, shrinks },
            inodes: Account { needed: AtomicU64::new(0), free: inodes, shrinks: 1 },
        }
    }

    /// Another entry, with so many bytes of data.
    ///
    /// # Errors
    /// Exit 73 when it does not fit.
    pub(crate) fn take(&self, data: u64) -> Result<()> {
        let data = data.checked_next_multiple_of(self.block).unwrap_or(u64::MAX);
        let cause = match (self.bytes.take(data), self.inodes.take(1)) {
            (Some(free), _) => {
                format!(
                    "no space left for all of it: {} so far, {} free",
                    byte_size(self.bytes.needed.load(Relaxed)),
                    byte_size(free)
                )
            }
            (None, Some(free)) => {
                format!(
                    "no inodes left for all of it: {} so far, {free} free",
                    self.inodes.needed.load(Relaxed)
                )
            }
            (None, None) => return Ok(()),
        };
        Err(Error::new(Exit::Volume, "seed volume", cause).on(self.volume.as_path()).help(
            "enlarge the volume, or leave something out (--exclude), and start again; nothing was published",
        ))
    }

    /// What was taken for an entry is free again: another has taken its name.
    pub(crate) fn give_back(&self, data: u64) {
        let data = data.checked_next_multiple_of(self.block).unwrap_or(u64::MAX);
        self.bytes.give_back(data);
        self.inodes.give_back(1);
    }

    /// What is needed so far, what is free where that is known, and whether that is too little: of bytes and of inodes.
    pub(crate) fn accounts(&self) -> [(u64, Option<u64>, bool); 2] {
        let of = |account: &Account| (account.needed.load(Relaxed), account.free, account.is_exceeded());
        [of(&self.bytes), of(&self.inodes)]
    }

    /// Whether something did not fit.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.bytes.is_exceeded() || self.inodes.is_exceeded()
    }
}

impl Account {
    /// What is free, where that is not enough.
    fn take(&self, more: u64) -> Option<u64> {
        self.change(|needed| needed.saturating_add(more));
        self.free.filter(|_| self.is_exceeded())
    }

    fn give_back(&self, less: u64) {
        self.change(|needed| needed.saturating_sub(less));
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let changed = self.needed.fetch_update(Relaxed, Relaxed, |needed| Some(change(needed)));
        changed.expect("there is always a next value");
    }

    fn is_exceeded(&self) -> bool {
        self.free.is_some_and(|free| self.needed.load(Relaxed) / self.shrinks > free)
    }
}

/// What statfs(2) says, as far as it can be true.
struct Numbers {
    block: u64,
    blocks_free: Option<u64>,
    blocks_available: Option<u64>,
    inodes_free: Option<u64>,
}

impl From<&StatFs> for Numbers {
    fn from(found: &StatFs) -> Numbers {
        // 0 of all: without a limit, or without an answer. More free than there are: no number.
        let of = |free: u64, all: u64| (all > 0 && free <= all).then_some(free);
        let block = u64::try_from(found.f_frsize).ok().filter(|block| block.is_power_of_two()).unwrap_or(512);
        Numbers {
            block,
            blocks_free: of(found.f_bfree, found.f_blocks),
            blocks_available: of(found.f_bavail, found.f_blocks),
            inodes_free: of(found.f_ffree, found.f_files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: FileSystem = FileSystem { name: "ext4", place: Storage::Local };
    const SERVER: FileSystem = FileSystem { name: "nfs", place: Storage::Network };

    fn space(kind: FileSystem, is_root: bool, blocks: Option<u64>, inodes: Option<u64>) -> Space {
        let numbers = Numbers {
            block: 4096,
            blocks_free: blocks.map(|it| it.saturating_add(10)),
            blocks_available: blocks,
            inodes_free: inodes,
        };
        Space::of(PathBuf::from("/v"), kind, &numbers, is_root)
    }

    /// How many files of so many bytes fit, up to 1000.
    fn fit(space: Space, data: u64) -> usize {
        (0..1000).take_while(|_| space.take(data).is_ok()).count()
    }

    #[test]
    fn data_is_rounded_up_to_blocks_and_reserved_ones_are_roots() {
        assert_eq!(fit(space(LOCAL, false, Some(100), None), 4096), 100);
        assert_eq!(fit(space(LOCAL, false, Some(100), None), 1), 100);
        assert_eq!(fit(space(LOCAL, false, Some(100), None), 4097), 50);
        assert_eq!(fit(space(LOCAL, true, Some(100), None), 4096), 110);
        assert_eq!(fit(space(LOCAL, false, Some(0), None), 1), 0);
        assert_eq!(fit(space(LOCAL, false, Some(0), None), 0), 1000);
        assert_eq!(fit(space(LOCAL, false, Some(u64::MAX), None), u64::MAX), 1000);
        assert_eq!(fit(space(LOCAL, false, Some(7), Some(3)), 0), 3);
    }

    #[test]
    fn what_may_be_stored_smaller_is_not_refused() {
        assert_eq!(fit(space(SERVER, false, Some(100), None), 4096), 400);
        assert_eq!(fit(space(FileSystem { name: "zfs", ..LOCAL }, false, Some(100), None), 4096), 1000);
        assert_eq!(fit(space(SERVER, false, Some(0), Some(0)), 4096), 1000);
        assert_eq!(fit(space(LOCAL, false, None, None), 4096), 1000);
        assert_eq!(fit(Space::unknown(), 4096), 1000);
    }

    #[test]
    fn a_small_file_on_a_server_does_not_count_as_a_large_block() {
        assert_eq!(fit(space(SERVER, false, Some(1), None), 1), 1000);
        assert_eq!(fit(space(SERVER, false, Some(1), None), 4095), 4);
    }

    #[test]
    fn what_was_replaced_counts_once() {
        let space = space(LOCAL, false, Some(1), Some(1));
        for _ in 0..3 {
            space.take(4000).unwrap();
            assert!(!space.is_exceeded());
            space.give_back(4000);
        }
        space.take(4000).unwrap();
        assert!(space.take(4000).is_err() && space.is_exceeded());
    }
}
