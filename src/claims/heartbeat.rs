//! A holder's heartbeat, and what follows when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::Errno;

use super::beat::Beat;
use super::expiry::{BEAT, STALE};
use super::io::{Clock, Files};
use super::store::HEARTBEAT;

/// How a heart is, for the holder whose it is.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// When it last beat, in milliseconds of the holder's clock.
    beat: AtomicU64,
    lost: AtomicBool,
}

impl Pulse {
    /// A heart that begins to beat.
    pub(crate) fn new(now: Duration) -> Arc<Pulse> {
        let pulse = Pulse::default();
        pulse.note(now);
        Arc::new(pulse)
    }

    /// Whether others still count the holder as alive.
    pub(crate) fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(Duration::from_millis(self.beat.load(Relaxed))) < STALE
    }

    /// Whether the claim is gone: another replica has taken over.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    fn note(&self, now: Duration) {
        self.beat.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Beats in the claim `dir` until the clock says that it is enough, or the claim is gone. `now` says how
/// far the holder is.
pub(crate) async fn beat<F: Files>(
    files: &F,
    clock: &impl Clock,
    dir: &F::Dir,
    pulse: &Pulse,
    now: impl Fn() -> Beat,
) {
    let mut count = 0;
    while clock.sleep(BEAT).await.is_ok() {
        count += 1;
        // Of before the call: a call that took long tells others nothing new after it.
        let asked = clock.now();
        match files.update(dir, HEARTBEAT, &Beat { count, ..now() }.bytes()).await {
            Ok(()) => pulse.note(asked),
            // Gone, or given to another user, who decides about it from then on.
            Err(Errno::NOENT | Errno::STALE | Errno::ACCESS | Errno::PERM) => {
                pulse.lost.store(true, Relaxed);
                return;
            }
            // The next one may get through.
            Err(_) => {}
        }
    }
}
