//! How far the work is: counters that the story and the writers raise and that health, the log and
//! the bar read.
//!
//! Atomics only, so that nobody ever waits for anybody. Knows nothing of who reads it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Where the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// The volume's state is being read.
    Checking,
    /// Another replica holds the volume.
    Waiting,
    /// Files are being written to the stage.
    Seeding,
    /// The stage is being made durable.
    Syncing,
    /// The stage is being moved to its place.
    Publishing,
    /// Every volume is seeded.
    Complete,
    /// The work ended with an error.
    Failed,
}

const PHASES: [Phase; 7] = [
    Phase::Checking,
    Phase::Waiting,
    Phase::Seeding,
    Phase::Syncing,
    Phase::Publishing,
    Phase::Complete,
    Phase::Failed,
];

/// The counters of one run. Times are milliseconds since `started`.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
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
    writers: AtomicU32,
    volume: Mutex<String>,
}

/// What [`Progress`] looked like at one moment, with what follows from it. Its fields are the
/// health answer's.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Where the work is.
    pub phase: Phase,
    /// Files finished.
    pub files: u64,
    /// Files in the seed, once they are counted.
    pub files_total: Option<u64>,
    /// Bytes of file data written.
    pub bytes: u64,
    /// Bytes of file data in the seed, once they are counted.
    pub bytes_total: Option<u64>,
    /// 0 to 100, where it can be told.
    pub percent: Option<u8>,
    /// Bytes a second since the seeding began.
    pub rate: u64,
    /// What is left at the rate so far, in seconds.
    pub seconds_left: Option<u64>,
    /// Seconds since anything last moved.
    pub stall_seconds: u64,
    /// Writers at work.
    pub writers: u32,
    /// Seconds since the seeding of this volume began.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Checking as u8),
            changed: AtomicU64::new(0),
            seeding_since: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            files_total: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            totals_known: AtomicBool::new(false),
            source_read: AtomicU64::new(0),
            source_size: AtomicU64::new(0),
            writers: AtomicU32::new(0),
            volume: Mutex::new(String::new()),
        }
    }
}

impl Progress {
    /// Goes to a phase. Entering [`Phase::Seeding`] starts the counters anew.
    pub fn enter(&self, phase: Phase) {
        if phase == Phase::Seeding {
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
        self.phase.store(phase as u8, Relaxed);
        self.touch();
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed)).min(PHASES.len() - 1)]
    }

    /// Names the volume that is worked on, for the log and the bar.
    pub fn set_volume(&self, name: String) {
        if let Ok(mut volume) = self.volume.lock() {
            *volume = name;
        }
    }

    /// The volume that is worked on.
    pub fn volume(&self) -> String {
        self.volume.lock().map(|name| name.clone()).unwrap_or_default()
    }

    /// One more file is finished.
    pub fn file_done(&self) {
        self.files.fetch_add(1, Relaxed);
        self.touch();
    }

    /// So many more bytes are written.
    pub fn bytes_done(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.touch();
    }

    /// The source was found to hold one more file of so many bytes.
    pub fn file_found(&self, bytes: u64) {
        self.files_total.fetch_add(1, Relaxed);
        self.bytes_total.fetch_add(bytes, Relaxed);
    }

    /// Everything in the source has been found: the totals are final.
    pub fn all_found(&self) {
        self.totals_known.store(true, Relaxed);
    }

    /// The size of the archive file in bytes, where it is one.
    pub fn set_source_size(&self, bytes: u64) {
        self.source_size.store(bytes, Relaxed);
    }

    /// Another replica is so far, and lives.
    pub fn follow(&self, files: u64, files_total: Option<u64>, bytes: u64, bytes_total: Option<u64>) {
        self.files.store(files, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.files_total.store(files_total.unwrap_or(0), Relaxed);
        self.bytes_total.store(bytes_total.unwrap_or(0), Relaxed);
        self.totals_known.store(files_total.is_some(), Relaxed);
        self.touch();
    }

    /// So many more bytes of the archive file are read.
    pub fn source_read(&self, bytes: u64) {
        self.source_read.fetch_add(bytes, Relaxed);
    }

    /// Writers at work from now on.
    pub fn set_writers(&self, writers: u32) {
        self.writers.store(writers, Relaxed);
    }

    /// Something moved that is neither a file nor a byte: not stalled.
    pub fn touch(&self) {
        self.changed.store(self.now(), Relaxed);
    }

    /// The counters as they are now. Never blocks.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.now();
        let (files, bytes) = (self.files.load(Relaxed), self.bytes.load(Relaxed));
        let known = self.totals_known.load(Relaxed);
        let (files_total, bytes_total) = (self.files_total.load(Relaxed), self.bytes_total.load(Relaxed));
        let elapsed = Duration::from_millis(now.saturating_sub(self.seeding_since.load(Relaxed)));
        let done = if known {
            // A small file costs about as much as 64 KiB of data: count both.
            let weight = |files: u64, bytes: u64| files as f64 * 65536.0 + bytes as f64;
            Some(weight(files, bytes) / weight(files_total, bytes_total).max(1.0))
        } else {
            let size = self.source_size.load(Relaxed);
            (size > 0).then(|| self.source_read.load(Relaxed) as f64 / size as f64)
        };
        let phase = self.phase();
        let done = match phase {
            Phase::Checking | Phase::Waiting | Phase::Failed => None,
            Phase::Seeding => done.map(|share| share.clamp(0.0, 1.0)),
            Phase::Syncing | Phase::Publishing | Phase::Complete => Some(1.0),
        };
        let seconds = elapsed.as_secs_f64();
        Snapshot {
            phase,
            files,
            files_total: known.then_some(files_total),
            bytes,
            bytes_total: known.then_some(bytes_total),
            percent: done.map(|share| (share * 100.0) as u8),
            rate: if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 },
            seconds_left: done
                .filter(|share| *share > 0.01 && seconds >= 1.0)
                .map(|share| (seconds * (1.0 - share) / share).ceil() as u64),
            stall_seconds: now.saturating_sub(self.changed.load(Relaxed)) / 1000,
            writers: self.writers.load(Relaxed),
            elapsed,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Seconds for a log line, to the millisecond.
pub fn seconds(time: Duration) -> f64 {
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
        assert_eq!(progress.snapshot().files_total, None);
        progress.all_found();
        assert_eq!(progress.snapshot().files_total, Some(1));
        assert_eq!(progress.snapshot().percent, Some(0));
        progress.bytes_done(100);
        progress.file_done();
        assert_eq!(progress.snapshot().percent, Some(100));
    }

    #[test]
    fn an_archive_is_measured_by_what_is_read_of_it() {
        let progress = Progress::default();
        progress.enter(Phase::Seeding);
        assert_eq!(progress.snapshot().percent, None);
        progress.set_source_size(1000);
        progress.source_read(250);
        assert_eq!(progress.snapshot().percent, Some(25));
    }
}
