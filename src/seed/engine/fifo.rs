//! Queues of entries in memory that all of them share.
//!
//! A directory's queue is long while its files are found and short for much longer: were it memory of its own, many
//! directories would keep what each needed once.

/// The entries of all queues, each in a place of its own.
#[derive(Debug)]
pub(super) struct Places<T> {
    places: Vec<Place<T>>,
    free: Option<usize>,
}

#[derive(Debug)]
struct Place<T> {
    entry: Option<T>,
    /// The place behind this one: in its queue, or of those that are free.
    next: Option<usize>,
}

/// One queue: the first one in is the first one out.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    ends: Option<(usize, usize)>,
    len: usize,
}

impl<T> Places<T> {
    /// Without any entry.
    pub(super) fn new() -> Places<T> {
        Places { places: Vec::new(), free: None }
    }

    /// Puts an entry into a place of its own, until it is taken from there.
    pub(super) fn put(&mut self, entry: T) -> usize {
        let filled = Place { entry: Some(entry), next: None };
        match self.free {
            Some(at) => {
                self.free = std::mem::replace(&mut self.places[at], filled).next;
                at
            }
            None => {
                self.places.push(filled);
                self.places.len() - 1
            }
        }
    }

    /// What is in this place, which is free from then on.
    pub(super) fn take(&mut self, at: usize) -> Option<T> {
        let place = std::mem::replace(&mut self.places[at], Place { entry: None, next: self.free });
        self.free = Some(at);
        place.entry
    }

    /// Adds an entry to the end of a queue.
    pub(super) fn push(&mut self, queue: &mut Fifo, entry: T) {
        let at = self.put(entry);
        let first = match queue.ends {
            Some((first, last)) => {
                self.places[last].next = Some(at);
                first
            }
            None => at,
        };
        *queue = Fifo { ends: Some((first, at)), len: queue.len + 1 };
    }

    /// Takes the first entry of a queue.
    pub(super) fn pop(&mut self, queue: &mut Fifo) -> Option<T> {
        let (first, last) = queue.ends?;
        let next = self.places[first].next;
        *queue = Fifo { ends: next.map(|next| (next, last)), len: queue.len - 1 };
        self.take(first)
    }

    /// Forgets all entries. Every queue of these must be forgotten, too.
    pub(super) fn clear(&mut self) {
        *self = Places::new();
    }
}

impl Fifo {
    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_keeps_its_order_and_places_are_used_again() {
        let (mut places, mut queues) = (Places::new(), [Fifo::default(), Fifo::default(), Fifo::default()]);
        for round in 0..5 {
            for number in 0..100 {
                places.push(&mut queues[number % 3], (round, number));
            }
            assert_eq!(queues.each_ref().map(Fifo::len), [34, 33, 33]);
            for (at, queue) in queues.iter_mut().enumerate() {
                let taken: Vec<_> = std::iter::from_fn(|| places.pop(queue)).collect();
                assert_eq!(taken, (at..100).step_by(3).map(|number| (round, number)).collect::<Vec<_>>());
                assert!(queue.is_empty());
            }
        }
        assert_eq!(places.places.len(), 100);
    }
}
