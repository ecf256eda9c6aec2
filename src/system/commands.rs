//! Where a command's program is, as execvp(3) looks for it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{Access, access};

/// Where commands are looked for when `PATH` is not set (glibc's `_CS_PATH`).
pub(crate) const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The paths that `name` may stand for, in the order in which they are tried.
pub(crate) fn candidates(name: &OsStr, path: &[u8]) -> Vec<Vec<u8>> {
    let name = name.as_bytes();
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|directory| if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() })
        .collect()
}

/// The program of `name` in this process's `PATH`.
pub(crate) fn find(name: &OsStr) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let found =
        candidates(name, path.as_bytes()).into_iter().map(|path| PathBuf::from(OsString::from_vec(path)));
    found.into_iter().find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_for_as_a_shell_does() {
        let found = |name: &str, path: &str| candidates(OsStr::new(name), path.as_bytes());
        assert_eq!(found("sh", "/a::/b"), [b"/a/sh".to_vec(), b"sh".to_vec(), b"/b/sh".to_vec()]);
        assert_eq!(found("./run", "/a"), [b"./run".to_vec()]);
        assert!(found("", "/a").is_empty());
    }
}
