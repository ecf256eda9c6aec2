//! How long a request takes, alone and among others, and how many can be in flight.
//!
//! The request is a change of a file's mode: one SETATTR on NFS, one call on any file system, nothing that a client
//! answers out of a cache, and nothing that a directory's lock puts in a row.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::{self, Mode};

use super::directory::{TestDirectory, create, write_all};
use super::finding::Finding;
use crate::cli::config::VolumeConfig;
use crate::cli::values::Workers;
use crate::seed::engine::workers;
use crate::system::nfs::{self, slots::Looks, slots::session_slots};
use crate::text::byte_size;
use crate::volume::{FileSystem, Storage, Volume};
use rustix::io::Result;

/// Requests one after the other: their median does not follow a few slow ones.
const ALONE: usize = 32;
/// The most that these may take.
const ALONE_LIMIT: Duration = Duration::from_secs(2);
/// How long as many as possible are sent: on NFS, 25 looks at what is in flight.
const LOOKED_AT: Duration = Duration::from_millis(500);
/// Elsewhere for so many round trips, and for so long at the least and the most.
const ROUND_TRIPS: u32 = 16;
const TOGETHER: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// Threads that send them where nothing says how many requests a client may have in flight.
const SENDERS: usize = 128;
/// The most threads.
const MAX_SENDERS: usize = 256;
/// Stack of each, in bytes.
const STACK: usize = 64 << 10;
/// What is written for the bandwidth: by so many threads, so many bytes each.
const WRITERS: usize = 4;
const WRITTEN: usize = 4 << 20;
/// Files that are made for the pace of a local file system, by each of as many writers as a seed has.
const FILES: usize = 32;
/// The size of each, in bytes.
const SMALL: usize = 4096;

/// It.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) kind: FileSystem,
    /// Whether each call is a round trip.
    pub(super) is_remote: bool,
    /// Whether it is NFS without a look-up before a creation.
    pub(super) is_nfs_3: bool,
    /// The median of a request alone.
    pub(super) round_trip: Duration,
    /// How many requests are in flight, where they are not answered by this machine alone.
    pub(super) in_flight: Option<u64>,
    /// Requests in a second with that many in flight; on a local file system, files in a second.
    pub(super) rate: f64,
    /// Bytes in a second, where it was measured.
    pub(super) bandwidth: Option<f64>,
}

/// Measures it; the bandwidth only where something is to be seeded. A second or two.
///
/// # Errors
/// When the volume answers with one, or it is stopped.
pub(super) fn measure(
    volume: &Volume,
    kind: FileSystem,
    directory: &TestDirectory,
    with_data: bool,
) -> Result<Pace> {
    // What is made for it goes before anything else is looked at: a volume may be nearly full.
    let place = directory.inside("pace")?;
    let measured = measure_in(volume, kind, &place, with_data);
    let removed = place.remove();
    measured.and_then(|pace| removed.map(|()| pace))
}

fn measure_in(volume: &Volume, kind: FileSystem, directory: &TestDirectory, with_data: bool) -> Result<Pace> {
    let is_remote = matches!(kind.place, Storage::Network | Storage::Unknown);
    let options = nfs::mount_options(volume.root()).unwrap_or_default();
    let file = directory.file("pace")?;
    let round_trip = alone(directory, &file)?;
    directory.check()?;
    let (rate, in_flight) = match is_remote {
        true => together(volume, directory, kind, round_trip)?,
        false => (local_rate(directory)?, None),
    };
    directory.check()?;
    let bandwidth = if with_data { Some(bandwidth(directory)?) } else { None };
    let is_nfs_3 = kind.name == "nfs" && options.split(',').any(|option| option == "vers=3");
    Ok(Pace { kind, is_remote, is_nfs_3, round_trip, in_flight, rate, bandwidth })
}

fn alone(directory: &TestDirectory, file: &OwnedFd) -> Result<Duration> {
    let began = Instant::now();
    let mut took = Vec::new();
    while took.len() < ALONE && began.elapsed() < ALONE_LIMIT && !directory.cancel().is_set() {
        took.push(request(file, took.len())?);
    }
    let before = |time: &Duration| took.iter().filter(|other| *other < time).count();
    Ok(took.iter().copied().filter(|time| before(time) <= took.len() / 2).max().unwrap_or_default())
}

/// One request that changes something each time.
fn request(file: &OwnedFd, number: usize) -> Result<Duration> {
    let mode =
        if number.is_multiple_of(2) { Mode::RUSR | Mode::WUSR | Mode::XUSR } else { Mode::RUSR | Mode::WUSR };
    let began = Instant::now();
    match fs::fchmod(file, mode) {
        // It was asked all the same.
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::NOTSUP | rustix::io::Errno::ACCESS) => {}
        Err(error) => return Err(error),
    }
    Ok(began.elapsed())
}

/// Requests in a second with as many senders as can be of use, and how many of them were in flight.
fn together(
    volume: &Volume,
    directory: &TestDirectory,
    kind: FileSystem,
    round_trip: Duration,
) -> Result<(f64, Option<u64>)> {
    let senders = if kind.name == "nfs" { (2 * session_slots()).min(MAX_SENDERS) } else { SENDERS };
    let names = (0..senders).map(|number| format!("sender-{number}"));
    let files = names.map(|name| directory.file(&name)).collect::<Result<Vec<_>>>()?;
    let sent = AtomicU64::new(0);
    let [least, most] = TOGETHER;
    let least = if kind.name == "nfs" { LOOKED_AT } else { least };
    let time = (round_trip * ROUND_TRIPS).clamp(least, most);
    let send = |file: &OwnedFd| {
        let began = Instant::now();
        for number in 0.. {
            if began.elapsed() >= time || directory.cancel().is_set() || request(file, number).is_err() {
                break;
            }
            sent.fetch_add(1, Relaxed);
        }
    };
    let began = Instant::now();
    let ((), looks) = Looks::during(volume.root(), || in_threads(&files, send));
    let rate = sent.into_inner() as f64 / began.elapsed().as_secs_f64();
    // As many as there are answered during one round trip (Little's law), where the kernel does not show it.
    let by_rate = (rate * round_trip.as_secs_f64()) as u64;
    Ok((rate, Some(looks.limit().unwrap_or(by_rate).clamp(1, senders as u64))))
}

/// Does it for each, all at once. Where a thread cannot be started there are fewer.
fn in_threads<T: Sync>(each: &[T], act: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for one in each {
            let act = &act;
            let thread = std::thread::Builder::new().name("sender".into()).stack_size(STACK);
            if thread.spawn_scoped(scope, move || act(one)).is_err() {
                break;
            }
        }
    });
}

/// Small files in a second, made as a seed makes them: each writer in a directory of its own.
fn local_rate(directory: &TestDirectory) -> Result<f64> {
    let writers =
        workers::crew(Workers::Auto, FileSystem { name: "local", place: Storage::Local }, 1).writers;
    let names = (0..writers).map(|number| format!("local-{number}"));
    let directories = names.map(|name| directory.directory(&name)).collect::<Result<Vec<_>>>()?;
    let (made, small) = (AtomicU64::new(0), vec![b'x'; SMALL]);
    let began = Instant::now();
    in_threads(&directories, |at| {
        for number in 0..FILES {
            let file = create(at.as_fd(), format!("{number}").as_bytes());
            if file.is_ok_and(|file| write_all(&file, &small).is_ok()) {
                made.fetch_add(1, Relaxed);
            }
        }
    });
    Ok(made.into_inner() as f64 / began.elapsed().as_secs_f64())
}

/// Bytes in a second, until they are on the disk or the server.
fn bandwidth(directory: &TestDirectory) -> Result<f64> {
    let names = (0..WRITERS).map(|number| format!("data-{number}"));
    let files = names.map(|name| directory.file(&name)).collect::<Result<Vec<_>>>()?;
    let written = AtomicU64::new(0);
    let block: Vec<u8> = (0..WRITTEN).map(|at| (at * 31 + at / 251) as u8).collect();
    let began = Instant::now();
    in_threads(&files, |file| {
        if write_all(file, &block).is_ok() {
            let _ = fs::fsync(file);
            written.fetch_add(WRITTEN as u64, Relaxed);
        }
    });
    Ok(written.into_inner() as f64 / began.elapsed().as_secs_f64())
}

impl Pace {
    /// What it says of a seed.
    pub(super) fn finding(&self, config: &VolumeConfig) -> Finding {
        let bandwidth = self.bandwidth.map(|bytes| format!(", {} a second", byte_size(bytes as u64)));
        let bandwidth = bandwidth.unwrap_or_default();
        let micros = self.round_trip.as_micros() as u64;
        let finding = match self.in_flight {
            None => {
                let rate = self.rate as u64;
                Finding::ok(
                    "pace",
                    format!("{} a call, {rate} small files a second{bandwidth}", spelled(self.round_trip)),
                )
            }
            Some(in_flight) => {
                self.remote_finding(config, in_flight, &bandwidth).fact("in_flight", in_flight)
            }
        };
        let finding = finding.fact("round_trip_us", micros).fact("rate", self.rate.round() as u64);
        match self.bandwidth {
            Some(bytes) => finding.fact("bytes_a_second", bytes as u64),
            None => finding,
        }
    }

    fn remote_finding(&self, config: &VolumeConfig, in_flight: u64, bandwidth: &str) -> Finding {
        let what = format!("{} a request, {in_flight} in flight{bandwidth}", spelled(self.round_trip));
        let writers = workers::crew(config.workers, self.kind, 1).writers as u64;
        let asked = session_slots() as u64;
        if self.kind.name == "nfs" && !self.is_nfs_3 && in_flight < asked * 3 / 4 {
            return Finding::warn("pace", what)
                .then(format!("the client asks for {asked}: the server grants fewer, or is busy"));
        }
        // On NFS 4.0 a client opens one file after the other, however many requests of other kinds are in flight (our
        // measurement: five times slower than 4.1), and later versions have the slots that were asked for.
        let may_use_more = self.kind.name != "nfs" || self.is_nfs_3;
        if may_use_more && config.workers == Workers::Auto && in_flight > writers * 3 / 2 {
            return Finding::ok("pace", what)
                .then(format!("{writers} writers by default use fewer"))
                .flag(format!("--workers {in_flight}"));
        }
        Finding::ok("pace", what)
    }
}

/// A time as people read it.
pub(super) fn spelled(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 100.0 => format!("{seconds:.0} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 0.001 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{:.0} µs", seconds * 1e6),
    }
}
