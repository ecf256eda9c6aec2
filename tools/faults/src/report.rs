//! What a sweep prints: counts by scenario and by kind, and each case in which a promise was broken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cases::Case;
use crate::judge::Verdict;
use crate::tracer::Fault;

/// The results so far.
pub(crate) struct Report {
    pub(crate) began: Instant,
    pub(crate) broken: usize,
    pub(crate) scenarios: Vec<Row>,
    program: PathBuf,
    by_scenario: BTreeMap<&'static str, Counts>,
    by_kind: BTreeMap<&'static str, Counts>,
    cases: Vec<String>,
}

/// A scenario that was played.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) calls: u64,
    pub(crate) cases: usize,
    pub(crate) took: Duration,
}

/// Runs by what was done to them, and by how they ended.
#[derive(Default, Clone, Copy)]
struct Counts {
    failed: u64,
    after: u64,
    short: u64,
    killed: u64,
    not_reached: u64,
    no_consequence: u64,
    kept_less: u64,
    with_error: u64,
    broken: u64,
}

const HEAD: [&str; 9] = [
    "failed calls",
    "failed after taking effect",
    "short",
    "kills",
    "not reached",
    "no consequence",
    "kept less",
    "error",
    "broken",
];

impl Counts {
    fn add(&mut self, fault: Fault, verdict: &Result<Verdict, String>) {
        match verdict {
            Ok(Verdict::NotReached) => {
                self.not_reached += 1;
                return;
            }
            Ok(Verdict::Succeeded) => self.no_consequence += 1,
            Ok(Verdict::KeptLess) => self.kept_less += 1,
            Ok(Verdict::Failed) => self.with_error += 1,
            Ok(Verdict::Killed) => {}
            Err(_) => self.broken += 1,
        }
        match fault {
            Fault::Error(_) => self.failed += 1,
            Fault::After(_) => self.after += 1,
            Fault::Short => self.short += 1,
            Fault::KillBefore | Fault::KillAfter => self.killed += 1,
        }
    }

    fn cells(&self) -> [u64; 9] {
        [
            self.failed,
            self.after,
            self.short,
            self.killed,
            self.not_reached,
            self.no_consequence,
            self.kept_less,
            self.with_error,
            self.broken,
        ]
    }
}

impl Report {
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            began: Instant::now(),
            broken: 0,
            scenarios: Vec::new(),
            program: program.to_owned(),
            by_scenario: BTreeMap::new(),
            by_kind: BTreeMap::new(),
            cases: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        scenario: &'static str,
        case: &Case,
        hit: &str,
        verdict: Result<Verdict, String>,
    ) {
        self.by_scenario.entry(scenario).or_default().add(case.fault, &verdict);
        self.by_kind.entry(case.kind_name()).or_default().add(case.fault, &verdict);
        if let Err(what) = verdict {
            self.add_broken(scenario, &case.to_string(), &format!("{hit}: {what}"));
        }
    }

    pub(crate) fn add_broken(&mut self, scenario: &str, case: &str, what: &str) {
        eprintln!("BROKEN: --only {scenario} --case {case}: {what}");
        self.broken += 1;
        self.cases.push(format!(
            "- `faults calls --only {scenario} --case {case}`: {}",
            what.lines().next().unwrap_or_default()
        ));
    }

    /// As Markdown, and at the end of a file.
    pub(crate) fn print(&self, file: Option<&Path>) {
        let text = self.text();
        print!("{text}");
        if let Some(path) = file {
            let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
    }

    fn text(&self) -> String {
        let mut total = Counts::default().cells();
        let mut text = String::new();
        table(
            &mut text,
            &["scenario", "calls", "cases", "seconds"],
            self.scenarios.iter().map(|row| {
                let counts = self.by_scenario.get(row.name).copied().unwrap_or_default().cells();
                total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
                let seconds = row.took.as_secs().to_string();
                (vec![row.name.to_owned(), row.calls.to_string(), row.cases.to_string(), seconds], counts)
            }),
        );
        table(
            &mut text,
            &["call"],
            self.by_kind.iter().map(|(name, counts)| (vec![format!("`{name}`")], counts.cells())),
        );
        let [failed, after, short, kills, .., broken] = total;
        writeln!(
            text,
            "{} runs with a fault, {kills} of them kills ({failed} failed calls, {after} failed after taking effect, {short} short); {broken} broken; {} s; `{}`\n",
            failed + after + short + kills,
            self.began.elapsed().as_secs(),
            self.program.file_name().unwrap_or_default().display(),
        )
        .unwrap();
        self.cases.iter().for_each(|case| writeln!(text, "{case}").unwrap());
        text
    }
}

fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = (Vec<String>, [u64; 9])>) {
    let head: Vec<&str> = head.iter().copied().chain(HEAD).collect();
    writeln!(text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len())).unwrap();
    for (first, counts) in rows {
        let cells: Vec<String> = first.into_iter().chain(counts.map(|count| count.to_string())).collect();
        writeln!(text, "| {} |", cells.join(" | ")).unwrap();
    }
    text.push('\n');
}
