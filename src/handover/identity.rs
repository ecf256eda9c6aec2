//! Who the app runs as: groups, group, user, in this order, then a look whether it is so.

use std::os::fd::AsFd;

use rustix::fs::{self, FileType, OFlags};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::system::users::Identity;

/// Gives the standard descriptors to the user `uid`, as container runtimes do for the user that they start: an app
/// opens `/dev/stderr` by its name (php-fpm's `error_log`). Those that everybody uses stay as they are: devices but
/// terminals, and directories. What refuses does so to the app, too.
pub(crate) fn give_standard_files(uid: u32) {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for file in [input.as_fd(), output.as_fd(), error.as_fd()] {
        let Ok(found) = fs::fstat(file) else { continue };
        let is_given = match FileType::from_raw_mode(found.st_mode) {
            FileType::CharacterDevice => rustix::termios::isatty(file),
            FileType::Fifo => true,
            // What is only read, an archive for instance, stays whose it is. A socket has no name to be opened by.
            FileType::RegularFile => {
                fs::fcntl_getfl(file).is_ok_and(|flags| flags.intersects(OFlags::WRONLY | OFlags::RDWR))
            }
            _ => false,
        };
        if is_given && found.st_uid != uid {
            let _ = fs::fchown(file, Some(fs::Uid::from_raw(uid)), None);
        }
    }
}

/// Becomes `user` for good. Nothing is done when this process is that user already.
///
/// # Errors
/// Exit 77 when the system refuses, 71 when it says yes and does otherwise.
pub(crate) fn assume(user: &Identity) -> Result<()> {
    if user.is_ours() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let name = format!("{}:{}", user.uid, user.gid);
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|error| {
            let help = match error {
                // setresuid(2): it has no mapping.
                Errno::EINVAL => "this user namespace does not have that user (/proc/self/uid_map): a rootless engine maps those of /etc/subuid and /etc/subgid",
                _ => "start volseed as root with CAP_SETUID and CAP_SETGID, or leave out --user",
            };
            Error::os("become user", name.as_str(), std::io::Error::from(error)).exit(Exit::Permission).help(help)
        })?;
    if !user.is_ours() {
        return Err(Error::new(
            Exit::System,
            "become user",
            "the IDs did not change although the calls succeeded",
        )
        .on(name.as_str()));
    }
    Ok(())
}
