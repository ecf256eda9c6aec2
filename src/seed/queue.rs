//! The queue between the one producer and the writers: bounded, closed at the end, poisoned by the
//! first error.
//!
//! Closing it is what ends the writers; poisoning it ends both sides and keeps the first cause. What
//! comes next is the schedule's business. It bounds entries; the bytes that they carry are bounded
//! where the buffers are handed out (`slab`).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::schedule::Schedule;
use crate::error::Error;

/// The most entries that wait. A directory with fewer is known whole before its first file is
/// written, so that percent and time left are true from the start; at about 150 bytes each it is
/// 10 MB at the most.
const MOST_ENTRIES: usize = 65_536;

/// The most entries that a writer takes at once.
const MOST_TAKEN: usize = 16;

/// How a push or a drain failed: somebody poisoned the queue, and its error is kept there.
#[derive(Debug, PartialEq, Eq)]
pub struct Poisoned;

#[derive(Debug)]
struct State<T> {
    schedule: Schedule<T>,
    idle_writers: usize,
    in_flight: usize,
    closed: bool,
    error: Option<Error>,
    poisoned: bool,
}

impl<T> State<T> {
    fn is_drained(&self) -> bool {
        self.in_flight == 0 && self.schedule.is_empty()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Queue<T> {
    writers: usize,
    state: Mutex<State<T>>,
    /// Something to write, or the end.
    filled: Condvar,
    /// Room for more, or nothing left in flight.
    emptied: Condvar,
}

impl<T> Queue<T> {
    /// An empty queue for so many writers.
    pub fn new(writers: usize) -> Queue<T> {
        let state = State {
            schedule: Schedule::default(),
            idle_writers: 0,
            in_flight: 0,
            closed: false,
            error: None,
            poisoned: false,
        };
        let writers = writers.max(1);
        Queue { writers, state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Adds all of `entries`, each with the group that it belongs to; blocks while the queue is full.
    ///
    /// # Errors
    /// When the queue is poisoned.
    pub fn push(&self, entries: &mut Vec<(usize, T)>) -> Result<(), Poisoned> {
        let mut state = self.lock();
        while state.schedule.len() >= MOST_ENTRIES && !state.poisoned {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.poisoned {
            return Err(Poisoned);
        }
        let wake = state.idle_writers.min(entries.len());
        entries.drain(..).for_each(|(group, entry)| state.schedule.push(group, entry));
        drop(state);
        (0..wake).for_each(|_| self.filled.notify_one());
        Ok(())
    }

    /// Takes what to write next into `entries`, which is empty; blocks until there is something.
    /// `false` is the end. Whoever takes some says [`Queue::done`] when they are written.
    ///
    /// When little is left, nobody takes more than his share.
    pub fn take(&self, entries: &mut Vec<T>) -> bool {
        let mut state = self.lock();
        loop {
            if state.poisoned {
                return false;
            }
            let waiting = state.schedule.len();
            let share = (waiting / self.writers).clamp(1, MOST_TAKEN);
            state.schedule.take(share, entries);
            if !entries.is_empty() {
                state.in_flight += entries.len();
                if waiting >= MOST_ENTRIES && state.schedule.len() < MOST_ENTRIES {
                    self.emptied.notify_all();
                }
                return true;
            }
            if state.closed {
                return false;
            }
            state.idle_writers += 1;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_writers -= 1;
        }
    }

    /// So many entries that [`Queue::take`] gave are written, or will not be.
    pub fn done(&self, entries: usize) {
        let mut state = self.lock();
        state.in_flight -= entries;
        if state.is_drained() {
            self.emptied.notify_all();
        }
    }

    /// Blocks until everything that was pushed is written.
    ///
    /// # Errors
    /// When the queue is poisoned.
    pub fn drain(&self) -> Result<(), Poisoned> {
        let mut state = self.lock();
        while !(state.poisoned || state.is_drained()) {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.poisoned { Err(Poisoned) } else { Ok(()) }
    }

    /// No more will be pushed: writers finish what waits and end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Ends both sides. The first error is kept, later ones follow from it and are dropped.
    pub fn poison(&self, error: Error) {
        let mut state = self.lock();
        state.error.get_or_insert(error);
        state.poisoned = true;
        state.schedule.clear();
        drop(state);
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// The first error, once everybody has ended.
    pub fn into_error(self) -> Option<Error> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).error
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
