//! How many requests an NFSv4.1 client may have in flight: what it asks for, and what the server grants.
//!
//! The kernel does not tell what a server has granted. But it tells how many requests were sent and how many
//! answered: where writers want more than they may, that many are in flight most of the time, and never more.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{Builder, scope};
use std::time::Duration;

use super::{OnTheWire, text};

/// `NFS4_DEF_SLOT_TABLE_SIZE` in Linux `fs/nfs/nfs4session.h`.
const DEFAULT_SLOTS: usize = 64;
/// `NFS4_MAX_SLOT_TABLE`, in the same file.
const MAX_SLOTS: usize = 1024;
/// Longer than a request takes in one rack, and 10 looks in a fifth of a second. A look takes 0.1 ms.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The limit shows in at least so many looks, and in a tenth of them: of 30 granted slots it was four tenths.
const MIN_LOOKS: u64 = 5;
const SHARE: u64 = 10;
/// One in so many may show more: of requests that need no slot.
const STRAY: u64 = 100;

/// How many requests were in flight, looked at again and again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Looks(BTreeMap<u64, u64>);

impl Looks {
    /// Looks while `act` is done, on a thread of its own; at nothing where `root` is on no NFS mount.
    pub(crate) fn during<T>(root: BorrowedFd<'_>, act: impl FnOnce() -> T) -> (T, Looks) {
        let Some(wire) = OnTheWire::of(root) else { return (act(), Looks::default()) };
        scope(|scope| {
            let (busy, over) = mpsc::channel::<()>();
            let next = move || match over.recv_timeout(LOOK_EVERY) {
                Err(RecvTimeoutError::Timeout) => wire.in_flight(),
                _ => None,
            };
            let look = || std::iter::from_fn(next).collect();
            let looking = Builder::new().name("slots".into()).spawn_scoped(scope, look);
            let result = act();
            drop(busy);
            // Without a thread nothing is told.
            (result, looking.ok().and_then(|looking| looking.join().ok()).unwrap_or_default())
        })
    }

    /// What the number in flight rises to again and again, and never above; `None` where it shows no such limit.
    pub(crate) fn limit(&self) -> Option<u64> {
        let all: u64 = self.0.values().sum();
        let mut seen = 0;
        let (limit, looks) = self.0.iter().rev().find(|(_, looks)| {
            seen += **looks;
            seen * STRAY > all
        })?;
        (*looks >= MIN_LOOKS && looks * SHARE >= all).then_some(*limit)
    }
}

impl FromIterator<u64> for Looks {
    fn from_iter<T: IntoIterator<Item = u64>>(in_flight: T) -> Looks {
        let mut looks = Looks::default();
        for number in in_flight {
            *looks.0.entry(number).or_default() += 1;
        }
        looks
    }
}

/// How many requests an NFSv4.1 client asks a server to let it have in flight, 1 to 1024: the module
/// parameter `nfs.max_session_slots` (Linux `Documentation/admin-guide/kernel-parameters.txt`), 64
/// where it cannot be read. The server may have granted fewer. Does not ask it.
pub(crate) fn session_slots() -> usize {
    slots(text("/sys/module/nfs/parameters/max_session_slots").as_deref())
}

fn slots(parameter: Option<&str>) -> usize {
    parameter.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_SLOTS).clamp(1, MAX_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seen: &[(u64, usize)], expected: Option<u64>) {
        let looks: Looks =
            seen.iter().flat_map(|(number, times)| std::iter::repeat_n(*number, *times)).collect();
        assert_eq!(looks.limit(), expected, "{seen:?}");
    }

    /// The corpus in `bench/nfs` at 3 ms, from a server that grants 30 slots.
    const THIRTY: [(u64, usize); 24] = [
        (1, 14),
        (2, 1),
        (5, 1),
        (6, 1),
        (8, 1),
        (12, 1),
        (13, 1),
        (14, 1),
        (15, 2),
        (16, 1),
        (17, 2),
        (18, 2),
        (19, 4),
        (20, 4),
        (21, 3),
        (22, 10),
        (23, 8),
        (24, 17),
        (25, 18),
        (26, 18),
        (27, 22),
        (28, 24),
        (29, 61),
        (30, 142),
    ];

    #[test]
    fn a_limit_is_what_shows_most_of_the_time_and_never_more() {
        check(&THIRTY, Some(30));
        // One request in a hundred that needs no slot.
        check(&[&THIRTY[..], &[(31, 3)]].concat(), Some(30));
        // Sometimes more, sometimes less: nothing keeps it there.
        check(&[&THIRTY[..], &[(31, 8), (33, 4), (36, 2)]].concat(), None);
        check(&[(1, 30), (2, 20), (3, 12), (7, 2)], None);
        // Too short.
        check(&[(30, 4)], None);
        check(&[], None);
    }

    #[test]
    fn slots_are_the_parameter_within_the_kernels_bounds() {
        let cases =
            [(None, 64), (Some("128\n"), 128), (Some("0\n"), 1), (Some("65535"), 1024), (Some("x"), 64)];
        for (parameter, expected) in cases {
            assert_eq!(slots(parameter), expected);
        }
    }
}
