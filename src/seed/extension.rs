//! What extension headers say of the member that follows them: GNU long names, pax records (POSIX
//! pax, "Extended Header"), and where the data of a sparse file goes.
//!
//! Pure parsing of bytes that `tape` kept. Record values may hold any byte.

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::entry::{Time, Xattrs, carried};

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// In bytes from the file's start.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// A sparse file as pax records describe it (GNU tar manual, "Sparse Formats").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// The file's length in bytes, holes included.
    pub size: u64,
    /// Where data is; `None` when the list stands before the data (format 1.0).
    pub segments: Option<Vec<Segment>>,
}

/// What the extension headers of one member say.
#[derive(Debug, Default)]
pub struct Extension {
    /// The path, where it did not fit the header.
    pub path: Option<Vec<u8>>,
    /// A link's target, where it did not fit.
    pub link: Option<Vec<u8>>,
    /// Length of the data in the archive, in bytes.
    pub size: Option<u64>,
    /// User number.
    pub uid: Option<u64>,
    /// Group number.
    pub gid: Option<u64>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// Extended attributes that are carried.
    pub xattrs: Xattrs,
    /// Set for a sparse file.
    pub sparse: Option<Sparse>,
}

impl Extension {
    /// Parses whole 512-byte blocks of extension headers and their data.
    ///
    /// # Errors
    /// What is malformed.
    pub fn parse(mut blocks: &[u8]) -> Result<Extension, String> {
        let mut extension = Extension::default();
        while blocks.len() >= 512 {
            let (header, rest) = blocks.split_at(512);
            let header = Header::from_byte_slice(header);
            let size = header.entry_size().map_err(|error| error.to_string())?;
            let size = usize::try_from(size)
                .ok()
                .filter(|size| *size <= rest.len())
                .ok_or("extension header cut short")?;
            let data = &rest[..size];
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(until_nul(data)),
                EntryType::GNULongLink => extension.link = Some(until_nul(data)),
                EntryType::XHeader => extension.records(data)?,
                other => return Err(format!("unexpected header of type {:?}", char::from(other.as_byte()))),
            }
            blocks = &rest[size.next_multiple_of(512).min(rest.len())..];
        }
        Ok(extension)
    }

    /// Parses the records of a pax header that holds for one member, or for all that follow.
    ///
    /// # Errors
    /// What is malformed.
    pub fn records(&mut self, mut data: &[u8]) -> Result<(), String> {
        let mut sparse = PaxSparse::default();
        while !data.is_empty() {
            let (record, rest) = split_record(data).ok_or("malformed pax record")?;
            data = rest;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or("malformed pax record")?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(without_nul(value)?),
                b"linkpath" => self.link = Some(without_nul(value)?),
                b"size" => self.size = Some(number(value)?),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"mtime" => self.mtime = Some(time(value)?),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| carried(name)) {
                        self.xattrs.push((without_nul(name)?, value.to_vec()));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        sparse.record(key, value)?;
                    }
                }
            }
        }
        if let Some((sparse, name)) = sparse.finish()? {
            self.sparse = Some(sparse);
            self.path = name.or(self.path.take());
        }
        Ok(())
    }
}

/// A sparse file and the name that its records give it.
type SparseFile = (Sparse, Option<Vec<u8>>);

#[derive(Default)]
struct PaxSparse {
    seen: bool,
    major: u64,
    size: Option<u64>,
    name: Option<Vec<u8>>,
    numbers: Vec<u64>,
}

impl PaxSparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.seen = true;
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = Some(without_nul(value)?),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            b"map" => {
                self.numbers = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<SparseFile>, String> {
        if !self.seen {
            return Ok(None);
        }
        let size = self.size.ok_or("sparse file without its size")?;
        let segments = match self.major {
            0 => Some(segments(&self.numbers, size)?),
            1 => None,
            other => return Err(format!("sparse format {other} is not known")),
        };
        Ok(Some((Sparse { size, segments }, self.name)))
    }
}

/// The segments of an old GNU sparse member: those in its header and in the blocks after it.
///
/// # Errors
/// What is malformed.
pub fn gnu_segments(header: &Header, mut blocks: &[u8], size: u64) -> Result<Vec<Segment>, String> {
    let gnu = header.as_gnu().ok_or("sparse member without a GNU header")?;
    let mut numbers = Vec::new();
    let mut take = |sparse: &[tar::GnuSparseHeader]| -> Result<(), String> {
        for block in sparse.iter().filter(|block| !block.is_empty()) {
            numbers.push(block.offset().map_err(|error| error.to_string())?);
            numbers.push(block.length().map_err(|error| error.to_string())?);
        }
        Ok(())
    };
    take(&gnu.sparse)?;
    while blocks.len() >= 512 {
        let mut extended = GnuExtSparseHeader::new();
        extended.as_mut_bytes().copy_from_slice(&blocks[..512]);
        take(extended.sparse())?;
        blocks = &blocks[512..];
    }
    segments(&numbers, size)
}

/// Offsets and lengths in turn, ascending and within the file.
///
/// # Errors
/// What is malformed.
pub fn segments(numbers: &[u64], size: u64) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    let mut end = 0;
    for pair in numbers.chunks(2) {
        let [offset, length] = pair else { return Err("sparse map with an odd number of values".into()) };
        let (offset, length) = (*offset, *length);
        if offset < end || offset.checked_add(length).is_none_or(|end| end > size) {
            return Err("sparse map out of order or beyond the file's end".into());
        }
        end = offset + length;
        segments.push(Segment { offset, length });
    }
    Ok(segments)
}

/// One `"LENGTH KEY=VALUE\n"`, without its length and its newline, and what follows.
fn split_record(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&data[..space]).ok()?).ok()?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    Some((&data[space + 1..length - 1], &data[length..]))
}

/// A decimal number of a header.
///
/// # Errors
/// When it is none.
pub fn number(text: &[u8]) -> Result<u64, String> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| "malformed number in an extension header".into())
}

fn time(text: &[u8]) -> Result<Time, String> {
    let malformed = || "malformed time in an extension header".to_string();
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    let (text, negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(malformed());
    }
    let seconds: i64 = whole.parse().map_err(|_| malformed())?;
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| malformed())?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn until_nul(data: &[u8]) -> Vec<u8> {
    data.iter().take_while(|byte| **byte != 0).copied().collect()
}

fn without_nul(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.contains(&0) { Err("NUL in a name".into()) } else { Ok(value.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &[u8]) -> Result<Extension, String> {
        let mut extension = Extension::default();
        extension.records(text)?;
        Ok(extension)
    }

    #[test]
    fn a_value_may_hold_newlines_and_equals_signs() {
        let extension = records(b"14 path=a\nb=c\n19 mtime=1.5000000\n").unwrap();
        assert_eq!(extension.path.unwrap(), b"a\nb=c");
        assert_eq!(extension.mtime.unwrap(), Time { seconds: 1, nanoseconds: 500_000_000 });
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            &b"5 a\n"[..],
            b"99 path=x\n",
            b"9 path=x",
            b"x path=y\n",
            b"10 path=xy",
            b"7 size=\n",
            b"12 mtime=1e9\n",
        ] {
            assert!(records(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn times_before_1970_have_positive_nanoseconds() {
        assert_eq!(time(b"-1.25"), Ok(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(time(b"-3"), Ok(Time { seconds: -3, nanoseconds: 0 }));
        assert_eq!(time(b"7.123456789123"), Ok(Time { seconds: 7, nanoseconds: 123_456_789 }));
    }

    #[test]
    fn a_sparse_map_stays_within_its_file() {
        assert!(segments(&[0, 10, 20, 10], 30).is_ok());
        for numbers in [&[0, 10, 5, 10][..], &[0, 31], &[u64::MAX, 2], &[1]] {
            assert!(segments(numbers, 30).is_err(), "{numbers:?}");
        }
    }
}
