//! One small file of an archive, without seeding anything.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::decompress;
use super::members::{Member, MemberKind, Tar};
use crate::progress::Progress;

/// The bytes of the regular file `path` in an archive, where it has one of at most `largest` bytes and can be read
/// to its end: of two members with one name the last counts.
pub(crate) fn archived_file(archive: &Path, path: &Path, largest: u64) -> Option<Vec<u8>> {
    let file = File::open(archive).ok()?;
    let size = file.metadata().ok()?.len();
    // Nobody watches this look.
    let mut tar = Tar::new(decompress::open_file(file, size, Arc::new(Progress::default())).ok()?);
    let mut found = None;
    while let Some(member) = tar.next().ok()? {
        if !is_at(&member, path) {
            continue;
        }
        found = None;
        if member.kind == MemberKind::File && member.sparse.is_none() && member.data <= largest {
            let mut data = Vec::new();
            tar.read(&mut data, member.data as usize).ok()?;
            found = Some(data);
        }
    }
    found
}

fn is_at(member: &Member, path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let name = member.path.strip_prefix(b"./").unwrap_or(&member.path);
    name == path.as_os_str().as_bytes()
}
