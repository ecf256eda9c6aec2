//! What the names of an archive stand for: which a seed may hold, and what each was before.
//!
//! Knows no file and no archive; an error is the reason why a name is refused.

use std::collections::HashMap;
use std::sync::Arc;

use super::tree::Dir;
use crate::error::Quoted;

/// The longest path of a member, in bytes (`PATH_MAX`, limits.h).
pub const LONGEST_PATH: usize = 4096;
/// The longest component, in bytes (`NAME_MAX`).
const LONGEST_NAME: usize = 255;
/// The deepest member. Real trees stay below 50.
const DEEPEST: usize = 256;

/// A directory of the seed and a name in it.
pub type Place = (Arc<Dir>, Box<[u8]>);

/// What a name of the seed stands for.
#[derive(Debug, Clone)]
pub enum Known {
    /// A directory, named by the archive or implied by what is in it.
    Directory(Arc<Dir>),
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// Another name for this one; `None` once it is made and can be linked to itself.
    Link(Option<Place>),
}

impl Known {
    fn noun(&self) -> &'static str {
        match self {
            Known::Directory(_) => "directory",
            Known::File => "file",
            Known::Symlink => "symbolic link",
            Known::Fifo => "FIFO",
            Known::Link(_) => "hard link",
        }
    }
}

/// All names so far.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<Box<[u8]>, Known>,
}

/// The components of a name, without `.` and empty ones; none for the root.
///
/// # Errors
/// When no seed may hold such a name.
pub fn components(path: &[u8]) -> Result<Vec<Box<[u8]>>, String> {
    if path.first() == Some(&b'/') {
        return Err("an absolute name".into());
    }
    if path.len() > LONGEST_PATH {
        return Err(format!("a name of more than {LONGEST_PATH} bytes"));
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<Box<[u8]>> = parts.map(Into::into).collect();
    if parts.iter().any(|part| &**part == b"..") {
        return Err("a name with '..' in it".into());
    }
    if parts.iter().any(|part| part.len() > LONGEST_NAME) {
        return Err(format!("a name with a component of more than {LONGEST_NAME} bytes"));
    }
    if parts.len() > DEEPEST {
        return Err(format!("a name of more than {DEEPEST} components"));
    }
    if parts.first().is_some_and(|first| is_reserved(first)) {
        return Err("'.volseed' is volseed's own name".into());
    }
    Ok(parts)
}

/// Whether a volume that ignores case may take this name in its root for `.volseed`: in any case, with
/// code points that Unicode ignores (Linux `fs/unicode`), or with the blanks and dots at the end that
/// Windows drops.
pub fn is_reserved(name: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(name) else { return false };
    let folded = name.chars().filter(|c| !is_ignorable(*c)).map(|c| match c {
        // A long s; its capital is S.
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    });
    folded.collect::<String>().trim_end_matches(['.', ' ']) == crate::state::DIRECTORY
}

/// Unicode's `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt).
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

impl Names {
    /// The directory at `path`, where it is known.
    ///
    /// # Errors
    /// When something else is known there.
    pub fn directory(&self, path: &[u8]) -> Result<Option<Arc<Dir>>, String> {
        match self.known.get(path) {
            None => Ok(None),
            Some(Known::Directory(dir)) => Ok(Some(Arc::clone(dir))),
            Some(other) => Err(other.noun().into()),
        }
    }

    /// Enters a directory that was not known.
    pub fn enter_directory(&mut self, dir: &Arc<Dir>) {
        self.known.insert(dir.path().into(), Known::Directory(Arc::clone(dir)));
    }

    /// Whether the name is known already. One of the same type gives way, as in `tar`, where the last
    /// one counts.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn is_known(&self, path: &[u8], as_known: &Known) -> Result<bool, String> {
        match self.known.get(path) {
            None => Ok(false),
            Some(before) if before.noun() == as_known.noun() => Ok(true),
            Some(before) => Err(format!("a {}, and before a {}", as_known.noun(), before.noun())),
        }
    }

    /// Enters anything that is no directory.
    pub fn enter(&mut self, path: Vec<u8>, known: Known) {
        self.known.insert(path.into(), known);
    }

    /// All links so far are made: they keep what they point to, whatever takes its name.
    pub fn links_are_made(&mut self) {
        for known in self.known.values_mut() {
            if let Known::Link(to) = known {
                *to = None;
            }
        }
    }

    /// Where the file is that a hard link to `target` names. `root` is the seed's.
    ///
    /// # Errors
    /// When there is none before it in the archive.
    pub fn link_target(&self, target: &[u8], root: &Arc<Dir>) -> Result<Place, String> {
        let parts = components(target)?;
        match self.known.get(&*parts.join(&b'/')) {
            Some(Known::Link(Some((dir, name)))) => return Ok((Arc::clone(dir), name.clone())),
            Some(Known::Directory(_)) => {
                return Err(format!("a hard link to the directory {}", target.quoted()));
            }
            Some(_) => {}
            None => {
                return Err(format!(
                    "a hard link to {}, which is not before it in the archive",
                    target.quoted()
                ));
            }
        }
        let (name, parents) = parts.split_last().ok_or("a hard link to the root")?;
        let dir = match parents {
            [] => Some(Arc::clone(root)),
            parents => self.directory(&parents.join(&b'/'))?,
        };
        Ok((dir.ok_or("a hard link to an impossible name")?, name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_last_of_a_name_counts_if_it_is_of_the_same_type() {
        let mut names = Names::default();
        assert_eq!(names.is_known(b"a", &Known::File), Ok(false));
        names.enter(b"a".to_vec(), Known::File);
        assert_eq!(names.is_known(b"a", &Known::File), Ok(true));
        assert!(names.is_known(b"a", &Known::Symlink).is_err());
    }
}
