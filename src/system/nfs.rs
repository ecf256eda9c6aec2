//! What the kernel tells of an NFS mount: its counters and its options.
//!
//! Knows nothing of seeding: a caller reads [`Counters`] before and after and asks for the
//! [`Traffic`] between. All of it comes from /proc and /sys, which answer out of the kernel's memory
//! while a server is silent. Nothing here is an error: what cannot be told is `None` or the kernel's
//! default.

pub(crate) mod slots;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::files::kernel_text;

/// The most that is read of a file in /proc, in bytes: some 1,500 NFS mounts of 5 KiB each.
const MAX_TEXT: u64 = 8 << 20;
/// Fewer calls say little of a round trip: the kernel cuts the sum of each operation to whole milliseconds.
const ENOUGH_CALLS: u64 = 10;
/// What a mount's counters said at one time.
///
/// They belong to the file system as this machine mounted it: another container that uses the same
/// one counts here too. A new mount begins at zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    operations: BTreeMap<String, OperationCounts>,
    /// Of its connections together; `None` where the kernel does not say (other transports than TCP).
    connections: Option<ConnectionCounts>,
    /// Of the protocol, as `vers=` in its options has it.
    version: String,
}

/// Where a mount's requests are counted, to be looked at often.
pub(crate) struct OnTheWire {
    point: String,
    nth: usize,
    /// What was never answered: a lost connection loses what was sent through it.
    lost: u64,
}

/// What a line `xprt: tcp …` says, one for each connection (Linux `net/sunrpc/xprtsock.c`, `xs_tcp_print_stats`). The
/// sums are over what there was whenever a request was sent (`net/sunrpc/xprt.c`, `xprt_request_transmit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConnectionCounts {
    /// Requests that were sent, and answers that came.
    sent: u64,
    received: u64,
    /// Sum of those in flight.
    in_flight: u64,
    /// Sum of those that had their slot and waited for their turn to be sent.
    unsent: u64,
}

/// One line of `per-op statistics`, as far as it is used. Each task is counted once, when it ends;
/// source: Linux `net/sunrpc/stats.c`, `rpc_count_iostats_metrics` and `rpc_clnt_show_stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OperationCounts {
    calls: u64,
    transmissions: u64,
    /// What the calls waited together before they were sent, in milliseconds: for a slot above all.
    queued: u64,
    /// What their answers took together, in milliseconds.
    round_trips: u64,
}

/// What went to a mount's server between two readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Calls by operation, as the kernel names it (`OPEN`, `WRITE`, …), the most first and none that
    /// was not called. In NFSv4 one call is one compound request.
    pub calls: Vec<(String, u64)>,
    /// Requests that were sent again, for want of an answer or after a lost connection.
    pub retransmissions: u64,
    /// Whether it is a mount of NFSv4, where one request opens a file and creates it.
    pub is_version_4: bool,
    /// Whether the mount has a session, whose slots limit the requests in flight: from NFSv4.1 on.
    pub has_session: bool,
    queued: u64,
    round_trips: u64,
    /// As [`ConnectionCounts`] has them.
    unsent: u64,
    in_flight: u64,
}

impl Counters {
    /// The counters of the NFS mount that holds `root`; `None` where it is none, or where it cannot
    /// be told. Does not ask the server, nor wait for it.
    pub(crate) fn read(root: BorrowedFd<'_>) -> Option<Counters> {
        let mounts = text("/proc/self/mountinfo")?;
        let (point, nth) = mount(&mounts, mount_id(root)?)?;
        counters(&text("/proc/self/mountstats")?, point, nth)
    }

    /// Those of the first mount in a text like /proc/self/mountstats whose mount point this is.
    #[cfg(test)]
    pub(crate) fn of(mountstats: &str, point: &str) -> Counters {
        counters(mountstats, point, 0).expect("a section of an NFS mount")
    }

    /// What went to the server since `earlier`, a reading of the same mount.
    pub(crate) fn since(&self, earlier: &Counters) -> Traffic {
        let between = |name: &String, now: &OperationCounts| {
            let then = earlier.operations.get(name).copied().unwrap_or_default();
            OperationCounts {
                calls: now.calls.saturating_sub(then.calls),
                transmissions: now.transmissions.saturating_sub(then.transmissions),
                queued: now.queued.saturating_sub(then.queued),
                round_trips: now.round_trips.saturating_sub(then.round_trips),
            }
        };
        let mut operations: Vec<(String, OperationCounts)> =
            self.operations.iter().map(|(name, now)| (name.clone(), between(name, now))).collect();
        operations.retain(|(_, operation)| operation.calls > 0);
        operations.sort_by_key(|(_, operation)| std::cmp::Reverse(operation.calls));
        let sum = |field: fn(&OperationCounts) -> u64| {
            operations.iter().map(|(_, operation)| field(operation)).fold(0, u64::saturating_add)
        };
        let between_sums = |field: fn(&ConnectionCounts) -> u64| {
            let of = |counters: &Counters| counters.connections.as_ref().map_or(0, field);
            of(self).saturating_sub(of(earlier))
        };
        Traffic {
            retransmissions: sum(|operation| operation.transmissions.saturating_sub(operation.calls)),
            queued: sum(|operation| operation.queued),
            round_trips: sum(|operation| operation.round_trips),
            unsent: between_sums(|connections| connections.unsent),
            in_flight: between_sums(|connections| connections.in_flight),
            is_version_4: self.operations.contains_key("OPEN"),
            has_session: self.version.starts_with("4.") && self.version != "4.0",
            calls: operations.into_iter().map(|(name, operation)| (name, operation.calls)).collect(),
        }
    }
}

impl OnTheWire {
    /// The requests of the NFS mount that holds `root`, of which none is in flight now.
    fn of(root: BorrowedFd<'_>) -> Option<OnTheWire> {
        let mounts = text("/proc/self/mountinfo")?;
        let (point, nth) = mount(&mounts, mount_id(root)?)?;
        let mut wire = OnTheWire { point: point.to_owned(), nth, lost: 0 };
        wire.lost = wire.in_flight()?;
        Some(wire)
    }

    /// How many are in flight.
    fn in_flight(&self) -> Option<u64> {
        let stats = text("/proc/self/mountstats")?;
        let sums = connections(section(&stats, &self.point, self.nth)?)?;
        Some(sums.sent.saturating_sub(sums.received).saturating_sub(self.lost))
    }
}

impl Traffic {
    /// All calls together.
    pub(crate) fn total(&self) -> u64 {
        self.calls.iter().map(|(_, calls)| *calls).fold(0, u64::saturating_add)
    }

    /// How many calls of one operation.
    pub(crate) fn of(&self, operation: &str) -> u64 {
        self.calls.iter().find(|(name, _)| name == operation).map_or(0, |(_, calls)| *calls)
    }

    /// From sending a request to its answer, on average: the network, and the server with all that waits there.
    /// `None` where fewer than 10 were sent.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let calls = Some(self.total()).filter(|calls| *calls >= ENOUGH_CALLS)?;
        Some(Duration::from_micros(self.round_trips.saturating_mul(1000) / calls))
    }

    /// How many requests waited to be sent for each that was in flight: for a slot, or for their turn.
    pub(crate) fn waiting(&self) -> f64 {
        self.queued as f64 / self.round_trips.max(1) as f64
    }

    /// How many of them waited for their turn: the network takes no more, or the processor brings it no faster.
    pub(crate) fn waiting_for_network(&self) -> f64 {
        self.unsent as f64 / self.in_flight.max(1) as f64
    }
}

/// The options of the NFS mount that holds `root` (`vers=4.1,local_lock=none,…`), as the kernel has
/// negotiated them; `None` where they cannot be told. Does not ask the server.
pub(crate) fn mount_options(root: BorrowedFd<'_>) -> Option<String> {
    options(&text("/proc/self/mountinfo")?, mount_id(root)?)
}

/// The type of the file system that holds `root` (`ext4`, `nfs4`, `fuse.sshfs`, …), of any mount; `None` where it
/// cannot be told. Does not ask a server, as statfs(2) would.
pub(crate) fn file_system(root: BorrowedFd<'_>) -> Option<String> {
    kind(&text("/proc/self/mountinfo")?, mount_id(root)?)
}

/// What makes a seed on the NFS mount that holds `root` slow, and how to mount it instead; `None` where nothing does.
pub(crate) fn slow_mount(root: BorrowedFd<'_>) -> Option<&'static str> {
    file_system(root).filter(|kind| kind.starts_with("nfs"))?;
    slow(&mount_options(root)?)
}

/// Measured by `bench/nfs/run rpcs`, with `version=4.0` or such options as `mount`. The opens of one owner go one after
/// the other in NFS 4.0 (RFC 7530, section 9.1.3).
fn slow(options: &str) -> Option<&'static str> {
    let has = |wanted| options.split(',').any(|option| option == wanted);
    if has("vers=4.0") {
        Some("NFS 4.0 creates one file after the other: mount it with nfsvers=4.1")
    } else if has("noac") || has("acregmax=0") || has("acdirmax=0") {
        Some("noac and actimeo=0 take 40 % more requests: mount it without them")
    } else {
        None
    }
}

/// The last field of a mount's line (proc(5), mountinfo, "super options").
fn options(mountinfo: &str, id: u64) -> Option<String> {
    line(mountinfo, id)?.rsplit(' ').next().map(str::to_owned)
}

/// The first field after the dash.
fn kind(mountinfo: &str, id: u64) -> Option<String> {
    line(mountinfo, id)?.split(' ').skip_while(|field| *field != "-").nth(1).map(str::to_owned)
}

fn line(mountinfo: &str, id: u64) -> Option<&str> {
    mountinfo.lines().find(|line| line.split(' ').next().is_some_and(|first| first.parse() == Ok(id)))
}

/// The mount that a descriptor was opened through, as mountinfo numbers it. From fdinfo (Linux 3.15)
/// and not from statx, which came later, may be forbidden, and may ask the server.
fn mount_id(root: BorrowedFd<'_>) -> Option<u64> {
    let info = text(&format!("/proc/self/fdinfo/{}", root.as_raw_fd()))?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Where mount `id` is mounted, and how many earlier mounts it hides there. Both files list the
/// mounts in the same order and escape names alike (Linux `fs/proc_namespace.c`), so that names are
/// compared as they are written.
fn mount(mountinfo: &str, id: u64) -> Option<(&str, usize)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?.parse::<u64>().ok()?, fields.nth(3)?))
    });
    let (_, point) = mounts.clone().find(|(found, _)| *found == id)?;
    let nth = mounts.take_while(|(found, _)| *found != id).filter(|(_, at)| *at == point).count();
    Some((point, nth))
}

/// The lines of the `nth` section of mountstats, from 0, whose mount point is `point`, without its heading.
fn section<'a>(mountstats: &'a str, point: &str, nth: usize) -> Option<impl Iterator<Item = &'a str>> {
    let mut lines = mountstats.lines();
    let (_, kind) = lines.by_ref().filter_map(heading).filter(|(at, _)| *at == point).nth(nth)?;
    matches!(kind, "nfs" | "nfs4").then(|| lines.take_while(|line| heading(line).is_none()))
}

/// The counters in that section.
fn counters(mountstats: &str, point: &str, nth: usize) -> Option<Counters> {
    let mut lines = section(mountstats, point, nth)?;
    let before: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "per-op statistics").collect();
    let options = before.iter().find_map(|line| line.trim().strip_prefix("opts:"));
    let version = options.and_then(|options| options.split(',').find_map(|it| it.strip_prefix("vers=")));
    let operations: BTreeMap<_, _> =
        lines.filter(|line| !line.trim().is_empty()).map(operation).collect::<Option<_>>()?;
    (!operations.is_empty()).then(|| Counters {
        operations,
        connections: connections(before.into_iter()),
        version: version.unwrap_or_default().to_owned(),
    })
}

fn connections<'a>(lines: impl Iterator<Item = &'a str>) -> Option<ConnectionCounts> {
    let before = lines.take_while(|line| line.trim() != "per-op statistics");
    before.filter_map(connection).reduce(|all, one| ConnectionCounts {
        sent: all.sent + one.sent,
        received: all.received + one.received,
        in_flight: all.in_flight + one.in_flight,
        unsent: all.unsent + one.unsent,
    })
}

/// `xprt: tcp port binds connects connecting idle sends received bad_ids in_flight backlog most_in_flight unsent pending`.
fn connection(line: &str) -> Option<ConnectionCounts> {
    let numbers = line.trim().strip_prefix("xprt:")?.trim().strip_prefix("tcp")?.split_whitespace();
    let numbers = numbers.map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let [_, _, _, _, _, sent, received, _, in_flight, _, _, unsent, ..] = numbers[..] else { return None };
    Some(ConnectionCounts { sent, received, in_flight, unsent })
}

/// The mount point and the file system of a section's first line.
fn heading(line: &str) -> Option<(&str, &str)> {
    let (device, mounted) = line.split_once(" mounted on ")?;
    if !device.starts_with("device ") && device != "no device" {
        return None;
    }
    let (point, kind) = mounted.split_once(" with fstype ")?;
    Some((point, kind.split(' ').next()?))
}

/// `NAME: calls transmissions timeouts sent received queued_ms round_trips_ms executed_ms [errors]`;
/// the last since Linux 5.3.
fn operation(line: &str) -> Option<(String, OperationCounts)> {
    let (name, numbers) = line.trim().split_once(':')?;
    let numbers =
        numbers.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let [calls, transmissions, _timeouts, _sent, _received, queued, round_trips, _executed, ..] = numbers[..]
    else {
        return None;
    };
    Some((name.to_owned(), OperationCounts { calls, transmissions, queued, round_trips }))
}

fn text(path: &str) -> Option<String> {
    kernel_text(path, MAX_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    const MOUNTINFO: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
41 27 254:0 /srv /data rw,relatime - ext4 /dev/vda rw
52 41 0:44 / /data rw,relatime shared:7 - nfs4 10.0.0.9:/ rw,vers=4.1
53 27 0:45 /site /my\\040data rw,relatime - nfs4 10.0.0.9:/site rw,vers=4.1
";

    #[test]
    fn options_that_make_a_seed_slow_are_named() {
        for (options, told) in [
            ("rw,vers=4.1,hard,proto=tcp", None),
            ("rw,vers=4.0,hard", Some("nfsvers=4.1")),
            ("rw,vers=4.1,noac,hard", Some("noac")),
            ("rw,vers=4.1,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0", Some("actimeo=0")),
            ("rw,vers=4.2,lookupcache=none", None),
        ] {
            let slow = slow(options);
            assert!(
                told.map_or(slow.is_none(), |told| slow.is_some_and(|slow| slow.contains(told))),
                "{options}"
            );
        }
    }

    const MOUNTSTATS: &str = "\
no device mounted on /proc with fstype proc
device /dev/vda mounted on / with fstype ext4
device /dev/vda mounted on /data with fstype ext4
device 10.0.0.9:/ mounted on /data with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.1,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys
\tage:\t9503
\tbytes:\t1048576000 1048576000 0 1048576000 1048576000 2097152000 256000 256000
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\txprt:\ttcp 0 0 1 0 0 12755 12754 0 51500 0 32 101086 25994
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 2 2 0
\t        READ: 0 0 0 0 0 0 0 0 0
\t       WRITE: 200 203 1 204800 35200 40 900 1000 0
\t        OPEN: 400 400 0 120000 160000 900 1240 2200 3

device 10.0.0.9:/site mounted on /my\\040data with fstype nfs4 statvers=1.1
\tper-op statistics
\t        OPEN: 7 7 0 1 1 1 1 1
";

    fn read(mountstats: &str, id: u64) -> Option<Counters> {
        let (point, nth) = mount(MOUNTINFO, id)?;
        counters(mountstats, point, nth)
    }

    #[track_caller]
    fn calls(mountstats: &str, id: u64, expected: Option<&[(&str, u64)]>) {
        let found = read(mountstats, id).map(|counters| counters.since(&Counters::default()).calls);
        let expected =
            expected.map(|calls| calls.iter().map(|(name, calls)| ((*name).to_owned(), *calls)).collect());
        assert_eq!(found, expected);
    }

    #[test]
    fn only_the_section_of_the_mount_itself_counts() {
        calls(MOUNTSTATS, 52, Some(&[("OPEN", 400), ("WRITE", 200), ("NULL", 1)]));
        calls(MOUNTSTATS, 53, Some(&[("OPEN", 7)]));
        // Hidden below the NFS mount, not NFS, not there.
        calls(MOUNTSTATS, 41, None);
        calls(MOUNTSTATS, 22, None);
        calls(MOUNTSTATS, 99, None);
    }

    #[test]
    fn a_mounts_options_are_those_of_its_file_system() {
        assert_eq!(options(MOUNTINFO, 52).as_deref(), Some("rw,vers=4.1"));
        assert_eq!(options(MOUNTINFO, 99), None);
    }

    #[test]
    fn a_file_system_is_told_with_and_without_optional_fields() {
        let found = [52, 53, 27, 99].map(|id| kind(MOUNTINFO, id));
        assert_eq!(found.map(Option::unwrap_or_default), ["nfs4", "nfs4", "ext4", ""]);
    }

    #[test]
    fn what_is_not_understood_is_none() {
        calls("", 52, None);
        calls(&MOUNTSTATS.replace("per-op", "per-op more"), 52, None);
        calls(&MOUNTSTATS.replace("400 400 0", "400 many 0"), 52, None);
        calls(&MOUNTSTATS.replace(" 900 1240 2200 3", ""), 52, None);
    }

    #[test]
    fn traffic_is_what_came_between_two_readings() {
        let earlier = MOUNTSTATS
            .replace("WRITE: 200 203 1 204800 35200 40 900", "WRITE: 100 101 0 102400 17600 20 500")
            .replace("OPEN: 400 400 0 120000 160000 900 1240", "OPEN: 100 100 0 30000 40000 900 340")
            .replace("51500 0 32 101086", "50000 0 30 101000");
        let traffic = read(MOUNTSTATS, 52).unwrap().since(&read(&earlier, 52).unwrap());
        assert_eq!(traffic.calls, [("OPEN".to_owned(), 300), ("WRITE".to_owned(), 100)]);
        assert_eq!(traffic.total(), 400);
        assert_eq!((traffic.retransmissions, traffic.has_session), (2, true));
        let micros = Duration::from_micros;
        assert_eq!(traffic.round_trip(), Some(micros(3250)));
        assert_eq!((traffic.waiting(), traffic.waiting_for_network()), (20.0 / 1300.0, 86.0 / 1500.0));
        assert_eq!((traffic.of("OPEN"), traffic.of("READ"), traffic.is_version_4), (300, 0, true));
    }

    #[test]
    fn few_calls_tell_no_round_trip() {
        let counters = read(MOUNTSTATS, 52).unwrap();
        let traffic = counters.since(&counters);
        assert_eq!((traffic.total(), traffic.round_trip()), (0, None));
        let nine = read(&MOUNTSTATS.replace("OPEN: 400", "OPEN: 409"), 52).unwrap().since(&counters);
        assert_eq!((nine.total(), nine.round_trip()), (9, None));
    }

    #[test]
    fn this_machines_mount_of_a_descriptor_is_found() {
        let root = File::open("/proc").unwrap();
        let mounts = text("/proc/self/mountinfo").unwrap();
        assert_eq!(mount(&mounts, mount_id(root.as_fd()).unwrap()).map(|(point, _)| point), Some("/proc"));
        assert_eq!(Counters::read(root.as_fd()), None);
    }
}
