//! What replicas of an upgrade become: an app that says which image's tree it was started on.
//!
//! A replica of the first image may read the record just before an upgrade retires it, and start its app just after:
//! such an app finds no record of the first image any more, and waits until the upgrade is done.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::kit::Snapshot;

use super::judge::{Phase, few};

/// Compares a volume with what has to be on it before and after an upgrade, and says which of them it found.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    old: PathBuf,
    new: PathBuf,
    volume: PathBuf,
}

pub(super) const ON_OLD: &str = "ready on the first image";
pub(super) const ON_NEW: &str = "ready on the second image";
/// It was started while the upgrade ran.
pub(super) const AMID: &str = "started amid the upgrade";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let Arguments { old, new, volume } = arguments;
    let before = Phase::of(volume);
    let found = catch_unwind(|| listed(volume));
    match (before, Phase::of(volume)) {
        (Phase::Old, Phase::Old) => compare(ON_OLD, &listed(old), found.ok()),
        (Phase::New, _) => compare(ON_NEW, &listed(new), found.ok()),
        _ => {
            println!("{AMID}");
            wait(volume);
            compare(ON_NEW, &listed(new), Some(listed(volume)));
        }
    }
    ExitCode::SUCCESS
}

fn listed(tree: &Path) -> Snapshot {
    Snapshot::of(tree).without_directory_times()
}

fn compare(name: &str, expected: &Snapshot, found: Option<Snapshot>) {
    let wrong = match found {
        Some(found) => expected.differences(&found),
        None => vec!["entries went while it was read".to_owned()],
    };
    if wrong.is_empty() { println!("{name}") } else { println!("not {name}: {}", few(&wrong)) }
}

/// The race has a deadline.
fn wait(volume: &Path) {
    while Phase::of(volume) != Phase::New {
        std::thread::sleep(Duration::from_millis(5));
    }
}
