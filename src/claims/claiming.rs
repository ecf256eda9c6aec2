//! Claiming the volume, and whether a claim still is ours.
//!
//! A claim is built whole in `tmp` and renamed to its number: each number has one owner. It counts only once a look
//! afterwards finds no higher one.

use rustix::io::Errno;

use super::beat::{Beat, Holder};
use super::io::{Call, Files};
use super::store::{BUILDING, CLAIMS, Claim, ClaimStore, Claimed, HEARTBEAT, HOLDER, MAX_EPOCH};
use crate::error::{Context, Result};
use crate::volume::foreign_state;
use crate::volume::records::{Public, to_bytes};

/// A claim that is to be placed, the directory that it was built in, and that of all claims.
struct Built<D> {
    building: D,
    dir: D,
    claims: rustix::io::Result<D>,
}

impl<F: Files> ClaimStore<'_, F> {
    /// Claims the volume as `holder`, whose number is not known yet, after the claim `judged` was found to
    /// be over and the record to be of the claim `recorded` (each 0 where there was none).
    ///
    /// # Errors
    /// When the claim cannot be made; the volume is then as it was.
    pub(crate) async fn claim(
        &self,
        state: &F::Dir,
        (judged, recorded): (u64, u64),
        mut holder: Holder,
    ) -> Result<Claimed<F::Dir>> {
        let counted = judged.max(recorded);
        if counted >= MAX_EPOCH {
            return Err(foreign_state(&self.state.path.join(Public::FILE), "no claim can follow its epoch"));
        }
        holder.epoch = counted + 1;
        let (epoch, nonce) = (holder.epoch, holder.nonce.clone());
        let Some(built) = self.build(state, &holder).await? else { return Ok(Claimed::Lost) };
        let Some((dir, claims)) = self.place(state, built, &holder).await? else {
            return Ok(Claimed::Lost);
        };
        let mut claim = Claim {
            epoch,
            dir,
            inherited: false,
            was_open: false,
            record: None,
            is_highest: false,
            older: Vec::new(),
            nonce,
            claims,
            state: state.clone(),
        };
        // Somebody slower may get a number that is free again: only the highest counts.
        let is_highest = self.verify(&mut claim).await?;
        Ok(if is_highest { Claimed::Won(claim) } else { Claimed::Superseded(claim) })
    }

    /// Whether `claim` is still ours, and the highest.
    ///
    /// # Errors
    /// When the volume cannot be asked.
    pub(crate) async fn holds(&self, claim: &mut Claim<F::Dir>) -> Result<bool> {
        let Some(state) = self.current(claim).await? else { return Ok(false) };
        let Some(found) = self.find(&state, claim.epoch).await? else { return Ok(false) };
        let ours = found.holder.is_some_and(|holder| holder.nonce == claim.nonce);
        let is_verified = ours && self.verify(claim).await?;
        // A record of our own that a hook is owed by does not end it.
        let is_owed = |record: &Public| record.epoch == claim.epoch && !record.is_complete();
        Ok(is_verified || ours && claim.is_highest && claim.record.as_ref().is_some_and(is_owed))
    }

    /// Builds a claim where nobody looks.
    async fn build(&self, state: &F::Dir, holder: &Holder) -> Result<Option<Built<F::Dir>>> {
        let path = self.state.path.join(BUILDING);
        let (holder_bytes, beat) = (to_bytes(holder), Beat::default().bytes());
        let building = self.own_building(state).await;
        let built = async {
            let building = building?;
            let dir = self.files.ensure(&building, &holder.nonce).await?;
            let (holder, beat) =
                (Call::Write(&dir, HOLDER, &holder_bytes), Call::Write(&dir, HEARTBEAT, &beat));
            let [holder, beat, claims] =
                self.files.together([holder, beat, Call::Ensure(state, CLAIMS)]).await;
            holder.and(beat)?;
            Ok(Built { building, dir, claims: claims.map(|made| made.expect("a directory is opened")) })
        };
        match built.await {
            // The replica that completed the volume just now has removed it.
            Err(Errno::NOENT | Errno::STALE) => {
                let _ = self.files.rmdir(state, CLAIMS.as_bytes()).await;
                Ok(None)
            }
            Err(Errno::NOTDIR | Errno::LOOP) => Err(foreign_state(&path, "not a directory")),
            Err(Errno::XDEV) => Err(foreign_state(&path, "another file system is mounted there")),
            built => built.map(Some).context("create claim in", path.as_path()),
        }
    }

    /// Renames what was built to its place. Whatever the rename says, what is there decides: an answer
    /// that was lost is asked for again, and then says that it failed.
    async fn place(
        &self,
        state: &F::Dir,
        Built { building, dir, claims }: Built<F::Dir>,
        holder: &Holder,
    ) -> Result<Option<(F::Dir, F::Dir)>> {
        let path = self.claim_path(holder.epoch);
        let name = holder.epoch.to_string();
        let renamed = async {
            let claims = claims?;
            self.own_claims(&claims).await?;
            self.files.rename(&building, holder.nonce.as_bytes(), &claims, name.as_bytes()).await?;
            Ok(claims)
        };
        let renamed = match renamed.await {
            Ok(claims) => return Ok(Some((dir, claims))),
            Err(error) => error,
        };
        if let Some(found) = self.find(state, holder.epoch).await?
            && found.holder.is_some_and(|there| there.nonce == holder.nonce)
            && let Ok(claims) = self.files.open(state, CLAIMS).await
        {
            return Ok(Some((dir, claims)));
        }
        let _ = self.files.remove(&building, holder.nonce.as_bytes()).await;
        // A quicker replica may be done already, and nothing else removes our claim.
        let _ = self.files.rmdir(state, BUILDING.as_bytes()).await;
        let _ = self.files.rmdir(state, CLAIMS.as_bytes()).await;
        match renamed {
            Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::STALE => Ok(None),
            Errno::NOTDIR | Errno::LOOP => {
                Err(foreign_state(&self.state.path.join(CLAIMS), "not a directory"))
            }
            error => Err(error).context("rename claim to", path.as_path()),
        }
    }

    /// Looks at the claims and the record: whether ours is the highest, and above the record's.
    pub(crate) async fn verify(&self, claim: &mut Claim<F::Dir>) -> Result<bool> {
        claim.is_highest = false;
        // Opened again: names in a directory that was opened long ago may be cached (nfs(5), `lookupcache`).
        let Some(state) = self.current(claim).await? else { return Ok(false) };
        let epochs = self.epochs(&state).await?;
        // After that, and opened again: a holder whose claim is gone by now has left its record.
        let Some(state) = self.state().await? else { return Ok(false) };
        claim.record = self.record(&state.dir).await?;
        claim.older = epochs.iter().copied().filter(|epoch| *epoch < claim.epoch).collect();
        claim.is_highest = epochs.last() == Some(&claim.epoch);
        let recorded = claim.record.as_ref().map_or(0, |record| record.epoch);
        Ok(claim.is_highest && recorded < claim.epoch)
    }

    /// The state directory, while it is the one that the claim was made in: a new one counts claims from 1.
    async fn current(&self, claim: &Claim<F::Dir>) -> Result<Option<F::Dir>> {
        let Some(state) = self.state().await? else { return Ok(None) };
        let same =
            self.none_if_missing(self.files.same(&state.dir, &claim.state).await, "stat", &self.state.path)?;
        let is_current = same == Some(true) && state.foreign().is_none();
        Ok(is_current.then_some(state.dir))
    }

    /// A rename of a record that reported failure though it was done.
    pub(super) async fn confirm_rename(
        &self,
        renamed: rustix::io::Result<()>,
        name: &str,
        bytes: &[u8],
    ) -> rustix::io::Result<()> {
        if renamed != Err(Errno::NOENT) {
            return renamed;
        }
        let Ok(Some(state)) = self.state().await else { return renamed };
        match self.files.read(&state.dir, name).await {
            Ok(there) if there == bytes => Ok(()),
            _ => renamed,
        }
    }
}
