//! Work that leads to more work, on a few threads.

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
            state.left.append(&mut more);
            if let Err(error) = result {
                state.failed.get_or_insert(error);
            }
            changed.notify_all();
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
    fn the_first_failure_ends_it() {
        let work = |number: u32, _: &mut Vec<u32>| if number == 7 { Err(number) } else { Ok(()) };
        assert_eq!(work_off(3, (0..1000).collect(), work), Err(7));
    }
}
