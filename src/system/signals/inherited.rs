//! What this process was started with, written down before `main`.
//!
//! Rust's runtime ignores SIGPIPE and opens `/dev/null` in place of a standard descriptor that is
//! closed (`std::rt`, "sanitize_standard_fds"), both before `main`. The app must see neither.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::libc;

use super::kernel;
use super::kernel::Set;

static MASK: AtomicU64 = AtomicU64::new(0);
static IGNORED: AtomicU64 = AtomicU64::new(0);
static CLOSED: AtomicU8 = AtomicU8::new(0);

// The C library calls what stands here before the runtime's own entry (musl and glibc alike).
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    MASK.store(kernel::mask().0, Ordering::Relaxed);
    IGNORED.store(kernel::ignored().0, Ordering::Relaxed);
    // SAFETY: asks for the flags of a number; changes nothing.
    let is_closed = |file: &u8| unsafe { libc::fcntl(i32::from(*file), libc::F_GETFD) } < 0;
    let closed = (0..3u8).filter(is_closed).fold(0, |closed, file| closed | 1 << file);
    CLOSED.store(closed, Ordering::Relaxed);
}

/// The signals that were blocked.
pub(crate) fn mask() -> Set {
    Set(MASK.load(Ordering::Relaxed))
}

/// The signals that were ignored.
pub(crate) fn ignored() -> Set {
    Set(IGNORED.load(Ordering::Relaxed))
}

/// The standard descriptors that were closed.
pub(crate) fn closed() -> impl Iterator<Item = i32> {
    let closed = CLOSED.load(Ordering::Relaxed);
    (0..3).filter(move |file| closed & (1 << file) != 0)
}
