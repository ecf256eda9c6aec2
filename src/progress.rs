//! How far the work is: counters that the seeding thread and the writers raise and that health, the log and
//! the bar read.
//!
//! Atomics only, so that nobody ever waits for anybody. Knows nothing of who reads it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Where the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub(crate) enum Phase {
    /// The volume's state is being read.
    Checking,
    /// Another replica holds the volume.
    Waiting,
    /// Files are being written to the stage.
    Seeding,
    /// Those in which a new image differs from the volume are.
    Upgrading,
    /// The stage is being made durable.
    Syncing,
    /// The stage is being moved to its place.
    Publishing,
    /// A hook runs.
    Migrating,
    /// Every volume is seeded.
    Complete,
    /// The work ended with an error.
    Failed,
}

/// In their order, with their names in answers, log lines and metrics.
const PHASES: [(Phase, &str); 9] = [
    (Phase::Checking, "checking"),
    (Phase::Waiting, "waiting"),
    (Phase::Seeding, "seeding"),
    (Phase::Upgrading, "upgrading"),
    (Phase::Syncing, "syncing"),
    (Phase::Publishing, "publishing"),
    (Phase::Migrating, "migrating"),
    (Phase::Complete, "complete"),
    (Phase::Failed, "failed"),
];

impl Phase {
    /// Whether files are being written to the stage.
    pub(crate) fn fills_stage(self) -> bool {
        matches!(self, Phase::Seeding | Phase::Upgrading)
    }

    /// The same, or what is done with a full one.
    pub(crate) fn has_stage(self) -> bool {
        self.fills_stage() || matches!(self, Phase::Syncing | Phase::Publishing)
    }

    /// Its name in answers, log lines and metrics.
    pub(crate) fn name(self) -> &'static str {
        PHASES[self as usize].1
    }
}

/// A call on the volume whose time is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A file is created.
    Create,
    /// A file is closed: where a network volume says whether its data is durable.
    Close,
    /// A directory is made.
    Directory,
}

/// In their order, with their names in metrics.
const OPERATIONS: [(Operation, &str); 3] =
    [(Operation::Create, "create"), (Operation::Close, "close"), (Operation::Directory, "directory")];

/// Upper bounds of the times that are told apart: from a local disk's to a server's that is almost gone.
pub(crate) const BOUNDS_SECONDS: [f64; 13] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// How long the calls of one kind took.
#[derive(Debug)]
pub(crate) struct Times {
    /// The name of the operation.
    pub operation: &'static str,
    /// Calls up to each bound, and above the last.
    pub buckets: Vec<u64>,
    /// All of them together.
    pub total: Duration,
}

/// Everything that is counted, for the metrics.
#[derive(Debug)]
pub(crate) struct Measured {
    /// How far it is.
    pub snapshot: Snapshot,
    /// Time in each phase.
    pub phases: Vec<(Phase, Duration)>,
    /// Time that calls took.
    pub operations: Vec<Times>,
    /// Claims that were taken over.
    pub takeovers: u64,
    /// Errors that ended the work.
    pub errors: u64,
}

/// The counters of one run. Times are milliseconds since `started`.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    started: Start,
    phase: AtomicU8,
    changed: AtomicU64,
    seeding_since: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    files_total: AtomicU64,
    bytes_total: AtomicU64,
    totals_known: AtomicBool,
    source_read: AtomicU64,
    source_size: AtomicU64,
    /// One more than the percent that another replica says of itself; 0 where it says none.
    followed: AtomicU8,
    writers: AtomicU32,
    phase_since: AtomicU64,
    phase_times: [AtomicU64; PHASES.len()],
    latencies: [Latency; OPERATIONS.len()],
    takeovers: AtomicU64,
    /// Its name, and where it is.
    volume: Mutex<(String, PathBuf)>,
    readers: AtomicU32,
    busy_writers: AtomicU32,
    waiting_for: Mutex<Option<String>>,
}

/// After this long without anything finished the rate so far says nothing of what is left.
pub(crate) const QUIET: Duration = Duration::from_secs(10);

/// How much is done, and of how much: by our own counting, or by what another replica says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Files finished.
    pub files: u64,
    /// Files in the seed, once they are counted.
    pub files_total: Option<u64>,
    /// Bytes of file data written.
    pub bytes: u64,
    /// Bytes of file data in the seed, once they are counted.
    pub bytes_total: Option<u64>,
    /// 0 to 100, where it can be told.
    #[serde(default)]
    pub percent: Option<u8>,
}

/// What [`Progress`] looked like at one moment, with what follows from it. Its fields are the
/// health answer's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Snapshot {
    /// Where the work is.
    pub phase: Phase,
    /// How much is done.
    #[serde(flatten)]
    pub counts: Counts,
    /// Bytes a second since the seeding began.
    pub rate: u64,
    /// What is left at the rate so far, in seconds.
    pub seconds_left: Option<u64>,
    /// Seconds since anything last moved.
    pub stall_seconds: u64,
    /// Writers at work.
    pub writers: u32,
    /// Another replica that holds the volume, by its host's name, while it is waited for.
    pub waiting_for: Option<String>,
}

/// When the counting began.
#[derive(Debug)]
struct Start(Instant);

impl Default for Start {
    fn default() -> Start {
        Start(Instant::now())
    }
}

impl Progress {
    /// Goes to a phase. One in which the stage is filled resets the counters.
    pub(crate) fn enter(&self, phase: Phase) {
        self.followed.store(0, Relaxed);
        if phase.fills_stage() {
            for counter in [
                &self.files,
                &self.bytes,
                &self.files_total,
                &self.bytes_total,
                &self.source_read,
                &self.source_size,
            ] {
                counter.store(0, Relaxed);
            }
            self.totals_known.store(false, Relaxed);
            self.seeding_since.store(self.now(), Relaxed);
        }
        let now = self.now();
        let spent = now.saturating_sub(self.phase_since.swap(now, Relaxed));
        let left = self.phase.swap(phase as u8, Relaxed);
        if let Some(time) = self.phase_times.get(usize::from(left)) {
            time.fetch_add(spent, Relaxed);
        }
        self.touch();
    }

    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed)).min(PHASES.len() - 1)].0
    }

    /// Names the volume that is worked on, for the log and the bar.
    pub(crate) fn set_volume(&self, name: &Path, place: PathBuf) {
        if let Ok(mut volume) = self.volume.lock() {
            *volume = (name.display().to_string(), place);
        }
    }

    /// Where the work is: the volume, or a mount below it.
    pub(crate) fn place(&self) -> PathBuf {
        self.volume.lock().map(|volume| volume.1.clone()).unwrap_or_default()
    }

    /// Works on what is mounted at `place`, below the volume.
    pub(crate) fn at<T>(&self, place: &Path, act: impl FnOnce() -> T) -> T {
        let swap = |place| match self.volume.lock() {
            Ok(mut volume) => std::mem::replace(&mut volume.1, place),
            Err(_) => place,
        };
        let volume = swap(place.to_owned());
        let result = act();
        swap(volume);
        result
    }

    /// Names the replica that is waited for.
    pub(crate) fn wait_for(&self, holder: Option<String>) {
        if let Ok(mut waiting_for) = self.waiting_for.lock() {
            *waiting_for = holder;
        }
    }

    /// A claim was taken over from another replica.
    pub(crate) fn took_over(&self) {
        self.takeovers.fetch_add(1, Relaxed);
    }

    /// A call on the volume that began then is over.
    pub(crate) fn observe(&self, operation: Operation, began: Instant) {
        let time = began.elapsed();
        let bucket = BOUNDS_SECONDS.partition_point(|bound| *bound < time.as_secs_f64());
        let latency = &self.latencies[operation as usize];
        latency.buckets[bucket].fetch_add(1, Relaxed);
        latency.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Everything that is counted. Never blocks.
    pub(crate) fn measured(&self) -> Measured {
        let snapshot = self.snapshot();
        let in_phase = self.now().saturating_sub(self.phase_since.load(Relaxed));
        let time = |((phase, _), time): ((Phase, &str), &AtomicU64)| {
            let so_far = if phase == snapshot.phase { in_phase } else { 0 };
            (phase, Duration::from_millis(time.load(Relaxed) + so_far))
        };
        let phases = PHASES.into_iter().zip(&self.phase_times).map(time).collect();
        let times = |(operation, name): (Operation, &'static str)| {
            let latency = &self.latencies[operation as usize];
            Times {
                operation: name,
                buckets: latency.buckets.iter().map(|count| count.load(Relaxed)).collect(),
                total: Duration::from_nanos(latency.nanoseconds.load(Relaxed)),
            }
        };
        let operations = OPERATIONS.into_iter().map(times).collect();
        let errors = u64::from(snapshot.phase == Phase::Failed);
        Measured { snapshot, phases, operations, takeovers: self.takeovers.load(Relaxed), errors }
    }

    /// The volume that is worked on.
    pub(crate) fn volume(&self) -> String {
        self.volume.lock().map(|volume| volume.0.clone()).unwrap_or_default()
    }

    /// One more file is finished.
    pub(crate) fn file_done(&self) {
        self.files.fetch_add(1, Relaxed);
        self.touch();
    }

    /// So many more bytes are written.
    pub(crate) fn bytes_done(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.touch();
    }

    /// The source was found to hold one more file of so many bytes.
    pub(crate) fn file_found(&self, bytes: u64) {
        self.files_total.fetch_add(1, Relaxed);
        self.bytes_total.fetch_add(bytes, Relaxed);
        self.touch();
    }

    /// Everything in the source has been found: the totals are final.
    pub(crate) fn all_found(&self) {
        self.totals_known.store(true, Relaxed);
    }

    /// The size of the archive file in bytes, where it is one.
    pub(crate) fn set_source_size(&self, bytes: u64) {
        self.source_size.store(bytes, Relaxed);
    }

    /// Another replica is so far, and lives.
    pub(crate) fn follow(&self, counts: &Counts) {
        self.files.store(counts.files, Relaxed);
        self.bytes.store(counts.bytes, Relaxed);
        self.files_total.store(counts.files_total.unwrap_or(0), Relaxed);
        self.bytes_total.store(counts.bytes_total.unwrap_or(0), Relaxed);
        self.totals_known.store(counts.files_total.is_some(), Relaxed);
        self.followed.store(counts.percent.map_or(0, |percent| percent.min(100) + 1), Relaxed);
        self.touch();
    }

    /// So many more bytes of the archive file are read.
    pub(crate) fn source_read(&self, bytes: u64) {
        self.source_read.fetch_add(bytes, Relaxed);
    }

    /// Reads the source, which may be silent.
    pub(crate) fn reading<T>(&self, read: impl FnOnce() -> T) -> T {
        self.during(&self.readers, read)
    }

    /// Writes to the volume.
    pub(crate) fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        self.during(&self.busy_writers, write)
    }

    fn during<T>(&self, counter: &AtomicU32, act: impl FnOnce() -> T) -> T {
        counter.fetch_add(1, Relaxed);
        let result = act();
        counter.fetch_sub(1, Relaxed);
        self.touch();
        result
    }

    /// Whether the source alone is waited for.
    pub(crate) fn waits_for_source(&self) -> bool {
        self.readers.load(Relaxed) > 0 && self.busy_writers.load(Relaxed) == 0
    }

    /// Writers at work from now on.
    pub(crate) fn set_writers(&self, writers: u32) {
        self.writers.store(writers, Relaxed);
    }

    /// Something moved that is neither a file nor a byte: not stalled.
    pub(crate) fn touch(&self) {
        self.changed.store(self.now(), Relaxed);
    }

    /// When anything last moved, since the beginning.
    pub(crate) fn moved(&self) -> Duration {
        Duration::from_millis(self.changed.load(Relaxed))
    }

    /// The counters as they are now. Never blocks.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Duration::from_millis(self.now());
        let (moved, began) = (self.moved(), Duration::from_millis(self.seeding_since.load(Relaxed)));
        let stall = now.saturating_sub(moved);
        let phase = self.phase();
        let (counts, done) = self.done(phase);
        let seconds = now.saturating_sub(began).as_secs_f64();
        // While nothing moves less is not left, nor more.
        let moving = moved.saturating_sub(began).as_secs_f64();
        Snapshot {
            phase,
            counts,
            rate: if seconds > 0.0 { (counts.bytes as f64 / seconds) as u64 } else { 0 },
            seconds_left: done
                .filter(|share| phase.fills_stage() && *share > 0.01 && moving >= 1.0 && stall < QUIET)
                .map(|share| (moving * (1.0 - share) / share).ceil() as u64),
            stall_seconds: match phase {
                // Nothing has to move any more.
                Phase::Complete => 0,
                _ => stall.as_secs(),
            },
            writers: self.writers.load(Relaxed),
            waiting_for: match phase {
                Phase::Waiting => self.waiting_for.lock().ok().and_then(|holder| holder.clone()),
                _ => None,
            },
        }
    }

    /// How much is done, and which share of all that is, where it can be told.
    fn done(&self, phase: Phase) -> (Counts, Option<f64>) {
        let (files, bytes) = (self.files.load(Relaxed), self.bytes.load(Relaxed));
        let (files_total, bytes_total) = (self.files_total.load(Relaxed), self.bytes_total.load(Relaxed));
        let known = self.totals_known.load(Relaxed);
        let done = if known {
            // A small file costs about as much as 64 KiB of data: count both.
            let weight = |files: u64, bytes: u64| files as f64 * 65536.0 + bytes as f64;
            Some(weight(files, bytes) / weight(files_total, bytes_total).max(1.0))
        } else {
            let size = self.source_size.load(Relaxed);
            (size > 0).then(|| self.source_read.load(Relaxed) as f64 / size as f64)
        };
        let done = match phase {
            Phase::Checking | Phase::Migrating | Phase::Failed => None,
            Phase::Waiting => match self.followed.load(Relaxed).checked_sub(1) {
                None => done.filter(|_| known).map(|share| share.clamp(0.0, 1.0)),
                Some(percent) => Some(f64::from(percent) / 100.0),
            },
            Phase::Seeding | Phase::Upgrading => done.map(|share| share.clamp(0.0, 1.0)),
            Phase::Syncing | Phase::Publishing | Phase::Complete => Some(1.0),
        };
        let percent = done.map(|share| (share * 100.0 + 1e-6) as u8);
        let (files_total, bytes_total) = (known.then_some(files_total), known.then_some(bytes_total));
        (Counts { files, files_total, bytes, bytes_total, percent }, done)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Seconds for a log line, to the millisecond.
pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_silent_until_everything_is_found() {
        let progress = Progress::default();
        progress.enter(Phase::Seeding);
        progress.file_found(100);
        assert_eq!(progress.snapshot().counts.files_total, None);
        progress.all_found();
        assert_eq!(progress.snapshot().counts.files_total, Some(1));
        assert_eq!(progress.snapshot().counts.percent, Some(0));
        progress.bytes_done(100);
        progress.file_done();
        assert_eq!(progress.snapshot().counts.percent, Some(100));
    }

    #[test]
    fn a_replica_that_waits_shows_what_the_holder_says_of_itself() {
        let progress = Progress::default();
        progress.enter(Phase::Waiting);
        assert_eq!(progress.snapshot().counts.percent, None);
        for (percent, expected) in [(Some(29), Some(29)), (Some(200), Some(100)), (None, None)] {
            progress.follow(&Counts { percent, ..Counts::default() });
            assert_eq!(progress.snapshot().counts.percent, expected);
        }
        let known = Counts { files: 1, files_total: Some(2), bytes_total: Some(0), ..Counts::default() };
        progress.follow(&known);
        assert_eq!(progress.snapshot().counts.percent, Some(50));
    }

    #[test]
    fn nothing_stalls_once_it_is_complete() {
        let progress = Progress::default();
        progress.enter(Phase::Complete);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(progress.snapshot().stall_seconds, 0);
    }

    #[test]
    fn an_archive_is_measured_by_what_is_read_of_it() {
        let progress = Progress::default();
        progress.enter(Phase::Seeding);
        assert_eq!(progress.snapshot().counts.percent, None);
        progress.set_source_size(1000);
        progress.source_read(250);
        assert_eq!(progress.snapshot().counts.percent, Some(25));
    }
}
