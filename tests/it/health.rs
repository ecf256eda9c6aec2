//! What probes are told while a volume is seeded, and what `volseed health` makes of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::http::{self, app_answering, closed_port, request};
use crate::kit::{
    Running, SOON, Sandbox, Tree, Volseed, assert_same_tree, compress, eventually, health, needs, run, seed,
    staged, volseed,
};

/// GET with further header lines.
#[track_caller]
fn asked(address: std::net::SocketAddr, path: &str, headers: &str) -> http::Answer {
    http::exchange(address, "GET", path, headers, "")
}

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
        "waiting_for",
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
    let answer = second.get("/livez").json();
    assert_eq!(answer["phase"], "waiting");
    assert!(answer["waiting_for"].as_str().is_some_and(|host| !host.is_empty()), "{answer}");
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
fn a_browser_gets_a_page_and_nobody_else_does() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    let accepting = |types: &str, path: &str| asked(running.address(), path, &format!("Accept: {types}\r\n"));
    let page = accepting("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "/shop?item=3");
    assert_eq!(page.status, 503);
    assert!(page.headers.contains("content-type: text/html"), "{page:?}");
    assert!(page.headers.contains("retry-after: 5") && page.headers.contains("no-store"), "{page:?}");
    assert!(page.body.contains("<!doctype html>") && !page.body.contains("{{"), "{}", page.body);
    // Complete in itself: whatever it would fetch is not there yet.
    assert!(!page.body.contains("src=") && !page.body.contains("<link"), "{}", page.body);
    assert!(accepting("*/*", "/").headers.contains("json"));
    assert!(accepting("text/html", "/readyz").headers.contains("json"));
}

#[test]
fn a_page_of_one_s_own_has_the_figures_in_it() {
    let sandbox = Sandbox::new();
    let page =
        sandbox.file("page.html", "<p>{{phase}}: {{files}} of {{files_total}}, {{percent}} %, {{other}}</p>");
    let (running, _) = seeding(&sandbox, |it| it.option("--page", &page));
    let answer = asked(running.address(), "/", "Accept: text/html\r\n");
    assert!(
        answer.body.starts_with("<p>seeding: ") && answer.body.contains(" of ?, 0 %, {{other}}"),
        "{answer:?}"
    );
    seed("-", sandbox.volume())
        .listening()
        .option("--page", "/nowhere.html")
        .ends()
        .fails(66, "/nowhere.html");
}

#[test]
fn metrics_are_told_in_both_texts_of_prometheus() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    eventually("files are counted", || running.get("/readyz").json()["files"] != 0);
    let open =
        asked(running.address(), "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(open.status, 200);
    assert!(
        open.headers.contains("application/openmetrics-text") && open.body.ends_with("# EOF\n"),
        "{open:?}"
    );
    let older = running.get("/metrics");
    assert!(older.headers.contains("text/plain; version=0.0.4"), "{older:?}");
    for line in ["# TYPE volseed_seeded_files_total counter", "volseed_phase{phase=\"seeding\"} 1"] {
        assert!(older.body.lines().any(|it| it == line), "no {line:?} in:\n{}", older.body);
    }
    let value = |name: &str| -> f64 {
        let line = older.body.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let files = value("volseed_seeded_files_total");
    assert!(files > 0.0 && files <= 40.0, "{files}");
    assert!(value("volseed_operation_seconds_bucket{le=\"+Inf\",operation=\"create\"}") >= files);
    if needs::tools(&["promtool"]) {
        compress::pipe(Command::new("promtool").args(["check", "metrics"]), older.body.as_bytes());
    }
}

#[test]
fn verbose_is_a_line_each() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    let answer = running.get("/livez?verbose");
    assert!(answer.headers.contains("text/plain"), "{answer:?}");
    assert!(answer.body.lines().any(|line| line == "phase: seeding"), "{answer:?}");
}

#[test]
fn several_addresses_and_a_unix_socket_are_answered_on() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("sock").display().to_string();
    // Left by a container that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listen = format!("127.0.0.1:0,[::1]:0,{socket}");
    let (running, _) = {
        let volume = sandbox.volume();
        let running = seed("-", &volume).fed().option("--listen", &listen).start();
        running.says(&format!("address={socket}"));
        (running, volume)
    };
    let lines: Vec<String> = running.stderr().lines().map(str::to_owned).collect();
    let addresses: Vec<&str> =
        lines.iter().filter_map(|line| line.split("listening address=").nth(1)).collect();
    assert_eq!(addresses.len(), 3, "{lines:?}");
    for address in &addresses[..2] {
        assert_eq!(http::get(address.parse().unwrap(), "/livez").status, 200, "{address}");
    }
    volseed(["health", "--listen", &socket]).ends().exits(0);
}

#[test]
fn a_thousand_slow_clients_do_not_keep_a_probe_from_its_answer() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    let slow: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = TcpStream::connect(running.address()).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(running.get("/livez").status, 200);
    }
    drop(slow);
}

/// Clients that connect and begin a request each.
#[track_caller]
fn slow_clients(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost:").unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

/// A replica that may open this many files and listens on this many addresses takes a seed over from one
/// that was killed while clients hold all the connections that they can get.
#[track_caller]
fn seeds_in_spite_of_clients(open_files: u64, addresses: usize) {
    let sandbox = Sandbox::new();
    let tree = (0..600).fold(Tree::new(), |tree, number| {
        tree.file(format!("{}/{number}/below/file", number % 20), format!("{number:0100}"))
    });
    let source = tree.clone().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let holder = seed("-", &volume).fed().start();
    holder.feed(tree.members().unfinished());
    eventually("files in the stage", || staged(&volume) >= 500);
    let script = format!("ulimit -n {open_files}; exec \"$@\"");
    let replica = seed(&source, &volume)
        .option("--listen", vec!["127.0.0.1:0"; addresses].join(","))
        .under(["sh", "-c", &script, "sh"])
        .start();
    replica.says("waiting for another replica");
    let listening = replica.addresses(addresses);
    let clients: Vec<_> = listening.iter().map(|address| slow_clients(*address, 500)).collect();
    for address in listening {
        let asked = Instant::now();
        assert_eq!(http::get(address, "/livez").status, 200);
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    }
    holder.stopped_by(Signal::SIGKILL);
    let outcome = replica.ends();
    assert!(outcome.status.success(), "{open_files} open files: {}", outcome.stderr);
    drop(clients);
    assert_same_tree(&source, &volume);
}

#[test]
fn clients_do_not_take_the_open_files_that_a_seed_needs() {
    for (open_files, addresses) in [(64, 1), (64, 2), (128, 1), (512, 1), (1024, 2)] {
        seeds_in_spite_of_clients(open_files, addresses);
    }
}

#[test]
fn the_oldest_connection_of_all_addresses_goes_first() {
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().option("--listen", "127.0.0.1:0,127.0.0.1:0").start();
    let addresses = running.addresses(2);
    let (first, second) = (addresses[0], addresses[1]);
    let mut oldest = slow_clients(first, 1);
    oldest[0].set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut newer = slow_clients(second, 300);
    assert_eq!(http::get(first, "/livez").status, 200);
    let closed = oldest[0].read(&mut [0]);
    assert!(
        matches!(&closed, Ok(0)) || closed.is_err_and(|it| it.kind() == std::io::ErrorKind::ConnectionReset)
    );
    let newest = newer.last_mut().unwrap();
    newest.write_all(b"volume.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    newest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn without_a_free_descriptor_the_oldest_connection_makes_room() {
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().listening().start();
    running.says("\"seeding\"");
    let clients = slow_clients(running.address(), 5);
    assert_eq!(running.get("/livez").status, 200);
    let pid = rustix::process::Pid::from_raw(running.pid());
    let lowest_free = || {
        let path = |number: &u64| PathBuf::from(format!("/proc/{}/fd/{number}", running.pid()));
        (0..).find(|number| path(number).symlink_metadata().is_err()).unwrap()
    };
    let before = lowest_free();
    let limit = rustix::process::Rlimit { current: Some(before), maximum: Some(before) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    // More than were about to be closed.
    let more = slow_clients(running.address(), 5);
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(running.get("/livez").status, 200);
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    }
    drop((clients, more));
}

#[test]
fn a_request_with_a_body_gets_its_answer_whole() {
    let sandbox = Sandbox::new();
    let (running, _) = seeding(&sandbox, |it| it);
    let body = "x".repeat(40_000);
    let head = format!("Content-Length: {}\r\n", body.len());
    let answer = http::exchange(running.address(), "POST", "/cart", &head, &body);
    assert_eq!(answer.status, 503);
    assert_eq!(http::exchange(running.address(), "POST", "/livez", "Content-Length: 0\r\n", "").status, 405);
}

/// An app that takes its socket over as systemd's would.
const TAKES_OVER: &str = r#"
import os, socket
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid()), dict(os.environ)
listener = socket.socket(fileno=3)
print("ready", listener.getblocking(), flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\napp")
    connection.close()
"#;

#[test]
fn no_connection_is_refused_while_the_socket_is_handed_over() {
    if !needs::tools(&["python3"]) {
        return;
    }
    for supervise in [&[][..], &["--supervise"]] {
        let sandbox = Sandbox::on_disk();
        let volume = sandbox.volume();
        let app = ["python3", "-c", TAKES_OVER];
        let mut running = run("-", &volume, app)
            .arguments(supervise)
            .option("--pass-socket", "listen-fds")
            .fed()
            .listening()
            .start();
        let address = running.address();
        running.feed(Tree::sample().archive());
        assert_eq!(running.get("/").status, 503);
        running.end_input();
        let mut answers = Vec::new();
        eventually("the app answers", || {
            let answer = http::get(address, "/");
            answers.push(answer.status);
            answer.body == "app"
        });
        running.prints("ready True");
        assert!(answers.iter().all(|status| [200, 503].contains(status)), "{answers:?}");
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
    let answer = running.get("/livez").json();
    assert_eq!(answer["status"], "fail");
    assert!(answer["output"].as_str().unwrap().contains("moved"), "{answer}");
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
fn an_app_that_is_not_to_be_asked_is_healthy_once_it_runs() {
    app_check("none", i32::from(!std::path::Path::new("/proc/1/comm").exists()));
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
