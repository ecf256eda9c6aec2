//! Buffers for an archive's file data: few, large, reused, and never more than `--memory`.
//!
//! The producer fills a slab with the data of many small files or with a piece of a large one;
//! writers write straight out of it; the last of them gives it back. So the bytes in flight are
//! bounded exactly, and no file costs an allocation.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Size of a slab in bytes: the largest write that an NFS mount sends at once (nfs(5), `wsize`), so
/// that a file below it is one write.
pub const SLAB: usize = 1 << 20;

/// Hands out slabs and takes them back.
#[derive(Debug)]
pub struct Pool {
    free: Mutex<Free>,
    returned: Condvar,
}

#[derive(Debug)]
struct Free {
    buffers: Vec<Vec<u8>>,
    unmade: usize,
}

/// A filled slab.
#[derive(Debug)]
pub struct Slab {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

/// A piece of a slab: the data of a file, or a part of it.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The slab, kept for as long as the piece.
    pub slab: Arc<Slab>,
    /// Where in it.
    pub range: Range<usize>,
}

impl Piece {
    /// The data.
    pub fn bytes(&self) -> &[u8] {
        &self.slab.bytes[self.range.clone()]
    }
}

impl Pool {
    /// A pool of as many slabs as `memory` bytes hold, one at least.
    pub fn new(memory: u64) -> Arc<Pool> {
        let slabs = usize::try_from(memory).unwrap_or(usize::MAX) / SLAB;
        let free = Free { buffers: Vec::new(), unmade: slabs.max(1) };
        Arc::new(Pool { free: Mutex::new(free), returned: Condvar::new() })
    }

    /// An empty buffer with room for [`SLAB`] bytes. Blocks until one is free: whoever takes one has
    /// handed over all that it filled before.
    pub fn take(&self) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
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
    pub fn seal(self: &Arc<Pool>, bytes: Vec<u8>) -> Arc<Slab> {
        Arc::new(Slab { bytes, pool: Arc::clone(self) })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).buffers.push(bytes);
        self.pool.returned.notify_one();
    }
}
