//! The names of an archive: which a seed may hold, and which of them may have come before.
//!
//! Knows no file and no archive; an error is the reason why a name is refused. What a name stands for
//! is asked of the stage: memory holds a few bits of each.

use std::hash::{BuildHasher, RandomState};

/// The longest path of a member, in bytes (`PATH_MAX`, limits.h).
pub(crate) const LONGEST_PATH: usize = 4096;
/// The longest component, in bytes (`NAME_MAX`).
const LONGEST_NAME: usize = 255;
/// The deepest member. Real trees stay below 50.
const DEEPEST: usize = 256;

/// The components of a name, without `.` and empty ones; none for the root.
///
/// # Errors
/// When no seed may hold such a name.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    let parts = split(path)?;
    match parts.first() {
        Some(first) if is_reserved(first) => Err("'.volseed' is volseed's own name".into()),
        _ => Ok(parts),
    }
}

/// As [`components`], of a name that the seed need not hold: it may be volseed's own.
///
/// # Errors
/// When no archive may hold such a name.
pub(crate) fn split(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.first() == Some(&b'/') {
        return Err("an absolute name".into());
    }
    if path.len() > LONGEST_PATH {
        return Err(format!("a name of more than {LONGEST_PATH} bytes"));
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<&[u8]> = parts.collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err("a name with '..' in it".into());
    }
    if parts.iter().any(|part| part.len() > LONGEST_NAME) {
        return Err(format!("a name with a component of more than {LONGEST_NAME} bytes"));
    }
    if parts.len() > DEEPEST {
        return Err(format!("a name of more than {DEEPEST} components"));
    }
    Ok(parts)
}

/// Whether a volume that ignores case may take this name in its root for `.volseed`: in any case, with
/// code points that Unicode ignores (Linux `fs/unicode`), or with the blanks and dots at the end that
/// Windows drops.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(name) else { return false };
    let folded = name.chars().filter(|c| !is_ignorable(*c)).map(|c| match c {
        // A long s; its capital is S.
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    });
    folded.collect::<String>().trim_end_matches(['.', ' ']) == crate::volume::records::DIRECTORY
}

/// Unicode's `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt).
#[rustfmt::skip]
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// All names so far, as bits: a name that was added is always known, and few others are. In blocks of
/// a cache line with a bit of each word for every name (Putze, Sanders, Singler: "Cache-, Hash- and
/// Space-Efficient Bloom Filters"); the key of the hash is secret, so that no archive can aim at it.
#[derive(Debug)]
pub(crate) struct NameFilter {
    /// Each four times as large as the one before, at eight bytes a name.
    levels: Vec<Vec<Block>>,
    room: usize,
    max_blocks: usize,
    key: RandomState,
}

type Block = [u64; 8];

/// Blocks of the first level, for 8192 names.
const FIRST_LEVEL: usize = 1024;

impl NameFilter {
    /// None yet; they take `memory` bytes at the most. Beyond a name for each eight, more and more are
    /// known that were not added.
    pub(crate) fn new(memory: u64) -> NameFilter {
        let max_blocks = usize::try_from(memory).unwrap_or(usize::MAX) / size_of::<Block>();
        NameFilter { levels: Vec::new(), room: 0, max_blocks, key: RandomState::new() }
    }

    /// Whether this name may have been added.
    pub(crate) fn is_known(&self, path: &[u8]) -> bool {
        self.has(self.key.hash_one(path))
    }

    /// Adds a name; whether it may have been added before.
    pub(crate) fn add(&mut self, path: &[u8]) -> bool {
        let hash = self.key.hash_one(path);
        if self.has(hash) {
            return true;
        }
        if self.room == 0 {
            let used: usize = self.levels.iter().map(Vec::len).sum();
            let blocks = self.levels.last().map_or(FIRST_LEVEL, |last| last.len() * 4);
            let blocks = blocks.min(self.max_blocks.saturating_sub(used));
            if blocks > 0 || used == 0 {
                self.levels.push(vec![[0; 8]; blocks.max(1)]);
                self.room = blocks * 8;
            }
        }
        self.room = self.room.saturating_sub(1);
        let level = self.levels.last_mut().expect("the first name makes the first level");
        let index = index(hash, level.len());
        bits(hash).zip(&mut level[index]).for_each(|(bit, word)| *word |= bit);
        false
    }

    fn has(&self, hash: u64) -> bool {
        self.levels.iter().any(|level| {
            let block = &level[index(hash, level.len())];
            bits(hash).zip(block).all(|(bit, word)| word & bit != 0)
        })
    }
}

/// Of the hash's upper half.
fn index(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) * blocks as u64) >> 32) as usize
}

/// One bit for each word of a block, of the hash's lower half.
fn bits(hash: u64) -> impl Iterator<Item = u64> {
    let spread = (hash & 0xffff_ffff).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..8).map(move |word| 1 << ((spread >> (16 + 6 * word)) & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Quoted;

    #[track_caller]
    fn check(path: &[u8], expected: Option<usize>) {
        assert_eq!(components(path).ok().map(|parts| parts.len()), expected, "{}", path.quoted());
    }

    #[test]
    fn names_stay_below_the_root() {
        check(b"a/b", Some(2));
        check(b"./a//b/.", Some(2));
        check(b"./", Some(0));
        check(b"a/.volseed", Some(2));
        check(b"/a", None);
        check(b"a/../b", None);
        check(b"..", None);
        check(b"./.volseed/x", None);
        check(b".VolSeed/x", None);
        check(".vol\u{17f}eed".as_bytes(), None);
        check(".vol\u{200b}seed".as_bytes(), None);
        check(b".volseed. .", None);
        check(b"volseed", Some(1));
        check(b".volseed-old", Some(1));
        check(&[b'a'; 255], Some(1));
        check(&[b'a'; 256], None);
        check(&b"a/".repeat(256), Some(256));
        check(&b"a/".repeat(257), None);
        check(&b"aa/".repeat(1400), None);
    }

    #[test]
    fn names_that_were_added_are_known_and_few_others() {
        let mut names = NameFilter::new(1 << 20);
        let name = |number: u32| number.to_string().into_bytes();
        let again = (0..100_000).filter(|number| names.add(&name(*number))).count();
        assert!(again < 10, "{again}");
        assert!((0..100_000).all(|number| names.is_known(&name(number))));
        assert!(names.levels.iter().map(Vec::len).sum::<usize>() <= 1 << 14);
    }
}
