//! Claiming a volume, sealing and recording under a claim.
//!
//! A claim is a directory `claims/<epoch>`, built whole elsewhere and renamed to its place: each number
//! has one owner. Its holder changes the volume only by renames out of it:
//!
//! - a tree is staged in `stage`, and `stage` renamed to `sealed` once it is whole and durable;
//! - `sealed` is renamed to `publishing` before the first move, and what is published is moved out of it;
//! - the record is written in the claim and renamed to its place.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::beat::{Beat, Holder};
use super::io::Files;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::volume::records;
use crate::volume::records::{Complete, Public, Staged};
use crate::volume::{Location, Privacy, Wall, foreign_state};

/// Where the claims are, below the state directory.
pub const CLAIMS: &str = "claims";
/// Where they are built.
pub const BUILDING: &str = "tmp";
/// Whose a claim is.
pub const HOLDER: &str = "claim.json";
/// Its heartbeat.
pub const HEARTBEAT: &str = "heartbeat";
/// What is being staged.
pub const STAGE: &str = "stage";
/// What is staged, whole and durable.
pub const SEALED: &str = "sealed";
/// What is sealed and perhaps partly moved to its place.
pub const PUBLISHING: &str = "publishing";
/// An earlier holder's stage, of which only whole files may be taken.
pub const REMAINS: &str = "remains";
/// The public and the private record, once they are not true any more.
pub(crate) const RETIRED: [&str; 2] = ["retired.json", "retired-record.json"];

/// The highest number of a claim that counts: counting does not get there.
const MAX_EPOCH: u64 = u64::MAX / 2;

/// The replicas' directories on one volume.
pub struct ClaimStore<'a, F: Files> {
    /// The calls.
    pub files: &'a F,
    /// The volume's root.
    pub root: &'a F::Dir,
    /// Its path, for messages.
    pub volume: &'a Path,
    /// Where the state directory is.
    pub state: &'a Location<F::Dir>,
}

/// A claim of our own. Whether it still is one is for [`ClaimStore::holds`] to say.
pub struct Claim<D> {
    /// Its number.
    pub epoch: u64,
    /// Its directory.
    pub dir: D,
    /// Whether there were lower claims when it was made.
    pub inherited: bool,
    /// Whether others could enter the state directory: then nothing in a lower claim is known to be its
    /// holder's.
    pub was_open: bool,
    /// The record, as it was when the volume was claimed.
    pub record: Option<Public>,
    /// The lower claims that were there then.
    pub(crate) older: Vec<u64>,
    nonce: String,
    pub(crate) state: D,
}

/// How far a whole and durable stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// Nothing of it is on the volume.
    Sealed,
    /// A part of it may have been moved to its place.
    Publishing,
}

impl Sealing {
    /// The name of the stage's directory in a claim.
    pub const fn name(self) -> &'static str {
        match self {
            Sealing::Sealed => SEALED,
            Sealing::Publishing => PUBLISHING,
        }
    }
}

/// What an earlier holder staged whole and durable, and did not publish to the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Leftover {
    /// How far it was.
    pub sealing: Sealing,
    /// What its stage says of itself.
    pub staged: Box<Staged>,
}

/// A stage that is sealed: only [`ClaimStore::seal`] makes one.
pub struct SealedStage<S>(S);

/// A sealed stage of which a part may be on the volume: only a durable mark of that makes one.
pub struct Publishing<S>(pub(crate) S);

/// What came of claiming a volume.
pub enum Claimed<D> {
    /// It is ours.
    Won(Claim<D>),
    /// Another replica was quicker, and is done or at work; ours is to be dropped.
    Superseded(Claim<D>),
    /// Another replica was quicker.
    Lost,
}

/// A claim that was found on the volume.
pub struct Found<D> {
    /// Its number.
    pub epoch: u64,
    /// Its directory.
    pub dir: D,
    /// Whose it is, where that can be read.
    pub holder: Option<Holder>,
    /// The heartbeat as it is.
    pub beat: Vec<u8>,
    /// Whether others can have changed what is in it.
    pub privacy: Privacy,
}

/// The state directory as it is now.
pub struct State<D> {
    /// The directory.
    pub dir: D,
    /// Whether it is ours.
    pub privacy: Privacy,
}

impl<D> State<D> {
    /// The other user whose it is.
    pub fn foreign(&self) -> Option<u32> {
        match self.privacy {
            Privacy::Foreign(owner) => Some(owner),
            Privacy::Private | Privacy::Open => None,
        }
    }
}

impl<F: Files> ClaimStore<'_, F> {
    /// The directory of everything of ours, opened as it is now.
    ///
    /// # Errors
    /// Exit 77 when it may not be entered, 78 when something else has its name.
    pub async fn state_dir(&self) -> Result<Option<F::Dir>> {
        records::opened_to_us(self.directory(&self.state.parent, &self.state.name, &self.state.path).await)
    }

    /// The same, and whose it is: that may have to be asked of a server.
    ///
    /// # Errors
    /// As [`ClaimStore::state_dir`].
    pub async fn state(&self) -> Result<Option<State<F::Dir>>> {
        match self.state_dir().await? {
            Some(dir) => self.owned(dir).await,
            None => Ok(None),
        }
    }

    /// Whose a state directory is.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn owned(&self, dir: F::Dir) -> Result<Option<State<F::Dir>>> {
        let privacy = self.files.privacy(&dir, Wall::Listed).await;
        let privacy = self.none_if_missing(privacy, "stat", &self.state.path)?;
        Ok(privacy.map(|privacy| State { dir, privacy }))
    }

    /// The public record, which alone says whether the volume is complete.
    ///
    /// # Errors
    /// Exit 78 when what is there is no record of ours.
    pub async fn record(&self, state: &F::Dir) -> Result<Option<Public>> {
        let path = self.state.path.join(Public::FILE);
        let read = self.files.read(state, Public::FILE).await;
        match records::opened_to_us(self.none_if_missing(read, "read record", &path))? {
            Some(bytes) => Public::parse(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    /// Whether `record` is still the volume's. To be asked after a look at what it speaks of: an emptied
    /// volume that is seeded again has no record from before its first new entry to its last.
    ///
    /// # Errors
    /// As [`ClaimStore::record`].
    pub async fn is_current(&self, record: &Public) -> Result<bool> {
        let Some(state) = self.state_dir().await? else { return Ok(false) };
        Ok(self.record(&state).await?.is_some_and(|now| now.epoch == record.epoch))
    }

    /// The numbers of the claims, ascending. Names that volseed does not write are none of ours.
    ///
    /// # Errors
    /// Exit 78 when something else is in their place.
    pub async fn epochs(&self, state: &F::Dir) -> Result<Vec<u64>> {
        let path = self.state.path.join(CLAIMS);
        let Some(claims) = self.directory(state, CLAIMS, &path).await? else { return Ok(Vec::new()) };
        let names = self
            .none_if_missing(self.files.names(&claims).await, "read directory", &path)?
            .unwrap_or_default();
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| epoch(name)).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// A claim and its heartbeat, unless it is gone.
    ///
    /// # Errors
    /// Exit 78 when what is there is no claim of ours.
    pub async fn find(&self, state: &F::Dir, epoch: u64) -> Result<Option<Found<F::Dir>>> {
        let path = self.claim_path(epoch);
        let Some(claims) = self.directory(state, CLAIMS, &self.state.path.join(CLAIMS)).await? else {
            return Ok(None);
        };
        let Some(dir) = self.directory(&claims, &epoch.to_string(), &path).await? else { return Ok(None) };
        let Some(privacy) =
            self.none_if_missing(self.files.privacy(&dir, Wall::Closed).await, "stat", &path)?
        else {
            return Ok(None);
        };
        if let Privacy::Foreign(_) = privacy {
            return Ok(Some(Found { epoch, dir, holder: None, beat: Vec::new(), privacy }));
        }
        let holder = self.holder(&dir, &path).await?;
        let beat = self.none_if_missing(self.files.read(&dir, HEARTBEAT).await, "read heartbeat", &path)?;
        Ok(Some(Found { epoch, dir, holder, beat: beat.unwrap_or_default(), privacy }))
    }

    /// The newest claim.
    ///
    /// # Errors
    /// Exit 78 when what is there is no claim of ours.
    pub async fn newest(&self, state: &F::Dir) -> Result<Option<Found<F::Dir>>> {
        for epoch in self.epochs(state).await?.into_iter().rev() {
            if let Some(found) = self.find(state, epoch).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Claims the volume as `holder`, whose number is not known yet, after the claim `judged` was found to
    /// be over and the record to be of the claim `recorded` (each 0 where there was none).
    ///
    /// # Errors
    /// When the claim cannot be made; the volume is then as it was.
    pub async fn claim(
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
        let Some((building, built)) = self.build(state, &holder).await? else { return Ok(Claimed::Lost) };
        let Some(dir) = self.place(state, &building, built, &holder).await? else {
            return Ok(Claimed::Lost);
        };
        let (state, older) = (state.clone(), Vec::new());
        let mut claim =
            Claim { epoch, dir, inherited: false, was_open: false, record: None, older, nonce, state };
        // Somebody slower may get a number that is free again: only the highest counts.
        let is_highest = self.verify(&mut claim).await?;
        Ok(if is_highest { Claimed::Won(claim) } else { Claimed::Superseded(claim) })
    }

    /// Whether `claim` is still ours, and the highest.
    ///
    /// # Errors
    /// When the volume cannot be asked.
    pub async fn holds(&self, claim: &mut Claim<F::Dir>) -> Result<bool> {
        let Some(state) = self.current(claim).await? else { return Ok(false) };
        let Some(found) = self.find(&state, claim.epoch).await? else { return Ok(false) };
        let ours = found.holder.is_some_and(|holder| holder.nonce == claim.nonce);
        Ok(ours && self.verify(claim).await?)
    }

    /// From here on the stage is whole and durable: only publishing is left.
    ///
    /// # Errors
    /// `ENOENT` or `ESTALE` where the claim is ours no more; exit 75 where others could enter it meanwhile.
    pub async fn seal<S>(&self, claim: &Claim<F::Dir>, synced: S) -> Result<SealedStage<S>> {
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
    pub async fn begin_publishing<S>(
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
    pub async fn resume_publishing(
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
    pub async fn is_private(&self, claim: &Claim<F::Dir>) -> Result<bool> {
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
    pub async fn retire_record(&self, claim: &Claim<F::Dir>) -> Result<()> {
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

    /// Records the volume as complete; durable on return. The public record comes last: who sees it finds the
    /// private one that it is of.
    ///
    /// # Errors
    /// When it could not be made durable, or the claim is ours no more.
    pub async fn complete(&self, claim: &Claim<F::Dir>, record: &Complete) -> Result<()> {
        let private = records::to_bytes(record);
        let public = records::to_bytes(&Public::of(record, &private));
        self.put(claim, Complete::FILE, &private).await?;
        self.put(claim, Public::FILE, &public).await
    }

    /// What no rename replaces must not be found once the volume is published.
    ///
    /// # Errors
    /// Exit 78 where a directory has the private record's name.
    pub async fn check_private_place(&self, claim: &Claim<F::Dir>) -> Result<()> {
        match self.files.open(&claim.state, Complete::FILE).await {
            Ok(_) | Err(Errno::ACCESS | Errno::XDEV) => {
                Err(foreign_state(&self.state.path.join(Complete::FILE), "not a regular file"))
            }
            // A file, a link, or nothing is replaced; what else is wrong will be said where it is in the way.
            Err(_) => Ok(()),
        }
    }

    /// Writes a record in our claim and renames it to its place.
    async fn put(&self, claim: &Claim<F::Dir>, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.state.path.join(name);
        let written = match name {
            Public::FILE => self.files.write_readable(&claim.dir, name, bytes).await,
            _ => self.files.write(&claim.dir, name, bytes).await,
        };
        written.context("write record", path.as_path())?;
        let renamed = self.files.rename(&claim.dir, name.as_bytes(), &claim.state, name.as_bytes()).await;
        self.confirm_rename(renamed, name, bytes).await.context("rename record", path.as_path())?;
        self.files.sync(&claim.state).await.context("sync directory of record", path.as_path())
    }

    /// What a stage says of itself, where there is one.
    ///
    /// # Errors
    /// When it cannot be read. A record that is none says nothing.
    pub async fn staged(&self, claim: &F::Dir, name: &str) -> Result<Option<Staged>> {
        let path = self.state.path.join(name);
        let Some(wrapper) = self.directory(claim, name, &path).await? else { return Ok(None) };
        let bytes =
            self.none_if_missing(self.files.read(&wrapper, Staged::FILE).await, "read record", &path)?;
        Ok(bytes.and_then(|bytes| Staged::parse(&bytes)))
    }

    /// Builds a claim where nobody looks: that place, and the claim.
    async fn build(&self, state: &F::Dir, holder: &Holder) -> Result<Option<(F::Dir, F::Dir)>> {
        let path = self.state.path.join(BUILDING);
        let beat = Beat::default().bytes();
        let building = self.own_building(state).await;
        let built = async {
            let building = building?;
            let dir = self.ensure(&building, &holder.nonce).await?;
            self.files.write(&dir, HOLDER, &records::to_bytes(holder)).await?;
            self.files.write(&dir, HEARTBEAT, &beat).await?;
            Ok((building, dir))
        };
        match built.await {
            // Whoever completed the volume just now has cleared it away.
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
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
        building: &F::Dir,
        built: F::Dir,
        holder: &Holder,
    ) -> Result<Option<F::Dir>> {
        let path = self.claim_path(holder.epoch);
        let name = holder.epoch.to_string();
        let renamed = async {
            let claims = self.own_claims(state).await?;
            self.files.rename(building, holder.nonce.as_bytes(), &claims, name.as_bytes()).await
        };
        let renamed = renamed.await;
        if renamed.is_ok() {
            return Ok(Some(built));
        }
        if let Some(found) = self.find(state, holder.epoch).await?
            && found.holder.is_some_and(|there| there.nonce == holder.nonce)
        {
            return Ok(Some(built));
        }
        let _ = self.files.remove(building, holder.nonce.as_bytes()).await;
        // Whoever was quicker may be done already, and nobody else clears up after us.
        let _ = self.files.rmdir(state, BUILDING.as_bytes()).await;
        let _ = self.files.rmdir(state, CLAIMS.as_bytes()).await;
        match renamed {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::STALE) | Ok(()) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(foreign_state(&self.state.path.join(CLAIMS), "not a directory"))
            }
            Err(error) => Err(error).context("rename claim to", path.as_path()),
        }
    }

    /// Looks at the claims and the record: whether ours is the highest, and above the record's.
    pub(crate) async fn verify(&self, claim: &mut Claim<F::Dir>) -> Result<bool> {
        // Opened anew: names in a directory that was opened long ago may be cached (nfs(5), `lookupcache`).
        let Some(state) = self.current(claim).await? else { return Ok(false) };
        let epochs = self.epochs(&state).await?;
        // After that and opened anew: a holder whose claim is gone by now has left its record.
        let Some(state) = self.state().await? else { return Ok(false) };
        claim.record = self.record(&state.dir).await?;
        claim.older = epochs.iter().copied().filter(|epoch| *epoch < claim.epoch).collect();
        let recorded = claim.record.as_ref().map_or(0, |record| record.epoch);
        Ok(epochs.last() == Some(&claim.epoch) && recorded < claim.epoch)
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
    async fn confirm_rename(
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

    async fn holder(&self, dir: &F::Dir, path: &Path) -> Result<Option<Holder>> {
        let path = path.join(HOLDER);
        match self.none_if_missing(self.files.read(dir, HOLDER).await, "read record", &path)? {
            Some(bytes) => records::from_bytes(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    /// A directory of ours, made where it is not there.
    pub(crate) async fn ensure(&self, at: &F::Dir, name: &str) -> rustix::io::Result<F::Dir> {
        match self.files.make(at, name).await {
            Err(Errno::EXIST) => self.files.open(at, name).await,
            made => made,
        }
    }

    pub(crate) async fn directory(&self, at: &F::Dir, name: &str, path: &Path) -> Result<Option<F::Dir>> {
        match self.files.open(at, name).await {
            Err(Errno::NOTDIR | Errno::LOOP) => Err(foreign_state(path, "not a directory")),
            Err(Errno::XDEV) => Err(foreign_state(path, "another file system is mounted there")),
            opened => self.none_if_missing(opened, "open directory", path),
        }
    }

    /// What is not there any more is `None`: other replicas come and go.
    pub(crate) fn none_if_missing<T>(
        &self,
        result: rustix::io::Result<T>,
        act: &'static str,
        path: &Path,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(foreign_state(path, "not a regular file")),
            Err(Errno::FBIG) => Err(foreign_state(path, "too large to be a record")),
            Err(error) => Err(error).context(act, path),
        }
    }

    pub(crate) fn claim_path(&self, epoch: u64) -> PathBuf {
        self.state.path.join(CLAIMS).join(epoch.to_string())
    }
}

/// The number of a claim from its directory's name, just as volseed writes it.
fn epoch(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    let epoch = name.parse().ok()?;
    (epoch <= MAX_EPOCH && name == u64::to_string(&epoch)).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_volseed_writes_are_claims() {
        assert_eq!((epoch(b"1"), epoch(b"907")), (Some(1), Some(907)));
        let others =
            ["", "+99", "0099", "-1", "1e3", " 1", "1 ", "18446744073709551615", "9223372036854775808"];
        for name in others {
            assert_eq!(epoch(name.as_bytes()), None, "{name:?}");
        }
        assert_eq!(epoch(b"\xff"), None);
    }
}
