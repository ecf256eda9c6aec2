//! Creating something as its future owner.
//!
//! What is created belongs to the creating thread's file system user and group (setfsuid(2)), so a
//! change of owner, a call for every file, can be saved. Whether that is possible is decided once for
//! a stage; for each directory its owner and mode decide.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::io::Errno;

/// User and group numbers.
pub(crate) type Owner = (u32, u32);

/// No user has this number: a call with it changes nothing and tells what is set (setfsuid(2)).
const INVALID_ID: u32 = u32::MAX;
/// Any other user than root.
const PROBE_ID: u32 = 65_534;

/// Whether threads of this process may create as other users: it takes CAP_SETUID and CAP_SETGID,
/// which a container may not have, and the calls report no errors. Changes nothing.
pub(crate) fn is_possible() -> bool {
    rustix::process::geteuid().is_root()
        && as_owner(Some((PROBE_ID, PROBE_ID)), || {
            let user = setfsuid(Uid::from_raw(INVALID_ID)).as_raw();
            let group = setfsgid(Gid::from_raw(INVALID_ID)).as_raw();
            (user, group) == (PROBE_ID, PROBE_ID)
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

/// Runs `act` as `owner`, where one is given, and this thread as itself again.
pub(crate) fn as_owner<T>(owner: Option<Owner>, act: impl FnOnce() -> T) -> T {
    let Some((uid, gid)) = owner else { return act() };
    let group = setfsgid(Gid::from_raw(gid));
    let user = setfsuid(Uid::from_raw(uid));
    let done = act();
    setfsuid(user);
    setfsgid(group);
    done
}
