//! A simulated replica: the protocol's calls on the simulated volume, and a small seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{Errno, Result};

use super::calls::{Calls, Ticks, all};
use super::sim::Fault;
use super::world::{Actor, Ino, ROOT, World};
use crate::claims::beat::{Beat, Holder};
use crate::claims::heartbeat;
use crate::claims::heartbeat::Pulse;
use crate::claims::io::{Clock, Files};
use crate::claims::store::{Claim, PUBLISHING, REMAINS, STAGE};
use crate::error::{Context, Error};
use crate::exit::Exit;
use crate::run::gate::Next;
use crate::run::steps::{Event, Whole, Work};
use crate::text::Untrusted;
use crate::volume::records::{
    ASIDE, Complete, DIRECTORY, Durability, FORMAT, ManifestRef, Name, Public, Sealed, Settings, Staged,
    TREE, Totals, Unkept, UpgradeSeal, to_bytes,
};

/// Every file of every image has this time: size and time alone do not tell images apart.
pub(crate) const TIME: u32 = 7;
/// Published last.
pub(crate) const SENTINEL: &str = "version";

/// The files of an image: path and content, as long in one image as in the other.
pub(crate) fn image(number: u32) -> BTreeMap<String, Vec<u8>> {
    let paths = match number {
        1 => ["a/one", "a/deep/two", "b", SENTINEL],
        _ => ["a/one", "a/other", "c/three", SENTINEL],
    };
    paths.into_iter().map(|path| (path.to_owned(), format!("{number}:{path}").into_bytes())).collect()
}

/// The image of this version.
pub(crate) fn image_of(version: Option<&Untrusted>) -> u32 {
    version.and_then(|version| version.raw().parse().ok()).unwrap_or(0)
}

/// What lists the files of an image.
pub(crate) fn manifest(number: u32) -> Vec<u8> {
    image(number).into_keys().collect::<Vec<_>>().join("\n").into_bytes()
}

/// What a replica does: seeds an image.
pub(crate) struct SmallSeed {
    pub calls: Calls,
    pub image: u32,
    pub boot: String,
    /// Whether it puts back what is missing.
    pub repairs: bool,
    /// Whether the sentinel may be there before any seed.
    pub adopts: bool,
    /// Whether it has a hook.
    pub hooks: bool,
    /// The version that it takes back, where it does.
    pub rollback_from: Option<u32>,
    /// Whether it only waits; then it runs no hook.
    pub waits: bool,
    /// The files that are staged, where it is not all of them, and what they are for.
    pub only: RefCell<Option<(BTreeSet<String>, String)>>,
}

/// The heartbeat's task.
pub(crate) struct Heartbeat {
    pulse: Arc<Pulse>,
    enough: Rc<Cell<bool>>,
    over: Rc<Cell<bool>>,
}

impl Work<Calls> for SmallSeed {
    type Heartbeat = Heartbeat;
    type Source = u32;
    type Staged = (Ino, Sealed);
    type Synced = (Ino, Sealed);
    type Published = Sealed;

    async fn is_emptied(&self, record: &Public) -> crate::error::Result<bool> {
        let names = self.calls.names(&ROOT).await.context("read", "/")?;
        Ok(!record.top.is_empty() && !names.iter().any(|name| record.lists(name)))
    }

    async fn is_gone(&self, record: &Complete) -> crate::error::Result<bool> {
        let names = self.calls.names(&ROOT).await.context("read", "/")?;
        Ok(!record.top.is_empty()
            && !record.top.iter().any(|top| names.iter().any(|name| **name == *top.as_bytes())))
    }

    async fn has_sentinel(&self) -> crate::error::Result<bool> {
        Ok(self.adopts && self.calls.look_up(ROOT, SENTINEL.as_bytes()).await.is_ok())
    }

    async fn refuses_state(&self) -> Option<String> {
        None
    }

    fn holder(&self, locked: bool) -> Holder {
        self.calls.sim.claims(locked);
        Holder {
            format: FORMAT,
            epoch: 0,
            nonce: format!("{}-{}", self.calls.replica, self.calls.sim.random(u64::MAX)),
            host: String::new().into(),
            container: None,
            pid: 1,
            since: 0,
            boot: Some(self.boot.clone()),
            device: self.calls.host as u64,
            locked,
        }
    }

    fn same_mount(&self, holder: &Holder) -> bool {
        holder.boot.as_ref() == Some(&self.boot) && holder.device == self.calls.host as u64
    }

    fn start_heartbeat(&self, claim: &Claim<Ino>) -> crate::error::Result<Heartbeat> {
        let sim = &self.calls.sim;
        let holder =
            Actor { epoch: claim.epoch, claim: claim.dir, state: claim.state, repairs: self.repairs };
        self.calls.actor.set(holder);
        sim.world.borrow_mut().begun(holder);
        let (enough, over) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let clock = Ticks { sim: Rc::clone(sim), replica: self.calls.replica, enough: Rc::clone(&enough) };
        let pulse = Pulse::new(clock.now());
        let heartbeat = Heartbeat { pulse: Arc::clone(&pulse), enough, over: Rc::clone(&over) };
        let (calls, dir) = (self.calls.clone(), claim.dir);
        sim.start(self.calls.replica, async move {
            heartbeat::beat(&calls, &clock, &dir, &pulse, Beat::default).await;
            over.set(true);
        });
        Ok(heartbeat)
    }

    async fn stop(&self, heartbeat: Heartbeat) {
        heartbeat.enough.set(true);
        while !heartbeat.over.get() {
            self.calls.sim.sleep(Duration::from_millis(50)).await;
        }
    }

    async fn open_source(&self, _: bool) -> crate::error::Result<u32> {
        Ok(self.image)
    }

    fn fingerprint(&self, _: &u32) -> String {
        self.new_stage().fingerprint
    }

    async fn stage(
        &self,
        claim: &Claim<Ino>,
        _: u32,
        after: Option<&Public>,
        _: &Heartbeat,
    ) -> crate::error::Result<(Ino, Sealed)> {
        let stage = self.fill_stage(claim).await.context("stage", "stage")?;
        let sealed = Sealed {
            generation: after.map_or(1, |record| record.generation + 1),
            version: Some(self.image.to_string()),
            totals: Totals::default(),
            settings: Settings::default(),
            source: None,
            repairs: false,
            hook: self.hooks,
            upgrade: None,
            manifest: Some(ManifestRef {
                digest: String::new().into(),
                bytes: manifest(self.image).len() as u64,
                unkept: Unkept::default(),
            }),
            top: image(self.image)
                .keys()
                .map(|path| Name::from(path.split('/').next().unwrap_or("").as_bytes()))
                .collect(),
            root: None,
        };
        Ok((stage, sealed))
    }

    async fn next(&self, record: &Public) -> crate::error::Result<Next> {
        let is_at = |image: u32| record.has_version(&image.to_string());
        if !is_at(self.image) && (self.image > 1 || self.rollback_from.is_some()) {
            // Which versions came before is not public.
            self.read_record(record).await?;
        }
        Ok(match record.is_complete() {
            true if is_at(self.image) => Next::Start,
            false if is_at(self.image) && !self.waits => Next::Hook,
            _ if self.rollback_from.is_some_and(is_at) => Next::Change,
            false => Next::Wait,
            true if (1..self.image).any(is_at) => Next::Change,
            true => Next::Start,
        })
    }

    async fn ask_before_upgrade(
        &self,
        _: &Claim<Ino>,
        _: &Public,
        heartbeat: &Heartbeat,
    ) -> crate::error::Result<()> {
        if !self.hooks { Ok(()) } else { self.run(heartbeat).await }
    }

    async fn run_hook(
        &self,
        claim: &Claim<Ino>,
        record: &Public,
        _: bool,
        heartbeat: &Heartbeat,
    ) -> crate::error::Result<()> {
        let sim = &self.calls.sim;
        let bytes = self.calls.read(&claim.state, Complete::FILE).await.context("read", Complete::FILE)?;
        let complete = Complete::parse(&bytes, std::path::Path::new(Complete::FILE))?;
        if image_of(complete.version.as_ref()) != self.image {
            sim.breaks(format!("image {} runs the hook of another one", self.image));
        }
        sim.hook_begins(self.calls.replica);
        let ran = self.run(heartbeat).await;
        sim.hook_ends(self.calls.replica, record.generation, ran.is_ok());
        ran
    }

    async fn stage_upgrade(
        &self,
        claim: &Claim<Ino>,
        _: u32,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> crate::error::Result<Option<(Ino, Sealed)>> {
        let bytes = self.calls.read(&claim.state, Complete::FILE).await.context("read", Complete::FILE)?;
        let complete = Complete::parse(&bytes, std::path::Path::new(Complete::FILE))?;
        let (old, new) = (image_of(complete.version.as_ref()), image(self.image));
        let changed = new.into_iter().filter(|(path, data)| image(old).get(path) != Some(data));
        let changed: BTreeSet<String> = changed.map(|(path, _)| path).collect();
        *self.only.borrow_mut() = Some((changed, format!("upgrade of {}, ", complete.generation)));
        let (stage, sealed) = self.stage(claim, self.image, Some(record), heartbeat).await?;
        match self.calls.make(&stage, ASIDE).await {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context("make", ASIDE),
        }
        let upgrade = UpgradeSeal {
            generation: complete.generation,
            manifest: complete.manifest.clone(),
            from: complete.version.clone(),
            before: complete.version.iter().filter(|_| old < self.image).cloned().collect(),
            top: complete.top.clone(),
            keep: Vec::new(),
            protect: Vec::new(),
            held: Vec::new(),
            sentinel: Some(Name::from(SENTINEL.as_bytes())),
        };
        Ok(Some((stage, Sealed { upgrade: Some(upgrade.into()), ..sealed })))
    }

    async fn stage_repair(
        &self,
        claim: &Claim<Ino>,
        _: u32,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> crate::error::Result<Option<(Ino, Sealed)>> {
        if !record.has_version(&self.image.to_string()) {
            return Err(Error::new(Exit::Refused, "repair", "the volume is at another version"));
        }
        let missing = self.missing().await;
        if missing.is_empty() {
            return Ok(None);
        }
        *self.only.borrow_mut() = Some((missing, "repair of ".to_owned()));
        let (stage, sealed) = self.stage(claim, self.image, None, heartbeat).await?;
        Ok(Some((stage, Sealed { repairs: true, hook: false, ..sealed })))
    }

    async fn sync(
        &self,
        claim: &Claim<Ino>,
        (stage, sealed): (Ino, Sealed),
    ) -> crate::error::Result<(Ino, Sealed)> {
        let calls = &self.calls;
        self.write_stage(&stage, Staged { syncing: true, ..self.new_stage() }).await?;
        let is_lost = calls.sim.is_lost();
        let synced = calls.call(Fault::Often, |world, _, _| {
            if is_lost && !world.kind.is_remote() {
                world.lose_unsynced(claim.dir);
                return Err(Errno::IO);
            }
            world.sync();
            Ok(())
        });
        synced.await.context("sync", "/")?;
        self.write_stage(&stage, Staged { sealed: Some(sealed.clone()), ..self.new_stage() }).await?;
        Ok((stage, sealed))
    }

    async fn publish(
        &self,
        claim: &Claim<Ino>,
        whole: Whole<(Ino, Sealed)>,
        heartbeat: &Heartbeat,
    ) -> crate::error::Result<Sealed> {
        let calls = &self.calls;
        let (stage, sealed) = match whole {
            Whole::Ours((stage, sealed)) => (Some(stage).filter(|_| sealed.upgrade.is_none()), sealed),
            Whole::Earlier(staged) => (None, staged.sealed.expect("it is sealed")),
        };
        let wrapper = match stage {
            Some(stage) => stage,
            None => calls.open(&claim.dir, PUBLISHING).await.context("open", PUBLISHING)?,
        };
        let tree = match calls.open(&wrapper, TREE).await {
            Ok(tree) => tree,
            Err(Errno::NOENT) => return Ok(sealed),
            Err(error) => return Err(error).context("open", TREE),
        };
        // Half of them do not look at their own heart: that is a courtesy, and not what makes it safe.
        let looks = calls.sim.chance(2);
        if let Some(upgrade) = &sealed.upgrade {
            match calls.read(&wrapper, ManifestRef::STAGED).await {
                Err(Errno::NOENT) => {
                    let placed = ManifestRef::name(sealed.generation);
                    drop(calls.read(&claim.state, &placed).await.context("read", placed)?);
                }
                listed => drop(listed.context("read", ManifestRef::STAGED)?),
            }
            let versions = (
                image_of(upgrade.from.as_ref()),
                image_of(sealed.version.clone().map(Untrusted::from).as_ref()),
            );
            self.change(claim, (&wrapper, &tree), versions, (heartbeat, looks)).await?;
            let _ = calls.remove(&wrapper, TREE.as_bytes()).await;
            return Ok(sealed);
        }
        let (mut moves, mut visited) = (Vec::new(), Vec::new());
        self.plan(tree, ROOT, &mut moves, &mut visited).await.context("plan", "/")?;
        moves.sort_by_key(|(_, name, _)| **name == *SENTINEL.as_bytes());
        for (from, name, to) in moves {
            self.go_on(heartbeat, looks).await?;
            calls
                .rename(&from, &name, &to, &name)
                .await
                .or_else(|error| match error {
                    // It was done, and the answer lost.
                    Errno::NOENT
                        if calls.sim.world.borrow_mut().look_up(calls.host, to, &name, false).is_ok() =>
                    {
                        Ok(())
                    }
                    error => Err(error),
                })
                .context("publish", "/")?;
        }
        for dir in visited {
            calls.sync(&dir).await.context("sync", "/")?;
        }
        Ok(sealed)
    }

    fn report(&self, _: &Complete, _: &Sealed) {}

    fn record(&self, epoch: u64, sealed: &Sealed) -> Complete {
        let Sealed { generation, version, totals, manifest, top, upgrade, .. } = sealed.clone();
        let before = upgrade.map(|upgrade| upgrade.before).unwrap_or_default();
        let seeded = Complete::seeded(epoch, generation, version, totals);
        Complete { manifest, before, hook: sealed.owes(), ..seeded.holding(top) }
    }

    async fn stage_adoption(
        &self,
        claim: &Claim<Ino>,
        heartbeat: &Heartbeat,
    ) -> crate::error::Result<(Complete, Option<(Ino, Sealed)>)> {
        let missing = self.missing().await;
        let synced = self.calls.call(Fault::Often, |world, _, _| {
            world.sync();
            Ok(())
        });
        synced.await.context("sync", "/")?;
        let is_whole = missing.is_empty();
        *self.only.borrow_mut() = Some((missing, "completion of ".to_owned()));
        let (stage, sealed) = self.stage(claim, self.image, None, heartbeat).await?;
        let record = Complete::adopted(claim.epoch, sealed.version.clone());
        let record = Complete { manifest: sealed.manifest.clone(), ..record };
        let sealed = Sealed { repairs: true, hook: false, ..sealed };
        Ok((record, Some((stage, sealed)).filter(|_| !is_whole)))
    }

    async fn adopt(&self, record: Complete) -> crate::error::Result<Complete> {
        let names = self.calls.names(&ROOT).await.context("read", "/")?;
        let is_ours = |name: &[u8]| name == DIRECTORY.as_bytes();
        let top = names.iter().filter(|name| !is_ours(name)).map(|name| Name::from(&**name));
        Ok(record.holding(top.collect()))
    }

    fn tell(&self, event: Event<'_>) {
        self.calls.show("event", 0, b"", &event);
        self.calls.sim.hear(&event, &self.calls.actor);
    }
}

impl SmallSeed {
    /// Reads the private record that the public one names.
    async fn read_record(&self, record: &Public) -> crate::error::Result<()> {
        let state = self.calls.open(&ROOT, DIRECTORY).await.context("open", DIRECTORY)?;
        let bytes = self.calls.read(&state, Complete::FILE).await.context("read", Complete::FILE)?;
        match record.is_of(&bytes) {
            true => Ok(()),
            false => Err(Error::new(Exit::Refused, "read", "another record").on(Complete::FILE)),
        }
    }

    /// A hook, which may fail, and is killed once the volume is another replica's.
    async fn run(&self, heartbeat: &Heartbeat) -> crate::error::Result<()> {
        let sim = &self.calls.sim;
        for _ in 0..sim.random(40) {
            sim.before(self.calls.replica, self.calls.host, Fault::Usual).await;
            sim.sleep(Duration::from_millis(500)).await;
            if heartbeat.pulse.is_lost() {
                return Err(Error::new(Exit::Held, "call hook", "lost"));
            }
        }
        if sim.is_lost() { Err(Error::new(Exit::Hook, "call hook", "it failed")) } else { Ok(()) }
    }

    fn ticks(&self) -> Ticks {
        Ticks { sim: Rc::clone(&self.calls.sim), replica: self.calls.replica, enough: Rc::default() }
    }

    /// The files of the image that the volume does not have.
    async fn missing(&self) -> BTreeSet<String> {
        let mut missing = BTreeSet::new();
        for path in image(self.image).into_keys() {
            let (mut at, mut is_there) = (ROOT, true);
            for part in path.split('/') {
                match self.calls.look_up(at, part.as_bytes()).await {
                    Ok(found) => at = found,
                    Err(_) => is_there = false,
                }
            }
            if !is_there {
                missing.insert(path);
            }
        }
        missing
    }

    fn new_stage(&self) -> Staged {
        let what = self.only.borrow().as_ref().map(|(_, what)| what.clone()).unwrap_or_default();
        let mut new = Staged::new(1, format!("{what}image {}", self.image), true, Some(1));
        new.boot = Some(self.boot.clone());
        new
    }

    async fn write_stage(&self, stage: &Ino, staged: Staged) -> crate::error::Result<()> {
        self.calls.write(stage, Staged::FILE, &to_bytes(&staged)).await.context("write", Staged::FILE)
    }

    fn trusts(&self, earlier: Option<&Staged>) -> bool {
        let remote = self.calls.sim.world.borrow().kind.is_remote();
        let kept = if remote { Durability::ByServer } else { Durability::BySync };
        earlier.is_some_and(|earlier| earlier.distrusted_by(&self.new_stage(), kept).is_none())
    }

    async fn fill_stage(&self, claim: &Claim<Ino>) -> Result<Ino> {
        let calls = &self.calls;
        let stage = calls.ensure(&claim.dir, STAGE).await?;
        let note = to_bytes(&self.new_stage());
        let note = calls.write(&stage, Staged::FILE, &note);
        if !claim.inherited {
            // A new stage's record is written while it is filled.
            let tree = self.fill_tree(claim, stage);
            let [noted, filled] =
                all([Box::pin(note) as Pin<Box<dyn Future<Output = _>>>, Box::pin(tree)]).await;
            return noted.and(filled).map(|()| stage);
        }
        let earlier = calls.read(&stage, Staged::FILE).await.ok().and_then(|bytes| Staged::parse(&bytes));
        if !self.trusts(earlier.as_ref()) {
            calls.remove(&stage, TREE.as_bytes()).await?;
        }
        note.await?;
        self.fill_tree(claim, stage).await?;
        calls.remove(&claim.dir, REMAINS.as_bytes()).await?;
        Ok(stage)
    }

    async fn fill_tree(&self, claim: &Claim<Ino>, stage: Ino) -> Result<()> {
        let calls = &self.calls;
        let tree = calls.ensure(&stage, TREE).await?;
        let remains = match calls.open(&claim.dir, REMAINS).await {
            Ok(remains) => {
                let earlier =
                    calls.read(&remains, Staged::FILE).await.ok().and_then(|bytes| Staged::parse(&bytes));
                if self.trusts(earlier.as_ref()) { calls.open(&remains, TREE).await.ok() } else { None }
            }
            Err(_) => None,
        };
        let dirs = RefCell::new(BTreeMap::from([(String::new(), (tree, remains))]));
        let only = self.only.borrow().clone();
        let is_wanted = |path: &String| only.as_ref().is_none_or(|(only, _)| only.contains(path));
        for (path, data) in image(self.image).into_iter().filter(|(path, _)| is_wanted(path)) {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let mut at = String::new();
            for part in parent.split('/').filter(|part| !part.is_empty()) {
                let (above, old) = dirs.borrow()[&at];
                at = format!("{at}/{part}");
                if dirs.borrow().contains_key(&at) {
                    continue;
                }
                let new = calls.ensure(&above, part).await?;
                let old = match old {
                    Some(old) => calls.open(&old, part).await.ok(),
                    None => None,
                };
                dirs.borrow_mut().insert(at.clone(), (new, old));
            }
            let (dir, old) = dirs.borrow()[&at];
            self.file(dir, old, name.as_bytes(), &data).await?;
        }
        calls.write(&stage, ManifestRef::STAGED, &manifest(self.image)).await?;
        Ok(())
    }

    async fn file(&self, dir: Ino, remains: Option<Ino>, name: &[u8], data: &[u8]) -> Result<()> {
        let calls = &self.calls;
        let is_whole = |world: &World, file| {
            world
                .stat(file)
                .is_some_and(|(there, time, links)| (there.len(), time, links) == (data.len(), TIME, 1))
        };
        if let Ok(file) = calls.look_up(dir, name).await {
            if is_whole(&calls.sim.world.borrow(), file) {
                return Ok(());
            }
            calls.remove(&dir, name).await?;
        }
        if let Some(remains) = remains
            && let Ok(file) = calls.look_up(remains, name).await
            && is_whole(&calls.sim.world.borrow(), file)
        {
            return calls.call_in(Fault::Usual, dir, |world, _, _| world.link(file, dir, name)).await;
        }
        let file = calls.call_in(Fault::Usual, dir, |world, _, _| world.create(dir, name)).await?;
        let fill = |data: Vec<u8>, time: u32| async move {
            calls
                .call(Fault::Usual, |world, _, _| {
                    world.fill(file, &data, time);
                    Ok(())
                })
                .await
        };
        fill(data[..1].to_vec(), 0).await?;
        fill(data.to_vec(), 0).await?;
        let is_lost = calls.sim.is_lost();
        calls
            .call(Fault::Usual, |world, _, _| {
                if is_lost && world.kind.is_remote() {
                    world.lose(file);
                    return Err(Errno::NOSPC);
                }
                Ok(())
            })
            .await?;
        calls
            .call(Fault::Usual, |world, _, _| {
                world.set_time(file, TIME);
                Ok(())
            })
            .await
    }

    /// Waits while our heart stands still, where this replica looks at it.
    pub(super) async fn go_on(&self, heartbeat: &Heartbeat, looks: bool) -> crate::error::Result<()> {
        while looks && !heartbeat.pulse.is_fresh(self.ticks().now()) {
            if heartbeat.pulse.is_lost() {
                return Err(Error::new(Exit::Held, "publish", "lost"));
            }
            self.calls.sim.sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn plan(
        &self,
        from: Ino,
        to: Ino,
        moves: &mut Vec<(Ino, Box<[u8]>, Ino)>,
        visited: &mut Vec<Ino>,
    ) -> Result<()> {
        let calls = &self.calls;
        visited.push(to);
        let there = calls.names(&to).await?;
        for name in calls.names(&from).await? {
            if !there.contains(&name) {
                moves.push((from, name, to));
                continue;
            }
            // A file that is there already stays.
            if let (Ok(below), Ok(target)) =
                (calls.open_entry(&from, &name).await, calls.open_entry(&to, &name).await)
            {
                Box::pin(self.plan(below, target, moves, visited)).await?;
            }
        }
        Ok(())
    }
}
