//! The members of a tar, one after the other, each with all that its headers say.
//!
//! A file, a pipe and every compression go through the same loop; only data is passed over
//! differently, by a seek or a read. Where GNU tar and Python's tarfile read a header differently, or
//! POSIX leaves its meaning open, the archive is refused (the test `archives_differential`).

use std::fs::File;
use std::io::{self, BufReader, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::entry::{Meta, Time};
use super::headers::{Extension, MAX_SEGMENTS, Records, Segment, Sparse, number, segments, until_nul};
use crate::error::Quoted;

/// The most that the extension headers of one member may take, in bytes: extended attributes have
/// 64 KiB each, paths 4 KiB.
const MAX_EXTENSIONS: u64 = 1 << 20;
/// The most that may follow the end mark in a stream, which is read on for its checksums: GNU tar
/// fills a record, 10 KiB as a rule.
const MAX_TRAILER: u64 = 64 << 20;
/// Bytes of headers read at once from a file: what follows is mostly passed over.
const HEADERS: usize = 4096;
const BLOCK: u64 = 512;
/// The most bytes of a name that a message shows.
const MAX_SHOWN: usize = 1024;

/// The bytes of a tar.
pub(crate) enum Stream {
    /// As they come: out of a decoder or a pipe.
    Flowing(Box<dyn Read>),
    /// In a file of so many bytes.
    File(BufReader<File>, u64),
}

/// Why an archive is not read any further.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It cannot be read, or not be decompressed, or it ends early.
    Read(io::Error),
    /// What is wrong with the member.
    Refused(String),
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// Another name for a member before it.
    Link,
    /// A device node, which no seed may have.
    Device,
}

/// A member's headers.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name, as it is in the archive.
    pub path: Vec<u8>,
    /// What it links to; empty where it is no link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// What it carries.
    pub meta: Meta,
    /// Length of its data in the archive, in bytes.
    pub data: u64,
    /// Where that data goes, and the file's length in bytes, where it has holes.
    pub sparse: Option<(Vec<Segment>, u64)>,
}

/// A tar that is read from its start to its end.
pub(crate) struct Tar {
    source: Stream,
    position: u64,
    /// Where the next header is.
    next: u64,
    member: Vec<u8>,
    /// Whether that member's own headers are being judged, or its data is.
    in_member: bool,
}

impl Stream {
    /// A plain tar of `length` bytes in a file, at its start.
    pub(crate) fn file(file: File, length: u64) -> Stream {
        Stream::File(BufReader::with_capacity(HEADERS, file), length)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Read(error)
    }
}

impl From<String> for Fault {
    fn from(cause: String) -> Fault {
        Fault::Refused(cause)
    }
}

impl From<&str> for Fault {
    fn from(cause: &str) -> Fault {
        Fault::Refused(cause.to_owned())
    }
}

impl Tar {
    /// A tar at its start.
    pub(crate) fn new(source: Stream) -> Tar {
        Tar { source, position: 0, next: 0, member: Vec::new(), in_member: false }
    }

    /// Whether members' data can be read where it is, by others.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Stream::File(..))
    }

    /// Where in the tar the next byte of data is.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where it is, for messages: in a member, or on the way to the next.
    pub(crate) fn place(&self) -> String {
        // A name may be as long as its header; its beginning tells enough.
        let member = &self.member[..self.member.len().min(MAX_SHOWN)];
        match (member, self.in_member) {
            ([], false) => String::new(),
            (_, true) => format!(", member {}", member.quoted()),
            (_, false) => format!(", at or after member {}", member.quoted()),
        }
    }

    /// The next member, its data not yet read; `None` at the end mark. Blocks as the source does.
    ///
    /// # Errors
    /// When the archive is cut short, malformed, or has a member that no seed may have.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Fault> {
        self.in_member = false;
        self.pass(self.next.saturating_sub(self.position))?;
        let (mut extension, mut budget) = (Extension::default(), MAX_EXTENSIONS);
        loop {
            let header = match self.block() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err("it ends without its end mark: it was cut short".into());
                }
                header => header?,
            };
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                if extension.is_some() {
                    return Err("extension headers without a member".into());
                }
                self.member.clear();
                return Ok(None);
            }
            if !has_checksum(&header) {
                return Err("a header with a wrong checksum".into());
            }
            let kind = header.as_old().linkflag[0];
            if !matches!(kind, b'L' | b'K' | b'x' | b'g') {
                return self.member_of(&header, extension).map(Some);
            }
            let size = size_of(&header)?;
            budget = budget.checked_sub(size.saturating_add(BLOCK)).ok_or_else(|| {
                format!("more than {MAX_EXTENSIONS} bytes of extension headers for one member")
            })?;
            let (mut data, size) = (Vec::new(), size as usize);
            self.read(&mut data, size.next_multiple_of(BLOCK as usize))?;
            // Python reads on into what fills the block, and so does GNU tar in a name without a NUL.
            if data.drain(size..).any(|byte| byte != 0) {
                return Err("an extension header with something after its end".into());
            }
            extension.add(kind, data)?;
        }
    }

    /// Reads so many bytes of the member's data to the end of `buffer`.
    ///
    /// # Errors
    /// When the archive is cut short or cannot be read.
    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let source: &mut dyn Read = match &mut self.source {
            Stream::Flowing(source) => source,
            Stream::File(file, _) => file,
        };
        let read = source.take(length as u64).read_to_end(buffer)?;
        self.position += read as u64;
        if read < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Past the end mark: the checksums of a compression stand after it. A plain file has none.
    ///
    /// # Errors
    /// When a checksum does not match, or too much follows.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        let Stream::Flowing(source) = &mut self.source else { return Ok(()) };
        match io::copy(&mut source.take(MAX_TRAILER + 1), &mut io::sink())? {
            trailer if trailer > MAX_TRAILER => Err("more than 64 MiB follow its end mark".into()),
            _ => Ok(()),
        }
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = match &mut self.source {
            Stream::Flowing(source) => io::copy(&mut source.take(bytes), &mut io::sink())?,
            // What is in a file fits `i64` (off_t).
            Stream::File(file, length) if bytes <= length.saturating_sub(self.position) => {
                file.seek_relative(bytes as i64)?;
                bytes
            }
            Stream::File(..) => 0,
        };
        self.position += passed;
        if passed < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn block(&mut self) -> io::Result<Header> {
        let mut header = Header::new_old();
        match &mut self.source {
            Stream::Flowing(source) => source.read_exact(header.as_mut_bytes())?,
            Stream::File(file, _) => file.read_exact(header.as_mut_bytes())?,
        }
        self.position += BLOCK;
        Ok(header)
    }

    fn member_of(&mut self, header: &Header, extension: Extension) -> Result<Member, Fault> {
        let old = header.as_old();
        (self.member, self.in_member) = (header_path(header), true);
        let Extension { name, link, pax } = extension;
        let mut pax = Records::parse(&pax.unwrap_or_default())?;
        let path = one_of(name, pax.path.take(), "names")?.unwrap_or_else(|| self.member.clone());
        self.member.clone_from(&path);
        let link = one_of(link, pax.link.take(), "links")?.unwrap_or_else(|| until_nul(&old.linkname));
        let kind = kind_of(old.linkflag[0], path.ends_with(b"/"))?;
        // Both read it, also where an extended header says another.
        let size = pax.size.unwrap_or(size_of(header)?);
        let data = match kind {
            MemberKind::File => size,
            // That of the file which it names.
            MemberKind::Link if pax.size.is_none() => 0,
            _ if size == 0 => 0,
            _ => return Err("data, which only a file may have".into()),
        };
        let meta = meta_of(header, &mut pax)?;
        let mut member = Member { path, link, kind, meta, data, sparse: None };
        let sparse = match (old.linkflag[0], pax.sparse.take()) {
            (b'S', None) if pax.size.is_none() => Some(self.gnu_map(header)?),
            (_, None) if old.linkflag[0] != b'S' => None,
            (b'0' | 0, Some(sparse)) if kind == MemberKind::File => Some(sparse),
            _ => return Err("an extended header that does not fit its type".into()),
        };
        self.next = self
            .position
            .checked_add(data)
            .and_then(|end| end.checked_next_multiple_of(BLOCK))
            .ok_or("an impossible size")?;
        if matches!(&self.source, Stream::File(_, length) if self.position + data > *length) {
            return Err("it ends in the middle of this member".into());
        }
        if let Some(Sparse { size, segments }) = sparse {
            let segments = match segments {
                Some(segments) => segments,
                None => self.map_before_data(&mut member.data, size)?,
            };
            if segments.iter().map(|segment| segment.length).sum::<u64>() != member.data {
                return Err("a sparse map that does not fit its data".into());
            }
            member.sparse = Some((segments, size));
        }
        Ok(member)
    }

    /// The map of an old GNU sparse member: in its header, and in blocks after it.
    fn gnu_map(&mut self, header: &Header) -> Result<Sparse, Fault> {
        let gnu = header.as_gnu().ok_or("a sparse member without a GNU header")?;
        let size = number_of(&gnu.realsize).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or("a sparse member without its size")?;
        let (mut numbers, mut whole) = (Vec::new(), true);
        let mut add = |entries: &[GnuSparseHeader], more: bool| {
            for entry in entries {
                let empty = entry.offset[0] == 0 && entry.numbytes[0] == 0;
                let pair =
                    [&entry.offset, &entry.numbytes].map(|field| number_of(field).map(i64::cast_unsigned));
                match pair {
                    _ if empty => whole = false,
                    [Some(offset), Some(length)] if whole => numbers.extend([offset, length]),
                    _ => return Err("a malformed sparse map"),
                }
            }
            if more && (!whole || numbers.len() > 2 * MAX_SEGMENTS) {
                Err("a malformed sparse map")
            } else {
                Ok(())
            }
        };
        let mut more = gnu.isextended[0] != 0;
        add(&gnu.sparse, more)?;
        while more {
            let mut extended = GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(self.block()?.as_bytes());
            more = extended.isextended[0] != 0;
            add(&extended.sparse, more)?;
        }
        Ok(Sparse { size, segments: Some(segments(&numbers, size)?) })
    }

    /// The map of sparse format 1.0, which stands before the data in decimal lines, padded to a block.
    /// `data` becomes the length of what follows it.
    fn map_before_data(&mut self, data: &mut u64, size: u64) -> Result<Vec<Segment>, Fault> {
        let (mut numbers, mut line, mut expected) = (Vec::new(), Vec::new(), None);
        while expected != Some(numbers.len()) {
            *data = data.checked_sub(BLOCK).ok_or("a sparse map that does not fit its data")?;
            for byte in *self.block()?.as_bytes() {
                if expected == Some(numbers.len()) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err("a malformed sparse map".into());
                    }
                    continue;
                }
                let number = number(&line)?;
                line.clear();
                match expected {
                    None if number > MAX_SEGMENTS as u64 => {
                        return Err(format!("a sparse file of more than {MAX_SEGMENTS} segments").into());
                    }
                    None => expected = Some(2 * number as usize),
                    Some(_) => numbers.push(number),
                }
            }
        }
        Ok(segments(&numbers, size)?)
    }
}

/// Whether a block is a header: its checksum, with or without signs, is that of its bytes.
pub(crate) fn has_checksum(header: &Header) -> bool {
    let (bytes, blanks) = (header.as_bytes(), 8 * i64::from(b' '));
    let summed = || bytes[..148].iter().chain(&bytes[156..]);
    let sum = blanks + summed().map(|byte| i64::from(*byte)).sum::<i64>();
    number_of(&header.as_old().cksum).is_some_and(|sum_in_header| {
        sum_in_header == sum
            || sum_in_header == blanks + summed().map(|byte| i64::from(*byte as i8)).sum::<i64>()
    })
}

/// A number of a header: octal digits between blanks, up to a NUL, or in base 256. `None` where it is
/// neither, or does not fit.
fn number_of(field: &[u8]) -> Option<i64> {
    if let [first @ (0x80 | 0xff), rest @ ..] = field {
        let sign = i64::from(*first == 0xff);
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        let number = low.iter().fold(-sign, |number, byte| number << 8 | i64::from(*byte));
        let fits = high.iter().all(|byte| i64::from(*byte) == sign * 0xff) && (number < 0) == (sign == 1);
        return fits.then_some(number);
    }
    let text = until_nul(field);
    let text = text.trim_ascii();
    let digits = text.iter().all(|byte| matches!(byte, b'0'..=b'7')) && (!text.is_empty() || field[0] == 0);
    digits.then(|| text.iter().fold(0, |number, digit| number << 3 | i64::from(digit - b'0')))
}

fn size_of(header: &Header) -> Result<u64, String> {
    let size = number_of(&header.as_old().size).and_then(|size| u64::try_from(size).ok());
    size.ok_or_else(|| "a malformed size".into())
}

/// The name in a header; POSIX puts what does not fit before it.
fn header_path(header: &Header) -> Vec<u8> {
    let (name, bytes) = (until_nul(&header.as_old().name), header.as_bytes());
    let prefix = if bytes[257..263] == *b"ustar\0" { until_nul(&bytes[345..500]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [prefix, name].join(&b'/') }
}

fn kind_of(type_flag: u8, has_slash: bool) -> Result<MemberKind, Fault> {
    match type_flag {
        // Before POSIX a slash at the end was what made a directory.
        0 | b'0' | b'7' if has_slash => Ok(MemberKind::Directory),
        0 | b'0' | b'7' | b'S' => Ok(MemberKind::File),
        b'1' => Ok(MemberKind::Link),
        b'2' => Ok(MemberKind::Symlink),
        b'3' | b'4' => Ok(MemberKind::Device),
        b'5' => Ok(MemberKind::Directory),
        b'6' => Ok(MemberKind::Fifo),
        other => Err(format!("a member of unknown type {:?}", char::from(other)).into()),
    }
}

fn meta_of(header: &Header, pax: &mut Records) -> Result<Meta, Fault> {
    let old = header.as_old();
    let field = |field: &[u8], what| number_of(field).ok_or_else(|| format!("a malformed {what}"));
    let owner = |id: Option<u64>, in_header: &[u8], what| {
        let id = id.map_or_else(|| field(in_header, what), |id| Ok(id.try_into().unwrap_or(-1)))?;
        // The largest number stands for none (chown(2)).
        let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| format!("an impossible {what}"))
    };
    let time = || field(&old.mtime, "time").map(|seconds| Time { seconds, nanoseconds: 0 });
    Ok(Meta {
        mode: (field(&old.mode, "mode")? & 0o7777) as u32,
        uid: owner(pax.uid, &old.uid, "UID")?,
        gid: owner(pax.gid, &old.gid, "GID")?,
        mtime: Some(pax.mtime.map_or_else(time, Ok)?),
        xattrs: (!pax.xattrs.is_empty()).then(|| Box::new(std::mem::take(&mut pax.xattrs))),
    })
}

/// What one of two headers says. Where both do, GNU tar and Python go by different ones.
fn one_of(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>, what: &str) -> Result<Option<Vec<u8>>, String> {
    if gnu.is_some() && pax.is_some() { Err(format!("two long {what}")) } else { Ok(gnu.or(pax)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_in_base_256_and_whole() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77_777_777)),
            (b"644\0zzzz", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", None),
            (b"64 4\0\0\0\0", None),
            (b"+644\0\0\0\0", None),
            (b"0o644\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\x05", None),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x81\0\0\0\0\0\x01\0", None),
        ] {
            assert_eq!(number_of(field), expected, "{field:?}");
        }
    }
}
