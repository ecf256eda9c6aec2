//! The stream that a tar is read from, with a budget for what stands between two members' data.
//!
//! The tar crate reads extension headers whole and gives pax records line by line, which breaks
//! values with a newline in them. So this keeps the bytes that it reads between two members, up to a
//! limit, for `extension` to parse; past the limit the archive is refused before memory is spent.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

/// The most that may stand between the data of two members, in bytes: extended attributes have
/// 64 KiB each, paths 4 KiB.
pub const MOST_EXTENSIONS: u64 = 1 << 20;

/// What the reader and its owner share.
#[derive(Debug, Default)]
pub struct Reel {
    position: Cell<u64>,
    budget: Cell<Option<u64>>,
    kept: RefCell<Vec<u8>>,
}

/// See the module.
pub struct Tape<R> {
    source: R,
    reel: Rc<Reel>,
}

impl<R: Read> Tape<R> {
    /// A tape at its start.
    pub fn new(source: R) -> (Tape<R>, Rc<Reel>) {
        let reel = Rc::new(Reel::default());
        (Tape { source, reel: Rc::clone(&reel) }, reel)
    }
}

impl Reel {
    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position.get()
    }

    /// From here on every byte is kept, within the budget.
    pub fn keep(&self) {
        self.kept.borrow_mut().clear();
        // The padding after the data before, the header itself, and the end mark.
        self.budget.set(Some(MOST_EXTENSIONS + 4 * 512));
    }

    /// Keeps no more; gives what was kept since [`Reel::keep`].
    pub fn kept(&self) -> Vec<u8> {
        self.budget.set(None);
        self.kept.take()
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reel = &self.reel;
        let read = match reel.budget.get() {
            None => self.source.read(buffer)?,
            Some(0) => {
                let cause = format!("more than {MOST_EXTENSIONS} bytes of extension headers for one member");
                return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
            }
            Some(budget) => {
                let room = usize::try_from(budget).unwrap_or(usize::MAX).min(buffer.len());
                let read = self.source.read(&mut buffer[..room])?;
                reel.kept.borrow_mut().extend_from_slice(&buffer[..read]);
                reel.budget.set(Some(budget - read as u64));
                read
            }
        };
        reel.position.set(reel.position.get() + read as u64);
        Ok(read)
    }
}
