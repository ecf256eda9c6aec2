//! The order of things on the volume: adopt, stage, publish, record; and what was there before.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::kit::{
    Sandbox, Snapshot, Tree, assert_nothing_published, assert_same_tree, eventually, needs, seed, staged,
};

/// A sandbox with this tree as its source and an empty volume.
pub(crate) fn sandbox(tree: &Tree) -> (Sandbox, PathBuf, PathBuf) {
    let sandbox = Sandbox::new();
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    (sandbox, source, volume)
}

/// Names in a directory, without volseed's own.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".volseed");
    names.sort();
    names
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_seeded_volume_is_left_alone() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    seed(&source, &volume).ends().exits(0);
    let before = Snapshot::of(&volume);
    fs::write(source.join("index.php"), "a newer image").unwrap();
    let outcome = seed(&source, &volume).json().ends().exits(0);
    assert!(outcome.has_line("already seeded") && !outcome.has_line("seeding"));
    before.assert_same(&Snapshot::of(&volume));
}

#[test]
fn a_volume_with_the_sentinel_is_adopted_as_it_is() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    fs::write(volume.join("version.php"), "mine").unwrap();
    let start = || seed(&source, &volume).option("--sentinel", "version.php").json().ends().exits(0);
    assert!(start().has_line("adopted"));
    assert_eq!(names(&volume), ["version.php"]);
    assert!(start().has_line("already seeded"));
}

#[test]
fn a_sentinel_further_down_is_found_and_not_through_a_symlink() {
    let (sandbox, source, volume) = sandbox(&Tree::sample());
    fs::create_dir(volume.join("app")).unwrap();
    fs::write(volume.join("app/version"), "mine").unwrap();
    let outcome = seed(&source, &volume).option("--sentinel", "app/version").json().ends().exits(0);
    assert!(outcome.has_line("adopted"));
    let other = sandbox.directory("other");
    symlink(volume.join("app"), other.join("app")).unwrap();
    let outcome = seed(&source, &other).option("--sentinel", "app/version").json().ends();
    assert!(!outcome.has_line("adopted"));
}

/// Names that appear in the volume's root while it is seeded, in this order.
fn arrivals(volume: &Path, act: impl FnOnce()) -> Vec<String> {
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, volume, WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
    act();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = events.next() {
        names.extend(event.file_name().map(|name| name.to_str().unwrap().to_owned()));
    }
    names
}

#[test]
fn the_sentinel_of_the_seed_is_published_last() {
    for sentinel in ["bin/tool", "current", "empty", "index.php", "releases/1/notes.txt", "uploads"] {
        let (_sandbox, source, volume) = sandbox(&Tree::sample());
        let arrived = arrivals(&volume, || {
            seed(&source, &volume).option("--sentinel", sentinel).ends().exits(0);
        });
        assert_eq!(arrived.last().map(String::as_str), sentinel.split('/').next(), "{arrived:?}");
        assert_same_tree(&source, &volume);
    }
}

#[test]
fn a_sentinel_that_is_made_can_be_read_by_everybody() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    let narrow = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
    seed(&source, &volume).option("--sentinel", "done").under(narrow).ends().exits(0);
    assert_eq!(fs::metadata(volume.join("done")).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn a_sentinel_that_the_seed_does_not_have_is_made_last() {
    for sentinel in ["done", "bin/done", "new/done"] {
        let (_sandbox, source, volume) = sandbox(&Tree::sample());
        let arrived = arrivals(&volume, || {
            seed(&source, &volume).option("--sentinel", sentinel).ends().exits(0);
        });
        assert!(volume.join(sentinel).is_file());
        assert_eq!(arrived.last().map(String::as_str), sentinel.split('/').next(), "{arrived:?}");
    }
}

#[test]
fn nothing_is_seen_on_the_volume_before_everything_is_staged() {
    let (_sandbox, source, volume) = sandbox(&Tree::many_of("d", 30, 50_000));
    let mut first = seed("-", &volume).fed().start();
    first.feed(Tree::many_of("d", 30, 50_000).members().unfinished());
    eventually("files in the stage", || staged(&volume) > 0);
    assert_nothing_published(&volume);
    first.feed([0; 10_240]);
    first.end_input();
    first.ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_volume_that_was_emptied_by_hand_is_seeded_again() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    seed(&source, &volume).ends().exits(0);
    for name in names(&volume) {
        let path = volume.join(name);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
    }
    seed(&source, &volume).ends().exits(0).says("seeded");
    assert_same_tree(&source, &volume);
}

#[test]
fn one_file_that_was_deleted_stays_deleted() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    seed(&source, &volume).ends().exits(0);
    for deleted in ["releases/1/notes.txt", "index.php"] {
        fs::remove_file(volume.join(deleted)).unwrap();
        seed(&source, &volume).ends().exits(0).says("already seeded");
        assert!(!volume.join(deleted).exists());
    }
}

#[test]
fn an_empty_volume_takes_owner_and_mode_of_the_seed_s_root() {
    if !needs::root() {
        return;
    }
    for archive in [false, true] {
        let tree = Tree::new().mode(0o2750).owner(33, 34).file("a", "x");
        let (_sandbox, source, volume) = sandbox(&tree);
        match archive {
            true => seed("-", &volume).input(tree.archive()).ends().exits(0),
            false => seed(&source, &volume).ends().exits(0),
        };
        assert_same_tree(&source, &volume);
    }
}

#[test]
fn a_volume_in_use_keeps_its_own_owner_and_mode() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox(&Tree::new().mode(0o700).owner(33, 34).file("a", "x"));
    fs::write(volume.join("mine"), "mine").unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o711)).unwrap();
    std::os::unix::fs::chown(&volume, Some(12), Some(13)).unwrap();
    seed(source, &volume).ends().exits(0);
    let root = fs::metadata(&volume).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o711, 12, 13));
}

#[test]
fn others_may_list_our_directory_and_enter_nothing_else_in_it() {
    let (_sandbox, _, volume) = sandbox(&Tree::new());
    let mut running = seed("-", &volume).fed().start();
    running.feed(Tree::many_of("d", 30, 50_000).members().unfinished());
    let ours = volume.join(".volseed");
    eventually("a stage", || staged(&volume) > 0);
    let mode = |name: &str| fs::metadata(ours.join(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode(""), mode("claims"), mode("claims/1"), mode("lock")], [0o755, 0o700, 0o700, 0o600]);
    running.feed([0; 10_240]);
    running.end_input();
    running.ends().exits(0);
    assert_eq!([mode(""), mode("state.json"), mode("record.json")], [0o755, 0o644, 0o600]);
}

#[test]
fn nothing_but_lock_and_records_is_left_over() {
    let (_sandbox, source, volume) = sandbox(&Tree::sample());
    seed(source, &volume).ends().exits(0);
    let left: Vec<_> = names(&volume.join(".volseed"));
    let empty = |name: &String| {
        fs::read_dir(volume.join(".volseed").join(name)).is_ok_and(|mut entries| entries.next().is_none())
    };
    let left: Vec<_> = left.into_iter().filter(|name| !empty(name)).collect();
    assert_eq!(left, ["lock", "manifest-1", "record.json", "state.json"]);
}

#[test]
fn a_volume_that_is_not_there_is_named() {
    let (sandbox, source, _) = sandbox(&Tree::sample());
    let missing = sandbox.path("missing");
    let outcome = seed(&source, &missing).ends();
    assert!(outcome.stderr.contains("missing") || missing.exists(), "{}", outcome.stderr);
}

#[test]
fn a_volume_that_is_a_file_is_refused_and_named() {
    let (sandbox, source, _) = sandbox(&Tree::sample());
    let file = sandbox.file("plain", "x");
    let outcome = seed(&source, &file).ends();
    assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains("plain"), "{}", outcome.stderr);
}

#[test]
fn the_volume_inside_the_source_does_not_copy_itself() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = source.join("uploads");
    let outcome = seed(&source, &volume).ends();
    assert!(!outcome.stderr.contains("panicked"));
    assert!(!volume.join("uploads/uploads").exists());
}

#[test]
fn what_the_root_becomes_is_synced_before_the_record() {
    if !needs::tools(&["strace"]) {
        return;
    }
    let (sandbox, source, volume) = sandbox(&Tree::sample().mode(0o644));
    let trace = sandbox.path("trace").display().to_string();
    let calls = "trace=utimensat,fsync,renameat,renameat2";
    let under = ["strace", "-f", "-qq", "-y", "-e", calls, "-o", &trace];
    seed(&source, &volume).under(under).ends().exits(0);
    let trace = read(&trace);
    let root = format!("<{}>", volume.canonicalize().unwrap().display());
    let lines: Vec<&str> = trace.lines().collect();
    let last = |call: &str, argument: &str| {
        lines.iter().rposition(|line| line.contains(&format!("{call}(")) && line.contains(argument))
    };
    let (changed, synced) = (last("utimensat", &format!("{root}, NULL")), last("fsync", &format!("{root})")));
    let recorded = lines.iter().position(|line| line.contains("rename") && line.contains("state.json"));
    assert!(changed.is_some() && changed < synced && synced < recorded, "{trace}");
}
