//! The protocol's calls on the simulated volume, each of which takes a while and may be disturbed, and a replica's clock.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::{Errno, Result};

use super::sim::{Fault, Sim};
use super::world::{Actor, Ino, ROOT, World};
use crate::claims::expiry::Lock;
use crate::claims::io::{Call, Clock, Files};
use crate::volume::records::Public;
use crate::volume::{Privacy, Wall};

/// The calls of one replica. Each takes a while before and after it has its effect.
#[derive(Clone)]
pub(crate) struct Calls {
    pub sim: Rc<Sim>,
    pub replica: usize,
    pub host: usize,
    /// Root, or the app's user.
    pub user: u32,
    pub actor: Rc<Cell<Actor>>,
}

impl Calls {
    pub(super) async fn call<T>(
        &self,
        fault: Fault,
        effect: impl Fn(&mut World, &Actor, bool) -> Result<T>,
    ) -> Result<T> {
        self.sim.before(self.replica, self.host, fault).await;
        let act = || {
            let believes = self.sim.chance(2);
            effect(&mut self.sim.world.borrow_mut(), &self.actor.get(), believes)
        };
        let mut result = act();
        // The answer is lost, and the question asked again.
        if fault == Fault::NotTwice && self.sim.world.borrow().kind.is_remote() && self.sim.chance(60) {
            self.sim.before(self.replica, self.host, Fault::Usual).await;
            result = act();
        }
        self.sim.after(self.replica, self.host).await;
        result
    }

    pub(super) fn show(&self, call: &str, at: Ino, name: &[u8], result: &dyn std::fmt::Debug) {
        self.sim.show(|| {
            let (replica, host, epoch) = (self.replica, self.host, self.actor.get().epoch);
            format!(
                "replica {replica} on {host}, claim {epoch}: {call} {at}/{} {result:?}",
                String::from_utf8_lossy(name)
            )
        });
    }

    /// A call in a directory that this user may enter.
    pub(super) async fn call_in<T>(
        &self,
        fault: Fault,
        dir: Ino,
        effect: impl Fn(&mut World, &Actor, bool) -> Result<T>,
    ) -> Result<T> {
        self.call(fault, |world, actor, believes| {
            world.enter(self.user, dir)?;
            effect(world, actor, believes)
        })
        .await
    }

    pub(super) async fn look_up(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        self.call_in(Fault::Usual, dir, |world, _, _| world.look_up(self.host, dir, name, false)).await
    }
}

impl Files for Calls {
    type Dir = Ino;

    async fn open(&self, at: &Ino, name: &str) -> Result<Ino> {
        self.open_entry(at, name.as_bytes()).await
    }

    async fn open_entry(&self, at: &Ino, name: &[u8]) -> Result<Ino> {
        self.call(Fault::Usual, |world, _, believes| {
            world.look_into(self.user, *at)?;
            world.open(self.host, *at, name, believes)
        })
        .await
    }

    async fn make(&self, at: &Ino, name: &str) -> Result<Ino> {
        let made = self.call_in(Fault::NotTwice, *at, |world, _, _| {
            world.forget(self.host, *at, name.as_bytes());
            world.make(*at, name.as_bytes(), self.user)
        });
        let made = made.await;
        self.show("make", *at, name.as_bytes(), &made);
        made
    }

    async fn make_listed(&self, at: &Ino, name: &str) -> Result<Ino> {
        self.make(at, name).await
    }

    async fn make_like(&self, at: &Ino, name: &[u8], _: &Ino) -> Result<()> {
        self.call_in(Fault::NotTwice, *at, |world, _, _| {
            world.forget(self.host, *at, name);
            world.make(*at, name, self.user).map(drop)
        })
        .await
    }

    async fn together<const N: usize>(&self, calls: [Call<'_, Ino>; N]) -> [Result<Option<Ino>>; N] {
        all(calls.each_ref().map(|call| Box::pin(self.one(call)))).await
    }

    async fn names(&self, dir: &Ino) -> Result<Vec<Box<[u8]>>> {
        self.call(Fault::Usual, |world, _, _| {
            world.look_into(self.user, *dir)?;
            world.names(*dir)
        })
        .await
    }

    async fn has_directories(&self, dir: &Ino) -> Result<bool> {
        self.call(Fault::Usual, |world, _, _| {
            let names = world.names(*dir)?;
            Ok(names.iter().any(|name| world.open(self.host, *dir, name, false).is_ok()))
        })
        .await
    }

    async fn read(&self, at: &Ino, name: &str) -> Result<Vec<u8>> {
        self.call(Fault::Usual, |world, _, believes| {
            if name == Public::FILE {
                world.look_into(self.user, *at)?;
            } else {
                world.enter(self.user, *at)?;
            }
            let file = world.look_up(self.host, *at, name.as_bytes(), believes)?;
            world.data(file).map(<[u8]>::to_vec)
        })
        .await
    }

    async fn write(&self, at: &Ino, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.call_in(Fault::Usual, *at, |world, _, _| {
            world.forget(self.host, *at, name.as_bytes());
            world.create(*at, name.as_bytes())
        });
        let file = file.await?;
        self.call(Fault::Often, |world, actor, _| {
            if name == Public::FILE && *at != ROOT && world.state() == Some(*at) {
                world.changed_in_public(name.as_bytes(), actor);
            }
            world.fill(file, bytes, 0);
            world.sync_file(file);
            Ok(())
        })
        .await
    }

    async fn write_readable(&self, at: &Ino, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(at, name, bytes).await
    }

    async fn update(&self, at: &Ino, name: &str, bytes: &[u8]) -> Result<()> {
        self.call_in(Fault::Usual, *at, |world, _, _| {
            let file = world.look_up(self.host, *at, name.as_bytes(), false)?;
            world.fill(file, bytes, 0);
            Ok(())
        })
        .await
    }

    async fn rename(&self, from: &Ino, name: &[u8], to: &Ino, new: &[u8]) -> Result<()> {
        let renamed = self.call_in(Fault::NotTwice, *from, |world, actor, _| {
            world.enter(self.user, *to)?;
            world.forget(self.host, *from, name);
            world.forget(self.host, *to, new);
            world.rename(*from, name, *to, new, actor)
        });
        let renamed = renamed.await;
        self.show(&format!("rename {from}/{} to", String::from_utf8_lossy(name)), *to, new, &renamed);
        renamed
    }

    async fn unlink(&self, at: &Ino, name: &[u8]) -> Result<()> {
        self.call_in(Fault::Usual, *at, |world, _, _| world.unlink(*at, name)).await
    }

    async fn rmdir(&self, at: &Ino, name: &[u8]) -> Result<()> {
        let removed = self.call_in(Fault::NotTwice, *at, |world, _, _| world.rmdir(*at, name));
        let removed = removed.await;
        self.show("rmdir", *at, name, &removed);
        removed
    }

    async fn remove(&self, at: &Ino, name: &[u8]) -> Result<()> {
        match self.call_in(Fault::Usual, *at, |world, _, _| world.unlink(*at, name)).await {
            Err(Errno::ISDIR) => {}
            Err(Errno::NOENT) => return Ok(()),
            result => return result,
        }
        let below = self.open_entry(at, name).await?;
        for child in self.names(&below).await? {
            Box::pin(self.remove(&below, &child)).await?;
        }
        match self.call_in(Fault::Usual, *at, |world, _, _| world.rmdir(*at, name)).await {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}", self.sim.random(u64::MAX))
    }

    async fn privacy(&self, dir: &Ino, _: Wall) -> Result<Privacy> {
        let owner = self.call(Fault::Usual, |world, _, _| world.owner(*dir)).await?;
        Ok(if self.user == 0 && owner != 0 { Privacy::Foreign(owner) } else { Privacy::Private })
    }

    async fn barred_by(&self, dir: &Ino) -> Result<Option<u32>> {
        let owner = self.call(Fault::Usual, |world, _, _| world.owner(*dir)).await?;
        Ok(Some(owner).filter(|owner| self.user != 0 && self.user != *owner))
    }

    async fn is_removable(&self, dir: &Ino, owner: u32) -> Result<bool> {
        Ok([0, owner].contains(&self.sim.world.borrow().owner(*dir)?))
    }

    async fn seize(&self, dir: &Ino, _: Wall) -> Result<()> {
        self.call(Fault::Usual, |world, _, _| {
            world.seize(*dir, self.user);
            Ok(())
        })
        .await
    }

    async fn give_back(&self, dir: &Ino, owner: u32) -> Result<()> {
        self.sim.world.borrow_mut().seize(*dir, owner);
        Ok(())
    }

    async fn close(&self, _: &Ino, _: Wall) -> Result<bool> {
        Ok(false)
    }

    async fn ask(&self, dir: &Ino) -> Result<()> {
        self.call(Fault::Usual, |world, _, _| world.owner(*dir).map(drop)).await
    }

    async fn same(&self, one: &Ino, other: &Ino) -> Result<bool> {
        self.call(Fault::Usual, |world, _, _| world.owner(*one).and(world.owner(*other))).await?;
        Ok(one == other)
    }

    async fn sync(&self, dir: &Ino) -> Result<()> {
        self.call(Fault::Often, |world, _, _| {
            world.sync_directory(*dir);
            Ok(())
        })
        .await
    }

    async fn lock(&self, _: &Ino) -> Result<Lock> {
        self.sim.before(self.replica, self.host, Fault::Usual).await;
        let locked = self.sim.ask_for_lock(self.replica).await;
        self.show("lock", 0, b"", &locked);
        Ok(locked)
    }

    async fn unlock(&self) {
        self.sim.unlock(self.replica);
    }
}

/// Does several things at the same time, until all are done.
pub(super) async fn all<F: Future + Unpin, const N: usize>(mut running: [F; N]) -> [F::Output; N] {
    let mut done = [const { None }; N];
    poll_fn(|context| {
        for (running, done) in running.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(result) = Pin::new(running).poll(context) {
                *done = Some(result);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.map(|done| done.expect("all are done"))
}

/// A replica's clock, which another one's has nothing to do with.
pub(crate) struct Ticks {
    pub sim: Rc<Sim>,
    pub replica: usize,
    pub enough: Rc<Cell<bool>>,
}

impl Clock for Ticks {
    fn now(&self) -> Duration {
        // Never zero, and different on every host.
        self.sim.now() + Duration::from_secs(1000 * (self.replica as u64 + 1))
    }

    async fn sleep(&self, time: Duration) -> Result<()> {
        self.sim.sleep(time).await;
        if self.enough.get() { Err(Errno::CANCELED) } else { Ok(()) }
    }

    fn random(&self, bound: u64) -> u64 {
        self.sim.random(bound)
    }
}
