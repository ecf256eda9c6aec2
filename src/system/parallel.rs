//! Work that leads to more work, on a few threads, and what these may take together.

use std::sync::{Condvar, Mutex, PoisonError};

/// What is left to do, the latest first: few things are begun at once.
struct Stack<T, E> {
    left: Vec<T>,
    /// Those that are being worked on.
    busy: usize,
    failed: Option<E>,
}

/// Does all of `first`, and what that adds. Blocks until it is done, or something failed. Where no thread can be
/// started, one is enough.
///
/// # Errors
/// The first of `work`; what was not begun by then is left.
pub(crate) fn work_off<T: Send, E: Send>(
    threads: usize,
    first: Vec<T>,
    work: impl Fn(T, &mut Vec<T>) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let stack = Mutex::new(Stack { left: first, busy: 0, failed: None });
    let changed = Condvar::new();
    let run = || {
        let lock = || stack.lock().unwrap_or_else(PoisonError::into_inner);
        let mut more = Vec::new();
        let mut state = lock();
        loop {
            let is_over =
                |state: &Stack<T, E>| state.failed.is_some() || state.left.is_empty() && state.busy == 0;
            let waits = |state: &mut Stack<T, E>| state.left.is_empty() && !is_over(state);
            state = changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
            if is_over(&state) {
                return;
            }
            let Some(next) = state.left.pop() else { continue };
            state.busy += 1;
            drop(state);
            let result = work(next, &mut more);
            state = lock();
            state.busy -= 1;
            // One for each but the next that this thread takes: all of them would find nothing to do.
            (1..more.len()).for_each(|_| changed.notify_one());
            state.left.append(&mut more);
            if let Err(error) = result {
                state.failed.get_or_insert(error);
            }
            if is_over(&state) {
                changed.notify_all();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            let _ = std::thread::Builder::new().name("worker".into()).spawn_scoped(scope, run);
        }
        run();
    });
    let stack = stack.into_inner().unwrap_or_else(PoisonError::into_inner);
    stack.failed.map_or(Ok(()), Err)
}

/// What several threads may take of something, together.
#[derive(Debug)]
pub(crate) struct Room {
    size: u64,
    taken: Mutex<u64>,
    freed: Condvar,
}

/// A part of it, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Taken<'a> {
    room: &'a Room,
    amount: u64,
}

impl Room {
    /// So much.
    pub(crate) fn new(size: u64) -> Room {
        Room { size, taken: Mutex::default(), freed: Condvar::new() }
    }

    /// Takes a part of it; blocks while others have too much. One alone may take any. Who has a part must not wait for
    /// another.
    pub(crate) fn take(&self, amount: u64) -> Taken<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |taken: &mut u64| *taken > 0 && *taken + amount > self.size;
        let mut taken = self.freed.wait_while(taken, is_full).unwrap_or_else(PoisonError::into_inner);
        *taken += amount;
        Taken { room: self, amount }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.room.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.amount;
        self.room.freed.notify_all();
    }
}

/// Parts of so many, the last one of fewer. None keeps the memory of all.
pub(crate) fn parts<T>(all: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    let mut all = all.into_iter();
    std::iter::from_fn(move || {
        Some(all.by_ref().take(size).collect::<Vec<T>>()).filter(|part| !part.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn what_work_adds_is_done_too() {
        let done = AtomicU64::new(0);
        let work = |depth: u32, more: &mut Vec<u32>| {
            done.fetch_add(1, Relaxed);
            more.extend(0..depth);
            Ok::<(), ()>(())
        };
        // Each number stands for all numbers below it: 2 to the power of it, in all.
        assert_eq!(work_off(4, vec![10, 3], work), Ok(()));
        assert_eq!(done.into_inner(), 1024 + 8);
    }

    #[test]
    fn a_part_has_the_memory_of_its_own() {
        let parts: Vec<Vec<u32>> = parts((0..1000).collect(), 300).collect();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [300, 300, 300, 100]);
        assert!(parts.iter().all(|part| part.capacity() < 600));
        assert_eq!(parts.concat(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn room_is_never_exceeded_but_by_one_alone() {
        let (room, most) = (Room::new(10), AtomicU64::new(0));
        let now = AtomicU64::new(0);
        let work = |amount: u64, _: &mut Vec<u64>| {
            let taken = room.take(amount);
            let all = now.fetch_add(amount, Relaxed) + amount;
            most.fetch_max(if all == amount { 0 } else { all }, Relaxed);
            std::thread::yield_now();
            now.fetch_sub(amount, Relaxed);
            drop(taken);
            Ok::<(), ()>(())
        };
        assert_eq!(work_off(4, (0..200).map(|number| number % 15).collect(), work), Ok(()));
        assert!(most.into_inner() <= 10);
    }

    #[test]
    fn the_first_failure_ends_it() {
        let work = |number: u32, _: &mut Vec<u32>| if number == 7 { Err(number) } else { Ok(()) };
        assert_eq!(work_off(3, (0..1000).collect(), work), Err(7));
    }
}
