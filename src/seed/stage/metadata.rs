//! Owner, mode, extended attributes and times: the attributes an entry was created with, and those that it should
//! have, and what the volume refuses to keep.
//!
//! Only what differs is set. Order: owner (it clears set-user-ID and capabilities), attributes (a file
//! that may not be written takes none), mode, time. A refusal is counted, or an error under `--strict`.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::losses::{Loss, Losses, Lost};
use super::owner::Owner;
use super::refusals::{Answers, Ask, VolumeAnswer, is_refusal};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::seed::source::entry::{EntryName, Meta, Time, Xattrs, carried};
use crate::volume::records::Root;
use crate::volume::{change_mode, user};

/// What a program may do without being root (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";
/// In seconds: FAT knows every second one.
const COARSEST_TIME: u64 = 2;

/// Owner and mode that an entry has on the volume.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InitialAttrs {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl InitialAttrs {
    /// As `stat` tells.
    pub(crate) fn of(stat: &Stat) -> InitialAttrs {
        InitialAttrs { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }

    /// Whether it has just this mode.
    pub(crate) fn has_mode(&self, mode: u32) -> bool {
        self.mode == mode
    }

    /// Whether it belongs to this user and group.
    pub(crate) fn has_owner(&self, owner: Owner) -> bool {
        (self.uid, self.gid) == owner
    }

    /// Whether a volume's root with this owner gets the one that `--chown` asks for.
    fn takes(&self, asked: Owner) -> bool {
        self.has_owner((0, 0)) || self.has_owner(asked)
    }

    /// Whether this user, with this group, may create something in such a directory.
    pub(crate) fn lets_create(&self, (uid, gid): Owner) -> bool {
        let shift = match (uid == self.uid, gid == self.gid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        self.mode >> shift & 0o3 == 0o3
    }
}

/// What is asked of the volume besides names and data, and what of it was refused.
#[derive(Debug)]
pub(crate) struct Fidelity {
    losses: Losses,
    /// Whose everything is, whatever is asked for.
    one_user: Option<Owner>,
    /// Another try for the next entry would be answered in the same way, and cost a round trip.
    answers: Answers,
}

impl Fidelity {
    /// What is refused is one of `losses`. Nothing is asked about owners where everything is `one_user`'s.
    pub(crate) fn new(losses: Losses, one_user: Option<Owner>) -> Fidelity {
        Fidelity { losses, one_user, answers: Answers::default() }
    }

    /// Says before anything is published what [`Fidelity::finish_root`] would be refused: only its owner and root
    /// may change the volume's root, and only root gives it away.
    ///
    /// # Errors
    /// Exit 77 under `--strict`.
    pub(crate) fn check_root(&self, root: BorrowedFd<'_>, wanted: &Root) -> Result<()> {
        let birth = InitialAttrs::of(&fs::fstat(root).context("stat", || self.named(Vec::new))?);
        if wanted.asked && !birth.takes((wanted.uid, wanted.gid)) {
            return Ok(());
        }
        if self.one_user.is_some() {
            return Ok(());
        }
        let ours = user::uid();
        if ours != 0 && birth.uid != wanted.uid {
            return self.losses.note(Loss::Owner, b"", Errno::PERM);
        }
        let keeps_mode = wanted.mode.is_none_or(|mode| birth.has_mode(mode));
        if ours == 0 || ours == birth.uid || keeps_mode {
            return Ok(());
        }
        self.losses.note(Loss::Mode, b"", Errno::PERM)
    }

    /// Gives the volume's root what the seed's root has. Where `--chown` asks for an owner, and it is neither that
    /// one's nor root's, it stays as it is, and its owner is returned.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub(crate) fn finish_root(&self, root: BorrowedFd<'_>, wanted: &Root) -> Result<Option<Owner>> {
        let path = Vec::new;
        let mut birth = InitialAttrs::of(&fs::fstat(root).context("stat", || self.named(path))?);
        let owner = (wanted.uid, wanted.gid);
        if wanted.asked && !birth.takes(owner) {
            return Ok(Some((birth.uid, birth.gid)));
        }
        self.own_directory(root, owner, &mut birth, path)?;
        if let Some(mode) = wanted.mode {
            let meta = Meta { mode, uid: wanted.uid, gid: wanted.gid, mtime: None, xattrs: None };
            let mode = self.mode_for(&meta, birth, path)?;
            self.finish_attributes(root, &meta, mode, birth, path)?;
        }
        let mtime = wanted.mtime.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
        match mtime.map(|mtime| fs::futimens(root, &mtime.timestamps())) {
            // Only its owner may; nothing depends on it.
            Some(Err(error)) if !is_refusal(error) => {
                return Err(error).context("set time of", || self.named(path));
            }
            _ => {}
        }
        // Btrfs keeps a record that is synced later without it.
        fs::fsync(root).context("sync directory", || self.named(path))?;
        Ok(None)
    }

    /// Where what is refused is noted.
    pub(crate) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// What was not kept so far.
    pub(crate) fn lost(&self) -> Lost {
        self.losses.lost()
    }

    /// Gives a file that was just created its owner, while it is still empty. Returns the permission
    /// bits that it may have: without its owner a file loses set-user-ID and set-group-ID.
    ///
    /// # Errors
    /// Exit 77 under `--strict` when the owner is refused.
    pub(crate) fn own_file(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        mut birth: InitialAttrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<u32> {
        let (set, look) = (|uid, gid| fs::fchown(&fd, uid, gid), || fs::fstat(&fd));
        self.own((meta.uid, meta.gid), &mut birth, false, (set, look), &path)?;
        self.mode_for(meta, birth, path)
    }

    /// Gives a directory, whose descriptor need not be readable, its owner, and notes that in `birth`.
    ///
    /// # Errors
    /// Exit 77 under `--strict` when the owner is refused.
    pub(crate) fn own_directory(
        &self,
        fd: impl AsFd,
        owner: Owner,
        birth: &mut InitialAttrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let set = |uid, gid| fs::chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH);
        self.own(owner, birth, false, (set, || fs::fstat(&fd)), path)
    }

    /// Gives what is called `name` its owner, without opening it.
    ///
    /// # Errors
    /// Exit 77 under `--strict` when the owner is refused.
    pub(crate) fn own_entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        meta: &Meta,
        birth: &mut InitialAttrs,
        special: bool,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let set = |uid, gid| fs::chownat(directory, name, uid, gid, flags);
        let look = || fs::statat(directory, name, flags);
        self.own((meta.uid, meta.gid), birth, special, (set, look), path)
    }

    fn own(
        &self,
        owner: Owner,
        birth: &mut InitialAttrs,
        special: bool,
        (set, look): (
            impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
            impl Fn() -> rustix::io::Result<Stat>,
        ),
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        if birth.has_owner(owner) || self.one_user.is_some() {
            return Ok(());
        }
        let (uid, gid) = owner;
        let ask = Ask { loss: Loss::Owner, special, of: owner };
        let set = || set(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let is_right = || look().map(|found| InitialAttrs::of(&found).has_owner(owner));
        if self.ask(ask, set, is_right, path)? {
            (birth.uid, birth.gid) = owner;
        } else {
            self.losses.tell_owner((birth.uid, birth.gid));
        }
        Ok(())
    }

    /// The permission bits that a directory with such an owner may have: without the right group it does not
    /// pass it on, which is counted.
    ///
    /// # Errors
    /// Exit 77 under `--strict` where it does not.
    pub(crate) fn directory_mode_for(
        &self,
        meta: &Meta,
        birth: InitialAttrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<u32> {
        if birth.gid == meta.gid && meta.mode & 0o4000 == 0 {
            return Ok(meta.mode);
        }
        self.mode_for(meta, birth, path)
    }

    /// The permission bits that an entry with such an owner may have: without the right one it loses
    /// set-user-ID and set-group-ID, which is counted.
    ///
    /// # Errors
    /// Exit 77 under `--strict` where it does.
    pub(crate) fn mode_for(
        &self,
        meta: &Meta,
        birth: InitialAttrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<u32> {
        if birth.has_owner((meta.uid, meta.gid)) || meta.mode & 0o6000 == 0 {
            return Ok(meta.mode);
        }
        self.losses.note(Loss::Mode, &path(), Errno::PERM)?;
        Ok(meta.mode & !0o6000)
    }

    /// Gives a file whose data is written the rest: attributes, mode, time.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub(crate) fn finish_file(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        mode: u32,
        birth: InitialAttrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        self.finish_attributes(&fd, meta, mode, birth, &path)?;
        self.set_time(fd, meta, path)
    }

    /// Gives a file its time.
    ///
    /// # Errors
    /// When it is refused and may not be.
    pub(crate) fn set_time(&self, fd: impl AsFd, meta: &Meta, path: impl Fn() -> Vec<u8>) -> Result<()> {
        let set = |time: Time| fs::futimens(&fd, &time.timestamps());
        self.time(meta, false, (set, || fs::fstat(&fd)), path)
    }

    /// Gives what is called `name` its time, without opening it.
    ///
    /// # Errors
    /// When it is refused and may not be.
    pub(crate) fn set_entry_time(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        meta: &Meta,
        special: bool,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let set = |time: Time| fs::utimensat(directory, name, &time.timestamps(), flags);
        self.time(meta, special, (set, || fs::statat(directory, name, flags)), path)
    }

    /// Gives a directory, whose descriptor need not be readable, its time. Whether the kernel has the call.
    ///
    /// # Errors
    /// When it is refused and may not be.
    pub(crate) fn set_directory_time(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<bool> {
        let unknown = Cell::new(false);
        let flags = AtFlags::EMPTY_PATH;
        let set = |time: Time| match fs::utimensat(&fd, "", &time.timestamps(), flags) {
            // Before Linux 5.8 (utimensat(2)).
            Err(Errno::INVAL | Errno::NOENT) => {
                unknown.set(true);
                Ok(())
            }
            result => result,
        };
        let look = || if unknown.get() { Err(Errno::NOSYS) } else { fs::fstat(&fd) };
        self.time(meta, false, (set, look), path)?;
        Ok(!unknown.get())
    }

    fn time(
        &self,
        meta: &Meta,
        special: bool,
        (set, look): (impl Fn(Time) -> rustix::io::Result<()>, impl Fn() -> rustix::io::Result<Stat>),
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let Some(mtime) = meta.mtime else { return Ok(()) };
        let ask = Ask { loss: Loss::Time, special, of: (meta.uid, mtime.range()) };
        let is_right = || look().map(|found| found.st_mtime.abs_diff(mtime.seconds) <= COARSEST_TIME);
        self.ask(ask, || set(mtime), is_right, path).map(drop)
    }

    /// Gives a file whose data is written its attributes and mode.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub(crate) fn finish_attributes(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        mode: u32,
        birth: InitialAttrs,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let fd = fd.as_fd();
        if let Some(xattrs) = &meta.xattrs {
            self.set_xattrs(fd, xattrs, &path)?;
        }
        // A change of owner and a write may each have cleared the special bits.
        if birth.mode != mode || mode & 0o6000 != 0 {
            let set = || fs::fchmod(fd, Mode::from_raw_mode(mode));
            self.mode(meta.uid, mode, false, (set, || fs::fstat(fd)), path)?;
        }
        Ok(())
    }

    fn mode(
        &self,
        owner: u32,
        mode: u32,
        special: bool,
        (set, look): (impl FnOnce() -> rustix::io::Result<()>, impl Fn() -> rustix::io::Result<Stat>),
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let ask = Ask { loss: Loss::Mode, special, of: (owner, mode) };
        let is_right = || look().map(|found| InitialAttrs::of(&found).has_mode(mode));
        self.ask(ask, set, is_right, path).map(drop)
    }

    /// Gives a symbolic link or a FIFO, which was just made, its attributes.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub(crate) fn finish_special(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        meta: &Meta,
        is_link: bool,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let look = || fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let mut birth = InitialAttrs::of(&look().context("stat", || self.named(&path))?);
        self.own_entry(directory, name, meta, &mut birth, true, &path)?;
        let mode = if is_link { birth.mode } else { self.mode_for(meta, birth, &path)? };
        if birth.mode != mode {
            self.mode(meta.uid, mode, true, (|| change_mode(directory, name, mode), look), &path)?;
        }
        self.set_entry_time(directory, name, meta, true, path)
    }

    /// The cause that hard links, or FIFOs, were refused with, where that holds for all of them.
    pub(crate) fn refused(&self, loss: Loss) -> Option<Errno> {
        match self.answers.to(Ask { loss, special: false, of: (0, 0) }) {
            Some(VolumeAnswer::Refused(cause)) => cause,
            _ => None,
        }
    }

    /// Counts an entry that could not be made as what it is. `of_all` says that all others will be refused, too.
    ///
    /// # Errors
    /// Exit 77 under `--strict`.
    pub(crate) fn note(&self, loss: Loss, cause: Errno, of_all: bool, path: &[u8]) -> Result<()> {
        if of_all {
            self.answers
                .remember(Ask { loss, special: false, of: (0, 0) }, VolumeAnswer::Refused(Some(cause)));
        }
        self.losses.note(loss, path, cause)
    }

    /// Removes the attributes that an earlier run gave a directory and that `meta` does not have.
    ///
    /// # Errors
    /// When they cannot be read or removed.
    pub(crate) fn drop_other_xattrs(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let fd = fd.as_fd();
        let wanted =
            |name: &[u8]| meta.xattrs.iter().any(|xattrs| xattrs.iter().any(|(wanted, _)| wanted == name));
        let mut names = [0u8; 4096];
        // A volume without attributes has none to remove.
        let length = fs::flistxattr(fd, &mut names).unwrap_or(0);
        for name in names[..length].split(|byte| *byte == 0).filter(|name| carried(name) && !wanted(name)) {
            match fs::fremovexattr(fd, name) {
                Err(error) if !is_refusal(error) => {
                    return Err(error).context("remove extended attribute of", || self.named(&path));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The attributes of a source's file or directory that are carried.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn read_xattrs(
        &self,
        fd: impl AsFd,
        path: impl Fn() -> PathBuf,
        entry: impl Fn() -> Vec<u8>,
    ) -> Result<Option<Box<Xattrs>>> {
        let fd = fd.as_fd();
        let mut names = [0u8; 4096];
        let length = match fs::flistxattr(fd, &mut names) {
            // Of this entry alone: another file system may be mounted next to it.
            Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(None),
            Ok(length) => length,
            Err(Errno::RANGE) => return Err(too_many_xattrs(&path())),
            Err(cause) if is_refusal(cause) => {
                return self.losses.note(Loss::Xattr, &entry(), cause).map(|()| None);
            }
            Err(error) => return Err(error).context("list extended attributes of", &path),
        };
        let mut found = Xattrs::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| carried(name)) {
            // 64 KiB is the kernel's own limit (xattr(7)).
            let mut value = vec![0u8; 65_536];
            match fs::fgetxattr(fd, name, &mut value) {
                Ok(size) => {
                    value.truncate(size);
                    found.push((name.to_vec(), value));
                }
                Err(Errno::NODATA) if name != CAPABILITY => {}
                Err(cause) if is_refusal(cause) => {
                    let loss = if name == CAPABILITY { Loss::Capability } else { Loss::Xattr };
                    self.losses.note(loss, &entry(), cause)?;
                }
                Err(error) => return Err(error).context("read extended attribute of", &path),
            }
        }
        Ok((!found.is_empty()).then(|| Box::new(found)))
    }

    fn set_xattrs(&self, fd: BorrowedFd<'_>, xattrs: &Xattrs, path: impl Fn() -> Vec<u8>) -> Result<()> {
        for (name, value) in xattrs {
            let loss = if name == CAPABILITY { Loss::Capability } else { Loss::Xattr };
            let ask = Ask { loss, special: false, of: (0, 0) };
            if let Some(VolumeAnswer::Refused(cause)) = self.answers.to(ask) {
                self.losses.note(loss, &path(), cause)?;
                continue;
            }
            match fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(cause) if ask.is_refused_by(cause) => {
                    if matches!(cause, Errno::NOTSUP | Errno::NOSYS) {
                        self.answers.remember(ask, VolumeAnswer::Refused(Some(cause)));
                    }
                    self.losses.note(loss, &path(), cause)?;
                }
                Err(cause) => return Err(cause).context(loss.act(), || self.named(&path)),
            }
        }
        Ok(())
    }

    /// Asks for one thing, unless it was refused before. Whether the entry has it now; a refusal is noted.
    /// `is_right` looks: after the first call that succeeded whether it had an effect, and after one that was
    /// refused whether the entry is as it has to be all the same.
    fn ask(
        &self,
        ask: Ask,
        set: impl FnOnce() -> rustix::io::Result<()>,
        is_right: impl Fn() -> rustix::io::Result<bool>,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<bool> {
        let before = self.answers.to(ask);
        if let Some(VolumeAnswer::Refused(cause)) = before {
            return self.losses.note(ask.loss, &path(), cause).map(|()| false);
        }
        let cause = match set() {
            Ok(()) if before.is_some() => return Ok(true),
            Ok(()) if is_right() != Ok(false) => {
                self.answers.remember(ask, VolumeAnswer::Kept);
                return Ok(true);
            }
            Ok(()) => None,
            Err(cause) if !ask.is_refused_by(cause) => {
                return Err(cause).context(ask.loss.act(), || self.named(&path));
            }
            Err(_) if is_right() == Ok(true) => return Ok(true),
            Err(cause) => Some(cause),
        };
        self.answers.remember(ask, VolumeAnswer::Refused(cause));
        self.losses.note(ask.loss, &path(), cause).map(|()| false)
    }

    fn named(&self, path: impl Fn() -> Vec<u8>) -> EntryName {
        self.losses.naming().entry(&path())
    }
}

fn too_many_xattrs(path: &Path) -> Error {
    Error::new(Exit::Io, "list extended attributes of", "more than 4096 bytes of names").on(path)
}
