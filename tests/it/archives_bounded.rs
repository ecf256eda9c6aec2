//! Archives that do not fit in memory: what a small `--memory` makes of them is the same tree.

use std::os::unix::fs::MetadataExt;

use tar::EntryType;

use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Tarball, assert_same_tree, needs, seed};

const DIRECTORIES: usize = 3_000;

/// All directories come first, with modes and times of their own, and are filled later, each kind of
/// entry in a round of its own: no directory is ever done before the end.
fn by_rounds() -> Vec<u8> {
    let directory = |number: usize| format!("top{}/dir{number}", number % 7);
    let mut archive = Tarball::new().file("first", "what is linked to");
    for top in 0..7 {
        archive = archive.directory(format!("top{top}"));
    }
    for number in 0..DIRECTORIES {
        let mode = [0o755, 0o555, 0o700, 0o500, 0o750][number % 5];
        archive = archive.pax(&[("SCHILY.xattr.user.number", number.to_string().as_bytes())]);
        archive = archive.member(EntryType::Directory, directory(number), "", "").edit(|header| {
            header.set_mode(mode);
            header.set_mtime(1_400_000_000 + number as u64);
        });
    }
    for round in ["file", "again", "link", "chain", "symlink"] {
        for number in 0..DIRECTORIES {
            let path = |name: &str| format!("{}/{name}", directory(number));
            archive = match round {
                "file" => archive.file(path("file"), number.to_string()),
                // The last one of a name counts, also where the first one is long forgotten.
                "again" if number % 100 == 0 => archive.file(path("file"), "again"),
                "again" => archive,
                "link" => archive
                    .hard_link(path("link"), if number % 2 == 0 { "first".into() } else { path("file") }),
                // Links to links, some of which wait.
                "chain" if number > 0 => {
                    archive.hard_link(path("chain"), format!("{}/link", directory(number - 1)))
                }
                "chain" => archive,
                _ => archive.symlink(path("symlink"), "../x"),
            };
        }
    }
    archive.build()
}

#[track_caller]
fn the_same_with_little_memory(user: Option<u32>) {
    let sandbox = Sandbox::new();
    let archive = by_rounds();
    let [roomy, bounded] = ["256MiB", "4MiB"].map(|memory| {
        let volume = sandbox.directory(memory);
        let mut seed = seed("-", &volume).option("--memory", memory).input(archive.clone());
        if let Some(user) = user {
            std::os::unix::fs::chown(&volume, Some(user), Some(user)).unwrap();
            seed = seed.started_by(user, user);
        }
        seed.ends().exits(0);
        volume
    });
    assert_same_tree(&roomy, &bounded);
    let directory = std::fs::metadata(bounded.join("top1/dir1")).unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime()), (0o555, 1_400_000_001));
    assert_eq!(std::fs::read_to_string(bounded.join("top2/dir100/file")).unwrap(), "again");
}

#[test]
fn directories_that_were_forgotten_are_filled_further() {
    the_same_with_little_memory(None);
}

#[test]
fn directories_that_may_not_be_written_are_filled_further_by_their_owner() {
    if needs::root() {
        the_same_with_little_memory(Some(PROBE_ID));
    }
}

#[test]
fn types_are_told_from_what_is_on_the_stage() {
    let sandbox = Sandbox::new();
    let refused = |name: &str, archive: Tarball| {
        let volume = sandbox.directory(name);
        seed("-", &volume).option("--memory", "4MiB").input(archive.build()).ends().fails(65, "before");
    };
    // More directories than are remembered.
    let mut archive = Tarball::new().file("file", "x").symlink("link", "x").directory("dir");
    for number in 0..DIRECTORIES {
        archive = archive.directory(format!("d{number}"));
    }
    refused("1", archive.clone().directory("file"));
    refused("2", archive.clone().file("link/below", "x"));
    refused("3", archive.clone().file("dir", "x"));
    refused("4", archive.clone().symlink("file", "x"));
    refused("5", archive.clone().hard_link("hard", "dir"));
    refused("6", archive.clone().hard_link("hard", "link/x"));
    refused("7", archive.hard_link("hard", "d5"));
}
