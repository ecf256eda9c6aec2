//! `--hook`: a program that is called around seeds and upgrades, and owed until it succeeds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Running, Sandbox, Tree, Volseed, eventually, needs, run, seed, volseed};

/// Two images, a volume, and a hook that notes each call and does what the test says.
struct Site {
    sandbox: Sandbox,
    volume: PathBuf,
    hook: PathBuf,
}

/// Notes how it is called, then does what a file of its event's name says, where there is one.
const HOOK: &str = r#"#!/bin/sh
at=$(dirname "$0")
echo "$1 ${VOLSEED_OLD_VERSION-none} ${VOLSEED_NEW_VERSION-none} ${VOLSEED_RESUMED-0}" >>"$at/calls"
[ ! -e "$at/$1" ] || . "$at/$1"
"#;

impl Site {
    fn new() -> Site {
        let sandbox = Sandbox::new();
        for version in ["1.0", "2.0", "3.0"] {
            let tree = Tree::new().file("version.php", version).file("lib/a.php", format!("of {version}"));
            tree.write_to(&sandbox.directory(version));
        }
        let hook = sandbox.program("hook", HOOK);
        Site { volume: sandbox.volume(), sandbox, hook }
    }

    /// One whose volume is at the first version, and whose hook has been called for that.
    fn seeded() -> Site {
        let site = Site::new();
        site.start("1.0").ends().exits(0).prints("app of 1.0");
        site.was_called(&["post-seed none 1.0 0"]);
        site
    }

    fn source(&self, version: &str) -> PathBuf {
        self.sandbox.path(version)
    }

    /// The image of this version, without its hook.
    fn bare(&self, version: &str) -> Volseed {
        let app = ["echo".to_owned(), format!("app of {version}")];
        let start = run(self.source(version), &self.volume, app);
        start.option("--seed-version", version).option("--upgrade", "*").option("--sentinel", "version.php")
    }

    fn start(&self, version: &str) -> Volseed {
        self.bare(version).option("--hook", &self.hook)
    }

    /// What the hook does in this event.
    fn does(&self, event: &str, script: &str) {
        fs::write(self.sandbox.path(event), script).unwrap();
    }

    fn does_nothing(&self, event: &str) {
        fs::remove_file(self.sandbox.path(event)).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.sandbox.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The calls since this was asked last.
    #[track_caller]
    fn was_called(&self, expected: &[&str]) {
        assert_eq!(self.calls(), expected);
        let _ = fs::remove_file(self.sandbox.path("calls"));
    }

    #[track_caller]
    fn is_at(&self, version: &str) {
        assert_eq!(fs::read_to_string(self.volume.join("lib/a.php")).unwrap(), format!("of {version}"));
    }

    fn status(&self) -> String {
        volseed(["status", "--to"]).arguments([&self.volume]).ends().exits(0).stdout
    }

    /// A start that is in the hook of this event, which does not end by itself.
    fn standing_in(&self, event: &str, start: Volseed) -> Running {
        self.does(event, "echo in the hook; exec sleep 1000\n");
        let running = start.start();
        running.says("in the hook");
        running
    }
}

#[test]
fn a_hook_is_called_around_seeds_and_upgrades_and_no_other_start() {
    let site = Site::new();
    site.start("1.0").ends().exits(0).prints("app of 1.0");
    site.was_called(&["post-seed none 1.0 0"]);
    site.start("1.0").ends().exits(0).prints("app of 1.0");
    site.was_called(&[]);
    site.start("2.0").ends().exits(0).says("upgraded").prints("app of 2.0");
    site.was_called(&["pre-upgrade 1.0 2.0 0", "post-upgrade 1.0 2.0 0"]);
    assert!(site.status().contains(": complete\n"), "{}", site.status());
    for entry in fs::read_dir(site.volume.join(".volseed")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(["lock", "manifest-2", "record.json", "state.json"].contains(&&*name), "{name}");
    }
}

#[test]
fn a_seed_without_a_version_has_its_hook_too() {
    let site = Site::new();
    let start = || seed(site.source("1.0"), &site.volume).option("--hook", &site.hook);
    site.does("post-seed", "exit 1\n");
    start().ends().fails(69, "it ended with 1");
    site.does_nothing("post-seed");
    start().ends().exits(0);
    site.was_called(&["post-seed none none 0", "post-seed none none 1"]);
    start().ends().exits(0);
    site.was_called(&[]);
}

#[test]
fn it_runs_in_the_volume_as_the_app_s_user_with_its_environment() {
    if !needs::root() {
        return;
    }
    let site = Site::new();
    fs::set_permissions(site.sandbox.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = r#"
echo "$(id -u):$(id -g) $(id -G) $HOME in $PWD of $VOLSEED_VOLUME, $SETTING, $(ulimit -n) files"
echo "signals:" $(grep -E '^(SigBlk|SigIgn)' /proc/self/status) "open files:" $(ls /proc/self/fd)
read -r line || echo "no input"
echo "to standard error" >/dev/stderr
"#;
    site.does("post-seed", script);
    let user = format!("{PROBE_ID}:{PROBE_ID}");
    let start = site.start("1.0").option("--user", &user).env("SETTING", "a setting");
    let limited = start.under(["prlimit", "--nofile=300:4000", "--"]).ends().exits(0);
    let volume = site.volume.display();
    let expected =
        format!("{PROBE_ID}:{PROBE_ID} {PROBE_ID} / in {volume} of {volume}, a setting, 300 files");
    let said = limited.says(&expected).says("no input").says("to standard error");
    // Nothing of ours is left, compared with a start of its own.
    let direct =
        std::process::Command::new(&site.hook).arg("post-seed").stdin(Stdio::null()).output().unwrap();
    let direct = String::from_utf8(direct.stdout).unwrap();
    let line = direct.lines().find(|line| line.starts_with("signals:")).unwrap();
    assert!(said.stderr.contains(line), "{line}: {}", said.stderr);
}

#[test]
fn a_hook_that_is_owed_is_called_until_it_succeeds_and_no_app_starts_before() {
    let site = Site::seeded();
    site.does("post-upgrade", "echo migrating; exit 3\n");
    let failed = site.start("2.0").ends();
    let failed = failed.says("migrating").says_nothing_of("handing over");
    let failed = failed.fails(69, "call hook 'post-upgrade'");
    // What was done to the volume is told before, since a later start only calls what is owed.
    let told =
        |text: &str| failed.stderr.find(text).unwrap_or_else(|| panic!("no {text} in {}", failed.stderr));
    assert!(told("upgraded volume") < told("calling hook=\"post-upgrade\""), "{}", failed.stderr);
    site.is_at("2.0");
    assert!(site.status().contains(": pending\n"), "{}", site.status());
    assert!(site.status().contains("post-upgrade"), "{}", site.status());
    site.start("2.0").ends().says_nothing_of("handing over").fails(69, "it ended with 3");
    site.does_nothing("post-upgrade");
    site.start("2.0").ends().exits(0).prints("app of 2.0");
    site.was_called(&[
        "pre-upgrade 1.0 2.0 0",
        "post-upgrade 1.0 2.0 0",
        "post-upgrade 1.0 2.0 1",
        "post-upgrade 1.0 2.0 1",
    ]);
    site.start("2.0").ends().exits(0);
    site.was_called(&[]);
}

#[test]
fn a_hook_refuses_an_upgrade_before_anything_is_changed() {
    let site = Site::seeded();
    site.does("pre-upgrade", "echo not now; exit 1\n");
    site.start("2.0").ends().says("not now").says("nothing was changed").fails(69, "call hook 'pre-upgrade'");
    site.is_at("1.0");
    site.start("1.0").ends().exits(0).prints("app of 1.0");
    // The old image's start has tidied up: nothing says that it was ever asked.
    site.does_nothing("pre-upgrade");
    site.start("2.0").ends().exits(0).says("upgraded");
    let calls = site.calls();
    assert_eq!(calls.len(), 3, "{calls:?}");
    site.is_at("2.0");
}

#[test]
fn only_an_image_of_the_same_version_calls_what_is_owed() {
    let site = Site::seeded();
    site.does("post-upgrade", "exit 1\n");
    site.start("2.0").ends().fails(69, "post-upgrade");
    fs::remove_file(site.sandbox.path("calls")).unwrap();
    for version in ["1.0", "3.0"] {
        let waits = site.start(version).option("--wait-timeout", "100ms").ends();
        waits.says_nothing_of("handing over").fails(75, "complete but for a hook");
    }
    // The same version, but without the program: it cannot.
    let bare = site.bare("2.0").option("--wait-timeout", "100ms").ends();
    bare.says("--hook").fails(75, "complete but for a hook");
    let wait = volseed(["wait", "--wait-timeout", "100ms", "--to"]).arguments([&site.volume]);
    wait.ends().fails(75, "complete but for a hook");
    site.was_called(&[]);
    site.does_nothing("post-upgrade");
    site.start("2.0").ends().exits(0);
    site.start("3.0").ends().exits(0).prints("app of 3.0");
    site.is_at("3.0");
}

#[test]
fn a_plan_says_what_is_owed() {
    let site = Site::seeded();
    site.does("post-upgrade", "exit 1\n");
    let plan = |version: &str| {
        let plan =
            volseed(["plan", "--from"]).arguments([&site.source(version)]).option("--to", &site.volume);
        plan.option("--seed-version", version).option("--upgrade", "*").option("--hook", &site.hook)
    };
    let said = plan("2.0").ends().exits(1).stdout;
    assert!(said.contains("; its hook would be called: pre-upgrade, post-upgrade"), "{said}");
    let said = plan("2.0").flag("--json").ends().exits(1).stdout;
    assert!(said.contains("\"hooks\":[\"pre-upgrade\",\"post-upgrade\"]"), "{said}");
    site.start("2.0").ends().fails(69, "post-upgrade");
    let said = plan("2.0").ends().exits(1).stdout;
    assert!(said.contains("its hook would be run"), "{said}");
    let said = plan("3.0").ends().exits(0).stdout;
    assert!(said.contains("would be waited for"), "{said}");
    let back = plan("1.0").option("--rollback-from", "2.0").ends().exits(1).stdout;
    assert!(back.contains("would be taken back from 2.0 to 1.0"), "{back}");
}

#[test]
fn a_version_whose_migration_fails_is_taken_back() {
    let site = Site::seeded();
    site.does("post-upgrade", "[ \"$VOLSEED_NEW_VERSION\" = 1.0 ] || exit 1\n");
    site.start("2.0").ends().fails(69, "post-upgrade");
    let back = || site.start("1.0").option("--rollback-from", "2.0");
    back().ends().exits(0).says("from=\"2.0\" to=\"1.0\"").prints("app of 1.0");
    site.is_at("1.0");
    site.was_called(&[
        "pre-upgrade 1.0 2.0 0",
        "post-upgrade 1.0 2.0 0",
        "pre-upgrade 2.0 1.0 1",
        "post-upgrade 2.0 1.0 0",
    ]);
    back().ends().exits(0).says("already seeded");
    site.was_called(&[]);
}

#[test]
fn a_stop_signal_reaches_the_hook_which_may_end_in_its_own_time() {
    let site = Site::seeded();
    let script = "trap 'echo stopping; sleep 2; echo stopped; exit 1' TERM\necho in the hook\nwhile :; do sleep 0.1; done\n";
    site.does("post-upgrade", script);
    let running = site.start("2.0").start();
    running.says("in the hook");
    let (stopped, took) = running.stopped_by(Signal::SIGTERM);
    stopped.exits(143).says("stopping").says("stopped");
    assert!(took >= Duration::from_secs(2), "{took:?}");
    site.does_nothing("post-upgrade");
    site.start("2.0").ends().exits(0);
}

#[test]
fn one_that_does_not_end_is_killed_with_all_that_it_started() {
    let site = Site::seeded();
    site.does(
        "post-upgrade",
        "trap '' TERM\nsleep 1000 &\necho \"in the hook, $!\"\nwait\nwhile :; do sleep 1; done\n",
    );
    let running = site.start("2.0").start();
    let line = running.says("in the hook, ");
    let started: String =
        line.split("in the hook, ").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    let (stopped, took) = running.stopped_by(Signal::SIGTERM);
    stopped.exits(143);
    assert!((8.0..9.5).contains(&took.as_secs_f64()), "{took:?}");
    eventually("the hook's child to be gone", || is_over(&started));
}

fn is_over(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

#[test]
fn what_a_hook_leaves_in_the_background_is_not_waited_for() {
    let site = Site::new();
    site.does("post-seed", "sleep 1000 &\necho \"left $!\"\nsetsid sleep 1001 &\necho \"and $!\"\n");
    let ended = site.start("1.0").ends().exits(0).prints("app of 1.0");
    let number = |after: &str| -> String {
        let rest = ended.stderr.split(after).nth(1).unwrap();
        rest.chars().take_while(char::is_ascii_digit).collect()
    };
    let (left, apart) = (number("left "), number("and "));
    eventually("what is in its group to be gone", || is_over(&left));
    // It left the group by itself, and is the app's now.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(apart.parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_hook_that_was_killed_is_called_again() {
    let site = Site::seeded();
    let running = site.standing_in("post-upgrade", site.start("2.0"));
    running.stopped_by(Signal::SIGKILL).0.killed_by(Signal::SIGKILL);
    assert!(site.status().contains(": pending\n"), "{}", site.status());
    site.does_nothing("post-upgrade");
    site.start("2.0").ends().exits(0).prints("app of 2.0");
    site.was_called(&["pre-upgrade 1.0 2.0 0", "post-upgrade 1.0 2.0 0", "post-upgrade 1.0 2.0 1"]);
}

#[test]
fn an_upgrade_that_was_killed_while_it_was_asked_leaves_the_old_version() {
    let site = Site::seeded();
    let running = site.standing_in("pre-upgrade", site.start("2.0"));
    running.stopped_by(Signal::SIGKILL).0.killed_by(Signal::SIGKILL);
    site.is_at("1.0");
    site.start("1.0").ends().exits(0).prints("app of 1.0");
}

#[test]
fn replicas_call_it_once_and_wait_for_it() {
    let site = Site::seeded();
    site.does("post-upgrade", "sleep 1\n");
    let replicas: Vec<Running> = (0..5).map(|_| site.start("2.0").start()).collect();
    for replica in replicas {
        replica.ends().exits(0).prints("app of 2.0");
    }
    let calls = site.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("post-upgrade")).count(), 1, "{calls:?}");
}

#[test]
fn another_replica_goes_on_where_the_one_with_the_hook_was_killed() {
    let site = Site::seeded();
    let first = site.standing_in("post-upgrade", site.start("2.0"));
    let second = site.start("2.0").start();
    second.says("waiting for another replica");
    site.does_nothing("post-upgrade");
    first.stopped_by(Signal::SIGKILL);
    second.ends().exits(0).says("taking over").prints("app of 2.0");
}

/// Nothing can fence a hook: who comes back from a freeze ends it.
#[test]
fn a_replica_that_was_frozen_ends_its_hook_once_another_has_taken_over() {
    let site = Site::seeded();
    let start = || site.start("2.0").option("--lock", "lease");
    let first = site.standing_in("post-upgrade", start());
    first.signal(Signal::SIGSTOP);
    site.does_nothing("post-upgrade");
    start().ends().exits(0).says("taking over").prints("app of 2.0");
    let thawed = Instant::now();
    first.signal(Signal::SIGCONT);
    first.ends().exits(0).says("lost the volume to another replica").prints("app of 2.0");
    assert!(thawed.elapsed() < Duration::from_secs(5), "{:?}", thawed.elapsed());
}

#[test]
fn a_supervisor_passes_a_stop_signal_on_and_waits_for_the_hook() {
    if !needs::root() {
        return;
    }
    let site = Site::seeded();
    let script = "trap 'echo stopping; sleep 2; echo stopped; exit 1' TERM\necho in the hook\nwhile :; do sleep 0.1; done\n";
    site.does("post-upgrade", script);
    let running = site.start("2.0").flag("--supervise").in_container().start();
    running.says("in the hook");
    running.stopped_by(Signal::SIGTERM).0.exits(143).says("stopping").says("stopped");
}

#[test]
fn probes_are_answered_while_it_runs() {
    let site = Site::seeded();
    let running = site.standing_in("post-upgrade", site.start("2.0").listening());
    for (path, code) in [("/livez", 200), ("/readyz", 503), ("/startupz", 503), ("/", 503)] {
        let answer = running.get(path);
        assert_eq!(answer.status, code, "{path}");
        assert_eq!(answer.json()["phase"], "migrating", "{path}");
    }
    let metrics = running.get("/metrics").body;
    assert!(metrics.contains("migrating"), "{metrics}");
    running.stopped_by(Signal::SIGTERM).0.exits(143);
}

#[test]
fn a_hook_that_cannot_be_executed_is_an_error_that_says_so() {
    let site = Site::new();
    let with = |hook: &Path| site.bare("1.0").option("--hook", hook).ends();
    with(Path::new("/no/such/hook")).fails(64, "option --hook /no/such/hook");
    with(&site.sandbox.file("text", "no program")).fails(64, "there is no such program");
    with(&site.sandbox.program("broken", "#!/no/such/interpreter\n"))
        .says("interpreter")
        .fails(69, "post-seed");
    site.start("1.0").ends().exits(0);
    site.was_called(&["post-seed none 1.0 1"]);
}

#[test]
fn what_it_says_is_logged_line_by_line_and_as_text() {
    let site = Site::new();
    site.does(
        "post-seed",
        "printf 'one\\ntwo\\033[31m\\r\\n\\nno end'; head -c 20000 /dev/zero | tr '\\0' x\n",
    );
    let said = site.start("1.0").ends().exits(0).stderr;
    assert!(said.contains(" one hook=\"post-seed\"\n"), "{said}");
    assert!(said.contains("two\\u{1b}[31m hook=") || said.contains("two\\x1b[31m hook="), "{said}");
    assert!(said.lines().all(|line| line.len() < 5000), "a line is too long");
    assert!(said.matches('x').count() >= 20_000, "{said}");
}

/// The examples, with commands in the place of an app's.
#[test]
fn the_examples_do_what_they_say() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hooks");
    for (name, command, migrates) in [("occ", "OCC", "upgrade"), ("wp", "WP", "core update-db")] {
        let site = Site::new();
        let script = "#!/bin/sh\necho \"$*\" >>\"$(dirname \"$0\")/app-calls\"\n[ ! -e \"$(dirname \"$0\")/broken\" ]\n";
        let app = site.sandbox.program("app", script);
        let backups = site.sandbox.directory("backups");
        let start = |version: &str| {
            let start = site.bare(version).option("--hook", examples.join(name)).env(command, &app);
            start.env("DATA", &backups).env("SECONDS_FOR_DATABASE", "0")
        };
        let calls = || fs::read_to_string(site.sandbox.path("app-calls")).unwrap();
        start("1.0").ends().exits(0);
        site.sandbox.file("broken", "");
        start("2.0").ends().fails(69, "pre-upgrade");
        site.is_at("1.0");
        fs::remove_file(site.sandbox.path("broken")).unwrap();
        start("2.0").ends().exits(0).prints("app of 2.0");
        assert!(calls().contains(migrates), "{}", calls());
        site.is_at("2.0");
        if name == "occ" {
            start("1.0").option("--rollback-from", "2.0").ends().exits(0).prints("app of 1.0");
            assert!(calls().ends_with("db:restore\nmaintenance:mode --off\n"), "{}", calls());
        }
    }
}
