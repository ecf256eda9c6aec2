//! What is swept: a command, what is there before it, and what holds in the end. A later command registers here.
//!
//! In a command, `{room}` is the directory of the run, `{volume}` the volume in it, `{tree}` and `{tar.gz}` (and the
//! other archives) the seed, `{older}` the one that an older image had, `{app}` a command that fails on a volume that is not complete.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kit::{Snapshot, Tree};

/// The user of the scenarios without root.
pub(crate) const USER: u32 = 1000;

/// One situation.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is run with a fault, and then again without one.
    pub(crate) command: &'static str,
    /// What is there before.
    pub(crate) before: &'static [Step],
    /// What holds in the end.
    pub(crate) ends: Ends,
    /// The user who runs it.
    pub(crate) user: Option<u32>,
    /// The archive on standard input.
    pub(crate) input: Option<&'static str>,
    /// Directories of the room that are mounted on others.
    pub(crate) binds: &'static [(&'static str, &'static str)],
    /// After a kill, the next run waits long for a holder that may live.
    pub(crate) waits: bool,
    /// The volume is on slowfs, as a network volume.
    pub(crate) slowfs: bool,
}

/// What is done before the run.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// A directory of the room, of the scenario's user.
    Directory(&'static str),
    /// Users' files in the volume, some of them under names of the seed.
    UsersFiles,
    /// A file of the room.
    File(&'static str, &'static str),
    /// A run to its end.
    Ran(&'static str),
    /// A run that is killed after the first rename to this name.
    KilledAfter(&'static str, &'static str),
    /// A run that is killed before a call of a kind.
    KilledAt(&'static str, &'static str, u32),
    /// All of the volume but volseed's state is removed.
    Emptied,
    /// Entries of the volume are removed.
    Removed(&'static [&'static str]),
}

/// What holds in the end.
#[derive(Clone, Copy)]
pub(crate) enum Ends {
    /// The volume is complete: it has all of the seed, which becomes this on it.
    Complete(fn(Snapshot) -> Snapshot),
    /// Nothing of the room changes.
    Untouched,
    /// What was made is as in a run without a fault.
    Made,
}

const fn scenario(name: &'static str, command: &'static str) -> Scenario {
    let ends = Ends::Complete(|seed| seed);
    Scenario {
        name,
        command,
        before: &[],
        ends,
        user: None,
        input: None,
        binds: &[],
        waits: false,
        slowfs: false,
    }
}

impl Scenario {
    const fn before(mut self, steps: &'static [Step]) -> Self {
        self.before = steps;
        self
    }

    const fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self
    }

    const fn by(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    const fn reads(mut self, archive: &'static str) -> Self {
        self.input = Some(archive);
        self
    }

    const fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    const fn on_slowfs(mut self) -> Self {
        self.slowfs = true;
        self
    }

    const fn binds(mut self, binds: &'static [(&'static str, &'static str)]) -> Self {
        self.binds = binds;
        self
    }
}

const SEED: &str = "seed --from {tree} --to {volume} --sentinel index.php --workers 3";
const RUN: &str = "run --from {tree} --to {volume} --sentinel index.php --workers 3 -- {app}";
const LEASE: &str = "seed --from {tree} --to {volume} --sentinel index.php --workers 3 --lock lease";
const TWO: &str = "[[volume]]\nfrom = '{tree}'\nto = '{volume}'\nsentinel = 'index.php'\nworkers = 3\n\
                   [[volume]]\nfrom = '{tar}'\nto = '{room}/second'\nworkers = 2\n";
const OLDER: &str = "seed --from {older} --to {volume} --sentinel index.php --seed-version 1 --workers 3";
const UPGRADE: &str =
    "run --from {tree} --to {volume} --sentinel index.php --seed-version 2 --upgrade 1 --workers 3 -- {app}";
const HOOKED: &str =
    "run --from {tree} --to {volume} --sentinel index.php --workers 3 --hook /bin/true -- {app}";
const HOOKED_UPGRADE: &str = "run --from {tree} --to {volume} --sentinel index.php --seed-version 2 --upgrade 1 --workers 3 --hook /bin/true -- {app}";
const OLDER_CHOWN: &str =
    "seed --from {older} --to {volume} --chown 33:34 --sentinel index.php --seed-version 1 --workers 3";
const UPGRADE_CHOWN: &str = "run --from {tree} --to {volume} --chown 33:34 --sentinel index.php --seed-version 2 --upgrade 1 --workers 3 -- {app}";
const COMPLETE: &str =
    "run --from {tree} --to {volume} --sentinel index.php --adopt complete --workers 3 -- {app}";
/// What is missing of a copy that was there before volseed.
const HALF_COPY: Step = Step::Removed(&[".volseed", "a/f3", "a/f6", "link", "closed"]);
/// What a seed becomes as an upgrade: directories in which something was moved have another time.
const UPGRADED: Ends = Ends::Complete(|seed| seed.without(&[".", "a", "b"]));
/// What a seed becomes on half a copy.
const COMPLETED: Ends = Ends::Complete(|seed| seed.without(&[".", "a"]));
/// What a seed becomes beside `users_files`.
const BESIDE_USERS: Ends = Ends::Complete(|seed| seed.without(&[".", "a", "a/f1", "b", "b/current"]));

/// All of them. Their order is that of the parts.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("directory", "run --from {tree} --to {volume} --sentinel index.php -- {app}"),
    scenario("tar", "run --from {tar} --to {volume} --sentinel index.php --workers 3 -- {app}"),
    scenario("tar.gz", "run --from {tar.gz} --to {volume} --sentinel index.php --workers 3 -- {app}"),
    scenario("tar.zst", "run --from {tar.zst} --to {volume} --sentinel index.php --workers 3 -- {app}"),
    scenario("tar.xz", "run --from {tar.xz} --to {volume} --sentinel index.php --workers 3 -- {app}"),
    scenario("tar.bz2", "run --from {tar.bz2} --to {volume} --sentinel index.php --workers 3 -- {app}"),
    scenario("stdin", "run --from - --to {volume} --sentinel index.php --workers 3 -- {app}").reads("tar.gz"),
    scenario("keep", "run --from {tree} --to {volume} --workers 3 -- {app}")
        .before(&[Step::UsersFiles])
        .ends(BESIDE_USERS),
    scenario("overwrite-mount", "run --from {tree} --to {volume} --existing overwrite --workers 3 -- {app}")
        .before(&[
            Step::UsersFiles,
            Step::Directory("below"),
            Step::Directory("volume/b/c"),
            Step::File("below/mine", "x"),
        ])
        .binds(&[("below", "volume/b/c")])
        .ends(Ends::Complete(|seed| {
            seed.without(&[".", "a", "b", "b/c", "b/same", "b/c/d", "b/c/large", "b/c/d/deep"])
        })),
    scenario(
        "chown",
        "run --from {tree} --to {volume} --chown 33:34 --sentinel index.php --workers 3 -- {app}",
    )
    .ends(Ends::Complete(|seed| seed.owned_by(33, 34))),
    scenario("resume", RUN).before(&[Step::KilledAt(SEED, "utimensat", 18)]),
    scenario("sealed", RUN).before(&[Step::KilledAfter(SEED, "sealed")]),
    scenario("publishing", RUN).before(&[Step::KilledAfter(SEED, "with-attributes")]),
    scenario("recording", RUN).before(&[Step::KilledAfter(SEED, "record.json")]),
    scenario("adopt", SEED)
        .before(&[Step::UsersFiles, Step::File("volume/index.php", "<?php")])
        .ends(Ends::Made),
    scenario("complete", COMPLETE).before(&[Step::Ran(SEED), HALF_COPY]).ends(COMPLETED),
    scenario(
        "complete-tar.gz",
        "seed --from {tar.gz} --to {volume} --sentinel index.php --adopt complete --workers 3",
    )
    .before(&[Step::Ran(SEED), HALF_COPY])
    .ends(COMPLETED),
    scenario("completing", COMPLETE)
        .before(&[Step::Ran(SEED), HALF_COPY, Step::KilledAfter(COMPLETE, "f3")])
        .ends(COMPLETED),
    scenario("strict", "run --from {tree} --to {volume} --strict --sentinel index.php --workers 3 -- {app}"),
    scenario("unprivileged", "run --from {tar} --to {volume} --sentinel index.php --workers 3 -- {app}")
        .by(USER)
        .ends(Ends::Complete(|seed| seed.owned_by(USER, USER).without(&["of-another"]))),
    scenario("emptied", RUN).before(&[Step::Ran(SEED), Step::Emptied]),
    scenario("two-volumes", "run --config {room}/config.toml -- {app}")
        .before(&[Step::Directory("second"), Step::File("config.toml", TWO)]),
    scenario("second-start", RUN).before(&[Step::Ran(SEED)]),
    scenario("wait", "wait --to {volume}").before(&[Step::Ran(SEED)]).ends(Ends::Untouched),
    scenario("wait-timeout", "wait --to {volume} --wait-timeout 200ms").ends(Ends::Untouched),
    scenario("lease", LEASE).waits(),
    scenario(
        "supervise",
        "run --supervise --grace 1 --user 1000 --admin {room}/admin --from {tree} --to {volume} --sentinel index.php --workers 3 -- {app}",
    ),
    scenario(
        "pass-socket",
        "run --listen {room}/socket --pass-socket listen-fds --from {tree} --to {volume} --sentinel index.php --workers 3 -- {app}",
    ),
    scenario("install", "install {room}/made").before(&[Step::Directory("made")]).ends(Ends::Made),
    scenario("status", "status --to {volume}").before(&[Step::Ran(SEED)]).ends(Ends::Untouched),
    scenario("status-json", "status --json --to {volume}")
        .before(&[Step::KilledAt(SEED, "utimensat", 18)])
        .ends(Ends::Untouched),
    scenario("verify", "verify --digest --to {volume}").before(&[Step::Ran(SEED)]).ends(Ends::Untouched),
    scenario("repair", "repair --from {tree} --to {volume} --workers 3")
        .before(&[Step::Ran(SEED), Step::Removed(&["a/f3", "link", "closed"])])
        .ends(Ends::Complete(|seed| seed.without(&[".", "a"]))),
    scenario("repair-modified", "repair --modified --from {tar.gz} --to {volume} --workers 3")
        .before(&[
            Step::Ran(SEED),
            Step::Removed(&["b/c/d"]),
            Step::File("volume/empty", "a user's"),
            Step::File("volume/a/f1", "a user's"),
        ])
        .ends(Ends::Complete(|seed| seed.without(&[".", "a", "b", "b/c"]))),
    scenario("upgrade", UPGRADE).before(&[Step::Ran(OLDER)]).ends(UPGRADED),
    scenario("upgrade-slowfs", UPGRADE)
        .on_slowfs()
        .waits()
        .before(&[Step::Ran(OLDER)])
        .ends(Ends::Complete(|seed| seed.without(&[".", "a", "b"]).without_attributes())),
    scenario("upgrade-chown", UPGRADE_CHOWN)
        .before(&[Step::Ran(OLDER_CHOWN)])
        .ends(Ends::Complete(|seed| seed.without(&[".", "a", "b"]).owned_by(33, 34))),
    scenario(
        "upgrade-tar.gz",
        "seed --from {tar.gz} --to {volume} --sentinel index.php --seed-version 2 --upgrade 1 --workers 3",
    )
    .before(&[Step::Ran(OLDER)])
    .ends(UPGRADED),
    scenario("upgrading", UPGRADE)
        .before(&[Step::Ran(OLDER), Step::KilledAfter(UPGRADE, "f2")])
        .ends(UPGRADED),
    scenario("upgrading-by-older", OLDER)
        .before(&[Step::Ran(OLDER), Step::KilledAfter(UPGRADE, "retired.json")])
        .ends(UPGRADED),
    scenario("hook", HOOKED),
    scenario("hook-upgrade", HOOKED_UPGRADE).before(&[Step::Ran(OLDER)]).ends(UPGRADED),
    scenario("hook-owed", HOOKED_UPGRADE)
        .before(&[Step::Ran(OLDER), Step::KilledAfter(HOOKED_UPGRADE, "state.json")])
        .ends(UPGRADED),
    scenario("health", "health --listen {room}/socket --admin {room}/admin").ends(Ends::Untouched),
];

/// The sentinel of the seed.
pub(crate) const SENTINEL: &str = "index.php";

/// A bit of everything.
pub(crate) fn seed() -> Tree {
    let tree = Tree::new().mode(0o751).directory("a").mode(0o750);
    let tree = (1..=8).fold(tree, |tree, number| tree.file(format!("a/f{number}"), format!("file {number}")));
    tree.file("b/c/d/deep", "x")
        .file("b/c/large", (0..300_000_u32).map(|byte| (byte % 251) as u8).collect::<Vec<_>>())
        .hard_link("b/same", "b/c/large")
        .symlink("b/current", "c/d")
        .directory("closed")
        .mode(0o700)
        .file("closed/secret", "x")
        .mode(0o600)
        .file("empty", "")
        .directory("e/mpty")
        .fifo("fifo")
        .file("of-another", "x")
        .mode(0o4755)
        .owner(33, 34)
        .file("with-attributes", "x")
        .attribute("user.a", "1")
        .symlink("link", "index.php")
        .file(SENTINEL, "<?php")
}

/// What an older image had otherwise, or had alone. Some of the seed it did not have ([`NOT_IN_OLDER`]).
fn older() -> Tree {
    Tree::new()
        .mode(0o751)
        .file(SENTINEL, "<?php // older")
        .directory("a")
        .mode(0o750)
        .file("a/f2", "as it was before")
        .file("a/f5", "FILE 5")
        .file("b/gone", "x")
        .file("empty/inside", "x")
        .file("e", "a file")
        .file("gone/one", "x")
        .file("gone/below/two", "x")
        .symlink("gone/link", "one")
}

/// Writes the older image of a seed to a directory.
pub(crate) fn write_older(seed: &Tree, place: &Path) -> PathBuf {
    let place = seed.write_to(place);
    remove(OF_OTHER_TYPE_IN_OLDER.iter().map(|name| place.join(name)));
    let older = older().write_to(&place);
    remove(NOT_IN_OLDER.iter().map(|name| older.join(name)));
    older
}

pub(crate) fn remove(paths: impl Iterator<Item = PathBuf>) {
    for path in paths {
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}

/// What the older one had as a directory and the seed has as a file, and the other way round.
const OF_OTHER_TYPE_IN_OLDER: [&str; 2] = ["empty", "e"];

/// What the seed has and the older one did not.
const NOT_IN_OLDER: [&str; 4] = ["a/f7", "closed", "fifo", "link"];

/// What users have on a volume before it is seeded.
pub(crate) fn users_files() -> Tree {
    Tree::new()
        .file("mine", "a user's")
        .owner(12, 13)
        .file("a/f1", "a user's, under a name of the seed")
        .mode(0o640)
        .file("a/mine", "a user's")
        .symlink("b/current", "elsewhere")
        .directory("of-the-user/empty")
}
