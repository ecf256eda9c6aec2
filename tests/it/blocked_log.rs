//! A standard error that takes nothing: full, stopped, closed, on a full disk. Nothing waits for it, and no exit
//! code depends on it.

use std::fs::File;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::kit::mount::{self, Mount};
use crate::kit::unread::{KINDS, Unread};
use crate::kit::{Running, SOON, Sandbox, Tree, Volseed, eventually, needs, run, seed, staged, volseed};

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

    fn run(&self, app: &str) -> Volseed {
        run(&self.source, &self.volume, ["sh", "-c", app])
    }

    /// In the middle of an archive from standard input; probes are answered at a Unix socket.
    #[track_caller]
    fn seeding(&self, with: impl FnOnce(Volseed) -> Volseed) -> Running {
        let running = run("-", &self.volume, ["echo", "started"]).option("--listen", self.socket()).fed();
        let running = with(running).start();
        running.feed(&Tree::many("many", 50).archive()[..20_000]);
        eventually("files are staged", || staged(&self.volume) > 5);
        running
    }

    fn socket(&self) -> PathBuf {
        self.volume.with_file_name("probes.sock")
    }
}

fn plain(run: Volseed) -> Volseed {
    run
}

fn supervised(run: Volseed) -> Volseed {
    run.flag("--supervise")
}

fn json(run: Volseed) -> Volseed {
    run.json().flag("--supervise")
}

const MODES: [fn(Volseed) -> Volseed; 3] = [plain, supervised, json];

#[test]
fn an_app_starts_and_ends_though_nobody_reads_the_log() {
    for kind in KINDS {
        for mode in MODES {
            let (stage, unread) = (Stage::new(), Unread::blocked(kind));
            let run = mode(stage.run("echo started; exit 4")).standard_error(unread.near());
            run.ends().exits(4).prints("started");
        }
    }
}

#[test]
fn errors_have_their_codes_though_nobody_reads_them() {
    for kind in KINDS {
        let (stage, unread) = (Stage::new(), Unread::blocked(kind));
        volseed(["--nonsense"]).standard_error(unread.near()).ends().exits(64);
        seed("/nowhere", &stage.volume).standard_error(unread.near()).ends().exits(66);
        for mode in MODES {
            mode(run(&stage.source, &stage.volume, ["/nowhere"]))
                .standard_error(unread.near())
                .ends()
                .exits(127);
        }
    }
}

#[test]
fn probes_are_answered_and_term_ends_a_seed_though_nobody_reads_the_log() {
    for kind in KINDS {
        for mode in MODES {
            let (stage, unread) = (Stage::new(), Unread::blocked(kind));
            let running = stage.seeding(|it| mode(it).standard_error(unread.near()));
            volseed(["health"]).option("--listen", stage.socket()).ends().exits(0);
            let (outcome, took) = running.stopped_by(Signal::SIGTERM);
            outcome.exits(143);
            assert!(took < SOON, "{kind}: {took:?}");
        }
    }
}

#[test]
fn a_supervisor_ends_with_its_app_though_nobody_reads_the_log() {
    for kind in KINDS {
        let (stage, unread) = (Stage::new(), Unread::new(kind));
        let running = stage.run("echo started; read -r line; kill -KILL $$").flag("--supervise").fed();
        let running = running.standard_error(unread.near()).start();
        running.prints("started");
        unread.block();
        running.feed("go\n");
        running.ends().exits(137);
    }
}

#[test]
fn a_log_that_is_read_again_says_how_many_lines_were_lost() {
    for kind in KINDS {
        for format in ["text", "json"] {
            let (stage, unread) = (Stage::new(), Unread::blocked(kind));
            let mut running = stage
                .seeding(|it| it.option("--log", format).standard_error(unread.near()).env("TERM", "dumb"));
            let read = unread.read();
            running.feed(&Tree::many("many", 50).archive()[20_000..]);
            running.end_input();
            running.ends().exits(0).prints("started");
            let notice = read.line_with("log lines were lost");
            let text = notice.trim_start_matches('#');
            // `listening` and `seeding` at least.
            let lost: u64 = match format {
                "text" => text.trim_end().rsplit_once("lost=").unwrap().1.parse().unwrap(),
                _ => serde_json::from_str::<serde_json::Value>(text).unwrap()["lost"].as_u64().unwrap(),
            };
            assert!(lost >= 2, "{kind}: {text}");
            read.line_with("handing over");
        }
    }
}

#[test]
fn lines_are_whole_after_a_log_was_full() {
    const FILES: usize = 1000;
    for kind in KINDS {
        let (stage, unread) = (Stage::new(), Unread::new(kind));
        let archive = Tree::many("many", FILES).archive();
        let mut running = run("-", &stage.volume, ["true"])
            .option("--log-level", "debug")
            .env("TERM", "dumb")
            .standard_error(unread.near())
            .fed()
            .start();
        // Its end mark comes later.
        let cut = archive.len() - 20_000;
        running.feed(&archive[..cut]);
        eventually("most files are staged", || staged(&stage.volume) > FILES * 3 / 4);
        let read = unread.read();
        running.feed(&archive[cut..]);
        running.end_input();
        running.ends().exits(0);
        read.line_with("handing over");
        let text = read.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let is_whole = |line: &&&str| {
            let level = line.split_once("Z ").map_or("", |(_, rest)| rest.trim_start());
            line.starts_with("20") && ["DEBUG ", "INFO ", "WARN "].iter().any(|it| level.starts_with(it))
        };
        let torn = lines.iter().find(|line| !is_whole(line));
        assert_eq!(torn, None, "{kind}");
        let lost: usize =
            lines.iter().filter_map(|line| line.rsplit_once(" lost=")?.1.parse::<usize>().ok()).sum();
        let files = lines.iter().filter(|line| line.contains("DEBUG file ")).count();
        assert!(lost > 0 && lost + files >= FILES, "{kind}: {lost} lost, {files} there");
    }
}

#[test]
fn a_log_that_is_closed_or_has_no_room_does_no_harm() {
    let closed = || {
        let (far, near) = std::io::pipe().unwrap();
        drop(far);
        near
    };
    for mode in MODES {
        let stage = Stage::new();
        mode(stage.run("exit 4")).standard_error(closed()).ends().exits(4);
        let stage = Stage::new();
        let full = File::options().write(true).open("/dev/full").unwrap();
        mode(stage.run("exit 4")).standard_error(full).ends().exits(4);
        let stage = Stage::new();
        mode(stage.run("exit 4")).under(["sh", "-c", "exec \"$@\" 2>&-", "sh"]).ends().exits(4);
    }
}

#[test]
fn a_log_on_a_full_disk_does_no_harm() {
    if !needs::root() {
        return;
    }
    let (sandbox, stage) = (Sandbox::new(), Stage::new());
    let disk = sandbox.directory("disk");
    let _mount: Mount = mount::tmpfs(&disk, "size=4k");
    std::fs::write(disk.join("log"), "#".repeat(4000)).unwrap();
    let log = || File::options().append(true).open(disk.join("log")).unwrap();
    stage.run("exit 4").flag("--supervise").standard_error(log()).ends().exits(4);
    assert_eq!(std::fs::metadata(disk.join("log")).unwrap().len(), 4096);
}

/// Other ways of not waiting are left: an open file of volseed's own, and where the log is another user's,
/// poll(2).
#[test]
fn other_users_logs_and_older_kernels_stop_nothing() {
    if !needs::root() || !needs::tools(&["strace"]) {
        return;
    }
    let old_kernel = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=pwritev2:error=EOPNOTSUPP"];
    for (kernel, user) in [(&[][..], 12345), (&old_kernel, 0), (&old_kernel, 12345)] {
        for kind in KINDS {
            let stage = Stage::new();
            std::os::unix::fs::chown(&stage.volume, Some(user), Some(user)).unwrap();
            let ends = |unread: &Unread| {
                let run = stage.run("exit 4").under(kernel).started_by(user, user).env("TERM", "dumb");
                run.standard_error(unread.near()).ends().exits(4);
            };
            ends(&Unread::blocked(kind));
            let unread = Unread::new(kind);
            ends(&unread);
            unread.read().line_with("handing over");
        }
    }
}

#[test]
fn a_terminal_has_a_bar_unless_that_is_not_wanted() {
    for (wanted, has_bar) in [("auto", true), ("none", false)] {
        let (stage, unread) = (Stage::new(), Unread::new("terminal"));
        let mut running = stage.seeding(|it| {
            it.env("TERM", "xterm").env("VOLSEED_PROGRESS", wanted).standard_error(unread.near())
        });
        let read = unread.read();
        if has_bar {
            eventually("a bar", || read.text().contains("[>") && read.text().contains("files"));
        } else {
            read.line_with("progress phase=\"seeding\"");
        }
        running.feed(&Tree::many("many", 50).archive()[20_000..]);
        running.end_input();
        running.ends().exits(0);
        read.line_with("handing over");
        assert_eq!(read.text().contains('\x1b'), has_bar, "{}", read.text());
    }
}
