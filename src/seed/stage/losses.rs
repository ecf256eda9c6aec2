//! What a volume does not keep of a seed: counted by kind, with the first names, and said in one warning.
//!
//! - `losses.note(Loss::Time, path, errno)?` from any thread, `path` as it is staged. Under `--strict` it is
//!   the error that ends the seed with 77; else it is counted and the seed goes on.
//! - `lost.add(Loss::Time, path, 1)` is the same without a refusal to tell of, for what `--strict` lets pass.
//! - `losses.lost()` is handed up; `+=` adds what a mount, an earlier run or a second volume lost.
//! - A new kind is a variant of [`Loss`] and its line in [`Loss::words`].

use std::fmt;
use std::ops::AddAssign;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;
use crate::seed::source::entry::Naming;
use crate::seed::stage::owner::{Owner, spelled};

/// Names that are kept of each kind.
const MAX_NAMES: usize = 3;

/// A kind of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Loss {
    /// Another owner or group than it should have.
    Owner,
    /// Another mode.
    Mode,
    /// Another time.
    Time,
    /// An extended attribute that is not there.
    Xattr,
    /// A program's capabilities (`security.capability`), without which it will fail.
    Capability,
    /// A second name that became a copy.
    HardLink,
    /// A FIFO that was left out.
    Fifo,
    /// A mount below the volume of which something was left out.
    Mount,
    /// What was left out since it belongs where this user may not write.
    LeftOut,
    /// What was left out since something else is mounted in its place.
    Mounted,
    /// A file of the volume that could not be replaced.
    Unreplaced,
}

/// How a kind of loss is told.
struct Words {
    /// What was tried, as errors begin.
    act: &'static str,
    /// What happened, in front of the count.
    before: &'static str,
    /// What is counted: one, and many.
    counted: [&'static str; 2],
    /// What can be done under `--strict`.
    help: &'static str,
}

impl Loss {
    /// Every kind, in the order in which they are told.
    const ALL: [Loss; 11] = [
        Loss::Capability,
        Loss::Owner,
        Loss::Mode,
        Loss::Time,
        Loss::Xattr,
        Loss::HardLink,
        Loss::Fifo,
        Loss::Mount,
        Loss::LeftOut,
        Loss::Mounted,
        Loss::Unreplaced,
    ];

    /// What was tried, as errors begin.
    pub(crate) fn act(self) -> &'static str {
        self.words().act
    }

    fn words(self) -> Words {
        let words = |act, before, counted, help| Words { act, before, counted, help };
        let entries = ["entry", "entries"];
        match self {
            Loss::Owner => words(
                "change owner of",
                "the owner of",
                entries,
                "it takes CAP_CHOWN, a mapped UID in a user namespace, and a volume that lets root give files away (NFS: no_root_squash); or give --chown an owner that the volume takes",
            ),
            Loss::Mode => words(
                "change mode of",
                "the mode of",
                entries,
                "it takes CAP_FOWNER for files of others, and a volume that keeps modes; or give the source the modes that the mount gives",
            ),
            Loss::Time => words("set time of", "the time of", entries, "--no-times leaves times out"),
            Loss::Xattr => words(
                "set extended attribute of",
                "extended attributes:",
                ["attribute", "attributes"],
                "remove the attribute from the source",
            ),
            Loss::Capability => words(
                "set capabilities of",
                "file capabilities, without which a program may fail, of",
                ["program", "programs"],
                "allow CAP_SETFCAP, on a volume with extended attributes",
            ),
            Loss::HardLink => words(
                "create hard link",
                "hard links, made copies:",
                ["entry", "entries"],
                "replace the link in the source by a copy",
            ),
            Loss::Mount => words(
                "publish to",
                "mounts in the volume that lack a part of the seed:",
                ["mount", "mounts"],
                "mount it writable for the container that seeds, or leave out what the seed has below it (--exclude)",
            ),
            Loss::LeftOut => words(
                "publish",
                "left out where nothing may be written:",
                entries,
                "mount it writable for the container that seeds, or leave it out with --exclude",
            ),
            Loss::Mounted => words(
                "publish",
                "left out where something else is mounted:",
                entries,
                "unmount it, or leave it out with --exclude",
            ),
            Loss::Unreplaced => words(
                "publish",
                "not replaced, in use or protected on the volume:",
                ["file", "files"],
                "stop what has it open, and start again",
            ),
            Loss::Fifo => words("create FIFO", "left out:", ["FIFO", "FIFOs"], "remove it from the source"),
        }
    }
}

/// The losses of one seed while it is made.
#[derive(Debug)]
pub(crate) struct Losses {
    strict: bool,
    naming: Naming,
    lost: Mutex<Lost>,
}

impl Losses {
    /// None yet. Under `strict` the first one is an error.
    pub(crate) fn new(strict: bool, naming: Naming) -> Losses {
        Losses { strict, naming, lost: Mutex::default() }
    }

    /// How the entries are named.
    pub(crate) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Counts a loss of the entry at `path` of the stage, refused with `cause`; without one, the call succeeded and
    /// had no effect.
    ///
    /// # Errors
    /// Exit 77 under `--strict`.
    pub(crate) fn note(&self, loss: Loss, path: &[u8], cause: impl Into<Option<Errno>>) -> Result<()> {
        let cause = cause.into();
        if self.strict {
            return Err(self.error(loss, path, cause));
        }
        let path = self.naming.seed_path(path);
        let cause = cause.map(|cause| cause.to_string());
        tracing::debug!(path = path.quoted(), cause, "refused: {}", loss.words().act);
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).add(loss, &path, 1);
        Ok(())
    }

    /// Counts `count` losses that are no error under `--strict` either, the entry at `path` among them.
    pub(crate) fn tell(&self, loss: Loss, path: &[u8], count: u64) {
        let path = self.naming.seed_path(path);
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).add(loss, &path, count);
    }

    /// Whose something is that lost its owner.
    pub(crate) fn tell_owner(&self, owner: Owner) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).add_owner(owner);
    }

    /// What was lost so far.
    pub(crate) fn lost(&self) -> Lost {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn error(&self, loss: Loss, path: &[u8], cause: Option<Errno>) -> Error {
        let Words { act, help, .. } = loss.words();
        let entry = self.naming.entry(path);
        let error = match cause {
            Some(cause) => Error::os(act, entry, cause).exit(Exit::Permission),
            None => Error::new(Exit::Permission, act, "the call succeeded and had no effect").on(entry),
        };
        error.help(format!("{help}; without --strict what the volume does not keep is counted in a warning"))
    }
}

/// What was lost: how many of each kind, and the first names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    tallies: Vec<Tally>,
    /// Whose it is that lost its owner: of more than a few, the first.
    owners: Vec<Owner>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tally {
    loss: Loss,
    count: u64,
    first: Vec<Box<[u8]>>,
}

impl Lost {
    /// Counts `count` losses, of which the entry at `path` of the seed is one.
    pub(crate) fn add(&mut self, loss: Loss, path: &[u8], count: u64) {
        let tally = self.tally(loss);
        tally.count = tally.count.saturating_add(count);
        if tally.first.len() < MAX_NAMES && !tally.first.iter().any(|name| **name == *path) {
            tally.first.push(path.into());
        }
    }

    /// Whose something is that lost its owner.
    pub(crate) fn add_owner(&mut self, owner: Owner) {
        if self.owners.len() < MAX_NAMES && !self.owners.contains(&owner) {
            self.owners.push(owner);
        }
    }

    /// How many of one kind.
    pub(crate) fn count(&self, loss: Loss) -> u64 {
        self.tallies.iter().find(|tally| tally.loss == loss).map_or(0, |tally| tally.count)
    }

    /// How many of all kinds together.
    pub(crate) fn total(&self) -> u64 {
        self.tallies.iter().fold(0, |total, tally| total.saturating_add(tally.count))
    }

    /// Whether nothing was lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.tallies.is_empty()
    }

    fn tally(&mut self, loss: Loss) -> &mut Tally {
        let at = self.tallies.iter().position(|tally| tally.loss == loss).unwrap_or_else(|| {
            self.tallies.push(Tally { loss, count: 0, first: Vec::new() });
            self.tallies.len() - 1
        });
        &mut self.tallies[at]
    }
}

impl AddAssign for Lost {
    fn add_assign(&mut self, other: Lost) {
        for owner in other.owners {
            self.add_owner(owner);
        }
        for Tally { loss, count, first } in other.tallies {
            let tally = self.tally(loss);
            tally.count = tally.count.saturating_add(count);
            let room = MAX_NAMES.saturating_sub(tally.first.len());
            tally.first.extend(first.into_iter().take(room));
        }
    }
}

/// `the owner of 2 entries ('a', 'b'); left out: 1 FIFO ('p')`.
impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for loss in Loss::ALL {
            let Some(Tally { count, first, .. }) = self.tallies.iter().find(|tally| tally.loss == loss)
            else {
                continue;
            };
            let Words { before, counted: [one, many], .. } = loss.words();
            let names: Vec<String> = first.iter().map(|path| path.quoted()).collect();
            let more = if *count > first.len() as u64 { ", …" } else { "" };
            let counted = if *count == 1 { one } else { many };
            write!(f, "{between}{before} {count} {counted} ({}{more})", names.join(", "))?;
            if loss == Loss::Owner && !self.owners.is_empty() {
                let owners: Vec<String> = self.owners.iter().copied().map(spelled).collect();
                write!(f, ", now of {}", owners.join(" and "))?;
            }
            between = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_with_their_count_and_their_first_names() {
        let mut lost = Lost::default();
        assert_eq!((lost.to_string().as_str(), lost.is_empty()), ("", true));
        lost.add(Loss::Fifo, b"p\n", 1);
        for name in ["a", "b", "c", "d"] {
            lost.add(Loss::Owner, name.as_bytes(), 1);
        }
        lost.add_owner((33, 34));
        lost.add_owner((33, 34));
        let told = "the owner of 4 entries ('a', 'b', 'c', …), now of 33:34; left out: 1 FIFO ('p\\n')";
        assert_eq!(lost.to_string(), told);
        assert_eq!((lost.total(), lost.count(Loss::Owner)), (5, 4));
    }

    #[test]
    fn what_a_mount_lost_is_added() {
        let (mut lost, mut of_mount) = (Lost::default(), Lost::default());
        lost.add(Loss::Mode, b"a", 1);
        of_mount.add(Loss::Mode, b"m/b", 2);
        of_mount.add(Loss::Capability, b"m/c", 1);
        lost += of_mount;
        assert_eq!(
            lost.to_string(),
            "file capabilities, without which a program may fail, of 1 program ('m/c'); \
             the mode of 3 entries ('a', 'm/b', …)"
        );
    }

    #[test]
    fn every_kind_is_told() {
        for loss in Loss::ALL {
            let mut lost = Lost::default();
            lost.add(loss, b".", 1);
            assert!(lost.to_string().ends_with("('.')"), "{lost}");
        }
    }
}
