//! A new image on a volume that an older one seeded: `--upgrade`, `volseed plan`, and the way back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::kit::slowfs::{far, slow};
use crate::kit::{
    Outcome, Sandbox, Tree, Volseed, assert_same_tree, eventually, mount, needs, seed, volseed,
};

/// What both images have, with a bit of everything.
fn both() -> Tree {
    Tree::new()
        .file("lib/same.php", "same")
        .file("lib/sub/deep/same.php", "same, too")
        .symlink("lib/link", "same.php")
        .fifo("lib/pipe")
        .file("conf/app.conf", "from the image")
        .file("data/README", "put your files here")
}

fn first() -> Tree {
    both()
        .file("version.php", "1.0")
        .file("lib/changed.php", "old")
        .file("lib/gone.php", "gone in 2.0")
        .file("lib/old-only/a.php", "a")
        .file("lib/old-only/sub/b.php", "b")
        .symlink("lib/current", "v1")
        .file("plugins/seo/main.php", "seo 1")
        .file("plugins/seo/lang.php", "lang 1")
}

fn second() -> Tree {
    both()
        .file("version.php", "2.0")
        .file("lib/changed.php", "new, and longer")
        .file("lib/added.php", "added")
        .file("lib/new-only/c.php", "c")
        .mode(0o600)
        .hard_link("lib/new-only/d.php", "lib/new-only/c.php")
        .symlink("lib/current", "v2")
        .file("plugins/seo/main.php", "seo 2, rewritten")
        .file("plugins/seo/lang.php", "lang 2, rewritten")
}

/// A volume at the first image's version, and the second image, as a directory or an archive.
struct Site {
    sandbox: Sandbox,
    volume: PathBuf,
    old: PathBuf,
    new: PathBuf,
}

impl Site {
    fn of(old: &Tree, new: &Tree, archives: bool) -> Site {
        let sandbox = Sandbox::new();
        let volume = sandbox.volume();
        let source = |name: &str, tree: &Tree| match archives {
            true => sandbox.file(&format!("{name}.tar"), tree.archive()),
            false => tree.write_to(&sandbox.directory(name)),
        };
        let (old, new) = (source("old", old), source("new", new));
        let site = Site { volume, old, new, sandbox };
        site.start("1.0").ends().exits(0);
        site
    }

    fn new() -> Site {
        Site::of(&first(), &second(), false)
    }

    /// What an image of this version does.
    fn start(&self, version: &str) -> Volseed {
        let source = if version.starts_with('1') { &self.old } else { &self.new };
        seed(source, &self.volume).option("--seed-version", version).option("--sentinel", "version.php")
    }

    fn upgrade(&self) -> Volseed {
        self.start("2.0").option("--upgrade", "1.*")
    }

    fn plan(&self) -> Volseed {
        let plan = volseed(["plan", "--from"]).arguments([&self.new]).option("--to", &self.volume);
        plan.option("--seed-version", "2.0").option("--sentinel", "version.php").option("--upgrade", "1.*")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.volume.join(path)
    }

    #[track_caller]
    fn reads(&self, path: &str, text: &str) {
        assert_eq!(fs::read_to_string(self.path(path)).unwrap(), text, "{path}");
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    /// The tree is that of a fresh seed of the second image.
    #[track_caller]
    fn is_second(&self) {
        let fresh = second().write_to(&self.sandbox.directory("fresh"));
        // A version file of the same size and time has another time now, so that caches notice.
        let times = fs::metadata(self.path("version.php")).unwrap();
        assert_eq!(times.mtime(), fs::metadata(fresh.join("version.php")).unwrap().mtime() + 1);
        for root in [&fresh, &self.volume] {
            set_times(root, &["version.php"]);
        }
        assert_same_tree(&fresh, &self.volume);
        volseed(["verify", "--digest", "--to"]).arguments([&self.volume]).ends().exits(0);
    }
}

/// Gives every directory, and these files, one time.
fn set_times(directory: &Path, files: &[&str]) {
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    let set = |path: &Path| fs::File::open(path).unwrap().set_times(time).unwrap();
    files.iter().for_each(|file| set(&directory.join(file)));
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() && entry.file_name() != ".volseed" {
            set_times(&entry.path(), &[]);
        }
    }
    set(directory);
}

#[test]
fn an_untouched_volume_becomes_what_a_fresh_seed_would_be() {
    for archives in [false, true] {
        let site = Site::of(&first(), &second(), archives);
        site.upgrade()
            .ends()
            .exits(0)
            .says("upgraded")
            .says("from=\"1.0\" to=\"2.0\"")
            .says("saved=0 offered=0");
        site.is_second();
        let state = crate::order::names(&site.path(".volseed"));
        assert_eq!(state, ["lock", "manifest-2", "record.json", "state.json"], "archives: {archives}");
        site.upgrade().ends().exits(0).says("already seeded");
    }
}

#[test]
fn without_the_option_and_on_newer_volumes_nothing_happens() {
    let site = Site::new();
    site.start("2.0").ends().exits(0).says("already seeded").says("version 1.0 (asked: 2.0)");
    site.reads("version.php", "1.0");
    site.upgrade().ends().exits(0).says("upgraded");
    site.start("1.0").option("--upgrade", "*").ends().exits(0).says("already seeded");
    site.reads("version.php", "2.0");
}

#[test]
fn a_version_that_is_not_upgraded_is_refused_and_nothing_is_written() {
    let site = Site::new();
    let before = crate::order::names(&site.path(".volseed"));
    let refused = site.start("3.0").option("--upgrade", "2.*,none").ends();
    refused.fails(78, "it is at 1.0, and 3.0 upgrades only 2.*, none");
    assert_eq!(crate::order::names(&site.path(".volseed")), before);
    let plan = volseed(["plan", "--from"]).arguments([&site.new]).option("--to", &site.volume);
    let plan = plan.option("--seed-version", "3.0").option("--upgrade", "2.*").ends().exits(78);
    assert!(plan.stdout.contains("would be refused"), "{}", plan.stdout);
}

#[test]
fn a_plan_says_what_an_upgrade_does_and_changes_nothing() {
    let site = Site::new();
    site.write("lib/changed.php", "the user's");
    let plan = site.plan().ends().exits(1).prints("remove        lib/gone.php");
    for line in ["replace+save  lib/changed.php", "would be upgraded from 1.0 to 2.0"] {
        assert!(plan.stdout.contains(line), "{}", plan.stdout);
    }
    site.reads("version.php", "1.0");
    assert_eq!(fs::read_dir(site.path(".volseed")).unwrap().count(), 4);
    site.upgrade().ends().exits(0);
    let done = site.plan().ends().exits(0);
    assert!(done.stdout.contains("nothing to do: it is at this version"), "{}", done.stdout);
    let json = site.plan().flag("--json").ends().exits(0);
    assert!(json.stdout.contains("\"does\":\"start\""), "{}", json.stdout);
}

#[test]
fn what_the_user_changed_is_kept_beside_or_in_place() {
    for kept in [false, true] {
        let site = Site::new();
        site.write("lib/changed.php", "the user's");
        site.write("lib/same.php", "the user's, and no business of the upgrade");
        let upgrade = if kept { site.upgrade().option("--keep", "lib/*.php") } else { site.upgrade() };
        let done = upgrade.ends().exits(0);
        site.reads("lib/same.php", "the user's, and no business of the upgrade");
        if kept {
            done.says("saved=0 offered=1");
            site.reads("lib/changed.php", "the user's");
            site.reads(".volseed/new/2/lib/changed.php", "new, and longer");
        } else {
            done.says("path=\"lib/changed.php\"").says("saved=1 offered=0");
            site.reads("lib/changed.php", "new, and longer");
            site.reads(".volseed/old/2/lib/changed.php", "the user's");
        }
        for place in ["old", "new"] {
            if let Ok(found) = fs::metadata(site.path(".volseed").join(place)) {
                assert_eq!(found.mode() & 0o777, 0o700, "what is displaced may hold secrets");
            }
        }
    }
}

#[test]
fn what_the_user_deleted_stays_deleted() {
    let site = Site::new();
    fs::remove_file(site.path("lib/changed.php")).unwrap();
    fs::remove_dir_all(site.path("plugins")).unwrap();
    site.upgrade().ends().exits(0).says("its directory was removed by the user");
    assert!(!site.path("lib/changed.php").exists() && !site.path("plugins").exists());
    site.reads(".volseed/new/2/lib/changed.php", "new, and longer");
    site.reads("lib/added.php", "added");
}

#[test]
fn what_goes_takes_nothing_of_the_users_along() {
    let site = Site::new();
    site.write("lib/old-only/mine.php", "the user's own");
    site.write("lib/old-only/sub/b.php", "the user's change");
    site.upgrade().ends().exits(0);
    site.reads("lib/old-only/mine.php", "the user's own");
    site.reads("lib/old-only/sub/b.php", "the user's change");
    assert!(!site.path("lib/old-only/a.php").exists() && !site.path("lib/gone.php").exists());
}

#[test]
fn a_users_own_file_in_a_new_ones_place_stays() {
    let site = Site::new();
    site.write("lib/added.php", "the user's own");
    site.write("lib/new-only/c.php", "the user's own, too");
    site.upgrade().ends().exits(0).says("offered=2");
    let status = volseed(["status", "--to"]).arguments([&site.volume]).ends().exits(0);
    status.prints(&format!("  offered    2 files, 6 B, in {}", site.path(".volseed/new").display()));
    site.reads("lib/added.php", "the user's own");
    site.reads("lib/new-only/c.php", "the user's own, too");
    site.reads("lib/new-only/d.php", "c");
    site.reads(".volseed/new/2/lib/added.php", "added");
}

/// What the user put in the place of an addition is nobody's but the user's in the next upgrade, too.
#[test]
fn a_users_own_file_in_a_new_ones_place_stays_the_next_time() {
    let site = Site::new();
    site.write("lib/added.php", "the user's own");
    site.upgrade().ends().exits(0).says("offered=1");
    volseed(["verify", "--digest", "--to"])
        .arguments([&site.volume])
        .ends()
        .exits(0)
        .says_nothing_of("added.php");
    let third = both().file("lib/added.php", "added, and changed").file("version.php", "3.0");
    let source = third.write_to(&site.sandbox.directory("third"));
    let start =
        seed(&source, &site.volume).option("--seed-version", "3.0").option("--sentinel", "version.php");
    start.option("--upgrade", "2.*").ends().exits(0).says("saved=0 offered=1");
    site.reads("lib/added.php", "the user's own");
    site.reads(".volseed/new/3/lib/added.php", "added, and changed");
    // One that the next image is without stays, too.
    let fourth = both().file("version.php", "4.0");
    let source = fourth.write_to(&site.sandbox.directory("fourth"));
    let start =
        seed(&source, &site.volume).option("--seed-version", "4.0").option("--sentinel", "version.php");
    start.option("--upgrade", "3.*").ends().exits(0);
    site.reads("lib/added.php", "the user's own");
}

#[test]
fn a_plugin_that_the_user_updated_stays_as_a_whole() {
    let site = Site::new();
    site.write("plugins/seo/main.php", "seo 9");
    let upgrade = site.upgrade().option("--keep", "plugins/*");
    upgrade.ends().exits(0).says("offered=2");
    site.reads("plugins/seo/main.php", "seo 9");
    site.reads("plugins/seo/lang.php", "lang 1");
    site.reads(".volseed/new/2/plugins/seo/lang.php", "lang 2, rewritten");
}

#[test]
fn protected_paths_only_get_more() {
    let old = first().file("data/seed.txt", "1").file("data/gone.txt", "1");
    let new = second().file("data/seed.txt", "2, changed").file("data/more.txt", "2");
    let site = Site::of(&old, &new, false);
    for number in 0..100 {
        site.write(&format!("data/{number}"), "the user's");
    }
    site.upgrade().option("--protect", "data").ends().exits(0);
    site.reads("data/seed.txt", "1");
    site.reads("data/gone.txt", "1");
    site.reads("data/more.txt", "2");
    assert_eq!(fs::read_dir(site.path("data")).unwrap().count(), 104);
}

#[test]
fn an_app_that_updated_itself_is_left_alone() {
    let site = Site::new();
    site.write("version.php", "1.5");
    site.upgrade().ends().exits(0).says("the app has updated itself");
    site.reads("lib/changed.php", "old");
    // To the image's own version it may have: then all is as the image has it already, or is made so.
    site.write("version.php", "2.0");
    site.upgrade().ends().exits(0).says("upgraded");
    site.reads("lib/changed.php", "new, and longer");
}

#[test]
fn half_an_image_is_refused() {
    let site = Site::of(&first(), &Tree::new().file("version.php", "2.0"), false);
    site.upgrade().ends().fails(78, "more than --max-delete 50 percent");
    site.reads("lib/gone.php", "gone in 2.0");
    site.reads("version.php", "1.0");
    site.upgrade().option("--max-delete", "100").ends().exits(0).says("upgraded");
    assert!(!site.path("lib/gone.php").exists());
}

#[test]
fn types_change_both_ways() {
    let old = first().file("x/a", "a").file("y", "y").symlink("z", "y").file("w/a", "a");
    let new = second().file("x", "x").file("y/b", "b").file("z", "z").file("w", "w");
    let site = Site::of(&old, &new, false);
    site.write("w/mine", "the user's");
    site.upgrade().ends().exits(0);
    site.reads("x", "x");
    site.reads("y/b", "b");
    site.reads("z", "z");
    site.reads("w/mine", "the user's");
    site.reads(".volseed/new/2/w", "w");
    let site = Site::of(&old, &new, false);
    site.write("w/mine", "the user's");
    site.write("y", "the user's");
    site.upgrade().ends().exits(0);
    site.reads("y/b", "b");
    site.reads(".volseed/old/2/y", "the user's");
}

#[test]
fn nothing_behind_a_link_or_a_mount_is_touched() {
    if !needs::root() {
        return;
    }
    let site = Site::new();
    let outside = site.sandbox.directory("outside");
    fs::rename(site.path("lib/old-only"), outside.join("old-only")).unwrap();
    fs::rename(site.path("plugins"), outside.join("plugins")).unwrap();
    symlink(outside.join("plugins"), site.path("plugins")).unwrap();
    fs::create_dir(site.path("lib/old-only")).unwrap();
    let _mount = mount::tmpfs(&site.path("lib/old-only"), "size=1m");
    site.write("lib/old-only/a.php", "a");
    site.upgrade().ends().exits(0).says("something else in place of the directory");
    assert_eq!(fs::read_to_string(outside.join("plugins/seo/main.php")).unwrap(), "seo 1");
    site.reads("lib/old-only/a.php", "a");
    site.reads("lib/changed.php", "new, and longer");
}

#[test]
fn owners_and_modes_that_only_the_user_changed_are_carried_over() {
    let site = Site::new();
    fs::set_permissions(site.path("lib/changed.php"), fs::Permissions::from_mode(0o600)).unwrap();
    site.upgrade().ends().exits(0).says("saved=0");
    assert_eq!(fs::metadata(site.path("lib/changed.php")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn the_old_image_takes_it_back_when_it_is_told_the_version() {
    let site = Site::new();
    site.upgrade().ends().exits(0);
    site.write("lib/changed.php", "changed under 2.0");
    site.start("1.0").option("--rollback-from", "9").ends().exits(0).says("already seeded");
    let back = site.start("1.0").option("--rollback-from", "2.0");
    back.ends().exits(0).says("from=\"2.0\" to=\"1.0\"").says("saved=1");
    site.reads("version.php", "1.0");
    site.reads("lib/changed.php", "old");
    site.reads("lib/old-only/sub/b.php", "b");
    site.reads(".volseed/old/3/lib/changed.php", "changed under 2.0");
    // And is inert ever after.
    site.start("1.0").option("--rollback-from", "2.0").ends().exits(0).says("already seeded");
    site.upgrade().ends().exits(0).says("upgraded");
}

#[test]
fn a_volume_whose_seed_is_not_known_loses_nothing() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    first().write_to(&volume);
    let new = second().write_to(&sandbox.directory("new"));
    let start = || seed(&new, &volume).option("--seed-version", "2.0").option("--sentinel", "version.php");
    let adopted: Outcome = start().ends().exits(0);
    adopted.says("adopted");
    start().option("--upgrade", "*").ends().fails(78, "an unknown version");
    start()
        .option("--upgrade", "*,none")
        .ends()
        .exits(0)
        .says("what was seeded is not known")
        .says("upgraded");
    let read = |path: &str| fs::read_to_string(volume.join(path)).unwrap();
    assert_eq!(read("lib/changed.php"), "new, and longer");
    assert_eq!(read("lib/gone.php"), "gone in 2.0", "nothing is removed");
    assert_eq!(read(".volseed/old/2/version.php"), "1.0");
}

#[test]
fn what_cannot_be_upgraded_is_wrong_usage() {
    let sandbox = Sandbox::new();
    let (source, volume) = (first().write_to(&sandbox.directory("source")), sandbox.volume());
    seed(&source, &volume).option("--upgrade", "*").ends().fails(64, "--upgrade needs --seed-version");
    let stdin = seed("-", &volume).option("--upgrade", "*").option("--seed-version", "2");
    stdin.ends().fails(64, "cannot read standard input");
    seed(&source, &volume).option("--max-delete", "101").ends().exits(64);
    assert!(!volume.join(Path::new(".volseed")).exists());
}

#[test]
fn one_that_was_killed_half_way_is_finished_also_where_files_are_made_as_their_owner() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    // What a server keeps is made as its owner; there the stage must stay ours none the less.
    let Some(volume) = slow(&sandbox, far()) else { return };
    let old = Tree::many("d", 300).file("version.php", "1.0").write_to(&sandbox.directory("old"));
    let new = Tree::many_of("d", 300, 2048).file("version.php", "2.0").write_to(&sandbox.directory("new"));
    let start = |source: &Path, version: &str| {
        let start = seed(source, volume.path()).option("--chown", "33:33").option("--lock", "none");
        start.option("--seed-version", version).option("--sentinel", "version.php").option("--upgrade", "1.*")
    };
    start(&old, "1.0").ends().exits(0);
    let is_new = |name: &str| fs::metadata(volume.path().join(name)).is_ok_and(|it| it.len() == 2048);
    let running = start(&new, "2.0").start();
    eventually("some are replaced", || (0..300).any(|number| is_new(&format!("d/{number:05}"))));
    running.stopped_by(Signal::SIGKILL).0.killed_by(Signal::SIGKILL);
    assert!(!volume.path().join(".volseed/state.json").exists(), "it was too late to kill it");
    // Any image finishes it.
    start(&old, "1.0").ends().exits(0);
    assert!((0..300).all(|number| is_new(&format!("d/{number:05}"))));
    volseed(["verify", "--digest", "--to"]).arguments([volume.path()]).ends().exits(0);
}

#[test]
fn a_file_that_becomes_a_directory_is_not_lost_by_a_kill() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let tree = |below: &str| {
        let name = |number| format!("{number}/x{below}");
        (0..60).fold(Tree::new(), |tree, number| tree.file(name(number), "x")).file("version", below)
    };
    let [old, new] =
        [("old", ""), ("new", "/in")].map(|(name, below)| tree(below).write_to(&sandbox.directory(name)));
    let start = |source: &Path, version: &str| {
        let start = seed(source, volume.path()).option("--lock", "none").option("--upgrade", "1");
        start.option("--seed-version", version).option("--workers", "4")
    };
    start(&old, "1").ends().exits(0);
    let done = || (0..60).filter(|number| volume.path().join(format!("{number}/x/in")).exists()).count();
    for wanted in [2, 12, 24, 36, 48] {
        let running = start(&new, "2").start();
        eventually("some more are directories", || done() >= wanted);
        running.stopped_by(Signal::SIGKILL);
    }
    start(&new, "2").ends().exits(0);
    assert_eq!(done(), 60);
}

#[test]
fn its_progress_is_answered_as_that_of_an_upgrade() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    let [old, new] = [("old", 512), ("new", 1024)]
        .map(|(name, bytes)| Tree::many_of("d", 300, bytes).write_to(&sandbox.directory(name)));
    let start = |source: &Path, version: &str| {
        let start = seed(source, volume.path()).option("--lock", "none").option("--upgrade", "1");
        start.option("--seed-version", version).option("--workers", "4")
    };
    start(&old, "1").ends().exits(0);
    let running = start(&new, "2").listening().start();
    let answer = || running.get("/livez").json();
    eventually("it upgrades", || answer()["phase"] == "upgrading" && answer()["percent"].as_u64() > Some(20));
    assert!(running.get("/metrics").body.contains("volseed_phase{phase=\"upgrading\"} 1"));
    running.ends().exits(0);
}

#[test]
fn a_directory_that_is_removed_while_it_is_looked_at_is_left_out() {
    if !needs::tools(&["strace"]) {
        return;
    }
    let site = Site::new();
    let lib = site.path("lib").into_os_string().into_string().unwrap();
    let trace =
        ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &lib, "-e", "inject=getdents64:error=ENOENT"];
    site.upgrade().under(trace).ends().exits(0).says("its directory was removed by the user");
    site.reads("lib/changed.php", "old");
    site.reads("version.php", "2.0");
}
