//! What a seed tells at its end: what the volume did not keep, and how fast it was.
//!
//! Only reads what the steps handed up.

use std::time::Duration;

use super::floors::Floors;
use super::work::Done;
use crate::cli::config::VolumeConfig;
use crate::progress::seconds;
use crate::system::nfs;
use crate::volume::records::{Complete, Totals};

/// Says what was done: in one warning what was not, and in one line the rest.
pub(super) fn report(config: &VolumeConfig, record: &Complete, done: &Done) {
    log_exceptions(config, done);
    match &done.upgrade {
        Some(upgrade) => upgrade.report(config, record),
        None => report_seed(config, record.epoch, done),
    }
}

fn report_seed(config: &VolumeConfig, epoch: u64, done: &Done) {
    let Done { sealed, staging, published, publish_time, requests, .. } = done;
    let (staging, requests) = (staging.as_ref(), requests.as_ref());
    let Totals { files, directories, links, bytes } = sealed.totals;
    // What an earlier run staged is all reused.
    let reused = staging.map_or(files, |staging| staging.reused);
    let copied = files.saturating_sub(reused).max(1);
    let [stage_time, sync_time] =
        staging.map_or([Duration::ZERO; 2], |staging| [staging.stage_time, staging.sync_time]);
    let time = stage_time + sync_time + *publish_time;
    let floors = requests.zip(staging).and_then(|(requests, staging)| Floors::new(requests, staging, time));
    let traffic = requests.map(|requests| &requests.seed);
    tracing::info!(
        volume = %config.to.display(),
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
        round_trip_us = floors.as_ref().map(|floors| micros(floors.round_trip)),
        loaded_round_trip_us = floors.as_ref().map(|floors| micros(floors.loaded_round_trip)),
        slots = floors.as_ref().and_then(|floors| floors.slots),
        slot_floor_seconds = floors.as_ref().map(|floors| seconds(floors.slot_floor)),
        directory_floor_seconds = floors.as_ref().map(|floors| seconds(floors.directory_floor)),
        times_floor = floors.as_ref().map(|floors| floors.times_floor),
        limit = floors.as_ref().and_then(|floors| floors.limit).map(tracing::field::display),
        "seeded"
    );
}

/// What was done otherwise than a seed expects.
pub(super) fn log_exceptions(config: &VolumeConfig, done: &Done) {
    let Done { sealed, staging, published, .. } = done;
    let (volume, staging) = (config.to.display(), staging.as_ref());
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
    let Totals { files, directories, links, .. } = sealed.totals;
    if [files, directories, links] == [0; 3] {
        tracing::warn!(source = %config.from.display(), "the source holds nothing");
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `OPEN 10499, WRITE 10494, …`, the most frequent first.
fn by_kind(traffic: &nfs::Traffic) -> String {
    let kinds: Vec<String> = traffic.calls.iter().map(|(kind, calls)| format!("{kind} {calls}")).collect();
    kinds.join(", ")
}
