//! What a holder renames out of its claim: the seal, the mark that publishing begins, and the records.
//!
//! Each step is durable when it returns, and is taken only while the claim is private.

use rustix::io::Errno;

use super::io::{Call, Files};
use super::store::{
    Claim, ClaimStore, Leftover, PUBLISHING, Publishing, RETIRED, SEALED, STAGE, SealedStage, Sealing,
};
use super::takeover::DISCARDED;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::volume::records::{Complete, ManifestRef, Public, Staged, to_bytes};
use crate::volume::{Privacy, Wall, foreign_state};

impl<F: Files> ClaimStore<'_, F> {
    /// From here on the stage is whole and durable: only publishing is left.
    ///
    /// # Errors
    /// `ENOENT` or `ESTALE` where the claim is ours no more; exit 75 where others could enter it meanwhile.
    pub(crate) async fn seal<S>(&self, claim: &Claim<F::Dir>, synced: S) -> Result<SealedStage<S>> {
        self.stays_private(claim).await?;
        let path = self.claim_path(claim.epoch).join(STAGE);
        self.rename_stage(claim, STAGE, SEALED).await.context("seal", path.as_path())?;
        self.files.sync(&claim.dir).await.context("sync directory", path.as_path())?;
        Ok(SealedStage(synced))
    }

    /// From here on a part of what is sealed may be on the volume.
    ///
    /// # Errors
    /// `ENOENT` or `ESTALE` where the claim is ours no more.
    pub(crate) async fn begin_publishing<S>(
        &self,
        claim: &Claim<F::Dir>,
        sealed: SealedStage<S>,
    ) -> Result<Publishing<S>> {
        let path = self.claim_path(claim.epoch).join(SEALED);
        self.rename_stage(claim, SEALED, PUBLISHING).await.context("begin to publish", path.as_path())?;
        self.files.sync(&claim.dir).await.context("sync directory", path.as_path())?;
        Ok(Publishing(sealed.0))
    }

    /// The same of what an earlier holder sealed and perhaps began to publish.
    ///
    /// # Errors
    /// As [`ClaimStore::begin_publishing`].
    pub(crate) async fn resume_publishing(
        &self,
        claim: &Claim<F::Dir>,
        leftover: Leftover,
    ) -> Result<Publishing<Box<Staged>>> {
        match leftover.sealing {
            Sealing::Sealed => self.begin_publishing(claim, SealedStage(leftover.staged)).await,
            Sealing::Publishing => Ok(Publishing(leftover.staged)),
        }
    }

    /// Renames a stage within our claim, also where the rename's answer was lost.
    pub(crate) async fn rename_stage(
        &self,
        claim: &Claim<F::Dir>,
        from: &str,
        to: &str,
    ) -> rustix::io::Result<()> {
        match self.files.rename(&claim.dir, from.as_bytes(), &claim.dir, to.as_bytes()).await {
            Err(Errno::NOENT) => self.files.open(&claim.dir, to).await.map(drop),
            renamed => renamed,
        }
    }

    /// Whether nobody else can enter the claim. A volume plug-in or a `chown -R` may have let others in.
    pub(crate) async fn is_private(&self, claim: &Claim<F::Dir>) -> Result<bool> {
        let privacy = self.files.privacy(&claim.dir, Wall::Closed).await;
        let privacy = privacy.context("stat", || self.claim_path(claim.epoch))?;
        Ok(privacy == Privacy::Private)
    }

    async fn stays_private(&self, claim: &Claim<F::Dir>) -> Result<()> {
        if self.is_private(claim).await? {
            return Ok(());
        }
        let path = self.claim_path(claim.epoch);
        let cause =
            "its owner or mode was changed while it was filled: others may have changed what is in it";
        Err(Error::new(Exit::Held, "use stage", cause)
            .on(path.as_path())
            .help("let nothing change owners or modes below .volseed, and start again"))
    }

    /// The records stand for a volume that is no more. The public one goes first: alone it would vouch for
    /// what nobody can read.
    ///
    /// # Errors
    /// When one is still there, or the claim is ours no more.
    pub(crate) async fn retire_record(&self, claim: &Claim<F::Dir>) -> Result<()> {
        for (name, retired) in [Public::FILE, Complete::FILE].into_iter().zip(RETIRED) {
            let path = self.state.path.join(name);
            let moved =
                self.files.rename(&claim.state, name.as_bytes(), &claim.dir, retired.as_bytes()).await;
            self.none_if_missing(moved, "remove record", &path)?;
            for dir in [&claim.dir, &claim.state] {
                self.files.sync(dir).await.context("sync directory of record", path.as_path())?;
            }
        }
        Ok(())
    }

    /// Records the volume as complete; durable on return. The manifest, which is in `stage` of the claim, gets its
    /// place before. The public record, which is returned, comes last: who sees it finds the private one that it is of.
    ///
    /// # Errors
    /// When it could not be made durable, or the claim is ours no more.
    pub(crate) async fn complete(
        &self,
        claim: &Claim<F::Dir>,
        stage: &str,
        record: &Complete,
    ) -> Result<Public> {
        let manifest = ManifestRef::name(record.generation);
        if record.manifest.is_some() {
            self.place_manifest(claim, stage, &manifest).await?;
        }
        if record.generation > 1 || claim.inherited {
            self.retire_manifests(claim, manifest.as_bytes()).await?;
        }
        let private = to_bytes(record);
        let public = Public::of(record, &private);
        let bytes = to_bytes(&public);
        let written = self.files.together([
            Call::Write(&claim.dir, Complete::FILE, &private),
            Call::WriteReadable(&claim.dir, Public::FILE, &bytes),
        ]);
        for (written, name) in written.await.into_iter().zip([Complete::FILE, Public::FILE]) {
            written.context("write record", || self.state.path.join(name))?;
        }
        self.put(claim, Complete::FILE, &private).await?;
        self.put(claim, Public::FILE, &bytes).await?;
        Ok(public)
    }

    /// Takes every manifest but the one of this name to our claim, where it goes with that. By a rename, which a holder
    /// that was fenced cannot do. Before the records: a kill leaves it to the next holder.
    async fn retire_manifests(&self, claim: &Claim<F::Dir>, kept: &[u8]) -> Result<()> {
        let names = self.files.names(&claim.state).await.context("read directory", &*self.state.path)?;
        let prefix = ManifestRef::PREFIX.as_bytes();
        for name in names.iter().filter(|name| name.starts_with(prefix) && ***name != *kept) {
            let retired = [DISCARDED.as_bytes(), b".", name].concat();
            let moved = self.files.rename(&claim.state, name, &claim.dir, &retired).await;
            self.none_if_missing(moved, "remove manifest", &self.state.path)?;
        }
        Ok(())
    }

    /// Records that this claim changed a volume that is complete by `record`, or ran the hook that it was complete but for;
    /// durable on return. No later claim gets its number.
    ///
    /// # Errors
    /// When it could not be made durable, or the claim is ours no more.
    pub(crate) async fn renew(&self, claim: &Claim<F::Dir>, record: &Public) -> Result<()> {
        let renewed = Public { epoch: claim.epoch, ..record.clone() };
        let bytes = to_bytes(&renewed);
        let written = self.files.write_readable(&claim.dir, Public::FILE, &bytes).await;
        written.context("write record", || self.state.path.join(Public::FILE))?;
        self.put(claim, Public::FILE, &bytes).await
    }

    /// Moves the manifest to its place, unless an earlier try did. The records make it durable.
    async fn place_manifest(&self, claim: &Claim<F::Dir>, stage: &str, name: &str) -> Result<()> {
        let path = self.state.path.join(name);
        // Where it is not there any more another replica has taken it: what has the name may be of another seed.
        let wrapper = self.files.open(&claim.dir, stage).await.context("open stage of", path.as_path())?;
        let (from, to) = (ManifestRef::STAGED.as_bytes(), name.as_bytes());
        let mut moved = self.files.rename(&wrapper, from, &claim.state, to).await;
        if let Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) = moved {
            // It is in the way of a name that is ours.
            self.files.remove(&claim.state, to).await.context("remove", path.as_path())?;
            moved = self.files.rename(&wrapper, from, &claim.state, to).await;
        }
        let is_there = async || !matches!(self.files.read(&claim.state, name).await, Err(Errno::NOENT));
        match moved {
            Err(Errno::NOENT) if is_there().await => Ok(()),
            moved => moved.context("rename manifest", path.as_path()),
        }
    }

    /// What no rename replaces must not be found once the volume is published.
    ///
    /// # Errors
    /// Exit 78 where a directory has the private record's name.
    pub(crate) async fn check_private_place(&self, claim: &Claim<F::Dir>) -> Result<()> {
        match self.files.open(&claim.state, Complete::FILE).await {
            Ok(_) | Err(Errno::ACCESS | Errno::XDEV) => {
                Err(foreign_state(&self.state.path.join(Complete::FILE), "not a regular file"))
            }
            // A file, a link, or nothing is replaced; what else is wrong will be said where it is in the way.
            Err(_) => Ok(()),
        }
    }

    /// Renames a record from our claim to its place.
    async fn put(&self, claim: &Claim<F::Dir>, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.state.path.join(name);
        let renamed = self.files.rename(&claim.dir, name.as_bytes(), &claim.state, name.as_bytes()).await;
        self.confirm_rename(renamed, name, bytes).await.context("rename record", path.as_path())?;
        self.files.sync(&claim.state).await.context("sync directory of record", path.as_path())
    }
}
