//! Owner, mode, extended attributes and times: what an entry was born with against what it shall
//! have, and what the volume refuses to keep.
//!
//! Only what differs is set. Order: owner (it clears set-user-ID and capabilities), attributes (a file
//! that may not be written takes none), mode, time. A refusal is counted, or an error under `--strict`.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{self, AtFlags, Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::entry::{EntryName, Meta, Time, Xattrs, carried};
use super::losses::{Loss, Losses, Lost};
use super::owner::Owner;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::state::Root;
use crate::volume::change_mode;

/// The most owners whose refusal is remembered: an archive may name any number.
const MAX_REFUSED: usize = 4096;

/// Owner and mode that an entry has on the volume.
#[derive(Debug, Clone, Copy, Default)]
pub struct Birth {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Birth {
    /// As `stat` tells.
    pub fn of(stat: &Stat) -> Birth {
        Birth { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }

    /// Whether it has just this mode.
    pub fn has_mode(&self, mode: u32) -> bool {
        self.mode == mode
    }

    /// Whether it belongs to this user and group.
    pub fn has_owner(&self, owner: Owner) -> bool {
        (self.uid, self.gid) == owner
    }

    /// Whether this user, with this group, may create something in such a directory.
    pub fn lets_create(&self, (uid, gid): Owner) -> bool {
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
pub struct Fidelity {
    losses: Losses,
    /// Owners that the volume did not let us give: another try for the next entry would be refused
    /// too, and cost a round trip.
    refused: RwLock<HashSet<Owner>>,
    /// The source's file system has no extended attributes: do not ask again.
    source_without_xattrs: AtomicBool,
}

impl Fidelity {
    /// What is refused is one of `losses`.
    pub fn new(losses: Losses) -> Fidelity {
        Fidelity { losses, refused: RwLock::default(), source_without_xattrs: AtomicBool::new(false) }
    }

    /// Gives the volume's root what the seed's root has.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub fn finish_root(&self, root: BorrowedFd<'_>, wished: &Root) -> Result<()> {
        let path = Vec::new;
        let birth = Birth::of(&fs::fstat(root).context("stat", || self.named(path))?);
        let mtime = wished.mtime.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
        let mode = wished.mode.unwrap_or(birth.mode);
        let meta = Meta { mode, uid: wished.uid, gid: wished.gid, mtime: None, xattrs: None };
        let mode = self.own_file(root, &meta, birth, path)?;
        self.finish_file(root, &meta, mode, birth, path)?;
        match mtime.map(|mtime| fs::futimens(root, &mtime.timestamps())) {
            // Only its owner may; nothing depends on it.
            None | Some(Ok(()) | Err(Errno::PERM | Errno::ACCESS)) => Ok(()),
            Some(Err(error)) => Err(error).context("set time of", || self.named(path)),
        }
    }

    /// What was not kept so far.
    pub fn lost(&self) -> Lost {
        self.losses.lost()
    }

    /// Gives a file that was just created its owner, while it is still empty. Returns the permission
    /// bits that it may have: without its owner a file loses set-user-ID and set-group-ID.
    ///
    /// # Errors
    /// Exit 77 under `--strict` when the owner is refused.
    pub fn own_file(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        mut birth: Birth,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<u32> {
        let set = |uid, gid| fs::fchown(&fd, uid, gid);
        self.own((meta.uid, meta.gid), &mut birth, set, &path)?;
        self.mode_for(meta, birth, path)
    }

    /// Gives a directory, whose descriptor need not be readable, its owner, and notes that in `birth`.
    ///
    /// # Errors
    /// Exit 77 under `--strict` when the owner is refused.
    pub fn own_directory(
        &self,
        fd: impl AsFd,
        owner: Owner,
        birth: &mut Birth,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let set = |uid, gid| fs::chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH);
        self.own(owner, birth, set, path)
    }

    /// Gives what is called `name` its owner, without opening it.
    ///
    /// # Errors
    /// Exit 77 under `--strict` when the owner is refused.
    pub fn own_entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        meta: &Meta,
        mut birth: Birth,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let set = |uid, gid| fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        self.own((meta.uid, meta.gid), &mut birth, set, path)
    }

    fn own(
        &self,
        owner: Owner,
        birth: &mut Birth,
        set: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        if birth.has_owner(owner) {
            return Ok(());
        }
        if self.refused.read().unwrap_or_else(PoisonError::into_inner).contains(&owner) {
            return self.losses.note(Loss::Owner, &path(), Errno::PERM);
        }
        let (uid, gid) = owner;
        let result = set(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if self.counted(Loss::Owner, result, path)? {
            (birth.uid, birth.gid) = owner;
        } else {
            let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
            if refused.len() < MAX_REFUSED {
                refused.insert(owner);
            }
        }
        Ok(())
    }

    /// The permission bits that an entry with such an owner may have: without the right one it loses
    /// set-user-ID and set-group-ID, which is counted.
    ///
    /// # Errors
    /// Exit 77 under `--strict` where it does.
    pub fn mode_for(&self, meta: &Meta, birth: Birth, path: impl Fn() -> Vec<u8>) -> Result<u32> {
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
    pub fn finish_file(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        mode: u32,
        birth: Birth,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        self.finish_attributes(&fd, meta, mode, birth, &path)?;
        self.set_time(fd, meta, path)
    }

    /// Gives a file its time.
    ///
    /// # Errors
    /// As `futimens`.
    pub fn set_time(&self, fd: impl AsFd, meta: &Meta, path: impl Fn() -> Vec<u8>) -> Result<()> {
        match meta.mtime {
            Some(mtime) => fs::futimens(fd, &mtime.timestamps()).context("set time of", || self.named(&path)),
            None => Ok(()),
        }
    }

    /// Gives a file whose data is written its attributes and mode.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub fn finish_attributes(
        &self,
        fd: impl AsFd,
        meta: &Meta,
        mode: u32,
        birth: Birth,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let fd = fd.as_fd();
        if let Some(xattrs) = &meta.xattrs {
            self.set_xattrs(fd, xattrs, &path)?;
        }
        // A change of owner and a write may each have cleared the special bits.
        if birth.mode != mode || mode & 0o6000 != 0 {
            let result = fs::fchmod(fd, Mode::from_raw_mode(mode));
            self.counted(Loss::Mode, result, &path)?;
        }
        Ok(())
    }

    /// Gives a symbolic link or a FIFO, which was just made, what it shall have.
    ///
    /// # Errors
    /// When something is refused and may not be.
    pub fn finish_special(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        meta: &Meta,
        is_link: bool,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = fs::statat(directory, name, flags).context("stat", || self.named(&path))?;
        let birth = Birth::of(&stat);
        self.own_entry(directory, name, meta, birth, &path)?;
        if !is_link && birth.mode != meta.mode {
            let result = change_mode(directory, name, meta.mode);
            self.counted(Loss::Mode, result, &path)?;
        }
        if let Some(mtime) = meta.mtime {
            fs::utimensat(directory, name, &mtime.timestamps(), flags)
                .context("set time of", || self.named(&path))?;
        }
        Ok(())
    }

    /// Removes the attributes that an earlier run gave a directory and that `meta` does not have.
    ///
    /// # Errors
    /// When they cannot be read or removed.
    pub fn drop_other_xattrs(&self, fd: impl AsFd, meta: &Meta, path: impl Fn() -> Vec<u8>) -> Result<()> {
        let fd = fd.as_fd();
        let wanted =
            |name: &[u8]| meta.xattrs.iter().any(|xattrs| xattrs.iter().any(|(wanted, _)| wanted == name));
        let mut names = [0u8; 4096];
        // A volume without attributes has none to remove.
        let length = fs::flistxattr(fd, &mut names).unwrap_or(0);
        for name in names[..length].split(|byte| *byte == 0).filter(|name| carried(name) && !wanted(name)) {
            fs::fremovexattr(fd, name).context("remove extended attribute of", || self.named(&path))?;
        }
        Ok(())
    }

    /// The attributes of a source's file or directory that are carried.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_xattrs(&self, fd: impl AsFd, path: impl Fn() -> PathBuf) -> Result<Option<Box<Xattrs>>> {
        if self.source_without_xattrs.load(Relaxed) {
            return Ok(None);
        }
        let fd = fd.as_fd();
        let mut names = [0u8; 4096];
        let length = match fs::flistxattr(fd, &mut names) {
            Ok(0) => return Ok(None),
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                self.source_without_xattrs.store(true, Relaxed);
                return Ok(None);
            }
            Err(Errno::RANGE) => return Err(too_many_xattrs(&path())),
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
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error).context("read extended attribute of", &path),
            }
        }
        Ok((!found.is_empty()).then(|| Box::new(found)))
    }

    fn set_xattrs(&self, fd: BorrowedFd<'_>, xattrs: &Xattrs, path: impl Fn() -> Vec<u8>) -> Result<()> {
        for (name, value) in xattrs {
            let result = fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
            // Too large for the file system: ext4 has room for a block of them. A full volume fails the
            // next write, too.
            let result = result.map_err(|error| match error {
                Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => Errno::NOTSUP,
                error => error,
            });
            let loss = if name == b"security.capability" { Loss::Capability } else { Loss::Xattr };
            self.counted(loss, result, &path)?;
        }
        Ok(())
    }

    /// Whether it was done; a refusal is noted.
    fn counted(
        &self,
        loss: Loss,
        result: rustix::io::Result<()>,
        path: impl Fn() -> Vec<u8>,
    ) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(error @ (Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL)) => {
                self.losses.note(loss, &path(), error).map(|()| false)
            }
            Err(error) => Err(error).context(loss.act(), || self.named(&path)),
        }
    }

    fn named(&self, path: impl Fn() -> Vec<u8>) -> EntryName {
        self.losses.naming().entry(&path())
    }
}

fn too_many_xattrs(path: &Path) -> Error {
    Error::new(Exit::Io, "list extended attributes of", "more than 4096 bytes of names").on(path)
}
