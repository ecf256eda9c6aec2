//! What a seed tells at its end: what the volume did not keep, and how fast it was.
//!
//! Only reads what the steps handed up.

use std::time::Duration;

use super::work::Done;
use crate::cli::config::VolumeConfig;
use crate::progress::seconds;
use crate::seed::Staging;
use crate::system::nfs;
use crate::volume::records::Totals;

/// Says what was done: in one warning what was not, and in one line the rest.
pub(super) fn report(config: &VolumeConfig, epoch: u64, done: &Done) {
    let Done { sealed, staging, published, publish_time, traffic } = done;
    let (staging, traffic) = (staging.as_ref(), traffic.as_ref());
    let volume = config.to.display();
    let Totals { files, directories, links, bytes } = sealed.totals;
    let mut lost = published.lost.clone();
    lost += staging.map(|staging| staging.lost.clone()).unwrap_or_default();
    if !lost.is_empty() {
        tracing::warn!(
            %volume,
            lost = lost.total(),
            "the volume does not keep all of the seed: {lost} (--strict makes this an error)"
        );
    }
    let replaced = &published.replaced;
    if replaced.count > 0 {
        tracing::info!(%volume, replaced = replaced.count, "replaced files of the volume: {}", replaced.names());
    }
    if let Some(count) = staging.map(|staging| staging.skipped).filter(|count| *count > 0) {
        tracing::warn!(count, "skipped sockets and devices of the source");
    }
    // Of a stage that an earlier run sealed they are what its record says: any number.
    if [files, directories, links] == [0; 3] {
        tracing::warn!(source = %config.from.display(), "the source holds nothing");
    }
    // What an earlier run staged is all reused.
    let reused = staging.map_or(files, |staging| staging.reused);
    let copied = files.saturating_sub(reused).max(1);
    let [stage_time, sync_time] =
        staging.map_or([Duration::ZERO; 2], |staging| [staging.stage_time, staging.sync_time]);
    let time = stage_time + sync_time + *publish_time;
    let floors = traffic.zip(staging).and_then(|(traffic, staging)| Floors::new(traffic, staging));
    tracing::info!(
        %volume,
        epoch,
        files,
        directories,
        links,
        bytes,
        excluded = staging.map(|staging| staging.excluded).filter(|count| *count > 0),
        reused,
        kept = published.kept,
        seconds = seconds(time),
        stage_seconds = seconds(stage_time),
        sync_seconds = seconds(sync_time),
        publish_seconds = seconds(*publish_time),
        writers = staging.map_or(0, |staging| staging.writers),
        file_latency_us = staging.map(|staging| micros(staging.busy_with_files) / copied),
        one_writer_seconds = staging.map(|staging| seconds(staging.busy)),
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
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
