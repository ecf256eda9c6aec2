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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;
    use std::io::Write as _;
    use std::os::fd::OwnedFd;

    use crate::claims::disk::Disk;
    use crate::claims::io::block_on;
    use crate::volume::Ourselves;

    /// A clock that goes on for so many sleeps.
    struct Beats(Cell<u32>);

    impl Clock for Beats {
        fn now(&self) -> Duration {
            Duration::from_secs(1000)
        }

        async fn sleep(&self, _: Duration) -> rustix::io::Result<()> {
            let left = self.0.get().checked_sub(1).ok_or(Errno::CANCELED)?;
            self.0.set(left);
            Ok(())
        }

        fn random(&self, _: u64) -> u64 {
            0
        }
    }

    /// Three beats in a claim whose heartbeat `prepare` has prepared: the pulse, what is left of the clock, and the
    /// last heartbeat.
    fn three_beats(prepare: impl FnOnce(&std::path::Path)) -> (Arc<Pulse>, u32, Option<Beat>) {
        let claim = tempfile::tempdir().unwrap();
        let file = claim.path().join(HEARTBEAT);
        fs::write(&file, Beat::default().bytes()).unwrap();
        prepare(&file);
        let dir: Arc<OwnedFd> = Arc::new(fs::File::open(claim.path()).unwrap().into());
        let (disk, clock) = (Disk::new(Ourselves::new(), false, Arc::default()), Beats(Cell::new(3)));
        let pulse = Pulse::new(Duration::ZERO);
        block_on(beat(&disk, &clock, &dir, &pulse, Beat::default));
        let last = fs::read(&file).ok().and_then(|bytes| Beat::parse(&bytes));
        (pulse, clock.0.get(), last)
    }

    #[test]
    fn every_beat_is_counted_until_the_clock_says_that_it_is_enough() {
        let (pulse, left, last) = three_beats(|_| {});
        assert_eq!((left, last.unwrap().count), (0, 3));
        assert!(pulse.is_fresh(Duration::from_secs(1001)) && !pulse.is_lost());
    }

    #[test]
    fn a_claim_that_is_gone_is_lost_at_the_next_beat() {
        let (pulse, left, _) = three_beats(|file| fs::remove_file(file).unwrap());
        assert_eq!((pulse.is_lost(), left), (true, 2));
    }

    #[test]
    fn a_claim_that_was_given_to_another_user_is_lost() {
        if !rustix::process::geteuid().is_root() {
            // Past the test harness, which keeps what a macro prints.
            let line = b"skipped a_claim_that_was_given_to_another_user_is_lost: needs root\n";
            return std::io::stderr().write_all(line).unwrap();
        }
        let (pulse, left, _) = three_beats(|file| std::os::unix::fs::chown(file, Some(33), None).unwrap());
        assert_eq!((pulse.is_lost(), left), (true, 2));
    }

    #[test]
    fn an_error_that_may_pass_does_not_end_it_and_leaves_the_pulse_old() {
        let (pulse, left, _) = three_beats(|file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        });
        assert_eq!((pulse.is_lost(), left), (false, 0));
        assert!(!pulse.is_fresh(Duration::from_secs(1000)));
    }
}
