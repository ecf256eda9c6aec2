//! `volseed health` where its own configuration does not say where to ask, or `/proc` does not say which process.

use std::net::TcpListener;
use std::path::Path;

use crate::kit::http::closed_port;
use crate::kit::{Outcome, Running, Sandbox, Tree, Volseed, eventually, needs, run, staged, volseed};

#[track_caller]
fn containers() -> bool {
    needs::root() && needs::tools(&["unshare", "nsenter", "mount"])
}

/// A volseed that seeds as a container's main process, below what `wrapper` executes.
#[track_caller]
fn seeding(sandbox: &Sandbox, wrapper: &str, with: impl FnOnce(Volseed) -> Volseed) -> Running {
    let volume = sandbox.volume();
    let start = with(run("-", &volume, ["sh", "-c", "echo ready; exec sleep 100"])).fed().in_container();
    let container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", wrapper, "sh"];
    let running = if wrapper.is_empty() { start } else { start.under(container) }.start();
    begin(&running, &volume);
    running
}

#[track_caller]
fn asked(running: &Running, with: &[&str]) -> Outcome {
    running.beside(&[&["health", "--timeout", "2s"], with].concat()).ends()
}

/// Feeds it the beginning of a seed.
#[track_caller]
fn begin(running: &Running, volume: &Path) {
    running.feed(Tree::many("d", 3).members().unfinished());
    // One may be a trial.
    eventually("files in the stage", || staged(volume) >= 2);
}

/// Feeds it the rest.
#[track_caller]
fn hand_over(running: &mut Running) {
    running.feed([0; 10_240]);
    running.end_input();
    running.prints("ready");
}

#[test]
fn an_address_in_the_flags_of_the_main_process_is_found() {
    if !containers() {
        return;
    }
    for (wrapper, supervise) in [
        ("", &[][..]),
        ("", &["--supervise"]),
        // An init and a script between.
        ("\"$@\"; true", &[]),
        ("sh -c '\"$@\"; true' sh \"$@\"; true", &[]),
    ] {
        let sandbox = Sandbox::on_disk();
        let address = format!("127.0.0.1:{}", closed_port());
        let flags = ["--listen", &address, "--ready-path", "/up"];
        let running = seeding(&sandbox, wrapper, |it| it.arguments(supervise).arguments(flags));
        let outcome = asked(&running, &[]).exits(0);
        assert!(outcome.stdout.starts_with("seeding: "), "{wrapper:?} {supervise:?} {}", outcome.stdout);
        asked(&running, &["--ready"]).exits(1);
    }
}

#[test]
fn a_unix_socket_in_the_flags_is_found_too() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let socket = sandbox.path("sock");
    let running = seeding(&sandbox, "", |it| it.option("--listen", &socket));
    asked(&running, &[]).exits(0);
}

#[test]
fn without_any_address_the_line_says_what_is_missing() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let running = seeding(&sandbox, "", |it| it);
    let outcome = asked(&running, &[]).exits(1);
    assert!(outcome.stdout.contains("VOLSEED_LISTEN") && outcome.stdout.lines().count() == 1, "{outcome:?}");
}

#[test]
fn the_app_check_of_a_supervisor_is_known_by_its_admin_process() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let (admin, check) = (format!("127.0.0.1:{}", closed_port()), format!("tcp:{}", closed_port()));
    let running = run(source, sandbox.volume(), ["sh", "-c", "echo ready; exec sleep 100"])
        .arguments(["--supervise", "--admin", &admin, "--app-check", &check])
        .fed()
        .in_container()
        .start();
    running.prints("ready");
    asked(&running, &["--live"]).exits(0);
    let outcome = asked(&running, &["--ready"]).exits(1);
    assert!(outcome.stdout.contains("does not accept connections"), "{outcome:?}");
}

#[test]
fn an_app_check_that_only_the_flags_know_is_a_warning() {
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let start = || run(&source, sandbox.volume(), ["true"]);
    start().option("--app-check", "tcp:80").ends().exits(0).says("VOLSEED_APP_CHECK");
    start().env("VOLSEED_APP_CHECK", "tcp:80").ends().exits(0).says_nothing_of("VOLSEED_APP_CHECK");
}

/// An empty directory in the place of `/proc`, or one that hides what is another user's.
const NO_PROC: &str = "mount --bind \"$EMPTY\" /proc; exec \"$@\"";

#[test]
fn without_proc_the_address_is_asked_and_closed_says_handed_over() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let (empty, address) = (sandbox.directory("empty"), format!("127.0.0.1:{}", closed_port()));
    let mut running = seeding(&sandbox, NO_PROC, |it| it.option("--listen", &address).env("EMPTY", &empty));
    let outcome = asked(&running, &["--listen", &address]).exits(0);
    assert!(outcome.stdout.starts_with("seeding: "), "{outcome:?}");
    let outcome = asked(&running, &[]).exits(1);
    assert!(outcome.stdout.contains("VOLSEED_LISTEN") && outcome.stdout.contains("/proc"), "{outcome:?}");
    hand_over(&mut running);
    let outcome = asked(&running, &["--listen", &address]).exits(0);
    assert!(outcome.stdout.contains("/proc"), "{outcome:?}");
}

#[test]
fn with_hidden_processes_another_user_is_told_the_same() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let address = format!("127.0.0.1:{}", closed_port());
    let hide = "mount -o remount,hidepid=2 /proc && exec \"$@\"";
    let mut running = seeding(&sandbox, hide, |it| it.option("--listen", &address));
    let target = running.pid().to_string();
    let nobody = |with: &[&str]| {
        let enter = ["nsenter", "--pid", "--mount", "--target", &target, "--"];
        let drop = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"];
        volseed([&["health", "--timeout", "2s"], with].concat()).under([&enter[..], &drop].concat()).ends()
    };
    nobody(&["--listen", &address]).exits(0);
    let outcome = nobody(&[]).exits(1);
    assert!(outcome.stdout.contains("VOLSEED_LISTEN"), "{outcome:?}");
    asked(&running, &[]).exits(0);
    hand_over(&mut running);
    nobody(&["--listen", &address]).exits(0);
    hand_over_is_seen(&running);
}

#[track_caller]
fn hand_over_is_seen(running: &Running) {
    let outcome = asked(running, &[]).exits(0);
    assert_eq!(outcome.stdout, "handed over to the app\n");
}

/// The pod's first process is `pause`; the container's comes into its namespace from outside.
#[test]
fn beside_a_pause_process_a_volseed_at_work_is_not_taken_for_the_app() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let pause =
        Volseed::program("sh").arguments(["-c", "echo ready; exec sleep 100"]).fed().in_container().start();
    pause.prints("ready");
    let volume = sandbox.volume();
    let address = format!("127.0.0.1:{}", closed_port());
    let target = pause.pid().to_string();
    let container = ["nsenter", "--pid", "--mount", "--target", &target, "--"];
    let mut main = run("-", &volume, ["sh", "-c", "echo ready; exec sleep 100"])
        .option("--listen", &address)
        .fed()
        .under(container)
        .start();
    begin(&main, &volume);
    let outcome = asked(&pause, &[]).exits(0);
    assert!(outcome.stdout.starts_with("seeding: "), "{outcome:?}");
    // An address of another: at work there, and not here.
    let outcome = asked(&pause, &["--listen", &format!("127.0.0.1:{}", closed_port())]).exits(0);
    assert!(outcome.stdout.starts_with("seeding: "), "{outcome:?}");
    hand_over(&mut main);
    hand_over_is_seen(&pause);
}

#[test]
fn an_app_on_either_address_of_the_machine_is_found() {
    let Ok(app) = TcpListener::bind("[::1]:0") else { return };
    let port = app.local_addr().unwrap().port();
    let ask = |check: &str| {
        let closed = format!("127.0.0.1:{}", closed_port());
        volseed(["health", "--timeout", "500ms", "--listen", &closed, "--app-check", check]).ends()
    };
    for check in [format!("tcp:{port}"), format!("tcp:localhost:{port}"), format!("tcp:[::1]:{port}")] {
        ask(&check).exits(0);
    }
    let outcome = ask(&format!("tcp:127.0.0.1:{port}")).exits(1);
    assert!(outcome.stdout.contains(&format!("127.0.0.1:{port}")), "{outcome:?}");
    // Nothing there speaks HTTP; that it is reached is seen by what is said.
    for url in [format!("http://localhost:{port}/"), format!("http://[::1]:{port}/")] {
        let outcome = ask(&url).exits(1);
        assert!(!outcome.stdout.contains("refused"), "{outcome:?}");
    }
}
