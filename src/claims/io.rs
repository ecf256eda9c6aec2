//! What the protocol needs of a file system and of a clock, and nothing more.
//!
//! The protocol is written against these two traits, so that it runs unchanged on a volume
//! ([`super::disk`]) and in a simulation, where every call is a point at which a replica may die. That
//! is why the calls are asynchronous: on a volume they block, and their futures are ready at once.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::{Errno, Result};

use super::expiry::Lock;
use crate::volume::{Privacy, Wall};

/// A call that does not depend on those that are made with it.
pub(crate) enum Call<'c, D> {
    /// [`Files::write`].
    Write(&'c D, &'c str, &'c [u8]),
    /// [`Files::write_readable`].
    WriteReadable(&'c D, &'c str, &'c [u8]),
    /// [`Files::ensure`].
    Ensure(&'c D, &'c str),
    /// [`Files::unlink`].
    Unlink(&'c D, &'c str),
    /// [`Files::rmdir`].
    Rmdir(&'c D, &'c str),
    /// [`Files::unlock`].
    Unlock,
}

/// A file system, as far as replicas agree through it. Every name is one component; no link is
/// followed. Errors are the system's.
#[allow(async_fn_in_trait)]
pub(crate) trait Files {
    /// A directory, whatever becomes of its name.
    type Dir: Clone;

    /// Opens a directory, and revalidates what is cached of it.
    async fn open(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir>;
    /// Makes a directory that only we can enter, and opens it.
    async fn make(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir>;
    /// Makes the state directory, which others may look into, and opens it.
    async fn make_listed(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir>;
    /// Makes a directory with the owner and mode of `model`.
    async fn make_like(&self, at: &Self::Dir, name: &[u8], model: &Self::Dir) -> Result<()>;
    /// Opens a directory of the seed's, whose name may be any bytes.
    async fn open_entry(&self, at: &Self::Dir, name: &[u8]) -> Result<Self::Dir>;
    /// A directory of ours, made where it is not there.
    async fn ensure(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir> {
        match self.make(at, name).await {
            Err(Errno::EXIST) => self.open(at, name).await,
            made => made,
        }
    }
    /// One of several calls; a directory that it opened.
    async fn one(&self, call: &Call<'_, Self::Dir>) -> Result<Option<Self::Dir>> {
        match *call {
            Call::Write(at, name, bytes) => self.write(at, name, bytes).await?,
            Call::WriteReadable(at, name, bytes) => self.write_readable(at, name, bytes).await?,
            Call::Ensure(at, name) => return self.ensure(at, name).await.map(Some),
            Call::Unlink(at, name) => self.unlink(at, name.as_bytes()).await?,
            Call::Rmdir(at, name) => self.rmdir(at, name.as_bytes()).await?,
            Call::Unlock => self.unlock().await,
        }
        Ok(None)
    }
    /// Several calls, in any order or at the same time, and what came of each. All are done on return.
    async fn together<const N: usize>(
        &self,
        calls: [Call<'_, Self::Dir>; N],
    ) -> [Result<Option<Self::Dir>>; N];
    /// The names in a directory.
    async fn names(&self, dir: &Self::Dir) -> Result<Vec<Box<[u8]>>>;
    /// Whether a directory has directories in it.
    async fn has_directories(&self, dir: &Self::Dir) -> Result<bool>;
    /// The whole of a small regular file; `ELOOP` says that it is none.
    async fn read(&self, at: &Self::Dir, name: &str) -> Result<Vec<u8>>;
    /// Makes or replaces a file; its data is durable on return.
    async fn write(&self, at: &Self::Dir, name: &str, bytes: &[u8]) -> Result<()>;
    /// The same, and everybody may read it.
    async fn write_readable(&self, at: &Self::Dir, name: &str, bytes: &[u8]) -> Result<()>;
    /// Overwrites the beginning of a file that is there, in one call.
    async fn update(&self, at: &Self::Dir, name: &str, bytes: &[u8]) -> Result<()>;
    /// Renames; what has the new name is replaced as rename(2) does it.
    async fn rename(&self, from: &Self::Dir, name: &[u8], to: &Self::Dir, new: &[u8]) -> Result<()>;
    /// Removes what is no directory (`EISDIR`, or `EPERM` where it is one).
    async fn unlink(&self, at: &Self::Dir, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    async fn rmdir(&self, at: &Self::Dir, name: &[u8]) -> Result<()>;
    /// Removes a name and all that is below it.
    async fn remove(&self, at: &Self::Dir, name: &[u8]) -> Result<()>;
    /// A name that nobody else knows.
    fn new_name(&self, prefix: &str) -> String;
    /// Who can have changed what is in a directory.
    async fn privacy(&self, dir: &Self::Dir, wall: Wall) -> Result<Privacy>;
    /// Whether a directory is one that the user `owner` could have emptied, or that only we could have put where
    /// that user's are.
    async fn is_removable(&self, dir: &Self::Dir, owner: u32) -> Result<bool>;
    /// The other user whose a directory is, where we may change nothing in it and cannot make it ours.
    async fn barred_by(&self, dir: &Self::Dir) -> Result<Option<u32>>;
    /// Makes another user's directory ours, and lets others do there what they may.
    async fn seize(&self, dir: &Self::Dir, wall: Wall) -> Result<()>;
    /// Gives a directory back to the user that it was seized from.
    async fn give_back(&self, dir: &Self::Dir, owner: u32) -> Result<()>;
    /// Lets others do in a directory of ours what they may, and no more; whether they could do more.
    async fn close(&self, dir: &Self::Dir, wall: Wall) -> Result<bool>;
    /// Asks the server, and no cache, whether it knows a directory.
    async fn ask(&self, dir: &Self::Dir) -> Result<()>;
    /// Whether two descriptors are of one directory.
    async fn same(&self, one: &Self::Dir, other: &Self::Dir) -> Result<bool>;
    /// Makes the names in a directory durable.
    async fn sync(&self, dir: &Self::Dir) -> Result<()>;
    /// Tries to get the replicas' lock, which is held from then on until [`Files::unlock`]. `Unknown` says that
    /// the server has yet to answer: ask again. An error says that there is no lock to be had.
    async fn lock(&self, state: &Self::Dir) -> Result<Lock>;
    /// Lets go of the lock.
    async fn unlock(&self);
}

/// A clock that no other machine's is compared with.
#[allow(async_fn_in_trait)]
pub(crate) trait Clock {
    /// The time since some moment in the past, suspended time included.
    fn now(&self) -> Duration;
    /// Waits. An error (`ECANCELED`) says that the end was asked for meanwhile.
    async fn sleep(&self, time: Duration) -> Result<()>;
    /// Any number below `bound`, so that replicas that started together part.
    fn random(&self, bound: u64) -> u64;
}

/// Runs a future whose calls block, as those of a volume do.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("calls on a volume block until they are done"),
    }
}
