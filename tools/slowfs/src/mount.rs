//! A mount in this process: made, asked and ended.
//!
//! The device is open only in the threads that serve it, which have a descriptor table of their own.
//! So the kernel ends the mount when the process is killed, also while another of its threads waits
//! for an answer: with one table for all, that thread would keep open what it waits for.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::counts::{Counts, Meter};
use crate::faults::{Faults, Rules};
use crate::notices::{self, Notice, Notices};
use crate::options::Options;
use crate::server::Server;
use crate::tree::Tree;
use crate::wire::Wire;

/// A mounted slowfs. Its end unmounts it, whoever uses it still and whatever hangs; it has to come in
/// the mount namespace that it was made in.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
    options: Options,
    tree: Arc<Mutex<Tree>>,
    meter: Arc<Meter>,
    rules: Arc<Rules>,
    wire: Arc<Wire>,
    notices: Arc<Notices>,
    session: Option<JoinHandle<()>>,
}

impl Mount {
    /// Mounts an empty volume on the directory `at`, for all users. Needs root and `/dev/fuse`.
    ///
    /// # Errors
    /// Where the kernel does not let us.
    pub fn new(options: Options, at: &Path) -> io::Result<Mount> {
        let tree = Arc::new(Mutex::new(Tree::new(&options)));
        Mount::of(tree, options, at)
    }

    /// The same volume on another directory, as a second client of the same server has it: with slots,
    /// counts, faults and a cache of its own. The two kernels' caches do not know of each other: see
    /// [`Options::cached`].
    ///
    /// # Errors
    /// Where the kernel does not let us.
    pub fn beside(&self, at: &Path) -> io::Result<Mount> {
        Mount::of(Arc::clone(&self.tree), self.options.clone(), at)
    }

    fn of(tree: Arc<Mutex<Tree>>, mut options: Options, at: &Path) -> io::Result<Mount> {
        if options.quirks.respells() {
            options.cached = Duration::ZERO;
        }
        let at = at.canonicalize()?;
        let wire = Arc::new(Wire::new(options.rtt, options.slots));
        let (meter, rules) = (Arc::new(Meter::default()), Arc::new(Rules::default()));
        let server = Server {
            options: options.clone(),
            tree: Arc::clone(&tree),
            meter: Arc::clone(&meter),
            rules: Arc::clone(&rules),
            wire: Arc::clone(&wire),
            listings: Mutex::default(),
            closed: Mutex::default(),
        };
        let (tell, told) = sync_channel(1);
        let (notices, told_unasked) = Notices::new();
        let place = at.clone();
        let session = std::thread::Builder::new()
            .name("slowfs".to_owned())
            .spawn(move || serve(server, &place, &tell, told_unasked))?;
        match told.recv() {
            Ok(Ok(())) => {
                let (notices, session) = (Arc::new(notices), Some(session));
                Ok(Mount { at, options, tree, meter, rules, wire, notices, session })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the session ended before it began")),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// What was asked for so far. Lookups that found nothing and belong to a creation that is just
    /// coming are among them.
    pub fn counts(&self) -> Counts {
        self.meter.counts(self.wire.most_in_flight(), self.wire.in_sequence())
    }

    /// From now on a round trip takes so long: nothing, where a tree is only to be looked at.
    pub fn set_rtt(&self, rtt: Duration) {
        self.wire.set_rtt(rtt);
    }

    /// What is to go wrong.
    pub fn faults(&self) -> Faults {
        Faults {
            rules: Arc::clone(&self.rules),
            wire: Arc::clone(&self.wire),
            tree: Arc::clone(&self.tree),
            notices: Arc::clone(&self.notices),
        }
    }

    /// Bytes of file data on the volume.
    pub fn used(&self) -> u64 {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).used
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = unmount(&self.at);
        self.wire.close();
        self.notices.close();
        match (unmounted, self.session.take()) {
            (Ok(()), Some(session)) => drop(session.join()),
            (Err(error), _) => eprintln!("slowfs: unmount {:?}: {error}", self.at),
            (Ok(()), None) => {}
        }
    }
}

/// Mounts, says whether that went well, and serves until the end of the mount.
fn serve(server: Server, at: &Path, tell: &SyncSender<io::Result<()>>, notices: Receiver<Notice>) {
    let wire = Arc::clone(&server.wire);
    let session = match begin(server, at) {
        Ok(session) => session,
        Err(error) => return drop(tell.send(Err(error))),
    };
    let sender = std::thread::spawn({
        let wire = Arc::clone(&wire);
        move || wire.run()
    });
    let notifier = session.notifier();
    let teller = std::thread::spawn(move || notices::tell(&notifier, notices));
    tell.send(Ok(())).ok();
    // The error at the end is that of the device after the mount is gone.
    session.run().ok();
    wire.close();
    sender.join().ok();
    teller.join().ok();
}

fn begin(server: Server, at: &Path) -> io::Result<Session<Server>> {
    forget_descriptors()?;
    let device = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/fuse")?);
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("slowfs"), at, Some("fuse.slowfs"), flags, Some(data.as_str()))?;
    Session::from_fd(server, device, SessionACL::All, Config::default())
        .inspect_err(|_| unmount(at).unwrap_or_default())
}

/// Gives this thread, and those that it starts, a descriptor table of their own without anything that
/// others wait to see closed.
fn forget_descriptors() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    let open = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let numbers: Vec<i32> = fs::read_dir("/proc/thread-self/fd")?.filter_map(open).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The one that listed them is closed already.
        nix::unistd::close(number).ok();
    }
    Ok(())
}

/// By force: what the kernel waits for ends with an error, and the session with it.
fn unmount(at: &Path) -> nix::Result<()> {
    umount2(at, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
}
