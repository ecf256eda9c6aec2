//! Taking over what an earlier holder left, so that a stale one can do no harm.
//!
//! `stage` and `sealed` are moved out of the old claim and its directory is removed. From then on an old
//! holder can neither seal nor record. What it may still hold open is put where it does no harm: an
//! unsealed stage becomes `remains`, of which finished files are taken one by one; out of a sealed one
//! everything is moved to a fresh directory.

use rustix::io::Errno;

use super::claim::{CLAIMS, Claim, FRESH, Found, Ground, LOOSE, REMAINS, SEALED, STAGE, TRIES, WASTE};
use super::files::Files;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::mutant::{self, Mutant};
use crate::state::{Staged, TREE};

impl<F: Files> Ground<'_, F> {
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
    pub(super) async fn become_sealed(&self, claim: &Claim<F::Dir>, part: &str) -> rustix::io::Result<()> {
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
}
