//! What a volume cannot hold at all: symbolic links, and names that are too long or have what it forbids.
//!
//! Found while the entry is staged, so that nothing is published. Says which entry, why, and what to do on this
//! kind of file system.

use rustix::io::Errno;

use super::refusals::is_refusal;
use crate::error::{Error, Quoted, printable};
use crate::exit::Exit;
use crate::seed::source::entry::Naming;

/// Characters that Windows and its file systems forbid in names.
const FORBIDDEN: &[u8] = b"\"*:<>?\\|";

/// The error for an entry that could not be made. `longest` is the length of names that the file system says it
/// takes, in bytes.
pub(crate) fn not_made(
    act: &'static str,
    naming: &Naming,
    path: &[u8],
    cause: Errno,
    longest: impl FnOnce() -> Option<u64>,
) -> Error {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let system = Error::os(act, naming.entry(path), cause);
    let kind = naming.kind().name;
    match cause {
        Errno::NAMETOOLONG => {
            let bytes = name.len();
            let why = match longest().filter(|longest| (bytes as u64) > *longest) {
                Some(longest) => format!("its name has {bytes} bytes, and the volume takes {longest}"),
                None => format!("its name of {bytes} bytes is longer than the volume takes"),
            };
            system.explained(Exit::Refused, &why).help(help_for_length(kind))
        }
        Errno::INVAL | Errno::ILSEQ | Errno::OVERFLOW | Errno::NOENT => match oddity(name) {
            Some(odd) => system
                .explained(Exit::Refused, &format!("its name has {odd}, which the volume does not take"))
                .help(help_for_characters(kind)),
            None => system,
        },
        _ => system,
    }
}

/// The error for an entry that the volume would have under its name without the last character.
pub(crate) fn end_dropped(naming: &Naming, path: &[u8]) -> Error {
    let odd = oddity(path).unwrap_or_else(|| "an end".to_owned());
    Error::new(Exit::Refused, "create", format!("its name has {odd}, which the volume drops"))
        .on(naming.entry(path))
        .help(help_for_characters(naming.kind().name))
}

/// The error for an entry that the volume does not tell apart from `other`, another path of the seed; empty where
/// that is not known.
pub(crate) fn same_name(naming: &Naming, path: &[u8], other: &[u8]) -> Error {
    let other = match other {
        b"" => "an entry of another spelling".to_owned(),
        other => naming.seed_path(other).as_slice().quoted(),
    };
    let cause =
        format!("the volume does not tell it apart from {other}: it ignores case, or folds names otherwise");
    Error::new(Exit::Refused, "create", cause).on(naming.entry(path)).help(
        "rename one of the two in the source, or use a volume that is case-sensitive (SMB: without nocase; ext4: a directory without casefold; Windows: fsutil file setCaseSensitiveInfo)",
    )
}

/// The error for a symbolic link that could not be made, where the volume takes none. `target` is where it points.
pub(crate) fn no_symbolic_link(
    naming: &Naming,
    path: &[u8],
    target: &[u8],
    cause: Errno,
    longest: impl FnOnce() -> Option<u64>,
) -> Error {
    let act = "create symbolic link";
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let system = || Error::os(act, naming.entry(path), cause);
    match cause {
        Errno::NAMETOOLONG if target.len() > name.len() => {
            let why = format!("the {} bytes that it points to are more than the volume takes", target.len());
            system().explained(Exit::Refused, &why).help("shorten the link's target in the source")
        }
        Errno::INVAL | Errno::ILSEQ | Errno::OVERFLOW | Errno::NOENT if oddity(name).is_some() => {
            not_made(act, naming, path, cause, longest)
        }
        // A server that takes none says so with other errors; this one is for whom it keeps out of the directory.
        Errno::ACCESS if naming.kind().name == "nfs" => not_made(act, naming, path, cause, longest),
        cause if is_refusal(cause) => system()
            .explained(Exit::Refused, "the volume takes no symbolic links")
            .help(help_for_links(naming.kind().name)),
        cause => not_made(act, naming, path, cause, longest),
    }
}

/// What in a name a file system may forbid, in words.
fn oddity(name: &[u8]) -> Option<String> {
    let odd = |byte: &&u8| FORBIDDEN.contains(byte) || byte.is_ascii_control();
    if let Some(byte) = name.iter().find(odd) {
        return Some(format!("the character '{}'", printable(&[*byte])));
    }
    if std::str::from_utf8(name).is_err() {
        return Some("bytes that are not UTF-8".to_owned());
    }
    match name.last() {
        Some(b'.') => return Some("a dot at its end".to_owned()),
        Some(b' ') => return Some("a blank at its end".to_owned()),
        _ => {}
    }
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default().to_ascii_uppercase();
    let is_device = match stem.as_slice() {
        b"CON" | b"PRN" | b"AUX" | b"NUL" => true,
        [b'C', b'O', b'M', digit] | [b'L', b'P', b'T', digit] => digit.is_ascii_digit(),
        _ => false,
    };
    is_device.then(|| "the name of a DOS device".to_owned())
}

fn help_for_links(kind: &str) -> &'static str {
    match kind {
        "cifs" => "mount the share with mfsymlinks, or replace the link in the source by a copy",
        "9p" => "share it with security_model=mapped-xattr, or replace the link in the source by a copy",
        "vfat" | "exfat" => "use another file system, or replace the link in the source by a copy",
        "nfs" => {
            "export it from a file system with symbolic links, or replace the link in the source by a copy"
        }
        _ => {
            "mount a file system with symbolic links (SMB: mfsymlinks; 9p and virtiofs: mapped attributes), or replace the link in the source by a copy"
        }
    }
}

fn help_for_characters(kind: &str) -> &'static str {
    match kind {
        "cifs" => "mount the share with mapposix or mapchars, or rename it in the source",
        "vfat" | "exfat" | "ntfs" | "ntfs3" => "use another file system, or rename it in the source",
        _ => {
            "mount a file system that takes every name (SMB: mapposix or mapchars; NTFS: without windows_names), or rename it in the source"
        }
    }
}

fn help_for_length(kind: &str) -> &'static str {
    match kind {
        "ecryptfs" => {
            "encrypted names have 143 bytes at most: shorten it in the source, or use a volume without eCryptfs"
        }
        _ => {
            "shorten it in the source, or use another file system (encrypted names of eCryptfs have 143 bytes at most)"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::volume::{FileSystem, Storage};

    #[test]
    fn a_server_that_forbids_a_link_is_told_from_one_that_takes_none() {
        for (name, cause, expected) in [
            ("nfs", Errno::ACCESS, Exit::Permission),
            ("nfs", Errno::PERM, Exit::Refused),
            ("nfs", Errno::NOTSUP, Exit::Refused),
            ("cifs", Errno::ACCESS, Exit::Refused),
        ] {
            let naming = Naming::new(Path::new("/data"), FileSystem { name, place: Storage::Network });
            let error = no_symbolic_link(&naming, b"link", b"target", cause, || None);
            assert_eq!(error.exit_code(), expected, "{name}: {error}");
        }
    }

    #[test]
    fn what_is_odd_in_a_name_is_said() {
        for (name, expected) in [
            (&b"a:b"[..], Some("the character ':'")),
            (b"a\nb", Some("the character '\\n'")),
            (b"caf\xe9", Some("bytes that are not UTF-8")),
            (b"a.", Some("a dot at its end")),
            (b"a ", Some("a blank at its end")),
            (b"Con.txt", Some("the name of a DOS device")),
            (b"com1", Some("the name of a DOS device")),
            (b"composer.json", None),
            ("café".as_bytes(), None),
        ] {
            assert_eq!(oddity(name).as_deref(), expected, "{}", printable(name));
        }
    }
}
