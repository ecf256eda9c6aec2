//! A seed that does not fit is refused before most of it is written, and one that does is not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use slowfs::Options;

use crate::kit::mount::{self, Mount};
use crate::kit::slowfs::{far, slow};
use crate::kit::{
    Compression, Sandbox, Tarball, Tree, assert_nothing_published, assert_same_tree, eventually, needs, seed,
    staged,
};

const TOO_LARGE: &str = "no space left for all of it";

/// 12 MiB that do not compress to much less than that.
fn large() -> Tree {
    (0u8..12).fold(Tree::many("small", 100), |tree, number| {
        tree.file(format!("large/{number}"), vec![number; 1 << 20])
    })
}

fn small_volume(sandbox: &Sandbox, options: &str) -> (PathBuf, Mount) {
    let volume = sandbox.volume();
    let mount = mount::tmpfs(&volume, options);
    (volume, mount)
}

#[track_caller]
fn is_refused_with_nothing_staged(source: &Path, volume: &Path) {
    // A second start, as of a container that is started again, does not fill the volume either.
    for _ in 0..2 {
        seed(source, volume).ends().fails(73, TOO_LARGE).says("free").says("--exclude");
        assert_nothing_published(volume);
        assert_eq!(staged(volume), 0);
    }
}

#[test]
fn a_directory_that_does_not_fit_is_refused() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = large().write_to(&sandbox.directory("source"));
    let (volume, mount) = small_volume(&sandbox, "size=8m");
    is_refused_with_nothing_staged(&source, &volume);
    mount.remount(nix::mount::MsFlags::empty(), "size=32m");
    seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn an_archive_that_does_not_fit_is_refused() {
    if !needs::root() {
        return;
    }
    for packing in Compression::ALL {
        let sandbox = Sandbox::new();
        let Some(archive) = packing.pack(&large().archive()) else { continue };
        let (volume, _mount) = small_volume(&sandbox, "size=8m");
        is_refused_with_nothing_staged(&sandbox.file("seed", archive), &volume);
    }
}

#[test]
fn more_files_than_there_are_inodes_are_refused() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::many("d", 300).write_to(&sandbox.directory("source"));
    let (volume, _mount) = small_volume(&sandbox, "size=32m,nr_inodes=100");
    seed(&source, &volume).ends().fails(73, "no inodes left for all of it").says("free");
    assert_eq!(staged(&volume), 0);
}

#[test]
fn a_seed_that_just_fits_is_seeded() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = large().write_to(&sandbox.directory("source"));
    // 12 MiB, 100 blocks for the small ones, and a few for directories and records.
    let (volume, _mount) = small_volume(&sandbox, "size=13m,nr_inodes=130");
    seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn neither_holes_nor_second_names_need_space() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().file("a", vec![b'x'; 5 << 20]).hard_link("b", "a").hard_link("c", "a");
    let source = tree.clone().write_to(&sandbox.directory("source"));
    let file = File::create(source.join("sparse")).unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_at(b"end", 50 << 20).unwrap();
    let archive = sandbox.file("seed.tar", tree.archive());
    for (source, to) in [(source, "first"), (archive, "second")] {
        let volume = sandbox.directory(to);
        let _mount = mount::tmpfs(&volume, "size=8m");
        seed(source, &volume).ends().exits(0);
        assert_eq!(fs::metadata(volume.join("a")).unwrap().len(), 5 << 20);
    }
}

#[test]
fn a_name_that_an_archive_holds_again_and_again_needs_space_once() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = (0u8..12).fold(Tarball::new(), |tar, number| tar.file("a", vec![number; 1 << 20])).build();
    let (volume, _mount) = small_volume(&sandbox, "size=4m");
    seed(sandbox.file("seed.tar", archive), &volume).ends().exits(0);
    assert_eq!(fs::read(volume.join("a")).unwrap(), vec![11; 1 << 20]);
}

#[test]
fn what_is_staged_already_is_not_needed_again() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = large().archive();
    let (volume, _mount) = small_volume(&sandbox, "size=14m");
    let begun = seed("-", &volume).fed().start();
    begun.feed(&archive[..archive.len() * 3 / 4]);
    eventually("files in the stage", || staged(&volume) > 100);
    drop(begun);
    seed("-", &volume).input(archive).ends().exits(0).says("resumed=true");
}

/// A server whose numbers are nonsense, or that stores data smaller than it is.
#[track_caller]
fn is_seeded_on(options: Options) {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, options) else { return };
    let source = Tree::many("d", 100).write_to(&sandbox.directory("source"));
    seed(&source, volume.path()).ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn what_a_server_says_of_its_space_is_taken_with_care() {
    for (blocks, inodes) in [(0, 0), (60, 1 << 40), (u64::MAX, u64::MAX)] {
        let mut options = far();
        options.quirks.room.free_blocks = Some(blocks);
        options.quirks.room.free_inodes = Some(inodes);
        is_seeded_on(options);
    }
}

#[test]
fn a_seed_far_larger_than_a_server_has_space_for_is_refused() {
    let sandbox = Sandbox::new();
    let mut options = far();
    options.quirks.room.free_blocks = Some(5);
    let Some(volume) = slow(&sandbox, options) else { return };
    let source = Tree::many("d", 100).write_to(&sandbox.directory("source"));
    seed(&source, volume.path()).ends().fails(73, TOO_LARGE);
    assert_nothing_published(volume.path());
}

/// The address space that a seed needs is searched for, and what happens just below it.
#[test]
fn memory_that_runs_out_is_an_error() {
    if !needs::tools(&["prlimit"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = sandbox.path("seed.tar");
    fs::write(&archive, Tree::many_of("d", 20, 400_000).archive()).unwrap();
    let run = |kib: u64| {
        let volume = sandbox.directory(&format!("volume-{kib}"));
        let limit = format!("--as={}", kib << 10);
        seed(&archive, &volume).option("--workers", "1").under(["prlimit", &limit]).ends()
    };
    let enough = (4..).map(|mib: u64| mib << 10).find(|&kib| run(kib).status.success()).unwrap();
    let mut ended = 0;
    for kib in (enough - 3000..enough).step_by(128) {
        let outcome = run(kib + 1).says_nothing_of("memory allocation of");
        if outcome.stderr.contains("error: allocate memory") {
            outcome.fails(71, "error: allocate memory: out of memory");
            ended += 1;
        }
    }
    assert!(ended > 0, "no allocation failed below {enough} KiB");
}
