//! What is recorded of a complete volume, who may read it, and what follows from it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::kit::mount::bind;
use crate::kit::{Sandbox, Tree, assert_same_tree, needs, records, run, seed, volseed};

/// A sandbox that other users may enter, with the sample tree and an empty volume.
fn sandbox() -> (Sandbox, PathBuf, PathBuf) {
    let sandbox = Sandbox::new();
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let source = Tree::sample().file("version", "1").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    (sandbox, source, volume)
}

fn json_status(volume: &Path) -> serde_json::Value {
    let status = volseed(["status", "--json"]).option("--to", volume).ends().exits(0);
    serde_json::from_str::<serde_json::Value>(&status.stdout).unwrap()[0].clone()
}

#[test]
fn the_public_record_holds_no_name_path_or_version() {
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).option("--seed-version", "7.7.7").option("--sentinel", "version").ends().exits(0);
    let public = fs::read_to_string(volume.join(".volseed/state.json")).unwrap();
    assert!(public.contains("\"present\": \"version\""), "{public}");
    for hidden in ["7.7.7", source.to_str().unwrap(), env!("CARGO_PKG_VERSION")] {
        assert!(!public.contains(hidden), "{hidden}: {public}");
    }
    let names = fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().file_name());
    for name in names.filter(|name| name != "version") {
        assert!(!public.contains(&format!("\"{}\"", name.to_str().unwrap())), "{name:?}: {public}");
    }
}

#[test]
fn another_user_starts_on_a_complete_volume() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).ends().exits(0);
    run(&source, &volume, ["true"]).started_by(1000, 1000).ends().exits(0).says("already seeded");
    let status = volseed(["status"]).option("--to", &volume).started_by(1000, 1000).ends().exits(0);
    assert!(status.stdout.contains("complete") && !status.stdout.contains(source.to_str().unwrap()));
}

#[test]
fn another_user_waits_for_a_volume_that_is_not_complete() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    let running = seed("-", &volume).fed().start();
    running.feed(Tree::many_of("d", 30, 50_000).members().unfinished());
    crate::kit::eventually("a stage", || crate::kit::staged(&volume) > 0);
    let other = seed(&source, &volume).option("--wait-timeout", "1s").started_by(1000, 1000).ends();
    other.fails(75, "belongs to UID 0");
    let status = volseed(["status"]).option("--to", &volume).started_by(1000, 1000).ends().exits(0);
    assert!(status.stdout.contains("incomplete"), "{}", status.stdout);
}

#[test]
fn another_owner_than_asked_for_is_said_once_and_left() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).option("--chown", "33:33").ends().exits(0);
    let again = seed(&source, &volume).option("--chown", "82:82").ends().exits(0);
    again.says("owner 33:33 (asked: 82:82)");
    let same = seed(&source, &volume).option("--chown", "33:33").ends().exits(0);
    same.says_nothing_of("WARN");
    let other = run(&source, &volume, ["true"]).option("--chown", "82:82").started_by(1000, 1000).ends();
    other.exits(0).says("another owner than 82:82").says_nothing_of("33:33");
}

#[test]
fn what_is_left_out_now_and_was_not_is_said_whatever_its_order() {
    let (_sandbox, source, volume) = sandbox();
    let start = |patterns: &str| seed(&source, &volume).option("--exclude", patterns).ends().exits(0);
    start("x,y/");
    start("y/,x").says_nothing_of("WARN");
    start("x").says("exclude x,y/ (asked: x)");
    seed(&source, &volume).ends().exits(0).says("exclude x,y/ (asked: none)");
}

#[test]
fn who_only_waits_compares_nothing_but_the_version() {
    let (_sandbox, source, volume) = sandbox();
    let start = seed(&source, &volume).option("--chmod", "g=u").option("--exclude", "x");
    start.option("--seed-version", "1").ends().exits(0);
    let wait = || volseed(["wait"]).option("--to", &volume);
    wait().ends().exits(0).says_nothing_of("WARN");
    wait().option("--seed-version", "1").ends().exits(0).says_nothing_of("WARN");
    let other = wait().option("--seed-version", "2").ends().exits(0);
    other.says("version 1 (asked: 2)").says_nothing_of("source").says_nothing_of("mode");
}

#[test]
fn an_adopted_volume_that_was_emptied_is_seeded() {
    let (_sandbox, source, volume) = sandbox();
    for name in ["version", "mine"] {
        fs::write(volume.join(name), "0").unwrap();
    }
    let start = || seed(&source, &volume).option("--sentinel", "version").option("--seed-version", "1");
    start().ends().exits(0).says("adopted");
    start().ends().exits(0).says("already seeded").says_nothing_of("WARN");
    assert!(json_status(&volume)["complete"].get("version").is_none());
    assert!(json_status(&volume)["complete"].get("totals").is_none());
    for name in ["version", "mine"] {
        fs::remove_file(volume.join(name)).unwrap();
    }
    start().ends().exits(0).says("emptied");
    assert_same_tree(&source, &volume);
}

#[test]
fn an_adopted_volume_with_the_images_sentinel_has_its_version() {
    let (sandbox, source, _) = sandbox();
    let archive = sandbox.file("seed.tar", Tree::sample().file("version", "1").archive());
    for from in [&source, &archive] {
        let volume = sandbox.directory("adopted");
        fs::write(volume.join("version"), "1").unwrap();
        let start = |version| {
            seed(from, &volume).option("--sentinel", "version").option("--seed-version", version).ends()
        };
        start("1.0").exits(0).says("adopted");
        assert_eq!(json_status(&volume)["complete"]["version"], "1.0");
        start("1.1").exits(0).says("version 1.0 (asked: 1.1)");
        fs::remove_dir_all(&volume).unwrap();
    }
}

#[test]
fn records_of_another_layout_say_what_to_do() {
    for (format, cause) in [(3, "a newer volseed wrote it"), (1, "before the first release")] {
        let (_sandbox, source, volume) = sandbox();
        seed(&source, &volume).ends().exits(0);
        let path = volume.join(".volseed/state.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"format\": 2", &format!("\"format\": {format}"))).unwrap();
        seed(&source, &volume).ends().fails(78, cause);
    }
}

#[test]
fn a_volume_from_before_volseed_that_is_read_only_starts() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    fs::write(volume.join("version"), "1").unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o755)).unwrap();
    let start = || run(&source, &volume, ["true"]).option("--sentinel", "version");
    start().started_by(1000, 1000).ends().exits(0).says("seeded before volseed");
    let mount = bind(&volume, &volume);
    mount.remount(MsFlags::MS_RDONLY | MsFlags::MS_BIND, "");
    start().ends().exits(0).says("seeded before volseed").says("read-only file system");
    run(&source, &volume, ["true"]).ends().exits(73);
    drop(mount);
    assert!(!volume.join(".volseed").exists());
    start().ends().exits(0).says("adopted");
}

#[test]
fn what_a_kill_in_the_last_moment_left_is_removed_by_the_next_start() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).ends().exits(0);
    let state = volume.join(".volseed");
    for name in ["claims/1/heartbeat", "claims/1/publishing/stage.json", "tmp/x/claim.json"] {
        fs::write(records::place(&volume, name), "{}").unwrap();
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let start = || run(&source, &volume, ["true"]);
    start().started_by(1000, 1000).ends().exits(0).says("already seeded");
    let mount = bind(&volume, &volume);
    mount.remount(MsFlags::MS_RDONLY | MsFlags::MS_BIND, "");
    start().ends().exits(0).says("already seeded").says_nothing_of("WARN");
    drop(mount);
    assert!(state.join("claims").exists());
    start().ends().exits(0).says("already seeded");
    assert_eq!(crate::order::names(&state), ["lock", "manifest-1", "record.json", "state.json"]);
}

#[test]
fn a_user_to_whom_the_state_is_closed_is_told_what_opens_it() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).ends().exits(0);
    let start = || run(&source, &volume, ["true"]).started_by(1000, 1000).ends();
    for (path, modes) in [(".volseed", [0o700, 0o755]), (".volseed/state.json", [0o600, 0o644])] {
        let set = |mode| fs::set_permissions(volume.join(path), fs::Permissions::from_mode(mode)).unwrap();
        set(modes[0]);
        start().says("chmod 755 .volseed").fails(77, path);
        set(modes[1]);
        start().exits(0).says("already seeded");
    }
}

#[test]
fn another_user_is_told_of_a_pending_hook() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).ends().exits(0);
    records::change(&volume.join(".volseed/state.json"), "state", "pending".into());
    for uid in [0, 1000] {
        let start = run(&source, &volume, ["true"]).option("--wait-timeout", "10ms").started_by(uid, uid);
        start.ends().fails(75, "complete but for a hook");
    }
}
