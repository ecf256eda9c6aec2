//! What is mounted at a path, by the kernel's own list (proc(5), mountinfo): no file system is asked, so that
//! one that does not answer can be named.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mount, as far as a reader can tell it by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// What is mounted: `/dev/sdb1`, `files.example:/site`, ….
    pub source: String,
    /// The type of its file system: `ext4`, `nfs4`, `fuse.sshfs`, ….
    pub kind: String,
    options: String,
}

impl Mount {
    /// The one that holds `path`, which is read as it is written: links in it are not followed. `None` where the
    /// kernel does not tell.
    pub(crate) fn of(path: &Path) -> Option<Mount> {
        let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
        holding(&String::from_utf8_lossy(&mounts), &std::path::absolute(path).ok()?)
    }

    /// The server's address, where the kernel knows one.
    pub(crate) fn server(&self) -> Option<&str> {
        self.options.split(',').find_map(|option| option.strip_prefix("addr="))
    }

    /// Whether it is NFS that gives up where the server does not answer in time (nfs(5), `soft`, `softerr`).
    pub(crate) fn gives_up(&self) -> bool {
        self.kind.starts_with("nfs")
            && self.options.split(',').any(|option| matches!(option, "soft" | "softerr"))
    }
}

/// Of several mounts on one directory the last is seen.
fn holding(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (place, mounted) = line.split_once(" - ")?;
        Some((PathBuf::from(unescaped(place.split(' ').nth(4)?)), mounted))
    });
    let around = mounts.filter(|(point, _)| path.starts_with(point));
    let (_, mounted) = around.max_by_key(|(point, _)| point.as_os_str().len())?;
    let mut fields = mounted.split(' ');
    let (kind, source) = (fields.next()?, fields.next()?);
    let source = unescaped(source).to_string_lossy().into_owned();
    Some(Mount { source, kind: kind.to_owned(), options: fields.next().unwrap_or_default().to_owned() })
}

/// A blank is written as `\040`, and others alike (Linux `fs/proc_namespace.c`).
fn unescaped(field: &str) -> OsString {
    let mut parts = field.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => bytes.extend_from_slice(format!("\\{part}").as_bytes()),
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
27 1 254:0 / / rw,relatime - overlay overlay rw,lowerdir=/a
41 27 254:0 /srv /data rw,relatime - ext4 /dev/vda rw
52 41 0:44 / /data rw,relatime shared:7 - nfs4 files.example:/my\\040site rw,softerr,clientaddr=10.0.0.3,addr=10.0.0.9
53 27 0:45 /site /my\\040data rw,relatime - nfs 10.0.0.9:/site rw,hard,mountaddr=10.0.0.8,addr=10.0.0.9
54 27 0:46 / /data-2 rw,relatime - cifs //10.0.0.9/share rw,soft
55 27 0:46 / /no\\88 rw,relatime - tmpfs none rw
";

    #[test]
    fn a_path_is_in_the_last_mount_on_the_longest_way_to_it() {
        for (path, source, server, gives_up) in [
            ("/", "overlay", None, false),
            ("/datum", "overlay", None, false),
            ("/data", "files.example:/my site", Some("10.0.0.9"), true),
            ("/data/below/it", "files.example:/my site", Some("10.0.0.9"), true),
            ("/my data/x", "10.0.0.9:/site", Some("10.0.0.9"), false),
            ("/data-2/x", "//10.0.0.9/share", None, false),
            ("/no\\88", "none", None, false),
        ] {
            let mount = holding(MOUNTINFO, Path::new(path)).unwrap();
            assert_eq!((&*mount.source, mount.server(), mount.gives_up()), (source, server, gives_up));
        }
        assert_eq!(holding("", Path::new("/data")), None);
    }
}
