//! The claims on a volume, and its record, as they are found.
//!
//! A claim is a directory `claims/<epoch>`, built whole elsewhere and renamed to its place: each number
//! has one owner. Its holder changes the volume only by renames out of it:
//!
//! - a tree is staged in `stage`, and `stage` renamed to `sealed` once it is whole and durable;
//! - `sealed` is renamed to `publishing` before the first move, and what is published is moved out of it;
//! - the record is written in the claim and renamed to its place.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::beat::Holder;
use super::io::Files;
use crate::error::{Context, Result};
use crate::volume::records;
use crate::volume::records::{Public, Staged};
use crate::volume::{Location, Privacy, Wall, foreign_state};

/// Where the claims are, below the state directory.
pub(crate) const CLAIMS: &str = "claims";
/// Where they are built.
pub(crate) const BUILDING: &str = "tmp";
/// Whose a claim is.
pub(crate) const HOLDER: &str = "claim.json";
/// Its heartbeat.
pub(crate) const HEARTBEAT: &str = "heartbeat";
/// What is being staged.
pub(crate) const STAGE: &str = "stage";
/// What is staged, whole and durable.
pub(crate) const SEALED: &str = "sealed";
/// What is sealed and perhaps partly moved to its place.
pub(crate) const PUBLISHING: &str = "publishing";
/// An earlier holder's stage, of which only whole files may be taken.
pub(crate) const REMAINS: &str = "remains";
/// The public and the private record, once they are not true any more.
pub(crate) const RETIRED: [&str; 2] = ["retired.json", "retired-record.json"];

/// The highest number of a claim that counts: counting does not get there.
pub(super) const MAX_EPOCH: u64 = u64::MAX / 2;

/// The replicas' directories on one volume.
pub(crate) struct ClaimStore<'a, F: Files> {
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
pub(crate) struct Claim<D> {
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
    /// Whether no claim was higher at the last look.
    pub(super) is_highest: bool,
    /// The lower claims that were there then.
    pub(crate) older: Vec<u64>,
    pub(super) nonce: String,
    /// The directories that it was made in.
    pub(super) claims: D,
    pub(crate) state: D,
}

/// How far a whole and durable stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealing {
    /// Nothing of it is on the volume.
    Sealed,
    /// A part of it may have been moved to its place.
    Publishing,
}

impl Sealing {
    /// The name of the stage's directory in a claim.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Sealing::Sealed => SEALED,
            Sealing::Publishing => PUBLISHING,
        }
    }
}

/// What an earlier holder staged whole and durable, and did not publish to the end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leftover {
    /// How far it was.
    pub sealing: Sealing,
    /// What its stage says of itself.
    pub staged: Box<Staged>,
}

/// A stage that is sealed: only [`ClaimStore::seal`] makes one.
pub(crate) struct SealedStage<S>(pub(super) S);

/// A sealed stage of which a part may be on the volume: only a durable mark of that makes one.
pub(crate) struct Publishing<S>(pub(crate) S);

/// What came of claiming a volume.
pub(crate) enum Claimed<D> {
    /// It is ours.
    Won(Claim<D>),
    /// Another replica was quicker, and is done or at work; ours is to be dropped.
    Superseded(Claim<D>),
    /// Another replica was quicker.
    Lost,
}

/// A claim that was found on the volume.
pub(crate) struct FoundClaim<D> {
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
pub(crate) struct State<D> {
    /// The directory.
    pub dir: D,
    /// Whether it is ours.
    pub privacy: Privacy,
}

impl<D> State<D> {
    /// The other user whose it is.
    pub(crate) fn foreign(&self) -> Option<u32> {
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
    /// Exit 77 when it may not be entered, 78 when something else has its name; `ESTALE` when the server no longer
    /// knows the volume.
    pub(crate) async fn state_dir(&self) -> Result<Option<F::Dir>> {
        let opened = self.files.open(&self.state.parent, &self.state.name).await;
        if matches!(opened, Err(Errno::STALE)) {
            // A server that does not know the root either says nothing of what is in it.
            self.files.ask(&self.state.parent).await.context("look at volume", self.volume)?;
        }
        records::opened_to_us(self.opened(opened, &self.state.path))
    }

    /// The same, and whose it is: that may have to be asked of a server.
    ///
    /// # Errors
    /// As [`ClaimStore::state_dir`].
    pub(crate) async fn state(&self) -> Result<Option<State<F::Dir>>> {
        match self.state_dir().await? {
            Some(dir) => self.owned(dir).await,
            None => Ok(None),
        }
    }

    /// Whose a state directory is.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(crate) async fn owned(&self, dir: F::Dir) -> Result<Option<State<F::Dir>>> {
        let privacy = self.files.privacy(&dir, Wall::Listed).await;
        let privacy = self.none_if_missing(privacy, "stat", &self.state.path)?;
        Ok(privacy.map(|privacy| State { dir, privacy }))
    }

    /// The public record, which alone says whether the volume is complete.
    ///
    /// # Errors
    /// Exit 78 when what is there is no record of ours.
    pub(crate) async fn record(&self, state: &F::Dir) -> Result<Option<Public>> {
        let path = self.state.path.join(Public::FILE);
        let read = self.files.read(state, Public::FILE).await;
        match records::opened_to_us(self.none_if_missing(read, "read record", &path))? {
            Some(bytes) => Public::parse(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    /// Whether `record` is still the volume's, or was since renewed. To be asked after a look at what it speaks of: an
    /// emptied volume that is seeded again has no record from before its first new entry to its last.
    ///
    /// # Errors
    /// As [`ClaimStore::record`].
    pub(crate) async fn is_current(&self, record: &Public) -> Result<bool> {
        let Some(state) = self.state_dir().await? else { return Ok(false) };
        Ok(self.record(&state).await?.is_some_and(|now| now.renews(record)))
    }

    /// The numbers of the claims, ascending. Names that volseed does not write are none of ours.
    ///
    /// # Errors
    /// Exit 78 when something else is in their place.
    pub(crate) async fn epochs(&self, state: &F::Dir) -> Result<Vec<u64>> {
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
    pub(crate) async fn find(&self, state: &F::Dir, epoch: u64) -> Result<Option<FoundClaim<F::Dir>>> {
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
            return Ok(Some(FoundClaim { epoch, dir, holder: None, beat: Vec::new(), privacy }));
        }
        let holder = self.holder(&dir, &path).await?;
        let beat = self.none_if_missing(self.files.read(&dir, HEARTBEAT).await, "read heartbeat", &path)?;
        Ok(Some(FoundClaim { epoch, dir, holder, beat: beat.unwrap_or_default(), privacy }))
    }

    /// The newest claim.
    ///
    /// # Errors
    /// Exit 78 when what is there is no claim of ours.
    pub(crate) async fn newest(&self, state: &F::Dir) -> Result<Option<FoundClaim<F::Dir>>> {
        for epoch in self.epochs(state).await?.into_iter().rev() {
            if let Some(found) = self.find(state, epoch).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What a stage says of itself, where there is one.
    ///
    /// # Errors
    /// When it cannot be read. An invalid record counts as none.
    pub(crate) async fn staged(&self, claim: &F::Dir, name: &str) -> Result<Option<Staged>> {
        let path = self.state.path.join(name);
        let Some(wrapper) = self.directory(claim, name, &path).await? else { return Ok(None) };
        let bytes =
            self.none_if_missing(self.files.read(&wrapper, Staged::FILE).await, "read record", &path)?;
        Ok(bytes.and_then(|bytes| Staged::parse(&bytes)))
    }

    async fn holder(&self, dir: &F::Dir, path: &Path) -> Result<Option<Holder>> {
        let path = path.join(HOLDER);
        match self.none_if_missing(self.files.read(dir, HOLDER).await, "read record", &path)? {
            Some(bytes) => records::from_bytes(&bytes, &path).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) async fn directory(&self, at: &F::Dir, name: &str, path: &Path) -> Result<Option<F::Dir>> {
        self.opened(self.files.open(at, name).await, path)
    }

    fn opened(&self, opened: rustix::io::Result<F::Dir>, path: &Path) -> Result<Option<F::Dir>> {
        match opened {
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
