//! The sweep over calls: each scenario with each of its calls failing, failing late, short, or the last.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::cases::Case;
use crate::judge::{self, Baseline, Trial, Verdict};
use crate::report::{Report, Row};
use crate::room::Lab;
use crate::scenarios::{SCENARIOS, Scenario};
use crate::tracer::At;

/// Lets every call of volseed fail, and kills it at every call, in every scenario
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// volseed; else what VOLSEED_BIN names, else the one beside this program
    #[arg(long, value_name = "PATH")]
    volseed: Option<PathBuf>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO,…")]
    only: Vec<String>,
    /// Only the scenario with this number
    #[arg(long, value_name = "N")]
    part: Option<usize>,
    /// Begins with the scenario of this number
    #[arg(long, default_value_t = 1, value_name = "N")]
    from: usize,
    /// Begins no further scenario after this time
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Only these kinds of calls
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    kinds: Vec<String>,
    /// Not these kinds of calls
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    without: Vec<String>,
    /// Only these cases, to repeat them
    #[arg(long, value_name = "KIND:N:FAULT")]
    case: Vec<Case>,
    /// Of each kind, the first so many calls, and as many that are spread over the rest
    #[arg(long, default_value_t = 12, value_name = "N")]
    dense: u32,
    /// Only one in so many cases
    #[arg(long, default_value_t = 1, value_name = "N")]
    every: usize,
    /// Runs at once
    #[arg(long, default_value_t = 4, value_name = "N")]
    jobs: usize,
    /// A run that takes longer is broken
    #[arg(long, default_value_t = 40, value_name = "S")]
    patience: u64,
    /// Appends the results to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Prints every case
    #[arg(long)]
    verbose: bool,
}

/// Times as many runs at once where most of them only wait.
const IDLE_JOBS: usize = 12;
/// Where the rooms are: a file system in memory of this process' own.
const ROOT: &str = "/dev/shm";

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the sweep needs root");
        return ExitCode::SUCCESS;
    }
    own_mounts();
    let program = std::fs::canonicalize(program(arguments)).expect("volseed is built");
    let lab = Lab::new(&program, ROOT.as_ref(), Duration::from_secs(arguments.patience));
    let mut report = Report::new(&program);
    for (index, scenario) in SCENARIOS.iter().enumerate() {
        let number = index + 1;
        let wanted = (arguments.only.is_empty() || arguments.only.iter().any(|name| name == scenario.name))
            && arguments.part.is_none_or(|part| part == number)
            && arguments.from <= number;
        if !wanted {
            continue;
        }
        if arguments.seconds.is_some_and(|limit| report.began.elapsed().as_secs() >= limit) {
            println!("not played: --from {number}");
            break;
        }
        sweep(arguments, &lab, scenario, &mut report);
        eprintln!(
            "{number} {}: {} s, {} broken so far",
            scenario.name,
            report.began.elapsed().as_secs(),
            report.broken
        );
    }
    report.print(arguments.results.as_deref());
    if report.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("faults"), ROOT, Some("tmpfs"), MsFlags::empty(), Some("size=60%,mode=1777")).unwrap();
}

fn program(arguments: &Arguments) -> PathBuf {
    let named = arguments.volseed.clone().or_else(|| std::env::var_os("VOLSEED_BIN").map(PathBuf::from));
    named.unwrap_or_else(|| std::env::current_exe().unwrap().with_file_name("volseed"))
}

/// One scenario.
fn sweep(arguments: &Arguments, lab: &Lab, scenario: &Scenario, report: &mut Report) {
    let began = Instant::now();
    let baseline = match judge::baseline(scenario, &lab.room(scenario, 0)) {
        Ok(baseline) => baseline,
        Err(what) => return report.add_broken(scenario.name, "without a fault", &what),
    };
    let cases = match &arguments.case[..] {
        [] => Case::all(&baseline.counts, arguments.dense),
        some => some.to_vec(),
    };
    let kinds: BTreeSet<&str> = arguments.kinds.iter().map(String::as_str).collect();
    let cases: Vec<Case> = cases
        .into_iter()
        .filter(|case| kinds.is_empty() || kinds.contains(case.kind_name()))
        .filter(|case| !arguments.without.iter().any(|kind| kind == case.kind_name()))
        .step_by(arguments.every.max(1))
        .collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(report));
    std::thread::scope(|scope| {
        let jobs = arguments.jobs.max(1) * if scenario.waits { IDLE_JOBS } else { 1 };
        for job in 0..jobs {
            let (next, done, cases, baseline) = (&next, &done, &cases, &baseline);
            scope.spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (verdict, hit) = play(lab, scenario, baseline, case, job);
                    if arguments.verbose {
                        println!("{} {case} {verdict:?} {hit}", scenario.name);
                    }
                    done.lock().unwrap().add(scenario.name, case, &hit, verdict);
                }
            });
        }
    });
    let report = done.into_inner().unwrap();
    report.scenarios.push(Row {
        name: scenario.name,
        calls: baseline.counts.iter().map(|&count| u64::from(count)).sum(),
        cases: cases.len(),
        took: began.elapsed(),
    });
}

fn play(
    lab: &Lab,
    scenario: &Scenario,
    baseline: &Baseline,
    case: &Case,
    job: usize,
) -> (Result<Verdict, String>, String) {
    let room = lab.room(scenario, job);
    let before = room.contents();
    let ran = room.traced(scenario.command, Some((At::Nth(case.kind, case.nth), case.fault)));
    let hit = ran.hit.clone().unwrap_or_default();
    let trial = Trial { scenario, room: &room, baseline, before, fault: case.fault, ran: &ran };
    let verdict = trial.judge();
    (
        verdict
            .map_err(|what| format!("{what}\n  stderr: {}", ran.stderr.trim().replace('\n', "\n          "))),
        hit,
    )
}
