//! Whether a volume that was complete was emptied since, told by the top-level names that its record lists.
//!
//! `rm -rf *` leaves our own directory, and what is mounted below the volume with the directories that lead there,
//! and a storage system brings its own names back. One name that stands for something of a user's is enough; users
//! may remove what they do not want.

use std::collections::HashSet;

use crate::error::{Context, Result};
use crate::volume::records::{Complete, Name, Public};
use crate::volume::{Volume, stat_entry};

/// Whether nothing of what a complete record lists is there any more.
pub(crate) fn is_emptied(volume: &Volume, record: &Public) -> Result<bool> {
    if record.top.is_empty() {
        return Ok(false);
    }
    // The usual case, in one call.
    if let Some(present) = &record.present
        && is_name(present)
        && volume.has_content_at(present.as_bytes())?
    {
        return Ok(false);
    }
    for name in volume.names()?.iter().filter(|name| record.lists(name)) {
        if volume.has_content_at(name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether none of the names is there that a record will list which is not written yet.
pub(crate) fn is_gone(volume: &Volume, record: &Complete) -> Result<bool> {
    let Some(first) = record.top.first() else { return Ok(false) };
    if is_name(first) && stat_entry(volume.root(), first.as_bytes()).context("stat", volume.path())?.is_some()
    {
        return Ok(false);
    }
    let names: HashSet<Box<[u8]>> = volume.names()?.into_iter().collect();
    Ok(!record.top.iter().any(|name| names.contains(name.as_bytes())))
}

/// Names that are on a volume, with one before all others that [`is_emptied`] takes for something of a user's; none
/// where there is none, since such a volume looks the same when it was emptied.
pub(crate) fn content_first(volume: &Volume, mut names: Vec<Name>) -> Vec<Name> {
    match volume.first_listed(names.iter().map(Name::as_bytes)) {
        Some(place) => names[..=place].rotate_right(1),
        None => names.clear(),
    }
    names
}

/// What is no name would be looked for elsewhere, or be an error.
fn is_name(name: &Name) -> bool {
    let name = name.as_bytes();
    name.len() <= 255 && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
