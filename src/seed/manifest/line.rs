//! One line of a manifest: written and read, and nothing else.
//!
//! Fields are separated by a space. What is no printable ASCII in a name or path, a space and a backslash are three
//! octal digits behind a backslash, as in mtree(5).

use std::borrow::Cow;
use std::io::Write;

use super::digest::DataDigest;
use crate::seed::source::entry::Time;

/// The first line.
pub(crate) const HEADER: &[u8] = b"volseed-manifest 1";
/// What the root is called.
const ROOT: &[u8] = b".";
/// The most bytes of a line: two escaped paths, and numbers.
pub(crate) const MAX_LINE: usize = 4 * 2 * 4096 + 256;

/// Mode and owner of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedAttrs {
    /// 0 to 0o7777; means nothing for a symbolic link.
    pub mode: u32,
    /// UID.
    pub uid: u32,
    /// GID.
    pub gid: u32,
}

/// An entry that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    /// A file. Without a time where times were not set.
    File {
        /// In bytes.
        size: u64,
        /// Its modification.
        time: Option<Time>,
        /// Of its data.
        digest: DataDigest,
    },
    /// A symbolic link to this path.
    Symlink(Box<[u8]>),
    /// Another name for the entry at this path below the root.
    Link(Box<[u8]>),
    /// A FIFO.
    Fifo,
}

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A directory, by its path; what follows is in it. Without attributes it says nothing of the directory itself.
    Directory(Box<[u8]>, Option<ListedAttrs>),
    /// Mode and owner of what follows, to the end of the block.
    Set(ListedAttrs),
    /// Something in the directory.
    Entry(Box<[u8]>, Listed),
    /// What stands at this path, and all below it, is not from the seed.
    LeftOut(Box<[u8]>),
}

/// Adds the line of a directory to `text`.
pub(crate) fn write_directory(path: &[u8], attrs: Option<ListedAttrs>, text: &mut Vec<u8>) {
    let path = if path.is_empty() { ROOT } else { path };
    match attrs {
        Some(ListedAttrs { mode, uid, gid }) => {
            begin(b'd', path, text);
            end(format_args!(" {mode:o} {uid}:{gid}"), text);
        }
        None => {
            begin(b'c', path, text);
            end(format_args!(""), text);
        }
    }
}

/// Adds the line that sets mode and owner of what follows.
pub(crate) fn write_set(ListedAttrs { mode, uid, gid }: ListedAttrs, text: &mut Vec<u8>) {
    text.push(b's');
    end(format_args!(" {mode:o} {uid}:{gid}"), text);
}

/// Adds the line of an entry.
pub(crate) fn write_entry(name: &[u8], listed: &Listed, text: &mut Vec<u8>) {
    match listed {
        Listed::File { size, time, digest } => {
            begin(b'f', name, text);
            match time {
                Some(Time { seconds, nanoseconds: 0 }) => {
                    end(format_args!(" {size} {seconds} {digest}"), text)
                }
                Some(Time { seconds, nanoseconds }) => {
                    end(format_args!(" {size} {seconds}.{nanoseconds:09} {digest}"), text);
                }
                None => end(format_args!(" {size} - {digest}"), text),
            }
        }
        Listed::Symlink(to) | Listed::Link(to) => {
            begin(if matches!(listed, Listed::Link(_)) { b'h' } else { b'l' }, name, text);
            text.push(b' ');
            escape(to, text);
            end(format_args!(""), text);
        }
        Listed::Fifo => {
            begin(b'p', name, text);
            end(format_args!(""), text);
        }
    }
}

/// Adds the line of what is not from the seed.
pub(crate) fn write_left_out(path: &[u8], text: &mut Vec<u8>) {
    begin(b'x', path, text);
    end(format_args!(""), text);
}

fn begin(letter: u8, name: &[u8], text: &mut Vec<u8>) {
    text.extend([letter, b' ']);
    escape(name, text);
}

fn end(rest: std::fmt::Arguments<'_>, text: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = writeln!(text, "{rest}");
}

/// The name of the entry that this is the line of, without a look at the rest.
pub(crate) fn entry_name(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (letter, rest) = line.split_at_checked(2)?;
    if !matches!(letter, b"f " | b"l " | b"h " | b"p ") {
        return None;
    }
    let name = rest.split(|byte| *byte == b' ').next()?;
    if name.contains(&b'\\') { unescape(name).map(Cow::Owned) } else { Some(Cow::Borrowed(name)) }
}

impl Line {
    /// Reads a line, without its end. What volseed does not write is no line.
    pub(crate) fn parse(line: &[u8]) -> Option<Line> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let attrs = |mode, owner| parse_attrs(mode, owner);
        let path = |field: &[u8]| if field == ROOT { Some(Box::default()) } else { path(field) };
        Some(match fields[..] {
            [b"d", at, mode, owner] => Line::Directory(path(at)?, Some(attrs(mode, owner)?)),
            [b"c", at] => Line::Directory(path(at)?, None),
            [b"s", mode, owner] => Line::Set(attrs(mode, owner)?),
            [b"f", name, size, time, digest] => {
                let (size, digest) = (number(size)?, DataDigest::parse(digest)?);
                let time = if time == b"-" { None } else { Some(parse_time(time)?) };
                Line::Entry(component(name)?, Listed::File { size, time, digest })
            }
            [b"l", name, target] => {
                let target = unescape(target).filter(|target| !target.is_empty())?;
                Line::Entry(component(name)?, Listed::Symlink(target.into()))
            }
            [b"h", name, at] => Line::Entry(component(name)?, Listed::Link(self::path(at)?)),
            [b"p", name] => Line::Entry(component(name)?, Listed::Fifo),
            [b"x", at] => Line::LeftOut(path(at)?),
            _ => return None,
        })
    }
}

#[cfg(any(fuzzing, test))]
impl Line {
    /// The line as volseed writes it, with its end.
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        match self {
            Line::Directory(path, attrs) => write_directory(path, *attrs, &mut text),
            Line::Set(attrs) => write_set(*attrs, &mut text),
            Line::Entry(name, listed) => write_entry(name, listed, &mut text),
            Line::LeftOut(path) => write_left_out(path, &mut text),
        }
        String::from_utf8(text).expect("it is ASCII")
    }
}

fn escape(bytes: &[u8], text: &mut Vec<u8>) {
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            text.push(*byte);
        } else {
            text.extend([b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        }
    }
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let mut digit =
            || rest.next().filter(|digit| (b'0'..=b'7').contains(digit)).map(|digit| digit - b'0');
        let (high, middle, low) = (digit()?, digit()?, digit()?);
        bytes.push(high.checked_mul(64)? | middle << 3 | low);
    }
    Some(bytes)
}

/// A path below the root, which leads to nothing above it.
fn path(field: &[u8]) -> Option<Box<[u8]>> {
    let path = unescape(field)?;
    let is_name = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    path.split(|byte| *byte == b'/').all(is_name).then(|| path.into())
}

fn component(field: &[u8]) -> Option<Box<[u8]>> {
    path(field).filter(|name| !name.contains(&b'/'))
}

/// A number just as volseed writes it.
fn number<T: std::str::FromStr + ToString>(field: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(field).ok()?;
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

fn parse_attrs(mode: &[u8], owner: &[u8]) -> Option<ListedAttrs> {
    let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok().filter(|mode| *mode <= 0o7777)?;
    let colon = owner.iter().position(|byte| *byte == b':')?;
    Some(ListedAttrs { mode, uid: number(&owner[..colon])?, gid: number(&owner[colon + 1..])? })
}

fn parse_time(field: &[u8]) -> Option<Time> {
    let (seconds, nanoseconds) = match field.iter().position(|byte| *byte == b'.') {
        Some(point) => {
            let digits = &field[point + 1..];
            let is_right = digits.len() == 9 && digits.iter().all(u8::is_ascii_digit);
            (&field[..point], is_right.then(|| std::str::from_utf8(digits).ok()?.parse().ok())??)
        }
        None => (field, 0),
    };
    Some(Time { seconds: number(seconds)?, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let attrs = ListedAttrs { mode: 0o4755, uid: 0, gid: u32::MAX };
        let file = |time| Listed::File { size: u64::MAX, time, digest: DataDigest::of(b"x") };
        let time = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        let entry = |name: &[u8], listed| Line::Entry(name.into(), listed);
        for (line, written) in [
            (Line::Directory(Box::default(), Some(attrs)), "d . 4755 0:4294967295\n"),
            (Line::Directory(b"a b/\xff\\"[..].into(), None), "c a\\040b/\\377\\134\n"),
            (Line::Set(attrs), "s 4755 0:4294967295\n"),
            (entry(b"x", file(None)), "f x 18446744073709551615 - "),
            (entry(b"x", file(time(-5, 0))), "f x 18446744073709551615 -5 "),
            (entry(b"x", file(time(5, 70))), "f x 18446744073709551615 5.000000070 "),
            (entry(b"\n", Listed::Symlink(b"../x"[..].into())), "l \\012 ../x\n"),
            (entry(b"y", Listed::Link(b"a/x"[..].into())), "h y a/x\n"),
            (entry(b"p", Listed::Fifo), "p p\n"),
            (Line::LeftOut(b"a/b"[..].into()), "x a/b\n"),
        ] {
            let text = line.text();
            assert!(text.starts_with(written) && text.ends_with('\n'), "{text}");
            let text = text.trim_end_matches('\n').as_bytes();
            let name = if let Line::Entry(name, _) = &line { Some(&**name) } else { None };
            assert_eq!(entry_name(text).as_deref(), name);
            assert_eq!(Line::parse(text), Some(line));
        }
    }

    #[test]
    fn what_volseed_does_not_write_is_no_line() {
        let digest = DataDigest::of(b"x");
        let lines =
            ["", "d", "d  755 0:0", "d /a 755 0:0", "d a/../b 755 0:0", "d a 10000 0:0", "d a 755 0:-1"];
        let more = [
            "f a/b", "p ..", "p .", "p a\\0", "p \\400", "h y .", "l y ", "q x", "c a b", "s 755 0",
            "p \\000",
        ];
        for line in lines.into_iter().chain(more) {
            assert_eq!(Line::parse(line.as_bytes()), None, "{line:?}");
        }
        for numbers in ["01 5", "1 05", "+1 5", "1 5.5", "1 5.0000000000", "1 "] {
            let line = format!("f x {numbers} {digest}");
            assert_eq!(Line::parse(line.as_bytes()), None, "{line:?}");
        }
    }
}
