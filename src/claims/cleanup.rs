//! Removing what is left of claims that are over, so that a seeded volume holds a record and nothing else.
//!
//! What stays is in nobody's way: everything here does as much as it can and says whether all of it is
//! done. On FUSE and NFS a file that somebody has open is renamed instead of removed, and keeps its
//! directory until it is closed; a stale holder may still put files into what was its
//! stage. So a replica that met other claims removes them once more when it is done.

use rustix::io::Errno;

use super::io::{Call, Files};
use super::store::{BUILDING, CLAIMS, Claim, ClaimStore, HEARTBEAT, HOLDER, PUBLISHING, State};
use crate::volume::Privacy;
use crate::volume::records::{Staged, TREE};

/// Ends the names of claims that were never finished, and that somebody is removing.
const GONE: &[u8] = b".gone";

impl<F: Files> ClaimStore<'_, F> {
    /// Removes the claim and all that is left in it; whether nothing is.
    pub(crate) async fn drop_claim(&self, claim: &Claim<F::Dir>) -> bool {
        if !claim.inherited && self.remove_usual(claim).await.is_ok() {
            return true;
        }
        let removed = self.remove_claim(&claim.claims, claim.epoch, &claim.dir).await;
        removed & self.remove_places(&claim.state).await
    }

    /// Removes what is left of the claims up to `recorded`, whose holder has recorded the volume as
    /// complete: they are over. Whether nothing is left.
    pub(crate) async fn tidy(&self, recorded: u64) -> bool {
        let state = match self.state().await {
            Ok(Some(State { dir, privacy: Privacy::Private })) => dir,
            Ok(_) => return true,
            Err(_) => return false,
        };
        let claims = match self.files.open(&state, CLAIMS).await {
            Ok(claims) => claims,
            Err(error) => return is_gone(error) && self.remove_places(&state).await,
        };
        let Ok(epochs) = self.epochs(&state).await else { return false };
        let mut removed = true;
        for epoch in epochs.into_iter().filter(|epoch| *epoch <= recorded) {
            removed &= match self.files.open(&claims, &epoch.to_string()).await {
                Ok(dir) => self.remove_claim(&claims, epoch, &dir).await,
                Err(error) => is_gone(error),
            };
        }
        removed & self.remove_places(&state).await
    }

    async fn remove_claim(&self, claims: &F::Dir, epoch: u64, dir: &F::Dir) -> bool {
        for name in self.files.names(dir).await.unwrap_or_default() {
            let _ = self.files.remove(dir, &name).await;
        }
        self.files.rmdir(claims, epoch.to_string().as_bytes()).await.map_or_else(is_gone, |()| true)
    }

    /// Removes the directories that claims are made and kept in, unless others are in them; whether nothing is
    /// left to do.
    async fn remove_places(&self, state: &F::Dir) -> bool {
        let claims = self.files.rmdir(state, CLAIMS.as_bytes()).await.map_or_else(is_over, |()| true);
        let building = match self.files.rmdir(state, BUILDING.as_bytes()).await {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                self.clear_building(state).await;
                true
            }
            removed => removed.map_or_else(is_over, |()| true),
        };
        claims && building
    }

    /// Removes what is in a claim as a rule once the volume is recorded as complete, without a look at what is there.
    async fn remove_usual(&self, claim: &Claim<F::Dir>) -> rustix::io::Result<()> {
        let files = self.files;
        let published = files.open(&claim.dir, PUBLISHING).await?;
        let removed = files.together([
            Call::Unlink(&published, Staged::FILE),
            Call::Rmdir(&published, TREE),
            Call::Unlink(&claim.dir, HEARTBEAT),
            Call::Unlink(&claim.dir, HOLDER),
            Call::Rmdir(&claim.state, BUILDING),
            // Whoever gets the lock now finds the record.
            Call::Unlock,
        ]);
        removed.await.into_iter().try_for_each(|removed| removed.map(drop))?;
        files.rmdir(&claim.dir, PUBLISHING.as_bytes()).await?;
        files.rmdir(&claim.claims, claim.epoch.to_string().as_bytes()).await?;
        files.rmdir(&claim.state, CLAIMS.as_bytes()).await
    }

    /// Removes claims that were never finished. Each is renamed first: a replica that is still at it
    /// then fails to place it, instead of placing half of it.
    async fn clear_building(&self, state: &F::Dir) {
        let files = self.files;
        let Ok(building) = files.open(state, BUILDING).await else { return };
        for name in files.names(&building).await.unwrap_or_default() {
            let away = if name.ends_with(GONE) { name.to_vec() } else { [&name[..], GONE].concat() };
            if away != *name {
                let _ = files.rename(&building, &name, &building, &away).await;
            }
            let _ = files.remove(&building, &away).await;
        }
        let _ = files.rmdir(state, BUILDING.as_bytes()).await;
    }
}

/// Somebody else has removed it.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::STALE)
}

/// The same, or another replica's is in it, which looks after it.
fn is_over(error: Errno) -> bool {
    is_gone(error) || matches!(error, Errno::NOTEMPTY | Errno::EXIST)
}
