//! Directories that only we can enter: making them, and seeing whether one still is such a directory.
//!
//! Between two starts, and during one, the app's user may rename, replace and forge whatever it may write on
//! the volume, and may be given the rest by a `chown -R`. Where we are root, what is in a directory counts as
//! our own work only while the directory is ours and closed. Another user shares its rights with the app and
//! has nothing to lose to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{FileSystem, Storage, openat, user};

/// What others may do in a directory of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wall {
    /// Nothing: what is in it is ours alone.
    Closed,
    /// Look into it, so that a walk of the volume passes it; never change it.
    Listed,
}

impl Wall {
    fn mode(self) -> Mode {
        match self {
            Wall::Closed => Mode::RWXU,
            Wall::Listed => Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH,
        }
    }

    /// Whether a mode lets others do more. While it says nothing more to the group, no entry of a POSIX ACL does
    /// (acl(5), the mask).
    fn is_breached(self, mode: u32) -> bool {
        mode & 0o077 & !self.mode().as_raw_mode() != 0
    }
}

/// Whether what a directory holds can be another user's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// Ours, and nobody else can do there what they must not.
    Private,
    /// Ours, and others can.
    Open,
    /// Another user's: its UID.
    Foreign(u32),
}

/// Who we are on one volume: a server may take us for somebody else, and a mount may give everything to one
/// user.
#[derive(Debug)]
pub(crate) struct Ourselves {
    is_root: bool,
    uid: OnceLock<u32>,
    /// Modes are not kept: nothing can be closed to others.
    without_modes: AtomicBool,
}

impl Ourselves {
    /// This thread, and what it starts. Nothing is asked of a volume yet.
    pub(crate) fn new() -> Arc<Ourselves> {
        Arc::new(Ourselves {
            is_root: rustix::process::geteuid().is_root(),
            uid: OnceLock::new(),
            without_modes: AtomicBool::new(false),
        })
    }

    /// Somebody who only looks, and decides nothing by it: to them everything is private.
    pub(crate) fn onlooker() -> Arc<Ourselves> {
        let (uid, without_modes) = (OnceLock::new(), AtomicBool::new(false));
        Arc::new(Ourselves { is_root: false, uid, without_modes })
    }

    /// Who can have changed what is in `directory`.
    ///
    /// # Errors
    /// As `fstat`.
    pub(crate) fn privacy(&self, directory: BorrowedFd<'_>, wall: Wall) -> rustix::io::Result<Privacy> {
        if !self.is_root {
            return Ok(Privacy::Private);
        }
        let found = fs::fstat(directory)?;
        if found.st_uid != self.uid(directory, found.st_uid)? {
            return Ok(Privacy::Foreign(found.st_uid));
        }
        let is_open = wall.is_breached(found.st_mode) && !self.without_modes.load(Relaxed);
        Ok(if is_open { Privacy::Open } else { Privacy::Private })
    }

    /// Whether a directory among those of the user `owner` may be emptied: one of its own, or one of ours that
    /// it cannot have put there, since a directory is only moved by who may write in it (rename(2)).
    ///
    /// # Errors
    /// As `fstat`.
    pub(crate) fn is_removable(&self, directory: BorrowedFd<'_>, owner: u32) -> rustix::io::Result<bool> {
        let found = fs::fstat(directory)?;
        let is_ours = found.st_uid == self.uid(directory, found.st_uid)? && found.st_mode & 0o022 == 0;
        Ok(found.st_uid == owner || is_ours)
    }

    /// Makes another user's directory ours and closes it. Through its descriptor: a user that has it open cannot
    /// make anything in it any more, since that is asked of the directory at every call.
    ///
    /// # Errors
    /// As `fchown` and `fchmod`; `EPERM` also where it belongs to somebody else afterwards.
    pub(crate) fn seize(&self, directory: BorrowedFd<'_>, wall: Wall) -> rustix::io::Result<()> {
        let us = fs::Uid::from_raw(self.uid(directory, u32::MAX)?);
        fs::fchown(directory, Some(us), None)?;
        drop_default_acl(directory)?;
        fs::fchmod(directory, wall.mode())?;
        if self.privacy(directory, wall)? == Privacy::Private { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Gives a directory of ours the mode that it has to have; whether others could do more there: a volume
    /// plug-in opens everything to a group (Kubernetes' fsGroup), or we were killed before this was done the
    /// first time.
    ///
    /// # Errors
    /// As `fstat` and `fchmod`, but for a refusal: there, as on a mount that keeps no modes, nothing can be
    /// closed.
    pub(crate) fn close(&self, directory: BorrowedFd<'_>, wall: Wall) -> rustix::io::Result<bool> {
        let before = fs::fstat(directory)?.st_mode;
        if before & 0o7777 == wall.mode().as_raw_mode() {
            return Ok(false);
        }
        drop_default_acl(directory)?;
        match fs::fchmod(directory, wall.mode()) {
            Ok(()) | Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {}
            Err(error) => return Err(error),
        }
        let is_closed = !wall.is_breached(fs::fstat(directory)?.st_mode);
        if !is_closed {
            self.without_modes.store(true, Relaxed);
        }
        Ok(is_closed && wall.is_breached(before))
    }

    /// Whether a directory is another user's, in which we may change nothing, being that user no more than root.
    /// Its owner alone does not tell: a server may give everything to one user.
    ///
    /// # Errors
    /// As `fstat` and `faccessat`.
    pub(crate) fn is_barred(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<Option<u32>> {
        let found = fs::fstat(directory)?;
        if self.is_root || found.st_uid == user::uid() {
            return Ok(None);
        }
        let wanted = fs::Access::WRITE_OK | fs::Access::EXEC_OK;
        match fs::accessat(directory, ".", wanted, AtFlags::EACCESS) {
            Err(Errno::ACCESS | Errno::PERM) => Ok(Some(found.st_uid)),
            Ok(()) | Err(Errno::ROFS | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a file that was opened by name is one of our own making, with no other name.
    ///
    /// # Errors
    /// As `fstat`.
    pub(crate) fn is_own_file(&self, file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        let found = fs::fstat(file)?;
        let us = self.uid.get().copied().unwrap_or_else(user::uid);
        let owned = !self.is_root || found.st_uid == us || !is_local(file);
        Ok(owned && super::is_lone_file(&found))
    }

    /// The user that our creations get. On a file system of this machine that is us. Elsewhere, where what
    /// was `found` is not ours, a file says it that nobody else can have made: `O_EXCL` (open(2)). Only where
    /// they differ is anything asked of the file system.
    fn uid(&self, directory: BorrowedFd<'_>, found: u32) -> rustix::io::Result<u32> {
        let us = user::uid();
        if let Some(uid) = self.uid.get() {
            return Ok(*uid);
        }
        if found == us || is_local(directory) {
            return Ok(us);
        }
        // What a kill leaves is removed with what is removed.
        let name = format!("removed-probe-{:016x}", random());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let probe = match openat(directory, name.as_bytes(), flags, Mode::RUSR) {
            // Who may not make anything in there has not made it.
            Err(Errno::ACCESS | Errno::PERM) => return Ok(us),
            probe => probe?,
        };
        let uid = fs::fstat(&probe)?.st_uid;
        let _ = fs::unlinkat(directory, name, AtFlags::empty());
        Ok(*self.uid.get_or_init(|| uid))
    }
}

/// A directory of ours, open for reading.
#[derive(Debug)]
pub(crate) struct PrivateDirectory {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// Makes a directory that only we can enter, whatever the parent passes on to its children, and opens
/// it. One that is there already is left as it is.
///
/// # Errors
/// As `mkdirat` and `openat`: `ENOTDIR` or `ELOOP` where something else is there.
pub(crate) fn make_private(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<PrivateDirectory> {
    make(parent, name, Wall::Closed)
}

/// The same, with what others may do in it.
///
/// # Errors
/// As [`make_private`].
pub(crate) fn make(parent: BorrowedFd<'_>, name: &[u8], wall: Wall) -> rustix::io::Result<PrivateDirectory> {
    let is_new = match fs::mkdirat(parent, name, wall.mode()) {
        Err(Errno::EXIST) => false,
        made => made.map(|()| true)?,
    };
    let fd = openat(parent, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    // Another user may have put its own in the place of what was made.
    let found = fs::fstat(&fd)?;
    let is_new = is_new && (found.st_uid == user::uid() || !is_local(fd.as_fd()));
    if is_new {
        // A set-group-ID bit or a default ACL of the parent's would reach every seeded file.
        drop_default_acl(fd.as_fd())?;
        if found.st_mode & 0o2000 != 0 {
            // The parent has passed its group on with that bit; a refusal leaves what a server decides.
            let (_, group) = user::current();
            let _ = fs::fchown(&fd, None, Some(fs::Gid::from_raw(group)));
        }
        if found.st_mode & 0o7777 != wall.mode().as_raw_mode() {
            fs::fchmod(&fd, wall.mode())?;
        }
    }
    Ok(PrivateDirectory { fd, is_new })
}

fn drop_default_acl(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    match fs::fremovexattr(directory, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS | Errno::PERM) => Ok(()),
        // Other answers of file systems that have no such attributes.
        Err(Errno::ACCESS | Errno::INVAL | Errno::TOOBIG | Errno::OVERFLOW) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_local(directory: BorrowedFd<'_>) -> bool {
    let kind = fs::fstatfs(directory).map(|found| FileSystem::of_magic(found.f_type as u64));
    kind.is_ok_and(|kind| matches!(kind.place, Storage::Local | Storage::Memory))
}

/// A number that cannot be foreseen: seeded by the system, and differently each time (std's `RandomState`).
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
