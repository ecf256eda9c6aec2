//! The bar on a terminal: one line that is written over itself.

use crate::progress::{Phase, Snapshot};
use crate::text::{byte_size, one_line};

/// Takes the bar away.
pub(super) const CLEAR: &str = "\r\x1b[2K";
/// How many characters the bar itself has.
const WIDTH: usize = 30;

/// The bar as the progress is now; nothing while nothing is seeded. A line that is longer than the
/// terminal is wide is cut by the terminal (xterm's `DECAWM`), which knows how wide each character is.
pub(super) fn bar(volume: &str, snapshot: &Snapshot) -> Option<String> {
    if !snapshot.phase.has_stage() {
        return None;
    }
    let percent = snapshot.counts.percent.unwrap_or(0).min(100);
    let filled = WIDTH * usize::from(percent) / 100;
    let mut done = "=".repeat(filled);
    if filled < WIDTH {
        done.push('>');
    }
    let volume = one_line(volume);
    Some(format!("\r\x1b[?7l{volume} [{done:WIDTH$}] {}\x1b[K\x1b[?7h", message(snapshot)))
}

fn message(snapshot: &Snapshot) -> String {
    let percent = snapshot.counts.percent.map(|percent| format!("{percent}%  ")).unwrap_or_default();
    let total = snapshot.counts.files_total.map(|total| format!(" of {total}")).unwrap_or_default();
    let left = snapshot.seconds_left.map(|seconds| {
        format!("  {} left", humantime::format_duration(std::time::Duration::from_secs(seconds)))
    });
    let phase = match snapshot.phase {
        Phase::Upgrading => "upgrading  ",
        Phase::Syncing => "syncing  ",
        Phase::Publishing => "publishing  ",
        _ => "",
    };
    format!(
        "{phase}{percent}{}{total} files  {}  {}/s{}",
        snapshot.counts.files,
        byte_size(snapshot.counts.bytes),
        byte_size(snapshot.rate),
        left.unwrap_or_default()
    )
}
