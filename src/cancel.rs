//! The wish to stop, as one flag that every thread can see and sleep on.
//!
//! Knows nothing of why. Once set it stays set. A part of the work that can be stopped alone has a wish
//! of its own, which the whole's includes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared by `run/control`, which sets it, and the seeding thread, which reads it between two steps.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    set: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
    whole: Option<Arc<Cancel>>,
}

impl Cancel {
    /// A wish for a part of what `whole` stops.
    pub(crate) fn child_of(whole: &Arc<Cancel>) -> Cancel {
        Cancel { whole: Some(Arc::clone(whole)), ..Cancel::default() }
    }

    /// Asks for the end. Does not block for longer than a sleeper takes to notice.
    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::Release);
        // Taking the lock orders this before a sleeper's check: no wake-up is lost.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Whether the end was asked for.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire) || self.whole.as_ref().is_some_and(|whole| whole.is_set())
    }

    /// Blocks for `time` or until the end is asked for; says whether it was. What the whole is asked for
    /// does not wake a sleeper of a part.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _guard = self
            .changed
            .wait_timeout_while(guard, time, |()| !self.is_set())
            .unwrap_or_else(PoisonError::into_inner);
        self.is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_set_with_its_parent_and_not_the_other_way_round() {
        let parent = Arc::new(Cancel::default());
        let (child, other) = (Cancel::child_of(&parent), Cancel::child_of(&parent));
        child.set();
        assert_eq!([child.is_set(), other.is_set(), parent.is_set()], [true, false, false]);
        parent.set();
        assert!(other.is_set());
    }

    #[test]
    fn a_sleeper_is_woken() {
        let cancel = Arc::new(Cancel::default());
        let sleeper = {
            let cancel = Arc::clone(&cancel);
            std::thread::spawn(move || cancel.sleep(Duration::MAX))
        };
        cancel.set();
        assert!(sleeper.join().unwrap());
        assert!(cancel.sleep(Duration::MAX), "it stays set");
    }

    #[test]
    fn a_sleep_that_nothing_ends_takes_its_time() {
        assert!(!Cancel::default().sleep(Duration::from_millis(1)));
    }
}
