//! What no order and no number of writers could have been faster than on an NFS volume, and what the limit was.
//!
//! Two readings of the mount's counters frame what it takes: the requests of the claim are one after the other, so
//! that nothing waits for anything but the network and the server; those of the seed are as many at once as there
//! can be. Only reckons: what is measured comes from [`nfs`] and [`processor`].

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::seed::Staging;
use crate::system::nfs::slots::{Looks, session_slots};
use crate::system::nfs::{Counters, Traffic};
use crate::system::processor;

/// Up to so many times as long as the higher floor, that floor is the limit.
const NEAR: f64 = 1.5;
/// The processor is the limit from this share of it on.
const BUSY: f64 = 0.8;
/// The server is the limit where it takes so many times as long for a request among many as for one alone.
const SLOW: f64 = 1.5;
/// For want of slots at least so many requests wait for each that is in flight, as 64 writers do with up to 58 slots.
/// What a busy processor adds was 0.05.
const WAITS: f64 = 0.1;

/// Readings from before the first writer.
#[derive(Debug)]
pub(super) struct Began {
    alone: Traffic,
    counters: Counters,
    processor: processor::ProcessorReading,
    /// What was in flight meanwhile.
    looks: Looks,
}

/// What was counted of a seed.
#[derive(Debug)]
pub(super) struct Requests {
    /// Those of the claim, one after the other.
    pub(super) alone: Traffic,
    /// Those from the first writer to the last rename.
    pub(super) seed: Traffic,
    /// How many of these were in flight, from the first writer to the last.
    pub(super) looks: Looks,
    /// How busy the processors were meanwhile, 0 to 1.
    pub(super) busy: f64,
}

/// What they come to.
#[derive(Debug, PartialEq)]
pub(super) struct Floors {
    /// Of a request, with nothing else in flight.
    pub(super) round_trip: Duration,
    /// Of one among all those of the seed.
    pub(super) loaded_round_trip: Duration,
    /// The session's slots, where what was in flight shows them.
    pub(super) slots: Option<u64>,
    /// All requests, with so many at once; else with as many as the client asks for, or as there are writers where
    /// there is no session.
    pub(super) slot_floor: Duration,
    /// The longest chain of creations, each of which waits for the one before.
    pub(super) directory_floor: Duration,
    /// The time by the higher floor, to the hundredth.
    pub(super) times_floor: f64,
    /// What it would have to be faster: `slots`, `writers`, `directory`, `server` or `processor`.
    pub(super) limit: Option<&'static str>,
}

impl Began {
    /// Reads what the mount's counters say now; `before` is from before the claim.
    pub(super) fn now(root: BorrowedFd<'_>, before: Option<&Counters>) -> Option<Began> {
        let counters = Counters::read(root)?;
        Some(Began {
            alone: counters.since(before?),
            counters,
            processor: processor::ProcessorReading::now(),
            looks: Looks::default(),
        })
    }

    /// Does what is between the readings, and looks at what is in flight.
    pub(super) fn while_looking<T>(&mut self, root: BorrowedFd<'_>, act: impl FnOnce() -> T) -> T {
        let (result, looks) = Looks::during(root, act);
        self.looks = looks;
        result
    }

    /// What there was since.
    pub(super) fn until_now(self, root: BorrowedFd<'_>) -> Option<Requests> {
        let seed = Counters::read(root)?.since(&self.counters);
        Some(Requests { alone: self.alone, seed, looks: self.looks, busy: self.processor.busy_since() })
    }
}

impl Floors {
    /// Of a seed that took this time. `None` where too few requests were sent to tell a round trip.
    pub(super) fn new(requests: &Requests, staging: &Staging, time: Duration) -> Option<Floors> {
        let asked = session_slots() as u64;
        Floors::of(requests, asked, staging.writers as u64, staging.longest_chain, time)
    }

    fn of(requests: &Requests, asked: u64, writers: u64, chain: u64, time: Duration) -> Option<Floors> {
        let Requests { alone, seed, busy, .. } = requests;
        let loaded_round_trip = seed.round_trip()?;
        // A server that was away while the claim was made says nothing of the network.
        let round_trip = alone.round_trip()?.min(loaded_round_trip);
        let times = |number: f64| round_trip.mul_f64(number);
        let slots = slots(requests, asked, writers);
        let (at_once, of) = match seed.has_session {
            true => (slots.unwrap_or(asked), "slots"),
            false => (writers.max(1), "writers"),
        };
        let slot_floor = times(seed.total() as f64 / at_once as f64);
        let directory_floor = times(chain as f64 * requests_a_creation(seed));
        let floor = slot_floor.max(directory_floor).as_secs_f64().max(f64::MIN_POSITIVE);
        let times_floor = (time.as_secs_f64() / floor * 100.0).round() / 100.0;
        let limit = match slot_floor > directory_floor {
            _ if times_floor > NEAR && *busy >= BUSY => Some("processor"),
            _ if times_floor > NEAR && loaded_round_trip >= round_trip.mul_f64(SLOW) => Some("server"),
            _ if times_floor > NEAR => None,
            true => Some(of),
            false => Some("directory"),
        };
        Some(Floors { round_trip, loaded_round_trip, slots, slot_floor, directory_floor, times_floor, limit })
    }
}

/// As many as the client asks for, where so many were in flight most of the time; fewer where requests waited although
/// there were never more in flight, and more writers.
fn slots(Requests { seed, looks, .. }: &Requests, asked: u64, writers: u64) -> Option<u64> {
    // What is sent again is never told from what is in flight.
    let limit = looks.limit().filter(|_| seed.has_session && seed.retransmissions == 0)?;
    let waited = seed.waiting() >= WAITS.max(2.0 * seed.waiting_for_network());
    match limit {
        limit if limit >= asked => Some(asked),
        limit if waited && limit < writers => Some(limit),
        _ => None,
    }
}

/// Requests under a directory's lock, one after the other: NFSv3 looks a file up before it creates it.
fn requests_a_creation(seed: &Traffic) -> f64 {
    let files = seed.of("CREATE");
    let all = files + seed.of("MKDIR") + seed.of("SYMLINK");
    if seed.is_version_4 || all == 0 {
        return 1.0;
    }
    1.0 + seed.of("LOOKUP").min(files) as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a fresh mount of `bench/nfs` at 3 ms, and at the end of its claim.
    const ALONE: &str = "69 67 0 70 0 2 0 1";
    const MOUNTED: &str = "GETATTR: 1 1 0 148 240 0 3 3 0";
    const CLAIMED: &str = "\
        GETATTR: 15 15 0 2376 3600 0 45 45 0
        OPEN: 5 5 0 1332 1504 0 15 15 1
        ACCESS: 10 10 0 1668 1680 0 31 31 0
        CREATE: 7 7 0 1444 2184 0 21 22 0
        WRITE: 3 3 0 1424 552 0 9 9 0";
    fn counters(operations: &str, connection: &str) -> Counters {
        let version = if operations.contains("OPEN") { "4.1" } else { "3" };
        let text = format!(
            "device 10.0.0.9:/ mounted on /data with fstype nfs4 statvers=1.1\nopts: rw,vers={version},hard\n\
             xprt: tcp 0 0 2 0 0 {connection}\nper-op statistics\n{operations}\n"
        );
        Counters::of(&text, "/data")
    }

    /// What is counted between a mount, the end of the claim, and the end of the seed; so many requests were in flight
    /// half the time.
    fn requests(claimed: &str, (connection, ended): (&str, &str), in_flight: u64, busy: f64) -> Requests {
        let claim = counters(claimed, ALONE);
        let alone = claim.since(&counters(MOUNTED, ALONE));
        let looks = (0..in_flight).chain((0..in_flight).map(|_| in_flight)).collect();
        Requests { alone, seed: counters(ended, connection).since(&claim), looks, busy }
    }

    /// The round trips alone and among others, the slots, the floors, the time by them, and the limit.
    fn told(requests: &Requests, chain: u64, seconds: f64) -> String {
        match Floors::of(requests, 64, 64, chain, Duration::from_secs_f64(seconds)) {
            None => "nothing".into(),
            Some(floors) => format!(
                "{} {} us, {:?} slots, {:.3} {:.3} s, times {} by {}",
                floors.round_trip.as_micros(),
                floors.loaded_round_trip.as_micros(),
                floors.slots,
                floors.slot_floor.as_secs_f64(),
                floors.directory_floor.as_secs_f64(),
                floors.times_floor,
                floors.limit.unwrap_or("nothing that is known"),
            ),
        }
    }

    /// The corpus there, with the 64 slots that the client asks for: requests wait for the processor that client and
    /// server share, each kind for 7.6 ms or more.
    const CORPUS: (&str, &str) = (
        "47347 47347 0 2659930 0 65 28757 2605605",
        "\
        WRITE: 10524 10524 0 117094820 1179552 5269 85757 94366 0
        OPEN: 10500 10500 0 2887452 3737712 5938 85467 94922 1
        CLOSE: 10505 10505 0 1932920 1848904 4559 82187 89918 0
        SETATTR: 12268 12268 0 2797072 3238752 2231 99396 102435 0
        ACCESS: 1673 1673 0 281052 281064 70 13397 13566 0
        CREATE: 1688 1688 0 342872 526656 133 12876 13190 0",
    );
    /// The same from a server that grants 30: they wait before they are sent.
    const FEW_SLOTS: (&str, &str) = (
        "47347 47347 0 1253651 0 35 9788 1203441",
        "\
        WRITE: 10524 10524 0 117094820 1179552 53208 43083 98214 0
        OPEN: 10500 10500 0 2887452 3737712 54721 42313 99262 1
        CLOSE: 10505 10505 0 1932920 1848904 51983 41623 95800 0
        SETATTR: 12268 12268 0 2797072 3238752 58451 48692 107670 0
        ACCESS: 1673 1673 0 281052 281064 7384 6580 14053 0
        CREATE: 1688 1688 0 342872 526656 7149 6676 13961 0",
    );
    /// 16 files.
    const SMALL: (&str, &str) = (
        "220 220 0 347 0 5 0 127",
        "\
        WRITE: 22 22 0 404944 2896 11 78 89 0
        OPEN: 24 24 0 6636 8256 1 80 82 1
        CLOSE: 23 23 0 4232 4072 0 83 83 0
        SETATTR: 19 19 0 4300 5016 0 66 67 0
        ACCESS: 28 28 0 4692 4704 0 87 87 0
        CREATE: 7 7 0 1444 2184 0 21 22 0",
    );
    /// 8 files of 20 MB over a link that is full: they have their slots and wait for their turn to be sent.
    const FULL_LINK: (&str, &str) = (
        "637 637 0 5185 0 42 9370 3927",
        "\
        WRITE: 321 321 0 160061404 36600 121017 42774 163793 0
        COMMIT: 152 152 0 24320 15808 4339 18003 22349 0
        OPEN: 16 16 0 4264 5408 1300 664 1964 1
        SETATTR: 19 19 0 4076 5016 1033 1347 2384 0
        ACCESS: 20 20 0 3348 3360 0 61 61 0",
    );
    /// NFSv3, whose kinds are others: 300 files in 20 directories.
    const VERSION_3: (&str, &str) = (
        "12391 12391 0 759514 0 65 14 747114",
        "\
        LOOKUP: 310 310 0 1 1 0 930 930 0
        CREATE: 300 300 0 1 1 0 900 900 0
        MKDIR: 20 20 0 1 1 0 60 60 0
        SETATTR: 320 320 0 1 1 0 960 960 0",
    );

    #[test]
    fn the_round_trip_is_that_of_a_request_alone() {
        let figures = "3025 8041 us, Some(64) slots, 2.228 0.756 s, times 3.04 by";
        for (busy, limit) in [(0.97, "processor"), (0.2, "server")] {
            let corpus = requests(CLAIMED, CORPUS, 64, busy);
            assert_eq!(told(&corpus, 250, 6.766), format!("{figures} {limit}"));
        }
        // The server was away for a minute.
        let away = requests(&CLAIMED.replace(" 45 45 ", " 60045 60045 "), CORPUS, 64, 0.97);
        assert!(told(&away, 250, 6.766).starts_with("8041 8041 us"));
        assert_eq!(told(&requests(CLAIMED, (ALONE, CLAIMED), 0, 0.97), 250, 6.766), "nothing");
    }

    #[test]
    fn slots_are_told_where_they_show() {
        let few = requests(CLAIMED, FEW_SLOTS, 30, 0.97);
        assert_eq!(
            told(&few, 250, 7.072),
            "3025 4007 us, Some(30) slots, 4.753 0.756 s, times 1.49 by slots"
        );
        // Nothing waits for more: some writers, or the processor, are that slow.
        assert!(told(&requests(CLAIMED, CORPUS, 56, 0.97), 250, 6.766).contains(" None slots, 2.228 "));
        let link = requests(CLAIMED, FULL_LINK, 39, 0.2);
        assert_eq!(told(&link, 8, 6.9), "3025 123125 us, None slots, 0.024 0.024 s, times 285.12 by server");
        // A request that is sent again looks as if two were in flight.
        let sent_again = FEW_SLOTS.1.replace("OPEN: 10500 10500", "OPEN: 10500 10501");
        let again = requests(CLAIMED, (FEW_SLOTS.0, &sent_again), 30, 0.97);
        assert!(told(&again, 250, 7.072).contains(" None slots, "));
    }

    #[test]
    fn a_small_seed_shows_no_slots_and_has_its_floors_by_those_that_are_asked_for() {
        let small = requests(CLAIMED, SMALL, 3, 0.1);
        let figures = "3025 3459 us, None slots, 0.005 0.048 s, times";
        assert_eq!(told(&small, 16, 0.06), format!("{figures} 1.24 by directory"));
        assert_eq!(told(&small, 16, 0.33), format!("{figures} 6.82 by nothing that is known"));
        assert_eq!(told(&small, 1, 0.006), "3025 3459 us, None slots, 0.005 0.003 s, times 1.3 by slots");
    }

    #[test]
    fn nfs_3_looks_a_file_up_before_it_creates_it() {
        let mounted = counters("MKDIR: 0 0 0 0 0 0 0 0 0", ALONE);
        let claim = counters("MKDIR: 20 20 0 1 1 0 60 60 0", ALONE);
        let seed = counters(VERSION_3.1, VERSION_3.0).since(&mounted);
        let version_3 = Requests { alone: claim.since(&mounted), seed, looks: Looks::default(), busy: 0.1 };
        let figures = "3000 3000 us, None slots, 0.045";
        assert_eq!(told(&version_3, 100, 0.6), format!("{figures} 0.581 s, times 1.03 by directory"));
        assert_eq!(told(&version_3, 1, 0.05), format!("{figures} 0.006 s, times 1.12 by writers"));
    }
}
