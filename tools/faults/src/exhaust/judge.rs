//! What holds where something runs out: a documented exit code with one error line and no app, or a complete volume;
//! users' files as they were; and, once the cause is removed, a next run that completes it and leaves nothing behind.

use super::cases::{Case, Cause, Change};
use super::room::{MINE, Room, USER};
use crate::bench::{Bench, same};
use crate::disk::Image;
use crate::kit::{Snapshot, Tree};
use crate::scenarios::SENTINEL;
use crate::tracer::Ran;

/// Has volseed run into an exhaustion, and gives the exit code.
///
/// # Errors
/// What was promised and is not so.
pub(crate) fn judge(bench: &Bench, seed: &Tree, base: Option<Image>, case: Case) -> Result<i32, String> {
    let mut room = Room::new(bench, seed, base, case)?;
    let first = room.first();
    let said =
        |what: String| format!("{what}\n  stderr: {}", first.stderr.trim().replace('\n', "\n          "));
    check_end(&first, case.cause).map_err(said)?;
    let trial = Trial { bench, case, is_root: room.user().is_none() };
    // A disk that is dead may not answer.
    if !matches!(case.cause, Cause::DiskDies(_)) {
        trial.check_between(first.code).map_err(said)?;
    }
    room.relieve(seed)?;
    trial.check_between(first.code).map_err(said)?;
    let next = room.next();
    check_end(&next, case.cause)?;
    if next.code != 0 {
        return Err(said(format!("the next run ended with {}: {}", next.code, next.stderr.trim())));
    }
    trial.check_complete("after the next run", first.code).map_err(said)?;
    same(&bench.left_behind(), "left behind").map_err(said)?;
    bench.check_status()?;
    Ok(first.code)
}

struct Trial<'a> {
    bench: &'a Bench,
    case: Case,
    is_root: bool,
}

impl Trial<'_> {
    /// After the run that something ran out in.
    fn check_between(&self, code: i32) -> Result<(), String> {
        let mine = std::fs::read(self.bench.volume().join(MINE)).unwrap_or_default();
        if mine != b"a user's" {
            return Err("a user's file has changed".to_owned());
        }
        let has_record = self.bench.has(".volseed/state.json");
        if code == 0 && !has_record {
            return Err("it succeeded without a record".to_owned());
        }
        if has_record || self.bench.has(SENTINEL) {
            self.check_missing("a record or a sentinel is there", code)?;
        }
        Ok(())
    }

    fn check_missing(&self, when: &str, code: i32) -> Result<(), String> {
        same(&self.expected(code).missing(&self.less(self.bench.found(), code)), when)
    }

    fn check_complete(&self, when: &str, code: i32) -> Result<(), String> {
        let found = self.less(self.bench.found(), code).without(&[".", MINE]);
        same(&self.expected(code).differences(&found), when)
    }

    fn expected(&self, code: i32) -> Snapshot {
        let seed = self.bench.seed.clone();
        let seed = if self.is_root { seed } else { seed.owned_by(USER, USER).without(&["of-another"]) };
        self.less(seed, code).without_root()
    }

    /// A run that succeeded may have taken the source as it became.
    fn less(&self, tree: Snapshot, code: i32) -> Snapshot {
        let tree = if self.is_root { tree } else { tree.without(&["of-another"]) };
        let Cause::Source(change, _) = self.case.cause else { return tree };
        let gone: Vec<String> = (100..120).map(|number| format!("many/{}/{number}", number % 8)).collect();
        let mut names: Vec<&str> = match (code, change) {
            (0, Change::LosesFiles) => gone.iter().map(String::as_str).collect(),
            (0, Change::Shrinks | Change::Grows) => vec!["b/c/large", "b/same"],
            _ => return tree,
        };
        let directories: Vec<String> = (0..8).map(|number| format!("many/{number}")).collect();
        if change == Change::LosesFiles {
            names.extend(directories.iter().map(String::as_str));
        }
        tree.without(&names)
    }
}

/// A documented code and one line for an error; the app is started on a complete volume, or not at all.
fn check_end(ran: &Ran, cause: Cause) -> Result<(), String> {
    if ran.timed_out {
        return Err("it did not end in time".to_owned());
    }
    if ran.signalled || !is_documented(ran.code) {
        return Err(format!("exit code {}", ran.code));
    }
    let lines = ran.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    let is_less = matches!(cause, Cause::Source(Change::LosesFiles, _));
    match (ran.code, lines, ran.stdout.as_str()) {
        (0, 0, "app: complete\n") | (1.., 1, "") => Ok(()),
        // The files were gone before they were listed.
        (0, 0, app) if is_less && app.starts_with("app: incomplete without many/") => Ok(()),
        (code, lines, app) => {
            Err(format!("exit code {code} with {lines} error lines, and the app said {app:?}"))
        }
    }
}

fn is_documented(code: i32) -> bool {
    let page = include_str!("../../../../docs/exit-codes.md");
    page.lines().any(|line| line.starts_with(&format!("| {code} |")))
}
