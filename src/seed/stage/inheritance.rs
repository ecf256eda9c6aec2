//! What a volume's root passes on to what is made in it: its default ACL, and its group where it is setgid.
//!
//! A stage is private and passes nothing on. The tree in it gets what the root has, and the kernel hands that
//! down to everything in the tree, as it does for a `cp -r` to the root. Nothing is asked for an entry.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::volume;
use crate::volume::{NESTED, is_nested, openat, user};

const DEFAULT_ACL: &str = "system.posix_acl_default";
/// The bit of a directory that passes its group on.
const SET_GROUP_ID: u32 = 0o2000;
/// As large as an attribute can be (xattr(7)).
const MAX_ACL: usize = 65_536;

/// What is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inheritance {
    acl: Option<Vec<u8>>,
    group: Option<u32>,
}

impl Inheritance {
    /// Of the directory `root`; its group only `with_group`.
    ///
    /// # Errors
    /// As `fstat`.
    pub(crate) fn of(root: BorrowedFd<'_>, with_group: bool) -> rustix::io::Result<Inheritance> {
        let found = volume::short_stat(root)?;
        let group = (with_group && found.mode & SET_GROUP_ID != 0).then_some(found.gid);
        Ok(Inheritance { acl: default_acl(root), group })
    }

    /// Whether nothing is.
    pub(crate) fn is_nothing(&self) -> bool {
        self.acl.is_none() && self.group.is_none()
    }

    /// The group of everything.
    pub(crate) fn group(&self) -> Option<u32> {
        self.group
    }

    /// The permissions that something can be made with (acl(5), "Object creation and default ACLs").
    pub(crate) fn limit(&self) -> u32 {
        self.acl.as_deref().and_then(limit).unwrap_or(0o777)
    }

    /// Makes the directory `name` in `stage`, which only we can enter, passes this on, and may be there already:
    /// then it is as it was. Where the group is refused, that is not passed on.
    ///
    /// # Errors
    /// As `mkdirat` and `openat`.
    pub(crate) fn make(
        &mut self,
        (stage, name): (BorrowedFd<'_>, &[u8]),
        root: BorrowedFd<'_>,
    ) -> rustix::io::Result<volume::PrivateDirectory> {
        let made = volume::make_private(stage, name)?;
        if !made.is_new || self.is_nothing() {
            return Ok(made);
        }
        if let Some(group) = self.group
            && give_group(made.fd.as_fd(), group).is_err()
        {
            fs::unlinkat(stage, name, AtFlags::REMOVEDIR)?;
            if let Some(fd) = make_in_root(root, (stage, name), group) {
                return Ok(volume::PrivateDirectory { fd, is_new: true });
            }
            self.group = None;
            return self.make((stage, name), root);
        }
        if let Some(acl) = &self.acl {
            // Refused, it is as on a volume without any.
            let _ = fs::fsetxattr(&made.fd, DEFAULT_ACL, acl, XattrFlags::empty());
        }
        Ok(made)
    }
}

fn give_group(directory: BorrowedFd<'_>, group: u32) -> rustix::io::Result<()> {
    fs::fchown(directory, None, Some(Gid::from_raw(group)))?;
    fs::fchmod(directory, Mode::RWXU | Mode::SGID)?;
    let found = fs::fstat(directory)?;
    if found.st_gid == group && found.st_mode & SET_GROUP_ID != 0 { Ok(()) } else { Err(Errno::PERM) }
}

/// Who is not in the root's group gets it for what is made there, and in no other way: so the directory is made
/// there, empty, and moved to the stage.
fn make_in_root(root: BorrowedFd<'_>, (stage, name): (BorrowedFd<'_>, &[u8]), group: u32) -> Option<OwnedFd> {
    // Of runs that were killed right here.
    for left in volume::names(root).ok()?.iter().filter(|name| is_nested(name)) {
        let _ = fs::unlinkat(root, &**left, AtFlags::REMOVEDIR);
    }
    let made = format!("{NESTED}{:016x}", volume::random());
    fs::mkdirat(root, made.as_str(), Mode::RWXU).ok()?;
    let moved = fs::renameat(root, made.as_str(), stage, name)
        .and_then(|()| openat(stage, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()));
    let found = moved.as_ref().ok().and_then(|fd| fs::fstat(fd).ok());
    if found.is_some_and(|found| {
        (found.st_uid, found.st_gid) == (user::uid(), group) && found.st_mode & SET_GROUP_ID != 0
    }) {
        return moved.ok();
    }
    let _ = fs::unlinkat(root, made.as_str(), AtFlags::REMOVEDIR);
    let _ = fs::unlinkat(stage, name, AtFlags::REMOVEDIR);
    None
}

/// A directory's default ACL. A refusal is as none: it is asked of every kind of file system.
fn default_acl(directory: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut acl = vec![0; MAX_ACL];
    let length = fs::fgetxattr(directory, DEFAULT_ACL, &mut acl).ok()?;
    acl.truncate(length);
    limit(&acl).map(|_| acl)
}

/// What an ACL in the kernel's form (linux/posix_acl_xattr.h) leaves of a mode; nothing where it is none.
fn limit(acl: &[u8]) -> Option<u32> {
    let (version, entries) = acl.split_at_checked(4)?;
    if version != 2_u32.to_le_bytes() || entries.is_empty() || entries.len() % 8 != 0 {
        return None;
    }
    let of = |tag: u8| entries.chunks_exact(8).find(|entry| entry[..2] == [tag, 0]).map(|entry| entry[2] & 7);
    let (owner, group, mask, others) = (of(0x01)?, of(0x04)?, of(0x10), of(0x20)?);
    Some(u32::from(owner) << 6 | u32::from(mask.unwrap_or(group)) << 3 | u32::from(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_limits_modes_by_its_owner_mask_and_others() {
        let acl = |entries: &[(u8, u8)]| {
            let entries = entries.iter().flat_map(|(tag, bits)| [*tag, 0, *bits, 0, 0xff, 0xff, 0xff, 0xff]);
            2_u32.to_le_bytes().into_iter().chain(entries).collect::<Vec<u8>>()
        };
        assert_eq!(limit(&acl(&[(1, 7), (4, 5), (0x20, 0)])), Some(0o750));
        assert_eq!(limit(&acl(&[(1, 6), (2, 7), (4, 5), (0x10, 7), (0x20, 4)])), Some(0o674));
        for no_acl in [
            &b""[..],
            b"\x02\0\0\0",
            b"\x01\0\0\0",
            &acl(&[(1, 7)]),
            &acl(&[(1, 7), (4, 7), (0x20, 7)])[..27],
        ] {
            assert_eq!(limit(no_acl), None, "{no_acl:?}");
        }
    }
}
