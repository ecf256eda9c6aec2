//! Whether data is what was written, holes stay holes, and mapped pages and syncs work.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::fs;

use super::directory::{TestDirectory, in_words, read_all, write_all};
use super::finding::Finding;
use super::helper::{self, Question};
use super::pace::spelled;
use crate::volume::stat_entry;
use rustix::io::Result;

/// What is written and read again: more than one request's worth, and no multiple of a block.
const LENGTH: usize = (3 << 20) + 17;
/// The size of a file that is a hole but for its last byte.
const HOLE: u64 = 8 << 20;

/// What is written before a sync, in bytes.
const SYNCED: usize = 64 << 10;

/// All of them.
///
/// # Errors
/// When a file cannot be made or looked at.
pub(super) fn findings(directory: &TestDirectory) -> Result<Vec<Finding>> {
    Ok(vec![read_again(directory)?, holes(directory)?, mapping(directory), sync(directory)?])
}

fn read_again(directory: &TestDirectory) -> Result<Finding> {
    let bytes: Vec<u8> = (0..LENGTH).map(|at| (at * 7 + at / 253) as u8).collect();
    directory.write("data", &bytes)?;
    let read = read_all(directory.at(), b"data")?;
    Ok(match read == bytes {
        true => Finding::ok("data", "read as it was written"),
        false => Finding::fail("data", "read otherwise than it was written")
            .then("the volume loses data: do not use it"),
    })
}

fn holes(directory: &TestDirectory) -> Result<Finding> {
    let file = directory.file("hole")?;
    let written = rustix::io::pwrite(&file, b"x", HOLE - 1).and_then(|_| fs::fsync(&file));
    if let Err(error) = written {
        return Ok(
            Finding::warn("sparse files", format!("refused: {}", in_words(error))).then("holes take space")
        );
    }
    let found = stat_entry(directory.at(), b"hole")?;
    let taken = found.map_or(HOLE, |found| found.st_blocks as u64 * 512);
    let finding = match taken < HOLE / 2 {
        true => Finding::ok("sparse files", "holes take no space"),
        false => Finding::warn("sparse files", "holes are filled")
            .then("a seed takes the space of its files' sizes"),
    };
    Ok(finding.fact("bytes_of_8_mib", taken))
}

fn mapping(directory: &TestDirectory) -> Finding {
    let then = "programs that map files to write them (SQLite's WAL, LMDB, RocksDB) fail or lose data here";
    match &*Question::Map.ask(directory.at(), None) {
        "follows" => Finding::ok("mmap", "shared pages and the file are the same"),
        "differs" => Finding::warn("mmap", "what is written to a shared page is not in the file").then(then),
        "" => {
            Finding::warn("mmap", "the process that tried it was killed, or could not be started").then(then)
        }
        error => Finding::warn("mmap", format!("refused: {}", helper::shown(error))).then(then),
    }
}

/// The calls that a seed makes before its seal. Whether they do what they say shows only when the power is cut.
fn sync(directory: &TestDirectory) -> Result<Finding> {
    let file = directory.file("sync")?;
    write_all(&file, &vec![b's'; SYNCED])?;
    let began = Instant::now();
    let (of_file, of_directory) = (fs::fsync(&file), fs::fsync(directory.at()));
    let time = began.elapsed();
    let of_all = fs::syncfs(directory.at().as_fd());
    let refused: Vec<String> =
        [("fsync of a file", of_file), ("fsync of a directory", of_directory), ("syncfs", of_all)]
            .into_iter()
            .filter_map(|(what, answer)| Some(format!("{what}: {}", in_words(answer.err()?))))
            .collect();
    let finding = match (of_file, refused.is_empty()) {
        (_, true) => Finding::ok("fsync", format!("answers, {} for a file and its directory", spelled(time))),
        (Ok(()), false) => {
            Finding::warn("fsync", refused.join("; ")).then("volseed syncs file by file where it can")
        }
        (Err(_), false) => Finding::fail("fsync", refused.join("; ")).then(
            "nothing on this volume is durable: a crash may leave half of a seed that counts as complete",
        ),
    };
    Ok(finding.fact("fsync_us", time.as_micros() as u64))
}
