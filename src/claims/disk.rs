//! The protocol's calls on a real volume. Each blocks until it is done; only the lock's, which a server may be long
//! to answer, goes on beside the others.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, StatxFlags, Uid};
use rustix::io::{Errno, Result};
use rustix::time::{ClockId, clock_gettime};

use super::expiry::Lock;
use super::io::{Call, Clock, Files, block_on};
use super::store::{CLAIMS, ClaimStore};
use crate::cancel::Cancel;
use crate::progress::Progress;
use crate::volume;
use crate::volume::records;
use crate::volume::records::Access;
use crate::volume::{Ourselves, Privacy, Volume, Wall, make_private};

/// The file that is locked: never removed, and without data.
pub(crate) const LOCK: &str = "lock";
/// So long the server's answer about the lock is waited for before anything else is done: less than a waiter's
/// patience. It may take longer, since a server that restarts lets its clients reclaim their locks first: 90 s
/// (Linux `nfsv4gracetime`).
pub(crate) const LOCK_ANSWER: Duration = Duration::from_secs(5);

/// So often at most a question is asked that is answered with what it was asked of being gone. Where that is so, it stays
/// so; an answer of the moment, as while a server hands over to another, must not pass for it: a claim that was
/// overlooked would be believed to be over.
const ASKED: usize = 3;

/// Calls on a volume.
pub(crate) struct Disk {
    /// Whether a call may be a round trip, and one for the lock may hang.
    remote: bool,
    ourselves: Arc<Ourselves>,
    lock: Mutex<LockFile>,
    /// Hears of everything that is removed.
    progress: Arc<Progress>,
}

/// The file that is locked, once it is open.
#[derive(Default)]
struct LockFile {
    file: Option<Arc<OwnedFd>>,
    /// What a call for its lock will say that the server has yet to answer.
    answer: Option<Receiver<Result<Lock>>>,
}

impl Disk {
    /// Calls on a volume that is on a server, or not.
    pub(crate) fn new(ourselves: Arc<Ourselves>, remote: bool, progress: Arc<Progress>) -> Disk {
        Disk { remote, ourselves, lock: Mutex::default(), progress }
    }

    fn open_directory(at: &Arc<OwnedFd>, name: &[u8]) -> Result<Arc<OwnedFd>> {
        // Another mount is never ours: its parents can be renamed, so that it gets the name of something that is.
        let open = || volume::open_in_mount(at.as_fd(), name, OFlags::DIRECTORY | OFlags::RDONLY);
        settled(is_stale, open).map(Arc::new)
    }
}

/// Asks again where the answer says that what was asked is gone.
fn settled<T>(is_gone: impl Fn(Errno) -> bool, ask: impl Fn() -> Result<T>) -> Result<T> {
    let mut answer = ask();
    for _ in 1..ASKED {
        match answer {
            Err(error) if is_gone(error) => answer = ask(),
            answer => return answer,
        }
    }
    answer
}

fn is_stale(error: Errno) -> bool {
    error == Errno::STALE
}

impl<'a> ClaimStore<'a, Disk> {
    /// The replicas' directories on a real volume.
    pub(crate) fn on(volume: &'a Volume, disk: &'a Disk) -> ClaimStore<'a, Disk> {
        ClaimStore { files: disk, root: volume.shared_root(), volume: volume.path(), state: volume.state() }
    }
}

fn created(made: volume::PrivateDirectory) -> Result<Arc<OwnedFd>> {
    if made.is_new { Ok(Arc::new(made.fd)) } else { Err(Errno::EXIST) }
}

impl Files for Disk {
    type Dir = Arc<OwnedFd>;

    async fn open(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir> {
        Disk::open_directory(at, name.as_bytes())
    }

    async fn open_entry(&self, at: &Self::Dir, name: &[u8]) -> Result<Self::Dir> {
        Disk::open_directory(at, name)
    }

    async fn make(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir> {
        created(make_private(at.as_fd(), name.as_bytes())?)
    }

    async fn make_listed(&self, at: &Self::Dir, name: &str) -> Result<Self::Dir> {
        created(volume::make(at.as_fd(), name.as_bytes(), Wall::Listed)?)
    }

    async fn make_like(&self, at: &Self::Dir, name: &[u8], model: &Self::Dir) -> Result<()> {
        let model = fs::fstat(model)?;
        let made = make_private(at.as_fd(), name)?.fd;
        match fs::fchown(&made, Some(Uid::from_raw(model.st_uid)), Some(Gid::from_raw(model.st_gid))) {
            // A server that decides about owners itself did so here, too.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        fs::fchmod(&made, Mode::from_raw_mode(model.st_mode & 0o7777))
    }

    async fn together<const N: usize>(
        &self,
        calls: [Call<'_, Self::Dir>; N],
    ) -> [Result<Option<Self::Dir>>; N] {
        let one = |number: usize| block_on(self.one(&calls[number]));
        if self.remote { volume::all_at_once(one, &mut || ()) } else { std::array::from_fn(one) }
    }

    async fn names(&self, dir: &Self::Dir) -> Result<Vec<Box<[u8]>>> {
        // A directory that is removed while it is open has no entry any more (getdents64(2), `ENOENT`).
        settled(|error| is_stale(error) || error == Errno::NOENT, || volume::names(dir.as_fd()))
    }

    async fn has_directories(&self, dir: &Self::Dir) -> Result<bool> {
        // Told by its links, and by a look where the file system does not count them: what is left of a claim is
        // in `claims`.
        match fs::fstat(dir)?.st_nlink {
            0 | 1 => volume::stat_entry(dir.as_fd(), CLAIMS.as_bytes()).map(|found| found.is_some()),
            links => Ok(links > 2),
        }
    }

    async fn read(&self, at: &Self::Dir, name: &str) -> Result<Vec<u8>> {
        settled(is_stale, || records::read_whole(at.as_fd(), name))
    }

    async fn write(&self, at: &Self::Dir, name: &str, bytes: &[u8]) -> Result<()> {
        records::write_whole(at.as_fd(), name.as_bytes(), bytes, Access::Closed)
    }

    async fn write_readable(&self, at: &Self::Dir, name: &str, bytes: &[u8]) -> Result<()> {
        records::write_whole(at.as_fd(), name.as_bytes(), bytes, Access::Readable)
    }

    async fn update(&self, at: &Self::Dir, name: &str, bytes: &[u8]) -> Result<()> {
        let fd = volume::openat(at.as_fd(), name.as_bytes(), OFlags::WRONLY, Mode::empty())?;
        if !self.ourselves.is_own_file(fd.as_fd())? {
            return Err(Errno::PERM);
        }
        rustix::io::retry_on_intr(|| rustix::io::pwrite(&fd, bytes, 0))?;
        records::close(fd)
    }

    async fn rename(&self, from: &Self::Dir, name: &[u8], to: &Self::Dir, new: &[u8]) -> Result<()> {
        settled(is_stale, || fs::renameat(from, name, to, new))
    }

    async fn unlink(&self, at: &Self::Dir, name: &[u8]) -> Result<()> {
        fs::unlinkat(at, name, AtFlags::empty())
    }

    async fn rmdir(&self, at: &Self::Dir, name: &[u8]) -> Result<()> {
        fs::unlinkat(at, name, AtFlags::REMOVEDIR)
    }

    async fn remove(&self, at: &Self::Dir, name: &[u8]) -> Result<()> {
        volume::remove_directory(at.as_fd(), name, 1, &|| self.progress.touch())
    }

    fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}", volume::random())
    }

    async fn privacy(&self, dir: &Self::Dir, wall: Wall) -> Result<Privacy> {
        settled(is_stale, || self.ourselves.privacy(dir.as_fd(), wall))
    }

    async fn is_removable(&self, dir: &Self::Dir, owner: u32) -> Result<bool> {
        self.ourselves.is_removable(dir.as_fd(), owner)
    }

    async fn barred_by(&self, dir: &Self::Dir) -> Result<Option<u32>> {
        self.ourselves.is_barred(dir.as_fd())
    }

    async fn seize(&self, dir: &Self::Dir, wall: Wall) -> Result<()> {
        self.ourselves.seize(dir.as_fd(), wall)
    }

    async fn give_back(&self, dir: &Self::Dir, owner: u32) -> Result<()> {
        fs::fchown(dir, Some(Uid::from_raw(owner)), None)
    }

    async fn close(&self, dir: &Self::Dir, wall: Wall) -> Result<bool> {
        self.ourselves.close(dir.as_fd(), wall)
    }

    async fn ask(&self, dir: &Self::Dir) -> Result<()> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        match fs::statx(dir, "", flags, StatxFlags::INO) {
            // A seccomp profile refuses the call.
            Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn same(&self, one: &Self::Dir, other: &Self::Dir) -> Result<bool> {
        let stat = |dir: &Self::Dir| settled(is_stale, || fs::fstat(dir));
        let (one, other) = (stat(one)?, stat(other)?);
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    }

    async fn sync(&self, dir: &Self::Dir) -> Result<()> {
        fs::fsync(dir)
    }

    async fn lock(&self, state: &Self::Dir) -> Result<Lock> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = &lock.answer {
            let told = answer.try_recv();
            if told != Err(TryRecvError::Empty) {
                lock.answer = None;
            }
            return told.unwrap_or(Ok(Lock::Unknown));
        }
        let file = match &lock.file {
            Some(file) => Arc::clone(file),
            None => {
                let flags = OFlags::RDWR | OFlags::CREATE;
                let file = volume::openat(state.as_fd(), LOCK.as_bytes(), flags, Mode::RUSR | Mode::WUSR)?;
                if !volume::is_type(&fs::fstat(&file)?, FileType::RegularFile) {
                    return Err(Errno::LOOP);
                }
                Arc::clone(lock.file.insert(Arc::new(file)))
            }
        };
        if !self.remote {
            return try_lock(&file);
        }
        let (tell, answer) = mpsc::channel();
        let call = move || {
            let _ = tell.send(try_lock(&file));
        };
        if std::thread::Builder::new().name("lock".into()).spawn(call).is_err() {
            // A limit of processes, and nothing that the server has said.
            return Ok(Lock::Unknown);
        }
        answer.recv_timeout(LOCK_ANSWER).unwrap_or_else(|_| {
            lock.answer = Some(answer);
            Ok(Lock::Unknown)
        })
    }

    async fn unlock(&self) {
        // A call that is not answered yet has the last descriptor then, and closes it when it comes back.
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = LockFile::default();
    }
}

/// Of the open file description (fcntl(2), `F_OFD_SETLK`): the kernel drops it with its last descriptor.
/// It is polled: a waiter can be stopped at any moment, and on NFS a blocking lock sleeps up to 30 s
/// between two tries anyway.
pub(crate) fn try_lock(file: &OwnedFd) -> Result<Lock> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    use nix::errno::Errno as Cause;
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)) {
        Ok(_) => Ok(Lock::Ours),
        Err(Cause::EAGAIN | Cause::EACCES) => Ok(Lock::Theirs),
        // Interrupted, or a soft mount's server has not answered (nfs(5)): that says nothing of its locks.
        Err(Cause::EINTR | Cause::EIO | Cause::ETIMEDOUT) => Ok(Lock::Unknown),
        Err(error) => Err(Errno::from_raw_os_error(error as i32)),
    }
}

/// This machine's clock, which runs on while it is suspended (clock_gettime(2), `CLOCK_BOOTTIME`).
pub(crate) struct BootClock<'a> {
    /// Ends every sleep.
    pub cancel: &'a Cancel,
}

impl Clock for BootClock<'_> {
    fn now(&self) -> Duration {
        boot_time()
    }

    async fn sleep(&self, time: Duration) -> Result<()> {
        if self.cancel.sleep(time) { Err(Errno::CANCELED) } else { Ok(()) }
    }

    fn random(&self, bound: u64) -> u64 {
        volume::random() % bound.max(1)
    }
}

/// The time since this machine's boot.
pub(crate) fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
