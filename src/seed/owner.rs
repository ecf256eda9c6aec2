//! Creating something as the user who shall own it.
//!
//! What is created belongs to the creating thread's file system user and group (setfsuid(2)), so a
//! change of owner, a call for every file, can be saved. Whether that is possible is decided once for
//! a stage; for each directory its owner and mode decide.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// User and group numbers.
pub type Owner = (u32, u32);

/// No user has this number: a call with it changes nothing and tells what is set (setfsuid(2)).
const NOBODY_AT_ALL: u32 = u32::MAX;
/// Any other user than root.
const SOMEBODY: u32 = 65_534;

/// Whether threads of this process may create as other users: it takes CAP_SETUID and CAP_SETGID,
/// which a container may not have, and the calls report no errors. Changes nothing.
pub fn is_possible() -> bool {
    rustix::process::geteuid().is_root()
        && as_owner(Some((SOMEBODY, SOMEBODY)), || {
            let user = setfsuid(Uid::from_raw(NOBODY_AT_ALL)).as_raw();
            let group = setfsgid(Gid::from_raw(NOBODY_AT_ALL)).as_raw();
            (user, group) == (SOMEBODY, SOMEBODY)
        })
}

/// Runs `create` as `owner`, where one is given, and this thread as itself again.
pub fn as_owner<T>(owner: Option<Owner>, create: impl FnOnce() -> T) -> T {
    let Some((uid, gid)) = owner else { return create() };
    let group = setfsgid(Gid::from_raw(gid));
    let user = setfsuid(Uid::from_raw(uid));
    let created = create();
    setfsuid(user);
    setfsgid(group);
    created
}
