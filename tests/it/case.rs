//! Volumes that ignore case: names that such a volume does not tell apart are refused before anything is published.

use std::fs;

use slowfs::Quirks;

use crate::kit::slowfs::{quirky, slow};
use crate::kit::{Sandbox, Tree, assert_nothing_published, mount, needs, seed};

/// Seeds `tree` to a volume that ignores case and is told apart by nothing else, from a directory or an archive.
#[track_caller]
fn refused(tree: Tree, names: [&str; 2]) {
    for from_archive in [false, true] {
        let sandbox = Sandbox::new();
        let quirks = Quirks { ignores_case: true, ..Quirks::default() };
        let Some(volume) = slow(&sandbox, quirky(quirks)) else { return };
        let source = tree.write_to(&sandbox.directory("source"));
        let start = match from_archive {
            true => seed("-", volume.path()).input(tree.archive()),
            false => seed(&source, volume.path()),
        };
        start.ends().exits(78).says(names[0]).says(names[1]).says("does not tell it apart").says("help: ");
        assert_nothing_published(volume.path());
    }
}

#[test]
fn files_that_differ_in_case_only_are_refused_with_both_names() {
    refused(
        Tree::new().file("doc/README", "upper").file("doc/readme", "lower"),
        ["doc/README", "doc/readme"],
    );
}

#[test]
fn directories_that_differ_in_case_only_are_not_merged() {
    refused(Tree::new().file("Lib/a", "a").file("lib/b", "b"), ["Lib", "lib"]);
}

#[test]
fn a_directory_and_a_link_of_one_name_are_refused() {
    refused(Tree::new().file("Foo/file", "x").symlink("foo", "elsewhere"), ["Foo", "foo"]);
}

#[test]
fn letters_beyond_ascii_are_compared_too() {
    refused(Tree::new().file("Ärger", "a").file("äRGER", "b"), ["Ärger", "äRGER"]);
}

#[test]
fn a_seed_whose_names_all_differ_is_as_good_as_anywhere() {
    let sandbox = Sandbox::new();
    let quirks = Quirks { ignores_case: true, ..Quirks::default() };
    let Some(volume) = slow(&sandbox, quirky(quirks)) else { return };
    let tree = Tree::new().file("Doc/README", "x").file("doc2/readme", "y").symlink("l", "Doc");
    let source = tree.write_to(&sandbox.directory("source"));
    seed(&source, volume.path()).ends().exits(0).says("seeded");
    assert_eq!(fs::read_to_string(volume.path().join("doc2/readme")).unwrap(), "y");
    seed(&source, volume.path()).ends().exits(0).says("already seeded");
}

#[test]
fn a_users_file_of_another_spelling_is_kept_like_one_of_the_same() {
    let sandbox = Sandbox::new();
    let quirks = Quirks { ignores_case: true, ..Quirks::default() };
    let Some(volume) = slow(&sandbox, quirky(quirks)) else { return };
    fs::write(volume.path().join("Readme.TXT"), "the user's").unwrap();
    let source =
        Tree::new().file("readme.txt", "the seed's").file("new", "x").write_to(&sandbox.directory("source"));
    seed(&source, volume.path()).ends().exits(0).says("kept=1");
    assert_eq!(fs::read_to_string(volume.path().join("Readme.TXT")).unwrap(), "the user's");
}

/// ext4 decides for each directory (`chattr +F`), so that the stage may tell apart what the volume does not.
#[test]
fn names_that_meet_in_a_directory_of_the_volume_are_found_before_the_seal() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let image = sandbox.path("image");
    let made = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("truncate -s 32M {0} && mkfs.ext4 -q -O casefold -E encoding=utf8 {0}", image.display()))
        .status();
    mount::private();
    let volume = sandbox.volume();
    let mounted = std::process::Command::new("mount").arg("-o").arg("loop").arg(&image).arg(&volume).output();
    if !made.unwrap().success() || !mounted.unwrap().status.success() {
        // Not a matter of a package: a kernel without CONFIG_UNICODE has no such file system.
        eprintln!("skipped: this kernel mounts no ext4 that folds case");
        return;
    }
    fs::create_dir(volume.join("data")).unwrap();
    let folded = std::process::Command::new("chattr").arg("+F").arg(volume.join("data")).status().unwrap();
    assert!(folded.success());
    let source = Tree::new().file("data/A", "1").file("data/a", "2").file("index", "i");
    let source = source.write_to(&sandbox.directory("source"));
    let outcome = seed(&source, &volume).ends();
    let is_published = volume.join("index").exists();
    let _ = std::process::Command::new("umount").arg("-l").arg(&volume).status();
    outcome.exits(78).says("data/A").says("data/a").says("ignores case");
    assert!(!is_published);
}
