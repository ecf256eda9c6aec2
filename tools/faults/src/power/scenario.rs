//! What a disk records before its power is cut: seeds, seeds after kills and after cuts, a repair, upgrades, and a control
//! that is unsafe.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::cut::{Cut, Recording};
use crate::bench::{Bench, FileSystem};
use crate::disk::{Disk, Image};
use crate::kinds::KINDS;
use crate::room::names;
use crate::scenarios::users_files;
use crate::tracer::{At, Fault};

/// A situation.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) steps: &'static [Step],
    /// The run that completes the volume, also after a cut.
    pub(crate) command: &'static str,
    /// It begins with what a cut has left of the first scenario.
    pub(crate) is_second_cut: bool,
}

/// What is done to the volume.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// Users' files, which are durable.
    UsersFiles,
    /// The command, to its end.
    Run,
    /// Another one, to its end.
    Ran(&'static str),
    /// A user edits these files, which is durable.
    Edited(&'static [&'static str]),
    /// A user removes these entries, which is durable.
    Removed(&'static [&'static str]),
    /// The same where `syncfs` is refused.
    WithoutSyncfs,
    /// Killed while it stages, in the same container and mount as the next step.
    KilledInStage,
    /// Killed after the first rename to this name.
    KilledAfter(&'static str),
    /// The naive seed.
    Copy,
}

pub(crate) const TREE: &str = "{volseed} seed --from {tree} --to {volume} --sentinel index.php --workers 3";
const TAR: &str = "{volseed} seed --from {tar} --to {volume} --sentinel index.php --workers 3";

const OLDER: &str =
    "{volseed} seed --from {older} --to {volume} --sentinel index.php --seed-version 1 --workers 3";
const UPGRADE: &str = "{volseed} seed --from {tree} --to {volume} --sentinel index.php --seed-version 2 --upgrade 1 --workers 3";

const fn scenario(name: &'static str, command: &'static str, steps: &'static [Step]) -> Scenario {
    Scenario { name, steps, command, is_second_cut: false }
}

/// All of them; the first is what a second cut comes after.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("seed", TREE, &[Step::Run]),
    scenario("archive", TAR, &[Step::Run]),
    scenario("without-syncfs", TREE, &[Step::WithoutSyncfs]),
    scenario("keep", TREE_BESIDE_USERS, &[Step::UsersFiles, Step::Run]),
    scenario("resumed", TREE, &[Step::KilledInStage, Step::Run]),
    scenario("sealed", TREE, &[Step::KilledAfter("sealed"), Step::Run]),
    scenario("publishing", TREE, &[Step::KilledAfter("with-attributes"), Step::Run]),
    scenario("recording", TREE, &[Step::KilledAfter("record.json"), Step::Run]),
    Scenario { is_second_cut: true, ..scenario("second-cut", TREE, &[Step::Run]) },
    scenario(
        "repair",
        "{volseed} repair --modified --from {tree} --to {volume} --workers 3",
        &[
            Step::Ran(TREE),
            Step::Edited(&["a/f1", "empty", "many/1/1"]),
            Step::Removed(&["a/f3", "link", "closed", "many/2/2", "many/3"]),
            Step::Run,
        ],
    ),
    scenario("upgrade", UPGRADE, &[Step::Ran(OLDER), Step::Edited(&["a/f2", "a/f5"]), Step::Run]),
    scenario(
        "upgrading",
        UPGRADE,
        &[Step::Ran(OLDER), Step::Edited(&["a/f2", "a/f5"]), Step::KilledAfter("retired.json"), Step::Run],
    ),
    scenario(CONTROL, TREE, &[Step::Copy]),
];
const TREE_BESIDE_USERS: &str = "{volseed} seed --from {tree} --to {volume} --existing keep --workers 3";

/// What has to be caught.
pub(crate) const CONTROL: &str = "control";
/// The sentinel of the control.
pub(crate) const COPIED: &str = "copied";

/// Attempts to kill a seed that has begun and not ended.
const ATTEMPTS: u64 = 60;
/// What is staged at such a kill at least.
const STAGED: usize = 12;

impl Scenario {
    /// What a user has edited: then the volume was complete before, and is repaired or upgraded.
    pub(crate) fn edits(&self) -> impl Iterator<Item = &'static str> {
        let edits = |step: &Step| match step {
            Step::Edited(paths) => *paths,
            _ => &[],
        };
        self.steps.iter().flat_map(edits).copied()
    }

    /// Whether it stays complete all the while.
    pub(crate) fn is_repair(&self) -> bool {
        self.command.contains(" repair ")
    }

    /// Plays it on a disk, and gives what the disk went through.
    pub(crate) fn record(
        &self,
        bench: &Bench,
        kind: FileSystem,
        base: &Image,
        first: Option<(&Recording, Cut)>,
    ) -> Result<Recording, String> {
        let base = first.map_or_else(|| base.clone(), |(recording, cut)| recording.image(cut));
        (0..ATTEMPTS)
            .find_map(|attempt| self.attempt(bench, kind, base.clone(), attempt).transpose())
            .unwrap_or_else(|| Err("no kill came while it staged".to_owned()))
    }

    /// `None`: a kill came too late or too early.
    fn attempt(
        &self,
        bench: &Bench,
        kind: FileSystem,
        mut base: Image,
        attempt: u64,
    ) -> Result<Option<Recording>, String> {
        let (disk, at) = (bench.disk(base.clone()), bench.volume());
        let mounted = bench.mount(kind, &disk, "")?;
        for &step in self.steps {
            match step {
                Step::UsersFiles | Step::Edited(_) | Step::Removed(_) => {
                    let done = match step {
                        Step::Edited(paths) => write_edits(&at, paths),
                        Step::Removed(paths) => remove(&at, paths),
                        _ => users_files().write_to(&at).metadata().map(drop),
                    };
                    done.map_err(|error| error.to_string())?;
                    bench.sync();
                    disk.take_log();
                    base = disk.image();
                }
                Step::Run => ended_well(&bench.plain(self.command, None))?,
                Step::Ran(command) => ended_well(&bench.plain(command, None))?,
                Step::WithoutSyncfs => {
                    let fault = Fault::Error(nix::errno::Errno::EPERM);
                    ended_well(&bench.traced(self.command, At::Nth(kind_of("syncfs"), 1), fault))?;
                }
                Step::KilledAfter(name) => {
                    let ran = bench.traced(self.command, At::Naming(name), Fault::KillAfter);
                    if !ran.signalled {
                        return Err(format!("it was not killed: {}", ran.stderr));
                    }
                }
                Step::KilledInStage if !kill_in_stage(bench, self.command, attempt) => return Ok(None),
                Step::KilledInStage => {}
                Step::Copy => copy(bench, &disk)?,
            }
        }
        if self.name == CONTROL {
            return Ok(Some(Recording { base, log: disk.take_log() }));
        }
        disk.mark();
        drop(mounted);
        Ok(Some(Recording { base, log: disk.take_log() }))
    }
}

fn write_edits(volume: &Path, paths: &[&str]) -> std::io::Result<()> {
    paths.iter().try_for_each(|path| fs::write(volume.join(path), edit(path)))
}

fn remove(volume: &Path, paths: &[&str]) -> std::io::Result<()> {
    for path in paths.iter().map(|path| volume.join(path)) {
        if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// What a user has written there.
pub(crate) fn edit(path: &str) -> String {
    format!("a user's, in {path}")
}

fn kind_of(call: &str) -> usize {
    KINDS.iter().position(|kind| kind.name == call).expect("a kind of the table")
}

fn ended_well(ran: &crate::tracer::Ran) -> Result<(), String> {
    match ran.code {
        0 => Ok(()),
        code => Err(format!("exit code {code} without a cut: {}", ran.stderr.trim())),
    }
}

/// Whether the kill came after some entries were staged, and before all were.
fn kill_in_stage(bench: &Bench, command: &str, attempt: u64) -> bool {
    let words = bench.filled(command);
    let mut seed = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_micros(1500 + 250 * (attempt % 30)));
    seed.kill().unwrap();
    seed.wait().unwrap();
    let claims = bench.volume().join(".volseed/claims");
    let staged = |claim: fs::DirEntry| {
        let tree = claim.path().join("stage/tree");
        if tree.is_dir() { names(&tree).len() } else { 0 }
    };
    let staged: usize = fs::read_dir(claims).map_or(0, |claims| claims.map(Result::unwrap).map(staged).sum());
    staged >= STAGED && !bench.has(".volseed/state.json")
}

/// What many an image's entry point does. Afterwards, something else on the volume is synced now and then.
fn copy(bench: &Bench, disk: &Disk) -> Result<(), String> {
    let at = bench.volume();
    let run = |command: &mut Command| crate::disk::run(command).map_err(|error| error.to_string());
    run(Command::new("cp").arg("-a").arg(bench.root.join("tree/.")).arg(&at))?;
    fs::write(at.join(COPIED), "").map_err(|error| error.to_string())?;
    for number in 0..3 {
        std::thread::sleep(Duration::from_millis(1200));
        sync_other(&at.join(format!("other-{number}"))).map_err(|error| error.to_string())?;
        if number == 0 {
            disk.mark();
        }
    }
    Ok(())
}

fn sync_other(path: &Path) -> std::io::Result<()> {
    fs::write(path, "another program's")?;
    fs::File::open(path)?.sync_all()
}
