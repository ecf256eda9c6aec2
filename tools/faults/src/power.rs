//! Power cuts: each scenario is recorded on a disk that logs its writes and flushes, and each cut is a disk as it may be
//! after a flush, with the writes after it dropped, torn or in part there.

mod cut;
mod judge;
mod scenario;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use fastrand::Rng;

use crate::bench::{self, Bench, FileSystem};
use crate::disk::Image;
use crate::kit::needs;
use cut::{Cut, Left, Recording};
use judge::Found;
use scenario::{CONTROL, SCENARIOS, Scenario};

/// Cuts the power at the flushes of a disk, in every scenario, on every file system
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// volseed; else what VOLSEED_BIN names, else the one beside this program
    #[arg(long, value_name = "PATH")]
    volseed: Option<PathBuf>,
    /// File systems
    #[arg(long, value_delimiter = ',', default_value = "ext4,xfs,btrfs", value_name = "KIND,…")]
    on: Vec<FileSystem>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO,…")]
    only: Vec<String>,
    /// Cuts in all
    #[arg(long, default_value_t = 1500, value_name = "N")]
    cuts: usize,
    /// Only this cut of each recording, to repeat it
    #[arg(long, value_name = "FLUSH:LEFT:SEED")]
    cut: Option<Cut>,
    /// Of all choices
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Writes the disk of each broken cut to a file in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Appends the results to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Prints every cut
    #[arg(long)]
    verbose: bool,
}

/// Cuts after which the second run is recorded and cut again.
const FIRST_CUTS: usize = 6;

/// Of one scenario on one file system.
#[derive(Default)]
struct Counts {
    flushes: usize,
    by_way: BTreeMap<Left, usize>,
    incomplete: usize,
    complete: usize,
    caught: usize,
    not_recovered: usize,
    broken: usize,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: power cuts need root");
        return ExitCode::SUCCESS;
    }
    let program = bench::program(arguments.volseed.as_deref());
    let on: Vec<FileSystem> =
        arguments.on.iter().copied().filter(|kind| needs::file_system(kind.name())).collect();
    let mut sweep = Sweep {
        arguments,
        bench: Bench::new(&program, &bench::seed()),
        rows: Vec::new(),
        broken: Vec::new(),
    };
    let began = Instant::now();
    let scenarios: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == scenario.name)
        })
        .collect();
    for (place, &kind) in on.iter().enumerate() {
        let base = sweep.bench.formatted(kind, &[]);
        for (number, scenario) in scenarios.iter().enumerate() {
            let (index, all) = (place * scenarios.len() + number, on.len() * scenarios.len());
            let cuts = arguments.cuts * (index + 1) / all - arguments.cuts * index / all;
            sweep.play(kind, &base, scenario, cuts);
        }
    }
    let text = sweep.text(began);
    bench::report(&text, arguments.results.as_deref());
    if sweep.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Sweep<'a> {
    arguments: &'a Arguments,
    bench: Bench,
    rows: Vec<(FileSystem, &'static str, Counts)>,
    broken: Vec<String>,
}

impl Sweep<'_> {
    /// One scenario on one file system.
    fn play(&mut self, kind: FileSystem, base: &Image, scenario: &'static Scenario, cuts: usize) {
        let mut counts = Counts::default();
        match self.recordings(kind, base, scenario) {
            Err(what) => self.is_broken(&mut counts, kind, scenario, "", &what),
            Ok(recordings) => {
                let share = cuts.div_ceil(recordings.len().max(1));
                let mut left = cuts;
                for (number, recording) in recordings.iter().enumerate() {
                    counts.flushes += recording.flushes();
                    let seed = self.arguments.seed * 1_000_000 + (number * 1000) as u64;
                    // The control is to be caught once it is done and another program's file was synced.
                    let first = if scenario.name == CONTROL { recording.first_after_mark(1) } else { 0 };
                    let chosen = self
                        .arguments
                        .cut
                        .map_or_else(|| recording.cuts(first, share.min(left), seed), |cut| vec![cut]);
                    left -= chosen.len().min(left);
                    chosen.iter().for_each(|&cut| self.cut(&mut counts, kind, scenario, recording, cut));
                }
            }
        }
        self.rows.push((kind, scenario.name, counts));
    }

    fn recordings(
        &self,
        kind: FileSystem,
        base: &Image,
        scenario: &Scenario,
    ) -> Result<Vec<Recording>, String> {
        if !scenario.is_second_cut {
            return Ok(vec![scenario.record(&self.bench, kind, base, None)?]);
        }
        let first = SCENARIOS[0].record(&self.bench, kind, base, None)?;
        let mut rng = Rng::with_seed(self.arguments.seed);
        let mut cuts: Vec<Cut> = first
            .cuts(0, 4 * first.flushes(), rng.u64(..1 << 40))
            .into_iter()
            .filter(|&cut| !first.is_after_mark(cut, 1))
            .collect();
        rng.shuffle(&mut cuts);
        cuts.truncate(FIRST_CUTS);
        cuts.into_iter().map(|cut| scenario.record(&self.bench, kind, base, Some((&first, cut)))).collect()
    }

    fn cut(
        &mut self,
        counts: &mut Counts,
        kind: FileSystem,
        scenario: &Scenario,
        recording: &Recording,
        cut: Cut,
    ) {
        if cut.flush >= recording.flushes() {
            return;
        }
        *counts.by_way.entry(cut.left).or_default() += 1;
        let judged = judge::judge(&self.bench, kind, scenario, recording, cut);
        if self.arguments.verbose {
            println!("{} {} {cut} {judged:?}", kind.name(), scenario.name);
        }
        match judged {
            Ok(Found::Incomplete) => counts.incomplete += 1,
            Ok(Found::Complete) => counts.complete += 1,
            Ok(Found::Caught) => counts.caught += 1,
            Ok(Found::NotRecovered) => counts.not_recovered += 1,
            Err(what) => {
                if let Some(directory) = &self.arguments.keep {
                    let name = format!("{}-{}-{cut}.img", kind.name(), scenario.name);
                    recording.image(cut).write_to(&directory.join(name)).unwrap();
                }
                self.is_broken(counts, kind, scenario, &format!(" --cut {cut}"), &what);
            }
        }
    }

    fn is_broken(
        &mut self,
        counts: &mut Counts,
        kind: FileSystem,
        scenario: &Scenario,
        cut: &str,
        what: &str,
    ) {
        let command = format!("faults power --on {} --only {}{cut}", kind.name(), scenario.name);
        eprintln!("BROKEN: {command}: {what}");
        counts.broken += 1;
        self.broken.push(format!("- `{command}`: {}", what.lines().next().unwrap_or_default()));
    }

    fn total(&self, of: impl Fn(&Counts) -> usize, control: bool) -> usize {
        let rows = self.rows.iter().filter(|(_, name, _)| (*name == CONTROL) == control);
        rows.map(|(_, _, counts)| of(counts)).sum()
    }

    /// Nothing broken, and most cuts of the control caught: else the cuts would show nothing.
    fn is_good(&self) -> bool {
        let cuts = self.total(|counts| counts.by_way.values().sum(), true);
        self.broken.is_empty() && 2 * self.total(|counts| counts.caught, true) >= cuts
    }

    fn text(&self, began: Instant) -> String {
        let head = "| file system | scenario | flushes | cuts | dropped | torn | subset | incomplete | complete | caught | not recovered | broken |";
        let mut text = format!("{head}\n|{}\n", "---|".repeat(12));
        for (kind, name, counts) in &self.rows {
            let way = |left| counts.by_way.get(&left).copied().unwrap_or(0);
            let ways = [Left::Dropped, Left::Torn, Left::Subset].map(way);
            let cells = [
                counts.flushes,
                ways.iter().sum(),
                ways[0],
                ways[1],
                ways[2],
                counts.incomplete,
                counts.complete,
                counts.caught,
                counts.not_recovered,
                counts.broken,
            ];
            let cells: Vec<String> = cells.iter().map(usize::to_string).collect();
            writeln!(text, "| {} | {name} | {} |", kind.name(), cells.join(" | ")).unwrap();
        }
        let cuts = |counts: &Counts| counts.by_way.values().sum::<usize>();
        writeln!(
            text,
            "\n{} power cuts, {} broken; the control is caught in {} of {} cuts; seed {}; {} s\n",
            self.total(cuts, false),
            self.broken.len(),
            self.total(|counts| counts.caught, true),
            self.total(cuts, true),
            self.arguments.seed,
            began.elapsed().as_secs(),
        )
        .unwrap();
        self.broken.iter().for_each(|case| writeln!(text, "{case}").unwrap());
        text
    }
}
