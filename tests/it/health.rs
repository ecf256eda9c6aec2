//! What probes are told while a volume is seeded, and what `volseed health` makes of it.

use std::net::TcpStream;
use std::path::PathBuf;

use crate::kit::http::{app_answering, closed_port, request};
use crate::kit::{Running, Sandbox, Tree, Volseed, eventually, health, needs, run, seed, staged, volseed};

/// A seed with a health server that stands still until it is fed more.
#[track_caller]
fn seeding(sandbox: &Sandbox, with: impl FnOnce(Volseed) -> Volseed) -> (Running, PathBuf) {
    let volume = sandbox.volume();
    let running = with(seed("-", &volume).fed().listening()).start();
    running.feed(Tree::many_of("d", 40, 50_000).members().unfinished());
    eventually("files in the stage", || staged(&volume) > 0);
    (running, volume)
}

#[track_caller]
fn finish(mut running: Running) {
    running.feed([0; 10_240]);
    running.end_input();
    running.ends().exits(0);
}

#[test]
fn while_seeding_it_is_live_and_neither_started_nor_ready() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    for (path, status) in [
        ("/livez", 200),
        ("/healthz", 200),
        ("/readyz", 503),
        ("/startupz", 503),
        ("/", 503),
        ("/wp-admin/?a=b", 503),
    ] {
        let answer = running.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.headers.contains("server: volseed"), "{answer:?}");
    }
    finish(running);
}

#[test]
fn the_status_of_every_other_path_can_be_chosen() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it.option("--seeding-status", "200"));
    for (path, status) in
        [("/", 200), ("/index.php", 200), ("/livez", 200), ("/readyz", 503), ("/startupz", 503)]
    {
        assert_eq!(running.get(path).status, status, "{path}");
    }
}

#[test]
fn the_paths_of_the_probes_can_be_chosen() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| {
        let it = it
            .option("--live-path", "/alive")
            .option("--live-path", "/up")
            .option("--started-path", "/begun");
        it.env("VOLSEED_READY_PATH", "/r1,/r2").option("--seeding-status", "418")
    });
    for (path, status) in
        [("/alive", 200), ("/up", 200), ("/begun", 503), ("/r1", 503), ("/r2", 503), ("/other", 418)]
    {
        assert_eq!(running.get(path).status, status, "{path}");
    }
}

#[test]
fn progress_is_told_in_json_without_paths() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    eventually("files are counted", || running.get("/readyz").json()["files"] != 0);
    let answer = running.get("/readyz");
    assert!(answer.headers.contains("json"), "{answer:?}");
    let json = answer.json();
    let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let mut expected = [
        "status",
        "phase",
        "files",
        "files_total",
        "bytes",
        "bytes_total",
        "percent",
        "rate",
        "seconds_left",
        "stall_seconds",
        "writers",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(json["phase"], "seeding");
    let (files, bytes) = (json["files"].as_u64().unwrap(), json["bytes"].as_u64().unwrap());
    assert!(files <= 40 && bytes >= files * 50_000, "{json}");
    assert!(!answer.body.contains("volume"), "{json}");
}

#[test]
fn a_replica_that_waits_is_live_and_says_so() {
    let sandbox = Sandbox::new();
    let source = Tree::many("d", 50).write_to(&sandbox.directory("source"));
    let (first, volume) = seeding(&sandbox, |it| it);
    let second = seed(source, &volume).listening().start();
    second.says("waiting for another replica");
    assert_eq!(second.get("/livez").json()["phase"], "waiting");
    assert_eq!([second.get("/livez").status, second.get("/readyz").status], [200, 503]);
    finish(first);
    second.ends().exits(0);
}

#[test]
fn head_is_get_without_a_body() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    for (path, status) in [("/livez", 200), ("/readyz", 503)] {
        let answer = request(running.address(), "HEAD", path);
        assert_eq!((answer.status, answer.body.as_str()), (status, ""));
    }
}

#[test]
fn silent_clients_do_not_keep_others_from_an_answer() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    let _silent: Vec<_> = (0..50).map(|_| TcpStream::connect(running.address()).unwrap()).collect();
    assert_eq!(running.get("/livez").status, 200);
}

#[test]
fn a_seed_that_stands_still_is_no_longer_live_and_recovers() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it.option("--stall", "300ms"));
    eventually("not live", || running.get("/livez").status == 503);
    assert_eq!(running.get("/livez").json()["status"], "fail");
    running.feed(Tree::many("more", 3).members().unfinished());
    eventually("live again", || running.get("/livez").status == 200);
    finish(running);
}

#[test]
fn the_server_answers_before_anything_has_come() {
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().listening().start();
    assert_eq!(running.get("/livez").status, 200);
}

#[test]
fn an_address_in_use_is_named_and_the_volume_left_alone() {
    let sandbox = Sandbox::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    seed(source, &volume).option("--listen", &address).ends().fails(71, &address);
    assert_eq!(std::fs::read_dir(volume).unwrap().count(), 0);
}

#[test]
fn volseed_health_asks_the_running_one() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    let address = running.address();
    health(address).ends().exits(0);
    health(address).flag("--live").ends().exits(0);
    health(address).flag("--started").ends().exits(1);
    health(address).flag("--ready").ends().exits(1);
    volseed(["health"]).env("VOLSEED_LISTEN", address.to_string()).ends().exits(0);
}

#[test]
fn volseed_health_asks_at_the_paths_that_were_chosen() {
    let sandbox = Sandbox::new();
    let (running, _) =
        seeding(&sandbox, |it| it.option("--live-path", "/alive").option("--seeding-status", "500"));
    let ask = || health(running.address()).env("VOLSEED_LIVE_PATH", "/alive");
    ask().ends().exits(0);
    ask().flag("--ready").ends().exits(1);
}

#[test]
fn volseed_health_asks_loopback_where_the_server_listens_everywhere() {
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().option("--listen", "0.0.0.0:0").start();
    let port = running.address().port();
    volseed(["health", "--listen", &format!("0.0.0.0:{port}")]).ends().exits(0);
    volseed(["health", "--listen", &format!(":{port}")]).ends().exits(0);
}

#[test]
fn a_seed_that_stands_still_is_unhealthy() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it.option("--stall", "100ms"));
    eventually("unhealthy", || running.get("/livez").status == 503);
    health(running.address()).ends().exits(1);
}

#[test]
fn after_the_hand_over_the_container_is_healthy() {
    if !needs::root() || !needs::tools(&["unshare", "nsenter"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let app = run(source, sandbox.volume(), ["sh", "-c", "echo ready; read -r line"]);
    let running = app.listening().fed().in_container().start();
    let address = running.address().to_string();
    running.prints("ready");
    for question in ["--live", "--started", "--ready"] {
        running.beside(&["health", "--listen", &address, question]).ends().exits(0);
    }
}

#[test]
fn before_the_hand_over_a_container_that_does_not_answer_is_unhealthy() {
    if !needs::root() || !needs::tools(&["unshare", "nsenter"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let running = run("-", &volume, ["true"]).fed().in_container().start();
    eventually("it is at work", || volume.join(".volseed").exists());
    let address = format!("127.0.0.1:{}", closed_port());
    running.beside(&["health", "--listen", &address]).ends().exits(1);
}

/// After the hand-over, the app is asked in this way.
#[track_caller]
fn app_check(check: &str, code: i32) {
    let address = format!("127.0.0.1:{}", closed_port());
    volseed(["health", "--listen", &address, "--app-check", check]).ends().exits(code);
    volseed(["health", "--listen", &address]).env("VOLSEED_APP_CHECK", check).ends().exits(code);
}

#[test]
fn the_app_is_asked_where_an_app_check_is_given() {
    let (fine, broken) = (app_answering("200 OK"), app_answering("500 Oops"));
    app_check(&format!("http://{fine}/status"), 0);
    app_check(&format!("http://{broken}/"), 1);
    app_check(&format!("http://127.0.0.1:{}/", closed_port()), 1);
    app_check(&format!("tcp:{}", fine.port()), 0);
    app_check(&format!("tcp:{}", closed_port()), 1);
}

#[test]
fn an_app_check_that_is_none_is_wrong_usage() {
    for check in ["tcp:0day", "tcp:99999", "tcp:", "https://app/", "ftp://app/", ""] {
        volseed(["health", "--listen", ":1", &format!("--app-check={check}")])
            .ends()
            .fails(64, "--app-check");
    }
}

#[test]
fn an_app_on_the_same_address_is_not_taken_for_us() {
    let broken = app_answering("404 Not Found");
    health(broken).ends().exits(0);
    let fine = app_answering("200 OK");
    health(fine).option("--app-check", format!("http://{broken}/")).ends().exits(1);
}

#[test]
fn an_app_that_never_answers_is_unhealthy_after_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let check = format!("http://{}/", silent.local_addr().unwrap());
    let address = format!("127.0.0.1:{}", closed_port());
    let ask = volseed(["health", "--listen", &address, "--timeout", "300ms", "--app-check", &check]);
    ask.ends().exits(1);
}
