//! What the app finds when volseed has become it.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::kit::app::{APP, PATIENT};
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Outcome, Sandbox, Tree, Volseed, mount, needs, run, volseed};

/// A sandbox on disk, where programs may be executed, with a source and an empty volume.
fn sandbox() -> (Sandbox, PathBuf, PathBuf) {
    let sandbox = Sandbox::on_disk();
    let source = Tree::new().file("a", "x").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    (sandbox, source, volume)
}

/// What becomes of `volseed run … -- app`, with an environment and the like added.
#[track_caller]
fn handed_over(app: &[&str], with: impl FnOnce(&Sandbox, Volseed) -> Volseed) -> Outcome {
    let (sandbox, source, volume) = sandbox();
    with(&sandbox, run(source, volume, app)).ends()
}

#[test]
fn the_app_is_the_same_process() {
    let (_sandbox, source, volume) = sandbox();
    let running = run(source, volume, ["sh", "-c", PATIENT]).fed().listening().start();
    running.prints(&format!("ready (pid {})", running.pid()));
    running.feed("go\n");
    running.ends().exits(7);
}

#[test]
fn in_a_container_the_app_is_process_1() {
    if !needs::root() || !needs::tools(&["unshare"]) {
        return;
    }
    handed_over(&["sh", "-c", APP], |_, it| it.in_container()).exits(0).prints("ready (pid 1)");
}

#[test]
fn the_app_has_its_arguments_environment_and_directory() {
    let (sandbox, source, volume) = sandbox();
    let here = sandbox.directory("here");
    let app = ["sh", "-c", APP, "name", "two words", "", "--to", "-x"];
    let outcome = run(source, volume, app).in_directory(&here).env("GREETING", "a b\n c").ends().exits(0);
    let outcome = outcome.prints("name: name").prints("argument: two words").prints("argument: ");
    let outcome =
        outcome.prints("argument: --to").prints("argument: -x").prints("greeting: a b").prints(" c");
    outcome.prints(&format!("directory: {}", here.display()));
}

#[test]
fn the_app_keeps_our_variables_so_that_health_checks_agree() {
    handed_over(&["env"], |_, it| it.env("VOLSEED_WORKERS", "2")).exits(0).prints("VOLSEED_WORKERS=2");
}

/// What `/proc/self/status` and `/proc/self/limits` say of an app, without what every process has its own of.
fn process_of(text: &str) -> Vec<&str> {
    // SigQ counts the queued signals of all processes of the user.
    let own = [
        "Pid:", "PPid:", "Tgid:", "Ngid:", "NSpid:", "NStgid:", "NSpgid:", "NSsid:", "Vm", "Rss", "Hugetlb",
        "SigQ:",
    ];
    let own = |line: &&str| {
        !own.iter().any(|name| line.starts_with(name))
            && !line.contains("ctxt_switches")
            && !line.contains("allowed")
    };
    text.lines().filter(own).collect()
}

#[test]
fn the_app_is_what_it_would_be_without_us() {
    let show = "umask; cat /proc/self/status /proc/self/limits";
    let wrappers = [
        &["env"][..],
        &["env", "--ignore-signal=HUP", "--ignore-signal=PIPE", "--block-signal=USR1"],
        &["sh", "-c", "umask 027; ulimit -n 512; ulimit -c 0; exec \"$@\"", "sh"],
    ];
    for wrapper in wrappers {
        let without = Command::new(wrapper[0]).args(&wrapper[1..]).args(["sh", "-c", show]).output().unwrap();
        let without = String::from_utf8(without.stdout).unwrap();
        for flags in [&[][..], &["--supervise"]] {
            let outcome =
                handed_over(&["sh", "-c", show], |_, it| it.listening().arguments(flags).under(wrapper))
                    .exits(0);
            assert_eq!(process_of(&outcome.stdout), process_of(&without), "{wrapper:?} {flags:?}");
        }
    }
}

#[test]
fn a_standard_file_that_is_closed_stays_closed() {
    let show = "for file in 0 1 2; do [ -e /proc/$$/fd/$file ] || closed=\"$closed $file\"; done; \
        echo closed:$closed >&9";
    for supervise in [&[][..], &["--supervise"]] {
        let closing = ["sh", "-c", "exec 9>&1; exec \"$@\" <&- >&-", "sh"];
        let outcome =
            handed_over(&["sh", "-c", show], |_, it| it.arguments(supervise).under(closing)).exits(0);
        outcome.prints("closed: 0 1");
    }
}

#[test]
fn the_app_has_no_file_of_ours_open() {
    let open = |printed: &str| -> Vec<String> {
        printed.lines().filter_map(|line| line.strip_prefix("open: ")).map(str::to_owned).collect()
    };
    // The parent of this test may have left files open to us, and to the app.
    let without = Command::new("sh").args(["-c", APP]).output().unwrap();
    let outcome = handed_over(&["sh", "-c", APP], |_, it| it.listening()).exits(0);
    assert_eq!(open(&outcome.stdout), open(&String::from_utf8_lossy(&without.stdout)));
}

#[test]
fn the_app_reads_our_standard_input() {
    handed_over(&["cat"], |_, it| it.input("hello\n")).exits(0).prints("hello");
}

#[test]
fn the_app_s_exit_code_is_ours() {
    for code in [0, 1, 7, 64, 255] {
        handed_over(&["sh", "-c", &format!("exit {code}")], |_, it| it).exits(code);
    }
    handed_over(&["sh", "-c", "kill -9 $$"], |_, it| it).killed_by(Signal::SIGKILL);
}

#[test]
fn a_command_that_cannot_be_executed_exits_126_and_a_missing_one_127() {
    let (sandbox, source, volume) = sandbox();
    let plain = sandbox.file("plain", "x").display().to_string();
    let folder = sandbox.directory("folder").display().to_string();
    for (command, code) in [
        (plain.as_str(), 126),
        (&folder, 126),
        ("/", 126),
        ("/nowhere/app", 127),
        ("no-such-command", 127),
        ("./no-such-command", 127),
        ("", 127),
    ] {
        run(&source, &volume, [command]).env("PATH", "/usr/bin:/bin").ends().fails(code, command);
    }
}

#[test]
fn the_command_is_looked_up_in_path_as_a_shell_does() {
    let (sandbox, source, volume) = sandbox();
    let (first, second) = (sandbox.directory("first"), sandbox.directory("second"));
    sandbox.file("first/app", "not executable");
    sandbox.program("second/app", "#!/bin/sh\necho second\n");
    let start = |path: &str| run(&source, &volume, ["app"]).env("PATH", path).in_directory(&second).ends();
    let (first, second) = (first.display(), second.display());
    start(&format!("/nowhere:{first}:{second}")).exits(0).prints("second");
    start(&format!("{second}:{first}")).exits(0).prints("second");
    start("/nowhere:").exits(0).prints("second");
    start(&format!("{first}")).fails(126, "app");
    start("/nowhere").fails(127, "app");
}

#[test]
fn a_script_without_an_interpreter_line_is_run_by_the_shell() {
    let (sandbox, source, volume) = sandbox();
    let script = sandbox.program("script", "echo \"ran with $1\"\n");
    run(&source, &volume, [script.as_os_str(), "an argument".as_ref()])
        .ends()
        .exits(0)
        .prints("ran with an argument");
    let path = format!("{}:/bin:/usr/bin", script.parent().unwrap().display());
    run(&source, &volume, ["script", "x"]).env("PATH", path).ends().exits(0).prints("ran with x");
}

#[test]
fn a_program_whose_interpreter_is_missing_says_so() {
    let (sandbox, source, volume) = sandbox();
    let script = sandbox.program("script", "#!/nowhere/interpreter\n");
    run(&source, &volume, [&script]).ends().fails(127, "script");
}

#[test]
fn the_app_is_not_started_where_the_seed_failed() {
    let (sandbox, _, volume) = sandbox();
    let outcome = run(sandbox.path("missing"), volume, ["echo", "started"]).ends().exits(66);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn seeding_from_standard_input_leaves_the_app_its_end() {
    let (_sandbox, _, volume) = sandbox();
    let archive = Tree::sample().archive();
    run("-", volume, ["wc", "-c"]).input(archive).ends().exits(0).prints("0");
}

/// `id` of the app that was started for this user; /etc/passwd and /etc/group are the test's.
#[track_caller]
fn id_of(user: &str, with: impl FnOnce(Volseed) -> Volseed) -> Outcome {
    let (sandbox, source, volume) = sandbox();
    let users = "root:x:0:0:root:/root:/bin/sh\nbroken line\napp:x:1234:1235:An app:/srv/app:/bin/sh\n";
    let groups = "root:x:0:\napp:x:1235:\nextra:x:4321:other,app\nmore:x:4322:app\nothers:x:4323:apple\n";
    let _users = mount::bind(&sandbox.file("passwd", users), "/etc/passwd".as_ref());
    let _groups = mount::bind(&sandbox.file("group", groups), "/etc/group".as_ref());
    let show = "echo $(id -u):$(id -g) groups $(id -G) home $HOME; grep -E '^(Uid|Gid):' /proc/self/status";
    with(run(source, volume, ["sh", "-c", show]).option("--user", user).env("HOME", "/before")).ends()
}

#[test]
fn a_user_is_taken_with_group_supplementary_groups_and_home() {
    if !needs::root() {
        return;
    }
    for (user, shown) in [
        ("app", "1234:1235 groups 1235 4321 4322 home /srv/app"),
        ("1234", "1234:1235 groups 1235 4321 4322 home /srv/app"),
        ("app:extra", "1234:4321 groups 4321 home /srv/app"),
        ("app:55", "1234:55 groups 55 home /srv/app"),
        ("1234:55", "1234:55 groups 55 home /srv/app"),
        ("98765:55", "98765:55 groups 55 home /"),
    ] {
        id_of(user, |it| it).exits(0).prints(shown);
    }
}

#[test]
fn the_user_is_given_up_for_good() {
    if !needs::root() {
        return;
    }
    let outcome = id_of("app", |it| it).exits(0);
    outcome.prints("Uid:\t1234\t1234\t1234\t1234").prints("Gid:\t1235\t1235\t1235\t1235");
}

#[test]
fn a_user_that_is_already_ours_needs_no_privileges() {
    if !needs::root() {
        return;
    }
    let (sandbox, source, _) = sandbox();
    let volume = sandbox.volume_of(PROBE_ID);
    let own = format!("{PROBE_ID}:{PROBE_ID}");
    let start = |user: &str| {
        run(&source, &volume, ["id", "-u"]).option("--user", user).started_by(PROBE_ID, PROBE_ID).ends()
    };
    start(&own).exits(0).prints("12345");
    start("1:1").fails(77, "1");
}

#[test]
fn a_user_that_is_not_one_is_wrong_usage() {
    for user in [
        "4294967296",
        "4294967295",
        "0day",
        "-1",
        "nosuchuser",
        "",
        "0:0day",
        "0:-1",
        "0:4294967296",
        "1:2:3",
        " 0",
    ] {
        let (_sandbox, source, volume) = sandbox();
        run(source, &volume, ["true"]).flag(&format!("--user={user}")).ends().fails(64, "--user");
        assert_eq!(fs::read_dir(volume).unwrap().count(), 0, "{user:?}");
    }
}

#[test]
fn a_command_that_is_not_meant_passes_straight_through() {
    for (globs, command, seeded) in [
        ("apache*,php-fpm", "sh", false),
        ("apache*,sh", "sh", true),
        ("s?", "sh", true),
        ("sh", "/bin/sh", true),
        ("/bin/sh", "/bin/sh", true),
        ("bash", "sh", false),
    ] {
        let (_sandbox, source, volume) = sandbox();
        let start = run(source, &volume, [command, "-c", "echo through"]).option("--only-for", globs);
        start.ends().exits(0).prints("through");
        assert_eq!(volume.join("a").exists(), seeded, "{globs} {command}");
        assert_eq!(volume.join(".volseed").exists(), seeded, "{globs} {command}");
    }
}

#[test]
fn a_command_that_passes_through_does_not_need_volume_or_source() {
    let start = volseed([
        "run",
        "--only-for",
        "apache*",
        "--from",
        "/nowhere",
        "--to",
        "/nowhere",
        "--",
        "echo",
        "through",
    ]);
    start.ends().exits(0).prints("through");
}

/// As `docker run IMAGE volseed plan` starts it, also behind the image's own entry point.
#[test]
fn a_command_of_volseed_that_only_looks_changes_nothing_before() {
    let (sandbox, source, volume) = sandbox();
    let entry_point = sandbox.program("docker-entrypoint.sh", "#!/bin/sh\nexec \"$@\"\n");
    let own = env!("CARGO_BIN_EXE_volseed");
    for behind in [vec![own.as_ref()], vec![entry_point.as_os_str(), own.as_ref()]] {
        let start = run(&source, &volume, behind.into_iter().chain([OsStr::new("plan")]));
        let start = start.env("VOLSEED_FROM", &source).env("VOLSEED_TO", &volume);
        let outcome = start.ends().exits(1);
        assert!(outcome.stdout.contains("would be seeded"), "{outcome:?}");
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    }
    // One that seeds another volume follows this one's seed.
    let other = sandbox.directory("other");
    let own_seed = [own, "seed", "--from", source.to_str().unwrap(), "--to", other.to_str().unwrap()];
    run(&source, &volume, own_seed).ends().exits(0);
    let only = run(&source, &volume, own_seed).env("VOLSEED_ONLY_FOR", "nginx").ends().exits(0);
    only.says_nothing_of("not seeding");
    assert!(volume.join("a").exists() && other.join("a").exists());
}

#[test]
fn passing_through_still_changes_the_user() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox();
    let start = run(source, volume, ["id", "-u"]).option("--only-for", "apache*").option("--user", "1:1");
    start.ends().exits(0).prints("1");
}

#[test]
fn a_standard_error_that_nobody_reads_does_not_keep_the_app_from_starting() {
    for shell in [
        "exec \"$0\" \"$@\" 2>/dev/full",
        "exec \"$0\" \"$@\" 2>&-",
        "(exec \"$0\" \"$@\") 2>&1 >&3 3>&- | true",
    ] {
        let script = format!("exec 3>&1; {shell}");
        let (_sandbox, source, volume) = sandbox();
        let outcome = run(source, &volume, ["echo", "started"]).under(["sh", "-c", &script]).ends();
        outcome.prints("started");
        assert!(volume.join("a").exists());
    }
}
