//! What the volume's locks are worth: whether a second process sees them, how long one takes by the round trip, and
//! what the kind and the mount options say.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::directory::{TestDirectory, in_words};
use super::finding::Finding;
use super::helper::{self, OFD_LOCK, POSIX_LOCK, Question};
use super::met::Met;
use super::pace::{Pace, spelled};
use crate::claims::disk::try_lock;
use crate::claims::expiry::{Lock, Sharing};
use crate::claims::locking;
use crate::system::nfs;
use crate::volume::{FileSystem, Volume, user};
use rustix::io::Result;

/// How long the server's answer is waited for: a server that restarts gives no locks for up to 90 s.
const ANSWER: Duration = Duration::from_secs(10);
/// A lock that takes less than this part of a round trip was not asked of the server.
const PART: u32 = 3;
/// Below this round trip, times tell nothing.
const TELLING: Duration = Duration::from_micros(200);
/// What follows where replicas have no lock.
const HEARTBEATS: &str = "replicas go by heartbeats, and a holder that is killed is replaced after 15 s";

/// What was found of them.
pub(super) struct Locks {
    /// What kind and options say.
    sharing: Sharing,
    /// How a call of each kind ended that nothing is against, and how long it took.
    posix: Taken,
    ofd: Taken,
    /// What a second process was told of each.
    other: Option<[String; 2]>,
    /// Whether the mount leaves locks to this machine, or has none at all.
    is_local_by_options: bool,
}

/// A lock that was asked for.
struct Taken {
    answer: Result<Option<Lock>>,
    time: Duration,
}

/// Takes both kinds of lock, and asks a second process.
///
/// # Errors
/// When a file cannot be made.
pub(super) fn look(volume: &Volume, directory: &TestDirectory, kind: FileSystem) -> Result<Locks> {
    let options = nfs::mount_options(volume.root());
    let options = options.filter(|_| kind.name == "nfs");
    let open = |name| helper::open_lock(directory.at(), name);
    let (posix_file, ofd_file) = (Arc::new(open(POSIX_LOCK)?), Arc::new(open(OFD_LOCK)?));
    let posix = taken(&posix_file, helper::posix_lock);
    let ofd = taken(&ofd_file, try_lock);
    let told = Question::Locks.ask(directory.at(), None);
    let other = told.split_once(' ').map(|(posix, ofd)| [posix.to_owned(), ofd.to_owned()]);
    let has = |wanted: &[&str]| {
        options.as_deref().is_some_and(|options| options.split(',').any(|option| wanted.contains(&option)))
    };
    Ok(Locks {
        sharing: locking::sharing(kind, options.as_deref()),
        posix,
        ofd,
        other,
        is_local_by_options: has(&["nolock", "local_lock=all", "local_lock=posix"]),
    })
}

/// Takes a lock, which is kept for as long as the file is open; nothing is known where no answer comes in time.
fn taken(file: &Arc<OwnedFd>, lock: fn(&OwnedFd) -> Result<Lock>) -> Taken {
    let (tell, told) = mpsc::channel();
    let (user, micros) = (user::current(), Arc::new(AtomicU64::new(0)));
    let (file, took) = (Arc::clone(file), Arc::clone(&micros));
    let call = move || {
        let began = Instant::now();
        let answer = user::as_owner(Some(user), || lock(&file));
        took.store(began.elapsed().as_micros() as u64, Relaxed);
        let _ = tell.send(answer);
    };
    let answer = match std::thread::Builder::new().name("lock".into()).spawn(call) {
        Ok(_) => told.recv_timeout(ANSWER).map_or(Ok(None), |answer| answer.map(Some)),
        Err(_) => Ok(None),
    };
    Taken { answer, time: Duration::from_micros(micros.load(Relaxed)) }
}

impl Locks {
    /// Whether processes of this machine see each other's locks of SQLite's kind.
    pub(super) fn are_seen_here(&self) -> bool {
        matches!(self.posix.answer, Ok(Some(Lock::Ours)))
            && self.other.as_ref().is_some_and(|[posix, _]| posix == "refused")
    }

    /// Whether a lock of SQLite's kind was asked of a server, by the time that it took.
    pub(super) fn reach_the_server(&self, pace: &Pace) -> bool {
        !self.is_local_by_options && !is_quick(&self.posix, pace)
    }

    /// What follows for replicas.
    pub(super) fn finding(&self, pace: &Pace, met: Option<&Met>) -> Finding {
        let time = spelled(self.ofd.time);
        let finding = self.told(pace, met, &time);
        let told = |index: usize| self.other.as_ref().map_or(String::new(), |told| told[index].clone());
        finding
            .fact("lock_us", self.ofd.time.as_micros() as u64)
            .fact("posix_lock_us", self.posix.time.as_micros() as u64)
            .fact("second_process_posix", told(0))
            .fact("second_process_ofd", told(1))
    }

    fn told(&self, pace: &Pace, met: Option<&Met>, time: &str) -> Finding {
        let warn = |what: String| Finding::warn("locks", what).then(HEARTBEATS);
        let trusted = !matches!(self.sharing, Sharing::None(_));
        // What volseed would trust, and must not.
        let wrong = |what: String| {
            let finding = warn(what);
            if trusted { finding.flag("--lock lease".to_owned()) } else { finding }
        };
        match &self.ofd.answer {
            Err(error) => return wrong(format!("none: {}", in_words(*error))),
            Ok(None) => return wrong(format!("no answer within {}", spelled(ANSWER))),
            Ok(Some(_)) => {}
        }
        match &self.other {
            None => return Finding::warn("locks", "a second process could not be asked"),
            Some([_, ofd]) if ofd != "refused" => {
                return wrong(format!(
                    "a second process of this machine was told '{ofd}' although the lock was held"
                ));
            }
            Some(_) => {}
        }
        if let Some(met) = met.filter(|met| !met.shares_locks()) {
            return wrong(format!("the other container does not see them ({})", met.where_it_is()));
        }
        match self.sharing {
            Sharing::Local => Finding::ok("locks", format!("kept by this machine's kernel, {time}")),
            Sharing::Server if is_quick(&self.ofd, pace) => wrong(format!(
                "answered in {time}, a round trip takes {}: the server was not asked",
                spelled(pace.round_trip)
            )),
            Sharing::Server => Finding::ok("locks", format!("kept by the server, {time}")),
            Sharing::None(reason) => {
                warn(format!("seen by another process of this machine, but not trusted: {reason}"))
            }
        }
    }
}

/// Whether it was answered sooner than a server could.
fn is_quick(taken: &Taken, pace: &Pace) -> bool {
    pace.is_remote && pace.round_trip >= TELLING && taken.time * PART < pace.round_trip
}
