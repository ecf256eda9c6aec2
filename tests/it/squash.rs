//! Servers that take root for nobody, or everybody for one user: who does the work, and who owns the files then.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use slowfs::{Mount, Op, Options, Squash};

use crate::kit::needs;
use crate::kit::slowfs::slow;
use crate::kit::{Sandbox, Snapshot, Tree, eventually, seed, volseed};

/// Whose the volume's root is.
const OWNER: u32 = 33;

/// A volume of [`OWNER`]'s, on a server that does this to its callers.
fn exported(sandbox: &Sandbox, squash: Squash, mode: u32) -> Option<Mount> {
    slow(sandbox, Options { squash, owner: (OWNER, OWNER), mode, ..Options::default() })
}

/// Root's, and one file is for root's eyes only.
fn image() -> Tree {
    Tree::new().file("d/f", "x").hard_link("d/g", "d/f").symlink("l", "d/f").file("secret", "s").mode(0o600)
}

/// The root, `d`, `d/f`, `l` and `secret`.
const ENTRIES: u64 = 5;

fn source(sandbox: &Sandbox) -> PathBuf {
    image().write_to(&sandbox.directory("source"))
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

/// The volume is the source, and all of it belongs to this user and group. What nobody but its owner may read is
/// compared by its size.
#[track_caller]
fn assert_seeded(source: &Path, volume: &Path, (user, group): (u32, u32)) {
    let secret = volume.join("secret");
    assert_eq!((fs::metadata(&secret).unwrap().len(), owner(&secret)), (1, (user, group)));
    let without = |root: &Path| Snapshot::of(root).without_root();
    for name in ["d", "l"] {
        assert_eq!(owner(&volume.join(name)), (user, group), "{name}");
    }
    let expected = without(&source.join("d")).owned_by(user, group);
    expected.assert_same(&without(&volume.join("d")));
}

#[test]
fn root_that_may_not_write_works_as_the_owner_of_the_volume() {
    let sandbox = Sandbox::new();
    let Some(volume) = exported(&sandbox, Squash::Root, 0o755) else { return };
    let (source, at) = (source(&sandbox), volume.path());
    let outcome = seed(&source, at).json().ends().exits(0).says("now of 33:33");
    outcome.warns_once(ENTRIES);
    assert_seeded(&source, at, (OWNER, OWNER));
    assert_eq!(owner(&at.join(".volseed")), (OWNER, OWNER));
    seed(&source, at).json().ends().exits(0).says("already seeded").says_nothing_of("WARN");
}

#[test]
fn a_volume_that_its_owner_alone_may_enter_is_seeded_waited_for_and_shown() {
    let sandbox = Sandbox::new();
    let Some(volume) = exported(&sandbox, Squash::Root, 0o700) else { return };
    let (source, at) = (source(&sandbox), volume.path());
    fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
    seed(&source, at).ends().exits(0);
    volseed(["wait", "--to"]).arguments([at]).ends().exits(0);
    let shown = volseed(["status", "--to"]).arguments([at]).ends().exits(0);
    assert!(shown.stdout.contains("complete") && shown.stdout.contains("source"), "{}", shown.stdout);
}

#[test]
fn what_was_staged_as_the_owner_is_resumed() {
    let sandbox = Sandbox::new();
    let Some(volume) = exported(&sandbox, Squash::Root, 0o755) else { return };
    let (source, at) = (source(&sandbox), volume.path());
    let tree = image().file("e/f", "y").file("e/g", "z");
    let running = seed("-", at).fed().start();
    running.says("seeding");
    // Root sees nothing of the stage.
    let before = volume.counts()[Op::Setattr];
    running.feed(tree.members().unfinished());
    eventually("files in the stage", || volume.counts()[Op::Setattr] > before + 1);
    running.stopped_by(Signal::SIGTERM).0.exits(143);
    let outcome = seed("-", at).input(tree.archive()).json().ends().exits(0);
    assert!(outcome.line("seeded")["reused"].as_u64() > Some(0), "{}", outcome.stderr);
    assert_seeded(&source, at, (OWNER, OWNER));
}

#[test]
fn chown_to_the_owner_loses_nothing() {
    for group in [OWNER, 34] {
        let sandbox = Sandbox::new();
        let Some(volume) = exported(&sandbox, Squash::Root, 0o755) else { return };
        let source = source(&sandbox);
        let outcome =
            seed(&source, volume.path()).option("--chown", format!("{OWNER}:{group}")).ends().exits(0);
        outcome.says_nothing_of("now of").says_nothing_of("does not keep");
        assert_seeded(&source, volume.path(), (OWNER, group));
    }
}

#[test]
fn chown_to_somebody_else_is_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    let Some(volume) = exported(&sandbox, Squash::Root, 0o755) else { return };
    let (source, at) = (source(&sandbox), volume.path());
    let other = || seed(&source, at).option("--chown", "34:33").ends();
    other().fails(77, "34:33").says("33:33").says("help: --chown 33:33");
    assert_eq!(fs::read_dir(at).unwrap().count(), 0);
    // A complete volume starts whatever is asked for.
    seed(&source, at).ends().exits(0);
    other().exits(0);
}

#[test]
fn the_next_volume_is_root_s_again_and_so_is_the_app() {
    let sandbox = Sandbox::new();
    let Some(volume) = exported(&sandbox, Squash::Root, 0o755) else { return };
    let (source, at, local) = (source(&sandbox), volume.path(), sandbox.directory("local"));
    let table = |to: &Path| format!("[[volume]]\nfrom = {source:?}\nto = {to:?}\n");
    let file = sandbox.file("volseed.toml", table(at) + &table(&local));
    let status = ["grep", "-E", "^(Uid|CapEff):", "/proc/self/status"];
    let before = Command::new(status[0]).args(&status[1..]).output().unwrap().stdout;
    let outcome =
        volseed(["run"]).option("--config", &file).arguments(["--"]).arguments(status).ends().exits(0);
    assert_eq!(outcome.stdout, String::from_utf8(before).unwrap());
    assert_seeded(&source, at, (OWNER, OWNER));
    Snapshot::of(&source).assert_same(&Snapshot::of(&local));
}

#[test]
fn it_takes_the_capabilities_that_containers_have() {
    if !needs::tools(&["setpriv"]) {
        return;
    }
    for (dropped, code, says) in [
        ("-dac_read_search", 0, "now of 33:33"),
        ("-dac_read_search,-dac_override", 77, "secret"),
        ("-setuid", 77, "root_squash"),
    ] {
        let sandbox = Sandbox::new();
        let Some(volume) = exported(&sandbox, Squash::Root, 0o755) else { return };
        let dropping = ["setpriv".to_owned(), format!("--bounding-set={dropped}"), "--".to_owned()];
        seed(source(&sandbox), volume.path()).under(dropping).ends().exits(code).says(says);
    }
}

#[test]
fn what_another_user_left_on_it_is_that_user_s() {
    let sandbox = Sandbox::new();
    let Some(volume) = exported(&sandbox, Squash::Root, 0o777) else { return };
    let (source, at) = (source(&sandbox), volume.path());
    fs::create_dir(at.join(".volseed")).unwrap();
    assert_eq!(owner(&at.join(".volseed")), (65534, 65534));
    assert!(Command::new("chmod").uid(OWNER).arg("755").arg(at).status().unwrap().success());
    seed(&source, at).option("--wait-timeout", "1s").ends().exits(75);
}

#[test]
fn an_access_point_s_owners_are_nobody_s_concern_unless_chown_names_one() {
    let point = |sandbox: &Sandbox| exported(sandbox, Squash::All(OWNER, OWNER), 0o755);
    let sandbox = Sandbox::new();
    let Some(volume) = point(&sandbox) else { return };
    let (source, at) = (source(&sandbox), volume.path());
    let outcome = seed(&source, at).flag("--strict").json().ends().exits(0).says_nothing_of("WARN");
    assert_eq!(outcome.line("seeding")["owner_of_everything"], "33:33");
    let sandbox = Sandbox::new();
    let Some(volume) = point(&sandbox) else { return };
    let outcome = seed(&source, volume.path()).option("--chown", "34:34").json().ends().exits(0);
    outcome.says("now of 33:33").says("left as it is");
}
