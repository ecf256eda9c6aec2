//! Which entry is written next.
//!
//! Pure: it knows neither threads nor files. Now first in, first out.

use std::collections::VecDeque;

/// The entries that are found and not yet begun.
#[derive(Debug)]
pub struct Schedule<T> {
    waiting: VecDeque<T>,
}

impl<T> Default for Schedule<T> {
    fn default() -> Schedule<T> {
        Schedule { waiting: VecDeque::new() }
    }
}

impl<T> Schedule<T> {
    /// Adds an entry.
    pub fn push(&mut self, entry: T) {
        self.waiting.push_back(entry);
    }

    /// The entry to write next.
    pub fn next(&mut self) -> Option<T> {
        self.waiting.pop_front()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets all that wait.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}
