//! What every request goes through: it is done at once, counted, fails where it is to, and is
//! answered when its round trip is over.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{INodeNo, Request};

use crate::counts::{Meter, Op};
use crate::faults::{Failure, Rules};
use crate::node::{Caller, Result, WSIZE};
use crate::options::Options;
use crate::reply::{KILLED, Reply};
use crate::tree::Tree;
use crate::wire::{Call, Fate, Wire};

#[derive(Debug)]
pub(crate) struct Server {
    pub options: Options,
    pub tree: Arc<Mutex<Tree>>,
    pub meter: Arc<Meter>,
    pub rules: Arc<Rules>,
    pub wire: Arc<Wire>,
    pub listings: Mutex<HashMap<u64, Listing>>,
    /// Open files of which a descriptor was closed.
    pub closed: Mutex<HashSet<u64>>,
}

/// An open directory as it was when its reading began.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    entries: Arc<Vec<(OsString, u64)>>,
    /// Bytes of entries that the last round trip brought and the kernel has not asked for yet.
    paid: u64,
}

/// What an operation is about, for faults that ask for a name.
#[derive(Clone, Copy)]
pub(crate) enum About<'a> {
    Name(&'a OsStr),
    Node(u64),
}

impl Server {
    /// Does it, unless it is to fail, and sends the answer on its way.
    pub(crate) fn serve<R: Reply>(
        &self,
        request: &Request,
        op: Op,
        about: About<'_>,
        reply: R,
        act: impl FnOnce(&mut Tree, Caller) -> Result<R::Good>,
    ) {
        let mut tree = self.tree();
        let writes = match about {
            About::Node(number) if flushes(op) => self.flush(&mut tree, number),
            _ => 0,
        };
        self.meter.count(op, 1);
        let result = match self.strike(&tree, op, about) {
            Some(failure) if failure.takes_effect => {
                act(&mut tree, self.caller(request)).and_then(|_| Err(failure.errno))
            }
            Some(failure) => Err(failure.errno),
            None => act(&mut tree, self.caller(request)),
        };
        drop(tree);
        self.answer(request, op, writes, reply, result);
    }

    /// The same for what makes a new name: the lookup before it was the kernel's, not the client's.
    pub(crate) fn make<R: Reply>(
        &self,
        request: &Request,
        op: Op,
        (parent, name): (INodeNo, &OsStr),
        reply: R,
        act: impl FnOnce(&mut Tree, Caller) -> Result<R::Good>,
    ) {
        self.meter.settle(parent.0, name, request.pid());
        self.serve(request, op, About::Name(name), reply, act);
    }

    pub(crate) fn answer<R: Reply>(
        &self,
        request: &Request,
        op: Op,
        writes: u64,
        reply: R,
        result: Result<R::Good>,
    ) {
        let cached = self.options.cached;
        let answer = Box::new(move |fate| match fate {
            Fate::Answered => reply.send(result, cached),
            Fate::Killed => reply.send(Err(KILLED), cached),
        });
        let charged = op.is_charged() && op != Op::LookupMissed;
        self.wire.send(Call { op, thread: request.pid(), writes, charged, answer });
    }

    /// Counts the writes that the client sends now, and has them fail where they are to.
    fn flush(&self, tree: &mut Tree, number: u64) -> u64 {
        let pieces = tree.unsent(number);
        let writes = pieces.len() as u64;
        self.meter.count(Op::Write, writes);
        for piece in pieces {
            if let Some(failure) = self.strike(tree, Op::Write, About::Node(number)) {
                tree.lose(number, piece, failure.errno);
            }
        }
        writes
    }

    fn strike(&self, tree: &Tree, op: Op, about: About<'_>) -> Option<Failure> {
        match about {
            About::Name(name) => self.rules.strike(op, name),
            About::Node(number) => {
                self.rules.strike(op, tree.node(number).map_or(OsStr::new(""), |it| &it.name))
            }
        }
    }

    /// A part of a directory, from `offset` on: names, numbers, and where to go on.
    pub(crate) fn entries(
        &self,
        tree: &Tree,
        handle: u64,
        number: u64,
        offset: u64,
    ) -> Result<Arc<Vec<(OsString, u64)>>> {
        tree.node(number)?;
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = listings.entry(handle).or_default();
        if offset == 0 || listing.entries.is_empty() {
            *listing = Listing { entries: Arc::new(tree.list(number)?), paid: 0 };
        }
        Ok(Arc::clone(&listing.entries))
    }

    /// Whether these bytes of a directory's entries need another round trip.
    fn pay(&self, handle: u64, bytes: u64) -> bool {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listing) = listings.get_mut(&handle) else { return true };
        let due = listing.paid == 0 || bytes > listing.paid;
        listing.paid = if due { WSIZE } else { listing.paid }.saturating_sub(bytes).max(1);
        due
    }

    pub(crate) fn caller(&self, request: &Request) -> Caller {
        Caller { uid: request.uid(), gid: request.gid() }.squashed(self.options.squash)
    }

    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a reading of a directory, which costs nothing where an earlier answer held it, too.
    pub(crate) fn directory<R: Reply<Good = ()>>(
        &self,
        request: &Request,
        handle: u64,
        reply: R,
        result: Result<u64>,
    ) {
        let due = result.as_ref().map_or(true, |bytes| self.pay(handle, *bytes));
        if due {
            self.meter.count(Op::Readdir, 1);
        }
        let op = if due { Op::Readdir } else { Op::Opendir };
        self.answer(request, op, 0, reply, result.map(|_| ()));
    }
}

/// Before which operations a client sends what it has of a file. `Write` is what it sends.
fn flushes(op: Op) -> bool {
    matches!(op, Op::Setattr | Op::Getattr | Op::Close | Op::Fsync | Op::Lock)
}
