//! Links and FIFOs: entries without data, and what they become where the volume refuses them.
//!
//! A second name becomes a copy of what it names, a FIFO is left out, a symbolic link ends the seed. What is
//! staged as the first name of a file is finished before a second one is made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Writer;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::seed::engine::job::{Entry, FileJob, Special, Task};
use crate::seed::engine::queue::Hold;
use crate::seed::manifest::digest::Digester;
use crate::seed::source::entry::{Meta, Time, Xattrs};
use crate::seed::stage::dir::Dir;
use crate::seed::stage::losses::Loss;
use crate::seed::stage::owner::{as_owner, create_as};
use crate::seed::stage::refusals::{is_link_refusal, is_refusal};
use crate::volume::{change_mode, is_type, openat, remove_tree, stat_entry, user};

impl Writer<'_> {
    /// Makes an entry without data, or another name for what is staged; whether the volume takes it.
    ///
    /// # Errors
    /// The first thing that went wrong with it.
    pub(crate) fn make_special(
        &mut self,
        entry: &Entry,
        special: &Special,
        hold: &mut Hold<'_, Task>,
    ) -> Result<bool> {
        if !self.shared.tree.is_staged() {
            hold.created();
            return Ok(true);
        }
        match special {
            Special::Symlink(target) => self.symlink(entry, target, hold).map(|()| true),
            Special::Fifo => self.fifo(entry, hold),
            Special::Link(dir, first) => self.link(entry, (dir, first), hold),
        }
    }

    fn symlink(&self, entry: &Entry, target: &[u8], hold: &mut Hold<'_, Task>) -> Result<()> {
        let made = self.make(entry, hold, |directory, name| fs::symlinkat(target, directory, name))?;
        made.map_err(|cause| self.shared.tree.no_symbolic_link(&entry.path(), target, cause))?;
        self.finish_special(entry, true)
    }

    /// One that the volume refuses is left out.
    fn fifo(&self, entry: &Entry, hold: &mut Hold<'_, Task>) -> Result<bool> {
        let (fidelity, tree) = (self.shared.fidelity, self.shared.tree);
        let mode = Mode::from_raw_mode(entry.meta.mode & 0o777);
        let made =
            self.make(entry, hold, |directory, name| fs::mknodat(directory, name, FileType::Fifo, mode, 0))?;
        let Err(cause) = made else { return self.finish_special(entry, false).map(|()| true) };
        let error = tree.not_made("create FIFO", &entry.path(), cause);
        // exfat-fuse knows no better answer; there are no data that could have been lost.
        let is_refused = is_refusal(cause) || cause == Errno::IO;
        if !is_refused || error.exit_code() == Exit::Refused {
            return Err(error);
        }
        if self.is_there(entry)? {
            // A server's answer that got lost is an I/O error, too.
            return self.finish_special(entry, false).map(|()| true);
        }
        fidelity.note(Loss::Fifo, cause, true, &entry.path()).map(|()| false)
    }

    fn is_there(&self, entry: &Entry) -> Result<bool> {
        let directory = self.shared.tree.open(&entry.dir)?;
        let found = stat_entry(directory.as_fd(), &entry.name).context("stat", || self.named_entry(entry))?;
        Ok(found.is_some())
    }

    /// Another name for what is staged as `first`; a copy of it where the volume refuses that.
    fn link(&mut self, entry: &Entry, first: (&Arc<Dir>, &[u8]), hold: &mut Hold<'_, Task>) -> Result<bool> {
        let (tree, fidelity) = (self.shared.tree, self.shared.fidelity);
        let target = tree.open(first.0)?;
        let cause = match fidelity.refused(Loss::HardLink) {
            Some(cause) => cause,
            None => {
                let made = self.make(entry, hold, |directory, name| {
                    fs::linkat(&*target, first.1, directory, name, AtFlags::empty())
                })?;
                match made {
                    Ok(()) => return Ok(true),
                    Err(cause) => cause,
                }
            }
        };
        let act = "create hard link";
        let found = match stat_entry(target.as_fd(), first.1) {
            Ok(Some(found)) if !is_type(&found, FileType::Directory) => found,
            Ok(None) if let Some(cause) = fidelity.refused(Loss::Fifo) => {
                // It names a FIFO that was left out.
                return fidelity.note(Loss::Fifo, cause, true, &entry.path()).map(|()| false);
            }
            Ok(_) => {
                let cause = "what it names is no file before it in the archive";
                return Err(Error::new(Exit::Archive, act, cause).on(self.named_entry(entry)));
            }
            Err(_) => return Err(tree.not_made(act, &entry.path(), cause)),
        };
        let is_file = is_type(&found, FileType::RegularFile);
        if !is_link_refusal(cause, !is_file) {
            return Err(tree.not_made(act, &entry.path(), cause));
        }
        // A user who does not own a file may be refused a link to it alone (proc(5), protected_hardlinks).
        let of_all = match cause {
            Errno::NOTSUP | Errno::NOSYS => is_file,
            Errno::PERM => is_file && found.st_uid == user::uid(),
            _ => false,
        };
        fidelity.note(Loss::HardLink, cause, of_all, &entry.path())?;
        self.copy(entry, (&target, first.1), &found, hold)
    }

    /// Makes a copy of what is staged as `first`, as which it was `found`; whether the volume takes it.
    fn copy(
        &mut self,
        entry: &Entry,
        first: (&OwnedFd, &[u8]),
        found: &Stat,
        hold: &mut Hold<'_, Task>,
    ) -> Result<bool> {
        let is_directory = |source| fs::fstat(source).is_ok_and(|it| is_type(&it, FileType::Directory));
        let has_source = self.shared.source.is_some_and(is_directory);
        let mtime = self.shared.times.then(|| Time::of(found));
        let (mode, uid, gid) = (found.st_mode & 0o7777, found.st_uid, found.st_gid);
        let staged = Meta { mode, uid, gid, mtime, xattrs: None };
        let meta = if has_source { entry.meta.clone() } else { staged };
        let (dir, name) = (Arc::clone(&entry.dir), entry.name.clone());
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => {
                let target = fs::readlinkat(first.0, first.1, Vec::new());
                let target = target.context("read link", || self.named_entry(entry))?;
                self.symlink(&Entry { dir, name, meta, _charge: None }, target.as_bytes(), hold)
                    .map(|()| true)
            }
            FileType::Fifo => self.fifo(&Entry { dir, name, meta, _charge: None }, hold),
            _ => {
                let size = found.st_size as u64;
                let file = FileJob { dir, name, meta, size, stored: size, _charge: None };
                self.shared.progress.file_found(size);
                if self.reusable(&file)? {
                    return Ok(true);
                }
                let (source, xattrs) = if has_source {
                    self.open_source(&file)?
                } else {
                    self.open_staged(&file, first, found)?
                };
                let target = self.create(&file, xattrs, hold)?;
                // It is listed as a link to what it is a copy of.
                self.copy_data_only(&file, &source, Some(&target.fd), &mut Digester::default())?;
                self.finish(&file, target).map(|()| true)
            }
        }
    }

    /// Opens a staged file to be read: also one that its owner may not read, where that is us.
    fn open_staged(
        &self,
        file: &FileJob,
        (directory, name): (&OwnedFd, &[u8]),
        found: &Stat,
    ) -> Result<(OwnedFd, Option<Box<Xattrs>>)> {
        let open = || openat(directory.as_fd(), name, OFlags::RDONLY, Mode::empty());
        let mode = found.st_mode & 0o7777;
        let opened = match open() {
            Err(Errno::ACCESS) if change_mode(directory.as_fd(), name, mode | 0o400).is_ok() => {
                let opened = open();
                let closed = change_mode(directory.as_fd(), name, mode);
                closed.context("change mode of", || self.named(file))?;
                opened
            }
            opened => opened,
        };
        let fd = opened.context("open what it links to for", || self.named(file))?;
        let xattrs = self.shared.fidelity.read_xattrs(&fd, || self.source_path(file), || file.path())?;
        Ok((fd, xattrs))
    }

    /// Makes an entry without data; it replaces what an earlier run left. The inner result is the call's.
    fn make(
        &self,
        entry: &Entry,
        hold: &mut Hold<'_, Task>,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<rustix::io::Result<()>> {
        let (name, path) = (&*entry.name, || self.named_entry(entry));
        let directory = self.shared.tree.open(&entry.dir)?;
        if entry.dir.found(name).is_some() {
            remove_tree(directory.as_fd(), name).context("remove", path)?;
            entry.dir.settled(name);
        }
        entry.dir.mark_changed();
        let creator = self.creator(&entry.dir, &entry.meta);
        let attempt = || create_as(creator, || make(directory.as_fd(), name));
        let mut made = attempt();
        if made == Err(Errno::EXIST) {
            // Made before the server forgot the directory.
            self.shared.tree.make_way(&entry.dir, directory.as_fd(), name)?;
            made = attempt();
        }
        hold.created();
        Ok(made)
    }

    fn finish_special(&self, entry: &Entry, is_link: bool) -> Result<()> {
        let directory = self.shared.tree.open(&entry.dir)?;
        let (path, creator) = (|| entry.path(), self.creator(&entry.dir, &entry.meta));
        // As its owner: the server was asked about that user already.
        as_owner(creator, || {
            self.shared.fidelity.finish_special(directory.as_fd(), &entry.name, &entry.meta, is_link, path)
        })
    }
}
