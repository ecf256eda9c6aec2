//! What a file system refuses or does in another way than Unix has it: SMB shares, NTFS, FAT, eCryptfs.
//!
//! Only says what is to happen to a name or a request; [`Tree`](crate::tree::Tree) has it happen. With the
//! default, nothing does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use fuser::Errno;

use crate::node::Result;

/// What a file system refuses or does in another way than Unix has it. An error in a field is what the
/// file system refuses with.
#[derive(Debug, Clone, Default)]
pub struct Quirks {
    /// Making a symbolic link.
    pub symlinks: Option<Errno>,
    /// Making a hard link to anything.
    pub hard_links: Option<Errno>,
    /// Making a hard link to a symbolic link.
    pub links_to_symlinks: Option<Errno>,
    /// Making a FIFO, socket or device.
    pub special_files: Option<Errno>,
    /// Setting a mode. Where that is ignored, everything has the mode of the root directory.
    pub modes: Change,
    /// Setting an owner or group. Where that is ignored, everything belongs to the owner of the root
    /// directory, as with the mount option `uid=`.
    pub owners: Change,
    /// Setting a time.
    pub times: Change,
    /// The oldest time that is kept; an older one becomes this one without a word, as on FAT.
    pub oldest_time: Option<SystemTime>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Names longer than this number of bytes are refused with `ENAMETOOLONG`, in look-ups too.
    pub max_name: Option<usize>,
    /// Names with one of these characters are refused with `EINVAL`, in look-ups too.
    pub forbidden: String,
    /// Names that are not UTF-8, in look-ups too.
    pub not_utf8: Option<Errno>,
    /// Two names that differ in case only are one; it is spelled as when it was made. Names are then asked
    /// for each time, since the kernel would keep the other spellings of what is removed.
    pub ignores_case: bool,
    /// The same in directories of this name alone, as where `chattr +F` made one of them case-insensitive.
    pub ignores_case_in: Option<OsString>,
    /// Characters that are dropped from the end of a name, without a word, as exFAT does with dots.
    pub drops_at_end: String,
    /// Names that a file may have; one more is refused with `EMLINK`.
    pub max_links: Option<u32>,
    /// Bytes of file data, above which a write is refused with `EDQUOT` at once.
    pub quota: Option<u64>,
    /// What is said of the room on the volume, whatever there is.
    pub room: Room,
}

/// What becomes of a change of mode, owner or time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change {
    /// It is made.
    #[default]
    Kept,
    /// The call succeeds and has no effect.
    Ignored,
    /// The call fails with this error.
    Refused(Errno),
}

/// What becomes of extended attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Xattrs {
    /// `ENOSYS`, after which the kernel answers for the file system.
    #[default]
    Unknown,
    /// Every call fails with this error.
    Refused(Errno),
    /// `user.*`, `trusted.*` and `security.*` are kept.
    Kept,
}

/// What statfs(2) answers in place of the truth.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    /// Free blocks of 4096 bytes.
    pub free_blocks: Option<u64>,
    /// Free inodes. Many network file systems say 0 for all and for free ones.
    pub free_inodes: Option<u64>,
    /// All inodes; a million without this.
    pub inodes: Option<u64>,
    /// The longest name; 255 without this, whatever [`Quirks::max_name`] says.
    pub max_name: Option<u32>,
}

impl Quirks {
    /// Whether the volume can have a name like this.
    pub(crate) fn allow_name(&self, name: &OsStr) -> Result<()> {
        if self.max_name.is_some_and(|most| name.len() > most) {
            return Err(Errno::ENAMETOOLONG);
        }
        match (name.to_str(), self.not_utf8) {
            (None, Some(errno)) => return Err(errno),
            (None, None) => {}
            (Some(text), _) if text.contains(|letter| self.forbidden.contains(letter)) => {
                return Err(Errno::EINVAL);
            }
            (Some(_), _) => return Ok(()),
        }
        let is_forbidden = |byte: &u8| byte.is_ascii() && self.forbidden.as_bytes().contains(byte);
        if name.as_bytes().iter().any(is_forbidden) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// What is kept of a name; all of one that would have nothing left.
    pub(crate) fn kept<'a>(&self, name: &'a OsStr) -> &'a OsStr {
        let dropped = |byte: &u8| self.drops_at_end.as_bytes().contains(byte);
        let bytes = name.as_bytes();
        let end = bytes.iter().rposition(|byte| !dropped(byte)).map_or(bytes.len(), |last| last + 1);
        OsStr::from_bytes(&bytes[..end])
    }

    /// Whether the kernel must ask for each name: it would keep one under spellings that it was asked for.
    pub(crate) fn respells(&self) -> bool {
        self.ignores_case || self.ignores_case_in.is_some() || !self.drops_at_end.is_empty()
    }

    /// How the directory `directory` spells a name: as [`Quirks::kept`] where there is no such name.
    pub(crate) fn spelling<'a>(
        &self,
        directory: &OsStr,
        entries: &'a BTreeMap<OsString, u64>,
        name: &'a OsStr,
    ) -> &'a OsStr {
        let name = self.kept(name);
        let ignores_case = self.ignores_case || self.ignores_case_in.as_deref() == Some(directory);
        if !ignores_case || entries.contains_key(name) {
            return name;
        }
        let wanted = fold(name);
        entries.keys().find(|it| fold(it) == wanted).map_or(name, |it| it.as_os_str())
    }
}

/// A name without its case. What is not UTF-8 is compared byte by byte.
fn fold(name: &OsStr) -> Cow<'_, [u8]> {
    match name.to_str() {
        Some(text) => Cow::Owned(text.to_lowercase().into_bytes()),
        None => Cow::Borrowed(name.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(quirks: &Quirks, name: &[u8], expected: Result<()>) {
        assert_eq!(quirks.allow_name(OsStr::from_bytes(name)), expected, "{}", name.escape_ascii());
    }

    #[test]
    fn names_are_measured_in_bytes() {
        let quirks = Quirks { max_name: Some(4), ..Quirks::default() };
        check_name(&quirks, b"1234", Ok(()));
        check_name(&quirks, b"12345", Err(Errno::ENAMETOOLONG));
        check_name(&quirks, "ééé".as_bytes(), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn forbidden_characters_are_found_in_names_of_any_encoding() {
        let quirks = Quirks { forbidden: ":?é".to_owned(), ..Quirks::default() };
        check_name(&quirks, b"a.b", Ok(()));
        check_name(&quirks, b"a:b", Err(Errno::EINVAL));
        check_name(&quirks, "é".as_bytes(), Err(Errno::EINVAL));
        check_name(&quirks, b"\xff", Ok(()));
        check_name(&quirks, b"\xff?", Err(Errno::EINVAL));
        let quirks = Quirks { not_utf8: Some(Errno::EILSEQ), ..Quirks::default() };
        check_name(&quirks, b"\xff?", Err(Errno::EILSEQ));
        check_name(&Quirks::default(), b"\xff\n:", Ok(()));
    }

    #[track_caller]
    fn check_spelling(quirks: &Quirks, name: &str, expected: &str) {
        let entries = ["Readme", "Über", "a"].into_iter().map(|name| (name.into(), 2)).collect();
        assert_eq!(quirks.spelling(OsStr::new("d"), &entries, OsStr::new(name)), expected);
    }

    #[test]
    fn a_name_is_found_by_another_spelling_only_where_case_is_ignored() {
        let quirks = Quirks { ignores_case: true, ..Quirks::default() };
        check_spelling(&quirks, "README", "Readme");
        check_spelling(&quirks, "über", "Über");
        check_spelling(&quirks, "a", "a");
        check_spelling(&quirks, "B", "B");
        check_spelling(&Quirks::default(), "README", "README");
        let in_one = |name: &str| Quirks { ignores_case_in: Some(name.into()), ..Quirks::default() };
        check_spelling(&in_one("d"), "README", "Readme");
        check_spelling(&in_one("e"), "README", "README");
    }

    #[test]
    fn what_is_dropped_at_the_end_of_a_name_is_dropped_in_look_ups_too() {
        let quirks = Quirks { drops_at_end: ".".to_owned(), ..Quirks::default() };
        check_spelling(&quirks, "a..", "a");
        check_spelling(&quirks, ".b.", ".b");
        check_spelling(&quirks, "...", "...");
    }
}
