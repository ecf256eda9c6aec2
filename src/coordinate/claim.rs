//! Claiming a volume, and taking over what an earlier holder left so that a late one can do no harm.
//!
//! A claim is a directory `claims/<epoch>`, built whole elsewhere and renamed to its place: each number
//! has one owner. Its holder changes the volume only by renames out of it:
//!
//! - a tree is staged in `stage`, and `stage` renamed to `sealed` once it is whole and durable;
//! - what is published is moved out of `sealed/tree`;
//! - the record is written in the claim and renamed to its place.
//!
//! Taking over means to move `stage` and `sealed` out of the old claim and to remove its directory.
//! From then on an old holder can neither seal nor record. What it may still hold open is put where it
//! does no harm: an unsealed stage becomes `remains`, of which finished files are taken one by one; out
//! of a sealed one everything is moved to a fresh directory.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::files::Files;
use super::records::{Beat, Holder};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::mutant::{self, Mutant};
use crate::state::{self, COMPLETE, Complete, DIRECTORY, Sealed, Staged, TREE};
use crate::volume::not_ours;

/// Where the claims are, below [`DIRECTORY`].
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
/// An earlier holder's stage, of which only whole files may be taken.
pub const REMAINS: &str = "remains";
/// Sealed parts that an earlier holder may hold open begin with this.
const LOOSE: &str = "loose";
/// What becomes `sealed` once everything loose is in it.
const FRESH: &str = "fresh";
/// What nobody needs begins with this.
const WASTE: &str = "waste";
/// A record that is not true any more.
const RETIRED: &str = "retired.json";
/// How often a directory that a late holder still fills is emptied, before that is an error.
const TRIES: usize = 100;

/// The replicas' directories on one volume.
pub struct Ground<'a, F: Files> {
    /// The calls.
    pub files: &'a F,
    /// The volume's root.
    pub root: &'a F::Dir,
    /// The path of [`DIRECTORY`], for messages.
    pub path: PathBuf,
}

/// A claim of our own. Whether it still is one is for [`Ground::holds`] to say.
pub struct Claim<D> {
    /// Its number.
    pub epoch: u64,
    /// Its directory.
    pub dir: D,
    /// What the volume's seed will be, where an earlier holder sealed one: it has to be finished.
    pub sealed: Option<Sealed>,
    /// Whether there were lower claims when it was made.
    pub inherited: bool,
    /// The record, as it was when the volume was claimed.
    pub record: Option<Complete>,
    /// The lower claims that were there then.
    older: Vec<u64>,
    nonce: String,
    pub(super) state: D,
}

/// What came of claiming a volume.
pub enum Claimed<D> {
    /// It is ours.
    Ours(Claim<D>),
    /// Another replica was quicker, and is done or at work; ours is to be dropped.
    Late(Claim<D>),
    /// Another replica was quicker.
    No,
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
}

impl<F: Files> Ground<'_, F> {
    /// The directory of everything of ours, as it is now.
    ///
    /// # Errors
    /// Exit 78 when something else has its name.
    pub async fn state(&self) -> Result<Option<F::Dir>> {
        self.directory(self.root, DIRECTORY, &self.path).await
    }

    /// The complete record.
    ///
    /// # Errors
    /// Exit 78 when what is there is no record of ours.
    pub async fn record(&self, state: &F::Dir) -> Result<Option<Complete>> {
        let path = self.path.join(COMPLETE);
        match self.gone(self.files.read(state, COMPLETE).await, "read record", &path)? {
            Some(bytes) => Complete::parse(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    /// Whether `record` is still the volume's. To be asked after a look at what it speaks of: an emptied
    /// volume that is seeded again has no record from before its first new entry to its last.
    ///
    /// # Errors
    /// As [`Ground::record`].
    pub async fn still(&self, record: &Complete) -> Result<bool> {
        if mutant::on(Mutant::SkipStill) {
            return Ok(true);
        }
        let Some(state) = self.state().await? else { return Ok(false) };
        Ok(self.record(&state).await?.is_some_and(|now| now.epoch == record.epoch))
    }

    /// The numbers of the claims, ascending. Names that are no number are none of ours.
    ///
    /// # Errors
    /// Exit 78 when something else is in their place.
    pub async fn epochs(&self, state: &F::Dir) -> Result<Vec<u64>> {
        let path = self.path.join(CLAIMS);
        let Some(claims) = self.directory(state, CLAIMS, &path).await? else { return Ok(Vec::new()) };
        let names = self.gone(self.files.names(&claims).await, "read directory", &path)?.unwrap_or_default();
        let mut epochs: Vec<u64> =
            names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse().ok()).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// A claim and its heartbeat, unless it is gone.
    ///
    /// # Errors
    /// Exit 78 when what is there is no claim of ours.
    pub async fn find(&self, state: &F::Dir, epoch: u64) -> Result<Option<Found<F::Dir>>> {
        let path = self.claim_path(epoch);
        let Some(claims) = self.directory(state, CLAIMS, &self.path.join(CLAIMS)).await? else {
            return Ok(None);
        };
        let Some(dir) = self.directory(&claims, &epoch.to_string(), &path).await? else { return Ok(None) };
        let holder = self.holder(&dir, &path).await?;
        let beat = self.gone(self.files.read(&dir, HEARTBEAT).await, "read heartbeat", &path)?;
        Ok(Some(Found { epoch, dir, holder, beat: beat.unwrap_or_default() }))
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
        let counted = if mutant::on(Mutant::ReuseEpochs) { judged } else { judged.max(recorded) };
        holder.epoch = counted + 1;
        let (epoch, nonce) = (holder.epoch, holder.nonce.clone());
        let Some((building, built)) = self.build(state, &holder).await? else { return Ok(Claimed::No) };
        let Some(dir) = self.place(state, &building, built, &holder).await? else {
            return Ok(Claimed::No);
        };
        let (state, older) = (state.clone(), Vec::new());
        let mut claim =
            Claim { epoch, dir, sealed: None, inherited: false, record: None, older, nonce, state };
        // Somebody slower may get a number that is free again: only the highest counts.
        let is_highest = self.verify(&mut claim).await? || mutant::on(Mutant::SkipVerify);
        Ok(if is_highest { Claimed::Ours(claim) } else { Claimed::Late(claim) })
    }

    /// Whether `claim` is still ours, and the highest.
    ///
    /// # Errors
    /// When the volume cannot be asked.
    pub async fn holds(&self, claim: &mut Claim<F::Dir>) -> Result<bool> {
        let Some(state) = self.state().await? else { return Ok(false) };
        let Some(found) = self.find(&state, claim.epoch).await? else { return Ok(false) };
        let ours = found.holder.is_some_and(|holder| holder.nonce == claim.nonce);
        Ok(ours && self.verify(claim).await?)
    }

    /// Makes sure that no earlier holder can change the volume any more, and keeps what it left:
    /// `vouched` says whose death is certain. Bears to be interrupted: the next holder takes over what
    /// there is.
    ///
    /// # Errors
    /// When something could not be moved or removed.
    pub async fn fence(
        &self,
        claim: &mut Claim<F::Dir>,
        vouched: impl Fn(&Found<F::Dir>) -> bool,
    ) -> Result<()> {
        if mutant::on(Mutant::SkipFence) {
            return Ok(());
        }
        let older = std::mem::take(&mut claim.older);
        // Also where it is gone by now: its holder may have completed the volume meanwhile.
        claim.inherited = !older.is_empty();
        for epoch in older.into_iter().rev() {
            let Some(found) = self.find(&claim.state, epoch).await? else { continue };
            let vouched = vouched(&found);
            self.take_over(claim, &found, vouched).await?;
        }
        if !claim.inherited {
            return Ok(());
        }
        self.firm(claim).await?;
        let sealed = self.staged(&claim.dir, SEALED).await?;
        claim.sealed = sealed.and_then(|staged| staged.sealed);
        if claim.sealed.is_none() {
            // What does not say what it is would only be in the next seal's way.
            self.discard_sealed(claim).await?;
        }
        // Without a higher claim until now nobody has taken from ours what we did not find in it. The
        // record, too, is final now: whoever could have written it is fenced.
        if mutant::on(Mutant::SkipSecondLook) || self.verify(claim).await? {
            return Ok(());
        }
        let path = self.claim_path(claim.epoch);
        Err(Error::new(Exit::Held, "take over", "another replica has taken over meanwhile")
            .on(path.as_path()))
    }

    /// What is sealed was published long ago; it is not needed.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn discard_sealed(&self, claim: &mut Claim<F::Dir>) -> Result<()> {
        let path = self.claim_path(claim.epoch).join(SEALED);
        claim.sealed = None;
        self.gone(self.files.remove(&claim.dir, SEALED.as_bytes()).await, "remove", &path).map(drop)
    }

    /// From here on the stage is whole and durable: only publishing is left.
    ///
    /// # Errors
    /// `ENOENT` or `ESTALE` where the claim is ours no more.
    pub async fn seal(&self, claim: &Claim<F::Dir>) -> Result<()> {
        let path = self.claim_path(claim.epoch).join(STAGE);
        self.become_sealed(claim, STAGE).await.context("seal", path.as_path())?;
        self.files.sync(&claim.dir).await.context("sync directory", path.as_path())
    }

    /// The record stands for a volume that is no more.
    ///
    /// # Errors
    /// When it is still there, or the claim is ours no more.
    pub async fn retire_record(&self, claim: &Claim<F::Dir>) -> Result<()> {
        if mutant::on(Mutant::KeepOldRecord) {
            return Ok(());
        }
        let path = self.path.join(COMPLETE);
        let moved =
            self.files.rename(&claim.state, COMPLETE.as_bytes(), &claim.dir, RETIRED.as_bytes()).await;
        self.gone(moved, "remove record", &path)?;
        for dir in [&claim.dir, &claim.state] {
            self.files.sync(dir).await.context("sync directory of record", path.as_path())?;
        }
        Ok(())
    }

    /// Records the volume as complete; durable on return.
    ///
    /// # Errors
    /// When it could not be made durable, or the claim is ours no more.
    pub async fn complete(&self, claim: &Claim<F::Dir>, record: &Complete) -> Result<()> {
        let path = self.path.join(COMPLETE);
        let bytes = state::to_bytes(record);
        if mutant::on(Mutant::RecordByPath) {
            return self
                .files
                .write(&claim.state, COMPLETE, &bytes)
                .await
                .context("write record", path.as_path());
        }
        self.files.write(&claim.dir, COMPLETE, &bytes).await.context("write record", path.as_path())?;
        let (name, state) = (COMPLETE.as_bytes(), &claim.state);
        self.believe(self.files.rename(&claim.dir, name, state, name).await, record)
            .await
            .context("rename record", path.as_path())?;
        self.files.sync(state).await.context("sync directory of record", path.as_path())
    }

    /// What a stage says of itself, where there is one.
    ///
    /// # Errors
    /// When it cannot be read. A record that is none says nothing.
    pub async fn staged(&self, claim: &F::Dir, name: &str) -> Result<Option<Staged>> {
        let path = self.path.join(name);
        let Some(wrapper) = self.directory(claim, name, &path).await? else { return Ok(None) };
        let bytes = self.gone(self.files.read(&wrapper, Staged::FILE).await, "read record", &path)?;
        Ok(bytes.and_then(|bytes| Staged::parse(&bytes)))
    }

    /// Builds a claim where nobody looks: that place, and the claim.
    async fn build(&self, state: &F::Dir, holder: &Holder) -> Result<Option<(F::Dir, F::Dir)>> {
        let path = self.path.join(BUILDING);
        let beat = Beat::default().bytes();
        let built = async {
            let building = self.ensure(state, BUILDING).await?;
            let dir = self.ensure(&building, &holder.nonce).await?;
            self.files.write(&dir, HOLDER, &state::to_bytes(holder)).await?;
            self.files.write(&dir, HEARTBEAT, &beat).await?;
            Ok((building, dir))
        };
        match built.await {
            // Whoever completed the volume just now has cleared it away.
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(not_ours(&path, "not a directory")),
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
            let claims = self.ensure(state, CLAIMS).await?;
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
            Err(Errno::NOTDIR | Errno::LOOP) => Err(not_ours(&self.path.join(CLAIMS), "not a directory")),
            Err(error) => Err(error).context("rename claim to", path.as_path()),
        }
    }

    /// Looks at the claims and the record: whether ours is the highest, and above the record's.
    async fn verify(&self, claim: &mut Claim<F::Dir>) -> Result<bool> {
        // Opened anew: names in a directory that was opened long ago may be cached (nfs(5), `lookupcache`).
        let Some(state) = self.state().await? else { return Ok(false) };
        let epochs = self.epochs(&state).await?;
        // After that and opened anew: a holder whose claim is gone by now has left its record.
        let Some(state) = self.state().await? else { return Ok(false) };
        claim.record = self.record(&state).await?;
        claim.older = epochs.iter().copied().filter(|epoch| *epoch < claim.epoch).collect();
        let recorded = claim.record.as_ref().map_or(0, |record| record.epoch);
        Ok(epochs.last() == Some(&claim.epoch) && recorded < claim.epoch)
    }

    /// Moves everything out of an older claim and removes its directory, which is the end of its holder.
    async fn take_over(&self, claim: &Claim<F::Dir>, old: &Found<F::Dir>, vouched: bool) -> Result<()> {
        let path = self.claim_path(old.epoch);
        let Some(claims) = self.directory(&claim.state, CLAIMS, &self.path.join(CLAIMS)).await? else {
            return Ok(());
        };
        let name = old.epoch.to_string();
        let mut wasted = 0;
        for _ in 0..TRIES {
            let Some(names) = self.gone(self.files.names(&old.dir).await, "read directory", &path)? else {
                return Ok(());
            };
            for part in names {
                let to = match &*part {
                    part if part == STAGE.as_bytes() && vouched => STAGE.to_owned(),
                    part if part == STAGE.as_bytes() || part == REMAINS.as_bytes() => REMAINS.to_owned(),
                    part if part == SEALED.as_bytes() && vouched => SEALED.to_owned(),
                    part if part == SEALED.as_bytes() => format!("{LOOSE}.{name}"),
                    part if part == FRESH.as_bytes() => format!("{LOOSE}.{name}-{FRESH}"),
                    part if part.starts_with(LOOSE.as_bytes()) => String::from_utf8_lossy(part).into_owned(),
                    _ => String::new(),
                };
                if to.is_empty() || !self.take_part(claim, old, &part, &to).await? {
                    wasted += 1;
                    self.waste(claim, old, &part, wasted).await?;
                }
            }
            match self.files.rmdir(&claims, name.as_bytes()).await {
                Ok(()) | Err(Errno::NOENT | Errno::STALE) => return Ok(()),
                // Its holder is late, and has just put something there.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error).context("remove directory", path.as_path()),
            }
        }
        Err(Error::new(Exit::Held, "take over", "its holder does not stop to write there")
            .on(path.as_path())
            .help("stop the other replica, or wait until it is done"))
    }

    /// Moves one part of an older claim to ours; whether there was room for it. Of two stages only the
    /// newer is worth anything, and the newer came first.
    async fn take_part(
        &self,
        claim: &Claim<F::Dir>,
        old: &Found<F::Dir>,
        part: &[u8],
        to: &str,
    ) -> Result<bool> {
        match self.files.rename(&old.dir, part, &claim.dir, to.as_bytes()).await {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            moved => self.gone(moved, "take over", &self.claim_path(old.epoch)).map(|_| true),
        }
    }

    /// Moves to our claim what nobody needs, and removes it there: removed in its place, a file that is
    /// open would keep its directory on FUSE and on NFS, under another name. What cannot be removed now
    /// goes with our claim.
    async fn waste(
        &self,
        claim: &Claim<F::Dir>,
        old: &Found<F::Dir>,
        part: &[u8],
        number: usize,
    ) -> Result<()> {
        let waste = format!("{WASTE}.{}.{number}", old.epoch);
        let moved = self.files.rename(&old.dir, part, &claim.dir, waste.as_bytes()).await;
        if self.gone(moved, "take over", &self.claim_path(old.epoch))?.is_some() {
            let _ = self.files.remove(&claim.dir, waste.as_bytes()).await;
        }
        Ok(())
    }

    /// Moves all that is sealed and that an earlier holder may hold open to a fresh directory, which it
    /// does not know. Then `sealed` is ours alone.
    async fn firm(&self, claim: &Claim<F::Dir>) -> Result<()> {
        let path = self.claim_path(claim.epoch);
        let names = self.files.names(&claim.dir).await.context("read directory", path.as_path())?;
        let loose: Vec<&[u8]> =
            names.iter().map(|name| &**name).filter(|name| name.starts_with(LOOSE.as_bytes())).collect();
        let Some(first) = loose.first() else { return Ok(()) };
        if mutant::on(Mutant::SkipFirming) {
            let moved = self.files.rename(&claim.dir, first, &claim.dir, SEALED.as_bytes()).await;
            return moved.context("seal", path.as_path());
        }
        let firmed = async {
            let fresh = self.ensure(&claim.dir, FRESH).await?;
            let parts: Vec<&[u8]> = loose
                .iter()
                .copied()
                .chain(names.iter().map(|name| &**name).filter(|name| *name == SEALED.as_bytes()))
                .collect();
            // Whichever part is left after a kill says what it belongs to, but not one that was made just
            // before it: that one may hold half of what it was to say.
            for part in &parts {
                let from = self.files.open_entry(&claim.dir, part).await?;
                let Ok(bytes) = self.files.read(&from, Staged::FILE).await else { continue };
                if Staged::parse(&bytes).is_some_and(|staged| staged.sealed.is_some()) {
                    self.files.write(&fresh, Staged::FILE, &bytes).await?;
                    break;
                }
            }
            let tree = self.ensure(&fresh, TREE).await?;
            for part in parts {
                let wrapper = self.files.open_entry(&claim.dir, part).await?;
                match self.files.open(&wrapper, TREE).await {
                    Ok(from) => self.move_entries(&from, &tree, Some(self.root.clone())).await?,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
                self.files.remove(&claim.dir, part).await?;
            }
            self.files.sync(&fresh).await?;
            self.become_sealed(claim, FRESH).await?;
            self.files.sync(&claim.dir).await
        };
        firmed.await.context("take over what is sealed in", path.as_path())
    }

    /// A part of our claim becomes what is sealed, also where the rename's answer was lost.
    async fn become_sealed(&self, claim: &Claim<F::Dir>, part: &str) -> rustix::io::Result<()> {
        match self.files.rename(&claim.dir, part.as_bytes(), &claim.dir, SEALED.as_bytes()).await {
            Err(Errno::NOENT) => self.files.open(&claim.dir, SEALED).await.map(drop),
            renamed => renamed,
        }
    }

    /// Moves what is in `from` to `to`. A directory that the volume has too is one whose entries are
    /// published one by one: it is made anew.
    async fn move_entries(
        &self,
        from: &F::Dir,
        to: &F::Dir,
        volume: Option<F::Dir>,
    ) -> rustix::io::Result<()> {
        for name in self.files.names(from).await? {
            let there = match &volume {
                Some(volume) => self.files.open_entry(volume, &name).await.ok(),
                None => None,
            };
            let divided = match self.files.open_entry(to, &name).await {
                Ok(divided) => Some(divided),
                Err(_) if there.is_some() => match self.files.open_entry(from, &name).await {
                    Ok(model) => {
                        match self.files.make_like(to, &name, &model).await {
                            Err(Errno::EXIST) => {}
                            made => made?,
                        }
                        Some(self.files.open_entry(to, &name).await?)
                    }
                    Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => None,
                    Err(error) => return Err(error),
                },
                Err(_) => None,
            };
            match divided {
                Some(below) => match self.files.open_entry(from, &name).await {
                    Ok(old) => {
                        Box::pin(self.move_entries(&old, &below, there)).await?;
                        match self.files.rmdir(from, &name).await {
                            Ok(()) | Err(Errno::NOENT) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                },
                None => match self.files.rename(from, &name, to, &name).await {
                    // A late holder has just published it.
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// A rename of the record that reported failure though it was done.
    async fn believe(&self, renamed: rustix::io::Result<()>, record: &Complete) -> rustix::io::Result<()> {
        if renamed != Err(Errno::NOENT) {
            return renamed;
        }
        let Ok(Some(state)) = self.state().await else { return renamed };
        match self.record(&state).await {
            Ok(Some(there)) if there.epoch == record.epoch => Ok(()),
            _ => renamed,
        }
    }

    async fn holder(&self, dir: &F::Dir, path: &Path) -> Result<Option<Holder>> {
        let path = path.join(HOLDER);
        match self.gone(self.files.read(dir, HOLDER).await, "read record", &path)? {
            Some(bytes) => state::from_bytes(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    /// A directory of ours, made where it is not there.
    async fn ensure(&self, at: &F::Dir, name: &str) -> rustix::io::Result<F::Dir> {
        match self.files.make(at, name).await {
            Err(Errno::EXIST) => self.files.open(at, name).await,
            made => made,
        }
    }

    async fn directory(&self, at: &F::Dir, name: &str, path: &Path) -> Result<Option<F::Dir>> {
        match self.files.open(at, name).await {
            Err(Errno::NOTDIR | Errno::LOOP) => Err(not_ours(path, "not a directory")),
            opened => self.gone(opened, "open directory", path),
        }
    }

    /// What is not there any more is `None`: other replicas come and go.
    fn gone<T>(&self, result: rustix::io::Result<T>, act: &'static str, path: &Path) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(not_ours(path, "not a regular file")),
            Err(Errno::FBIG) => Err(not_ours(path, "too large to be a record")),
            Err(error) => Err(error).context(act, path),
        }
    }

    fn claim_path(&self, epoch: u64) -> PathBuf {
        self.path.join(CLAIMS).join(epoch.to_string())
    }
}
