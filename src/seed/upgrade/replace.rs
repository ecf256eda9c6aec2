//! Replacing files: what is staged takes the place of what the volume has.
//!
//! Linux takes one lock for a whole file system while a rename goes from one directory to another (`lock_rename` in
//! `fs/namei.c`): on a network, one round trip would follow the other. A link, and a rename within a directory, take
//! none. So there a staged file first gets a second name beside its place, and is a candidate for it. A stale holder can
//! make one, too; but then it hears that its claim is not held. The candidates that it made before are removed by the
//! holder that fenced it, so that no rename finds one any more. Where the volume refuses any of that, the file is
//! renamed out of the claim.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Gid, Stat, Uid};
use rustix::io::Errno;

use super::apply::Applying;
use super::aside::twice;
use super::candidate::candidate_name;
use super::differences::Leaf;
use super::look::{At, LeftOut};
use super::matrix::Action;
use super::walk::Visitor;
use crate::error::{Context, Result};
use crate::seed::manifest::compare::has_attrs;
use crate::seed::manifest::line::Listed;
use crate::seed::source::entry::Time;
use crate::volume::{change_mode, is_type, stat_entry};

/// A staged file that is to take the place of what the volume has.
pub(super) struct Replacing<'l> {
    leaf: &'l Leaf,
    /// That, as it was when its directory was listed.
    found: Option<&'l Stat>,
    from: Arc<OwnedFd>,
    path: Vec<u8>,
}

impl Applying<'_> {
    /// Prepares what is staged for the place of `found`, which is the old seed's. Nothing where it is not staged.
    pub(super) fn prepare<'l>(
        &self,
        leaf: &'l Leaf,
        found: Option<&'l Stat>,
        path: Vec<u8>,
    ) -> Result<Option<Replacing<'l>>> {
        let Some(from) = self.staged_parent(&path)? else { return Ok(None) };
        let replacing = Replacing { leaf, found, from, path };
        let is_prepared = !self.may_need_more(leaf, found) || self.adjust(&replacing)?;
        Ok(is_prepared.then_some(replacing))
    }

    /// Whether more is needed than the rename, by what is listed: otherwise what is staged need not be looked at.
    fn may_need_more(&self, leaf: &Leaf, found: Option<&Stat>) -> bool {
        let (Some(found), Some(new)) = (found, &leaf.new) else { return true };
        let unkept = self.upgrade.unkept();
        let Listed::File { size, time: Some(time), .. } = new.listed else { return true };
        let has_its_time = unkept.times || found.st_mtime == time.seconds;
        let has_its_attrs = new.attrs.is_some_and(|attrs| has_attrs(attrs, found, unkept));
        found.st_nlink > 1
            || found.st_size as u64 == size && has_its_time
            || self.keeps_attrs(leaf) && !(has_its_attrs && !unkept.modes && !unkept.owners)
    }

    /// Whether both seeds have it with the same owner and mode: then the volume's stay.
    fn keeps_attrs(&self, leaf: &Leaf) -> bool {
        leaf.old.as_ref().and_then(|old| old.attrs) == leaf.new.as_ref().and_then(|new| new.attrs)
    }

    /// Changes what is staged so that it can take the place of `found`. Whether it is staged, and has not got that place.
    fn adjust(&self, Replacing { leaf, found, from, path }: &Replacing<'_>) -> Result<bool> {
        let (name, full) = (&*leaf.name, || self.full(path));
        let Some(staged) = self.staged(path)? else { return Ok(false) };
        let Some(there) = *found else { return Ok(true) };
        if is_same(there, &staged) {
            return Ok(false);
        }
        (self.site.go_on)()?;
        if self.keeps_attrs(leaf) {
            self.carry_over(from.as_fd(), name, &staged, there).context("change staged", full)?;
        }
        if (there.st_size, there.st_mtime) == (staged.st_size, staged.st_mtime) {
            // A server's ETag is made of size and time, and an opcode cache compares times alone.
            let time = Time { seconds: staged.st_mtime + 1, nanoseconds: 0 };
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            fs::utimensat(from, name, &time.timestamps(), flags).context("set time of", full)?;
        }
        Ok(true)
    }

    /// Whether a run before this one was killed after it had placed what is staged: the user may have changed it since.
    pub(super) fn is_placed(&self, path: &[u8], found: Option<&Stat>) -> Result<bool> {
        let Some(there) = found.filter(|there| there.st_nlink > 1) else { return Ok(false) };
        Ok(self.staged(path)?.is_some_and(|staged| is_same(there, &staged)))
    }

    /// Where only the user has changed owner or mode, the user's stay.
    fn carry_over(
        &self,
        from: BorrowedFd<'_>,
        name: &[u8],
        staged: &Stat,
        there: &Stat,
    ) -> rustix::io::Result<()> {
        let (owner, mode) = ((there.st_uid, there.st_gid), there.st_mode & 0o7777);
        if is_type(staged, FileType::Symlink) || is_type(there, FileType::Symlink) {
            return Ok(());
        }
        if (staged.st_uid, staged.st_gid) != owner {
            let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
            match fs::chownat(from, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        match staged.st_mode & 0o7777 == mode {
            true => Ok(()),
            false => change_mode(from, name, mode),
        }
    }

    /// Gives each its place.
    pub(super) fn place_all(&self, at: At<'_>, replacing: &[Replacing<'_>]) -> Result<()> {
        let placed = match self.site.is_remote {
            true => self.place_candidates(at, replacing)?,
            false => vec![false; replacing.len()],
        };
        for (one, _) in replacing.iter().zip(placed).filter(|(_, is_placed)| !is_placed) {
            if self.site.is_remote { self.look_and_place(at, one)? } else { self.place(at, one)? }
        }
        Ok(())
    }

    /// Gives each a second name beside its place, and then that the place; which have it. The others were refused that,
    /// or have changed meanwhile.
    fn place_candidates(&self, at: At<'_>, replacing: &[Replacing<'_>]) -> Result<Vec<bool>> {
        let (mut may_go_on, mut done) = (Ok(()), vec![false; replacing.len()]);
        for (one, is_linked) in replacing.iter().zip(&mut done) {
            may_go_on = may_go_on.and_then(|()| (self.site.go_on)());
            *is_linked = may_go_on.is_ok() && self.link(at, one);
        }
        let is_held = done.contains(&true) && self.held.ask(self.site.stage, self.site.epoch);
        for (one, is_done) in replacing.iter().zip(&mut done).filter(|(_, is_linked)| **is_linked) {
            may_go_on = may_go_on.and_then(|()| (self.site.go_on)());
            let (candidate, name) = (self.candidate(one), &*one.leaf.name);
            *is_done = is_held
                && may_go_on.is_ok()
                && one.is_unchanged(at)
                && fs::renameat(at.directory, &*candidate, at.directory, name).is_ok();
            if !*is_done {
                unlink(at, &candidate);
            }
        }
        may_go_on?;
        let placed = done.iter().filter(|is_done| **is_done).count();
        if placed > 0 {
            // Before the other name goes: both could be lost.
            self.sync(at)?;
            self.done().replaced += placed as u64;
        }
        for (one, _) in replacing.iter().zip(&done).filter(|(_, is_done)| **is_done) {
            // One that stays goes with the stage.
            let _ = fs::unlinkat(&one.from, &*one.leaf.name, AtFlags::empty());
        }
        Ok(done)
    }

    fn candidate(&self, one: &Replacing<'_>) -> Box<[u8]> {
        candidate_name(self.site.epoch, &one.leaf.name)
    }

    /// Gives one a second name beside its place; whether the volume lets us.
    fn link(&self, at: At<'_>, one: &Replacing<'_>) -> bool {
        let candidate = self.candidate(one);
        match fs::linkat(&one.from, &*one.leaf.name, at.directory, &*candidate, AtFlags::empty()) {
            Ok(()) => return true,
            // Hard links are refused, or this one (link(2), proc(5): protected_hardlinks).
            Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK | Errno::XDEV | Errno::ACCESS) => {}
            // It may have been made, and only the answer lost.
            Err(_) => unlink(at, &candidate),
        }
        false
    }

    /// Decides once more on what is there by now, and renames one out of the claim if it is still to be replaced.
    fn look_and_place(&self, at: At<'_>, one: &Replacing<'_>) -> Result<()> {
        let found = stat_entry(at.directory, &one.leaf.name).context("stat", || self.full(&one.path))?;
        let decided = self.upgrade.decide(at, one.leaf, found.as_ref())?;
        match decided.action {
            Action::Replace => self.place(at, one),
            _ => self.leaves(at, &[decided]),
        }
    }

    /// Renames one out of the claim.
    fn place(&self, at: At<'_>, Replacing { leaf, from, path, .. }: &Replacing<'_>) -> Result<()> {
        let name = &*leaf.name;
        (self.site.go_on)()?;
        match twice(&|| fs::renameat(from, name, at.directory, name)) {
            Ok(()) => self.done().replaced += 1,
            Err(Errno::NOENT) => {}
            // The file is open on an SMB server, or another user's in a directory with the sticky bit.
            Err(Errno::BUSY | Errno::TXTBSY | Errno::ACCESS | Errno::PERM | Errno::ISDIR) => {
                if self.refused(at, name, path)? == LeftOut::Closed {
                    self.offer(path)?;
                }
            }
            Err(error) => return Err(error).context("publish", || self.full(path)),
        }
        Ok(())
    }

    /// Replaces what the user has changed, which is kept.
    pub(super) fn replace_and_save(
        &self,
        at: At<'_>,
        leaf: &Leaf,
        found: Option<&Stat>,
        path: Vec<u8>,
    ) -> Result<()> {
        let Some(from) = self.staged_parent(&path)? else { return Ok(()) };
        let replacing = Replacing { leaf, found, from, path };
        if !self.adjust(&replacing)? {
            return Ok(());
        }
        let path = &replacing.path;
        if let Some(why) = self.upgrade.is_fixed(at, &leaf.name)? {
            self.left_out(path, why);
            return Ok(());
        }
        (self.site.go_on)()?;
        let mut made_room = false;
        if self.with_saved(|saved| saved.link(at.directory, &leaf.name, path))? {
            self.done().saved.push(path.as_slice().into());
        } else {
            made_room = self.set_aside(at, &leaf.name, path)?;
        }
        self.place(at, &replacing)?;
        if made_room { self.look_again(path, None) } else { Ok(()) }
    }
}

impl Replacing<'_> {
    /// Whether what was found is still there, as far as this client knows.
    fn is_unchanged(&self, at: At<'_>) -> bool {
        let of = |stat: &Stat| (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        let there = stat_entry(at.directory, &self.leaf.name).ok().flatten();
        there.as_ref().map(of) == self.found.map(of)
    }
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Removes a candidate, as far as possible: one that stays is removed by the next upgrade that looks here.
fn unlink(at: At<'_>, candidate: &[u8]) {
    let unlink = || fs::unlinkat(at.directory, candidate, AtFlags::empty());
    let _ = unlink().or_else(|error| if error == Errno::NOENT { Ok(()) } else { unlink() });
}
