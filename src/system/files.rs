//! Small files of text, read within a limit: what people write, and what the kernel says.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The text of a file of at most `max_bytes`.
///
/// # Errors
/// `FileTooLarge` where it has more, `InvalidData` where it is no UTF-8, and as the system says. Never cuts.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    let mut bytes = Vec::new();
    // Judged before it is decoded: the limit may be in the middle of a character.
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let limit = max_bytes >> 20;
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit} MiB")));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// A file of the kernel's, whole or not at all. Names in it need not be UTF-8; what replaces their bytes is the
/// same in every file.
pub(crate) fn kernel_text(path: impl AsRef<Path>, max_bytes: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(max_bytes).read_to_end(&mut bytes).ok()?;
    let is_whole = (bytes.len() as u64) < max_bytes;
    is_whole.then(|| String::from_utf8_lossy(&bytes).into_owned())
}
