//! How an app is asked to end, what its end is called, and whose its standard descriptors are.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::python::ECHOES_SIGNALS;
use crate::kit::{Sandbox, Tree, Volseed, eventually, needs, run};

/// `volseed run … -- APP` on a small seed.
fn start(sandbox: &Sandbox, app: &[&str]) -> Volseed {
    let source = Tree::new().file("a", "x").write_to(&sandbox.directory("source"));
    run(&source, sandbox.volume(), app)
}

#[track_caller]
fn containers() -> bool {
    needs::root() && needs::tools(&["unshare", "python3"])
}

#[test]
fn the_stop_signal_of_an_image_starts_the_grace() {
    if !containers() {
        return;
    }
    for (name, signal) in [("WINCH", Signal::SIGWINCH), ("SIGQUIT", Signal::SIGQUIT)] {
        let sandbox = Sandbox::on_disk();
        let app = ["python3", "-c", ECHOES_SIGNALS, "patient"];
        let running = start(&sandbox, &app).flag("--supervise").option("--stop-signal", name);
        let running = running.option("--grace", "200ms").in_container().start();
        running.prints("ready");
        running.signal(signal);
        running.prints(&format!("got {}.", signal as i32));
        running.ends().exits(137).says("killed=");
    }
}

#[test]
fn other_signals_start_no_grace() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let app = ["python3", "-c", ECHOES_SIGNALS];
    let running = start(&sandbox, &app).flag("--supervise").option("--grace", "1ms").in_container().start();
    running.prints("ready");
    for signal in [Signal::SIGWINCH, Signal::SIGQUIT, Signal::SIGUSR1] {
        running.signal(signal);
        running.prints(&format!("got {}.", signal as i32));
    }
    running.stopped_by(Signal::SIGTERM).0.exits(7);
}

#[test]
fn while_seeding_signals_are_not_rewritten_and_a_stop_signal_ends_the_seed() {
    if !containers() {
        return;
    }
    for (option, value, signal, code) in [
        ("--rewrite", "TERM:QUIT", Signal::SIGTERM, 143),
        ("--rewrite", "TERM:USR2", Signal::SIGTERM, 143),
        ("--stop-signal", "USR2", Signal::SIGUSR2, 143),
        ("--stop-signal", "WINCH", Signal::SIGWINCH, 156),
    ] {
        let sandbox = Sandbox::on_disk();
        let running = run("-", sandbox.volume(), ["true"]).flag("--supervise").option(option, value);
        let running = running.fed().in_container().start();
        running.says("seeding");
        running.signal(signal);
        running.ends().exits(code);
    }
}

#[test]
fn a_stop_signal_that_no_process_gets_is_wrong_usage() {
    let sandbox = Sandbox::on_disk();
    let outcome = start(&sandbox, &["true"]).flag("--supervise").option("--stop-signal", "KILL").ends();
    outcome.fails(64, "--stop-signal");
}

/// Feeds an archive to a volseed on a terminal of its own, which gets other sizes in mid-seed.
const RESIZES: &str = r#"
import fcntl, os, pty, struct, sys, termios
archive = open(sys.argv[1], "rb").read()
far, near = os.pipe()
pid, terminal = pty.fork()
if pid == 0:
    os.dup2(far, 0)
    os.close(near)
    os.execv(sys.argv[2], sys.argv[2:])
os.close(far)
os.write(near, archive[:1000])
seen = b""
while b"seeding" not in seen:
    seen += os.read(terminal, 4096)
for rows in range(20, 40):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
os.write(near, archive[1000:])
os.close(near)
while b"started" not in seen:
    seen += os.read(terminal, 4096)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn a_terminal_that_gets_another_size_ends_no_seed() {
    if !needs::tools(&["python3"]) {
        return;
    }
    for supervise in [&[][..], &["--supervise"], &["--supervise", "--stop-signal", "WINCH"]] {
        let sandbox = Sandbox::on_disk();
        let archive = sandbox.path("archive");
        fs::write(&archive, Tree::sample().archive()).unwrap();
        let (archive, volume) = (archive.display().to_string(), sandbox.volume().display().to_string());
        let command = [env!("CARGO_BIN_EXE_volseed"), "--progress", "none", "--from", "-", "--to", &volume];
        let app = ["--", "echo", "started"];
        let arguments = [&["-c", RESIZES, &archive][..], &command, supervise, &app].concat();
        Volseed::program("python3").arguments(arguments).ends().exits(0);
    }
}

#[test]
fn only_who_is_stopped_is_continued_at_the_end() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let app = "sh -c 'trap \"echo continued\" CONT; trap \"echo asked; exit\" TERM; echo one; \
        while :; do sleep 0.01; done' & read -r line; exit 0";
    let running = start(&sandbox, &["sh", "-c", app]).flag("--supervise").in_container().fed().start();
    running.prints("one");
    running.feed("go\n");
    let outcome = running.ends().exits(0).prints("asked");
    assert!(!outcome.stdout.contains("continued"), "{}", outcome.stdout);
}

/// Leaves a process behind whose first thread has ended: the kernel calls it a zombie, and it lives.
const HEADLESS: &str = r#"
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
pid = os.fork()
if pid == 0:
    os.setsid()
    threading.Thread(target=lambda: time.sleep(600)).start()
    libc.pthread_exit(None)
while open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[0] != "Z":
    time.sleep(0.01)
print("left", pid, flush=True)
os._exit(0)
"#;

#[test]
fn a_process_whose_first_thread_has_ended_is_ended_too() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let run = start(&sandbox, &["python3", "-c", HEADLESS]).flag("--supervise").option("--grace", "1s");
    let outcome = run.ends().exits(0);
    let pid = outcome.stdout.trim().strip_prefix("left ").unwrap().to_owned();
    assert!(!std::path::Path::new("/proc").join(pid).exists(), "{outcome:?}");
}

#[test]
fn a_code_other_than_0_is_a_warning_that_says_whose_it_is() {
    let sandbox = Sandbox::on_disk();
    let line =
        |app: &str| start(&sandbox, &["sh", "-c", app]).flag("--supervise").json().ends().line("app ended");
    let (good, own, signal) = (line("exit 0"), line("exit 3"), line("kill -9 $$"));
    assert_eq!(good["level"], "INFO");
    assert_eq!((&own["level"], &own["code_is"]), (&"WARN".into(), &"the app's own".into()));
    assert_eq!((&signal["level"], &signal["signal"]), (&"WARN".into(), &"SIGKILL".into()));
}

/// Runs `volseed` where `/proc` is an empty directory.
const WITHOUT_PROC: [&str; 5] =
    ["unshare", "--mount", "sh", "-c", "mount --bind \"$0\" /proc && exec \"$@\""];

#[test]
fn without_proc_a_supervisor_does_all_but_look_for_descendants() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let empty = sandbox.directory("empty").display().to_string();
    let under = [&WITHOUT_PROC[..], &[&empty]].concat();
    let run = |app: &str| start(&sandbox, &["sh", "-c", app]).flag("--supervise").under(under.clone());
    run("exit 6").ends().exits(6).says("app ended").says_nothing_of("panicked");
    run("kill -9 $$").ends().exits(137);
    let running = run("trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 0.01; done").start();
    running.prints("ready");
    running.stopped_by(Signal::SIGTERM).0.exits(4).prints("asked");
}

#[test]
fn a_supervisor_that_cannot_be_executed_again_goes_on_as_it_is() {
    if !needs::tools(&["strace"]) {
        return;
    }
    for error in ["ETXTBSY", "E2BIG", "ENOMEM", "EAGAIN"] {
        let sandbox = Sandbox::on_disk();
        let inject = format!("inject=execve:error={error}");
        let trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", "/proc/self/exe", "-e", &inject];
        let app = ["sh", "-c", "exit 6"];
        let outcome = start(&sandbox, &app).flag("--supervise").under(trace).ends();
        outcome.exits(6).says("app ended").says_nothing_of("panicked");
    }
}

#[test]
fn the_apps_user_opens_the_standard_descriptors_by_name() {
    if !needs::root() {
        return;
    }
    for supervise in [false, true] {
        let sandbox = Sandbox::on_disk();
        fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let log = sandbox.path("log");
        let app = ["sh", "-c", "echo by name >>/dev/stdout; echo complaint >>/dev/stderr"];
        let run = || {
            let run = start(&sandbox, &app).option("--user", "12345:12346");
            if supervise { run.flag("--supervise") } else { run }
        };
        run().ends().exits(0).prints("by name").says("complaint");
        let appended = File::options().create(true).append(true).open(&log).unwrap();
        run().standard_error(appended).ends().exits(0);
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.contains("complaint"), "{said}");
        let (owner, group) = (fs::metadata(&log).unwrap().uid(), fs::metadata(&log).unwrap().gid());
        assert_eq!((owner, group), (12345, 0));
        let input = sandbox.path("input");
        fs::write(&input, "").unwrap();
        let read = format!("exec \"$@\" <{}", input.display());
        run().under(["sh", "-c", &read, "sh"]).ends().exits(0);
        assert_eq!(fs::metadata(&input).unwrap().uid(), 0);
        let null = File::options().write(true).open("/dev/null").unwrap();
        run().standard_error(null).ends().exits(0);
        assert_eq!(fs::metadata("/dev/null").unwrap().uid(), 0);
    }
}

#[test]
fn what_health_asks_for_the_apps_life_ends_with_its_supervisor() {
    if !containers() {
        return;
    }
    let sandbox = Sandbox::on_disk();
    // It ends when nobody supervises it any more.
    let app = ["sh", "-c", "echo ready; while kill -0 $PPID; do sleep 0.05; done"];
    let running = start(&sandbox, &app).flag("--supervise").option("--admin", "127.0.0.1:0").start();
    running.prints("ready");
    let address = running.address();
    running.signal(Signal::SIGKILL);
    let killed = Instant::now();
    eventually("nobody answers for a supervisor that is gone", || {
        std::net::TcpStream::connect(address).is_err()
    });
    assert!(killed.elapsed() < Duration::from_secs(10));
    running.ends().killed_by(Signal::SIGKILL);
}
