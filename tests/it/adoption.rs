//! A volume that was seeded before volseed: what the image says of it, and `--adopt`.

use std::fs;
use std::path::{Path, PathBuf};

use slowfs::{Op, Options};

use crate::kit::moments::{killed_publishing, much_to_publish};
use crate::kit::slowfs::slow;
use crate::kit::{Sandbox, Snapshot, Tree, Volseed, assert_same_tree, seed, volseed};

/// All that is left in the state directory of a volume that is known.
const STATE: [&str; 4] = ["lock", "manifest-1", "record.json", "state.json"];

fn image() -> Tree {
    Tree::new()
        .file("version.php", "1.0")
        .file("index.php", "<?php")
        .file("lib/a.php", "a")
        .file("lib/b.php", "b")
        .file("install/index.php", "installer")
}

/// The source as a directory, and as an archive.
fn sources(sandbox: &Sandbox) -> [PathBuf; 2] {
    [image().write_to(&sandbox.directory("source")), sandbox.file("seed.tar", image().archive())]
}

/// A volume onto which an entry point has copied these, and then was killed.
fn half_copy(sandbox: &Sandbox, name: &str) -> PathBuf {
    Tree::new()
        .file("version.php", "1.0")
        .file("lib/a.php", "a, changed by a user")
        .write_to(&sandbox.directory(name))
}

fn start(source: &Path, volume: &Path) -> Volseed {
    seed(source, volume).option("--sentinel", "version.php").option("--seed-version", "1.0")
}

fn verified(volume: &Path) -> Volseed {
    volseed(["verify", "--to"]).arguments([volume])
}

#[test]
fn a_half_copy_is_adopted_with_a_warning_and_repaired() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = half_copy(&sandbox, &format!("volume-{number}"));
        let adopted = start(source, &volume).ends().exits(0).says("adopted as it is").says("differ=1");
        adopted.says("missing=4").says("lacks 4 of the image's entries: 'index.php', 'install', 'lib/b.php'");
        assert!(!volume.join("index.php").exists());
        verified(&volume).ends().exits(1).prints("missing   lib/b.php").prints("modified  lib/a.php");
        volseed(["repair", "--from"]).arguments([source]).option("--to", &volume).ends().exits(0);
        verified(&volume).ends().exits(1).prints("modified  lib/a.php");
        assert_eq!(fs::read_to_string(volume.join("lib/a.php")).unwrap(), "a, changed by a user");
        assert_eq!(fs::read_to_string(volume.join("install/index.php")).unwrap(), "installer");
    }
}

#[test]
fn it_can_be_refused_and_then_nothing_of_it_changes() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), half_copy(&sandbox, "volume"));
    let before = Snapshot::of(&volume);
    let refused = start(&source, &volume).option("--adopt", "refuse").ends();
    refused.fails(78, "it has the image's sentinel, and it lacks 4 of the image's entries: 'index.php'");
    // Also at the next start.
    start(&source, &volume).option("--adopt", "refuse").ends().exits(78);
    before.assert_same(&Snapshot::of(&volume));
    assert!(!volume.join(".volseed/state.json").exists());
    image().write_to(&volume);
    start(&source, &volume).option("--adopt", "refuse").ends().exits(0).says("adopted");
    verified(&volume).ends().exits(0);
}

#[test]
fn it_can_be_completed_and_users_files_stay() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = half_copy(&sandbox, &format!("volume-{number}"));
        fs::write(volume.join("lib/mine.php"), "a user's").unwrap();
        let completed = start(source, &volume).option("--adopt", "complete").ends().exits(0);
        completed.says("put_back=3").says("put back path=\"lib/b.php\"").says("left=1");
        let verified = verified(&volume).ends().exits(1).prints("modified  lib/a.php");
        verified.prints(&format!(
            "{}: 7 entries compared (version 1.0): 1 modified; 1 entry is not from the seed",
            volume.display()
        ));
        assert_eq!(fs::read_to_string(volume.join("lib/a.php")).unwrap(), "a, changed by a user");
        assert_eq!(fs::read_to_string(volume.join("lib/mine.php")).unwrap(), "a user's");
        assert_eq!(crate::order::names(&volume.join(".volseed")), STATE);
        start(source, &volume).ends().exits(0).says("already seeded");
    }
}

#[test]
fn a_completion_that_was_killed_is_not_taken_for_whole() {
    let sandbox = Sandbox::new();
    let tree = much_to_publish().file("version.php", "1.0");
    let source = tree.write_to(&sandbox.directory("source"));
    for number in 0..3 {
        let volume = Tree::new().file("version.php", "1.0").file("d/mine", "a user's");
        let volume = volume.write_to(&sandbox.directory(&format!("volume-{number}")));
        let complete = || start(&source, &volume).option("--adopt", "complete");
        if !killed_publishing(complete(), &volume) {
            continue;
        }
        fs::write(volume.join("01499"), "a user's").unwrap();
        start(&source, &volume).option("--adopt", "refuse").ends().fails(78, "it lacks");
        complete().ends().exits(0).says("adopted");
        for path in ["d/mine", "01499"] {
            assert_eq!(fs::read_to_string(volume.join(path)).unwrap(), "a user's");
        }
        verified(&volume).ends().exits(1).says_nothing_of("missing").prints("modified  01499");
        assert_eq!(crate::order::names(&volume.join(".volseed")), STATE);
    }
}

#[test]
fn a_copy_is_compared_by_names_and_sizes_alone() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, Options::default()) else { return };
    let image = Tree::many("lib", 50).file("version.php", "1.0");
    let source = image.write_to(&sandbox.directory("source"));
    for number in 0..50 {
        let name = format!("lib/{number:05}");
        fs::create_dir_all(volume.path().join("lib")).unwrap();
        fs::copy(source.join(&name), volume.path().join(&name)).unwrap();
    }
    fs::copy(source.join("version.php"), volume.path().join("version.php")).unwrap();
    let before = volume.counts();
    start(&source, volume.path()).ends().exits(0).says("adopted");
    let counts = volume.counts();
    let opened = counts[Op::Open] - before[Op::Open];
    assert!(opened < 30, "{opened} files and directories were opened");
    verified(volume.path()).ends().exits(0);
}

#[test]
fn an_image_without_its_source_adopts_as_it_is() {
    let sandbox = Sandbox::new();
    let volume = half_copy(&sandbox, "volume");
    let gone = sandbox.path("gone");
    start(&gone, &volume).option("--adopt", "complete").ends().fails(66, "open source");
    let adopted = start(&gone, &volume).ends().exits(0).says("adopted without a look");
    adopted.says_nothing_of("missing=").says_nothing_of("version=");
    let stdin = start(Path::new("-"), &volume).option("--adopt", "refuse").ends();
    stdin.fails(64, "cannot read standard input");
}

#[test]
fn a_plan_tells_what_adoption_does() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), half_copy(&sandbox, "volume"));
    let before = Snapshot::of(&volume);
    let plan = |adopt: &str| {
        let plan = volseed(["plan", "--sentinel", "version.php", "--seed-version", "1.0", "--from"]);
        plan.arguments([&source]).option("--to", &volume).option("--adopt", adopt).ends()
    };
    let shown = volume.display();
    let said = plan("as-is").exits(1).stdout;
    let adopted = format!(
        "{shown}: would be adopted as it is: it was seeded before volseed: it has the image's sentinel"
    );
    assert!(said.contains(&adopted), "{said}");
    assert!(
        said.contains(
            "and it lacks 4 of the image's entries: 'index.php', 'install', 'lib/b.php'; 1 entry differs"
        ),
        "{said}"
    );
    plan("complete")
        .exits(1)
        .prints("add           install   (a whole directory)")
        .prints("add           lib/b.php");
    assert!(plan("refuse").exits(78).stdout.contains("would be refused: adopt volume"));
    before.assert_same(&Snapshot::of(&volume));
    assert!(!volume.join(".volseed").exists());
}

#[test]
fn an_adopted_volume_can_be_upgraded() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), image().write_to(&sandbox.directory("volume")));
    fs::remove_dir_all(volume.join("install")).unwrap();
    start(&source, &volume).ends().exits(0).says("adopted");
    let tree =
        Tree::new().file("version.php", "2.0!").file("index.php", "<?php 2").file("install/index.php", "2");
    let newer = tree.write_to(&sandbox.directory("newer"));
    let upgrade = start(&newer, &volume).option("--seed-version", "2.0").option("--upgrade", "1.*");
    upgrade.ends().exits(0).says("upgraded");
    assert_eq!(fs::read_to_string(volume.join("index.php")).unwrap(), "<?php 2");
    assert!(!volume.join("lib/b.php").exists(), "what the image installed and dropped goes");
    assert!(!volume.join("install").exists(), "what the user deleted stays deleted");
}

#[test]
fn of_another_version_nothing_is_known() {
    let sandbox = Sandbox::new();
    let ([source, _], volume) = (sources(&sandbox), half_copy(&sandbox, "volume"));
    fs::write(volume.join("version.php"), "0.9").unwrap();
    let before = Snapshot::of(&volume);
    for adopt in ["refuse", "complete"] {
        let refused = start(&source, &volume).option("--adopt", adopt).ends();
        refused.fails(78, "its sentinel is not the image's, and it lacks 4 of the image's entries");
    }
    let adopted = start(&source, &volume).ends().exits(0);
    adopted.says("its version is not known").says("missing=4").says_nothing_of("version=");
    before.assert_same(&Snapshot::of(&volume));
    verified(&volume).ends().fails(78, "the volume's record names no manifest");
}

#[test]
fn a_whole_copy_is_known_as_if_it_had_been_seeded() {
    let sandbox = Sandbox::new();
    for (number, source) in sources(&sandbox).iter().enumerate() {
        let volume = image().write_to(&sandbox.directory(&format!("volume-{number}")));
        start(source, &volume).ends().exits(0).says("adopted").says_nothing_of("missing");
        assert_same_tree(&sandbox.path("source"), &volume);
        volseed(["verify", "--digest", "--to"]).arguments([&volume]).ends().exits(0);
    }
}
