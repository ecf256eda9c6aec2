//! `--peer`: two doctors on one volume, in two containers, tell each other what they see of each other.
//!
//! They find each other by their directories in the root. The one whose name is smaller is the host: both meet in its
//! directory. What one says is a file there; the other lists the directory, opened again each time, since a client
//! trusts what it has seen of one. The host's findings are printed by both.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{TestDirectory, create, in_words, read_all, write_all};
use super::helper::{self, MAPPED, OFD_LOCK, POSIX_LOCK, Question};
use super::mapping::LENGTH;
use super::met::{Met, RACED, Seen};
use super::pace::spelled;
use crate::claims::disk::try_lock;
use crate::claims::expiry::Lock;
use crate::cli::config::VolumeConfig;
use crate::volume::records::boot_id;
use crate::volume::{Volume, is_nested, names, openat};
use rustix::io::Result;

/// How long the other is waited for where `--wait-timeout` does not say it: two containers that an orchestrator starts
/// together pull their images first.
const MEETING: Duration = Duration::from_secs(60);
/// How long an answer may take: a server that restarts grants no locks for up to 90 s, and what a client knows of a
/// directory may be 60 s old (nfs(5), `acdirmax`).
const ANSWER: Duration = Duration::from_secs(100);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The mark of a doctor that waits for another, in its directory.
const WAITS: &str = "waits-for-a-peer";

/// A doctor that knows its peer.
struct Meeting<'a> {
    directory: &'a TestDirectory,
    root: &'a OwnedFd,
    /// Where both meet.
    place: String,
}

/// Waits for another doctor, and tries with it what one cannot try alone.
///
/// # Errors
/// When the volume answers with one, or it is stopped.
pub(super) fn meet(config: &VolumeConfig, volume: &Volume, directory: &TestDirectory) -> Result<Met> {
    directory.write(WAITS, b"")?;
    let limit = config.wait_timeout.unwrap_or(MEETING);
    let deadline = Instant::now() + limit;
    let root = volume.shared_root();
    let place = loop {
        directory.check()?;
        let waiting = waiting(root)?;
        if waiting.len() > 1
            && let Some(place) =
                waiting.first().filter(|_| waiting.iter().take(2).any(|name| *name == directory.name))
        {
            break place.clone();
        }
        if Instant::now() >= deadline {
            return Ok(Met::Nobody(format!("no other volseed doctor --peer came within {}", spelled(limit))));
        }
        directory.cancel().sleep(LOOK_EVERY);
    };
    let is_host = place == directory.name;
    let meeting = Meeting { directory, root, place };
    match if is_host { meeting.host() } else { meeting.guest() } {
        Ok(seen) => Ok(Met::Seen(seen)),
        Err(error) => {
            directory.check()?;
            Ok(Met::Nobody(format!("the other doctor did not go on: {}", in_words(error))))
        }
    }
}

/// The directories of doctors that wait, in order.
fn waiting(root: &OwnedFd) -> Result<Vec<String>> {
    let mut waiting = Vec::new();
    for name in names(openat(root.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?.as_fd())?
    {
        if !is_nested(&name) {
            continue;
        }
        let Ok(name) = String::from_utf8(name.into_vec()) else { continue };
        // Another user's, or one that has just gone.
        let Ok(found) =
            openat(root.as_fd(), name.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
        else {
            continue;
        };
        if names(found.as_fd()).is_ok_and(|inside| inside.iter().any(|inside| **inside == *WAITS.as_bytes()))
        {
            waiting.push(name);
        }
    }
    // They have one length, and no two are the same.
    waiting.sort_unstable();
    Ok(waiting)
}

impl Meeting<'_> {
    /// The place, opened again.
    fn open(&self) -> Result<OwnedFd> {
        openat(self.root.as_fd(), self.place.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
    }

    /// Says something: the file is whole when it has its name.
    fn say(&self, name: &str, text: &str) -> Result<()> {
        let at = self.open()?;
        let unfinished = format!("{name}-unfinished");
        let file = create(at.as_fd(), unfinished.as_bytes())?;
        write_all(&file, text.as_bytes()).and_then(|()| crate::volume::records::close(file))?;
        fs::renameat(&at, unfinished.as_str(), &at, name)
    }

    /// Waits until the other has said it.
    fn hear(&self, name: &str) -> Result<String> {
        let deadline = Instant::now() + ANSWER;
        loop {
            self.directory.check()?;
            match self.open().and_then(|at| heard(&at, name)) {
                Ok(Some(text)) => return Ok(text),
                // A name that is listed may have been another file a moment ago.
                Ok(None) | Err(Errno::NOENT | Errno::STALE) if Instant::now() < deadline => {}
                Ok(None) => return Err(Errno::TIMEDOUT),
                Err(error) => return Err(error),
            }
            self.directory.cancel().sleep(LOOK_EVERY);
        }
    }

    /// The host's part.
    fn host(&self) -> Result<Seen> {
        let (guest, guests_boot) = pair(&self.hear("guest")?);
        let (host, boot) = introduction();
        self.say("host", "")?;
        let same_machine = !boot.is_empty() && boot == guests_boot;
        // How long what one does takes to be seen by the other, there and back.
        let began = Instant::now();
        self.say("ping", "")?;
        self.hear("pong")?;
        let seen_us = (began.elapsed() / 2).as_micros() as u64;
        let open = |name| helper::open_lock(self.directory.at(), name);
        let held = (open(POSIX_LOCK)?, open(OFD_LOCK)?);
        let ours = (helper::posix_lock(&held.0), try_lock(&held.1));
        self.say("locked", "")?;
        let (posix, ofd) = pair(&self.hear("tried")?);
        drop(held);
        self.say("free", "")?;
        let (posix_after, ofd_after) = pair(&self.hear("tried-again")?);
        let held = |lock: Result<Lock>, told: String| {
            if lock == Ok(Lock::Ours) { told } else { "not held".into() }
        };
        let posix = [held(ours.0, posix), posix_after];
        let ofd = [held(ours.1, ofd), ofd_after];
        let race = self.race()?;
        let others = self.hear("won")?;
        let not_once = race.bytes().zip(others.bytes()).filter(|(one, other)| one == other).count() as u64;
        let page = self.directory.file(MAPPED)?;
        write_all(&page, &vec![b'0'; LENGTH])?;
        crate::volume::records::close(page)?;
        self.say("map", "")?;
        self.hear("mapped")?;
        let page = openat(self.directory.at(), MAPPED.as_bytes(), OFlags::RDWR, Mode::empty())?;
        rustix::io::pwrite(&page, b"1", 0).and_then(|_| fs::fsync(&page))?;
        let mapping = self.hear("saw")?;
        let seen = Seen { hosts: [host, guest], same_machine, posix, ofd, not_once, mapping, seen_us };
        self.say("seen", &seen.text())?;
        // The place goes with us.
        self.hear("over")?;
        Ok(seen)
    }

    /// The guest's.
    fn guest(&self) -> Result<Seen> {
        let (host, boot) = introduction();
        self.say("guest", &format!("{host} {boot}"))?;
        self.hear("host")?;
        self.hear("ping")?;
        self.say("pong", "")?;
        self.hear("locked")?;
        self.say("tried", &self.locks()?)?;
        self.hear("free")?;
        // A server may take a moment.
        let mut told = self.locks()?;
        for _ in 0..50 {
            if told == "granted granted" || self.directory.cancel().sleep(LOOK_EVERY * 2) {
                break;
            }
            told = self.locks()?;
        }
        self.say("tried-again", &told)?;
        self.say("won", &self.race()?)?;
        self.hear("map")?;
        self.say("saw", &self.watch()?)?;
        let seen = self.hear("seen")?;
        self.say("over", "")?;
        Seen::parse(&seen).ok_or(Errno::BADMSG)
    }

    fn locks(&self) -> Result<String> {
        let at = self.open()?;
        Ok(Question::Locks.ask(at.as_fd(), None))
    }

    /// Creates names at the same time as the other; a `1` for each that this one has created, and a `0` for the others.
    fn race(&self) -> Result<String> {
        let at = self.open()?;
        let is_host = self.place == self.directory.name;
        let (ready, other) =
            if is_host { ("host-races", "guest-races") } else { ("guest-races", "host-races") };
        self.say(ready, "")?;
        self.hear(other)?;
        let mut won = String::new();
        for number in 0..RACED {
            let name = format!("raced-{number}");
            let made = match number.is_multiple_of(2) {
                true => fs::mkdirat(&at, name.as_str(), Mode::RWXU),
                false => create(at.as_fd(), name.as_bytes()).map(drop),
            };
            match made {
                Ok(()) => won.push('1'),
                Err(Errno::EXIST) => won.push('0'),
                Err(error) => return Err(error),
            }
        }
        Ok(won)
    }

    /// Has a process map a page, and says what it saw of what the host writes.
    fn watch(&self) -> Result<String> {
        let at = self.open()?;
        let mut asked = Question::Watch.start(at.as_fd(), None)?;
        let mut answer = asked.next();
        if answer == "mapped" {
            self.say("mapped", "")?;
            answer = asked.last();
        }
        if answer.starts_with("error ") {
            // The host waits for it.
            self.say("mapped", "")?;
        }
        Ok(answer)
    }
}

fn heard(at: &OwnedFd, name: &str) -> Result<Option<String>> {
    if !names(at.as_fd())?.iter().any(|found| **found == *name.as_bytes()) {
        return Ok(None);
    }
    read_all(at.as_fd(), name.as_bytes()).map(|bytes| String::from_utf8(bytes).ok())
}

/// Host and boot.
fn introduction() -> (String, String) {
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    (host, boot_id().unwrap_or_default())
}

fn pair(text: &str) -> (String, String) {
    let (one, other) = text.split_once(' ').unwrap_or((text, text));
    (one.to_owned(), other.to_owned())
}
