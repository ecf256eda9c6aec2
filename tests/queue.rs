//! The queue between the producer and the writers, under every order in which its threads can run.
//!
//! Compiles the queue's own source with a model of `Mutex` and `Condvar` in the place of the standard library's; the
//! model plays all interleavings (within two preemptions of a running thread). A thread that waits for what does not
//! come is a deadlock, which the model reports.

#![allow(clippy::unwrap_used, dead_code, missing_docs)]

mod error {
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Error(pub &'static str);
}

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[path = "../src/seed/engine/fifo.rs"]
mod fifo;
#[path = "../src/seed/engine/queue.rs"]
mod queue;
#[path = "../src/seed/engine/schedule.rs"]
mod schedule;

use std::collections::BTreeSet;

use error::Error;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use queue::{Poisoned, Queue};
use schedule::{Pace, ROOT, Slot};

const PACE: Pace = Pace { entries_a_turn: 1, first_turns: 1, turns_a_directory: 2 };
/// Entries that may wait: more than any test has.
const ROOM: usize = 100;

fn explore(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(body);
}

fn join(writers: [thread::JoinHandle<()>; 2]) {
    for writer in writers {
        writer.join().unwrap();
    }
}

/// A writer that notes what it took until the end.
fn write(queue: &Queue<u32>, written: &Mutex<Vec<u32>>) {
    let mut entries = Vec::new();
    while let Some(mut hold) = queue.take(&mut entries) {
        let taken = entries.len();
        for _ in &entries {
            hold.next();
            hold.created();
        }
        written.lock().unwrap().append(&mut entries);
        queue.done(taken);
    }
}

#[test]
fn every_entry_is_written_once_by_some_writer() {
    explore(|| {
        let (queue, written) = (Arc::new(Queue::new(2, PACE, ROOM)), Arc::new(Mutex::new(Vec::new())));
        let writers = [(); 2].map(|()| {
            let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
            thread::spawn(move || write(&queue, &written))
        });
        queue.push(&mut vec![(Slot::In(ROOT), 1), (Slot::Free, 2)]).unwrap();
        queue.push(&mut vec![(Slot::In(ROOT), 3)]).unwrap();
        queue.drain().unwrap();
        queue.close();
        join(writers);
        let written: BTreeSet<u32> = written.lock().unwrap().iter().copied().collect();
        assert_eq!(written, BTreeSet::from([1, 2, 3]));
    });
}

#[test]
fn draining_waits_for_what_a_listing_finds() {
    explore(|| {
        let (queue, written) = (Arc::new(Queue::new(2, PACE, ROOM)), Arc::new(Mutex::new(Vec::new())));
        let writers = [(); 2].map(|()| {
            let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
            thread::spawn(move || {
                let mut entries = Vec::new();
                while let Some(_hold) = queue.take(&mut entries) {
                    if entries == [1] {
                        queue.push(&mut vec![(Slot::Free, 2), (Slot::Listing, 3)]).unwrap();
                    }
                    written.lock().unwrap().extend(entries.iter().copied());
                    queue.done(entries.drain(..).count());
                }
            })
        });
        queue.push(&mut vec![(Slot::Listing, 1)]).unwrap();
        queue.drain().unwrap();
        assert_eq!(
            written.lock().unwrap().iter().copied().collect::<BTreeSet<_>>(),
            BTreeSet::from([1, 2, 3])
        );
        queue.close();
        join(writers);
    });
}

#[test]
fn what_is_in_a_directory_is_taken_after_it_is_made() {
    explore(|| {
        let queue = Arc::new(Queue::new(2, PACE, ROOM));
        let order = Arc::new(Mutex::new(Vec::new()));
        let writers = [(); 2].map(|()| {
            let (queue, order) = (Arc::clone(&queue), Arc::clone(&order));
            thread::spawn(move || {
                let mut entries = Vec::new();
                while let Some(hold) = queue.take(&mut entries) {
                    order.lock().unwrap().extend(entries.iter().copied());
                    if entries.contains(&1) {
                        queue.made(1);
                    }
                    drop(hold);
                    queue.done(entries.drain(..).count());
                }
            })
        });
        queue.push(&mut vec![(Slot::Directory { parent: ROOT, own: 1 }, 1), (Slot::In(1), 2)]).unwrap();
        queue.drain().unwrap();
        queue.close();
        join(writers);
        assert_eq!(*order.lock().unwrap(), [1, 2]);
    });
}

#[test]
fn a_writer_that_waits_is_woken_for_what_was_made() {
    explore(|| {
        let queue = Arc::new(Queue::new(2, PACE, ROOM));
        let (is_taken, taken) = (Arc::new(Mutex::new(false)), Arc::new(Condvar::new()));
        let writers = [(); 2].map(|()| {
            let (queue, is_taken, taken) = (Arc::clone(&queue), Arc::clone(&is_taken), Arc::clone(&taken));
            thread::spawn(move || {
                let mut entries = Vec::new();
                while let Some(_hold) = queue.take(&mut entries) {
                    if entries == [1] {
                        queue.made(1);
                        // Somebody else has to take what is in it.
                        let mut is_taken = is_taken.lock().unwrap();
                        while !*is_taken {
                            is_taken = taken.wait(is_taken).unwrap();
                        }
                    } else {
                        *is_taken.lock().unwrap() = true;
                        taken.notify_all();
                    }
                    queue.done(entries.drain(..).count());
                }
            })
        });
        queue.push(&mut vec![(Slot::Directory { parent: ROOT, own: 1 }, 1), (Slot::In(1), 2)]).unwrap();
        queue.drain().unwrap();
        queue.close();
        join(writers);
    });
}

#[test]
fn draining_ends_at_an_error_although_an_entry_is_in_flight() {
    explore(|| {
        let queue = Arc::new(Queue::new(2, PACE, ROOM));
        queue.push(&mut vec![(Slot::In(ROOT), 1)]).unwrap();
        let _hold = queue.take(&mut Vec::new()).unwrap();
        let failing = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.poison(Error("elsewhere")))
        };
        assert_eq!(queue.drain(), Err(Poisoned));
        failing.join().unwrap();
    });
}

#[test]
fn draining_ends_when_nothing_is_in_flight() {
    explore(|| {
        let (queue, written) = (Arc::new(Queue::new(1, PACE, ROOM)), Arc::new(Mutex::new(Vec::new())));
        let writer = {
            let (queue, written) = (Arc::clone(&queue), Arc::clone(&written));
            thread::spawn(move || write(&queue, &written))
        };
        queue.push(&mut vec![(Slot::In(ROOT), 1), (Slot::In(ROOT), 2)]).unwrap();
        queue.drain().unwrap();
        assert_eq!(written.lock().unwrap().len(), 2);
        queue.close();
        writer.join().unwrap();
    });
}

#[test]
fn the_first_error_ends_both_sides_and_is_kept() {
    explore(|| {
        let queue = Arc::new(Queue::new(2, PACE, ROOM));
        let writers = [(); 2].map(|()| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let mut entries = Vec::new();
                while let Some(_hold) = queue.take(&mut entries) {
                    let taken = entries.drain(..).count();
                    queue.poison(Error("first"));
                    queue.poison(Error("second"));
                    queue.done(taken);
                }
            })
        });
        queue.push(&mut vec![(Slot::In(ROOT), 1)]).unwrap();
        assert_eq!(queue.drain(), Err(Poisoned));
        assert_eq!(queue.push(&mut vec![(Slot::In(ROOT), 2)]), Err(Poisoned));
        join(writers);
        assert_eq!(Arc::try_unwrap(queue).unwrap().into_error(), Some(Error("first")));
    });
}
