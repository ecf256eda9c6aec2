//! Taking over what an earlier holder left, so that a stale one can do no harm.
//!
//! `stage`, `sealed` and `publishing` are moved out of the old claim and its directory is removed. From then on
//! an old holder can neither seal nor publish nor record. What it may still hold open is put where it does no
//! harm: an unsealed stage becomes `remains`, of which finished files are taken one by one; a sealed one is
//! contested until everything in it was moved to a directory that the old holder does not know.
//!
//! What others could enter meanwhile may be anybody's work: it is removed.

use rustix::io::Errno;

use super::foreign::{REMOVED, removed_for};
use super::io::Files;
use super::store::Leftover;
use super::store::{
    CLAIMS, Claim, ClaimStore, FoundClaim, HEARTBEAT, HOLDER, PUBLISHING, REMAINS, RETIRED, SEALED, STAGE,
    Sealing,
};
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::volume::records::{Complete, Public, Staged, to_bytes};
use crate::volume::{Privacy, Wall, foreign_state};

/// Sealed parts that an earlier holder may hold open begin with this; those that it had begun to publish
/// with the second.
const CONTESTED: [&str; 2] = ["contested-sealed", "contested-publishing"];
/// What becomes `sealed`, or `publishing`, once everything contested is in it.
pub(super) const ISOLATED: [&str; 2] = ["isolated-sealed", "isolated-publishing"];
/// Says, in a claim, which seed was half published by a stage that could not be trusted: another one would be
/// mixed with it. It goes with the claim that completes the volume.
const HALF_PUBLISHED: &str = "half-published.json";
const HALF: &[u8] = HALF_PUBLISHED.as_bytes();
/// What is not needed any more begins with this.
pub(super) const DISCARDED: &str = "discarded";
/// How often a directory that a stale holder still fills is emptied, before that is an error.
pub(super) const TRIES: usize = 100;

/// What is kept of an older claim.
#[derive(Clone, Copy)]
enum Inherited {
    /// Its stage; whether its holder is certain to be dead.
    AsDead(bool),
    /// Nothing: others could change it. The other user whose it is.
    Nothing(Option<u32>),
}

impl<F: Files> ClaimStore<'_, F> {
    /// Makes sure that no earlier holder can change the volume any more, and keeps what it left:
    /// `is_dead` says whose death is certain, `fingerprint` what the seed of this replica is. Safe to
    /// interrupt: the next holder takes over what there is.
    ///
    /// # Errors
    /// When something could not be moved or removed; exit 78 where another image's seed was half published
    /// and what is left of it cannot be trusted.
    pub(crate) async fn fence(
        &self,
        claim: &mut Claim<F::Dir>,
        is_dead: impl Fn(&FoundClaim<F::Dir>) -> bool,
        mut fingerprint: impl AsyncFnMut() -> Result<String>,
    ) -> Result<Option<Leftover>> {
        let older = std::mem::take(&mut claim.older);
        // Also where it is gone by now: its holder may have completed the volume meanwhile.
        claim.inherited = !older.is_empty();
        for epoch in older.into_iter().rev() {
            let Some(found) = self.find(&claim.state, epoch).await? else { continue };
            let kept = match found.privacy {
                Privacy::Private if !claim.was_open => Inherited::AsDead(is_dead(&found)),
                Privacy::Private | Privacy::Open => Inherited::Nothing(None),
                Privacy::Foreign(owner) => Inherited::Nothing(Some(owner)),
            };
            self.take_over(claim, &found, kept, &mut fingerprint).await?;
        }
        if !claim.inherited {
            return Ok(None);
        }
        self.isolate_sealed(claim).await?;
        self.empty_removed(claim).await?;
        let leftover = self.find_leftover(claim).await?;
        // Without a higher claim until now nobody has taken from ours what we did not find in it. The
        // record, too, is final now: every replica that could have written it is fenced.
        if self.verify(claim).await? {
            return Ok(leftover);
        }
        let path = self.claim_path(claim.epoch);
        Err(Error::new(Exit::Held, "take over", "another replica has taken over meanwhile")
            .on(path.as_path()))
    }

    /// What an earlier holder sealed, and now is ours. What does not say what it is would only be in the
    /// next seal's way.
    async fn find_leftover(&self, claim: &Claim<F::Dir>) -> Result<Option<Leftover>> {
        let mut leftover = None;
        for sealing in [Sealing::Publishing, Sealing::Sealed] {
            match self.staged(&claim.dir, sealing.name()).await? {
                Some(staged) if is_seed(&staged) && leftover.is_none() => {
                    leftover = Some(Leftover { sealing, staged: staged.into() });
                }
                _ => self.discard(claim, sealing.name()).await?,
            }
        }
        Ok(leftover)
    }

    /// What is sealed was published long ago; it is not needed.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) async fn discard_sealed(&self, claim: &Claim<F::Dir>) -> Result<()> {
        self.discard(claim, SEALED).await?;
        self.discard(claim, PUBLISHING).await
    }

    /// What is sealed is another image's, and nothing of it is on the volume: it goes the way of an unsealed
    /// stage.
    ///
    /// # Errors
    /// When it cannot be moved or removed.
    pub(crate) async fn give_up_sealed(&self, claim: &Claim<F::Dir>) -> Result<()> {
        match self.rename_stage(claim, SEALED, REMAINS).await {
            Ok(()) => Ok(()),
            // Of an older claim's stage something remains, too.
            Err(_) => self.discard(claim, SEALED).await,
        }
    }

    async fn discard(&self, claim: &Claim<F::Dir>, part: &str) -> Result<()> {
        let path = self.claim_path(claim.epoch).join(part);
        self.none_if_missing(self.files.remove(&claim.dir, part.as_bytes()).await, "remove", &path).map(drop)
    }

    /// Of a stage that cannot be trusted, a part may have been moved to its place: that is no harm where we
    /// seed the same again, and is remembered until that is done.
    ///
    /// # Errors
    /// Exit 78 where it is another image's: the volume would be half of each.
    async fn note_half_published(
        &self,
        claim: &Claim<F::Dir>,
        from: &F::Dir,
        part: &[u8],
        fingerprint: &mut impl AsyncFnMut() -> Result<String>,
    ) -> Result<()> {
        let staged = match part {
            HALF => self.files.read(from, HALF_PUBLISHED).await.ok().and_then(|bytes| Staged::parse(&bytes)),
            part if is_publishing(part) => {
                self.staged(from, &String::from_utf8_lossy(part)).await.ok().flatten()
            }
            _ => None,
        };
        let Some(staged) = staged.filter(|staged| !staged.sealed.as_ref().is_some_and(|it| it.repairs))
        else {
            return Ok(());
        };
        if staged.is_upgrade() {
            let cause = "an upgrade was half done, and others could change the rest of it since";
            return Err(Error::new(Exit::Refused, "upgrade volume", cause).on(self.volume).help(
                "restore the volume from a backup; or, if its files are in order, remove .volseed from it: then it is adopted as it is",
            ));
        }
        if staged.fingerprint == fingerprint().await? {
            let path = self.claim_path(claim.epoch).join(HALF_PUBLISHED);
            let written = self.files.write(&claim.dir, HALF_PUBLISHED, &to_bytes(&staged)).await;
            return written.context("write record", path.as_path());
        }
        let cause = "another image's seed was half published, and others could change the rest of it since";
        Err(Error::new(Exit::Refused, "seed volume", cause).on(self.volume).help(
            "start the image that began, with the same options; or remove from the volume what it ships, and .volseed",
        ))
    }

    /// Moves everything out of an older claim and removes its directory, which is the end of its holder.
    async fn take_over(
        &self,
        claim: &Claim<F::Dir>,
        old: &FoundClaim<F::Dir>,
        kept: Inherited,
        fingerprint: &mut impl AsyncFnMut() -> Result<String>,
    ) -> Result<()> {
        let path = self.claim_path(old.epoch);
        let Some(claims) = self.directory(&claim.state, CLAIMS, &self.state.path.join(CLAIMS)).await? else {
            return Ok(());
        };
        let name = old.epoch.to_string();
        let mut discarded = 0;
        for _ in 0..TRIES {
            let Some(names) =
                self.none_if_missing(self.files.names(&old.dir).await, "read directory", &path)?
            else {
                return Ok(());
            };
            for part in names {
                let kept = self.kept_of(old, &part, kept).await?;
                if matches!(kept, Inherited::Nothing(_)) || *part == *HALF {
                    self.note_half_published(claim, &old.dir, &part, fingerprint).await?;
                }
                if !self.take_over_part(claim, old, &part, kept).await? {
                    self.distrust_remains(claim, old, &part).await?;
                    discarded += 1;
                    self.take_to_discard(claim, old, &part, discarded).await?;
                }
            }
            match self.files.rmdir(&claims, name.as_bytes()).await {
                Ok(()) | Err(Errno::NOENT | Errno::STALE) => return Ok(()),
                // A stale holder has just put something there.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error).context("remove directory", path.as_path()),
            }
        }
        Err(Error::new(Exit::Held, "take over", "the previous holder keeps writing to it")
            .on(path.as_path())
            .help("stop the other replica, or wait until it is done"))
    }

    /// Moves one part of an older claim to where it belongs in ours; whether that is anywhere.
    async fn take_over_part(
        &self,
        claim: &Claim<F::Dir>,
        old: &FoundClaim<F::Dir>,
        part: &[u8],
        kept: Inherited,
    ) -> Result<bool> {
        let path = self.claim_path(old.epoch);
        if !is_part(part) {
            return Err(foreign_state(&path, &format!("it holds '{}'", printable(part))));
        }
        let is_dead = match kept {
            Inherited::AsDead(is_dead) => is_dead,
            Inherited::Nothing(owner) => {
                // Emptied later: a stage without its tree is one that is published, and its holder,
                // whose claim is still there, would record that.
                let moved = self.remove_or_move((&old.dir, part), &claim.dir, owner).await;
                self.none_if_missing(moved, "take over", &path).map_err(third_user)?;
                return Ok(true);
            }
        };
        let Some(to) = kept_as(part, &old.epoch.to_string(), is_dead) else { return Ok(false) };
        // Of two stages only the newer is worth anything, and the newer came first.
        match self.files.rename(&old.dir, part, &claim.dir, to.as_bytes()).await {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            moved => self.none_if_missing(moved, "take over", &path).map(|_| true),
        }
    }

    /// A stage that its holder was syncing may have shared files with what remains of one before it, and nobody heard
    /// whether the sync kept their data: then neither is worth anything.
    async fn distrust_remains(
        &self,
        claim: &Claim<F::Dir>,
        old: &FoundClaim<F::Dir>,
        part: &[u8],
    ) -> Result<()> {
        let is_syncing = match std::str::from_utf8(part) {
            Ok(STAGE) => self.staged(&old.dir, STAGE).await?.is_some_and(|staged| staged.syncing),
            _ => false,
        };
        if is_syncing {
            let removed = self.files.remove(&claim.dir, REMAINS.as_bytes()).await;
            self.none_if_missing(removed, "remove", &self.claim_path(claim.epoch))?;
        }
        Ok(())
    }

    /// Removes what was taken over and may not be used, once the claims that it was in are gone.
    async fn empty_removed(&self, claim: &Claim<F::Dir>) -> Result<()> {
        let path = self.claim_path(claim.epoch);
        let names = self.files.names(&claim.dir).await.context("read directory", path.as_path())?;
        for name in names.iter().filter(|name| name.starts_with(REMOVED.as_bytes())) {
            let removed = self.remove_apart((&claim.dir, name), &claim.dir, removed_for(name)).await;
            self.none_if_missing(removed, "remove what others could change in", &path).map_err(third_user)?;
        }
        Ok(())
    }

    /// What is kept of one part of an older claim: nothing of a stage that others can enter.
    async fn kept_of(&self, old: &FoundClaim<F::Dir>, part: &[u8], kept: Inherited) -> Result<Inherited> {
        if part.starts_with(REMOVED.as_bytes()) {
            return Ok(Inherited::Nothing(removed_for(part)));
        }
        let is_stage = kept_as(part, "", false).is_some();
        if matches!(kept, Inherited::Nothing(_)) || !is_stage {
            return Ok(kept);
        }
        let path = self.claim_path(old.epoch);
        let Some(stage) =
            self.none_if_missing(self.files.open_entry(&old.dir, part).await, "open stage in", &path)?
        else {
            return Ok(kept);
        };
        Ok(match self.none_if_missing(self.files.privacy(&stage, Wall::Closed).await, "stat", &path)? {
            None | Some(Privacy::Private) => kept,
            Some(Privacy::Open) => Inherited::Nothing(None),
            Some(Privacy::Foreign(owner)) => Inherited::Nothing(Some(owner)),
        })
    }

    /// Moves to our claim what is not needed, and removes it there: removed in its place, a file that is
    /// open would keep its directory on FUSE and on NFS, under another name. What cannot be removed now
    /// goes with our claim.
    async fn take_to_discard(
        &self,
        claim: &Claim<F::Dir>,
        old: &FoundClaim<F::Dir>,
        part: &[u8],
        number: usize,
    ) -> Result<()> {
        let to = format!("{DISCARDED}.{}.{number}", old.epoch);
        let moved = self.files.rename(&old.dir, part, &claim.dir, to.as_bytes()).await;
        if self.none_if_missing(moved, "take over", &self.claim_path(old.epoch))?.is_some() {
            let _ = self.files.remove(&claim.dir, to.as_bytes()).await;
        }
        Ok(())
    }

    /// Moves all that is sealed and that an earlier holder may hold open to a directory that it does not
    /// know. Then it is ours alone.
    async fn isolate_sealed(&self, claim: &Claim<F::Dir>) -> Result<()> {
        let path = self.claim_path(claim.epoch);
        let names = self.files.names(&claim.dir).await.context("read directory", path.as_path())?;
        if !names.iter().any(|name| is_contested(name)) {
            return Ok(());
        }
        let isolated = async {
            let parts = self.one_seal(claim, names.iter().filter(|name| is_sealed(name))).await?;
            self.gather(claim, &parts).await
        };
        isolated.await.context("take over what is sealed in", path.as_path())
    }

    /// Of the sealed parts of our claim those that belong together: a holder may have given up what was taken
    /// from it in the same moment, and sealed its own image. What may be on the volume already counts. The
    /// others are set aside to be removed.
    async fn one_seal<'p>(
        &self,
        claim: &Claim<F::Dir>,
        parts: impl Iterator<Item = &'p Box<[u8]>>,
    ) -> rustix::io::Result<Vec<(&'p [u8], Option<Staged>)>> {
        let mut sealed = Vec::new();
        for part in parts {
            // One that was made just before a kill may hold half of its record, and then nothing else.
            let from = self.files.open_entry(&claim.dir, part).await?;
            let staged = self.files.read(&from, Staged::FILE).await.ok();
            let staged =
                staged.and_then(|bytes| Staged::parse(&bytes)).filter(|found| found.sealed.is_some());
            if staged.as_ref().is_some_and(|staged| !is_seed(staged)) {
                self.remove_or_move((&claim.dir, part), &claim.dir, None).await?;
                continue;
            }
            sealed.push((&**part, staged));
        }
        let first = |publishing: bool| {
            let mut wanted = sealed.iter().filter(|(part, _)| is_publishing(part) || !publishing);
            wanted.find_map(|(_, staged)| Some(staged.as_ref()?.fingerprint.clone()))
        };
        let chosen = first(true).or_else(|| first(false));
        let belongs = |staged: &Option<Staged>| {
            staged.is_none() || staged.as_ref().map(|staged| &staged.fingerprint) == chosen.as_ref()
        };
        for (part, _) in sealed.iter().filter(|(_, staged)| !belongs(staged)) {
            self.remove_or_move((&claim.dir, part), &claim.dir, None).await?;
        }
        sealed.retain(|(_, staged)| belongs(staged));
        Ok(sealed)
    }
}

/// What a part of claim `old` becomes in the claim that takes it over; nothing where it is not needed.
fn kept_as(part: &[u8], old: &str, is_dead: bool) -> Option<String> {
    let is = |name: &str| part == name.as_bytes();
    let isolated = ISOLATED.iter().position(|name| is(name));
    let sealed = [SEALED, PUBLISHING].iter().position(|name| is(name));
    match (sealed, isolated) {
        (Some(sealing), _) if is_dead => Some([SEALED, PUBLISHING][sealing].to_owned()),
        (Some(sealing), _) => Some(format!("{}.{old}", CONTESTED[sealing])),
        (None, Some(sealing)) => Some(format!("{}.{old}-isolated", CONTESTED[sealing])),
        _ if is(STAGE) && is_dead => Some(STAGE.to_owned()),
        _ if is(STAGE) || is(REMAINS) => Some(REMAINS.to_owned()),
        _ if is_contested(part) => Some(String::from_utf8_lossy(part).into_owned()),
        _ => None,
    }
}

/// Whether it is sealed, and more than what a repair puts back.
fn is_seed(staged: &Staged) -> bool {
    staged.sealed.as_ref().is_some_and(|sealed| !sealed.repairs)
}

fn is_contested(part: &[u8]) -> bool {
    CONTESTED.iter().any(|prefix| part.starts_with(prefix.as_bytes()))
}

fn is_sealed(part: &[u8]) -> bool {
    is_contested(part) || part == SEALED.as_bytes() || part == PUBLISHING.as_bytes()
}

/// Whether it is one of the names that volseed makes in a claim; also under the name that an NFS client, and
/// libfuse, give to what somebody has open.
fn is_part(part: &[u8]) -> bool {
    let files = [HOLDER, HEARTBEAT, Public::FILE, Complete::FILE, RETIRED[0], RETIRED[1], HALF_PUBLISHED];
    let is_file = |file: &&str| {
        part.strip_prefix(file.as_bytes()).is_some_and(|rest| [b"".as_slice(), b".tmp"].contains(&rest))
    };
    let begins = [DISCARDED, REMOVED, ".nfs", ".fuse_hidden"];
    kept_as(part, "", false).is_some()
        || files.iter().any(is_file)
        || begins.iter().any(|begin| part.starts_with(begin.as_bytes()))
}

/// Whether a part of what it was may be on the volume.
pub(super) fn is_publishing(part: &[u8]) -> bool {
    [PUBLISHING, CONTESTED[1], ISOLATED[1]].iter().any(|name| part.starts_with(name.as_bytes()))
}

/// A directory of a third user's is in it: its owner could not have removed it, and for its owner we do not.
fn third_user(error: Error) -> Error {
    match error.exit_code() {
        Exit::Permission => error.exit(Exit::Refused).help(
            "it holds a third user's directory: look at what is there, and remove .volseed from the volume",
        ),
        _ => error,
    }
}
