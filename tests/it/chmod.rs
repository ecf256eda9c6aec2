//! `--chmod`: the modes of what is seeded, as chmod(1) would make them of the source's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Snapshot, Tarball, Tree, assert_same_tree, needs, seed, volseed};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Files, a FIFO, a link and directories of many modes, of which the root has an odd one, too.
fn modes() -> Tree {
    let tree = Tree::new().mode(0o750).symlink("link", "f600").fifo("fifo").mode(0o640);
    [0o600, 0o644, 0o755, 0o4711, 0o2640, 0o400].into_iter().fold(tree, |tree, mode| {
        let directory = format!("d{mode:o}");
        let tree = tree.directory(&directory).mode(mode | 0o700);
        tree.file(format!("{directory}/f"), "x").mode(mode).file(format!("f{mode:o}"), "x").mode(mode)
    })
}

#[test]
fn symbolic_modes_are_what_chmod_makes_of_them() {
    if !needs::tools(&["chmod"]) {
        return;
    }
    for change in ["g=u", "u=rwX,go=rX", "a+X,o-rwx", "go=", "+x", "ug+s,+t", "a=r,u+w,+X", "u=g,g=o,o=u"] {
        let sandbox = Sandbox::new();
        let source = modes().write_to(&sandbox.directory("source"));
        let (volume, archived) = (sandbox.volume(), sandbox.directory("archived"));
        seed(&source, &volume).option("--chmod", change).ends().exits(0);
        seed("-", &archived).input(modes().archive()).option("--chmod", change).ends().exits(0);
        // The deepest first, since a mode may close a directory to a user; with an umask of nothing.
        let line = format!("umask 0; find \"$1\" -depth ! -type l -exec chmod {change} {{}} +");
        let changed = Command::new("sh").args(["-c", &line, "sh"]).arg(&source).status().unwrap();
        assert!(changed.success(), "{change}");
        assert_same_tree(&source, &volume);
        assert_same_tree(&source, &archived);
    }
}

#[test]
fn octal_modes_are_those_of_files_and_directories_alike() {
    let sandbox = Sandbox::new();
    let source = modes().write_to(&sandbox.directory("source"));
    for (text, expected) in [("755", 0o755), ("0700", 0o700), ("2775", 0o2775)] {
        let volume = sandbox.directory(text);
        let seeded = seed(&source, &volume).option("--chmod", text).option("--sentinel", "made/sentinel");
        seeded.ends().exits(0);
        for path in [".", "f600", "fifo", "d644", "d644/f", "made", "made/sentinel"] {
            assert_eq!(mode(&volume.join(path)), expected, "{path}");
        }
        assert_eq!(mode(&volume.join("link")), 0o777);
    }
}

#[test]
fn parents_that_an_archive_only_implies_get_the_mode_too() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let archive = Tarball::new().file("implied/f", "x");
    seed("-", &volume).input(archive.build()).option("--chmod", "g=u").ends().exits(0);
    assert_eq!(mode(&volume.join("implied")), 0o775);
}

#[test]
fn a_mode_that_closes_directories_to_their_owner_is_given_at_the_end() {
    if !needs::root() {
        return;
    }
    for text in ["000", "a-x", "0444"] {
        let sandbox = Sandbox::new();
        let tree = Tree::new().owner(PROBE_ID, PROBE_ID).file("a/b/f", "x").file("top", "x");
        let source = tree.write_to(&sandbox.directory("source"));
        let volume = sandbox.volume_of(PROBE_ID);
        let start = || seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).option("--chmod", text);
        start().ends().exits(0);
        assert_eq!(mode(&volume.join("a/b")) & 0o111, 0, "{text}");
        assert_eq!(fs::read(volume.join("a/b/f")).unwrap(), b"x");
    }
}

#[test]
fn without_an_option_no_mode_is_changed_and_with_one_nothing_but_modes() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    seed(&source, &volume).option("--chmod", "a+rX").ends().exits(0);
    Snapshot::of(&source).without_modes().assert_same(&Snapshot::of(&volume).without_modes());
}

#[test]
fn what_is_no_mode_is_wrong_usage_with_an_example() {
    for text in ["", "888", "10000", "u+q", "rwx", "0o755"] {
        let option = format!("--chmod={text}");
        seed("/nowhere", "/nowhere").flag(&option).ends().fails(64, "--chmod").says("g=u");
    }
}

#[test]
fn the_file_takes_modes_as_text_since_a_number_has_two_meanings() {
    let sandbox = Sandbox::new();
    let (source, volume) = (Tree::new().file("f", "x"), sandbox.volume());
    let source = source.write_to(&sandbox.directory("source"));
    let config = |value: &str| {
        let table = format!("[[volume]]\nfrom = {source:?}\nto = {volume:?}\nchmod = {value}\n");
        volseed(["seed"]).option("--config", sandbox.file("volseed.toml", table))
    };
    config("0o640").ends().fails(64, "chmod");
    config("\"0640\"").ends().exits(0);
    assert_eq!(mode(&volume.join("f")), 0o640);
}

#[test]
fn another_mode_of_a_complete_volume_is_a_warning_that_names_it() {
    let sandbox = Sandbox::new();
    let (source, volume) = (Tree::sample().write_to(&sandbox.directory("source")), sandbox.volume());
    let start = |mode: &str| seed(&source, &volume).option("--chmod", mode).json().ends().exits(0);
    start("644");
    start("0644").says_nothing_of("WARN");
    start("g=u").says("WARN").says("g=u").says("0644");
}

/// OpenShift: any UID, and another one after the next change, always in group 0; the root and what was there before
/// belong to root.
#[test]
fn a_foreign_root_is_seeded_for_group_0_and_seen_as_seeded_by_another_uid_of_it() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source =
        Tree::new().file("wp-content/p.php", "x").file("i", "x").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    fs::create_dir(volume.join("wp-content")).unwrap();
    for directory in [&volume, &volume.join("wp-content")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o2775)).unwrap();
    }
    let start =
        |uid| seed(&source, &volume).started_by(uid, 0).option("--chmod", "g=u").json().ends().exits(0);
    start(1_000_620_000).warns_once(3);
    for (path, expected) in [(".", 0o2775), ("wp-content", 0o2775), ("wp-content/p.php", 0o664), ("i", 0o664)]
    {
        assert_eq!((mode(&volume.join(path)), fs::metadata(volume.join(path)).unwrap().gid()), (expected, 0));
    }
    start(1_000_999_999).says("already seeded").says_nothing_of("WARN");
}
