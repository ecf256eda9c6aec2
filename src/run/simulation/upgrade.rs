//! What a simulated replica does after the seal of an upgrade, as `seed::upgrade` does it.

use rustix::io::{Errno, Result};

use super::replica::{Heartbeat, SENTINEL, SmallSeed, image};
use super::sim::Fault;
use super::world::{Ino, ROOT};
use crate::claims::io::Files;
use crate::claims::store::Claim;
use crate::error::Context;
use crate::seed::upgrade::candidate::candidate_name;
use crate::seed::upgrade::matrix::{Action, Change, Found, Rule, decide};
use crate::volume::records::{ASIDE, OLD};

impl SmallSeed {
    /// An upgrade after its seal, as `seed::upgrade` does it: what differs, the sentinel last.
    pub(super) async fn change(
        &self,
        claim: &Claim<Ino>,
        (wrapper, tree): (&Ino, &Ino),
        (old, new): (u32, u32),
        (heartbeat, looks): (&Heartbeat, bool),
    ) -> crate::error::Result<()> {
        let calls = &self.calls;
        let aside = calls.open(wrapper, ASIDE).await.context("open", ASIDE)?;
        let (olds, news) = (image(old), image(new));
        let mut paths: Vec<&String> = olds.keys().chain(news.keys()).collect();
        paths.sort_by_key(|path| (*path == SENTINEL, (*path).clone()));
        paths.dedup();
        for path in paths.into_iter().filter(|path| olds.get(*path) != news.get(*path)) {
            let places = (wrapper, tree, &aside);
            let one = self.change_one(claim, places, path, (olds.get(path), news.get(path)));
            self.go_on(heartbeat, looks).await?;
            one.await.context("upgrade", path.as_str())?;
        }
        for path in olds.keys() {
            let Some((directory, _)) = path.rsplit_once('/') else { continue };
            let is_kept = news.keys().any(|new| new.starts_with(&format!("{directory}/")));
            let parent = self.parent(ROOT, directory).await.context("open", directory)?;
            let Some((parent, name)) = parent.filter(|_| !is_kept) else { continue };
            let is_empty = match calls.open_entry(&parent, name.as_bytes()).await {
                Ok(there) => calls.names(&there).await.is_ok_and(|names| names.is_empty()),
                Err(_) => false,
            };
            if is_empty {
                self.go_on(heartbeat, looks).await?;
                let moved = calls.rename(&parent, name.as_bytes(), &aside, &aside_name(directory)).await;
                moved.or_else(unless_gone).context("set aside", directory)?;
                calls.sync(&parent).await.context("sync", directory)?;
            }
        }
        Ok(())
    }

    async fn change_one(
        &self,
        claim: &Claim<Ino>,
        (wrapper, tree, aside): (&Ino, &Ino, &Ino),
        path: &str,
        (old, new): (Option<&Vec<u8>>, Option<&Vec<u8>>),
    ) -> Result<()> {
        let calls = &self.calls;
        let Some((to, name)) = self.parent(ROOT, path).await? else {
            if old.is_some() {
                // An earlier run removed the directory, too.
                return Ok(());
            }
            // A whole directory that only the new image has.
            let (mut from, mut to) = (*tree, ROOT);
            for part in path.split('/') {
                match calls.open_entry(&to, part.as_bytes()).await {
                    Ok(below) => to = below,
                    Err(Errno::NOENT) => {
                        let moved = calls.rename(&from, part.as_bytes(), &to, part.as_bytes()).await;
                        moved.or_else(unless_gone)?;
                        break;
                    }
                    Err(error) => return Err(error),
                }
                match calls.open_entry(&from, part.as_bytes()).await {
                    Ok(below) => from = below,
                    // An earlier run moved it.
                    Err(error) => return unless_gone(error),
                }
            }
            return calls.sync(&to).await;
        };
        self.sweep(claim, to).await?;
        let there = match calls.look_up(to, name.as_bytes()).await {
            Ok(file) => {
                calls.call(Fault::Usual, |world, _, _| world.data(file).map(<[u8]>::to_vec)).await.ok()
            }
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        let found = match &there {
            None => Found::Nothing,
            Some(there) if Some(there) == new => Found::AsNew,
            Some(there) if Some(there) == old => Found::AsOld,
            Some(_) => Found::Other,
        };
        let change = match (old, new) {
            (None, _) => Change::Added,
            (Some(_), Some(_)) => Change::Changed,
            (Some(_), None) => Change::Removed,
        };
        match decide(change, found, Rule::Default) {
            Action::Nothing | Action::Stay(..) => {}
            Action::Remove => {
                let moved = calls.rename(&to, name.as_bytes(), aside, &aside_name(path)).await;
                moved.or_else(unless_gone)?;
            }
            action => {
                let Some((from, _)) = self.parent(*tree, path).await? else { return Ok(()) };
                if calls.look_up(from, name.as_bytes()).await.is_err() {
                    return Ok(());
                }
                if action == Action::ReplaceAndSave {
                    self.save(claim, to, &name).await?;
                }
                // Hard links may be refused.
                let as_candidate = calls.sim.chance(2);
                if as_candidate && self.place_candidate(claim, wrapper, (from, to), name.as_bytes()).await {
                    calls.sync(&to).await?;
                    // Not before: both names could be lost.
                    return calls.unlink(&from, name.as_bytes()).await.or_else(unless_gone);
                }
                let moved = calls.rename(&from, name.as_bytes(), &to, name.as_bytes()).await;
                moved.or_else(unless_gone)?;
            }
        }
        // Also what an earlier run moved.
        calls.sync(&to).await
    }

    /// Removes the candidates of earlier holders: from then on none of these can give one its place.
    async fn sweep(&self, claim: &Claim<Ino>, dir: Ino) -> Result<()> {
        let calls = &self.calls;
        loop {
            let older = calls.call(Fault::Usual, |world, _, _| world.sweep(dir, claim.epoch)).await?;
            if older.is_empty() {
                return Ok(());
            }
            for name in older {
                calls.unlink(&dir, &name).await.or_else(unless_gone)?;
            }
        }
    }

    /// Gives a staged file a second name beside its place, and that the place, if the claim was held in between;
    /// whether it is there.
    async fn place_candidate(
        &self,
        claim: &Claim<Ino>,
        wrapper: &Ino,
        (from, to): (Ino, Ino),
        name: &[u8],
    ) -> bool {
        let calls = &self.calls;
        let candidate = candidate_name(claim.epoch, name);
        let Ok(file) = calls.look_up(from, name).await else { return false };
        let linked = calls.call_in(Fault::NotTwice, to, |world, _, _| world.link(file, to, &candidate)).await;
        let is_held = linked.is_ok() && self.is_held(claim, wrapper).await;
        if is_held && calls.rename(&to, &candidate, &to, name).await.is_ok() {
            return true;
        }
        let _ = calls.unlink(&to, &candidate).await;
        false
    }

    /// Whether what is sealed is where this holder opened it: a holder that has fenced this one has removed that.
    async fn is_held(&self, claim: &Claim<Ino>, wrapper: &Ino) -> bool {
        let name = format!("held-{}", claim.epoch);
        match self.calls.make(wrapper, &name).await {
            Ok(_) | Err(Errno::EXIST) => {
                let _ = self.calls.rmdir(wrapper, name.as_bytes()).await;
                true
            }
            Err(_) => false,
        }
    }

    /// A second name for what a user has changed.
    async fn save(&self, claim: &Claim<Ino>, from: Ino, name: &str) -> Result<()> {
        let calls = &self.calls;
        let saved = match calls.make(&claim.state, OLD).await {
            Err(Errno::EXIST) => calls.open(&claim.state, OLD).await,
            made => made,
        }?;
        let kept = calls.new_name(name);
        let linked = calls.call(Fault::Usual, |world, _, _| {
            let file = world.look_up(calls.host, from, name.as_bytes(), false)?;
            world.link(file, saved, kept.as_bytes())
        });
        match linked.await {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST) => calls.sync(&saved).await,
            Err(error) => Err(error),
        }
    }

    /// The directory that `path` is in, below `root`, and the name there; every one above it is opened.
    async fn parent(&self, root: Ino, path: &str) -> Result<Option<(Ino, String)>> {
        let (calls, host) = (&self.calls, self.calls.host);
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default().to_owned();
        let opened = calls.call(Fault::Usual, |world, _, _| {
            world.revalidate(host, root);
            Ok(())
        });
        opened.await?;
        let mut at = root;
        for part in parts {
            at = match calls.open_entry(&at, part.as_bytes()).await {
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                opened => opened?,
            };
        }
        Ok(Some((at, name)))
    }
}

fn aside_name(path: &str) -> Vec<u8> {
    path.replace('/', "_").into_bytes()
}

/// It was done, by this replica or by another one.
fn unless_gone(error: Errno) -> Result<()> {
    if error == Errno::NOENT { Ok(()) } else { Err(error) }
}
