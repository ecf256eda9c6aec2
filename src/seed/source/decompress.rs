//! From a file or standard input to the bytes of a tar: what compression it is, told by its first
//! bytes, and the decoder for it.
//!
//! Every decoder reads on after the end of one frame or member, as the command-line tools do, and
//! checks what checksum there is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use super::members::{Stream, has_checksum};
use crate::progress::Progress;

/// Bytes read of the source at once.
const READ: usize = 256 << 10;
/// The most memory that an xz stream may ask for, in KiB: `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// The largest window that a zstd frame may ask for, in bytes: that of `zstd --long=27`.
const ZSTD_WINDOW: u64 = 128 << 20;

/// What an archive is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Nothing.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl Compression {
    /// Tells it by the first bytes; `None` where they are not those of any archive.
    pub(crate) fn of(start: &[u8]) -> Option<Compression> {
        let skippable = start.len() >= 4 && start[1..4] == [0x2a, 0x4d, 0x18] && start[0] & 0xf0 == 0x50;
        match start {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ if skippable => Some(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Compression::Bzip2),
            _ if looks_like_tar(start) => Some(Compression::Plain),
            _ => None,
        }
    }
}

/// Opens an archive file of `size` bytes, at its start, as the bytes of a tar.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_file(file: File, size: u64, progress: Arc<Progress>) -> io::Result<Stream> {
    let mut start = [0; 512];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) if Compression::of(&start) == Some(Compression::Plain) => return Ok(Stream::file(file, size)),
        _ => {}
    }
    progress.set_source_size(size);
    open(Box::new(file), progress).map(Stream::Flowing)
}

/// Opens `source` as the bytes of a tar. `progress` hears of every byte that is read.
///
/// # Errors
/// `InvalidData` when it is no archive, or the source's own.
pub(crate) fn open(source: Box<dyn Read>, progress: Arc<Progress>) -> io::Result<Box<dyn Read>> {
    let mut source = BufReader::with_capacity(READ, Counted { source, progress });
    // One read of a pipe may bring less than a header.
    let mut start = Vec::new();
    (&mut source).take(512).read_to_end(&mut start)?;
    let packing = Compression::of(&start).ok_or_else(|| {
        invalid(if start.is_empty() {
            "it is empty"
        } else {
            "it is not a tar archive, plain or in gzip, zstd, bzip2 or xz"
        })
    })?;
    let source = io::Cursor::new(start).chain(source);
    Ok(match packing {
        Compression::Plain => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(source)),
        Compression::Xz => Box::new(XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB)),
        Compression::Zstd => Box::new(Zstd::new(source)),
    })
}

/// A header of any tar has a checksum that few other files have by chance; an archive without
/// members begins with zeros.
fn looks_like_tar(start: &[u8]) -> bool {
    if start.len() < 512 {
        return false;
    }
    let header = tar::Header::from_byte_slice(&start[..512]);
    header.as_bytes().iter().all(|byte| *byte == 0) || has_checksum(header)
}

struct Counted<R> {
    source: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.progress.reading(|| self.source.read(buffer))?;
        self.progress.source_read(read as u64);
        Ok(read)
    }
}

/// All frames of a Zstandard stream, with their checksums.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Zstd<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Zstd { source, decoder, in_frame: false }
    }

    /// Begins the next frame; `false` at the end of the source.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(error.to_string())),
            }
        }
        Ok(false)
    }

    fn end(&mut self) -> io::Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(found)) if stored != found => Err(invalid("zstd checksum mismatch")),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBytes;
        loop {
            if !self.in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, UptoBytes(READ))
                    .map_err(|error| invalid(error.to_string()))?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.end()?;
            self.in_frame = false;
        }
    }
}

fn invalid(cause: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packings_are_told_by_their_first_bytes() {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_cksum();
        for (start, expected) in [
            (&[0x1f, 0x8b, 8][..], Some(Compression::Gzip)),
            (&[0x28, 0xb5, 0x2f, 0xfd][..], Some(Compression::Zstd)),
            (&[0x5a, 0x2a, 0x4d, 0x18][..], Some(Compression::Zstd)),
            (b"BZh91", Some(Compression::Bzip2)),
            (b"\xfd7zXZ\0", Some(Compression::Xz)),
            (&header.as_bytes()[..], Some(Compression::Plain)),
            (&[0; 512][..], Some(Compression::Plain)),
            (b"PK\x03\x04", None),
            (b"", None),
            (&[b'x'; 600][..], None),
        ] {
            assert_eq!(Compression::of(start), expected, "{start:?}");
        }
    }
}
