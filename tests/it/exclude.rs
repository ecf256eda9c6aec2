//! What `--exclude` leaves out of a directory and of an archive, and what follows for the rest.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use crate::kit::{
    Compression, Outcome, Sandbox, Tarball, Tree, Volseed, assert_nothing_published, assert_same_tree, seed,
    volseed,
};

/// An application with what nobody wants on a volume.
fn app() -> Tree {
    kept()
        .file("cache/a/b", "cached")
        .file("lib/cache/c", "of the library")
        .file("debug.log", "log")
        .file("lib/x/y.log", "log")
        .symlink("lib/latest.log", "x/y.log")
        .file("node_modules/m/index.js", "m")
        .directory("lib/tmp")
        .fifo("lib/tmp/fifo")
}

/// What stays of it. The times of directories differ: they are compared without.
fn kept() -> Tree {
    Tree::new()
        .file("index.php", "<?php")
        .file("lib/code.php", "<?php")
        .directory("lib/x")
        .directory("lib/cache")
}

const PATTERNS: &str = "/cache,./node_modules/,**/*.log,lib/cache/*,lib/t?p/";

fn names(directory: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap).filter(|it| it.file_name() != ".volseed")
        {
            found.push(entry.path().strip_prefix(directory).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn leaves_out(source: impl AsRef<Path>, volume: &Path) -> Outcome {
    let outcome = seed(source.as_ref(), volume).option("--exclude", PATTERNS).json().ends().exits(0);
    assert_eq!(names(volume), ["index.php", "lib", "lib/cache", "lib/code.php", "lib/x"]);
    assert!(!outcome.has_line("an --exclude that matches nothing in the source"), "{}", outcome.stderr);
    outcome
}

#[test]
fn a_directory_is_seeded_without_what_matches() {
    let sandbox = Sandbox::new();
    let source = app().write_to(&sandbox.directory("source"));
    let outcome = leaves_out(&source, &sandbox.volume());
    // Of a directory itself, not what is in it.
    assert_eq!(outcome.line("seeded")["excluded"], 7);
    assert_eq!(outcome.line("seeded")["files"], 2);
}

#[test]
fn an_archive_is_seeded_without_what_matches_however_it_is_packed() {
    for packing in Compression::ALL {
        let sandbox = Sandbox::new();
        let Some(archive) = packing.pack(&app().archive()) else { continue };
        leaves_out(sandbox.file("seed", archive), &sandbox.volume());
    }
}

#[test]
fn an_archive_that_does_not_name_its_directories_is_seeded_without_them() {
    let sandbox = Sandbox::new();
    let archive = Tarball::new().file("cache/a/b", "x").file("lib/a", "a").file("lib/cache/b/c", "x").build();
    let start = seed(sandbox.file("seed.tar", archive), sandbox.volume());
    let outcome = start.option("--exclude", "cache").option("--exclude", "lib/cache/").json().ends().exits(0);
    assert_eq!(names(&sandbox.volume()), ["lib", "lib/a"]);
    assert_eq!(outcome.line("seeded")["excluded"], 2);
    assert!(!outcome.has_line("an --exclude that matches nothing in the source"));
}

#[test]
fn the_rest_is_as_it_is_in_the_source() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let archive = sandbox.file("seed.tar", Tree::sample().file("extra/x", "x").archive());
    let volume = sandbox.volume();
    seed(archive, &volume).option("--exclude", "extra").ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_pattern_that_matches_nothing_is_one_warning_that_names_it() {
    let sandbox = Sandbox::new();
    let source = app().write_to(&sandbox.directory("source"));
    let outcome = seed(&source, sandbox.volume()).option("--exclude", "cahce,cache").ends().exits(0);
    assert_eq!(outcome.stderr.matches("matches nothing").count(), 1, "{}", outcome.stderr);
    outcome.says("pattern=\"cahce\"");
}

#[test]
fn patterns_come_from_the_environment_and_the_file_too() {
    let sandbox = Sandbox::new();
    let source = app().write_to(&sandbox.directory("source"));
    let (first, second) = (sandbox.directory("first"), sandbox.directory("second"));
    seed(&source, &first).env("VOLSEED_EXCLUDE", "cache,lib").ends().exits(0);
    assert_eq!(
        names(&first),
        ["debug.log", "index.php", "node_modules", "node_modules/m", "node_modules/m/index.js"]
    );
    let text = format!(
        "[[volume]]\nfrom = {source:?}\nto = {second:?}\nexclude = [\"lib\", \"[cd]*\", \"node_*\"]\n"
    );
    volseed(["seed"]).option("--config", sandbox.file("volseed.toml", text)).ends().exits(0);
    assert_eq!(names(&second), ["index.php"]);
}

#[test]
fn what_is_no_pattern_and_what_leaves_out_the_sentinel_is_wrong_usage() {
    let start = |pattern: &str| seed("/nowhere", "/nowhere").option("--exclude", pattern);
    for pattern in ["", "/", "../x", "a/../b", "a**", "[a"] {
        start(pattern).ends().fails(64, "--exclude");
    }
    for pattern in ["lib", "**/*.php", "lib/version.php", "**"] {
        start(pattern).option("--sentinel", "lib/version.php").ends().fails(64, "--sentinel");
    }
    start("version.php/").option("--sentinel", "version.php").ends().fails(73, "/nowhere");
}

#[test]
fn an_empty_variable_excludes_nothing() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    seed(&source, &volume).env("VOLSEED_EXCLUDE", "").ends().exits(0);
    assert_same_tree(&source, &volume);
}

/// `a` is left out, and two other names of the same stay.
fn linked() -> Tree {
    Tree::new().file("a", vec![b'x'; 5000]).hard_link("b", "a").hard_link("d/c", "a")
}

#[track_caller]
fn are_one_file(volume: &Path) {
    assert_eq!(names(volume), ["b", "d", "d/c"]);
    let [one, other] = ["b", "d/c"].map(|name| fs::metadata(volume.join(name)).unwrap());
    assert_eq!((one.ino(), one.nlink(), one.size()), (other.ino(), 2, 5000));
    assert_eq!(fs::read(volume.join("b")).unwrap(), vec![b'x'; 5000]);
}

#[test]
fn the_first_link_that_stays_takes_the_place_of_the_file() {
    let sandbox = Sandbox::new();
    let source = linked().write_to(&sandbox.directory("source"));
    let archive = sandbox.file("seed.tar", linked().archive());
    for (from, to) in [(source, "first"), (archive, "second")] {
        let volume = sandbox.directory(to);
        seed(from, &volume).option("--exclude", "a").ends().exits(0);
        are_one_file(&volume);
    }
}

#[test]
fn links_over_names_that_are_left_out_are_followed() {
    let archive = Tarball::new()
        .file("kept", "kept")
        .hard_link("out/1", "kept")
        .hard_link("out/2", "out/1")
        .hard_link("again", "out/2")
        .symlink("out/link", "anywhere")
        .hard_link("link", "out/link")
        .build();
    for packing in [Compression::ALL[0], Compression::COMPRESSED[0]] {
        let Some(archive) = packing.pack(&archive) else { continue };
        let sandbox = Sandbox::new();
        let volume = sandbox.volume();
        seed(sandbox.file("seed", archive), &volume).option("--exclude", "out").ends().exits(0);
        assert_eq!(names(&volume), ["again", "kept", "link"]);
        assert_eq!(
            fs::metadata(volume.join("again")).unwrap().ino(),
            fs::metadata(volume.join("kept")).unwrap().ino()
        );
        assert_eq!(fs::read_link(volume.join("link")).unwrap(), Path::new("anywhere"));
    }
}

#[test]
fn a_link_to_a_file_that_has_gone_by_names_both() {
    for packing in Compression::COMPRESSED {
        let sandbox = Sandbox::new();
        let Some(archive) = packing.pack(&linked().archive()) else { continue };
        let volume = sandbox.volume();
        let outcome = seed(sandbox.file("seed", archive), &volume).option("--exclude", "a").ends();
        outcome.fails(65, "member 'b': a hard link to 'a', which --exclude leaves out");
        assert_nothing_published(&volume);
    }
}

#[test]
fn a_name_that_was_replaced_is_no_name_of_what_was_left_out() {
    let sandbox = Sandbox::new();
    let archive =
        Tarball::new().file("a", "one").hard_link("b", "a").file("b", "two").hard_link("c", "a").build();
    let outcome = seed(sandbox.file("seed.tar", archive), sandbox.volume()).option("--exclude", "a").ends();
    outcome.fails(65, "'c': a hard link to 'a'");
}

/// What refuses an archive or a directory may be left out.
#[test]
fn what_no_seed_may_hold_can_be_left_out() {
    let sandbox = Sandbox::new();
    let null = |header: &mut Header| {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    };
    let archive = Tarball::new()
        .directory("dev")
        .member(EntryType::Char, "dev/null", "", "")
        .edit(null)
        .file(".volseed/state.json", "{}")
        .file("a", "a")
        .build();
    let archive = sandbox.file("seed.tar", archive);
    let start = |to: &Path, patterns: &str| seed(&archive, to).option("--exclude", patterns);
    let volume = sandbox.volume();
    start(&volume, "dev").ends().fails(65, "volseed's own name");
    start(&volume, ".volseed").ends().fails(65, "device node");
    start(&volume, "dev/*,.volseed").ends().exits(0);
    assert_eq!(names(&volume), ["a", "dev"]);
    let other = sandbox.directory("other");
    seed(&volume, &other).ends().fails(65, "--exclude .volseed");
    seed(&volume, &other).option("--exclude", ".volseed").ends().exits(0);
    assert_eq!(names(&other), ["a", "dev"]);
}

#[test]
fn a_stage_that_was_made_with_other_patterns_is_not_resumed() {
    let sandbox = Sandbox::new();
    let source = Tree::many("d", 200).file("out/x", "x").write_to(&sandbox.directory("source"));
    let volume: PathBuf = sandbox.volume();
    let full = |start: Volseed| start.option("--max-entries", "150").ends().fails(65, "--max-entries");
    full(seed(&source, &volume));
    seed(&source, &volume).option("--exclude", "out").ends().exits(0).says("resumed=false");
    assert_eq!(names(&volume).len(), 201);
}
