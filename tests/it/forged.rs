//! Records that another than volseed wrote: an app that owns the volume's root can.

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::json;

use crate::kit::records::{complete, holder, place, plant, plant_heartbeat};
use crate::kit::{Outcome, Sandbox, Tree, assert_same_tree, eventually, seed, volseed};

const LARGEST: u64 = u64::MAX;
/// The first second of the year 10000.
const YEAR_10000: u64 = 253_402_300_800;

fn status(volume: &Path) -> Outcome {
    volseed(["status"]).option("--to", volume).ends().says_nothing_of("panicked").exits(0)
}

#[test]
fn a_holder_since_the_year_10000_is_shown_and_waited_for() {
    for since in [YEAR_10000, LARGEST] {
        let sandbox = Sandbox::new();
        let (source, volume) = (Tree::sample().write_to(&sandbox.directory("source")), sandbox.volume());
        plant(&volume, "claims/1/claim.json", holder(json!({ "since": since })));
        let shown = format!("since @{since}");
        assert!(status(&volume).stdout.contains(&shown), "{shown}");
        let wait = volseed(["wait"]).option("--to", &volume).option("--wait-timeout", "100ms");
        wait.ends().says(&format!("since=\"@{since}\"")).fails(75, "--wait-timeout");
        let seed = seed(&source, &volume).option("--wait-timeout", "100ms");
        seed.ends().says(&format!("since=\"@{since}\"")).fails(75, "--wait-timeout");
    }
}

#[test]
fn a_volume_completed_in_the_year_10000_is_shown() {
    for finished in [YEAR_10000 - 1, YEAR_10000, LARGEST] {
        let sandbox = Sandbox::new();
        let volume = sandbox.volume();
        plant(&volume, "state.json", complete(json!({ "finished": finished })));
        let shown = match finished {
            YEAR_10000.. => format!("@{finished}"),
            _ => "9999-12-31T23:59:59Z".to_owned(),
        };
        assert!(status(&volume).stdout.contains(&shown), "{shown}");
    }
}

#[test]
fn a_heartbeat_of_the_end_of_time_has_no_age() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    plant(&volume, "claims/1/claim.json", holder(json!({})));
    plant_heartbeat(
        &volume,
        json!({"count": 1, "files": 1, "files_total": null, "bytes": 1, "bytes_total": null}),
    );
    for tv_sec in [i64::MAX, i64::MIN] {
        let time = Timespec { tv_sec, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, place(&volume, "claims/1/heartbeat"), &times, AtFlags::empty()).unwrap();
        let text = status(&volume).stdout;
        assert!(text.contains("heartbeat  silent"), "{text}");
    }
}

#[test]
fn the_largest_numbers_of_a_record_are_shown() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let totals = json!({"files": LARGEST, "directories": LARGEST, "links": LARGEST, "bytes": LARGEST});
    plant(
        &volume,
        "state.json",
        complete(json!({"totals": totals, "generation": LARGEST, "epoch": LARGEST})),
    );
    let text = status(&volume).stdout;
    assert!(text.contains(&format!("generation {LARGEST}")) && text.contains("EiB"), "{text}");
}

#[test]
fn a_volume_of_the_largest_generation_that_was_emptied_is_seeded() {
    let sandbox = Sandbox::new();
    let (source, volume) = (Tree::sample().write_to(&sandbox.directory("source")), sandbox.volume());
    plant(&volume, "state.json", complete(json!({"generation": LARGEST, "top": ["gone"]})));
    seed(&source, &volume).ends().says_nothing_of("panicked").exits(0);
    assert_same_tree(&source, &volume);
    assert!(status(&volume).stdout.contains(&format!("generation {LARGEST}")));
}

#[test]
fn a_sealed_stage_of_the_largest_totals_is_published_and_reported() {
    let sandbox = Sandbox::new();
    let (source, volume) = (Tree::sample().write_to(&sandbox.directory("source")), sandbox.volume());
    let totals = json!({"files": LARGEST, "directories": LARGEST, "links": LARGEST, "bytes": LARGEST});
    let sealed =
        json!({"generation": LARGEST, "version": null, "totals": totals, "top": ["x"], "root": null});
    plant(&volume, "claims/1/claim.json", holder(json!({})));
    let left =
        json!({"count": 1, "files": 0, "files_total": null, "bytes": 0, "bytes_total": null, "left": true});
    plant_heartbeat(&volume, left);
    let stage = json!({"format": 1, "generation": LARGEST, "boot": null, "fingerprint": "x", "empty": true, "sealed": sealed});
    plant(&volume, "claims/1/sealed/stage.json", stage);
    fs::write(place(&volume, "claims/1/sealed/tree/x"), "x").unwrap();
    let outcome = seed(&source, &volume).json().ends().says_nothing_of("panicked").exits(0);
    assert_eq!(outcome.line("seeded")["files"], LARGEST);
    assert!(volume.join("x").exists());
}

#[test]
fn the_largest_numbers_of_a_heartbeat_are_answered() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    plant(&volume, "claims/1/claim.json", holder(json!({})));
    let beat = |count: u64, total: u64| json!({"count": count, "files": LARGEST, "files_total": total, "bytes": LARGEST, "bytes_total": total});
    plant_heartbeat(&volume, beat(1, 0));
    let waiting = volseed(["wait"]).option("--to", &volume).listening().start();
    waiting.says("waiting for another replica");
    plant_heartbeat(&volume, beat(LARGEST, LARGEST));
    eventually("the heartbeat in the answer", || waiting.get("/livez").json()["files_total"] == LARGEST);
    assert_eq!(waiting.get("/livez?verbose").status, 200);
    assert!(waiting.get("/metrics").body.contains(&format!("volseed_seeded_files_total {LARGEST}")));
    plant(&volume, "state.json", complete(json!({"top": []})));
    waiting.ends().says_nothing_of("panicked").exits(0);
}
