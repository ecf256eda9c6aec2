//! A file's data, out of an archive to the writers: read by them where it is, or in slabs.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reading;
use crate::error::Result;
use crate::seed::engine::job::{CHUNK, Chunk, Data, FileJob, LargeFile};
use crate::seed::manifest::digest::{DataDigest, Digester};
use crate::seed::source::headers::Segment;
use crate::seed::source::slab::{Piece, Pool, SLAB};

/// A slow source's files are written after this time, even if their slab has room left.
const SLAB_PATIENCE: Duration = Duration::from_millis(50);
/// The most files of a slab: they may be empty.
const MAX_FILES: usize = 4096;

/// The slab that is being filled, and the jobs that wait for it to be full.
pub(crate) struct FillingSlab<'a> {
    pub(crate) pool: &'a Arc<Pool>,
    buffer: Option<Vec<u8>>,
    files: Vec<(FileJob, std::ops::Range<usize>)>,
    since: Instant,
}

impl<'a> FillingSlab<'a> {
    pub(crate) fn new(pool: &'a Arc<Pool>) -> FillingSlab<'a> {
        FillingSlab { pool, buffer: None, files: Vec::new(), since: Instant::now() }
    }
}

/// Offsets in a file, and where in a slab the bytes for them are.
type Parts = Vec<(u64, std::ops::Range<usize>)>;

impl Reading<'_, '_> {
    /// A file whose data begins there in the archive and has so many bytes, and where they go if it has holes.
    pub(crate) fn file(
        &mut self,
        file: FileJob,
        (start, data): (u64, u64),
        sparse: Option<(Vec<Segment>, u64)>,
    ) -> Result<()> {
        match (sparse, usize::try_from(data)) {
            (Some((segments, _)), _) => self.large_file(file, start, &segments),
            (None, _) if self.tar.is_file() => self.file_in_archive(file, start),
            (None, Ok(size)) if size <= SLAB => self.small_file(file, size),
            (None, _) => self.large_file(file, start, &[Segment { offset: 0, length: data }]),
        }
    }

    /// A file whose data writers read where it is.
    fn file_in_archive(&mut self, file: FileJob, start: u64) -> Result<()> {
        let size = file.size;
        if size <= CHUNK {
            return self.feed.file(file, Data::At(start));
        }
        let large = self.feed.large_file(file, false)?;
        self.feed.copy_chunks(&large, size, start)
    }

    fn small_file(&mut self, file: FileJob, size: usize) -> Result<()> {
        let full = self.slab.buffer.as_ref().is_some_and(|buffer| buffer.len() + size > SLAB);
        if full || self.slab.files.len() >= MAX_FILES || self.slab.since.elapsed() > SLAB_PATIENCE {
            self.flush()?;
        }
        let mut buffer = match self.slab.buffer.take() {
            Some(buffer) => buffer,
            None => {
                self.slab.since = Instant::now();
                self.slab.pool.take()
            }
        };
        let start = buffer.len();
        self.read(&mut buffer, size)?;
        self.slab.files.push((file, start..start + size));
        self.slab.buffer = Some(buffer);
        Ok(())
    }

    /// A file with data in these places.
    fn large_file(&mut self, file: FileJob, start: u64, segments: &[Segment]) -> Result<()> {
        self.flush()?;
        let size = file.size;
        let digest = match self.tar.is_file() && self.feed.shared().tree.is_listed() {
            true => Some(self.digest_in_archive(size, start, segments)?),
            false => None,
        };
        let large = self.feed.large_file(file, false)?;
        let (mut buffer, mut parts, mut from) = (Vec::new(), Vec::new(), start);
        let mut digester = Digester::default();
        for segment in segments {
            let (mut offset, end) = (segment.offset, segment.offset + segment.length);
            if self.tar.is_file() {
                for offset in (offset..end).step_by(CHUNK as usize) {
                    let length = CHUNK.min(end - offset);
                    self.feed.chunk(&large, Chunk::Copy { offset, length, from })?;
                    from += length;
                }
                continue;
            }
            while offset < end {
                if buffer.capacity() == 0 {
                    buffer = self.slab.pool.take();
                }
                let start = buffer.len();
                let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(SLAB - start);
                self.read(&mut buffer, length)?;
                digester.hole(offset);
                digester.add(&buffer[start..]);
                parts.push((offset, start..start + length));
                offset += length as u64;
                if buffer.len() == SLAB {
                    self.pieces(&large, std::mem::take(&mut buffer), &mut parts)?;
                }
            }
        }
        self.pieces(&large, buffer, &mut parts)?;
        let digest = digest.unwrap_or_else(|| digester.finish(size));
        self.feed.chunk(&large, Chunk::Last(Some(digest)))
    }

    /// The digest of a file with holes, whose data writers read where it is.
    fn digest_in_archive(&self, size: u64, mut from: u64, segments: &[Segment]) -> Result<DataDigest> {
        let archive = self.feed.shared().source.expect("an archive with data to copy is open");
        let (mut digester, mut buffer) = (Digester::default(), vec![0; SLAB]);
        for segment in segments {
            digester.hole(segment.offset);
            let end = from + segment.length;
            while from < end {
                let room = usize::try_from(end - from).unwrap_or(SLAB).min(SLAB);
                let read =
                    rustix::io::retry_on_intr(|| rustix::io::pread(archive, &mut buffer[..room], from));
                let read = match read.map_err(io::Error::from) {
                    Ok(0) => return Err(self.refused(io::Error::from(io::ErrorKind::UnexpectedEof))),
                    read => read.map_err(|error| self.refused(error))?,
                };
                digester.add(&buffer[..read]);
                from += read as u64;
            }
        }
        Ok(digester.finish(size))
    }

    /// Hands over pieces of a large file, each with its offset there.
    fn pieces(&mut self, large: &Arc<LargeFile>, buffer: Vec<u8>, parts: &mut Parts) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let slab = self.slab.pool.seal(buffer);
        for (offset, range) in parts.drain(..) {
            let piece = Piece { slab: Arc::clone(&slab), range };
            self.feed.chunk(large, Chunk::Write { offset, piece })?;
        }
        self.feed.flush()
    }

    fn read(&mut self, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
        self.tar.read(buffer, length).map_err(|error| self.refused(error))
    }

    /// Hands the slab over, with the files in it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(buffer) = self.slab.buffer.take() {
            let slab = self.slab.pool.seal(buffer);
            for (file, range) in self.slab.files.drain(..) {
                let piece = Piece { slab: Arc::clone(&slab), range };
                self.feed.file(file, Data::Slab(piece))?;
            }
        }
        self.feed.flush()
    }
}
