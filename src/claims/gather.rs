//! Moving what a stale holder may hold open into directories that it does not know, level by level.
//!
//! Idempotent: the next holder goes on where this one was interrupted.

use rustix::io::Errno;

use super::io::Files;
use super::store::{Claim, ClaimStore, Sealing};
use super::takeover::{ISOLATED, TRIES, is_publishing};
use crate::volume::records::{ASIDE, ManifestRef, OFFERED, Staged, TREE, to_bytes};

/// What is left to do while the entries of directories are moved one by one.
enum MoveStep<D> {
    /// The directory `name`.
    Enter { from: D, to: D, volume: Option<D>, name: Box<[u8]> },
    /// It is empty.
    Leave { from: D, name: Box<[u8]> },
}

impl<F: Files> ClaimStore<'_, F> {
    /// Moves what is in `parts` of our claim to a new directory, which then is what is sealed.
    pub(super) async fn gather(
        &self,
        claim: &Claim<F::Dir>,
        parts: &[(&[u8], Option<Staged>)],
    ) -> rustix::io::Result<()> {
        let sealing = match parts.iter().any(|(part, _)| is_publishing(part)) {
            true => Sealing::Publishing,
            false => Sealing::Sealed,
        };
        let isolated = ISOLATED[sealing as usize];
        let fresh = self.files.ensure(&claim.dir, isolated).await?;
        // First: whichever part is left after a kill says what it belongs to.
        if let Some(staged) = parts.iter().find_map(|(_, staged)| staged.as_ref()) {
            self.files.write(&fresh, Staged::FILE, &to_bytes(staged)).await?;
        }
        let tree = self.files.ensure(&fresh, TREE).await?;
        for (part, _) in parts.iter().filter(|(part, _)| *part != isolated.as_bytes()) {
            let wrapper = self.files.open_entry(&claim.dir, part).await?;
            self.move_part((&wrapper, TREE), &tree, Some(self.root)).await?;
            if parts.iter().any(|(_, staged)| staged.as_ref().is_some_and(Staged::is_upgrade)) {
                // What a stale holder still takes from the volume must not get there any more.
                let aside = self.files.ensure(&fresh, ASIDE).await?;
                self.move_part((&wrapper, ASIDE), &aside, None).await?;
            }
            for name in [ManifestRef::STAGED, OFFERED] {
                self.move_whole((&wrapper, name), &fresh).await?;
            }
            self.remove_part(claim, part).await?;
        }
        self.files.sync(&fresh).await?;
        self.rename_stage(claim, isolated, sealing.name()).await?;
        self.files.sync(&claim.dir).await
    }

    /// Removes a contested directory. A stale holder may still ask whether it is there, which makes something in it.
    async fn remove_part(&self, claim: &Claim<F::Dir>, part: &[u8]) -> rustix::io::Result<()> {
        for _ in 0..TRIES {
            match self.files.remove(&claim.dir, part).await {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                removed => return removed,
            }
        }
        Err(Errno::NOTEMPTY)
    }

    /// It does no harm to the volume, even if a stale holder has it open. A stale holder may have put it in its place.
    async fn move_whole(&self, (from, name): (&F::Dir, &str), to: &F::Dir) -> rustix::io::Result<()> {
        match self.files.rename(from, name.as_bytes(), to, name.as_bytes()).await {
            Err(Errno::NOENT) => Ok(()),
            moved => moved,
        }
    }

    /// Moves all of a contested directory to ours, until the old one can be removed: a stale replica that was taking
    /// over, too, may still move something into it.
    async fn move_part(
        &self,
        (wrapper, name): (&F::Dir, &str),
        to: &F::Dir,
        volume: Option<&F::Dir>,
    ) -> rustix::io::Result<()> {
        for _ in 0..TRIES {
            match self.files.open(wrapper, name).await {
                Ok(from) => self.move_entries(&from, to, volume.cloned()).await?,
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error),
            }
            match self.files.rmdir(wrapper, name.as_bytes()).await {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                removed => return removed,
            }
        }
        Err(Errno::NOTEMPTY)
    }

    /// Moves what is in `from` to `to`. A directory that the volume has too is one whose entries are
    /// published one by one: a new one takes its place, and its entries are moved likewise.
    async fn move_entries(
        &self,
        from: &F::Dir,
        to: &F::Dir,
        volume: Option<F::Dir>,
    ) -> rustix::io::Result<()> {
        let mut steps = Vec::new();
        self.move_level(from, to, volume.as_ref(), &mut steps).await?;
        while let Some(step) = steps.pop() {
            match step {
                MoveStep::Enter { from, to, volume, name } => {
                    let old = match self.files.open_entry(&from, &name).await {
                        Err(Errno::NOENT) => continue,
                        opened => opened?,
                    };
                    let new = self.files.open_entry(&to, &name).await?;
                    let there = match &volume {
                        Some(volume) => self.files.open_entry(volume, &name).await.ok(),
                        None => None,
                    };
                    steps.push(MoveStep::Leave { from, name });
                    self.move_level(&old, &new, there.as_ref(), &mut steps).await?;
                }
                MoveStep::Leave { from, name } => match self.files.rmdir(&from, &name).await {
                    // What was put there meanwhile is moved in another round.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// The same for one directory; those whose entries are moved one by one are added to `steps`.
    async fn move_level(
        &self,
        from: &F::Dir,
        to: &F::Dir,
        volume: Option<&F::Dir>,
        steps: &mut Vec<MoveStep<F::Dir>>,
    ) -> rustix::io::Result<()> {
        if let Some(volume) = volume {
            // What the earlier holder has moved there comes from directories that are removed after this.
            self.files.sync(volume).await?;
        }
        let names = match self.files.names(from).await {
            // A stale holder believes that all of it is published, and removes what is left.
            Err(Errno::NOENT | Errno::STALE) => Vec::new(),
            names => names?,
        };
        for name in names {
            if self.is_divided(from, to, volume, &name).await? {
                let volume = volume.cloned();
                steps.push(MoveStep::Enter { from: from.clone(), to: to.clone(), volume, name });
                continue;
            }
            match self.files.rename(from, &name, to, &name).await {
                // A stale holder has just published it.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the entries of a directory are moved one by one: then it is there in `to`, too.
    async fn is_divided(
        &self,
        from: &F::Dir,
        to: &F::Dir,
        volume: Option<&F::Dir>,
        name: &[u8],
    ) -> rustix::io::Result<bool> {
        if self.files.open_entry(to, name).await.is_ok() {
            return Ok(true);
        }
        let Some(volume) = volume else { return Ok(false) };
        if self.files.open_entry(volume, name).await.is_err() {
            return Ok(false);
        }
        match self.files.open_entry(from, name).await {
            Ok(model) => match self.files.make_like(to, name, &model).await {
                Ok(()) | Err(Errno::EXIST) => Ok(true),
                Err(error) => Err(error),
            },
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
