//! "Identical in bytes, types, modes, owners, times, links and extended attributes": from every kind of source onto
//! every kind of local file system.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::XattrFlags;

use crate::corpus::{ARCHIVES, Corpus};
use crate::kit::mount::{self, Mount};
use crate::kit::{Sandbox, Snapshot, needs, seed};
use crate::{report, rounds, row};

/// Seeds a tree from every source onto ext4, xfs, btrfs and tmpfs and compares all of it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File systems
    #[arg(long, value_delimiter = ',', default_value = "ext4,xfs,btrfs,tmpfs", value_name = "KIND,…")]
    on: Vec<String>,
    /// Debian's packages of bench/corpus.sh in place of a made tree
    #[arg(long)]
    corpus: bool,
    /// Also compares which files have holes
    #[arg(long)]
    sparse: bool,
}

/// A file system that is empty each time it is mounted.
pub(crate) fn volume(kind: &str, sandbox: &Sandbox) -> (Mount, PathBuf) {
    let at = sandbox.volume();
    let mounted = match kind {
        "tmpfs" => mount::tmpfs(&at, "size=1g,mode=755"),
        _ => mount::loop_device(kind, &sandbox.directory("images"), &at),
    };
    (mounted, at)
}

pub(crate) fn run(arguments: &Arguments) -> usize {
    if !needs::tools(&["tar"]) {
        return 0;
    }
    let began = Instant::now();
    let corpus = Corpus::new(arguments.corpus);
    let expected = Snapshot::of(&corpus.tree);
    let sources: Vec<&str> = [&["directory", "stdin"], &ARCHIVES[..]].concat();
    let (mut rows, mut broken) = (Vec::new(), 0);
    for kind in &arguments.on {
        if kind != "tmpfs" && !needs::file_system(kind) {
            continue;
        }
        for &source in &sources {
            let round = |_| seeded(kind, source, &corpus, &expected, arguments.sparse);
            let mut seconds = None;
            let name = format!("fidelity on {kind} from {source}");
            let was_broken = rounds::play(&name, 0..1, 1, round, |took| seconds = took);
            broken += was_broken;
            let shown = seconds.map_or("-".to_owned(), |seconds: f64| format!("{seconds:.2}"));
            let verdict = match seconds {
                Some(_) => "identical",
                None if was_broken == 0 => "not made here",
                None => "differs, or was not seeded",
            };
            rows.push(row![kind, source, shown, verdict]);
        }
    }
    let tree = if arguments.corpus { "bench/corpus.sh" } else { "a made tree of 120 files" };
    report::heading("fidelity", tree, began.elapsed());
    report::table(&["file system", "source", "seconds", "verdict"], &rows);
    broken
}

/// Seconds that it took; nothing where the archive could not be made here.
fn seeded(kind: &str, source: &str, corpus: &Corpus, expected: &Snapshot, sparse: bool) -> Option<f64> {
    let sandbox = Sandbox::on_disk();
    let (_mounted, volume) = volume(kind, &sandbox);
    let began;
    if source == "stdin" {
        let bytes = fs::read(corpus.source("tar.gz")).unwrap();
        began = Instant::now();
        seed("-", &volume).input(bytes).ends().exits(0);
    } else {
        let from = corpus.source(source);
        if !from.exists() {
            return None;
        }
        began = Instant::now();
        seed(from, &volume).ends().exits(0);
    }
    let seconds = began.elapsed().as_secs_f64();
    let found = Snapshot::of(&volume);
    if keeps_attributes(&volume) {
        expected.assert_same(&found);
    } else {
        eprintln!("note: {kind} keeps no user.* attributes on this kernel: not compared");
        expected.clone().without_attributes().assert_same(&found.without_attributes());
    }
    if sparse {
        assert_eq!(with_holes(&corpus.tree), with_holes(&volume), "files with holes");
    }
    Some(seconds)
}

/// tmpfs has `user.*` only since Linux 6.6.
fn keeps_attributes(volume: &Path) -> bool {
    let set = rustix::fs::setxattr(volume, "user.volseed-soak", b"1", XattrFlags::empty());
    set.and_then(|()| rustix::fs::removexattr(volume, "user.volseed-soak")).is_ok()
}

/// The files that take less room than their length.
fn with_holes(root: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut directories) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() && entry.file_name() != ".volseed" {
                directories.push(entry.path());
            } else if metadata.is_file() && metadata.blocks() * 512 + 4096 <= metadata.len() {
                found.insert(entry.path().strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found
}
