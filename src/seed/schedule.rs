//! Which entries are written next.
//!
//! Pure: it knows neither threads nor files. Entries come in groups, by the lock that the kernel holds
//! for them: a directory's while something is created in it, a large file's while it is written. Two
//! writers in one group work one after the other. So every turn goes to another group, first come,
//! first served, and takes a few neighbours.

use std::collections::VecDeque;

/// The entries that are found and not yet begun.
#[derive(Debug)]
pub struct Schedule<T> {
    groups: VecDeque<Group<T>>,
    waiting: usize,
}

#[derive(Debug)]
struct Group<T> {
    key: usize,
    entries: VecDeque<T>,
}

impl<T> Default for Schedule<T> {
    fn default() -> Schedule<T> {
        Schedule { groups: VecDeque::new(), waiting: 0 }
    }
}

impl<T> Schedule<T> {
    /// Adds an entry of the group `key`. Entries of one group are expected to come together; one that
    /// comes later forms a group of its own.
    pub fn push(&mut self, key: usize, entry: T) {
        self.waiting += 1;
        match self.groups.back_mut() {
            Some(last) if last.key == key => last.entries.push_back(entry),
            _ => self.groups.push_back(Group { key, entries: VecDeque::from([entry]) }),
        }
    }

    /// Moves the next turn's entries to `taken`: all of one group, and `most` at the most.
    pub fn take(&mut self, most: usize, taken: &mut Vec<T>) {
        let Some(mut group) = self.groups.pop_front() else { return };
        let turn = group.entries.len().min(most);
        taken.extend(group.entries.drain(..turn));
        self.waiting -= turn;
        if !group.entries.is_empty() {
            self.groups.push_back(group);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Forgets all that wait.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: &[(usize, &'static str)], most: usize, expected: &[&[&str]]) {
        let mut schedule = Schedule::default();
        entries.iter().for_each(|(key, entry)| schedule.push(*key, *entry));
        assert_eq!(schedule.len(), entries.len());
        let mut turns = Vec::new();
        while !schedule.is_empty() {
            let mut taken = Vec::new();
            schedule.take(most, &mut taken);
            turns.push(taken);
        }
        assert_eq!(turns, expected);
    }

    #[test]
    fn every_turn_goes_to_another_group() {
        check(&[(1, "a"), (1, "b"), (1, "c"), (2, "d"), (2, "e")], 2, &[&["a", "b"], &["d", "e"], &["c"]]);
    }

    #[test]
    fn a_turn_stays_in_one_group() {
        check(&[(1, "a"), (2, "b"), (1, "c")], 9, &[&["a"], &["b"], &["c"]]);
        check(&[], 9, &[]);
    }
}
