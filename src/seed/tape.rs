//! The stream that a tar is read from, with a budget for what stands between two members' data.
//!
//! The tar crate reads extension headers whole and gives pax records line by line, which breaks
//! values with a newline in them. So this keeps the bytes that it reads between two members, up to a
//! limit, for `extension` to parse; past the limit the archive is refused before memory is spent.
//!
//! Of a plain tar in a file only the headers are read: its data is passed over, for writers to read.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

/// The most that may stand between the data of two members, in bytes: extended attributes have
/// 64 KiB each, paths 4 KiB.
pub const MOST_EXTENSIONS: u64 = 1 << 20;

/// Bytes of headers read at once: what follows is mostly passed over.
const HEADERS: usize = 4096;

/// The bytes of a tar.
pub enum Stream {
    /// As they come: out of a decoder or a pipe.
    Flowing(Box<dyn Read>),
    /// In a file of so many bytes.
    File(BufReader<File>, u64),
}

impl Stream {
    /// A plain tar of `length` bytes in a file, at its start.
    pub fn file(file: File, length: u64) -> Stream {
        Stream::File(BufReader::with_capacity(HEADERS, file), length)
    }

    /// The length in bytes, where it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Stream::Flowing(_) => None,
            Stream::File(_, length) => Some(*length),
        }
    }
}

/// What the reader and its owner share.
#[derive(Debug, Default)]
pub struct Reel {
    position: Cell<u64>,
    budget: Cell<Option<u64>>,
    /// Where what is kept begins.
    kept_from: Cell<u64>,
    kept: RefCell<Vec<u8>>,
}

/// See the module.
pub struct Tape {
    source: Stream,
    reel: Rc<Reel>,
}

impl Tape {
    /// A tape at its start.
    pub fn new(source: Stream) -> (Tape, Rc<Reel>) {
        let reel = Rc::new(Reel::default());
        (Tape { source, reel: Rc::clone(&reel) }, reel)
    }
}

impl Reel {
    /// Bytes read or passed over so far.
    pub fn position(&self) -> u64 {
        self.position.get()
    }

    /// From here on every byte is kept, within the budget.
    pub fn keep(&self) {
        self.kept.borrow_mut().clear();
        self.kept_from.set(self.position.get());
        // The padding after the data before, the header itself, and the end mark.
        self.budget.set(Some(MOST_EXTENSIONS + 4 * 512));
    }

    /// Keeps no more; gives what was read since [`Reel::keep`], and from which byte on: what was
    /// passed over first is not in it.
    pub fn kept(&self) -> (u64, Vec<u8>) {
        self.budget.set(None);
        (self.kept_from.get(), self.kept.take())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Flowing(source) => source.read(buffer),
            Stream::File(file, _) => file.read(buffer),
        }
    }
}

impl Seek for Tape {
    /// Only forwards from where it is, past the data of a member.
    fn seek(&mut self, target: SeekFrom) -> io::Result<u64> {
        let (SeekFrom::Current(bytes), Stream::File(file, length)) = (target, &mut self.source) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let bytes_forward = u64::try_from(bytes).map_err(|_| io::ErrorKind::Unsupported)?;
        let position = self.reel.position.get().saturating_add(bytes_forward);
        if position > *length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.seek_relative(bytes)?;
        self.reel.position.set(position);
        if self.reel.kept.borrow().is_empty() {
            self.reel.kept_from.set(position);
        }
        Ok(position)
    }
}

impl Read for Tape {
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
