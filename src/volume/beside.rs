//! Calls on a volume that do not depend on each other, made at the same time: each may wait for a server.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

/// Does two things at the same time that do not depend on each other.
pub(crate) fn beside<A, B: Send>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    let (mut one, mut first) = (Some(one), None);
    let [second] = all_at_once(|_| other(), &mut || first = one.take().map(|one| one()));
    (first.expect("it is done here"), second)
}

/// Does something for each of several numbers, and something `here`, at the same time.
pub(crate) fn all_at_once<T: Send, const N: usize>(
    job: impl Fn(usize) -> T + Sync,
    here: &mut dyn FnMut(),
) -> [T; N] {
    let done = [const { Mutex::new(None) }; N];
    let run = |number: usize| {
        let result = job(number);
        *done[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    };
    start(N, &run, here);
    done.map(|done| done.into_inner().unwrap_or_else(PoisonError::into_inner).expect("each is done"))
}

/// Once for all types: what starts threads is large.
fn start(count: usize, run: &(dyn Fn(usize) + Sync), here: &mut dyn FnMut()) {
    thread::scope(|scope| {
        let start = |number| Builder::new().name("beside".into()).spawn_scoped(scope, move || run(number));
        let started: Vec<_> = (0..count).map(start).collect();
        here();
        for (number, thread) in started.into_iter().enumerate() {
            match thread {
                Ok(thread) => thread.join().expect("it does not panic"),
                // No more threads are to be had.
                Err(_) => run(number),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn what_is_done_beside_something_is_done_at_the_same_time() {
        let both = Barrier::new(2);
        // One of the two leads.
        let (one, other) = beside(|| both.wait().is_leader(), || both.wait().is_leader());
        assert_ne!(one, other);
    }
}
