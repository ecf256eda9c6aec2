//! When a claim may be taken over, and what may be trusted then. Pure.
//!
//! The lock and the heartbeat only say *when to try*: a replica that is wrong about the other's death is
//! still stopped by the fence.

use std::time::Duration;

use super::beat::{Beat, Holder};

/// A holder beats so often.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// Without a lock, a heartbeat that did not change for this long is a dead holder's. More than a server's
/// restart takes, and within the 20 s that a takeover may take.
pub(crate) const SILENCE: Duration = Duration::from_secs(15);
/// With a lock that the server has given back: three beats that did not come. The server gives it back
/// after a partition too, when its lease is over.
pub(crate) const SILENCE_WITH_LOCK: Duration = Duration::from_secs(3);
/// A holder that could not beat for this long moves nothing to its place until it can again: less than
/// [`SILENCE`], since others may count it as dead then.
pub(crate) const STALE: Duration = Duration::from_secs(10);

/// What the file system's locks are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All replicas share one kernel: a lock that is free had no living holder.
    Local,
    /// The server keeps locks: for as long as it hears from the holder.
    Server,
    /// Other replicas may not see our lock; the reason, for people.
    None(&'static str),
}

/// The lock, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// We hold it.
    Ours,
    /// Another replica does.
    Theirs,
    /// There is none that all replicas see, or the server has yet to say.
    Unknown,
}

/// A claim that was found, seen from a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Whose it is, where that can be read.
    pub holder: Option<&'a Holder>,
    /// Its last heartbeat, where that can be read.
    pub beat: Option<&'a Beat>,
    /// Whether it was made on our kernel, on the volume as it is mounted here.
    pub same_mount: bool,
}

impl Seen<'_> {
    fn is_released(self) -> bool {
        self.beat.is_some_and(|beat| beat.released)
    }
}

/// How long a claim must have been silent before it is taken over. Without one, and after one that was released, the
/// volume is free.
pub(crate) fn patience(sharing: Sharing, lock: Lock, claim: Option<Seen<'_>>) -> Duration {
    let Some(claim) = claim.filter(|claim| !claim.is_released()) else {
        // Who holds the lock is about to claim, unless it froze. The death of one who claims without it shows late.
        return if lock == Lock::Theirs { SILENCE } else { Duration::ZERO };
    };
    if is_confirmed_dead(sharing, lock, claim) {
        return Duration::ZERO;
    }
    match (lock, claim.holder.is_some_and(|holder| holder.locked)) {
        (Lock::Ours, true) => SILENCE_WITH_LOCK,
        // Another one that waits has the lock, and goes first.
        (Lock::Theirs, false) => SILENCE + SILENCE_WITH_LOCK,
        _ => SILENCE,
    }
}

/// Whether the holder is certain to be gone: it said so itself, or a kernel that it must have held the
/// lock of has given the lock to us. Then no descriptor of its is open any more.
pub(crate) fn is_confirmed_dead(sharing: Sharing, lock: Lock, claim: Seen<'_>) -> bool {
    if claim.is_released() {
        return true;
    }
    let gave_back = lock == Lock::Ours && claim.holder.is_some_and(|holder| holder.locked);
    gave_back
        && match sharing {
            Sharing::Local => true,
            Sharing::Server => claim.same_mount,
            Sharing::None(_) => false,
        }
}

/// For how long what is seen has not changed.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: Option<(u64, Vec<u8>)>,
    since: Duration,
}

impl Watch {
    /// What is seen now: a claim's number and its heartbeat as it is. Whether that is new.
    pub(crate) fn see(&mut self, now: Duration, seen: Option<(u64, Vec<u8>)>) -> bool {
        let is_new = self.since.is_zero() || seen != self.seen;
        if is_new {
            (self.seen, self.since) = (seen, now.max(Duration::from_nanos(1)));
        }
        is_new
    }

    /// Since when it has not changed.
    pub(crate) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Sharing = Sharing::None("");

    #[track_caller]
    fn check(sharing: Sharing, lock: Lock, locked: bool, same_mount: bool, expected: (Duration, bool)) {
        let holder = Holder { locked, ..holder() };
        let seen = Seen { holder: Some(&holder), beat: None, same_mount };
        assert_eq!((patience(sharing, lock, Some(seen)), is_confirmed_dead(sharing, lock, seen)), expected);
    }

    fn holder() -> Holder {
        Holder {
            format: 1,
            epoch: 1,
            nonce: String::new(),
            host: String::new().into(),
            container: None,
            pid: 1,
            since: 0,
            boot: None,
            device: 0,
            locked: true,
        }
    }

    #[test]
    fn how_long_to_wait_follows_from_the_lock_and_who_vouches_for_it() {
        let (at_once, soon, late) = ((Duration::ZERO, true), (SILENCE_WITH_LOCK, false), (SILENCE, false));
        check(Sharing::Local, Lock::Ours, true, true, at_once);
        check(Sharing::Local, Lock::Ours, false, true, late);
        check(Sharing::Local, Lock::Theirs, true, true, late);
        check(Sharing::Local, Lock::Theirs, false, true, (SILENCE + SILENCE_WITH_LOCK, false));
        check(Sharing::Server, Lock::Ours, true, true, at_once);
        check(Sharing::Server, Lock::Ours, true, false, soon);
        check(Sharing::Server, Lock::Ours, false, false, late);
        check(Sharing::Server, Lock::Theirs, true, true, late);
        check(Sharing::Server, Lock::Unknown, true, true, late);
        check(NONE, Lock::Ours, true, true, (SILENCE_WITH_LOCK, false));
        check(NONE, Lock::Unknown, false, true, late);
    }

    #[test]
    fn a_volume_without_a_claim_is_free_unless_somebody_has_the_lock() {
        assert_eq!(patience(Sharing::Local, Lock::Ours, None), Duration::ZERO);
        assert_eq!(patience(NONE, Lock::Unknown, None), Duration::ZERO);
        assert_eq!(patience(Sharing::Local, Lock::Theirs, None), SILENCE);
    }

    #[test]
    fn who_left_in_good_order_is_not_waited_for_but_who_has_the_lock_is() {
        let (holder, beat) = (holder(), Beat { released: true, ..Beat::default() });
        let seen = Seen { holder: Some(&holder), beat: Some(&beat), same_mount: false };
        assert_eq!(patience(NONE, Lock::Unknown, Some(seen)), Duration::ZERO);
        assert_eq!(patience(Sharing::Local, Lock::Ours, Some(seen)), Duration::ZERO);
        assert_eq!(patience(Sharing::Local, Lock::Theirs, Some(seen)), SILENCE);
    }

    #[test]
    fn silence_is_counted_from_the_last_change() {
        let (mut watch, second) = (Watch::default(), Duration::from_secs(1));
        assert!(watch.see(second, Some((1, vec![1]))));
        assert!(!watch.see(3 * second, Some((1, vec![1]))));
        assert_eq!(watch.silence(3 * second), 2 * second);
        assert!(watch.see(4 * second, Some((1, vec![2]))));
        assert!(watch.see(5 * second, Some((2, vec![2]))));
        assert_eq!(watch.silence(7 * second), 2 * second);
    }
}
