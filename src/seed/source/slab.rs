//! Buffers for an archive's file data: few, large, reused, and never more than `--memory`.
//!
//! What else an entry takes while it waits is counted here, too.
//!
//! The reader fills a slab with the data of many small files or with a piece of a large one;
//! writers write straight out of it; the last of them gives it back. So the bytes in flight are
//! bounded exactly, and no file costs an allocation.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Size of a slab in bytes: the largest write that an NFS mount sends at once (nfs(5), `wsize`), so
/// that a file below it is one write.
pub(crate) const SLAB: usize = 1 << 20;

/// Hands out slabs and takes them back.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Mutex<Free>,
    returned: Condvar,
    max_charged: usize,
}

#[derive(Debug)]
struct Free {
    buffers: Vec<Vec<u8>>,
    unmade: usize,
    charged: usize,
}

/// How `--memory` is divided for an archive, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryShares {
    /// File data in flight.
    pub data: u64,
    /// Names, attributes and targets in the queue.
    pub queued: u64,
    /// Directories that are not finished.
    pub directories: u64,
    /// Which names may have come before.
    pub names: u64,
}

impl MemoryShares {
    /// Of so many bytes. What is not data gets five sixteenths, of which the first 8 MiB come on top, so
    /// that 64 writers still have nearly a whole request each.
    pub(crate) fn new(memory: u64) -> MemoryShares {
        MemoryShares {
            data: memory - (memory / 16 * 5).saturating_sub(8 << 20),
            queued: memory / 16,
            directories: memory / 8,
            names: memory / 8,
        }
    }
}

/// Memory that an entry takes while it waits, given back with it.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: usize,
    pool: Arc<Pool>,
}

/// A filled slab.
#[derive(Debug)]
pub(crate) struct Slab {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

/// A piece of a slab: the data of a file, or a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// The slab, kept for as long as the piece.
    pub slab: Arc<Slab>,
    /// Where in it.
    pub range: Range<usize>,
}

impl Piece {
    /// The data.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.slab.bytes[self.range.clone()]
    }
}

impl Pool {
    /// A pool of as many slabs as the budget for data holds, one at least.
    pub(crate) fn new(budget: MemoryShares) -> Arc<Pool> {
        let [data, queued] =
            [budget.data, budget.queued].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let free = Free { buffers: Vec::new(), unmade: (data / SLAB).max(1), charged: 0 };
        Arc::new(Pool { free: Mutex::new(free), returned: Condvar::new(), max_charged: queued })
    }

    /// Counts what an entry takes besides its data; `None` where entries that wait take too much
    /// already. One alone may take any.
    pub(crate) fn charge(self: &Arc<Pool>, bytes: usize) -> Option<Charge> {
        let mut free = self.lock();
        if free.charged > 0 && free.charged + bytes > self.max_charged {
            return None;
        }
        free.charged += bytes;
        Some(Charge { bytes, pool: Arc::clone(self) })
    }

    /// The same, and blocks until there is room: the caller has handed over all before.
    pub(crate) fn charge_when_free(self: &Arc<Pool>, bytes: usize) -> Charge {
        loop {
            if let Some(charge) = self.charge(bytes) {
                return charge;
            }
            let free = self.lock();
            let full = |free: &mut Free| free.charged > 0 && free.charged + bytes > self.max_charged;
            drop(self.returned.wait_while(free, full));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer with room for [`SLAB`] bytes. Blocks until one is free: a caller has
    /// handed over all that it filled before.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut free = self.lock();
        loop {
            if let Some(buffer) = free.buffers.pop() {
                return buffer;
            }
            if free.unmade > 0 {
                free.unmade -= 1;
                return Vec::with_capacity(SLAB);
            }
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes a filled buffer a slab, to be returned by its last user.
    pub(crate) fn seal(self: &Arc<Pool>, bytes: Vec<u8>) -> Arc<Slab> {
        Arc::new(Slab { bytes, pool: Arc::clone(self) })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.pool.lock().buffers.push(bytes);
        self.pool.returned.notify_one();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.lock().charged -= self.bytes;
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_memory_is_divided_into_is_no_more_than_all_of_it() {
        for mebibytes in [4, 8, 16, 64, 1024] {
            let memory = mebibytes << 20;
            let shares = MemoryShares::new(memory);
            let others = shares.queued + shares.directories + shares.names;
            assert!(shares.data + others <= memory + (8 << 20), "{mebibytes} MiB: {shares:?}");
            assert!(shares.data >= memory / 16 * 11, "{mebibytes} MiB: {shares:?}");
        }
    }

    #[test]
    fn a_slab_comes_back_with_its_last_piece() {
        let pool = Pool::new(MemoryShares { data: SLAB as u64, queued: 0, directories: 0, names: 0 });
        let slab = pool.seal(pool.take());
        let piece = Piece { slab: Arc::clone(&slab), range: 0..0 };
        drop(slab);
        assert!(pool.lock().buffers.is_empty(), "a piece is left");
        drop(piece);
        assert_eq!(pool.take().capacity(), SLAB, "the one buffer that there is");
    }

    #[test]
    fn one_charge_alone_may_take_any_and_others_stay_within_the_bound() {
        let pool = Pool::new(MemoryShares { data: 0, queued: 100, directories: 0, names: 0 });
        let large = pool.charge(1000).unwrap();
        assert!(pool.charge(1).is_none());
        drop(large);
        let half = pool.charge(60).unwrap();
        assert!(pool.charge(41).is_none());
        let rest = pool.charge(40).unwrap();
        drop((half, rest));
        assert_eq!(pool.lock().charged, 0);
    }
}
