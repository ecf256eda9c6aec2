//! The queue between those who find entries and the writers: bounded, closed at the end, poisoned by the
//! first error.
//!
//! Closing it is what ends the writers; poisoning it ends both sides and keeps the first cause. What
//! comes next is the schedule's business. It bounds entries; the bytes that they carry are bounded
//! where the buffers are handed out (`slab`).

use super::schedule::{Batch, Number, Pace, Schedule, Slot};
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use crate::error::Error;

/// How a push or a drain failed: somebody poisoned the queue, and its error is kept there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Poisoned;

#[derive(Debug)]
struct QueueState<T> {
    schedule: Schedule<T>,
    idle_writers: usize,
    in_flight: usize,
    closed: bool,
    error: Option<Error>,
    poisoned: bool,
}

impl<T> QueueState<T> {
    fn is_drained(&self) -> bool {
        self.in_flight == 0 && self.schedule.is_empty()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    writers: usize,
    /// Entries that may wait.
    room: usize,
    state: Mutex<QueueState<T>>,
    /// Something to write, or the end.
    filled: Condvar,
    /// Room for more, or nothing left in flight.
    emptied: Condvar,
}

impl<T> Queue<T> {
    /// An empty queue for so many writers, in which so many entries may wait.
    pub(crate) fn new(writers: usize, pace: Pace, room: usize) -> Queue<T> {
        let state = QueueState {
            schedule: Schedule::new(pace),
            idle_writers: 0,
            in_flight: 0,
            closed: false,
            error: None,
            poisoned: false,
        };
        let writers = writers.max(1);
        Queue { writers, room, state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Blocks while the queue is full. Not for a writer: those who would empty it could all wait here. It is given
    /// listings only while there is room.
    pub(crate) fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.schedule.len() >= self.room && !state.poisoned {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds all of `entries`, each with its place.
    ///
    /// # Errors
    /// When the queue is poisoned.
    pub(crate) fn push(&self, entries: &mut Vec<(Slot, T)>) -> Result<(), Poisoned> {
        let mut state = self.lock();
        if state.poisoned {
            return Err(Poisoned);
        }
        let pushed = entries.len();
        state.schedule.push(entries.drain(..));
        self.wake(&state, pushed);
        Ok(())
    }

    /// Takes what to write next into `entries`, which is empty; blocks until there is something.
    /// `None` is the end. The taker calls [`Queue::done`] when they are written.
    ///
    /// When little is left, nobody takes more than his share.
    pub(crate) fn take(&self, entries: &mut Vec<T>) -> Option<Hold<'_, T>> {
        let mut state = self.lock();
        loop {
            if state.poisoned {
                return None;
            }
            let waiting = state.schedule.len();
            let share = (waiting / self.writers).max(1);
            if let Some(batch) = state.schedule.take(share, waiting < self.room, entries) {
                state.in_flight += entries.len();
                if waiting >= self.room && state.schedule.len() < self.room {
                    self.emptied.notify_all();
                    self.wake(&state, usize::MAX);
                }
                return Some(Hold { queue: self, batch: Some(batch), left: entries.len() });
            }
            if state.closed {
                return None;
            }
            state.idle_writers += 1;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_writers -= 1;
        }
    }

    /// The directory is there: what is in it may be taken.
    pub(crate) fn made(&self, directory: Number) {
        let mut state = self.lock();
        state.schedule.made(directory);
        self.wake(&state, usize::MAX);
    }

    /// A number for a new directory or large file, until it is [`ended`](Queue::ended).
    pub(crate) fn number(&self) -> Number {
        self.lock().schedule.number()
    }

    /// All in this directory or large file is done, and nothing more comes: its number stands for another one.
    pub(crate) fn ended(&self, number: Number) {
        self.lock().schedule.ended(number);
    }

    /// Creations in the longest chain of all that was pushed.
    pub(crate) fn longest_chain(&self) -> usize {
        self.lock().schedule.longest_chain()
    }

    /// Wakes as many writers as there are turns to take, and no more than `most`.
    fn wake(&self, state: &QueueState<T>, most: usize) {
        let wake = state.idle_writers.min(state.schedule.turns()).min(most);
        (0..wake).for_each(|_| self.filled.notify_one());
    }

    /// So many entries that [`Queue::take`] gave are written, or will not be.
    pub(crate) fn done(&self, entries: usize) {
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
    pub(crate) fn drain(&self) -> Result<(), Poisoned> {
        let mut state = self.lock();
        while !(state.poisoned || state.is_drained()) {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.poisoned { Err(Poisoned) } else { Ok(()) }
    }

    /// Ends the writers. To be called when the queue is drained: one that finds nothing ready ends, although
    /// something may wait for a directory that is not made yet.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Ends both sides. The first error is kept, later ones follow from it and are dropped.
    pub(crate) fn poison(&self, error: Error) {
        let mut state = self.lock();
        state.error.get_or_insert(error);
        state.poisoned = true;
        state.schedule.clear();
        drop(state);
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// The first error, once everybody has ended.
    pub(crate) fn into_error(self) -> Option<Error> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).error
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that was taken, as long as its directory's lock is needed for it.
#[derive(Debug)]
pub(crate) struct Hold<'a, T> {
    queue: &'a Queue<T>,
    batch: Option<Batch>,
    /// Entries after the one in hand.
    left: usize,
}

impl<T> Hold<'_, T> {
    /// The next entry of the batch is in hand.
    pub(crate) fn next(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// What the entry in hand creates is created. With the last one another writer may create in the directory.
    /// Idempotent.
    pub(crate) fn created(&mut self) {
        if self.left == 0 {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some(batch) = self.batch.take() {
            let mut state = self.queue.lock();
            state.schedule.give_back(batch);
            self.queue.wake(&state, 1);
        }
    }
}

impl<T> Drop for Hold<'_, T> {
    fn drop(&mut self) {
        self.give_back();
    }
}
