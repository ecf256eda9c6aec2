//! What volseed promises, for as many rounds as are asked for: under kills, freezes, storms of signals, and beside real
//! apps and file systems.
//!
//! A plain `cargo test` plays a few rounds of each soak; the long forms are in CONTRIBUTING.md. Everything happens in a
//! PID and mount namespace of its own: whatever is started or mounted here is gone with it, however it ends. A round
//! that breaks a promise panics; `rounds` counts that and goes on with the next.

#![allow(clippy::unwrap_used)]

mod corpus;
mod fidelity;
mod handover;
mod kill;
mod race;
mod report;
mod rounds;
mod storm;
mod upgrade;

#[path = "../kit/mod.rs"]
mod kit;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};
use nix::mount::{MsFlags, mount};

use kit::needs;

/// Plays rounds that each have to keep every promise. Prints what it measured as Markdown; exit 1: a promise was broken.
#[derive(Parser)]
#[command(name = "soak", bin_name = "cargo test --release --test soak --", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    soak: Soak,
}

#[derive(Subcommand)]
enum Soak {
    Fidelity(fidelity::Arguments),
    Handover(handover::Arguments),
    Kill(kill::Arguments),
    Race(race::Arguments),
    Storm(storm::Arguments),
    UpgradeHooks(upgrade::hooks::Arguments),
    UpgradeKills(upgrade::kills::Arguments),
    UpgradeRaces(upgrade::races::Arguments),
    UpgradeReal(upgrade::real::Arguments),
    /// What the replicas of a race become.
    #[command(hide = true)]
    App(race::AppArguments),
    /// What the replicas of an upgrade's race become.
    #[command(hide = true)]
    UpgradeApp(upgrade::app::Arguments),
}

const NAMES: [&str; 8] =
    ["fidelity", "handover", "kill", "race", "storm", "upgrade-hooks", "upgrade-kills", "upgrade-races"];
/// Set for the process that runs in the namespaces.
const INSIDE: &str = "SOAK_INSIDE";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let soaks = match chosen(&arguments) {
        Some(names) => names.into_iter().map(|name| parsed(&[name.into()])).collect(),
        None => vec![parsed(&arguments)],
    };
    match &soaks[..] {
        [Soak::App(arguments)] => return race::app(arguments),
        [Soak::UpgradeApp(arguments)] => return upgrade::app::run(arguments),
        _ => {}
    }
    if soaks.is_empty() || !needs::root() || !needs::tools(&["unshare"]) {
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        return enter_namespaces(&arguments);
    }
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, always).unwrap();
    }
    // Its own: gone with the namespace, and never short of room.
    mount(Some("soak"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some("size=60%,mode=1777")).unwrap();
    // A promise that was broken is told by its round.
    std::panic::set_hook(Box::new(|_| {}));
    let broken = soaks.into_iter().map(play).sum::<usize>();
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The soaks of a plain `cargo test`, whose first argument may be the part of a test's name; nothing where a soak is
/// named, or help is asked for.
fn chosen(arguments: &[OsString]) -> Option<Vec<&'static str>> {
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let first = arguments.first().map_or("", |argument| argument.as_ref());
    // A plain `cargo test` downloads no packages.
    let others = ["app", "upgrade-app", "upgrade-real", "help", "--help", "-h"];
    if NAMES.contains(&first) || others.contains(&first) {
        return None;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return Some(Vec::new());
    }
    let filter =
        arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", |filter| filter.as_ref());
    Some(NAMES.into_iter().filter(|name| name.contains(filter)).collect())
}

fn parsed(arguments: &[OsString]) -> Soak {
    Arguments::parse_from([OsString::from("soak")].iter().chain(arguments)).soak
}

/// Starts itself again, as PID 1 with mounts of its own, and ends as that one does.
fn enter_namespaces(arguments: &[OsString]) -> ExitCode {
    let flags = ["--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private", "--"];
    let status = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .unwrap();
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// How many promises were broken.
fn play(soak: Soak) -> usize {
    match soak {
        Soak::Fidelity(arguments) => fidelity::run(&arguments),
        Soak::Handover(arguments) => handover::run(&arguments),
        Soak::Kill(arguments) => kill::run(&arguments),
        Soak::Race(arguments) => race::run(&arguments),
        Soak::Storm(arguments) => storm::run(&arguments),
        Soak::UpgradeHooks(arguments) => upgrade::hooks::run(&arguments),
        Soak::UpgradeKills(arguments) => upgrade::kills::run(&arguments),
        Soak::UpgradeRaces(arguments) => upgrade::races::run(&arguments),
        Soak::UpgradeReal(arguments) => upgrade::real::run(&arguments),
        Soak::App(_) | Soak::UpgradeApp(_) => unreachable!("it is no soak"),
    }
}
