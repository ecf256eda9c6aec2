//! What two doctors saw of each other, and what follows from it.

use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directory::in_words;
use super::finding::Finding;
use super::pace::spelled;

/// Names that both create at once.
pub(super) const RACED: usize = 64;

/// What came of it.
pub(super) enum Met {
    /// No other doctor, or one that went away.
    Nobody(String),
    /// What the two saw.
    Seen(Seen),
}

/// What the two saw of each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) hosts: [String; 2],
    pub(super) same_machine: bool,
    /// What the guest was told of the two kinds of lock while the host held them, and after that.
    pub(super) posix: [String; 2],
    pub(super) ofd: [String; 2],
    /// How many names were created by not exactly one of them.
    pub(super) not_once: usize,
    /// Whether a mapped page of the guest followed what the host wrote.
    pub(super) mapping: String,
    /// How long a file took to be seen.
    pub(super) seen_us: u64,
}

impl Met {
    fn seen(&self) -> Option<&Seen> {
        match self {
            Met::Seen(seen) => Some(seen),
            Met::Nobody(_) => None,
        }
    }

    /// Whether the other is on another machine, as far as the kernel tells.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.seen().is_some_and(|seen| !seen.same_machine)
    }

    /// Whether the other saw that volseed's kind of lock was held. Where nobody came nothing speaks against it.
    pub(super) fn shares_locks(&self) -> bool {
        self.seen().is_none_or(|seen| is_shared(&seen.ofd))
    }

    /// The same for SQLite's kind.
    pub(super) fn shares_posix_locks(&self) -> bool {
        self.seen().is_some_and(|seen| is_shared(&seen.posix))
    }

    /// Where the two are.
    pub(super) fn where_it_is(&self) -> &'static str {
        if self.is_elsewhere() { "on another machine" } else { "on this machine" }
    }

    /// What it says of replicas.
    pub(super) fn findings(&self) -> Vec<Finding> {
        match self {
            Met::Seen(seen) => vec![seen.peers(), seen.creation(), seen.locks(), seen.mapping()],
            Met::Nobody(why) => vec![Finding::fail("peer", why).then(
                "start both at the same time, as the same user; if both ran, they do not share this volume",
            )],
        }
    }
}

impl Seen {
    fn peers(&self) -> Finding {
        let [host, guest] = &self.hosts;
        let place = if self.same_machine { "on this machine" } else { "on two machines" };
        let time = spelled(Duration::from_micros(self.seen_us));
        let what = format!("{host} and {guest}, {place}; a file is seen after {time}");
        let finding = match self.same_machine {
            true => Finding::ok("peer", what).then("this says nothing of replicas on other machines"),
            false => Finding::ok("peer", what),
        };
        finding.fact("same_machine", self.same_machine).fact("seen_us", self.seen_us)
    }

    fn creation(&self) -> Finding {
        match self.not_once {
            0 => Finding::ok("peer create", format!("each of {RACED} names was created by one of the two")),
            count => {
                let what = format!("{count} of {RACED} names were created by both, or by none");
                Finding::fail("peer create", what)
                    .then("two replicas may seed at once: use one replica, or another volume")
            }
        }
    }

    fn locks(&self) -> Finding {
        let told = |[held, after]: &[String; 2]| format!("{held} while held, {after} after that");
        let what = format!("volseed's: {}; SQLite's: {}", told(&self.ofd), told(&self.posix));
        match is_shared(&self.ofd) && is_shared(&self.posix) {
            true => Finding::ok("peer locks", what),
            false => {
                Finding::warn("peer locks", what).then("locks are not shared: replicas go by heartbeats")
            }
        }
    }

    fn mapping(&self) -> Finding {
        if self.mapping == "follows" {
            return Finding::ok("peer mmap", "a mapped page follows what the other writes");
        }
        let what = format!("a mapped page does not follow what the other writes ({})", shown(&self.mapping));
        Finding::warn("peer mmap", what).then("SQLite's WAL, LMDB and the like lose data when both use them")
    }
}

fn is_shared([held, after]: &[String; 2]) -> bool {
    held == "refused" && after == "granted"
}

/// An answer of the helper, in words.
fn shown(answer: &str) -> String {
    match answer.strip_prefix("error ").and_then(|number| number.parse().ok()) {
        Some(number) => in_words(Errno::from_raw_os_error(number)),
        None => "it stayed as it was".into(),
    }
}
