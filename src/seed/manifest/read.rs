//! Reads a manifest: whether it is whole, where each directory's lines are, and the lines of one directory.
//!
//! Only directories are kept in memory. The file is one that the app's user may have made: lines, names and numbers
//! are bounded, and no path leads out of the volume.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::{Bound, Range};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{self, FileType, Mode, OFlags};

use super::digest::Digester;
use super::line::{HEADER, Line, Listed, ListedAttrs, MAX_LINE, entry_name};
use crate::volume::records::{Complete, ManifestRef, Unkept};
use crate::volume::{is_type, openat};

/// The most directories that are kept in memory: twice as many as `--max-entries` lets a seed have of anything, where
/// nobody has raised that.
const MAX_DIRECTORIES: usize = 4_000_000;
/// What may be kept of directories that no line lists and others are in, in bytes. volseed lists every directory but
/// perhaps some above the sentinel: this is more than twice what one path can have of them.
pub(super) const MAX_UNLISTED: usize = 8 << 20;
/// The most names that lead from a further name of a file to its first: a chain that volseed writes has one.
const MAX_HOPS: usize = 8;
/// Bytes of lines from one sampled name to the next: what ranges of names are made of.
const SAMPLE: u64 = 16 << 10;
/// Bytes of lines of which entries are in memory where one part of a directory is looked at after the other: they take
/// three times as much.
pub(crate) const PART: u64 = 1 << 20;
/// What is read of a directory's lines in one go, in bytes: as much as is written of them.
const READ_LINES: u64 = 64 << 10;
/// What is read in one go, in bytes: the largest read that an NFS mount sends at once (nfs(5), `rsize`).
const READ: usize = 1 << 20;

/// A manifest that is whole.
pub(crate) struct Manifest {
    file: File,
    directories: BTreeMap<Box<[u8]>, ListedDirectory>,
    left_out: HashSet<Box<[u8]>>,
    /// What the volume did not keep of it.
    pub unkept: Unkept,
}

/// A directory of the seed.
#[derive(Debug, Default)]
pub(crate) struct ListedDirectory {
    /// Its own mode and owner, where they are known.
    pub attrs: Option<ListedAttrs>,
    /// The names of the directories in it.
    pub directories: Vec<Box<[u8]>>,
    blocks: Vec<Range<u64>>,
    /// Some names of its other entries, evenly spread.
    samples: Vec<Box<[u8]>>,
}

/// Names of a directory that are looked at together: a large one is in several parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameRange {
    from: Box<[u8]>,
    /// The first name behind it; nothing where it has all that are left.
    to: Option<Box<[u8]>>,
    /// Bytes of the lines of its entries, about.
    pub bytes: u64,
}

impl NameRange {
    /// Whether this name is in it.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        *self.from <= *name && self.to.as_ref().is_none_or(|to| *name < **to)
    }
}

/// An entry with its mode and owner; a further name of another has none of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedEntry {
    /// What it is.
    pub listed: Listed,
    /// Its mode and owner.
    pub attrs: Option<ListedAttrs>,
}

/// The entries of a directory that are no directories, by name.
pub(crate) type ListedEntries = BTreeMap<Box<[u8]>, ListedEntry>;

impl Manifest {
    /// The manifest that `record` names, in the state directory.
    ///
    /// # Errors
    /// Why there is none that can be used.
    pub(crate) fn open(state: BorrowedFd<'_>, record: &Complete) -> Result<Manifest, String> {
        let named = record.manifest.as_ref().ok_or("the volume's record names no manifest")?;
        Manifest::read(state, &ManifestRef::name(record.generation), named)
    }

    /// The manifest of this name in a directory.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn read(
        directory: BorrowedFd<'_>,
        name: &str,
        named: &ManifestRef,
    ) -> Result<Manifest, String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let failed = |error: io::Error| format!("its manifest cannot be read: {error}");
        let fd =
            openat(directory, name.as_bytes(), flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let stat = fs::fstat(&fd).map_err(|error| failed(error.into()))?;
        if !is_type(&stat, FileType::RegularFile) || stat.st_size as u64 != named.bytes {
            return Err("its manifest is not the one that was recorded".into());
        }
        let mut manifest = Manifest {
            file: fd.into(),
            directories: BTreeMap::new(),
            left_out: HashSet::new(),
            unkept: named.unkept,
        };
        let digest = manifest.index(named.bytes).map_err(failed)?;
        if digest != named.digest.raw() {
            return Err("its manifest is damaged".into());
        }
        manifest.connect().map_err(failed)?;
        Ok(manifest)
    }

    /// The same, with what was left out of the seed.
    pub(crate) fn of_all(self) -> Manifest {
        Manifest { left_out: HashSet::new(), ..self }
    }

    /// A directory of the seed by its path; the root's is empty.
    pub(crate) fn directory(&self, path: &[u8]) -> Option<&ListedDirectory> {
        self.directories.get(path)
    }

    /// The paths of a directory and of all below it.
    pub(crate) fn below<'m>(&'m self, path: &'m [u8]) -> impl Iterator<Item = &'m [u8]> {
        let is_below = |it: &&[u8]| {
            path.is_empty() || it.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let from = self
            .directories
            .range::<[u8], _>((Bound::Included(path), Bound::Unbounded))
            .map(|(path, _)| &**path);
        // `a-b` is between `a` and `a/b`.
        from.take_while(move |it| it.starts_with(path)).filter(is_below)
    }

    /// Whether what the volume has at this path, and below it, is not from the seed.
    pub(crate) fn is_left_out(&self, path: &[u8]) -> bool {
        self.left_out.contains(path)
    }

    /// How many entries it has below a directory, but for directories.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub(crate) fn count(&self, path: &[u8]) -> io::Result<u64> {
        let mut count = 0;
        for path in self.below(path) {
            for range in self.ranges(path, PART) {
                count += self.entries(path, &range)?.len() as u64;
            }
        }
        Ok(count)
    }

    /// All names of a directory, in ranges with about so many bytes of lines each. Ascending; one at least.
    pub(crate) fn ranges(&self, path: &[u8], bytes: u64) -> Vec<NameRange> {
        let directory = self.directories.get(path);
        let samples = directory.map(|directory| &directory.samples[..]).unwrap_or_default();
        let blocks = directory.map(|directory| &directory.blocks[..]).unwrap_or_default();
        let all: u64 = blocks.iter().map(|block| block.end - block.start).sum();
        let count = usize::try_from(all.div_ceil(bytes)).unwrap_or(usize::MAX).clamp(1, samples.len() + 1);
        let bytes = all / count as u64;
        let mut ranges = vec![NameRange { from: Box::default(), to: None, bytes }];
        for from in (1..count).map(|number| &samples[number * samples.len() / count]) {
            if let Some(last) = ranges.last_mut().filter(|last| last.from < *from) {
                last.to = Some(from.clone());
                ranges.push(NameRange { from: from.clone(), to: None, bytes });
            }
        }
        ranges
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// When that is not known.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The entries of a directory with names in this range, but for the directories in it.
    ///
    /// # Errors
    /// When the file cannot be read, or was changed since it was opened.
    pub(crate) fn entries(&self, path: &[u8], range: &NameRange) -> io::Result<ListedEntries> {
        let mut entries = ListedEntries::new();
        let blocks = self.directories.get(path).map(|directory| &directory.blocks[..]).unwrap_or_default();
        for block in blocks {
            let mut attrs = None;
            self.lines(block, |line| {
                if entry_name(line).is_some_and(|name| !range.contains(&name)) {
                    return Ok(());
                }
                match Line::parse(line) {
                    Some(Line::Set(set)) => attrs = Some(set),
                    Some(Line::Entry(name, listed)) => {
                        let own = if matches!(listed, Listed::Link(_)) { None } else { attrs };
                        entries.insert(name, ListedEntry { listed, attrs: own });
                    }
                    _ => return Err(no_line()),
                }
                Ok(())
            })?;
        }
        entries.retain(|name, _| !self.is_left_out(&join(path, name)));
        Ok(entries)
    }

    /// Tells of each line of a block.
    fn lines(&self, block: &Range<u64>, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let (mut at, mut text, mut rest) = (block.start, Vec::new(), 0);
        while at < block.end {
            let more = usize::try_from(READ_LINES.min(block.end - at)).map_err(io::Error::other)?;
            text.resize(rest + more, 0);
            self.file.read_exact_at(&mut text[rest..], at)?;
            at += more as u64;
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            text[..whole]
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .try_for_each(&mut each)?;
            text.drain(..whole);
            rest = text.len();
            if rest > MAX_LINE {
                return Err(no_line());
            }
        }
        if rest == 0 { Ok(()) } else { Err(no_line()) }
    }

    /// Reads all of it once: where the blocks are, and the digest of the file.
    fn index(&mut self, size: u64) -> io::Result<String> {
        let mut reader = BufReader::with_capacity(READ, self.file.try_clone()?).take(size);
        let (mut digester, mut at) = (Digester::default(), 0);
        let (mut line, mut block) = (Vec::new(), None);
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            digester.add(&line);
            let (begin, end) = (at, at + read as u64);
            at = end;
            let Some(text) = line.strip_suffix(b"\n") else { return Err(no_line()) };
            if begin == 0 {
                if text != HEADER {
                    return Err(io::Error::other("another volseed wrote it"));
                }
                continue;
            }
            match Line::parse(text).ok_or_else(no_line)? {
                Line::Directory(path, attrs) => {
                    let directory = self.directories.entry(path.clone()).or_default();
                    directory.attrs = attrs.or(directory.attrs);
                    if directory.blocks.is_empty() {
                        // Most directories have one.
                        directory.blocks.reserve_exact(1);
                    }
                    directory.blocks.push(end..end);
                    block = Some(path);
                }
                Line::LeftOut(path) => {
                    self.left_out.insert(path);
                    block = None;
                }
                line @ (Line::Set(_) | Line::Entry(..)) => {
                    let directory = block.as_ref().and_then(|path| self.directories.get_mut(path));
                    let directory = directory.ok_or_else(no_line)?;
                    directory.blocks.last_mut().ok_or_else(no_line)?.end = end;
                    if let Line::Entry(name, _) = line
                        && begin / SAMPLE != end / SAMPLE
                    {
                        directory.samples.push(name);
                    }
                }
            }
            if self.directories.len() + self.left_out.len() > MAX_DIRECTORIES {
                return Err(io::Error::other("it has too many directories"));
            }
        }
        Ok(digester.finish(at).to_string())
    }

    /// Names each directory in the one that it is in.
    fn connect(&mut self) -> io::Result<()> {
        let paths: Vec<Box<[u8]>> = self.directories.keys().cloned().collect();
        let mut unlisted = 0;
        for path in paths {
            let mut path = &*path;
            while !path.is_empty() {
                let (parent, name) = split(path);
                let is_new = !self.directories.contains_key(parent);
                if is_new {
                    unlisted += parent.len() + size_of::<ListedDirectory>();
                }
                if unlisted > MAX_UNLISTED {
                    return Err(io::Error::other("it has too many directories that it does not list"));
                }
                self.directories.entry(parent.into()).or_default().directories.push(name.into());
                if !is_new {
                    break;
                }
                path = parent;
            }
        }
        self.directories.entry(Box::default()).or_default();
        self.directories.values_mut().for_each(|directory| directory.samples.sort_unstable());
        Ok(())
    }
}

/// Looks up entries by their paths. Those of a range of one directory are read once, if they are asked for one after the
/// other.
pub(crate) struct Lookup<'m> {
    manifest: &'m Manifest,
    last: Option<(Box<[u8]>, NameRange, ListedEntries)>,
}

impl<'m> Lookup<'m> {
    /// In this manifest.
    pub(crate) fn of(manifest: &'m Manifest) -> Lookup<'m> {
        Lookup { manifest, last: None }
    }

    /// The entry at a path, unless it is a directory.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub(crate) fn entry(&mut self, path: &[u8]) -> io::Result<Option<ListedEntry>> {
        let (parent, name) = split(path);
        let is_read =
            |(last, range, _): &(Box<[u8]>, NameRange, _)| **last == *parent && range.contains(name);
        if !self.last.as_ref().is_some_and(is_read) {
            self.last = None;
            let range = self.manifest.ranges(parent, PART).into_iter().find(|range| range.contains(name));
            let range = range.expect("the ranges have all names");
            let entries = self.manifest.entries(parent, &range)?;
            self.last = Some((parent.into(), range, entries));
        }
        Ok(self.last.as_ref().and_then(|(.., entries)| entries.get(name).cloned()))
    }

    /// What a further name stands for; another entry stands for itself.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub(crate) fn first_name(&mut self, entry: ListedEntry) -> io::Result<Option<ListedEntry>> {
        let mut entry = entry;
        for _ in 0..MAX_HOPS {
            let Listed::Link(path) = &entry.listed else { return Ok(Some(entry)) };
            let path = path.clone();
            let Some(first) = self.entry(&path)? else { return Ok(None) };
            entry = first;
        }
        Ok(None)
    }
}

/// The directory that a path is in, and its name there.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn no_line() -> io::Error {
    io::Error::other("a line in it is not one of volseed's")
}
