//! What a run that was killed while it published to a mount has put there already: the stage keeps what was copied,
//! and does not say how far that run came. What is not known to be the same is copied again.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, FileType, Stat};

use crate::seed::manifest::verify::digest_of;
use crate::seed::stage::common::Pair;
use crate::volume::{is_type, stat_entry};

/// Drops the names that the mount already has as they are staged from those that are to replace something there.
pub(super) fn drop_published(pair: &Pair, moves: &mut Vec<(Box<[u8]>, bool)>) {
    moves.retain(|(name, replaces)| !(*replaces && is_same(pair, name)));
}

/// Whether both have this file or link, with its attributes and its data.
fn is_same(pair: &Pair, name: &[u8]) -> bool {
    let (from, to) = (pair.from.as_fd(), pair.to.as_fd());
    let Some(staged) = staged_with_same_attrs(from, to, name) else { return false };
    match FileType::from_raw_mode(staged.st_mode) {
        // Another name of it may be missing, and stays one only if both are copied.
        FileType::RegularFile if staged.st_nlink > 1 => false,
        FileType::RegularFile => {
            let digest = |directory| digest_of(directory, name, staged.st_size as u64, &mut Vec::new());
            digest(from).is_ok_and(|staged| staged.is_some() && digest(to) == Ok(staged))
        }
        FileType::Symlink => {
            let target = |directory| fs::readlinkat(directory, name, Vec::new());
            target(from).is_ok_and(|staged| target(to) == Ok(staged))
        }
        kind => kind == FileType::Fifo,
    }
}

/// Whether `to` has this name as it is staged, as far as that shows without its data.
pub(super) fn has_same_attrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> bool {
    staged_with_same_attrs(from, to, name).is_some()
}

fn staged_with_same_attrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> Option<Stat> {
    let (staged, there) = (stat_entry(from, name).ok()??, stat_entry(to, name).ok()??);
    let attrs = |it: &Stat| (it.st_mode, it.st_uid, it.st_gid, it.st_mtime, it.st_mtime_nsec);
    let has_size = staged.st_size == there.st_size || is_type(&staged, FileType::Directory);
    (has_size && attrs(&staged) == attrs(&there)).then_some(staged)
}
