//! Claims with names that volseed never gives, and claims that say what volseed never says: ignored,
//! removed or refused with one line, and never a loop.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::forge::{Hands, Kind, States, copy, edit, rename_stage};
use crate::kit::scene::{RootOf, Scene};
use crate::kit::slowfs::{far, slow};
use crate::kit::table::{Case, Follows, table};
use crate::kit::{Sandbox, Tree, assert_nothing_published, seed};

/// Numbers as volseed does not write them, numbers at the end of all numbers, and no numbers.
const NAMES: [&[u8]; 18] = [
    b"+99",
    b"0099",
    b"0",
    b"00",
    b"-1",
    b"-0",
    b"1e3",
    b"0x10",
    b"1_000",
    b" 1",
    b"1 ",
    b"2\n",
    b"\x1b[31m7",
    b"\xff\xfe",
    b"9223372036854775808",
    b"18446744073709551614",
    b"18446744073709551615",
    b"18446744073709551616",
];

/// What has such a name: `None` for a whole claim of a seed that was stopped.
const BODIES: [Option<Kind>; 6] = [
    None,
    Some(Kind::Directory),
    Some(Kind::Fifo),
    Some(Kind::Socket),
    Some(Kind::LinkToDirectory),
    Some(Kind::Garbage),
];

const HANDS: [Hands; 4] = [Hands::Ours, Hands::App, Hands::Opened, Hands::Stranger];

fn follows(hands: Hands) -> Follows {
    if hands == Hands::Ours { Follows::SeededOrResumed } else { Follows::Seeded }
}

#[test]
fn claims_with_odd_names_and_of_odd_types_are_ignored_removed_or_refused() {
    table(|states| {
        let all = NAMES.into_iter().flat_map(|name| BODIES.map(|body| (name, body)));
        all.enumerate().map(|(number, (name, body))| odd_name(states, number, name, body)).collect()
    });
}

fn odd_name(states: &'static States, number: usize, name: &'static [u8], body: Option<Kind>) -> Case {
    let hands = HANDS[(number + number / 6) % HANDS.len()];
    // Beside a claim that is as it should be, or alone.
    let beside = number % 4 < 2;
    let plant = move |scene: &Scene| {
        copy(&states.staged, &scene.state());
        let claims = scene.place("claims");
        let claim = claims.join(OsStr::from_bytes(name));
        if body.is_none() {
            copy(&claims.join("1"), &claim);
        }
        if !beside {
            fs::remove_dir_all(claims.join("1")).unwrap();
        }
        hands.take(&scene.state());
        if let Some(kind) = body {
            kind.plant(scene, &claim, hands.user());
        }
    };
    let what = body.map_or("a whole claim".to_owned(), |kind| format!("{kind:?}"));
    Case {
        name: format!("{what} with the name '{}' in the hands of {hands:?}", name.escape_ascii()),
        root: RootOf::ALL[number % 3],
        allowed: if body == Some(Kind::Directory) { hands.silent_claim() } else { &[0, 78] },
        follows: follows(hands),
        plant: Box::new(plant),
    }
}

/// A record, a field of it and what it says.
type Saying = (&'static str, &'static str, Value);

const CLAIM: &str = "claim.json";
const HEARTBEAT: &str = "heartbeat";
const STAGE: &str = "stage/stage.json";
const SEALED: &str = "sealed/stage.json";

fn sayings() -> Vec<Saying> {
    let far = json!(u64::MAX);
    let evil = json!("evil\nerror: all is well\u{1b}[31m\u{7}\u{202e}\u{9b}31m");
    vec![
        (CLAIM, "since", far.clone()),
        (CLAIM, "since", json!(253_402_300_800_u64)),
        (CLAIM, "since", json!(-1)),
        (CLAIM, "epoch", far.clone()),
        (CLAIM, "epoch", json!(0)),
        (CLAIM, "epoch", json!("1")),
        (CLAIM, "format", json!(u32::MAX)),
        (CLAIM, "device", far.clone()),
        (CLAIM, "pid", json!(u32::MAX)),
        (CLAIM, "pid", json!(u64::MAX)),
        (CLAIM, "host", evil.clone()),
        (CLAIM, "container", evil.clone()),
        (CLAIM, "nonce", evil.clone()),
        (CLAIM, "nonce", json!("../../../outside/open")),
        (CLAIM, "nonce", json!("")),
        (CLAIM, "boot", evil.clone()),
        (CLAIM, "host", json!("x".repeat(1 << 19))),
        (HEARTBEAT, "count", far.clone()),
        (HEARTBEAT, "files", far.clone()),
        (HEARTBEAT, "files_total", far.clone()),
        (HEARTBEAT, "files_total", json!(0)),
        (HEARTBEAT, "bytes", far.clone()),
        (HEARTBEAT, "bytes_total", json!(1)),
        (HEARTBEAT, "left", evil.clone()),
        (STAGE, "generation", far.clone()),
        (STAGE, "generation", json!(0)),
        (STAGE, "fingerprint", evil.clone()),
        (STAGE, "boot", Value::Null),
        (STAGE, "format", json!(2)),
        (SEALED, "generation", far.clone()),
        (SEALED, "sealed", json!({})),
        (
            SEALED,
            "sealed",
            sealed("root", json!({"uid": u32::MAX, "gid": u32::MAX, "mode": 0o7777, "mtime": null})),
        ),
        (
            SEALED,
            "sealed",
            sealed("root", json!({"uid": 33, "gid": 33, "mode": u32::MAX, "mtime": [i64::MAX, u32::MAX]})),
        ),
        (SEALED, "sealed", sealed("top", json!([".volseed", "..", "/", "", "a/b"]))),
        (SEALED, "sealed", sealed("top", json!([[46, 46], [0], [47]]))),
        (SEALED, "sealed", sealed("version", evil)),
        (
            SEALED,
            "sealed",
            sealed(
                "totals",
                json!({"files": u64::MAX, "directories": u64::MAX, "links": u64::MAX, "bytes": u64::MAX}),
            ),
        ),
        (SEALED, "sealed", sealed("generation", far)),
    ]
}

/// The record of a sealed stage with one field changed.
fn sealed(field: &str, value: Value) -> Value {
    let totals = json!({"files": 4, "directories": 3, "links": 2, "bytes": 70_033});
    let mut sealed =
        json!({"generation": 1, "version": null, "totals": totals, "top": ["bin"], "root": null});
    sealed[field] = value;
    sealed
}

#[test]
fn claims_that_say_absurd_things_are_removed_or_refused_with_one_clean_line() {
    table(|states| {
        let mut cases = Vec::new();
        for saying in sayings() {
            for hands in [Hands::App, Hands::Opened, Hands::Ours] {
                // What we sealed ourselves is published as it is, and this is not whole.
                if hands == Hands::Ours && saying.0 == SEALED {
                    continue;
                }
                cases.push(absurd(states, cases.len(), saying.clone(), hands));
            }
        }
        cases
    });
}

fn absurd(states: &'static States, number: usize, (record, field, value): Saying, hands: Hands) -> Case {
    let shown: String = value.to_string().chars().take(60).collect();
    let plant = move |scene: &Scene| {
        copy(&states.staged, &scene.state());
        let claim = scene.place("claims/1");
        if record == SEALED {
            rename_stage(&claim, "sealed");
        }
        edit(&claim.join(record), |fields| fields[field] = value.clone());
        hands.take(&scene.state());
    };
    Case {
        name: format!("{record} with {field} = {shown} in the hands of {hands:?}"),
        root: RootOf::ALL[number % 3],
        allowed: if field == "left" { hands.silent_claim() } else { &[0, 78] },
        follows: follows(hands),
        plant: Box::new(plant),
    }
}

/// Times of files that no calendar has, also on what only `status` looks at.
#[test]
fn files_from_before_and_after_all_calendars_do_no_harm() {
    table(|states| {
        let moments = [i64::MAX, -1, 253_402_300_800, i64::MIN];
        let places = [HEARTBEAT, CLAIM, STAGE, "stage/tree/index.php", ""];
        let all = moments.into_iter().flat_map(|moment| places.map(|place| (moment, place)));
        let cases = all.enumerate().map(|(number, (moment, place))| {
            let hands = HANDS[number % HANDS.len()];
            Case {
                name: format!("{place} of the time {moment} in the hands of {hands:?}"),
                root: RootOf::ALL[number % 3],
                allowed: &[0, 78],
                follows: follows(hands),
                plant: Box::new(move |scene: &Scene| {
                    copy(&states.staged, &scene.state());
                    set_time(&scene.place("claims/1").join(place), moment);
                    hands.take(&scene.state());
                }),
            }
        });
        cases.collect()
    });
}

fn set_time(path: &Path, seconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// As something that changes modes again and again does it, or a mount that does not keep them.
#[test]
fn a_stage_that_is_opened_each_time_is_not_made_endlessly() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let source = Tree::many("d", 100).write_to(&sandbox.directory("source"));
    let claims = volume.path().join(".volseed/claims");
    let is_over = Arc::new(AtomicBool::new(false));
    let opening = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                for claim in fs::read_dir(&claims).into_iter().flatten().flatten() {
                    let _ = fs::set_permissions(claim.path(), fs::Permissions::from_mode(0o777));
                }
                std::thread::yield_now();
            }
        }
    });
    let ended = seed(&source, volume.path()).start().ends_within(Duration::from_secs(20));
    is_over.store(true, Ordering::Relaxed);
    opening.join().unwrap();
    ended
        .unwrap()
        .exits(75)
        .says("staging it again")
        .says("its owner or mode was changed while it was filled");
    assert_nothing_published(volume.path());
}
