//! What two doctors saw of each other, and what follows from it.

use std::time::Duration;

use super::finding::Finding;
use super::helper::shown;
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
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) hosts: [String; 2],
    pub(super) same_machine: bool,
    /// What the guest was told of the two kinds of lock while the host held them, and after that.
    pub(super) posix: [String; 2],
    pub(super) ofd: [String; 2],
    /// How many names were created by not exactly one of them.
    pub(super) not_once: u64,
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
            Met::Nobody(why) => vec![Finding::fail("peer", why.clone()).then(
                "start both at the same time, as the same user; if both ran, they do not share this volume",
            )],
        }
    }
}

impl Seen {
    /// As one tells the other.
    pub(super) fn text(&self) -> String {
        let Seen {
            hosts: [host, guest], posix: [posix, posix_after], ofd: [ofd, ofd_after], mapping, ..
        } = self;
        let numbers = format!("{} {} {}", u8::from(self.same_machine), self.not_once, self.seen_us);
        [host, guest, posix, posix_after, ofd, ofd_after, mapping, &numbers].map(String::as_str).join("\n")
    }

    /// Reads that; nothing where it is something else.
    pub(super) fn parse(text: &str) -> Option<Seen> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let [host, guest, posix, posix_after, ofd, ofd_after, mapping, numbers] = lines.try_into().ok()?;
        let numbers: Vec<u64> =
            numbers.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [same_machine, not_once, seen_us] = numbers.try_into().ok()?;
        let (posix, ofd) = ([posix, posix_after], [ofd, ofd_after]);
        let same_machine = same_machine == 1;
        Some(Seen { hosts: [host, guest], same_machine, posix, ofd, not_once, mapping, seen_us })
    }

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
        let what = match &*self.mapping {
            "differs" => "a mapped page does not follow what the other writes".to_owned(),
            error => format!("a page cannot be mapped: {}", shown(error)),
        };
        Finding::warn("peer mmap", what).then("SQLite's WAL, LMDB and the like lose data when both use them")
    }
}

fn is_shared([held, after]: &[String; 2]) -> bool {
    held == "refused" && after == "granted"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_tells_the_other_reads_and_nothing_else() {
        let pair = |one: &str, other: &str| [one.to_owned(), other.to_owned()];
        let seen = Seen {
            hosts: pair("a", ""),
            same_machine: true,
            posix: pair("refused", "granted"),
            ofd: pair("error-37", "error-37"),
            not_once: 3,
            mapping: "error 19".into(),
            seen_us: 1234,
        };
        assert_eq!(Seen::parse(&seen.text()), Some(seen));
        for text in ["", "a\nb", "a\nb\nc\nd\ne\nf\ng\n1 2", "a\nb\nc\nd\ne\nf\ng\n1 2 x"] {
            assert_eq!(Seen::parse(text), None, "{text}");
        }
    }
}
