//! What the locks of a volume's file system are worth, by its kind and mount options.

use super::expiry::Sharing;
use crate::volume::{FileSystem, Storage};

/// For a file system of this kind; `options` are those of the mount's file system, as mountinfo has
/// them (proc(5)), where it is NFS.
pub(crate) fn sharing(kind: FileSystem, options: Option<&str>) -> Sharing {
    match (kind.place, kind.name) {
        (Storage::Memory | Storage::Local, _) => Sharing::Local,
        (_, "nfs") => nfs(options),
        (_, "fuse") => Sharing::None("FUSE mounts may keep locks each for itself"),
        (_, "cifs") => Sharing::None("SMB servers do not keep these locks for sure"),
        (_, "9p") => Sharing::None("9p keeps locks on each machine"),
        _ => Sharing::None("lock sharing is unknown for this file system"),
    }
}

/// NFSv4 keeps locks with everything else; older versions beside it, in a service that is often not
/// there, and may lose them silently (nfs(5), `vers`, `nolock`, `local_lock`).
fn nfs(options: Option<&str>) -> Sharing {
    let Some(options) = options else { return Sharing::None("the mount's options cannot be told") };
    let value = |key: &str| options.split(',').find_map(|option| option.strip_prefix(key)?.strip_prefix('='));
    if options.split(',').any(|option| option == "nolock") {
        return Sharing::None("mounted with 'nolock'");
    }
    match value("local_lock") {
        None | Some("none" | "flock") => {}
        Some(_) => return Sharing::None("mounted with 'local_lock'"),
    }
    match value("vers") {
        Some(version) if version.starts_with('4') => Sharing::Server,
        _ => Sharing::None("NFS before version 4"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &'static str, place: Storage, options: Option<&str>, expected: Option<Sharing>) {
        let found = sharing(FileSystem { name, place }, options);
        match expected {
            Some(expected) => assert_eq!(found, expected),
            None => assert!(matches!(found, Sharing::None(_)), "{found:?}"),
        }
    }

    #[test]
    fn only_where_all_replicas_see_it_a_lock_is_used() {
        let nfs = |options, expected| check("nfs", Storage::Network, options, expected);
        check("ext4", Storage::Local, None, Some(Sharing::Local));
        check("tmpfs", Storage::Memory, None, Some(Sharing::Local));
        nfs(Some("rw,vers=4.1,rsize=1048576,hard,local_lock=none"), Some(Sharing::Server));
        nfs(Some("rw,vers=4.2,local_lock=flock"), Some(Sharing::Server));
        nfs(Some("rw,vers=4.1,local_lock=all"), None);
        nfs(Some("rw,vers=4.1,local_lock=posix"), None);
        nfs(Some("rw,vers=3,local_lock=none"), None);
        nfs(Some("rw,vers=4.0,nolock"), None);
        nfs(None, None);
        for (name, place) in [
            ("fuse", Storage::Unknown),
            ("unknown", Storage::Unknown),
            ("cifs", Storage::Network),
            ("9p", Storage::Network),
            ("ceph", Storage::Network),
        ] {
            check(name, place, None, None);
        }
    }
}
