//! Volumes that ignore case: names that such a volume does not tell apart are refused before anything is published.

use std::fs;

use slowfs::Quirks;

use crate::kit::slowfs::{quirky, slow};
use crate::kit::{Sandbox, Tree, assert_nothing_published, seed};

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

/// As on ext4, where `chattr +F` decides for each directory: the stage tells apart what the volume does not. (The
/// kernel here may lack that of ext4; `bench/volumes --lab` has it.)
#[test]
fn names_that_meet_in_a_directory_of_the_volume_are_found_before_the_seal() {
    let sandbox = Sandbox::new();
    let quirks = Quirks { ignores_case_in: Some("data".into()), ..Quirks::default() };
    let Some(volume) = slow(&sandbox, quirky(quirks)) else { return };
    fs::create_dir(volume.path().join("data")).unwrap();
    fs::write(volume.path().join("data/own"), "the user's").unwrap();
    let source = Tree::new().file("data/A", "1").file("data/a", "2").file("index", "i");
    let source = source.write_to(&sandbox.directory("source"));
    let outcome = seed(&source, volume.path()).ends();
    outcome.exits(78).says("data/A").says("data/a").says("ignores case");
    assert!(!volume.path().join("index").exists());
}

/// As on exFAT and FAT, which silently drop a final dot.
#[test]
fn a_name_of_which_the_volume_drops_the_end_is_refused() {
    for (name, end) in [("doc/etc.", "a dot at its end"), ("doc/blank ", "a blank at its end")] {
        let entries = [
            Tree::new().file("doc/a", "").file(name, "x"),
            Tree::new().file(format!("{name}/a"), "x"),
            Tree::new().symlink(name, "a"),
        ];
        for tree in entries {
            let sandbox = Sandbox::new();
            let quirks = Quirks { drops_at_end: ". ".to_owned(), ..Quirks::default() };
            let Some(volume) = slow(&sandbox, quirky(quirks)) else { return };
            let source = tree.write_to(&sandbox.directory("source"));
            seed(&source, volume.path()).ends().exits(78).says(name).says(end).says("help: ");
            assert_nothing_published(volume.path());
        }
    }
}
