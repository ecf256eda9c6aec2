//! Whether an entry of the volume is as the manifest says, from what a listing tells of it.
//!
//! Pure. Content decides what counts as modified: its size and time, and its data where they leave that open.

use rustix::fs::{FileType, Stat};

use super::line::{Listed, ListedAttrs};
use crate::seed::source::entry::Time;
use crate::volume::records::Unkept;

/// Granularities of times, in nanoseconds: ext4 and NFS; SMB and NTFS; servers with less; up to FAT's two seconds.
const GRANULARITIES: [i128; 6] = [1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000];

/// In what an entry is not as the seed had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Difference {
    /// Other data, or another target of a link.
    Modified,
    /// It is not there.
    Missing,
    /// It is of another type.
    Type,
    /// Another mode or owner.
    Meta,
}

impl Difference {
    /// Every kind, in the order in which they are counted.
    pub(crate) const ALL: [Difference; 4] =
        [Difference::Modified, Difference::Missing, Difference::Type, Difference::Meta];

    /// As it is printed.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Difference::Modified => "modified",
            Difference::Missing => "missing",
            Difference::Type => "type",
            Difference::Meta => "meta",
        }
    }
}

/// What a listing tells of an entry's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// As the seed has it.
    Same,
    /// It is not.
    Differs(Difference),
    /// Only the data of a file, or the target of a link, can tell.
    Open,
}

/// What `found` tells of an entry that the seed has as `listed`, which is no further name of another.
pub(crate) fn content(listed: &Listed, found: &Stat, unkept: Unkept) -> Content {
    let file_type = FileType::from_raw_mode(found.st_mode);
    let is = |wanted| file_type == wanted;
    match listed {
        Listed::File { size, time, .. } if is(FileType::RegularFile) => {
            let is_timely = time.is_some_and(|time| !unkept.times && is_same_time(time, Time::of(found)));
            match (found.st_size as u64 == *size, is_timely) {
                (false, _) => Content::Differs(Difference::Modified),
                (true, true) => Content::Same,
                (true, false) => Content::Open,
            }
        }
        Listed::Symlink(_) if is(FileType::Symlink) => Content::Open,
        Listed::Fifo if is(FileType::Fifo) => Content::Same,
        Listed::Link(_) => Content::Open,
        _ => Content::Differs(Difference::Type),
    }
}

/// Whether mode and owner are those of the seed, as far as the volume keeps them.
pub(crate) fn has_attrs(wanted: ListedAttrs, found: &Stat, unkept: Unkept) -> bool {
    let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
    let has_mode = is_link || unkept.modes || found.st_mode & 0o7777 == wanted.mode;
    has_mode && (unkept.owners || (found.st_uid, found.st_gid) == (wanted.uid, wanted.gid))
}

/// Whether a volume that was given the time `wanted` can say that it is `found`.
fn is_same_time(wanted: Time, found: Time) -> bool {
    let nanoseconds = |time: Time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let (wanted, found) = (nanoseconds(wanted), nanoseconds(found));
    GRANULARITIES.iter().any(|unit| wanted - wanted.rem_euclid(*unit) == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_same_down_to_what_a_volume_keeps_of_it() {
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
        let wanted = time(1001, 123_456_789);
        for found in [
            (1001, 123_456_789),
            (1001, 123_456_700),
            (1001, 123_456_000),
            (1001, 123_000_000),
            (1001, 0),
            (1000, 0),
        ] {
            assert!(is_same_time(wanted, time(found.0, found.1)), "{found:?}");
        }
        for found in [(1001, 123_456_788), (1001, 5), (1002, 0), (999, 0)] {
            assert!(!is_same_time(wanted, time(found.0, found.1)), "{found:?}");
        }
        assert!(is_same_time(time(-1, 5), time(-2, 0)));
    }
}
