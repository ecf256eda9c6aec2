//! What a power cut may leave of the writes since a flush: none, some in any order, or all up to one that is torn.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

use crate::disk::{Event, Image};

/// What a disk writes as a whole.
const SECTORS: [usize; 2] = [512, 4096];

/// What is left of the writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Left {
    /// None.
    Dropped,
    /// Some, wherever they came in the order.
    Subset,
    /// All up to one, of which there is a part.
    Torn,
}

/// A moment, and what was left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// After this flush of the log; 0 is its begin.
    pub(crate) flush: usize,
    pub(crate) left: Left,
    /// Of the choices.
    pub(crate) seed: u64,
}

/// What a disk went through.
#[derive(Clone)]
pub(crate) struct Recording {
    /// What was on it at the begin.
    pub(crate) base: Image,
    /// What came.
    pub(crate) log: Vec<Event>,
}

impl Recording {
    /// Where in the log the writes after each flush begin.
    fn starts(&self) -> Vec<usize> {
        let flushes = self.log.iter().enumerate().filter(|(_, event)| matches!(event, Event::Flush));
        [0].into_iter().chain(flushes.map(|(index, _)| index + 1)).collect()
    }

    /// How many flushes there are, with the begin.
    pub(crate) fn flushes(&self) -> usize {
        self.starts().len()
    }

    /// The log's part after a flush, up to the next one.
    fn pending(&self, flush: usize) -> &[Event] {
        let starts = self.starts();
        let end = starts.get(flush + 1).map_or(self.log.len(), |next| next - 1);
        &self.log[starts[flush]..end]
    }

    /// Whether the power may have been there until so many marks were set.
    pub(crate) fn is_after_mark(&self, cut: Cut, marks: usize) -> bool {
        let starts = self.starts();
        let end = starts.get(cut.flush + 1).map_or(self.log.len(), |next| next - 1);
        self.log[..end].iter().filter(|event| matches!(event, Event::Mark)).count() >= marks
    }

    /// The first flush that may have been the last one before the power went, after so many marks.
    pub(crate) fn first_after_mark(&self, marks: usize) -> usize {
        let is_after =
            |flush: &usize| self.is_after_mark(Cut { flush: *flush, left: Left::Dropped, seed: 0 }, marks);
        (0..self.flushes()).find(is_after).unwrap_or(0)
    }

    /// So many cuts, from a flush on: at each flush in turn, and at each in every way in turn.
    pub(crate) fn cuts(&self, first: usize, count: usize, seed: u64) -> Vec<Cut> {
        let flushes = self.flushes() - first;
        let ways = [Left::Dropped, Left::Torn, Left::Subset, Left::Torn, Left::Subset];
        let cut = |number: usize| {
            // With fewer cuts than flushes, spread over them.
            let flush = if count < flushes { number * flushes / count } else { number % flushes };
            let left = ways[(number / flushes + flush) % ways.len()];
            Cut { flush: first + flush, left, seed: seed + number as u64 }
        };
        (0..count).map(cut).collect()
    }

    /// The disk as the cut leaves it.
    pub(crate) fn image(&self, cut: Cut) -> Image {
        let mut image = self.base.clone();
        for event in &self.log[..self.starts()[cut.flush]] {
            apply(&mut image, event, usize::MAX);
        }
        let writes: Vec<&Event> =
            self.pending(cut.flush).iter().filter(|event| matches!(event, Event::Write(..))).collect();
        let mut rng = Rng::with_seed(cut.seed);
        match cut.left {
            Left::Dropped => {}
            Left::Subset => {
                writes.iter().filter(|_| rng.bool()).for_each(|event| apply(&mut image, event, usize::MAX));
            }
            Left::Torn if writes.is_empty() => {}
            Left::Torn => {
                let (last, sector) = (rng.usize(..writes.len()), SECTORS[rng.usize(..2)]);
                writes[..last].iter().for_each(|event| apply(&mut image, event, usize::MAX));
                let Event::Write(_, bytes) = writes[last] else { unreachable!("only writes were chosen") };
                apply(&mut image, writes[last], rng.usize(..=bytes.len() / sector) * sector);
            }
        }
        image
    }
}

/// Writes so many bytes of a write at most.
fn apply(image: &mut Image, event: &Event, most: usize) {
    if let Event::Write(offset, bytes) = event {
        image.write(*offset, &bytes[..bytes.len().min(most)]);
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let left = match self.left {
            Left::Dropped => "dropped",
            Left::Subset => "subset",
            Left::Torn => "torn",
        };
        write!(formatter, "{}:{left}:{}", self.flush, self.seed)
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.splitn(3, ':');
            let (flush, left, seed) =
                (parts.next()?.parse().ok()?, parts.next()?, parts.next()?.parse().ok()?);
            let left = match left {
                "dropped" => Left::Dropped,
                "subset" => Left::Subset,
                "torn" => Left::Torn,
                _ => return None,
            };
            Some(Self { flush, left, seed })
        };
        parsed().ok_or_else(|| "not FLUSH:dropped|subset|torn:SEED".to_owned())
    }
}
