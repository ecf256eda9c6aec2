//! In what two seeds differ in one directory, and which of the two an entry of the volume is from.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, FileType, Stat};
use rustix::io::Errno;

use super::matrix::{Change, Found};
use crate::seed::manifest::compare::{Content, content, has_attrs};
use crate::seed::manifest::digest::DataDigest;
use crate::seed::manifest::line::{Listed, ListedAttrs};
use crate::seed::manifest::read::{ListedEntries, ListedEntry, Lookup, Manifest};
use crate::seed::manifest::verify::digest_of;
use crate::seed::stage::common::join;
use crate::volume::is_type;
use crate::volume::records::Unkept;

/// Bytes of lines of which each seed's entries are in memory at once.
pub(super) const ENTRIES: u64 = 2 << 20;

/// An entry, no directory, that the two seeds do not have alike.
#[derive(Debug)]
pub(super) struct Leaf {
    /// Its name in the directory.
    pub name: Box<[u8]>,
    /// How they differ.
    pub change: Change,
    /// As the old seed has it.
    pub old: Option<ListedEntry>,
    /// As the new one has it.
    pub new: Option<ListedEntry>,
}

/// The entries of the directory at `path` that the seeds do not have alike.
///
/// # Errors
/// When a manifest cannot be read.
pub(super) fn leaves(old: Option<&Manifest>, new: Option<&Manifest>, path: &[u8]) -> io::Result<Vec<Leaf>> {
    let mut found = Vec::new();
    // Those of the seed that has more there.
    let ranges = old.iter().chain(&new).map(|manifest| manifest.ranges(path, ENTRIES));
    for range in ranges.max_by_key(Vec::len).into_iter().flatten() {
        let entries = |manifest: Option<&Manifest>| {
            manifest.map_or(Ok(ListedEntries::new()), |manifest| manifest.entries(path, &range))
        };
        let (mut olds, news) = (entries(old)?, entries(new)?);
        let (mut old_links, mut new_links) = (old.map(Lookup::of), new.map(Lookup::of));
        for (name, entry) in news {
            let new = first(&mut new_links, entry)?;
            let old = olds.remove(&name).map(|entry| first(&mut old_links, entry)).transpose()?;
            let change = match &old {
                None => Change::Added,
                Some(old) if is_alike(old, &new) => continue,
                Some(_) => Change::Changed,
            };
            found.push(Leaf { name, change, old, new: Some(new) });
        }
        for (name, entry) in olds {
            let old = first(&mut old_links, entry)?;
            found.push(Leaf { name, change: Change::Removed, old: Some(old), new: None });
        }
    }
    Ok(found)
}

/// The names of the directories in one.
#[derive(Default)]
pub(super) struct Names<'m> {
    /// That both seeds have.
    pub both: Vec<&'m [u8]>,
    /// That only the old one has.
    pub old: Vec<&'m [u8]>,
    /// That only the new one has.
    pub new: Vec<&'m [u8]>,
}

/// The directories in the one at `path`.
pub(super) fn names<'m>(old: Option<&'m Manifest>, new: Option<&'m Manifest>, path: &[u8]) -> Names<'m> {
    let list = |manifest: Option<&'m Manifest>| {
        let directory = manifest.and_then(|manifest| Some((manifest, manifest.directory(path)?)));
        directory.map_or(Vec::new(), |(manifest, listed)| {
            let is_listed = |name: &&[u8]| !manifest.is_left_out(&join(path, name));
            listed.directories.iter().map(|name| &**name).filter(is_listed).collect()
        })
    };
    let (olds, news) = (list(old), list(new));
    let mut names = Names::default();
    let known: HashSet<&[u8]> = olds.iter().copied().collect();
    let (both, new) = news.into_iter().partition(|name| known.contains(name));
    (names.both, names.new) = (both, new);
    let both: HashSet<&[u8]> = names.both.iter().copied().collect();
    names.old = olds.into_iter().filter(|name| !both.contains(name)).collect();
    names
}

/// Mode and owner of a directory, where both seeds have it and have them otherwise: the old seed's, and the new one's.
pub(super) fn attrs(
    old: Option<&Manifest>,
    new: Option<&Manifest>,
    path: &[u8],
) -> Option<(ListedAttrs, ListedAttrs)> {
    let of = |manifest: Option<&Manifest>| manifest?.directory(path)?.attrs;
    let (old, new) = (of(old)?, of(new)?);
    (old != new).then_some((old, new))
}

/// What a further name stands for. One of something that is not listed stays what it is: nothing is like it.
fn first(links: &mut Option<Lookup<'_>>, entry: ListedEntry) -> io::Result<ListedEntry> {
    let Some(links) = links.as_mut().filter(|_| matches!(entry.listed, Listed::Link(_))) else {
        return Ok(entry);
    };
    Ok(links.first_name(entry.clone())?.unwrap_or(entry))
}

/// Times tell nothing: an image that is built again has others.
fn is_alike(old: &ListedEntry, new: &ListedEntry) -> bool {
    has_same_content(old, new) && old.attrs == new.attrs
}

fn has_same_content(one: &ListedEntry, other: &ListedEntry) -> bool {
    match (&one.listed, &other.listed) {
        (Listed::File { size, digest, .. }, Listed::File { size: other_size, digest: other_digest, .. }) => {
            (size, digest) == (other_size, other_digest)
        }
        (Listed::Symlink(target), Listed::Symlink(other_target)) => target == other_target,
        (Listed::Fifo, Listed::Fifo) => true,
        _ => false,
    }
}

/// An entry of the volume, in a directory that is open.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The directory.
    pub directory: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a [u8],
    /// What a listing says of it.
    pub stat: &'a Stat,
    /// What the volume does not keep.
    pub unkept: Unkept,
    /// Its data is read, whatever its size and time say.
    pub reads: bool,
}

impl Entry<'_> {
    /// Which seed it is from. Content decides: who owns it, and its mode, may be the app's doing.
    ///
    /// # Errors
    /// When it has to be read and cannot be. What this user may not read is the user's.
    pub(super) fn found(&self, leaf: &Leaf) -> rustix::io::Result<Found> {
        if is_type(self.stat, FileType::Directory) {
            return Ok(Found::Directory);
        }
        let mut data = None;
        // Size and time tell nothing where both seeds have the same.
        let told_by = |seed: &Option<ListedEntry>| {
            seed.as_ref().map(|seed| content(&seed.listed, self.stat, self.unkept))
        };
        let is_ambiguous =
            told_by(&leaf.new) == Some(Content::Same) && told_by(&leaf.old) == Some(Content::Same);
        let entry = Entry { reads: self.reads || is_ambiguous || leaf.old.is_none(), ..*self };
        let [is_new, is_old] = [&leaf.new, &leaf.old].map(|seed| entry.is_of(seed.as_ref(), &mut data));
        let has_attrs = |seed: &Option<ListedEntry>| {
            seed.as_ref().and_then(|seed| seed.attrs).is_none_or(|it| has_attrs(it, self.stat, self.unkept))
        };
        Ok(match (is_new?, is_old?) {
            (true, true) if has_attrs(&leaf.new) => Found::AsNew,
            (_, true) => Found::AsOld,
            (true, false) => Found::AsNew,
            (false, false) => Found::Other,
        })
    }

    /// Whether it has this content; `data` is the digest of its own, once that was read.
    fn is_of(
        &self,
        seed: Option<&ListedEntry>,
        data: &mut Option<Option<DataDigest>>,
    ) -> rustix::io::Result<bool> {
        let Some(seed) = seed else { return Ok(false) };
        let is_open = match content(&seed.listed, self.stat, self.unkept) {
            Content::Differs(_) => return Ok(false),
            Content::Same => self.reads && matches!(seed.listed, Listed::File { .. }),
            Content::Open => true,
        };
        match &seed.listed {
            _ if !is_open => Ok(true),
            Listed::Symlink(target) => match fs::readlinkat(self.directory, self.name, Vec::new()) {
                Ok(found) => Ok(found.as_bytes() == &**target),
                Err(Errno::NOENT | Errno::INVAL) => Ok(false),
                Err(error) => Err(error),
            },
            Listed::File { size, digest, .. } => {
                if data.is_none() {
                    let read = digest_of(self.directory, self.name, *size, &mut Vec::new());
                    *data = Some(unless_refused(read)?.flatten());
                }
                Ok(data.flatten() == Some(*digest))
            }
            Listed::Link(_) | Listed::Fifo => Ok(false),
        }
    }
}

/// What is not there any more, or this user may not read, is nothing that a seed put there.
fn unless_refused<T>(read: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(
            Errno::NOENT
            | Errno::LOOP
            | Errno::INVAL
            | Errno::NXIO
            | Errno::XDEV
            | Errno::ACCESS
            | Errno::PERM,
        ) => Ok(None),
        Err(error) => Err(error),
    }
}
