//! Links, FIFOs, renames over what is there, and exclusive creation: tried, and looked at again.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{TestDirectory, create, in_words, read_all};
use super::finding::{Finding, unkept};
use super::needs::Needs;
use crate::volume::{is_type, openat, stat_entry};
use rustix::io::Result;

/// Names that are made by several threads at once, and how many threads.
const RACED: usize = 16;
const RACERS: usize = 4;

/// All of them.
///
/// # Errors
/// When a file or directory cannot be made.
pub(super) fn findings(directory: &TestDirectory, needs: Option<&Needs>) -> Result<Vec<Finding>> {
    directory.write("first", b"first")?;
    Ok(vec![
        hard_links(directory, needs),
        symlinks(directory, needs),
        fifos(directory, needs),
        rename_over(directory)?,
        exclusive(directory)?,
    ])
}

fn hard_links(directory: &TestDirectory, needs: Option<&Needs>) -> Finding {
    let at = directory.at();
    let linked = fs::linkat(at, "first", at, "second", AtFlags::empty());
    let seen = || -> Result<bool> {
        let (first, second) = (stat_entry(at, b"first")?, stat_entry(at, b"second")?);
        Ok(first
            .zip(second)
            .is_some_and(|(first, second)| first.st_ino == second.st_ino && second.st_nlink == 2))
    };
    let what = match linked.map(|()| seen()) {
        Ok(Ok(true)) => return Finding::ok("hard links", "kept"),
        Ok(_) => "made, but the two names do not look like one file".to_owned(),
        Err(error) => format!("refused: {}", in_words(error)),
    };
    let level = unkept(needs.map(|needs| needs.links), false);
    Finding::new(level, "hard links", what).then("further names of a file become copies, which take space")
}

fn symlinks(directory: &TestDirectory, needs: Option<&Needs>) -> Finding {
    let at = directory.at();
    let target = "../some where/ä";
    let read = fs::symlinkat(target, at, "symlink").and_then(|()| fs::readlinkat(at, "symlink", Vec::new()));
    let what = match read {
        Ok(read) if read.to_bytes() == target.as_bytes() => return Finding::ok("symlinks", "kept"),
        Ok(_) => "made, but they have another target".to_owned(),
        Err(error) => format!("refused: {}", in_words(error)),
    };
    let has = needs.map(|needs| needs.symlinks);
    let then = match has {
        Some(0) => "the source has none".to_owned(),
        Some(count) => format!("the seed is refused (78), it has {count}; on CIFS, mount with mfsymlinks"),
        None => "a seed that has any is refused (78); on CIFS, mount with mfsymlinks".to_owned(),
    };
    Finding::new(unkept(has, true), "symlinks", what).then(then)
}

fn fifos(directory: &TestDirectory, needs: Option<&Needs>) -> Finding {
    let at = directory.at();
    let made = fs::mknodat(at, "fifo", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
    let what = match made.and_then(|()| stat_entry(at, b"fifo")) {
        Ok(Some(found)) if is_type(&found, FileType::Fifo) => return Finding::ok("fifos", "kept"),
        Ok(_) => "made, but they are something else".to_owned(),
        Err(error) => format!("refused: {}", in_words(error)),
    };
    Finding::new(unkept(needs.map(|needs| needs.fifos), false), "fifos", what).then("they are left out")
}

/// A file over a file, while that is open, and a directory over an empty one: how a seed is published.
fn rename_over(directory: &TestDirectory) -> Result<Finding> {
    let at = directory.at();
    directory.write("old", b"old")?;
    directory.write("new", b"new")?;
    let open = openat(at, b"old", OFlags::RDONLY, Mode::empty());
    let open: OwnedFd = open?;
    directory.directory("old-directory")?;
    let inside = directory.directory("new-directory")?;
    create(inside.as_fd(), b"inside")?;
    let fails = |what: String| {
        Finding::fail("rename over", what)
            .then("a seed is published by renames: it is not safe on this volume")
    };
    for (from, to) in [("new", "old"), ("new-directory", "old-directory")] {
        if let Err(error) = fs::renameat(at, from, at, to) {
            return Ok(fails(format!("refused: {}", in_words(error))));
        }
    }
    let is_replaced =
        read_all(at, b"old") == Ok(b"new".to_vec()) && matches!(stat_entry(at, b"new"), Ok(None));
    let is_moved = openat(at, b"old-directory", OFlags::DIRECTORY, Mode::empty())
        .and_then(|moved| crate::volume::names(moved.as_fd()))
        .is_ok_and(|names| names.len() == 1);
    let mut still = [0; 8];
    let is_open = rustix::io::pread(&open, &mut still, 0) == Ok(3) && still.starts_with(b"old");
    Ok(match (is_replaced && is_moved, is_open) {
        (true, true) => Finding::ok("rename over", "replaces files and empty directories, also open ones"),
        (true, false) => Finding::warn("rename over", "replaces, but an open file loses its old data")
            .then("a running app may see half of two versions during an upgrade"),
        (false, _) => fails("it said yes, and did otherwise".to_owned()),
    })
}

/// Of threads that make the same name at once, one succeeds: how a claim is made.
fn exclusive(directory: &TestDirectory) -> Result<Finding> {
    let race = directory.directory("race")?;
    let won: Vec<AtomicUsize> = (0..2 * RACED).map(|_| AtomicUsize::new(0)).collect();
    let wrong = AtomicUsize::new(0);
    let run = || {
        for number in 0..RACED {
            let name = format!("d{number}");
            match fs::mkdirat(&race, name.as_str(), Mode::RWXU) {
                Ok(()) => drop(won[number].fetch_add(1, Relaxed)),
                Err(Errno::EXIST) => {}
                Err(_) => drop(wrong.fetch_add(1, Relaxed)),
            }
            match create(race.as_fd(), format!("f{number}").as_bytes()) {
                Ok(_) => drop(won[RACED + number].fetch_add(1, Relaxed)),
                Err(Errno::EXIST) => {}
                Err(_) => drop(wrong.fetch_add(1, Relaxed)),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..RACERS {
            let _ = std::thread::Builder::new().name("racer".into()).spawn_scoped(scope, run);
        }
        run();
    });
    let winners = won.iter().map(|winners| winners.load(Relaxed));
    let double = winners.filter(|winners| *winners != 1).count();
    Ok(match (double, wrong.into_inner()) {
        (0, 0) => Finding::ok("exclusive", format!("one of {RACERS} threads creates a name")),
        (0, errors) => Finding::warn(
            "exclusive",
            format!("one thread creates a name, the others got {errors} other errors than EEXIST"),
        )
        .then("replicas may end with an error and have to be started again"),
        _ => Finding::fail(
            "exclusive",
            format!("{double} of {} names were not created exactly once", 2 * RACED),
        )
        .then("two replicas may seed at once: use one replica, or another volume"),
    })
}
