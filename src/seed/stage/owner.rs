//! Creating something as its future owner.
//!
//! What is created belongs to the creating thread's file system user and group (setfsuid(2)), so a
//! change of owner, a call for every file, can be saved. Whether that is possible is decided once for
//! a stage; for each directory its owner and mode decide.

use std::os::fd::BorrowedFd;

use rustix::fs::{Access, AtFlags, accessat};
use rustix::io::Errno;

pub(crate) use crate::volume::user::{Owner, as_owner, spelled};
use crate::volume::{ShortStat, short_stat, user};

/// Two users who are not root.
const OTHERS: [Owner; 2] = [(65_534, 65_534), (65_533, 65_533)];

/// Whether threads of this process may create as other users: it takes CAP_SETUID and CAP_SETGID,
/// which a container may not have, and the calls report no errors. Changes nothing.
pub(crate) fn is_possible() -> bool {
    user::is_root() && as_owner(Some(OTHERS[0]), || user::current() == OTHERS[0])
}

/// The one user that the volume gives everything to, independent of the user that makes it (NFS: `all_squash`, access points of EFS), where
/// nobody `asked` for another. There every user may write in `stage`, a directory that only we may enter.
pub(crate) fn of_everything(stage: BorrowedFd<'_>, asked: Option<Owner>) -> Option<Owner> {
    let is_mapped = |found: &ShortStat| asked.is_none() && found.uid != user::uid();
    let found = short_stat(stage).ok().filter(is_mapped)?;
    let one = Some((found.uid, found.gid));
    if !user::is_root() {
        return one;
    }
    let other = OTHERS.into_iter().find(|(uid, _)| *uid != found.uid)?;
    as_owner(Some(other), || {
        let may_write = accessat(stage, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
        one.filter(|_| may_write && user::current() == other)
    })
}

/// Runs `create` as `owner`, where one is given; as ourselves where there is none, or where that user
/// is refused what the directory's owner and mode seemed to allow: by a server's list of its own.
///
/// # Errors
/// Those of `create`.
pub(crate) fn create_as<T>(
    owner: Option<Owner>,
    create: impl Fn() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match as_owner(owner, &create) {
        Err(Errno::ACCESS | Errno::PERM) if owner.is_some() => create(),
        created => created,
    }
}
