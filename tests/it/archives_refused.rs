//! Archives that want out of the volume, or that are not whole: nothing of them is ever seen.

use std::fs::{self};

use tar::{EntryType, Header};

use crate::kit::{Compression, Sandbox, Tarball, Tree, assert_nothing_published, assert_same_tree, seed};

/// The archive is refused with the member named, shows nothing, and does not spoil the volume.
#[track_caller]
pub(crate) fn refused(archive: Vec<u8>, named: &str) {
    let sandbox = Sandbox::new();
    let good = Tree::sample().write_to(&sandbox.directory("good"));
    let volume = sandbox.volume();
    seed("-", &volume).input(archive).ends().fails(65, named);
    assert_nothing_published(&volume);
    seed(&good, &volume).ends().exits(0);
    assert_same_tree(&good, &volume);
}

/// A few good members, so that there is something that could be published.
pub(crate) fn begun() -> Tarball {
    Tarball::new().directory("good").file("good/file", "fine").file("plain", "fine")
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../evil", "good/../../evil", "..", "/etc/evil", "//evil", "good/.."] {
        refused(begun().file(name, "x").build(), name);
        refused(begun().pax(&[("path", name.as_bytes())]).file("harmless", "x").build(), name);
    }
    refused(begun().directory("../evil/").build(), "../evil");
    refused(begun().symlink("../evil", "x").build(), "../evil");
}

#[test]
fn a_symlink_is_never_a_parent() {
    let sandbox = Sandbox::new();
    let outside = sandbox.directory("outside");
    let target = outside.to_str().unwrap();
    for target in [target, ".", "good", "../../../../outside"] {
        let led = begun().symlink("link", target);
        refused(led.clone().file("link/evil", "x").build(), "link/evil");
        refused(led.clone().directory("link/evil/").build(), "link/evil");
        refused(led.clone().symlink("link/evil", "x").build(), "link/evil");
        refused(led.hard_link("link/evil", "plain").build(), "link/evil");
    }
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn a_directory_does_not_take_the_place_of_a_symlink() {
    let led = begun().symlink("link", "/tmp");
    refused(led.clone().directory("link/").build(), "link");
    refused(led.directory("link/").file("link/evil", "x").build(), "link");
}

#[test]
fn a_file_is_never_a_parent() {
    refused(begun().file("plain/evil", "x").build(), "plain/evil");
}

#[test]
fn hard_links_lead_only_to_what_this_seed_has_written() {
    for target in ["/etc/passwd", "../outside", "missing", "good/../../outside", "late", "evil", ""] {
        refused(begun().hard_link("evil", target).file("late", "x").build(), "evil");
    }
    refused(begun().hard_link("evil", "good").build(), "evil");
    refused(begun().symlink("link", "/etc").hard_link("evil", "link/passwd").build(), "evil");
    refused(begun().hard_link("evil", ".volseed/state.json").build(), "evil");
}

#[test]
fn hard_links_do_not_lead_to_what_the_volume_held_before() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    fs::write(volume.join("mine"), "secret").unwrap();
    let archive = begun().hard_link("evil", "mine").build();
    seed("-", &volume).input(archive).ends().fails(65, "evil");
    assert!(!volume.join("evil").exists() && !volume.join("plain").exists());
}

#[test]
fn a_name_does_not_come_twice_with_different_types() {
    refused(begun().directory("plain/").build(), "plain");
    refused(begun().file("good", "x").build(), "good");
    refused(begun().symlink("plain", "x").build(), "plain");
    refused(begun().symlink("link", "x").file("link", "x").build(), "link");
    refused(begun().member(EntryType::Fifo, "plain", "", "").build(), "plain");
}

#[test]
fn the_root_is_a_directory() {
    refused(begun().symlink(".", "/tmp").build(), ".");
    refused(begun().file("./", "x").edit(|header| header.set_entry_type(EntryType::Regular)).build(), ".");
}

#[test]
fn our_own_directory_is_out_of_bounds() {
    for name in [
        ".volseed/state.json",
        "./.volseed/lock",
        ".volseed/claims/1/claim.json",
        ".volseed",
        ".VolSeed/state.json",
        ".vol\u{200b}seed/x",
    ] {
        refused(begun().file(name, "{}").build(), "volseed's own name");
    }
    refused(begun().directory(".volseed/").build(), ".volseed");
    refused(begun().symlink(".volseed", "good").build(), ".volseed");
}

#[test]
fn our_own_directory_is_refused_in_a_source_directory_in_any_case() {
    let sandbox = Sandbox::new();
    let (source, volume) = (sandbox.directory("source"), sandbox.volume());
    fs::create_dir(source.join(".VOLSEED")).unwrap();
    seed(source, &volume).ends().fails(65, "volseed's own name");
    assert_nothing_published(&volume);
}

#[test]
fn our_directory_s_name_is_free_further_down() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    seed("-", &volume).input(begun().file("good/.volseed/x", "x").build()).ends().exits(0);
    assert!(volume.join("good/.volseed/x").exists());
}

#[test]
fn what_an_archive_says_is_escaped_on_one_line() {
    let evil = "\n2026-11-25T00:00:00Z  INFO seeded\u{1b}[31m\u{202e}";
    let size = begun().file(evil, "x").edit(|header| header.as_old_mut().size = *b"zz\nzz\x1b[1mz\0\0");
    let sum = begun().file(evil, "x").damage(|bytes| bytes[148..156].copy_from_slice(b"q\nz\x1b[1m "));
    let link = begun().hard_link("evil", evil);
    let text = Compression::Gzip.pack("hello\nworld\u{1b}[31m\n".repeat(100).as_bytes());
    for archive in [Some(size.build()), Some(sum.build()), Some(link.build()), text].into_iter().flatten() {
        let sandbox = Sandbox::new();
        let outcome = seed("-", sandbox.volume()).input(archive).ends().exits(65);
        let (_, error) = outcome.stderr.split_once("error: ").unwrap();
        let (error, _) = error.split_once("\nhelp:").unwrap();
        assert!(!error.contains(['\n', '\u{1b}', '\u{202e}']), "{error:?}");
    }
}

#[test]
fn device_nodes_are_refused() {
    for kind in [EntryType::Char, EntryType::Block] {
        let device = begun().member(kind, "null", "", "").edit(|header: &mut Header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        });
        refused(device.build(), "null");
    }
}

#[test]
fn names_beyond_what_a_volume_can_hold_are_refused() {
    let long = "n".repeat(256);
    refused(begun().pax(&[("path", long.as_bytes())]).file("x", "x").build(), "nnnn");
    let deep = "d/".repeat(50_000) + "f";
    refused(begun().pax(&[("path", deep.as_bytes())]).file("x", "x").build(), "d/d/d/");
    let target = "t".repeat(5_000);
    refused(begun().pax(&[("linkpath", target.as_bytes())]).symlink("link", "x").build(), "link");
    refused(begun().pax(&[("path", b"nul\0byte")]).file("x", "x").build(), "NUL");
}

#[test]
fn more_entries_than_allowed_are_refused() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let start = || seed("-", &volume).input(Tree::many("d", 20).archive());
    start().option("--max-entries", "10").ends().fails(65, "--max-entries");
    assert_nothing_published(&volume);
    start().option("--max-entries", "40").ends().exits(0);
}
