//! Another user on the same machine, who watches a volume and changes it at the worst moment.
//!
//! A thread that gives root up for itself alone: on Linux each thread has its own user
//! (credentials(7)), and what it may do is what the app's user may do. It sees the mounts of the
//! thread that started it.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// An attack that is under way. It ends with the test.
pub(crate) struct Attacker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    enough: AtomicBool,
    ready: AtomicBool,
    hits: AtomicU64,
}

/// What an attack can do and know.
pub(crate) struct Attack {
    shared: Arc<Shared>,
}

impl Attacker {
    /// Starts an attack as this user, and waits until it has said that it is ready.
    pub(crate) fn start(user: u32, attack: impl FnOnce(&Attack) + Send + 'static) -> Attacker {
        let shared = Arc::new(Shared::default());
        let theirs = Attack { shared: Arc::clone(&shared) };
        let thread = std::thread::spawn(move || {
            become_user(user);
            attack(&theirs);
            theirs.ready();
        });
        while !shared.ready.load(Ordering::Acquire) && !thread.is_finished() {
            std::thread::yield_now();
        }
        Attacker { shared, thread: Some(thread) }
    }

    /// Ends it, and says how often it has changed something.
    pub(crate) fn stop(mut self) -> u64 {
        self.shared.enough.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
        self.shared.hits.load(Ordering::Acquire)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.shared.enough.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn become_user(user: u32) {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

impl Attack {
    /// From here on volseed may start.
    pub(crate) fn ready(&self) {
        self.shared.ready.store(true, Ordering::Release);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.shared.enough.load(Ordering::Acquire)
    }

    /// Two names of one file system change places.
    pub(crate) fn exchange(&self, one: &Path, other: &Path) -> bool {
        self.count(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok())
    }

    /// Something that was tried, and whether it went well.
    pub(crate) fn count(&self, changed: bool) -> bool {
        self.shared.hits.fetch_add(u64::from(changed), Ordering::AcqRel);
        changed
    }

    /// Watches directories that this user may read.
    pub(crate) fn watch(&self, events: WatchFlags, paths: &[&Path]) -> Watch<'_> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let watch = Watch { attack: self, queue };
        for path in paths {
            watch.also(events, path);
        }
        watch
    }
}

/// What happens in the directories that an attack watches.
pub(crate) struct Watch<'a> {
    attack: &'a Attack,
    queue: OwnedFd,
}

impl Watch<'_> {
    /// One directory more; false where it is not there or cannot be read.
    pub(crate) fn also(&self, events: WatchFlags, path: &Path) -> bool {
        inotify::add_watch(&self.queue, path, events).is_ok()
    }

    /// Waits for the next events, and calls it for each: what happened, and the name in the directory.
    /// False once the attack is to end.
    pub(crate) fn each(&self, mut call: impl FnMut(ReadFlags, Option<CString>)) -> bool {
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while self.attack.goes_on() {
            let mut ready = [PollFd::new(&self.queue, PollFlags::IN)];
            if poll(&mut ready, Some(&moment)).unwrap_or(0) == 0 {
                continue;
            }
            let mut buffer = [MaybeUninit::uninit(); 8192];
            let mut events = inotify::Reader::new(&self.queue, &mut buffer);
            while let Ok(event) = events.next() {
                call(event.events(), event.file_name().map(Into::into));
                if events.is_buffer_empty() {
                    break;
                }
            }
            return self.attack.goes_on();
        }
        false
    }

    /// Waits for this many events.
    pub(crate) fn count(&self, mut events: usize) -> bool {
        while events > 0 {
            if !self.each(|_, _| events = events.saturating_sub(1)) {
                return false;
            }
        }
        true
    }
}
