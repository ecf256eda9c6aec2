//! What `volseed status` says of a volume, and records that cannot be believed.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::kit::{
    Outcome, Sandbox, Tree, assert_nothing_published, assert_same_tree, eventually, seed, staged, volseed,
};

/// A sandbox with the sample tree and an empty volume.
fn sandbox() -> (Sandbox, PathBuf, PathBuf) {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    (sandbox, source, volume)
}

fn status(volume: &Path, flags: &[&str]) -> Outcome {
    volseed(["status"]).option("--to", volume).arguments(flags).ends()
}

/// Both forms of the status name the volume and say this of it.
#[track_caller]
fn shows(volume: &Path, word: &str) {
    let text = status(volume, &[]).exits(0).stdout;
    assert!(text.contains(word) && text.contains(volume.to_str().unwrap()), "{text}");
    let json = status(volume, &["--json"]).exits(0).stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(value.to_string().contains(&format!("\"{word}\"")), "{json}");
}

#[test]
fn an_unseeded_volume_is_called_so_and_left_alone() {
    let (_sandbox, _, volume) = sandbox();
    shows(&volume, "unseeded");
    assert_eq!(fs::read_dir(volume).unwrap().count(), 0);
}

#[test]
fn a_volume_that_is_being_seeded_is_called_so() {
    let (_sandbox, _, volume) = sandbox();
    let running = seed("-", &volume).fed().start();
    running.feed(Tree::many_of("d", 30, 50_000).members().unfinished());
    eventually("a stage", || staged(&volume) > 0);
    shows(&volume, "seeding");
}

#[test]
fn a_seeded_volume_is_complete() {
    let (_sandbox, source, volume) = sandbox();
    seed(source, &volume).ends().exits(0);
    shows(&volume, "complete");
}

#[test]
fn an_adopted_volume_is_complete() {
    let (_sandbox, source, volume) = sandbox();
    fs::write(volume.join("version"), "1").unwrap();
    seed(source, &volume).option("--sentinel", "version").ends().exits(0);
    shows(&volume, "complete");
}

#[test]
fn status_of_a_volume_that_is_not_there_is_an_error() {
    let (sandbox, _, _) = sandbox();
    let outcome = status(&sandbox.path("missing"), &[]);
    assert!(
        outcome.stderr.starts_with("error: ") && outcome.stderr.contains("missing"),
        "{}",
        outcome.stderr
    );
}

/// With this in the place of the record, status, seed and wait refuse in good time.
#[track_caller]
fn refused(make: impl Fn(&Path)) {
    let (_sandbox, source, volume) = sandbox();
    let ours = volume.join(".volseed");
    fs::create_dir(&ours).unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o700)).unwrap();
    make(&ours.join("state.json"));
    status(&volume, &[]).fails(78, "state.json");
    seed(source, &volume).ends().fails(78, "state.json");
    let wait = volseed(["wait", "--wait-timeout", "10s"]).option("--to", &volume);
    wait.ends().fails(78, "state.json");
    assert!(!volume.join("index.php").exists());
}

#[test]
fn a_record_that_cannot_be_read_is_refused() {
    for text in ["", "{", "{}", "[]", "null", "\u{0}\u{0}\u{0}", "{\"version\":99999}", "not json"] {
        refused(|path| fs::write(path, text).unwrap());
    }
}

#[test]
fn a_record_cut_off_anywhere_is_refused() {
    let (_sandbox, source, volume) = sandbox();
    seed(source, &volume).ends().exits(0);
    let whole = fs::read(volume.join(".volseed/state.json")).unwrap();
    let trimmed = whole.trim_ascii_end().len();
    for length in [1, trimmed / 2, trimmed - 1] {
        refused(|path| fs::write(path, &whole[..length]).unwrap());
    }
}

#[test]
fn a_fifo_in_the_place_of_the_record_does_not_hang() {
    refused(|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap());
}

#[test]
fn a_directory_in_the_place_of_the_record_is_refused() {
    refused(|path| fs::create_dir(path).unwrap());
}

#[test]
fn a_record_of_endless_length_is_refused_without_reading_it() {
    refused(|path| File::create(path).unwrap().set_len(1 << 40).unwrap());
}

#[test]
fn a_symlink_in_the_place_of_the_record_is_not_followed() {
    refused(|path| symlink("/etc/passwd", path).unwrap());
    refused(|path| symlink("/dev/zero", path).unwrap());
}

/// With this in the place of `.volseed`, nothing is written anywhere.
#[track_caller]
fn foreign_state(make: impl FnOnce(&Path, &Path)) {
    let (sandbox, source, volume) = sandbox();
    let outside = sandbox.directory("outside");
    make(&volume.join(".volseed"), &outside);
    seed(source, &volume).ends().fails(78, ".volseed");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    assert!(!volume.join("index.php").exists());
}

#[test]
fn a_symlink_in_the_place_of_our_directory_is_not_followed() {
    foreign_state(|path, outside| symlink(outside, path).unwrap());
    foreign_state(|path, outside| symlink(outside.join("missing"), path).unwrap());
}

#[test]
fn a_file_in_the_place_of_our_directory_is_refused() {
    foreign_state(|path, _| fs::write(path, "x").unwrap());
}

#[test]
fn what_stands_in_the_place_of_the_lock_does_not_hang() {
    type Make = fn(&Path);
    let makers: [(&str, Make); 3] = [
        ("a FIFO", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a symlink", |path| symlink("/etc/hostname", path).unwrap()),
    ];
    for (what, make) in makers {
        let (_sandbox, source, volume) = sandbox();
        fs::create_dir(volume.join(".volseed")).unwrap();
        make(&volume.join(".volseed/lock"));
        let outcome = seed(source, &volume).ends().says_nothing_of("panicked");
        assert!(outcome.stderr.contains("not a regular file"), "{what}: {}", outcome.stderr);
        outcome.exits(78);
        assert_nothing_published(&volume);
    }
}

#[test]
fn our_directory_that_others_could_write_is_closed_again() {
    let (_sandbox, source, volume) = sandbox();
    let ours = volume.join(".volseed");
    fs::create_dir(&ours).unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).unwrap();
    seed(&source, &volume).ends();
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_same_tree(&source, &volume);
}
