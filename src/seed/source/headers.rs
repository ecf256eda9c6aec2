//! What extension headers say of the member that follows them: GNU long names, pax records (POSIX
//! pax, "Extended Header"), and where the data of a sparse file goes (GNU tar manual, "Sparse
//! Formats").
//!
//! Pure parsing. Record values may hold any byte. What GNU tar and Python's tarfile read differently
//! is an error.

use super::entry::{Time, Xattrs, carried};

/// The most segments in the map of a sparse file: it is held in memory.
pub(crate) const MAX_SEGMENTS: usize = 65_536;

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// In bytes from the file's start.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// A sparse file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// The file's length in bytes, holes included.
    pub size: u64,
    /// Where data is; `None` when the list stands before the data (format 1.0).
    pub segments: Option<Vec<Segment>>,
}

/// The extension headers of one member, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Extension {
    /// GNU's long name.
    pub name: Option<Vec<u8>>,
    /// GNU's long link.
    pub link: Option<Vec<u8>>,
    /// The pax records, not parsed yet: what is wrong with them is said of the member.
    pub pax: Option<Vec<u8>>,
}

/// What pax records say.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The path, where it did not fit the header.
    pub path: Option<Vec<u8>>,
    /// A link's target, where it did not fit.
    pub link: Option<Vec<u8>>,
    /// Length of the data in the archive, in bytes.
    pub size: Option<u64>,
    /// UID.
    pub uid: Option<u64>,
    /// GID.
    pub gid: Option<u64>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// Extended attributes that are carried.
    pub xattrs: Xattrs,
    /// Set for a sparse file.
    pub sparse: Option<Sparse>,
}

impl Extension {
    /// Whether there is any.
    pub(crate) fn is_some(&self) -> bool {
        self.name.is_some() || self.link.is_some() || self.pax.is_some()
    }

    /// Adds a header of type `L`, `K`, `x` or `g` with its data. A global header may say nothing that
    /// would change members.
    ///
    /// # Errors
    /// What is malformed, or said twice.
    pub(crate) fn add(&mut self, kind: u8, data: Vec<u8>) -> Result<(), String> {
        let twice = match kind {
            b'L' => self.name.replace(until_nul(&data)).is_some(),
            b'K' => self.link.replace(until_nul(&data)).is_some(),
            b'x' => self.pax.replace(data).is_some(),
            _ => return Records::parse(&data)?.changes_nothing(),
        };
        if twice { Err("two extension headers of one type".into()) } else { Ok(()) }
    }
}

impl Records {
    /// Parses the records of a pax header.
    ///
    /// # Errors
    /// What is malformed.
    pub(crate) fn parse(mut data: &[u8]) -> Result<Records, String> {
        let (mut records, mut sparse) = (Records::default(), PaxSparse::default());
        while !data.is_empty() {
            let (record, rest) = split_record(data).ok_or("malformed pax record")?;
            data = rest;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or("malformed pax record")?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => records.path = Some(without_nul(value)?),
                b"linkpath" => records.link = Some(without_nul(value)?),
                b"size" => records.size = Some(number(value)?),
                b"uid" => records.uid = Some(number(value)?),
                b"gid" => records.gid = Some(number(value)?),
                b"mtime" => records.mtime = Some(time(value)?),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| carried(name)) {
                        records.xattrs.push((without_nul(name)?, value.to_vec()));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        sparse.add(key, value)?;
                    }
                }
            }
        }
        if sparse != PaxSparse::default() {
            records.path = sparse.name.take().or(records.path);
            records.sparse = Some(sparse.finish()?);
        }
        Ok(records)
    }

    /// `git archive` writes only a comment. Anything that would change members is too rare to be
    /// right by accident.
    fn changes_nothing(self) -> Result<(), String> {
        let Records { path, link, size, uid, gid, mtime, xattrs, sparse } = self;
        let names = path.is_some() || link.is_some() || !xattrs.is_empty() || sparse.is_some();
        let numbers = size.is_some() || uid.is_some() || gid.is_some() || mtime.is_some();
        if names || numbers { Err("a global header that changes members".into()) } else { Ok(()) }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct PaxSparse {
    version: (Option<u64>, Option<u64>),
    size: Option<u64>,
    real_size: Option<u64>,
    name: Option<Vec<u8>>,
    /// Offsets and lengths in turn, from records of their own (0.0).
    pairs: Vec<u64>,
    /// The same in one record (0.1).
    map: Option<Vec<u64>>,
}

impl PaxSparse {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"major" => self.version.0 = Some(number(value)?),
            b"minor" => self.version.1 = Some(number(value)?),
            b"name" => self.name = Some(without_nul(value)?),
            b"size" => self.size = Some(number(value)?),
            b"realsize" => self.real_size = Some(number(value)?),
            b"offset" if self.pairs.len().is_multiple_of(2) => self.pairs.push(number(value)?),
            b"numbytes" if !self.pairs.len().is_multiple_of(2) => self.pairs.push(number(value)?),
            b"map" => {
                self.map = Some(value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?)
            }
            b"numblocks" => {}
            _ => return Err("malformed sparse records".into()),
        }
        Ok(())
    }

    /// Only what one of the three formats says.
    fn finish(self) -> Result<Sparse, String> {
        let in_records = self.map.is_some() || !self.pairs.is_empty();
        match (self.version, self.size, self.real_size) {
            ((None | Some(0), _), Some(size), None) if self.map.is_none() || self.pairs.is_empty() => {
                let segments = segments(&self.map.unwrap_or(self.pairs), size)?;
                Ok(Sparse { size, segments: Some(segments) })
            }
            ((Some(1), Some(0)), None, Some(size)) if !in_records => Ok(Sparse { size, segments: None }),
            _ => Err("a sparse file in no known format".into()),
        }
    }
}

/// Offsets and lengths in turn, ascending and within the file.
///
/// # Errors
/// What is malformed.
pub(crate) fn segments(numbers: &[u64], size: u64) -> Result<Vec<Segment>, String> {
    // A file's length is an `off_t`.
    if size > i64::MAX as u64 {
        return Err("a sparse file of an impossible size".into());
    }
    let (mut segments, mut end, mut packed) = (Vec::with_capacity(numbers.len() / 2), 0, 0);
    for pair in numbers.chunks(2) {
        let [offset, length] = pair else { return Err("sparse map with an odd number of values".into()) };
        let (offset, length) = (*offset, *length);
        if offset < end || offset.checked_add(length).is_none_or(|end| end > size) {
            return Err("sparse map out of order or beyond the file's end".into());
        }
        // GNU tar begins each segment at a block; others pack them.
        if packed > 0 && length > 0 {
            return Err("sparse map with a segment of no whole blocks before its last".into());
        }
        (end, packed) = (offset + length, packed.max(length % 512));
        if length > 0 {
            segments.push(Segment { offset, length });
        }
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
pub(crate) fn number(text: &[u8]) -> Result<u64, String> {
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

/// What stands before the first NUL.
pub(crate) fn until_nul(data: &[u8]) -> Vec<u8> {
    data.iter().take_while(|byte| **byte != 0).copied().collect()
}

fn without_nul(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.contains(&0) { Err("NUL in a name".into()) } else { Ok(value.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_newlines_and_equals_signs() {
        let records = Records::parse(b"14 path=a\nb=c\n19 mtime=1.5000000\n").unwrap();
        assert_eq!(records.path.unwrap(), b"a\nb=c");
        assert_eq!(records.mtime.unwrap(), Time { seconds: 1, nanoseconds: 500_000_000 });
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
            b"22 GNU.sparse.major=1\n",
            b"23 GNU.sparse.size=100\n22 GNU.sparse.map=0,1\n26 GNU.sparse.realsize=10\n",
            b"23 GNU.sparse.size=100\n25 GNU.sparse.numbytes=1\n",
        ] {
            assert!(Records::parse(text).is_err(), "{:?}", String::from_utf8_lossy(text));
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
        assert!(segments(&[0, 512, 600, 10, 1000, 0], 1000).is_ok());
        for numbers in [&[0, 512, 5, 10][..], &[0, 1001], &[u64::MAX, 2], &[1], &[0, 10, 600, 10]] {
            assert!(segments(numbers, 1000).is_err(), "{numbers:?}");
        }
    }
}
