//! Records that another than volseed wrote: an app that owns the volume's root can.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::json;

use crate::kit::http;
use crate::kit::records::{complete, holder, place, plant, plant_heartbeat};
use crate::kit::{Outcome, Sandbox, Tree, assert_same_tree, eventually, health, seed, volseed};

/// Text that no line may show as it is, or in full.
fn evil() -> String {
    let signs = "\n\r\t\u{7}\u{1b}[31m\u{7f}\u{85}\u{9b}1m\u{61c}\u{200b}\u{200d}\u{200f}\u{2028}\u{202e}\u{2066}\u{feff}";
    format!("evil{signs}\nINJECTED <script>\n{}", "long".repeat(5000))
}

/// Neither a line of somebody else's nor a sign that a terminal obeys or a reader does not see.
#[track_caller]
fn assert_clean(text: &str) {
    for line in text.lines() {
        let shown = line.get(..300).unwrap_or(line);
        assert!(!line.trim_start().starts_with("INJECTED"), "{text:.1000}");
        assert!(line.len() < 2500, "{} bytes: {shown}", line.len());
        let hidden = |sign: char| {
            sign.is_control()
                || matches!(sign, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
                || matches!(sign, '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        assert_eq!(line.chars().find(|sign| hidden(*sign)), None, "{shown:?}");
    }
}

/// All that it said, in which the planted text was shown in some form.
#[track_caller]
fn says_it_clean(outcome: &Outcome) {
    let said = format!("{}\n{}", outcome.stdout, outcome.stderr);
    assert!(said.contains("evil"), "{said}");
    assert_clean(&said);
}

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
    let stage = json!({"format": 2, "generation": LARGEST, "boot": null, "fingerprint": "x", "empty": true, "syncing": false, "sealed": sealed});
    plant(&volume, "claims/1/publishing/stage.json", stage);
    fs::write(place(&volume, "claims/1/publishing/tree/x"), "x").unwrap();
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

/// A volume on which a replica that nobody hears of was to have put `fields` in its claim.
fn claimed(sandbox: &Sandbox, fields: serde_json::Value) -> PathBuf {
    let volume = sandbox.volume();
    plant(&volume, "claims/1/claim.json", holder(fields));
    fs::create_dir(place(&volume, &format!("claims/{}", &evil()[..40]))).unwrap();
    volume
}

#[test]
fn what_a_claim_says_of_its_holder_is_shown_on_one_line() {
    for field in ["host", "container"] {
        for format in ["text", "json"] {
            let sandbox = Sandbox::new();
            let source = Tree::sample().write_to(&sandbox.directory("source"));
            let volume = claimed(&sandbox, json!({ field: evil() }));
            says_it_clean(&status(&volume));
            let limits = ["--wait-timeout", "100ms", "--log", format, "--log-level", "debug"];
            says_it_clean(&volseed(["wait"]).option("--to", &volume).arguments(limits).ends());
            let left = json!({
                "count": 1, "files": 1, "files_total": null, "bytes": 1, "bytes_total": null, "left": true
            });
            plant_heartbeat(&volume, left);
            let heir = seed(&source, &volume).arguments(limits).ends().says("taking over").exits(0);
            says_it_clean(&heir);
            let is_json = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert!(format == "text" || heir.stderr.lines().all(is_json), "{}", heir.stderr);
        }
    }
}

#[test]
fn what_a_claim_says_of_its_holder_is_answered_on_one_line() {
    let sandbox = Sandbox::new();
    let volume = claimed(&sandbox, json!({ "host": evil(), "container": evil(), "nonce": evil() }));
    plant_heartbeat(&volume, json!({ "count": evil(), "files": evil() }));
    let waiting = volseed(["wait"]).option("--to", &volume).listening().start();
    waiting.says("waiting for another replica");
    let address = waiting.address();
    for (path, accepted) in [
        ("/livez", "*/*"),
        ("/livez?verbose", "*/*"),
        ("/", "text/html"),
        ("/metrics", "*/*"),
        ("/metrics", "application/openmetrics-text"),
    ] {
        let answer = http::exchange(address, "GET", path, &format!("Accept: {accepted}\r\n"), "");
        assert_clean(&answer.body);
        assert!(!answer.body.contains("INJECTED <script>") || path.starts_with("/livez"), "{}", answer.body);
        let named = answer.body.contains("evil\\n") || answer.body.contains("evil\\\\n");
        assert_eq!(named, path.starts_with("/livez"), "{}", answer.body);
    }
    let host = waiting.get("/livez").json()["waiting_for"].as_str().unwrap().to_owned();
    assert_clean(&host);
    assert!(host.chars().count() <= 300, "{host}");
    assert_clean(&waiting.stderr());
}

#[test]
fn what_a_complete_record_says_is_shown_on_one_line() {
    let bytes: Vec<u8> = [b"evil\xff\n\x1b[31m", "\u{202e}".as_bytes()].concat();
    let fields = [
        json!({ "version": evil() }),
        json!({ "source": evil() }),
        json!({ "source": bytes }),
        json!({ "volseed": evil() }),
        json!({ "top": [&evil()[..60]] }),
    ];
    for field in fields {
        let sandbox = Sandbox::new();
        let (source, volume) = (Tree::sample().write_to(&sandbox.directory("source")), sandbox.volume());
        plant(&volume, "state.json", complete(field.clone()));
        fs::write(volume.join("x"), "x").unwrap();
        assert_clean(&status(&volume).stdout);
        let json = volseed(["status", "--json"]).option("--to", &volume).ends().exits(0).stdout;
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let (name, planted) = field.as_object().unwrap().iter().next().unwrap();
        assert_eq!(&value[0]["complete"][name], planted);
        assert!(
            !json.chars().any(|sign| sign.is_control() && sign != '\n' || sign == '\u{202e}'),
            "{json:?}"
        );
        for format in ["text", "json"] {
            let again = seed(&source, &volume).option("--seed-version", "2").option("--log", format).ends();
            assert_clean(&again.exits(0).stderr);
        }
    }
}

#[test]
fn a_record_that_is_refused_is_so_on_one_line() {
    let names = [
        ("origin", json!(evil())),
        ("format", json!(evil())),
        (&*evil(), json!(1)),
        ("top", json!([1, evil()])),
    ];
    for (name, value) in names {
        let sandbox = Sandbox::new();
        let (source, volume) = (Tree::sample().write_to(&sandbox.directory("source")), sandbox.volume());
        plant(&volume, "state.json", complete(json!({ name: value })));
        for verb in [
            volseed(["status"]).option("--to", &volume),
            seed(&source, &volume),
            seed(&source, &volume).json(),
        ] {
            assert_clean(&verb.ends().stderr);
        }
    }
}

#[test]
fn names_on_the_volume_are_shown_on_one_line() {
    let name = OsString::from_vec([&evil().as_bytes()[..60], b"\xff"].concat());
    for format in ["text", "json"] {
        for existing in ["fail", "overwrite", "keep"] {
            let sandbox = Sandbox::new();
            let (source, volume) = (sandbox.directory("source"), sandbox.volume());
            fs::create_dir(source.join(&name)).unwrap();
            fs::write(source.join(&name).join("x"), "x").unwrap();
            fs::create_dir(volume.join(&name)).unwrap();
            fs::create_dir(volume.join(&name).join("x")).unwrap();
            let flags = ["--existing", existing, "--log", format, "--log-level", "debug"];
            says_it_clean(&seed(&source, &volume).arguments(flags).ends());
            // The path of the volume itself, too.
            says_it_clean(&seed(&source, volume.join(&name)).arguments(flags).ends());
            says_it_clean(&volseed(["status"]).option("--to", volume.join(&name)).ends());
        }
    }
}

#[test]
fn an_answer_of_a_program_that_passes_for_volseed_is_shown_on_one_line() {
    let body = json!({ "phase": evil(), "output": evil() }).to_string();
    let answer =
        format!("HTTP/1.1 200 OK\r\nServer: volseed\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let app = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(answer.as_bytes()).unwrap();
    });
    says_it_clean(&health(address).ends().exits(0));
    app.join().unwrap();
}
