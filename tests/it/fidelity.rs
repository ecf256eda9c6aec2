//! Every property of a file that a seed keeps, from a directory and from an archive alike.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::kit::{Sandbox, Snapshot, Tree, assert_same_tree, mount, needs, seed};

/// The tree arrives whole, from a directory and from an archive.
#[track_caller]
pub(crate) fn kept(tree: &Tree) {
    let sandbox = Sandbox::new();
    let source = tree.write_to(&sandbox.directory("source"));
    let (from_directory, from_archive) = (sandbox.directory("1"), sandbox.directory("2"));
    seed(&source, &from_directory).ends().exits(0);
    assert_same_tree(&source, &from_directory);
    seed("-", &from_archive).input(tree.archive()).ends().exits(0);
    assert_same_tree(&source, &from_archive);
}

#[test]
fn modes_are_kept_with_setuid_setgid_and_sticky() {
    let tree = Tree::new().directory("shared").mode(0o1777).directory("team").mode(0o2775);
    kept(&tree.file("su", "x").mode(0o4755).file("sg", "x").mode(0o2755).file("plain", "x").mode(0o444));
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let tree = Tree::new().file("a", "x").modified(1_234_567_890, 1).file("b", "x").modified(0, 0);
    let tree = tree.directory("d/e").modified(1_000_000_000, 999_999_999).file("d/e/f", "x");
    kept(&tree.symlink("l", "a").modified(981_173_106, 500_000_000).fifo("p").modified(3, 3));
}

#[test]
fn times_before_1970_and_after_2038_are_kept() {
    let tree =
        Tree::new().file("old", "x").modified(-2, 500_000_000).file("new", "x").modified(4_294_967_296, 7);
    kept(&tree);
}

#[test]
fn symlinks_are_kept_as_they_are_wherever_they_lead() {
    let tree = Tree::new().symlink("up", "../../etc/passwd").symlink("root", "/").symlink("self", "self");
    kept(&tree.symlink("d/far", &"x/".repeat(1000)).symlink("odd", "a b\nc"));
}

#[test]
fn hard_links_stay_links_also_across_directories() {
    let tree = Tree::new().file("a/one", "shared").directory("b").hard_link("b/two", "a/one");
    kept(&tree.hard_link("three", "a/one").file("alone", "shared"));
}

#[test]
fn empty_directories_and_empty_files_are_kept() {
    kept(&Tree::new().directory("a/b/c").directory("d").file("a/empty", ""));
}

#[test]
fn fifos_are_made() {
    kept(&Tree::new().fifo("queue").fifo("d/queue").mode(0o600));
}

#[test]
fn names_that_are_not_utf_8_or_odd_are_kept() {
    let tree = Tree::new().file(b"caf\xe9", "latin").directory(b"\xff\xfe").file(b"\xff\xfe/x", "y");
    let tree =
        tree.file("a b'c\"d\\e", "quotes").file("new\nline", "two").file("-rf", "dash").file(" ", "blank");
    kept(&tree.file("n".repeat(255), "long").file("...", "dots").file("line\n".repeat(40), "lines"));
}

#[test]
fn paths_of_thousands_of_bytes_are_kept() {
    let deep = vec!["deep".repeat(30); 25].join("/");
    kept(&Tree::new().file(format!("{deep}/file"), "far down"));
}

#[test]
fn extended_attributes_are_kept_on_files_and_directories() {
    let tree = Tree::new().file("f", "x").attribute("user.kind", "page").attribute("user.empty", "");
    let tree = tree.attribute("user.bytes", *b"\x00\n\xff=10 a=b\n").directory("d").attribute("user.d", "1");
    kept(&tree.file("narrow", "x").mode(0o400).attribute("user.n", "kept before the mode"));
}

#[test]
fn capabilities_of_programs_are_kept() {
    if !needs::root() {
        return;
    }
    // cap_net_bind_service=ep, revision 2: see capabilities(7) and linux/capability.h.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tree = Tree::new().file("server", "x").mode(0o755).owner(33, 33);
    kept(&tree.attribute("security.capability", capability));
}

#[test]
fn a_volume_without_attributes_is_one_warning_and_with_strict_an_error() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().file("a", "x").attribute("user.a", "1").file("b", "x").attribute("user.b", "2");
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let _mount = mount::ramfs(&volume);
    seed(&source, &volume).flag("--strict").ends().fails(77, "attribute");
    let outcome = seed(&source, &volume).json().ends().exits(0);
    outcome.warns_once(2);
}

#[test]
fn sockets_and_devices_are_skipped_with_one_warning_that_counts_them() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let expected = Snapshot::of(&source);
    let mut skipped = 2;
    let _sockets = ["a.sock", "uploads/b.sock"].map(|name| UnixListener::bind(source.join(name)).unwrap());
    if nix::unistd::geteuid().is_root() {
        mknod(&source.join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
        skipped += 1;
    }
    let outcome = seed(&source, sandbox.volume()).json().ends().exits(0);
    outcome.warns_once(skipped);
    let found = Snapshot::of(&sandbox.volume());
    expected.without_times().without_root().assert_same(&found.without_times().without_root());
}

#[test]
fn without_times_everything_else_is_kept() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    seed(&source, &volume).flag("--no-times").ends().exits(0);
    assert_ne!(fs::metadata(volume.join("index.php")).unwrap().mtime(), 1_500_000_001);
    Snapshot::of(&source).without_times().assert_same(&Snapshot::of(&volume).without_times());
}

#[test]
fn the_umask_does_not_matter() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let shell = ["sh", "-c", "umask 0077; exec \"$0\" \"$@\""];
    seed(&source, &volume).under(shell).ends().exits(0);
    assert_same_tree(&source, &volume);
}

/// The tree arrives whole on a new file system of this kind.
#[track_caller]
fn kept_on(kind: &str) {
    if !needs::file_system(kind) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let tree =
        Tree::sample().file("su", "x").owner(33, 33).mode(0o4755).file("f", "x").attribute("user.a", "1");
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let _mount = mount::loop_device(kind, &sandbox.directory("images"), &volume);
    seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
    lost_and_found_is_left_alone(&volume);
}

fn lost_and_found_is_left_alone(volume: &Path) {
    if let Ok(metadata) = fs::metadata(volume.join("lost+found")) {
        assert_eq!(metadata.mode() & 0o7777, 0o700);
    }
}

#[test]
fn ext4_keeps_the_whole_tree() {
    kept_on("ext4");
}

#[test]
fn xfs_keeps_the_whole_tree() {
    kept_on("xfs");
}

#[test]
fn btrfs_keeps_the_whole_tree() {
    kept_on("btrfs");
}
