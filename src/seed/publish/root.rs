//! The volume's root: what it becomes, and what it passes on to what is seeded.
//!
//! Changed through its descriptor, after the last move: a run that resumes publishing does it again.

use std::os::fd::{AsFd, BorrowedFd};

use crate::cli::config::VolumeConfig;
use crate::error::{Context, Result};
use crate::seed::source::entry::{Meta, Naming};
use crate::seed::stage::inheritance::Inheritance;
use crate::seed::stage::losses::Losses;
use crate::seed::stage::metadata::Fidelity;
use crate::seed::stage::owner::spelled;
use crate::seed::{StageJob, TREE, open_directory};
use crate::volume::records::Root;
use crate::volume::{Volume, user};

impl StageJob<'_> {
    /// Why the tree in an earlier stage is of no use: it passes on something else than the root does now.
    pub(crate) fn inherited_otherwise(
        &self,
        stage: BorrowedFd<'_>,
        inherited: &Inheritance,
    ) -> Option<&'static str> {
        let tree = open_directory(stage, TREE).ok()?;
        let had = Inheritance::of(tree.as_fd(), true).ok()?;
        (had != *inherited).then_some("what the root passes on is another ACL or group")
    }

    /// What the root becomes by `--chown` or, where it was empty, by the source.
    pub(crate) fn root(&self, source: Option<Meta>, empty: bool, inherited: &Inheritance) -> Option<Root> {
        let of_seed = source.filter(|_| empty).and_then(|meta| of_seed(meta, inherited));
        let Some((uid, gid)) = self.config.owner else { return of_seed };
        let (mode, mtime) = of_seed.map_or((None, None), |root| (root.mode, root.mtime));
        Some(Root { asked: true, uid, gid, mode, mtime })
    }
}

/// What the root of a volume passes on. Its group only where nobody says whose the seed is: not `--chown`, and not root,
/// who keeps the source's owners.
///
/// # Errors
/// When it cannot be looked at.
pub(crate) fn inherited(volume: &Volume, config: &VolumeConfig) -> Result<Inheritance> {
    let with_group = config.owner.is_none() && !user::is_root();
    Inheritance::of(volume.root(), with_group).context("stat", volume.path())
}

/// What an empty root that passes this on becomes of what the seed has for it.
pub(crate) fn of_seed(source: Meta, inherited: &Inheritance) -> Option<Root> {
    // One that passes its group on stays the group's.
    if inherited.group().is_some() {
        return None;
    }
    // Rights that the root passes on are its own, too: the seed's mode could take them away.
    let mode = inherited.is_nothing().then_some(source.mode);
    let mtime = source.mtime.map(|time| (time.seconds, time.nanoseconds));
    Some(Root { asked: false, uid: source.uid, gid: source.gid, mode, mtime })
}

/// Gives the root of a volume that was seeded before volseed the owner that `--chown` asks for.
///
/// # Errors
/// Exit 77 under `--strict` where it is refused.
pub(crate) fn own_adopted_root(volume: &Volume, config: &VolumeConfig) -> Result<()> {
    let Some((uid, gid)) = config.owner else { return Ok(()) };
    let naming = Naming::new(volume.path(), volume.kind()?);
    let fidelity = Fidelity::new(Losses::new(config.strict, naming), None);
    finish_root(volume, &Root { asked: true, uid, gid, mode: None, mtime: None }, &fidelity)?;
    let lost = fidelity.lost();
    if !lost.is_empty() {
        tracing::warn!(
            volume = %volume.path().display(),
            lost = lost.total(),
            "the volume does not keep what --chown asks for: {lost}"
        );
    }
    Ok(())
}

/// Gives the root of a volume what it becomes. Whose it is and may not be is told.
///
/// # Errors
/// Exit 77 under `--strict` where something is refused.
pub(crate) fn finish_root(volume: &Volume, wanted: &Root, fidelity: &Fidelity) -> Result<()> {
    if let Some(owner) = fidelity.finish_root(volume.root(), wanted)? {
        tracing::warn!(
            volume = %volume.path().display(),
            owner = spelled(owner),
            chown = spelled((wanted.uid, wanted.gid)),
            "the volume's root belongs neither to root:root nor to the --chown owner: left as it is"
        );
    }
    Ok(())
}
