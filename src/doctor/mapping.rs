//! One page of a file, mapped and shared: what SQLite's WAL and LMDB need to be the same for every process.
//!
//! Only used by [`helper`](super::helper), a process of its own: a server that goes away while a page is mapped ends
//! the process that looks at it (SIGBUS, mmap(2)).

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::io::Result;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync};

/// The smallest page that there is, in bytes.
pub(super) const LENGTH: usize = 4096;

/// It; mapped for as long as the process lives.
pub(super) struct Page(*mut c_void);

impl Page {
    /// The first page of a file that is at least as long.
    ///
    /// # Errors
    /// As `mmap`.
    pub(super) fn of(file: BorrowedFd<'_>) -> Result<Page> {
        // SAFETY: the kernel chooses where; nothing else is there, and it is never unmapped.
        unsafe {
            mmap(ptr::null_mut(), LENGTH, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }
        .map(Page)
    }

    /// Its first byte as it is now.
    pub(super) fn get(&self) -> u8 {
        // SAFETY: the page is mapped and readable; that another process changes it is what is looked for.
        unsafe { self.0.cast::<u8>().read_volatile() }
    }

    /// Changes that byte, and waits until it is in the file.
    ///
    /// # Errors
    /// As `msync`.
    pub(super) fn set(&self, byte: u8) -> Result<()> {
        // SAFETY: the page is mapped and writable, and no reference to it exists.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
        // SAFETY: all of it is mapped.
        unsafe { msync(self.0, LENGTH, MsyncFlags::SYNC) }
    }
}
