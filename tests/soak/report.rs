//! What a soak prints: Markdown tables that also line up as text, and what they were measured on.

use std::time::Duration;

use crate::kit;

/// The heading of a soak, with all that a reader needs to repeat it.
pub(crate) fn heading(soak: &str, settings: &str, took: Duration) {
    println!("\n{soak}: {}; {}; {settings}; {} s\n", machine(), version(), took.as_secs());
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let value = text.lines().find(|line| line.starts_with(name))?.split(':').nth(1)?;
        Some(value.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|total| total.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or_default();
    format!(
        "{}, {processors} processors, {} GiB, Linux {}",
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory.div_ceil(1 << 20),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn version() -> String {
    kit::volseed(["--version"]).ends().exits(0).stdout.trim().to_owned()
}

/// A row's cells.
#[macro_export]
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($cell.to_string()),*] };
}

pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("| {} |", cells.join(" | "));
    };
    line(&head);
    line(&widths.iter().map(|&width| "-".repeat(width)).collect());
    rows.iter().for_each(line);
    println!();
}

/// The middle one of the values, of which there is at least one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
