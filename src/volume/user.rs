//! As whom a thread works on a volume.
//!
//! What a thread makes belongs to its file system user and group, and by them the kernel and a server decide
//! what it may do (setfsuid(2)). They are those of the process, unless they were changed here; a new thread has
//! those of the thread that starts it. So the seeding thread is changed once for a volume, and code that compares
//! an owner with ourselves asks here, not for the process's user.

use std::os::fd::BorrowedFd;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::refuses_names;

/// User and group numbers.
pub(crate) type Owner = (u32, u32);

/// No user has this number: a call with it changes nothing and tells what is set (setfsuid(2)).
const INVALID_ID: u32 = u32::MAX;
/// What lets root read what others closed. A container's root often has the second alone.
const READING: [CapabilitySet; 2] = [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE];

/// As `--chown` takes it.
pub(crate) fn spelled((uid, gid): Owner) -> String {
    format!("{uid}:{gid}")
}

/// The user and the group that this thread works as.
pub(crate) fn current() -> Owner {
    let (uid, gid) = (setfsuid(Uid::from_raw(INVALID_ID)), setfsgid(Gid::from_raw(INVALID_ID)));
    // Where the calls are not to be had (gVisor, seccomp) nothing was changed by them.
    let known = |id: u32, of_process: u32| if id == INVALID_ID { of_process } else { id };
    let (euid, egid) = (rustix::process::geteuid(), rustix::process::getegid());
    (known(uid.as_raw(), euid.as_raw()), known(gid.as_raw(), egid.as_raw()))
}

/// The user alone.
pub(crate) fn uid() -> u32 {
    current().0
}

/// Whether that is root.
pub(crate) fn is_root() -> bool {
    uid() == 0
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

/// The same for everything that is done with a volume, with every thread that `act` starts. What is on this machine,
/// the source above all, is still read with root's rights.
pub(crate) fn work_as<T>(owner: Option<Owner>, act: impl FnOnce() -> T) -> T {
    as_owner(owner, || {
        if owner.is_some() {
            keep_reading();
        }
        act()
    })
}

/// The change from root took these rights (capabilities(7)); the change back gives back all of them. Where none is
/// to be had, the source is read as the other user.
fn keep_reading() {
    let Ok(mut sets) = capabilities(None) else { return };
    if let Some(right) = READING.into_iter().find(|right| sets.permitted.contains(*right)) {
        sets.effective |= right;
        let _ = set_capabilities(None, sets);
    }
}

/// Whom root has to work as on a volume: the owner of `root`, where that user may write there and root may not, as
/// on an NFS export with `root_squash`.
pub(crate) fn stands_for_root(root: BorrowedFd<'_>) -> Option<Owner> {
    let found = fs::fstat(root).ok().filter(|found| found.st_uid != 0 && is_root())?;
    let owner = (found.st_uid, found.st_gid);
    let is_closed = matches!(refuses_names(root), Some(Errno::ACCESS | Errno::PERM));
    (is_closed && as_owner(Some(owner), || refuses_names(root)).is_none()).then_some(owner)
}
