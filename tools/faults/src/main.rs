//! Sweeps of faults over volseed, as its tests: every call may fail, every moment may be the last.

mod bench;
mod calls;
mod cases;
mod disk;
mod exhaust;
mod filter;
mod judge;
mod kinds;
#[allow(dead_code, reason = "a part of the tests' kit")]
mod kit;
mod launch;
mod power;
mod report;
mod room;
mod scenarios;
mod tracer;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Has volseed run with faults, and checks what it promises. Exit 1: a promise was broken.
#[derive(Parser)]
#[command(name = "faults", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    sweep: Sweep,
}

#[derive(Subcommand)]
enum Sweep {
    Calls(calls::Arguments),
    Power(power::Arguments),
    Exhaust(exhaust::Arguments),
    /// What volseed starts in a sweep: says whether the volume has all names of a list
    #[command(hide = true)]
    App {
        volume: PathBuf,
        list: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().sweep {
        Sweep::Calls(arguments) => calls::run(&arguments),
        Sweep::Power(arguments) => power::run(&arguments),
        Sweep::Exhaust(arguments) => exhaust::run(&arguments),
        Sweep::App { volume, list } => app(&volume, &list),
    }
}

fn app(volume: &std::path::Path, list: &std::path::Path) -> ExitCode {
    let list = std::fs::read_to_string(list).unwrap();
    // What this user may not look for may be there.
    let is_missing = |name: &&str| {
        volume.join(name).symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    match list.lines().find(is_missing) {
        None => println!("app: complete"),
        Some(name) => println!("app: incomplete without {name}"),
    }
    ExitCode::SUCCESS
}
