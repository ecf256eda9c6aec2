//! Exhaustion: what a seed needs is not there or ends amid, and comes back.

mod cases;
mod judge;
mod room;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::bench::{self, Bench};
use crate::disk::Image;
use crate::kit::needs;
use cases::{Case, On};

/// Takes from volseed what it needs: space, inodes, quota, descriptors, processes, memory, the disk, the source
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// volseed; else what VOLSEED_BIN names, else the one beside this program
    #[arg(long, value_name = "PATH")]
    volseed: Option<PathBuf>,
    /// Only these causes
    #[arg(long, value_delimiter = ',', value_name = "CAUSE,…")]
    only: Vec<String>,
    /// Only these cases, to repeat them
    #[arg(long, value_delimiter = ',', value_name = "CAUSE:AMOUNT:VOLUME:SOURCE,…")]
    case: Vec<String>,
    /// So many cases at most, spread over all
    #[arg(long, value_name = "N")]
    cases: Option<usize>,
    /// Appends the results to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Prints every case
    #[arg(long)]
    verbose: bool,
}

/// Of one cause on one file system.
#[derive(Default)]
struct Counts {
    /// By exit code.
    codes: BTreeMap<i32, usize>,
    broken: usize,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: exhaustion needs root");
        return ExitCode::SUCCESS;
    }
    let (seed, began) = (bench::seed(), Instant::now());
    let bench = Bench::new(&bench::program(arguments.volseed.as_deref()), &seed);
    let mut bases: Vec<(On, Image)> = Vec::new();
    let (mut rows, mut broken) = (BTreeMap::<_, Counts>::new(), Vec::new());
    for case in chosen(arguments) {
        if let On::Disk(kind) = case.on {
            if !needs::file_system(kind.name()) {
                continue;
            }
            if !bases.iter().any(|(on, _)| *on == case.on) {
                bases.push((case.on, room::base(&bench, kind)));
            }
        }
        let base = bases.iter().find(|(on, _)| *on == case.on).map(|(_, image)| image.clone());
        let judged = judge::judge(&bench, &seed, base, case);
        if arguments.verbose {
            println!("{case} {judged:?}");
        }
        let counts = rows.entry((case.cause.name(), case.on.name())).or_default();
        match judged {
            Ok(code) => *counts.codes.entry(code).or_default() += 1,
            Err(what) => {
                eprintln!("BROKEN: faults exhaust --case {case}: {what}");
                counts.broken += 1;
                let what = what.lines().next().unwrap_or_default();
                broken.push(format!("- `faults exhaust --case {case}`: {what}"));
            }
        }
    }
    bench::report(&text(&rows, &broken, began), arguments.results.as_deref());
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(arguments: &Arguments) -> Vec<Case> {
    let is_wanted = |case: &Case| {
        (arguments.only.is_empty() || arguments.only.iter().any(|name| name == case.cause.name()))
            && (arguments.case.is_empty() || arguments.case.contains(&case.to_string()))
    };
    let cases: Vec<Case> = Case::all().into_iter().filter(is_wanted).collect();
    let count = arguments.cases.unwrap_or(cases.len()).min(cases.len());
    (0..count).map(|number| cases[number * cases.len() / count]).collect()
}

fn text(rows: &BTreeMap<(&str, &str), Counts>, broken: &[String], began: Instant) -> String {
    let mut text =
        "| cause | volume | cases | succeeded | exit codes | broken |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let mut all = 0;
    for ((cause, on), counts) in rows {
        let cases = counts.codes.values().sum::<usize>() + counts.broken;
        all += cases;
        let codes: Vec<String> = counts
            .codes
            .iter()
            .filter(|(code, _)| **code != 0)
            .map(|(code, count)| format!("{code}: {count}"))
            .collect();
        let succeeded = counts.codes.get(&0).copied().unwrap_or(0);
        writeln!(
            text,
            "| {cause} | {on} | {cases} | {succeeded} | {} | {} |",
            codes.join(", "),
            counts.broken
        )
        .unwrap();
    }
    let seconds = began.elapsed().as_secs();
    writeln!(text, "\n{all} exhaustions, {} broken; {seconds} s\n", broken.len()).unwrap();
    broken.iter().for_each(|case| writeln!(text, "{case}").unwrap());
    text
}
