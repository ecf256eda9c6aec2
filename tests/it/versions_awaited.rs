//! `volseed wait` for a version: an app beside the seed must not start on the tree of an older image.

use std::path::PathBuf;

use crate::kit::{Sandbox, Tree, Volseed, needs, seed, volseed};

/// A volume that an image of version 1.0 seeded, and images of both versions.
struct Site {
    sandbox: Sandbox,
    volume: PathBuf,
}

impl Site {
    fn new() -> Site {
        let sandbox = Sandbox::new();
        let site = Site { volume: sandbox.volume(), sandbox };
        site.start("1.0").ends().exits(0);
        site
    }

    fn start(&self, version: &str) -> Volseed {
        let source = Tree::new().file("version", version).write_to(&self.sandbox.directory(version));
        let start = seed(source, &self.volume).option("--seed-version", version);
        start.option("--sentinel", "version").option("--upgrade", "1.*")
    }

    fn wait(&self, version: &str) -> Volseed {
        let wait = volseed(["wait", "--to"]).arguments([&self.volume]).option("--seed-version", version);
        wait.option("--sentinel", "version")
    }
}

#[test]
fn a_wait_for_a_version_ends_with_the_upgrade() {
    let site = Site::new();
    let wait = || site.wait("2.0").option("--upgrade", "1.*");
    wait().option("--wait-timeout", "100ms").ends().fails(75, "not upgraded within --wait-timeout");
    let mut waiting = wait().start();
    waiting.says("waiting for another replica");
    assert!(waiting.is_running());
    site.start("2.0").ends().exits(0).says("upgraded");
    waiting.ends().exits(0);
    wait().ends().exits(0).says("already seeded");
    // Newer is enough, and an image of the older version waits for nothing.
    site.wait("1.5").option("--upgrade", "1.*").ends().exits(0);
}

#[test]
fn a_wait_for_a_version_ends_with_the_way_back() {
    let site = Site::new();
    site.start("2.0").ends().exits(0);
    let mut waiting = site.wait("1.0").option("--rollback-from", "2.0").start();
    waiting.says("waiting for another replica");
    assert!(waiting.is_running());
    site.start("1.0").option("--rollback-from", "2.0").ends().exits(0).says("upgraded");
    waiting.ends().exits(0);
}

#[test]
fn without_the_option_any_complete_volume_will_do() {
    let site = Site::new();
    site.wait("2.0").ends().exits(0).says("already seeded");
}

#[test]
fn a_version_that_is_not_upgraded_is_not_waited_for() {
    let site = Site::new();
    site.wait("3.0").option("--upgrade", "2.*").ends().fails(78, "it is at 1.0, and 3.0 upgrades only 2.*");
    let wait = volseed(["wait", "--to"]).arguments([&site.volume]).option("--upgrade", "1.*");
    wait.ends().fails(64, "--upgrade needs --seed-version");
}

#[test]
fn a_volume_that_only_has_the_sentinel_is_waited_for_until_it_is_recorded() {
    let site = Site::new();
    std::fs::remove_dir_all(site.volume.join(".volseed")).unwrap();
    site.wait("1.0").ends().exits(0);
    let mut waiting = site.wait("1.0").option("--upgrade", "none").start();
    waiting.says("waiting for another replica");
    assert!(waiting.is_running());
    site.start("1.0").ends().exits(0).says("adopted");
    waiting.ends().exits(0);
}

#[test]
fn another_user_waits_for_this_very_version() {
    if !needs::root() {
        return;
    }
    let site = Site::new();
    let wait = |version| site.wait(version).option("--upgrade", "1.*").started_by(33, 33);
    wait("1.0").ends().exits(0);
    wait("2.0").option("--wait-timeout", "100ms").ends().fails(75, "not upgraded within --wait-timeout");
}

#[test]
fn a_wait_with_a_command_becomes_it() {
    let site = Site::new();
    let wait = || site.wait("2.0").option("--upgrade", "1.*").listening();
    let waiting = wait()
        .arguments(["--", "sh", "-c"])
        .arguments([&format!("echo \"pid $$ on $(cat {}/version)\"", site.volume.display())]);
    let waiting = waiting.start();
    waiting.says("waiting for another replica");
    assert_eq!(waiting.get("/livez").status, 200);
    assert_eq!(waiting.get("/readyz").status, 503);
    let pid = waiting.pid();
    site.start("2.0").ends().exits(0).says("upgraded");
    waiting.ends().exits(0).prints(&format!("pid {pid} on 2.0"));
}

#[test]
fn a_wait_that_ends_without_the_volume_does_not_become_the_command() {
    let site = Site::new();
    let wait = site.wait("2.0").option("--upgrade", "1.*").option("--wait-timeout", "100ms");
    let ended = wait.arguments(["--", "echo", "the app"]).ends().fails(75, "not upgraded within");
    assert_eq!(ended.stdout, "");
}
