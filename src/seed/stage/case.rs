//! Names that a volume does not tell apart, those that differ in case only above all, and names of which it drops the
//! end.
//!
//! Where the volume ignores case, each name of the seed is compared with those before it while the source is read.
//! A file system that folds names by rules of its own (Unicode's forms, Windows' tables) says so when a name is
//! made: it is there, under another spelling. FAT and exFAT drop a final dot and say nothing: that is tried, once the
//! source has such a name. Either way nothing is published. Knows names, not files.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::tree::Tree;
use crate::error::{Context, Result};
use crate::volume::records::TREE;
use crate::volume::{names, openat, stat_entry};

/// How many names are kept to be named in an error; of all others only a digest is. They are a few MiB.
const MAX_NAMED: usize = 65_536;
/// Of a directory whose names are looked up without their case (Linux `include/uapi/linux/fs.h`,
/// `FS_CASEFOLD_FL`).
const CASEFOLD: u32 = 0x4000_0000;

/// A name as a volume that ignores case compares it: simple folding, a character for a character, so that `ß` is
/// no `ss`. What is not UTF-8 is folded as ASCII.
pub(crate) fn fold(name: &[u8]) -> Vec<u8> {
    match str::from_utf8(name) {
        Ok(text) => text.chars().map(fold_char).collect::<String>().into(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// By way of the capital, since two small sigmas have one.
fn fold_char(c: char) -> char {
    let small = single(c.to_lowercase(), c);
    let capital = single(small.to_uppercase(), small);
    single(capital.to_lowercase(), capital)
}

fn single(mut mapped: impl Iterator<Item = char>, c: char) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

/// Whether a directory that holds `name` finds it in capitals, too. One look-up; a name without letters says no.
///
/// # Errors
/// As `fstatat`.
pub(crate) fn ignores_case(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<bool> {
    let other = match name.iter().any(u8::is_ascii_lowercase) {
        true => name.to_ascii_uppercase(),
        false => name.to_ascii_lowercase(),
    };
    if other == name {
        return Ok(false);
    }
    let (Some(one), Some(two)) = (stat_entry(directory, name)?, stat_entry(directory, &other)?) else {
        return Ok(false);
    };
    Ok((one.st_dev, one.st_ino) == (two.st_dev, two.st_ino))
}

/// Whether a directory of the volume that holds the names `there` ignores case. On ext4 and f2fs that is each
/// directory's own; elsewhere one of its names is looked up, and another where that is a mount that does not answer.
pub(crate) fn folds(directory: BorrowedFd<'_>, there: &HashSet<Box<[u8]>>) -> bool {
    if fs::ioctl_getflags(directory).is_ok_and(|flags| flags.bits() & CASEFOLD != 0) {
        return true;
    }
    let is_telling = |name: &&[u8]| {
        let swapped = [name.to_ascii_uppercase(), name.to_ascii_lowercase()];
        !name.starts_with(crate::volume::records::DIRECTORY.as_bytes())
            && name.iter().any(u8::is_ascii_alphabetic)
            // Both spellings are there: it tells them apart, and the look-up would show it.
            && swapped.iter().any(|other| other.as_slice() != *name)
    };
    let mut telling = there.iter().map(|name| &**name).filter(is_telling);
    telling.find_map(|name| ignores_case(directory, name).ok()).unwrap_or(false)
}

/// Looks at each path of a seed before it is made.
#[derive(Debug)]
pub(crate) struct NameCheck {
    /// On a volume that ignores case.
    spellings: Option<Spellings>,
    /// Ends of names that the volume was seen to keep.
    kept_ends: Vec<u8>,
}

impl NameCheck {
    /// For one seed.
    pub(crate) fn new(ignores_case: bool) -> NameCheck {
        NameCheck { spellings: ignores_case.then(Spellings::default), kept_ends: Vec::new() }
    }

    /// Looks at the next name of the seed, in this directory of the tree that is in `stage`.
    ///
    /// # Errors
    /// Exit 78 where it would not be found under this name, or where the volume does not tell it apart from another
    /// path.
    pub(crate) fn check(&mut self, stage: BorrowedFd<'_>, tree: &Tree, dir: &Dir, name: &[u8]) -> Result<()> {
        if let Some(end @ (b'.' | b' ')) = name.last().copied()
            && !self.kept_ends.contains(&end)
        {
            let path = dir.child_path(name);
            if !keeps_end(stage, end).context("make a name in", || tree.entry(&path))? {
                return Err(tree.end_dropped(&path));
            }
            self.kept_ends.push(end);
        }
        let Some(spellings) = &mut self.spellings else { return Ok(()) };
        let path = dir.child_path(name);
        spellings.note(&path).map_or(Ok(()), |other| Err(tree.same_name(&path, &other)))
    }
}

/// Whether a name in this directory keeps this end. What refuses such a name outright says so where it is made.
fn keeps_end(directory: BorrowedFd<'_>, end: u8) -> rustix::io::Result<bool> {
    let name = [TREE.as_bytes(), &[end]].concat();
    let made = fs::mkdirat(directory, &*name, Mode::RWXU);
    // The name without its end is there.
    let is_dropped = made == Err(Errno::EXIST)
        && names(openat(directory, b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?.as_fd())?
            .iter()
            .all(|other| **other != *name);
    if !is_dropped {
        let _ = fs::unlinkat(directory, &*name, AtFlags::REMOVEDIR);
    }
    Ok(!is_dropped)
}

/// What came before, on a volume that ignores case.
#[derive(Debug, Default)]
pub(crate) struct Spellings {
    hash: RandomState,
    /// Of each path: how it compares, and how it is spelled.
    seen: HashMap<u64, u64>,
    named: HashMap<u64, Box<[u8]>>,
}

impl Spellings {
    /// Notes a path of the seed. Another one before it that the volume does not tell apart is returned; empty
    /// where it is not known any more.
    pub(crate) fn note(&mut self, path: &[u8]) -> Option<Box<[u8]>> {
        let (folded, exact) = (self.hash.hash_one(fold(path)), self.hash.hash_one(path));
        match self.seen.insert(folded, exact) {
            Some(before) if before != exact => Some(self.named.remove(&folded).unwrap_or_default()),
            Some(_) => None,
            None => {
                if self.named.len() < MAX_NAMED {
                    self.named.insert(folded, path.into());
                }
                None
            }
        }
    }
}

/// What has the name `name` in `directory` under another spelling, when the name could not be made since it is
/// there. Nothing where it has just this spelling: an earlier try of ours, whose answer was lost.
///
/// # Errors
/// As `openat` and `getdents64`.
pub(crate) fn other_spelling(
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<Option<Box<[u8]>>> {
    let listed = openat(directory, b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    let there = names(listed.as_fd())?;
    if there.iter().any(|other| **other == *name) {
        return Ok(None);
    }
    let Some(found) = stat_entry(directory, name)? else { return Ok(None) };
    let is_same = |other: &[u8]| {
        stat_entry(directory, other).is_ok_and(|stat| {
            stat.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (found.st_dev, found.st_ino))
        })
    };
    let folded = fold(name);
    let by_name = there.iter().find(|other| fold(other) == folded);
    // Folded by rules of the file system's own.
    let other = by_name.or_else(|| there.iter().find(|other| is_same(other.as_ref())));
    Ok(Some(other.cloned().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_character_by_character() {
        for (one, other) in [("README", "readme"), ("Ärger", "äRGER"), ("ς", "Σ"), ("ẞ", "ß")] {
            assert_eq!(fold(one.as_bytes()), fold(other.as_bytes()), "{one} {other}");
        }
        assert_ne!(fold("straße".as_bytes()), fold(b"strasse"));
        assert_eq!(fold(b"A\xff"), fold(b"a\xff"));
    }

    #[test]
    fn the_same_spelling_may_come_again_and_another_is_named() {
        let mut spellings = Spellings::default();
        assert_eq!(spellings.note(b"d/README"), None);
        assert_eq!(spellings.note(b"d/README"), None);
        assert_eq!(spellings.note(b"e/readme"), None);
        assert_eq!(spellings.note(b"D/readme").as_deref(), Some(&b"d/README"[..]));
    }
}
