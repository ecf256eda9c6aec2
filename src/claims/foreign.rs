//! What is another user's in the place of our own: it is made ours, and nothing in it is used.
//!
//! Moved aside, a state directory would stop nobody: a holder in it goes on through its descriptors. Once it
//! belongs to us nobody else can make a claim in it, and the claims in it are taken over like any other, but
//! for that nothing of them is kept.

use rustix::io::Errno;

use super::disk::LOCK;
use super::io::Files;
use super::store::{BUILDING, CLAIMS, ClaimStore, State};
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::volume::records::{Complete, ManifestRef, NEW, OLD, Public};
use crate::volume::{Privacy, Wall};

/// All that volseed leaves in its directory.
const OURS: [&str; 7] = [CLAIMS, BUILDING, LOCK, OLD, NEW, Public::FILE, Complete::FILE];
/// How the names of others begin that it leaves there. Directories that are being removed have the first, and an NFS
/// client, and libfuse, give the last two to what somebody has open.
const OUR_PREFIXES: [&str; 4] = [REMOVED, ManifestRef::PREFIX, ".nfs", ".fuse_hidden"];
/// Names of directories that are being removed begin with this.
pub(crate) const REMOVED: &str = "removed-";

impl<F: Files> ClaimStore<'_, F> {
    /// Makes the state directory, where there is none; nothing where there is one by now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn make_state(&self) -> Result<Option<F::Dir>> {
        match self.files.make_listed(&self.state.parent, &self.state.name).await {
            Err(Errno::EXIST) => Ok(None),
            made => made.map(Some).context("create directory", self.state.path.as_path()),
        }
    }

    /// Makes the state directory of the user `owner` ours; whether it is.
    ///
    /// # Errors
    /// Exit 78 where it holds what is not volseed's, or another user's: then it may be anything, and its owner
    /// had no right to it. What may not be had is no error: its owner may still complete the volume.
    pub(crate) async fn seize_state(&self, state: &State<F::Dir>, owner: u32) -> Result<bool> {
        match self.files.seize(&state.dir, Wall::Listed).await {
            Err(Errno::PERM | Errno::ACCESS) => return Ok(false),
            seized => seized.context("change owner of", self.state.path.as_path())?,
        }
        // Only now nothing more can be put there.
        let Some(other) =
            self.not_of(&state.dir, owner).await.context("look into", self.state.path.as_path())?
        else {
            return Ok(true);
        };
        let given_back = self.files.give_back(&state.dir, owner).await;
        given_back.context("change owner of", self.state.path.as_path())?;
        let cause = format!("it belongs to another user and holds {other}");
        Err(Error::new(Exit::Refused, "take over", cause)
            .on(self.state.path.as_path())
            .help("look at what is there; remove .volseed from the volume to have it seeded again"))
    }

    /// What is in a state directory that was the user `owner`'s and is neither that user's nor volseed's: the
    /// user can have moved it there without a right to what is in it. What is ours there is closed to others,
    /// as volseed makes it.
    async fn not_of(&self, state: &F::Dir, owner: u32) -> rustix::io::Result<Option<String>> {
        for name in self.files.names(state).await? {
            if !is_ours(&name) {
                return Ok(Some(format!("'{}', which is not volseed's", printable(&name))));
            }
            let dir = match self.files.open_entry(state, &name).await {
                Ok(dir) => dir,
                Err(Errno::XDEV) => return Ok(Some(format!("another file system, '{}'", printable(&name)))),
                Err(_) => continue,
            };
            let mut dirs = vec![dir];
            if *name == *CLAIMS.as_bytes() {
                for claim in self.files.names(&dirs[0]).await? {
                    dirs.extend(self.files.open_entry(&dirs[0], &claim).await.ok());
                }
            }
            for dir in dirs {
                let privacy = match self.files.privacy(&dir, Wall::Closed).await {
                    Err(Errno::NOENT | Errno::STALE) => continue,
                    privacy => privacy?,
                };
                if privacy != Privacy::Private && privacy != Privacy::Foreign(owner) {
                    return Ok(Some(format!("a third user's directory, '{}' or in it", printable(&name))));
                }
            }
        }
        Ok(None)
    }

    /// Makes the directory of the claims ours, and closes it to others.
    pub(crate) async fn own_claims(&self, claims: &F::Dir) -> rustix::io::Result<()> {
        match self.files.privacy(claims, Wall::Closed).await? {
            Privacy::Private => Ok(()),
            Privacy::Open => self.files.close(claims, Wall::Closed).await.map(drop),
            Privacy::Foreign(_) => self.files.seize(claims, Wall::Closed).await,
        }
    }

    /// The directory in which claims are built: no claim is in it yet, so what is another user's just goes, or
    /// stays under another name where a third user's is in it.
    pub(crate) async fn own_building(&self, state: &F::Dir) -> rustix::io::Result<F::Dir> {
        let building = self.files.ensure(state, BUILDING).await?;
        match self.files.privacy(&building, Wall::Closed).await? {
            Privacy::Private => Ok(building),
            Privacy::Open => self.files.close(&building, Wall::Closed).await.map(|_| building),
            Privacy::Foreign(owner) => {
                let _ = self.remove_apart((state, BUILDING.as_bytes()), state, Some(owner)).await;
                self.files.ensure(state, BUILDING).await
            }
        }
    }

    /// Removes a name and all that is below it, which a stale holder may be publishing. Every directory is
    /// first moved to a name in `to` that the holder does not know: else it could be in its place by the time
    /// that it is emptied. That is also why no mount is entered: it cannot be moved (rename(2), `EBUSY`).
    /// Where `owner` is another user, nothing is done that this user could not have done.
    ///
    /// # Errors
    /// `EPERM` where a directory belongs to a third user beside us and `owner`; else the first that stops it.
    pub(crate) async fn remove_apart(
        &self,
        (at, name): (&F::Dir, &[u8]),
        to: &F::Dir,
        owner: Option<u32>,
    ) -> rustix::io::Result<()> {
        let mut apart = Vec::from_iter(self.remove_or_move((at, name), to, owner).await?);
        while let Some(moved) = apart.pop() {
            let dir = match self.files.open_entry(to, moved.as_bytes()).await {
                // Somebody who takes over from us has it.
                Err(Errno::NOENT | Errno::STALE) => continue,
                // Its owner has put something else in its place before it was moved.
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    self.files.unlink(to, moved.as_bytes()).await?;
                    continue;
                }
                opened => opened?,
            };
            match self.may_empty(&dir, owner).await {
                Err(Errno::NOENT | Errno::STALE) => continue,
                may => may?,
            }
            for child in self.files.names(&dir).await? {
                apart.extend(self.remove_or_move((&dir, &child), to, owner).await?);
            }
            match self.files.rmdir(to, moved.as_bytes()).await {
                // Also where it was done, and the answer lost.
                Ok(()) | Err(Errno::NOENT | Errno::STALE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what is no directory; a directory is moved to `to`, under a name that is returned.
    ///
    /// # Errors
    /// `EPERM` where it belongs to a third user beside us and `owner`: then it stays where it is.
    pub(crate) async fn remove_or_move(
        &self,
        (at, name): (&F::Dir, &[u8]),
        to: &F::Dir,
        owner: Option<u32>,
    ) -> rustix::io::Result<Option<String>> {
        match self.files.unlink(at, name).await {
            Ok(()) | Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        if owner.is_some()
            && let Ok(dir) = self.files.open_entry(at, name).await
        {
            self.may_empty(&dir, owner).await?;
        }
        let new = self.files.new_name(&removed_of(owner));
        match self.files.rename(at, name, to, new.as_bytes()).await {
            // It is not there any more; or it was moved, and the answer lost.
            Ok(()) | Err(Errno::NOENT) => Ok(Some(new)),
            Err(error) => Err(error),
        }
    }

    async fn may_empty(&self, dir: &F::Dir, owner: Option<u32>) -> rustix::io::Result<()> {
        match owner {
            Some(owner) if !self.files.is_removable(dir, owner).await? => Err(Errno::PERM),
            _ => Ok(()),
        }
    }
}

/// How the name of a directory begins that is being removed for this user.
fn removed_of(owner: Option<u32>) -> String {
    owner.map_or_else(|| REMOVED.to_owned(), |owner| format!("{REMOVED}{owner}-"))
}

/// The user on whose behalf a directory with this name is being removed.
pub(crate) fn removed_for(name: &[u8]) -> Option<u32> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix(REMOVED)?;
    name.split_once('-')?.0.parse().ok()
}

/// What volseed leaves in its directory.
fn is_ours(name: &[u8]) -> bool {
    OURS.iter().any(|ours| name == ours.as_bytes())
        || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}
