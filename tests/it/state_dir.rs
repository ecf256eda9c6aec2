//! `--state-dir`: a web root that is a directory of the volume, and volseed's state beside it.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::mount::{self, bind, tmpfs};
use crate::kit::scene::APP;
use crate::kit::slowfs::{far, slow};
use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, eventually, needs, run, seed, staged, volseed};

/// A mounted volume, the web root that it is seeded into, and where the state is.
struct Beside {
    data: PathBuf,
    html: PathBuf,
    state: PathBuf,
}

impl Beside {
    fn new(data: &Path) -> Beside {
        let html = data.join("html");
        fs::create_dir_all(&html).unwrap();
        Beside { data: data.to_owned(), html, state: data.join(".volseed") }
    }

    fn with(&self, start: Volseed) -> Volseed {
        start.option("--state-dir", &self.state)
    }

    fn seed(&self, from: impl AsRef<Path>) -> Volseed {
        self.with(seed(from.as_ref(), &self.html))
    }

    /// The web root holds the seed and nothing else, and the state is beside it.
    #[track_caller]
    fn holds(&self, source: &Path) {
        assert_same_tree(source, &self.html);
        let ours = fs::read_dir(&self.html).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(ours.filter(|name| name.to_string_lossy().starts_with(".volseed")).count() == 0);
        assert!(self.state.join("state.json").exists());
    }
}

/// Seeds, starts again, is killed and resumes, is emptied; looks on by `wait` and `status`.
fn whole_life(sandbox: &Sandbox, data: &Path) {
    let source = Tree::many("d", 60).file("index.html", "x").write_to(&sandbox.directory("source"));
    let archive = Tree::many("d", 60).file("index.html", "x").archive();
    let beside = Beside::new(data);
    let begun = beside.seed("-").fed().start();
    begun.feed(&archive[..archive.len() / 2]);
    eventually("files in the stage", || staged(&beside.data) > 20);
    drop(begun);
    beside.with(volseed(["status"]).option("--to", &beside.html)).ends().exits(0).says_nothing_of("complete");
    beside.seed("-").input(archive).ends().exits(0).says("resumed=true");
    beside.holds(&source);
    beside.seed(&source).ends().exits(0).says("already seeded");
    beside.with(volseed(["wait"]).option("--to", &beside.html)).ends().exits(0).says("already seeded");
    let status = beside.with(volseed(["status"]).option("--to", &beside.html)).ends().exits(0);
    assert!(status.stdout.contains("complete"), "{status:?}");
    fs::remove_dir_all(beside.html.join("d")).unwrap();
    fs::remove_file(beside.html.join("index.html")).unwrap();
    beside.seed(&source).ends().exits(0).says("emptied");
    beside.holds(&source);
}

#[test]
fn a_volume_lives_its_whole_life_with_its_state_beside_the_root() {
    let sandbox = Sandbox::new();
    whole_life(&sandbox, &sandbox.volume());
}

#[test]
fn so_does_one_on_ext4() {
    if !needs::file_system("ext4") {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let _mount = mount::loop_device("ext4", &sandbox.directory("images"), &sandbox.volume());
    whole_life(&sandbox, &sandbox.volume());
}

#[test]
fn so_does_one_on_a_server() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, far()) else { return };
    whole_life(&sandbox, volume.path());
}

#[test]
fn replicas_with_the_same_state_dir_seed_once() {
    let sandbox = Sandbox::new();
    let source = Tree::many("d", 300).write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    let replicas: Vec<_> = (0..4).map(|_| beside.seed(&source).json().start()).collect();
    let seeded = replicas.into_iter().map(|one| one.ends().exits(0)).filter(|one| one.has_line("seeded"));
    assert_eq!(seeded.count(), 1);
    beside.holds(&source);
}

#[test]
fn the_environment_and_the_file_name_it_too() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    let start = run(&source, &beside.html, ["echo", "app"]).env("VOLSEED_STATE_DIR", &beside.state);
    start.ends().exits(0).prints("app");
    beside.holds(&source);
    let Beside { html, state, .. } = beside;
    let text = format!("[[volume]]\nfrom = {source:?}\nto = {html:?}\nstate-dir = {state:?}\n");
    volseed(["seed"]).option("--config", sandbox.file("f", text)).ends().exits(0).says("already seeded");
}

#[test]
fn a_state_in_the_root_is_used_before_another_and_both_are_named() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    seed(&source, &beside.html).ends().exits(0);
    let outcome = beside.seed(&source).ends().exits(0).says("already seeded").says("--state-dir is not used");
    outcome.says(beside.state.to_str().unwrap()).says(beside.html.join(".volseed").to_str().unwrap());
    assert!(!beside.state.exists());
    beside.with(volseed(["wait"]).option("--to", &beside.html)).ends().exits(0).says("is not used");
}

#[test]
fn a_state_dir_that_is_no_place_for_it_is_wrong_usage() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let Beside { data, html, .. } = Beside::new(&sandbox.volume());
    let start = |dir: &Path| seed(&source, &html).option("--state-dir", dir);
    symlink(&html, data.join("link")).unwrap();
    for dir in [html.join("state"), data.join("link/state"), data.join("html/../html/state")] {
        start(&dir).ends().fails(64, "is inside of --to");
    }
    start(&html).ends().fails(64, "--state-dir");
    start(&data).ends().fails(64, "is around --to");
    start(Path::new("/")).ends().fails(64, "--state-dir");
    start(&data.join("nowhere/state")).ends().fails(73, "nowhere");
    fs::write(data.join("file"), "").unwrap();
    for (name, code) in [("file", 78), ("link", 78)] {
        start(&data.join(name)).ends().fails(code, name);
    }
    assert_eq!(fs::read_dir(&html).unwrap().count(), 0);
}

#[test]
fn two_volumes_with_one_state_are_wrong_usage() {
    let sandbox = Sandbox::new();
    let data = sandbox.volume();
    for (first, second) in
        [("state-dir = \"/d/s\"\n", "state-dir = \"/d//s/\"\n"), ("state-dir = \"/b/.volseed\"\n", "")]
    {
        let text = format!(
            "[[volume]]\nfrom = \"/x\"\nto = \"/a\"\n{first}[[volume]]\nfrom = \"/x\"\nto = \"/b\"\n{second}"
        );
        volseed(["seed"]).option("--config", sandbox.file("f", text)).ends().fails(64, "have their state in");
    }
    let text = "[[volume]]\nfrom = \"/x\"\nto = \"/a\"\n[[volume]]\nfrom = \"/x\"\nto = \"/b\"\n";
    let start =
        volseed(["seed"]).option("--config", sandbox.file("f", text)).option("--state-dir", data.join("s"));
    start.ends().fails(64, "--state-dir names one volume");
}

#[test]
fn another_mount_is_no_place_for_the_state() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    // As Kubernetes mounts a part of a volume.
    let part = sandbox.directory("part");
    let _bound = bind(&beside.html, &part);
    let _other = tmpfs(&sandbox.directory("other"), "mode=0755");
    for (to, dir) in [(&part, beside.state.clone()), (&beside.html, sandbox.path("other/state"))] {
        let outcome = seed(&source, to).option("--state-dir", dir).ends();
        outcome.fails(64, "it is not in the mount of --to").says("subPath");
    }
    assert_eq!(fs::read_dir(&beside.html).unwrap().count(), 0);
}

#[test]
fn a_directory_of_another_project_is_refused_before_anything_is_staged() {
    if !(needs::file_system("xfs") && needs::tools(&["xfs_io"])) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let _mount = mount::loop_device("xfs", &sandbox.directory("images"), &sandbox.volume());
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    let mut project = Command::new("xfs_io");
    assert!(
        project.args(["-c", "chproj 7", "-c", "chattr +P"]).arg(&beside.html).status().unwrap().success()
    );
    beside.seed(&source).ends().fails(78, "nothing can be renamed from it");
    assert_eq!(fs::read_dir(&beside.html).unwrap().count(), 0);
    seed(&source, &beside.html).ends().exits(0);
}

#[test]
fn a_source_that_holds_the_state_is_wrong_usage() {
    let sandbox = Sandbox::new();
    let Beside { data, html, .. } = Beside::new(&sandbox.volume());
    let source = Tree::sample().write_to(&data.join("source"));
    let start = seed(&source, &html).option("--state-dir", source.join("state"));
    start.ends().fails(64, "volseed's state is in there");
}

#[test]
fn what_another_user_has_put_in_its_place_is_taken_over() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    fs::create_dir_all(beside.state.join("claims")).unwrap();
    for path in [&beside.state, &beside.state.join("claims")] {
        chown(path, Some(APP), Some(APP)).unwrap();
    }
    beside.seed(&source).ends().exits(0).says("belonged to another user");
    beside.holds(&source);
}

#[test]
fn what_a_killed_trial_left_in_the_root_is_removed() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    fs::create_dir(beside.html.join(".volseed-0123456789abcdef")).unwrap();
    beside.seed(&source).ends().exits(0);
    beside.holds(&source);
}

#[test]
fn a_state_that_was_moved_out_of_the_root_is_found_again() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let beside = Beside::new(&sandbox.volume());
    seed(&source, &beside.html).ends().exits(0);
    fs::rename(beside.html.join(".volseed"), &beside.state).unwrap();
    beside.seed(&source).ends().exits(0).says("already seeded").says_nothing_of("not used");
    beside.holds(&source);
}
