//! Storms over `volseed --supervise`: random signals at random moments of its life, the last of them SIGTERM.
//!
//! A SIGTERM is never lost from the moment that volseed runs; no zombie is left; nothing hangs; the exit code is one
//! that the app's behaviour allows; no process outlives its supervisor. Half of the storms are over PID 1 of a
//! namespace, half over a subreaper; a quarter of them find a volume that has to be seeded first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::corpus::drawn;
use crate::kit::{Running, Sandbox, Tree, eventually, seed, volseed};
use crate::rounds::{Counts, Numbers};
use crate::{report, rounds, row};

/// Lets random signals rain on `volseed --supervise` while it seeds, starts, runs and ends apps of seven kinds
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 60, value_name = "N")]
    rounds: u64,
    #[command(flatten)]
    numbers: Numbers,
}

/// How long the apps that ignore SIGTERM may live after it, and what a storm may take then on a loaded machine.
const GRACE: &str = "100ms";
const LIMIT: Duration = Duration::from_secs(15);
/// Signals that end no shell, and no volseed that supervises.
const HARMLESS: [Signal; 4] = [Signal::SIGCONT, Signal::SIGURG, Signal::SIGWINCH, Signal::SIGCHLD];
/// A seed that SIGWINCH meets ends by it: images have it as their STOPSIGNAL.
const ENDED_BY_SIGWINCH: i32 = 128 + Signal::SIGWINCH as i32;

struct App {
    name: &'static str,
    script: &'static str,
    /// Ended by SIGTERM before its trap is set is 143, killed after it 137.
    codes: &'static [i32],
}

const APPS: [App; 7] = [
    App { name: "plain", script: "exec sleep 30", codes: &[143] },
    App {
        name: "traps",
        script: "trap 'exit 7' TERM; while :; do sleep 30 & wait $!; done",
        codes: &[7, 143],
    },
    App { name: "ignores", script: "trap '' TERM; while :; do sleep 0.02; done", codes: &[137, 143] },
    App { name: "dies", script: "exit 9", codes: &[9, 143] },
    App { name: "crashes", script: "kill -ABRT $$; sleep 30", codes: &[134, 143] },
    App {
        name: "forks",
        script: "trap 'exit 7' TERM
            for n in 1 2 3 4 5 6; do (sleep 0.0$n & sleep 0.00$n &) & done; sleep 30 & wait $!; sleep 30",
        codes: &[7, 143],
    },
    App {
        name: "sessions",
        script: "for n in 1 2 3; do setsid sleep 30 & done
            setsid sh -c 'trap \"\" TERM; while :; do sleep 0.02; done' & exec sleep 30",
        codes: &[143],
    },
];

pub(crate) fn run(arguments: &Arguments) -> usize {
    let began = Instant::now();
    let sandbox = Sandbox::new();
    let source = (0..20)
        .fold(Tree::new(), |tree, number| tree.file(number.to_string(), format!("{number}\n")))
        .write_to(&sandbox.directory("source"));
    let seeded = sandbox.volume();
    seed(&source, &seeded).ends().exits(0);
    let storms = Storms { sandbox: &sandbox, source, seeded };
    let round = |number| storms.play(number, &mut arguments.numbers.draw("storm", number));
    let mut total = Counts::default();
    let numbers = arguments.numbers.of(arguments.rounds);
    let broken =
        rounds::play("storm", numbers, arguments.numbers.jobs, round, |counts| total.add_all(counts));
    let mut head = vec!["PID 1", "subreaper", "with a seed", "SIGTERM early", "settled", "over first"];
    head.extend(APPS.iter().map(|app| app.name));
    let mut row: Vec<String> = head.iter().map(|name| total.of(name).to_string()).collect();
    row.extend(row![broken]);
    head.push("broken");
    report::heading(
        "storm",
        &format!("{} storms, seed {}", arguments.rounds, arguments.numbers.seed),
        began.elapsed(),
    );
    report::table(&head, &[row]);
    broken
}

struct Storms<'a> {
    sandbox: &'a Sandbox,
    source: PathBuf,
    seeded: PathBuf,
}

impl Storms<'_> {
    fn play(&self, number: u64, draw: &mut fastrand::Rng) -> Counts {
        let app = drawn(draw, &APPS);
        let (is_pid_1, is_fresh) = (draw.bool(), draw.u8(..4) == 0);
        let volume = match is_fresh {
            true => self.sandbox.directory(&format!("volume-{number}")),
            false => self.seeded.clone(),
        };
        let mark = format!("STORM_{number}");
        let mut volseed = volseed(["--supervise", "--grace", GRACE, "--from"])
            .arguments([self.source.as_os_str(), "--to".as_ref(), volume.as_os_str()])
            .arguments(["--", "sh", "-c", app.script])
            .env(&mark, "1");
        if is_pid_1 {
            volseed = volseed.in_container();
        }
        let when = rain(draw, volseed.start(), app);
        // A killed process takes a moment to be gone.
        eventually(&format!("nothing outlives a supervisor of '{}'", app.name), || marked(&mark).is_empty());
        if is_fresh {
            fs::remove_dir_all(volume).unwrap();
        }
        let mut counts = Counts::default();
        for name in [app.name, when, if is_pid_1 { "PID 1" } else { "subreaper" }] {
            counts.add(name, 1);
        }
        counts.add("with a seed", is_fresh.into());
        counts
    }
}

/// One storm; says when its SIGTERM came.
fn rain(draw: &mut fastrand::Rng, mut running: Running, app: &App) -> &'static str {
    let deadline = Instant::now() + LIMIT;
    let pid = loop {
        match running.pid_so_far() {
            Some(pid) if is_up(pid) => break pid,
            // Over before anything could be sent.
            _ if !running.is_running() => return ended(running, app, "over first"),
            _ => assert!(Instant::now() < deadline, "never came up"),
        }
    };
    for _ in 0..draw.u8(..=6) {
        let longest = *drawn(draw, &[0.002, 0.01]);
        sleep(draw.f64() * longest);
        send(pid, *drawn(draw, &HARMLESS));
        if draw.u8(..5) == 0 {
            send(pid, Signal::SIGSTOP);
            sleep(draw.f64() * 0.005);
            send(pid, Signal::SIGCONT);
        }
    }
    sleep(draw.f64() * 0.01);
    let settled = draw.u8(..10) < 3;
    if settled {
        sleep(0.15);
        let zombies = zombies_of(pid);
        eventually(&format!("no zombie below a supervisor of '{}'", app.name), || {
            zombies.iter().all(|&child| !is_zombie(child))
        });
    }
    let over = !running.is_running() || running.pid_so_far().is_none();
    for _ in 0..*drawn(draw, &[1, 1, 1, 3]) {
        send(pid, Signal::SIGTERM);
    }
    ended(
        running,
        app,
        if over {
            "over first"
        } else if settled {
            "settled"
        } else {
            "SIGTERM early"
        },
    )
}

fn ended(running: Running, app: &App, when: &'static str) -> &'static str {
    let outcome = running.ends_within(LIMIT).unwrap_or_else(|said| {
        panic!("'{}': SIGTERM was lost, or it hangs; it said: {said}", app.name);
    });
    let code = outcome.status.code();
    let allowed = code.is_some_and(|code| app.codes.contains(&code) || code == ENDED_BY_SIGWINCH);
    assert!(
        allowed,
        "'{}' ended with {code:?}, allowed are {:?}; it said: {}",
        app.name, app.codes, outcome.stderr
    );
    when
}

fn sleep(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

fn send(pid: i32, signal: Signal) {
    // Gone is as good.
    kill(Pid::from_raw(pid), signal).ok();
}

/// Whether it is volseed and has its handlers: what comes before is the kernel's business.
fn is_up(pid: i32) -> bool {
    let status = read(pid, "status");
    let handled = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok())
        .is_some_and(|signals| signals >> (Signal::SIGTERM as i32 - 1) & 1 == 1);
    // What waits for signals has none handled; it is volseed's second program.
    let supervises = read(pid, "cmdline").split('\0').nth(1) == Some("supervise");
    status.starts_with("Name:\tvolseed") && (handled || supervises)
}

fn read(pid: i32, name: &str) -> String {
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn zombies_of(pid: i32) -> Vec<i32> {
    let children = read(pid, &format!("task/{pid}/children"));
    children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .filter(|&child| is_zombie(child))
        .collect()
}

fn is_zombie(pid: i32) -> bool {
    read(pid, "stat").rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// The living processes of a storm, by their environment.
fn marked(mark: &str) -> Vec<i32> {
    let mark = format!("{mark}=");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| read(pid, "environ").split('\0').any(|variable| variable.starts_with(&mark)))
        .collect()
}
