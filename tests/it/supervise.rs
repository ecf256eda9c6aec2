//! volseed as the app's init: signals, orphans, exit codes, the end of life, terminals.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::http::{self, closed_port};
use crate::kit::python::{DIES_OF, ECHOES_SIGNALS, ORPHAN, ORPHANS};
use crate::kit::{Running, SOON, Sandbox, Tree, Volseed, eventually, needs, run};

/// A sandbox on disk, where programs may be executed, with a source and an empty volume.
struct Stage {
    _sandbox: Sandbox,
    source: PathBuf,
    volume: PathBuf,
}

impl Stage {
    fn new() -> Stage {
        let sandbox = Sandbox::on_disk();
        let source = Tree::new().file("a", "x").write_to(&sandbox.directory("source"));
        let volume = sandbox.volume();
        Stage { _sandbox: sandbox, source, volume }
    }

    fn run(&self, app: &[&str]) -> Volseed {
        run(&self.source, &self.volume, app)
    }

    fn supervise(&self, app: &[&str]) -> Volseed {
        self.run(app).flag("--supervise")
    }
}

/// What a container is, for these tests.
#[track_caller]
fn containers() -> bool {
    needs::root() && needs::tools(&["unshare", "python3"])
}

/// An app that says what it gets, supervised as PID 1.
#[track_caller]
fn echoing(stage: &Stage, with: impl FnOnce(Volseed) -> Volseed) -> Running {
    let running = with(stage.supervise(&["python3", "-c", ECHOES_SIGNALS]).in_container()).start();
    running.prints("ready");
    running
}

#[track_caller]
fn send(running: &Running, signal: i32) {
    // nix knows no real-time signals.
    let sent = std::process::Command::new("kill")
        .args([format!("-{signal}"), running.pid().to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "kill -{signal}");
}

/// Every signal that a program can be sent and that a C library lets it have.
fn catchable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|signal| {
        ![Signal::SIGKILL as i32, Signal::SIGSTOP as i32, Signal::SIGCHLD as i32, 32, 33].contains(signal)
    })
}

/// What ends a seed.
const ENDING: [i32; 7] = [
    Signal::SIGTERM as i32,
    Signal::SIGINT as i32,
    Signal::SIGQUIT as i32,
    Signal::SIGHUP as i32,
    Signal::SIGUSR1 as i32,
    Signal::SIGWINCH as i32,
    // SIGRTMIN+3.
    37,
];

#[test]
fn every_signal_reaches_the_app() {
    if !containers() {
        return;
    }
    for scope in ["group", "child"] {
        let stage = Stage::new();
        let running = echoing(&stage, |it| it.option("--signal-scope", scope));
        for signal in catchable().filter(|signal| *signal != Signal::SIGTERM as i32) {
            send(&running, signal);
            running.prints(&format!("got {signal}."));
        }
        let (outcome, _) = running.stopped_by(Signal::SIGTERM);
        outcome.exits(7).prints("got 15.");
    }
}

#[test]
fn the_group_is_signalled_or_the_child_alone() {
    if !containers() {
        return;
    }
    // The shell's child is in the same group.
    let app = "trap 'echo parent' USR1; \
        sh -c 'trap \"echo child; exit\" USR1; echo ready; while :; do sleep 0.01; done' & \
        wait $!; wait $!; exit 0";
    for (scope, child_too) in [("group", true), ("child", false)] {
        let stage = Stage::new();
        let running = stage.supervise(&["sh", "-c", app]).option("--signal-scope", scope).in_container();
        let running = running.start();
        running.prints("ready");
        running.signal(Signal::SIGUSR1);
        running.prints("parent");
        if child_too {
            running.prints("child");
            running.ends().exits(0);
        } else {
            let (outcome, _) = running.stopped_by(Signal::SIGTERM);
            assert!(!outcome.stdout.contains("child"), "{}", outcome.stdout);
        }
    }
}

#[test]
fn the_app_s_exit_code_is_ours_all_256_of_them() {
    let stage = Stage::new();
    for code in 0..=255 {
        stage.supervise(&["sh", "-c", &format!("exit {code}")]).ends().exits(code);
    }
}

#[test]
fn an_app_that_a_signal_ends_makes_128_and_its_number() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let stage = Stage::new();
    // The others stop or do nothing to a program that has no handler.
    let harmless = [17, 18, 19, 20, 21, 22, 23, 28];
    for signal in (1..=64).filter(|signal| !harmless.contains(signal) && ![32, 33].contains(signal)) {
        let app = ["python3", "-c", DIES_OF, &signal.to_string()];
        stage.supervise(&app).ends().exits(128 + signal).says("app ended");
    }
}

#[test]
fn exit_codes_of_the_app_s_are_mapped_and_ours_are_not() {
    let stage = Stage::new();
    let mapped = |code: &str| stage.supervise(&["sh", "-c", code]).option("--exit-map", "143:0,3:4,66:1");
    mapped("kill $$").ends().exits(0);
    mapped("exit 3").ends().exits(4);
    mapped("exit 5").ends().exits(5);
    let gone = run("/nowhere", &stage.volume, ["true"]).flag("--supervise");
    fs::remove_dir_all(stage.volume.join(".volseed")).unwrap();
    gone.option("--exit-map", "66:1").ends().fails(66, "/nowhere");
}

#[test]
fn a_command_that_cannot_be_executed_has_its_code() {
    let stage = Stage::new();
    stage.supervise(&["/nowhere/app"]).option("--exit-map", "127:0").ends().fails(127, "/nowhere/app");
    stage.supervise(&["/"]).ends().fails(126, "/");
}

#[test]
fn two_thousand_orphans_leave_no_zombie() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    stage.supervise(&["python3", "-c", ORPHANS]).in_container().ends().exits(0).prints("no zombie");
}

#[test]
fn orphans_come_to_us_though_we_are_not_process_1() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let stage = Stage::new();
    let outcome = stage.supervise(&["python3", "-c", ORPHAN]).ends().exits(0);
    let parents: Vec<&str> = outcome.stdout.lines().collect();
    assert!(parents.len() == 2 && parents[0] == parents[1], "{parents:?}");
}

#[test]
fn a_signal_is_rewritten_or_dropped() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let running = echoing(&stage, |it| it.option("--rewrite", "USR1:0").option("--rewrite", "HUP:RTMIN+3"));
    running.signal(Signal::SIGUSR1);
    running.signal(Signal::SIGHUP);
    running.prints("got 37.");
    let (outcome, _) = running.stopped_by(Signal::SIGTERM);
    let outcome = outcome.exits(7);
    assert!(!outcome.stdout.contains("got 10."), "{}", outcome.stdout);
}

#[test]
fn an_app_that_does_not_end_is_killed_after_its_grace() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let app = ["python3", "-c", ECHOES_SIGNALS, "patient"];
    let running = stage.supervise(&app).option("--grace", "1s").in_container().start();
    running.prints("ready");
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    running.prints("got 15.");
    // A second one changes nothing.
    running.signal(Signal::SIGTERM);
    let outcome = running.ends().exits(137).says("killed=").says("SIGKILL");
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}: {}", outcome.stderr);
    assert!(took < Duration::from_secs(6), "{took:?}: {}", outcome.stderr);
}

#[test]
fn without_grace_a_second_term_is_the_end() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    // In a session of its own, so that it gets nothing but the last SIGTERM.
    let app = "setsid sh -c 'trap \"echo last round\" TERM; echo one; while :; do sleep 0.01; done' & \
        trap '' TERM; while :; do sleep 0.01; done";
    let running = stage.supervise(&["sh", "-c", app]).option("--grace", "0").in_container().start();
    running.prints("one");
    running.signal(Signal::SIGTERM);
    running.prints("last round");
    running.signal(Signal::SIGTERM);
    running.ends().exits(137);
}

#[test]
fn who_is_left_when_the_app_ends_is_asked_and_then_killed() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let app = "setsid sh -c 'trap \"echo asked; exit\" TERM; echo one; while :; do sleep 0.01; done' & \
        setsid sh -c 'trap \"\" TERM; echo two; while :; do sleep 0.01; done' & \
        read -r line; exit 5";
    let running = stage.supervise(&["sh", "-c", app]).option("--grace", "1s").json().in_container().fed();
    let running = running.start();
    running.prints("one");
    running.prints("two");
    running.feed("go\n");
    let outcome = running.ends().exits(5).prints("asked");
    let line = outcome.line("app ended");
    assert_eq!(line["exit_code"], 5);
    assert!(line["killed"].as_str().unwrap().contains("sh "), "{line}");
}

#[test]
fn a_stopped_process_ends_with_the_container() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let app = "sh -c 'trap \"echo asked; exit\" TERM; echo one; kill -STOP $$; while :; do sleep 0.01; done' & \
        read -r line; exit 0";
    let running = stage.supervise(&["sh", "-c", app]).in_container().fed().start();
    running.prints("one");
    running.feed("go\n");
    running.ends().exits(0).prints("asked").says_nothing_of("killed");
}

#[test]
fn one_line_says_why_it_ended() {
    let stage = Stage::new();
    let line = |app: &str| stage.supervise(&["sh", "-c", app]).json().ends().line("app ended");
    let ended = line("exit 3");
    assert_eq!(
        (&ended["command"], &ended["code"], &ended["exit_code"]),
        (&"sh".into(), &3.into(), &3.into())
    );
    assert_eq!(line("kill -9 $$")["signal"], "SIGKILL");
    assert_eq!(line("kill -37 $$ || bash -c 'kill -37 $PPID'")["code"], 165);
}

#[test]
fn while_seeding_stop_signals_end_it_and_all_others_are_left_alone() {
    if !containers() {
        return;
    }
    for supervise in [false, true] {
        for signal in ENDING {
            let stage = Stage::new();
            let running = seeding(&stage, supervise);
            let sent = Instant::now();
            send(&running, signal);
            running.ends().exits(128 + signal);
            let took = sent.elapsed();
            assert!(took < SOON, "supervise {supervise}, signal {signal}: {took:?}");
        }
        let stage = Stage::new();
        let mut running = seeding(&stage, supervise);
        for signal in catchable().filter(|signal| !ENDING.contains(signal)) {
            // What says that a program is broken, and what stops nobody, is as it always is.
            if ![4, 5, 6, 7, 8, 11, 31].contains(&signal) {
                send(&running, signal);
            }
        }
        running.feed(Tree::sample().archive());
        running.end_input();
        running.ends().exits(0).prints("started");
    }
}

/// A container that has begun to read its archive from standard input, and waits for the rest.
#[track_caller]
fn seeding(stage: &Stage, supervise: bool) -> Running {
    let start = run("-", &stage.volume, ["echo", "started"]).fed().in_container();
    let start = if supervise { start.flag("--supervise") } else { start };
    let running = start.start();
    running.says("seeding");
    running
}

#[test]
fn orphans_are_reaped_while_seeding_too() {
    if !containers() || !needs::tools(&["nsenter"]) {
        return;
    }
    for supervise in [false, true] {
        let stage = Stage::new();
        let mut running = seeding(&stage, supervise);
        let target = running.pid();
        // As a `docker exec` whose child outlives it.
        let enter = ["--pid", "--mount", "--target", &target.to_string(), "--", "sh", "-c", "(sleep 0.05 &)"];
        assert!(std::process::Command::new("nsenter").args(enter).status().unwrap().success());
        let children = format!("/proc/{target}/task/{target}/children");
        let zombies = || {
            let children = fs::read_to_string(&children).unwrap();
            let is_orphan = |pid: &str| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.trim() != "volseed"
            };
            children.split_whitespace().filter(|pid| is_orphan(pid)).count()
        };
        eventually("no child but our own", || zombies() == 0);
        running.feed(Tree::sample().archive());
        running.end_input();
        running.ends().exits(0);
    }
}

#[test]
fn an_idle_supervisor_is_small_and_holds_nothing_of_the_app_s() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let running = echoing(&stage, |it| it.listening());
    let proc = PathBuf::from(format!("/proc/{}", running.pid()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("Threads:\t1\n"), "{status}");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), PathBuf::from("/"));
    let mut open: Vec<String> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .collect();
    open.sort();
    // Standard error is for its last lines, the other pipe tells it when the app was started.
    assert_eq!(open[..2], ["/dev/null", "/dev/null"], "{open:?}");
    assert!(open.len() == 4 && open[2..].iter().all(|file| file.starts_with("pipe:")), "{open:?}");
    let name = fs::read_to_string(proc.join("comm")).unwrap();
    assert_eq!(name, "volseed\n");
}

#[test]
fn a_health_check_knows_the_app_behind_its_supervisor() {
    if !containers() || !needs::tools(&["nsenter"]) {
        return;
    }
    let stage = Stage::new();
    let running = echoing(&stage, |it| it);
    running.beside(&["health"]).ends().exits(0).prints("handed over to the app");
    let stage = Stage::new();
    let running = seeding(&stage, true);
    running.beside(&["health"]).ends().exits(1);
}

#[test]
fn health_is_told_for_the_app_s_whole_life_where_that_is_asked_for() {
    if !containers() || !needs::tools(&["nsenter"]) {
        return;
    }
    let stage = Stage::new();
    let mut running = run("-", &stage.volume, ["python3", "-c", ECHOES_SIGNALS])
        .flag("--supervise")
        .option("--admin", "127.0.0.1:0")
        .option("--app-check", format!("tcp:{}", closed_port()))
        .fed()
        .in_container()
        .start();
    let address = running.address();
    eventually("it seeds", || http::get(address, "/livez").json()["phase"] == "seeding");
    assert_eq!(http::get(address, "/readyz").status, 503);
    running.feed(Tree::sample().archive());
    running.end_input();
    running.prints("ready");
    eventually("the app is asked", || http::get(address, "/livez").json()["phase"] == "app");
    assert_eq!([http::get(address, "/livez").status, http::get(address, "/readyz").status], [200, 503]);
    let metrics = http::get(address, "/metrics").body;
    assert!(
        metrics.contains("volseed_app_ready 0") && metrics.contains("volseed_phase{phase=\"complete\"} 1")
    );
    let asks = |question: &str| running.beside(&["health", "--admin", &address.to_string(), question]).ends();
    asks("--live").exits(0);
    let outcome = asks("--ready").exits(1);
    assert!(outcome.stdout.starts_with("app: the app does not accept connections"), "{}", outcome.stdout);
    let (outcome, _) = running.stopped_by(Signal::SIGTERM);
    outcome.exits(7).says_nothing_of("killed");
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn who_tells_health_beside_the_app_is_the_app_s_user() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let running = echoing(&stage, |it| it.option("--admin", "127.0.0.1:0").option("--user", "12345:12346"));
    eventually("it answers", || http::get(running.address(), "/livez").json()["phase"] == "app");
    let main = running.pid();
    let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap();
    let admin = children.split_whitespace().find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        status.starts_with("Name:\tvolseed-admin").then_some(status)
    });
    let status = admin.expect("a process for --admin");
    assert!(status.contains("Uid:\t12345\t12345\t12345\t12345"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    running.stopped_by(Signal::SIGTERM).0.exits(7);
}

#[test]
fn the_app_has_no_child_that_it_has_not_started() {
    if !containers() {
        return;
    }
    let stage = Stage::new();
    let app = "read -r children < /proc/$$/task/$$/children; echo children: $children; \
        for file in /proc/$$/fd/*; do echo ${file##*/}; done";
    let with = |admin: &[&str]| {
        stage.supervise(&["sh", "-c", app]).arguments(admin).in_container().ends().exits(0).stdout
    };
    assert_eq!(with(&["--admin", "127.0.0.1:0"]), with(&[]));
    assert!(with(&["--admin", "127.0.0.1:0"]).starts_with("children:\n"));
}

#[test]
fn admin_without_supervise_is_wrong_usage() {
    let stage = Stage::new();
    stage.run(&["true"]).option("--admin", ":0").ends().fails(64, "--admin");
}

/// A terminal of its own around `volseed run --supervise -- APP` as PID 1; what is fed is typed.
#[track_caller]
fn on_a_terminal(stage: &Stage, app: &str) -> Running {
    let words = [
        "exec unshare --pid --fork --mount-proc --kill-child".to_owned(),
        env!("CARGO_BIN_EXE_volseed").to_owned(),
        format!(
            "run --supervise --log-level error --from {} --to {}",
            stage.source.display(),
            stage.volume.display()
        ),
        format!("-- {app}"),
    ];
    Volseed::program("script").arguments(["-qec", &words.join(" "), "/dev/null"]).fed().start()
}

#[test]
fn on_a_terminal_the_app_is_in_the_foreground() {
    if !containers() || !needs::tools(&["script"]) {
        return;
    }
    let stage = Stage::new();
    let running = on_a_terminal(&stage, "bash --norc -i");
    running.feed("echo sum $((40+2))\n");
    running.prints("sum 42");
    running.feed("sh -c 'echo by $((3+4)); exec sleep 100'\n");
    running.prints("by 7");
    // Ctrl-Z and Ctrl-C reach the shell's job, and the shell goes on.
    running.feed("\x1a");
    running.prints("Stopped");
    running.feed("kill %1; echo after $((1+1))\n");
    running.prints("after 2");
    // A shell that does not know yet that its stopped job is gone leaves only when it is told again.
    running.feed("exit 9\nexit 9\n");
    running.ends().exits(9).says_nothing_of("job control");
}

#[test]
fn ctrl_c_ends_an_app_and_ctrl_z_does_not_stop_it() {
    if !containers() || !needs::tools(&["script"]) {
        return;
    }
    let stage = Stage::new();
    let script =
        stage._sandbox.program("app", "#!/bin/sh\necho ready\nwhile read -r line; do echo got $line; done\n");
    let running = on_a_terminal(&stage, &script.display().to_string());
    running.prints("ready");
    running.feed("\x1a");
    running.feed("line\n");
    running.prints("got line");
    running.feed("\x03");
    running.ends().exits(130);
}
