//! The engine: any number of writers, files of any size, and what a volume can refuse.

use std::fs;
use std::path::PathBuf;

use nix::mount::MsFlags;

use crate::kit::nested::with_files;
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{
    Compression, Sandbox, Tree, assert_nothing_published, assert_same_tree, eventually, mount, needs, run,
    seed, staged,
};

/// Bytes that differ everywhere, so that a chunk in the wrong place shows.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn a_file_ten_times_the_memory_arrives_whole() {
    let sandbox = Sandbox::new();
    let tree =
        Tree::new().file("large", noise(40 << 20)).file("small", "x").file("odd", noise((4 << 20) + 1));
    let source = tree.write_to(&sandbox.directory("source"));
    let (first, second) = (sandbox.directory("first"), sandbox.directory("second"));
    seed(&source, &first).option("--memory", "4MiB").ends().exits(0);
    assert_same_tree(&source, &first);
    seed("-", &second).option("--memory", "4MiB").input(tree.archive()).ends().exits(0);
    assert_same_tree(&source, &second);
}

#[test]
fn one_writer_and_many_write_the_same_tree() {
    let sandbox = Sandbox::new();
    let tree = (0..12).fold(Tree::many("flat", 800), |tree, number| {
        let folder = format!("a/{number}/b");
        let tree = tree.file(format!("{folder}/large"), noise(300_000 + number)).mode(0o600);
        tree.hard_link(format!("{folder}/same"), &format!("{folder}/large"))
            .symlink(format!("{folder}/link"), "large")
    });
    let source = tree.write_to(&sandbox.directory("source"));
    let archive = sandbox.file("seed.tar", tree.archive());
    for workers in ["1", "4", "64"] {
        for from in [&source, &archive] {
            let volume = sandbox.directory(&format!("{workers}{}", from.extension().is_some()));
            let outcome = seed(from, &volume).option("--workers", workers).json().ends().exits(0);
            assert_eq!(outcome.line("seeded")["writers"].to_string(), workers);
            assert_same_tree(&source, &volume);
        }
    }
}

#[test]
fn memory_that_is_too_small_is_wrong_usage() {
    for size in ["0", "1", "4095KiB", "4000000"] {
        seed("/nowhere", "/nowhere").option("--memory", size).ends().fails(64, "--memory");
    }
}

#[test]
fn sizes_are_understood_with_their_units() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    for size in ["4MiB", "4194304", "8M", "65536KiB", "1GiB"] {
        seed(&source, sandbox.directory(size)).option("--memory", size).ends().exits(0);
    }
}

fn tree_too_large() -> Tree {
    (0..12)
        .fold(Tree::many("small", 100), |tree, number| tree.file(format!("large/{number}"), noise(1 << 20)))
}

/// A tree of 12 MiB and a volume with room for less; ours until the test ends.
fn too_large(options: &str) -> (Sandbox, PathBuf, PathBuf, mount::Mount) {
    let sandbox = Sandbox::new();
    let source = tree_too_large().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let mount = mount::tmpfs(&volume, options);
    (sandbox, source, volume, mount)
}

#[test]
fn a_full_volume_exits_73_and_a_later_start_goes_on_from_there() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume, mount) = too_large("size=8m");
    let archive = tree_too_large().archive();
    // Of a stage that was begun it is not known beforehand.
    let begun = seed("-", &volume).fed().start();
    begun.feed(&archive[..100 << 10]);
    eventually("files in the stage", || staged(&volume) > 10);
    drop(begun);
    seed("-", &volume).input(archive.clone()).ends().fails(73, "no space left on device");
    assert_nothing_published(&volume);
    mount.remount(MsFlags::empty(), "size=32m");
    let outcome = seed("-", &volume).input(archive).json().ends().exits(0);
    assert_eq!(outcome.line("seeding")["resumed"], true);
    assert_ne!(outcome.line("seeded")["reused"], 0);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_volume_without_inodes_exits_73() {
    if !needs::root() {
        return;
    }
    for inodes in [1, 2, 3, 5, 8, 50] {
        let (_sandbox, source, volume, _mount) = too_large(&format!("size=32m,nr_inodes={inodes}"));
        // Where our own files take them up, the kernel says so.
        seed(&source, &volume).ends().fails(73, "left");
        assert_nothing_published(&volume);
    }
}

#[test]
fn a_read_only_volume_exits_73() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume, mount) = too_large("size=32m");
    mount.remount(MsFlags::MS_RDONLY, "size=32m");
    seed(&source, &volume).ends().fails(73, "read-only file system");
}

#[test]
fn a_read_only_volume_that_is_seeded_is_fine() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume, mount) = too_large("size=32m");
    seed(&source, &volume).ends().exits(0);
    mount.remount(MsFlags::MS_RDONLY, "size=32m");
    seed(&source, &volume).ends().exits(0).says("already seeded");
}

#[test]
fn a_volume_that_somebody_may_not_write_exits_77() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    seed(source, &volume).started_by(PROBE_ID, PROBE_ID).ends().fails(77, "permission denied");
    assert_eq!(fs::read_dir(volume).unwrap().count(), 0);
}

/// Small, and with some directories.
fn small() -> Tree {
    (0..8).fold(Tree::sample(), |tree, number| tree.file(format!("d{number}/s/f"), "f"))
}

#[test]
fn thirty_two_open_files_are_enough_for_a_small_seed() {
    let sandbox = Sandbox::new();
    let source = small().write_to(&sandbox.directory("source"));
    for packing in Compression::ALL {
        let Some(archive) = packing.pack(&small().archive()) else { continue };
        let volume = sandbox.directory(&format!("{packing:?}"));
        with_files(seed(sandbox.file("seed", archive), &volume), 32).ends().exits(0);
        assert_same_tree(&source, &volume);
    }
    for (name, options) in [
        ("listening", &["--listen", "127.0.0.1:0"][..]),
        ("supervised", &["--supervise", "--admin", "127.0.0.1:0"]),
        ("handed over", &["--listen", "127.0.0.1:0", "--pass-socket", "listen-fds"]),
        (
            "all",
            &["--supervise", "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--pass-socket", "nginx"],
        ),
    ] {
        let volume = sandbox.directory(name);
        with_files(run(&source, &volume, ["echo", name]).arguments(options), 32).ends().exits(0).prints(name);
        assert_same_tree(&source, &volume);
    }
}

#[test]
fn too_few_open_files_are_named_as_the_cause() {
    let sandbox = Sandbox::new();
    let source = small().write_to(&sandbox.directory("source"));
    with_files(seed(source, sandbox.volume()), 16).ends().fails(71, "too many open files").says("ulimit -n");
}
