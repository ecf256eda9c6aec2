//! What a seed of the source would take, by the floors that no order and no number of writers can beat.
//!
//! The floors are those of the report of a seed (docs/performance.md), reckoned here before there is one.

use std::time::Duration;

use super::finding::Finding;
use super::needs::Needs;
use super::pace::{Pace, spelled};
use crate::text::byte_size;

/// Requests for a file (create, write, time, close), for a directory (create, access, time) and for a symbolic link
/// (create, time); the claim, the records and the renames. Counted by `bench/slowfs` and `bench/nfs`.
const OF_A_FILE: u64 = 4;
const OF_A_DIRECTORY: u64 = 3;
const OF_A_SYMLINK: u64 = 2;
const OF_A_SEED: u64 = 95;
/// What one request carries, in bytes (nfs(5), `wsize`).
const REQUEST: u64 = 1 << 20;

/// One floor: what would have to be faster, and what it comes to.
type Floor = (&'static str, Duration);

/// It.
pub(super) fn finding(needs: &Needs, pace: &Pace) -> Finding {
    let requests = requests(needs);
    let floors = floors(needs, pace, requests);
    let (name, time) = floors.iter().copied().max_by_key(|(_, time)| *time).unwrap_or_default();
    let what = format!(
        "{} entries, {}: at least {}, by {}",
        needs.entries(),
        byte_size(needs.bytes),
        spelled(time),
        what_it_is(name)
    );
    let mut finding = Finding::ok("cost", what)
        .fact("floor", name.trim_end_matches("_floor_ms").to_owned())
        .fact("floor_ms", time.as_millis() as u64);
    for (name, time) in floors {
        finding = finding.fact(name, time.as_millis() as u64);
    }
    if pace.is_remote {
        finding = finding.fact("requests", requests).fact("longest_chain", needs.longest_chain);
    }
    finding
}

fn requests(needs: &Needs) -> u64 {
    let further_writes: u64 = needs.sizes.iter().map(|size| size.saturating_sub(1) / REQUEST).sum();
    OF_A_SEED
        + OF_A_FILE * needs.files
        + further_writes
        + OF_A_DIRECTORY * needs.directories
        + OF_A_SYMLINK * needs.symlinks
        + needs.links
        + needs.fifos
}

fn floors(needs: &Needs, pace: &Pace, requests: u64) -> Vec<Floor> {
    let seconds = |number: f64| Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX);
    let mut floors = Vec::new();
    if let Some(in_flight) = pace.in_flight {
        let round_trip = pace.round_trip.as_secs_f64();
        let looks = if pace.is_nfs_3 { 2.0 } else { 1.0 };
        floors.push(("slot_floor_ms", seconds(requests as f64 * round_trip / in_flight as f64)));
        floors.push(("directory_floor_ms", seconds(needs.longest_chain as f64 * round_trip * looks)));
        floors.push(("server_floor_ms", seconds(requests as f64 / pace.rate)));
    } else {
        floors.push(("files_floor_ms", seconds(needs.entries() as f64 / pace.rate)));
    }
    if let Some(bandwidth) = pace.bandwidth {
        floors.push(("data_floor_ms", seconds(needs.bytes as f64 / bandwidth)));
    }
    floors
}

fn what_it_is(floor: &str) -> &'static str {
    match floor {
        "slot_floor_ms" => "the requests in flight",
        "directory_floor_ms" => "the longest chain of creations",
        "server_floor_ms" => "the requests that the server, or this machine's processor, can do",
        "files_floor_ms" => "the files that this machine can make",
        _ => "the bandwidth",
    }
}
