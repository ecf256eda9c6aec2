//! Small files of text that people write, read within a limit.

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
