//! The story: what happens to each volume, from the first look to the complete record.
//!
//! Straight-line and blocking, on a thread of its own: a volume may hang, and whoever answers for us
//! meanwhile must not wait for it. Knows nothing of health, signals or the hand-over.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::config::VolumeConfig;
use crate::coordinate::{self, Claim, Lock, Patience, Waiting};
use crate::decision::{Decision, Known, decide};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::nfs;
use crate::options::Existing;
use crate::progress::{Phase, Progress, seconds};
use crate::seed::{self, Lost, Published, Site, Source, Staging};
use crate::state::{Complete, Origin, Sealed, StateDir, Totals};
use crate::volume::{Volume, stat_entry};

/// How often `wait` looks, at first and at most: it costs a few round trips each time.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Makes sure that every volume is complete, one after the other. Blocks until they are.
///
/// # Errors
/// The first thing that went wrong; what was done until then stays, for the next run to go on with.
pub fn seed(volumes: &[VolumeConfig], progress: &Arc<Progress>, cancel: &Cancel) -> Result<()> {
    for config in volumes {
        Preparation { config, progress, cancel }.run()?;
    }
    progress.enter(Phase::Complete);
    Ok(())
}

/// Waits until every volume is complete. Never changes one.
///
/// # Errors
/// Exit 75 after `--wait-timeout`.
pub fn wait(volumes: &[VolumeConfig], progress: &Arc<Progress>, cancel: &Cancel) -> Result<()> {
    for config in volumes {
        Preparation { config, progress, cancel }.wait()?;
    }
    progress.enter(Phase::Complete);
    Ok(())
}

struct Preparation<'a> {
    config: &'a VolumeConfig,
    progress: &'a Arc<Progress>,
    cancel: &'a Cancel,
}

impl Preparation<'_> {
    fn run(&self) -> Result<()> {
        self.progress.set_volume(self.config.to.display().to_string());
        self.progress.enter(Phase::Checking);
        let volume = Volume::open(&self.config.to)?;
        let state = StateDir::open(&volume)?;
        if let Some(record) = self.complete(&volume, state.as_ref())? {
            self.already_seeded(&record);
            return Ok(());
        }
        // What is wrong with the source is said before the volume is touched.
        let source = match &state {
            None if !self.sentinel(&volume)? => Some(Source::open(self.config, &volume)?),
            _ => None,
        };
        let state = StateDir::create(&volume)?;
        let lock = self.lock(&state)?;
        self.progress.enter(Phase::Checking);
        // Whoever held the lock before may have changed everything.
        let record = state.complete()?;
        let found = coordinate::find(&state)?;
        let sealed = found.and_then(|found| seed::sealed(found.stage.as_fd(), state.path()));
        let known = Known {
            complete: record.is_some(),
            emptied: record.as_ref().map_or(Ok(false), |record| emptied(&volume, record))?,
            sealed: sealed.is_some(),
            sentinel: self.sentinel(&volume)?,
        };
        if known.emptied {
            tracing::warn!(volume = %volume.path().display(), "it was seeded and then emptied; it is seeded again");
        }
        match (decide(known), sealed) {
            (Decision::Skip, _) => {
                record.iter().for_each(|record| self.already_seeded(record));
                Ok(())
            }
            (Decision::Adopt, _) => self.adopt(&volume, &state, lock),
            (Decision::Publish, Some(sealed)) => {
                tracing::info!(volume = %volume.path().display(), "publishing what an earlier run staged");
                let staging = Staging::of_earlier_run(sealed);
                self.complete_seed(&volume, &state, Claim::take(&state, lock)?, &staging, None)
            }
            (Decision::Publish | Decision::Seed, _) => {
                self.seed(&volume, &state, lock, source, record.as_ref())
            }
        }
    }

    fn seed(
        &self,
        volume: &Volume,
        state: &StateDir,
        lock: Lock,
        source: Option<Source>,
        record: Option<&Complete>,
    ) -> Result<()> {
        if self.config.existing == Existing::Fail
            && let Some(name) = volume.names()?.first()
        {
            return Err(Error::new(
                Exit::Refused,
                "seed volume",
                format!("it is not empty: it holds '{}'", crate::error::printable(name)),
            )
            .on(volume.path())
            .help("empty it, or choose --existing keep or overwrite"));
        }
        let source = source.map_or_else(|| Source::open(self.config, volume), Ok)?;
        let before = nfs::Counters::read(volume.root());
        let claim = Claim::take(state, lock)?;
        if record.is_some() {
            // Else a kill while the new seed is published would leave the old record to vouch for it.
            state.remove_complete()?;
        }
        let staging = self.site(volume, &claim).stage(source, record)?;
        self.complete_seed(volume, state, claim, &staging, before)
    }

    fn complete_seed(
        &self,
        volume: &Volume,
        state: &StateDir,
        claim: Claim,
        staging: &Staging,
        before: Option<nfs::Counters>,
    ) -> Result<()> {
        if self.cancel.is_set() {
            return Err(Error::cancelled());
        }
        let began = Instant::now();
        let published = self.site(volume, &claim).publish(&staging.sealed)?;
        let publish_time = began.elapsed();
        tracing::info!(
            entries = published.moved,
            kept = published.kept,
            seconds = seconds(publish_time),
            "published"
        );
        let Sealed { generation, totals, top, .. } = staging.sealed.clone();
        let record = Complete::new(Origin::Seeded, claim.epoch(), generation, &self.config.from, totals, top);
        state.write_complete(&record)?;
        claim.finish(state)?;
        let after = nfs::Counters::read(volume.root());
        let traffic = after.zip(before).map(|(after, before)| after.since(&before));
        self.report(staging, &published, publish_time, traffic.as_ref());
        Ok(())
    }

    fn adopt(&self, volume: &Volume, state: &StateDir, lock: Lock) -> Result<()> {
        let claim = Claim::take(state, lock)?;
        let record = Complete::new(
            Origin::Adopted,
            claim.epoch(),
            1,
            &self.config.from,
            Totals::default(),
            Vec::new(),
        );
        state.write_complete(&record)?;
        claim.finish(state)?;
        let sentinel = self.config.sentinel.as_ref().map(|path| path.display().to_string());
        tracing::info!(volume = %volume.path().display(), sentinel, "adopted");
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.progress.set_volume(self.config.to.display().to_string());
        let (began, mut pause) = (Instant::now(), LOOK.0);
        let mut told = false;
        loop {
            let volume = Volume::open(&self.config.to)?;
            let state = StateDir::open(&volume)?;
            if let Some(record) = self.complete(&volume, state.as_ref())? {
                self.already_seeded(&record);
                return Ok(());
            }
            // Without any state of ours, a sentinel says that it was seeded before volseed.
            if state.is_none() && self.sentinel(&volume)? {
                tracing::info!(volume = %volume.path().display(), "seeded before volseed");
                return Ok(());
            }
            if !std::mem::replace(&mut told, true) {
                self.progress.enter(Phase::Waiting);
                tracing::info!(volume = %volume.path().display(), "waiting until it is seeded");
            }
            if self.config.wait_timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Err(Error::new(Exit::Held, "wait for volume", "not seeded within --wait-timeout")
                    .on(volume.path())
                    .help(
                        "is another container with `volseed run` or `volseed seed` on this volume at work?",
                    ));
            }
            if self.cancel.sleep(pause) {
                return Err(Error::cancelled());
            }
            self.progress.touch();
            pause = (pause * 3 / 2).min(LOOK.1);
        }
    }

    fn lock(&self, state: &StateDir) -> Result<Lock> {
        let patience = Patience { timeout: self.config.wait_timeout, cancel: self.cancel };
        Lock::acquire(state, &patience, |waiting| match waiting {
            Waiting::Began => {
                self.progress.enter(Phase::Waiting);
                let holder = coordinate::find(state).ok().flatten().and_then(|found| found.holder);
                let (host, pid) = holder.map(|holder| (holder.host, holder.pid)).unzip();
                tracing::info!(volume = %self.config.to.display(), host, pid, "waiting for another replica");
            }
            Waiting::Goes => self.progress.touch(),
            Waiting::Ended(time) => tracing::info!(seconds = seconds(time), "waited"),
        })
    }

    /// The complete record, unless the volume was emptied since.
    fn complete(&self, volume: &Volume, state: Option<&StateDir>) -> Result<Option<Complete>> {
        let Some(record) = state.map(StateDir::complete).transpose()?.flatten() else { return Ok(None) };
        Ok(if emptied(volume, &record)? { None } else { Some(record) })
    }

    fn sentinel(&self, volume: &Volume) -> Result<bool> {
        self.config.sentinel.as_ref().map_or(Ok(false), |path| Ok(volume.find(path)?.is_some()))
    }

    fn site<'a>(&'a self, volume: &'a Volume, claim: &'a Claim) -> Site<'a> {
        Site {
            volume,
            stage: claim.stage(),
            stage_path: claim.stage_path(),
            config: self.config,
            progress: self.progress,
            cancel: self.cancel,
        }
    }

    fn already_seeded(&self, record: &Complete) {
        tracing::info!(
            volume = %self.config.to.display(),
            epoch = record.epoch,
            files = record.totals.files,
            "already seeded"
        );
    }

    fn report(
        &self,
        staging: &Staging,
        published: &Published,
        publish_time: Duration,
        traffic: Option<&nfs::Traffic>,
    ) {
        let volume = self.config.to.display();
        let Totals { files, directories, links, bytes } = staging.sealed.totals;
        let mut lost = published.lost;
        lost += staging.lost;
        if lost != Lost::default() {
            tracing::warn!(
                owners = lost.owners,
                modes = lost.modes,
                xattrs = lost.xattrs,
                "the volume does not keep all that the source has (--strict makes this an error)"
            );
        }
        if staging.skipped > 0 {
            tracing::warn!(count = staging.skipped, "skipped sockets and devices of the source");
        }
        if files + directories + links == 0 {
            tracing::warn!(source = %self.config.from.display(), "the source holds nothing");
        }
        let copied = files.saturating_sub(staging.reused).max(1);
        let time = staging.stage_time + staging.sync_time + publish_time;
        let floors = traffic.and_then(|traffic| Floors::new(traffic, staging));
        tracing::info!(
            %volume,
            files,
            directories,
            links,
            bytes,
            reused = staging.reused,
            kept = published.kept,
            seconds = seconds(time),
            stage_seconds = seconds(staging.stage_time),
            sync_seconds = seconds(staging.sync_time),
            publish_seconds = seconds(publish_time),
            writers = staging.writers,
            file_latency_us = u64::try_from(staging.busy_with_files.as_micros()).unwrap_or(u64::MAX) / copied,
            one_writer_seconds = seconds(staging.busy),
            rpcs = traffic.map(nfs::Traffic::total),
            rpcs_by_kind = traffic.map(by_kind),
            retransmissions = traffic.map(|traffic| traffic.retransmissions),
            round_trip_us = floors.as_ref().map(|floors| floors.round_trip.as_micros() as u64),
            slots = floors.as_ref().map(|floors| floors.in_flight),
            slot_floor_seconds = floors.as_ref().map(|floors| seconds(floors.slots)),
            directory_floor_seconds = floors.as_ref().map(|floors| seconds(floors.directory)),
            times_floor = floors.as_ref().map(|floors| floors.times(time)),
            "seeded"
        );
    }
}

/// What no order and no number of writers could have been faster than, on an NFS volume.
struct Floors {
    /// Of the quickest kind of request: what the network takes, without the server's queue.
    round_trip: Duration,
    /// The session's slots: as many as the client asks for, or as few as the server grants.
    in_flight: u64,
    /// All requests, with so many in flight.
    slots: Duration,
    /// The longest chain of creations, each of which waits for the one before.
    directory: Duration,
}

impl Floors {
    fn new(traffic: &nfs::Traffic, staging: &Staging) -> Option<Floors> {
        let round_trip = traffic.shortest_round_trip()?;
        let times = |number: u64| round_trip.mul_f64(number as f64);
        let asked = nfs::session_slots() as u64;
        // Where more writers than that had something to send, the server has granted fewer.
        let in_flight = traffic.most_in_flight.map(|most| most.saturating_sub(1).max(1));
        let granted = in_flight.filter(|granted| *granted < asked.min(staging.writers as u64));
        let in_flight = granted.unwrap_or(asked);
        let slots = times(traffic.total()).div_f64(in_flight as f64);
        Some(Floors { round_trip, in_flight, slots, directory: times(staging.longest_chain) })
    }

    /// How many times as long as the higher floor, to the hundredth.
    fn times(&self, time: Duration) -> f64 {
        let floor = self.slots.max(self.directory).as_secs_f64();
        (time.as_secs_f64() / floor.max(f64::MIN_POSITIVE) * 100.0).round() / 100.0
    }
}

/// `OPEN 10499, WRITE 10494, …`, the most frequent first.
fn by_kind(traffic: &nfs::Traffic) -> String {
    let kinds: Vec<String> = traffic.calls.iter().map(|(kind, calls)| format!("{kind} {calls}")).collect();
    kinds.join(", ")
}

/// Whether none of the names that a complete record lists is there any more: `rm -rf *` leaves our
/// own directory. One that is left is enough; users may remove what they do not want.
fn emptied(volume: &Volume, record: &Complete) -> Result<bool> {
    let Some(first) = record.top.first() else { return Ok(false) };
    // The usual case, in one call.
    if stat_entry(volume.root(), first.as_bytes()).context("stat", volume.path())?.is_some() {
        return Ok(false);
    }
    let names = volume.names()?;
    Ok(!record.top.iter().any(|name| names.iter().any(|there| **there == *name.as_bytes())))
}
