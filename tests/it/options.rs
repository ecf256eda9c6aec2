//! Flags, environment and file: what is accepted, what wins, and how a mistake is named.

use std::fs;
use std::path::Path;

use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, seed, volseed};

/// Every option of a volume, and where else it is known.
const VOLUME: &[&str] = &[
    "from",
    "to",
    "sentinel",
    "existing",
    "chown",
    "chmod",
    "no-times",
    "strict",
    "workers",
    "memory",
    "wait-timeout",
    "max-entries",
];
const SERVER: &[&str] = &["listen", "live-path", "ready-path", "started-path", "seeding-status", "stall"];
const EVERYWHERE: &[&str] = &["config", "log", "log-level"];

/// The arguments are refused as wrong usage, and the line names what is wrong.
#[track_caller]
fn wrong(arguments: &[&str], named: &str) {
    volseed(arguments).ends().fails(64, named);
}

#[test]
fn wrong_usage_exits_64_and_names_the_option() {
    let good = ["seed", "--from", "/nowhere", "--to", "/nowhere"];
    for (option, value) in [
        ("--existing", "never"),
        ("--workers", "0"),
        ("--workers", "many"),
        ("--memory", "lots"),
        ("--memory", "1MiB"),
        ("--wait-timeout", "soon"),
        ("--max-entries", "-1"),
        ("--chmod", "8"),
        ("--chown", ""),
        ("--chown", "1:2:3"),
        ("--listen", "here"),
        ("--listen", "127.0.0.1:65536"),
        ("--seeding-status", "99"),
        ("--seeding-status", "fine"),
        ("--stall", "-1s"),
        ("--sentinel", "/etc/passwd"),
        ("--sentinel", "../version"),
        ("--sentinel", ".volseed/state.json"),
        ("--log", "xml"),
        ("--log-level", "loud"),
    ] {
        let option_and_value = format!("{option}={value}");
        wrong(&[&good[..], &[&option_and_value]].concat(), option);
    }
}

#[test]
fn what_is_missing_is_named() {
    wrong(&["seed", "--to", "/nowhere"], "--from");
    wrong(&["seed", "--from", "/nowhere"], "--to");
    wrong(&["seed", "--from", "/nowhere", "--to", "/nowhere", "--form", "x"], "--form");
    wrong(&["run", "--from", "/nowhere", "--to", "/nowhere"], "CMD");
}

#[test]
fn a_mistyped_flag_is_answered_with_the_right_one() {
    wrong(&["seed", "--from", "/nowhere", "--to", "/nowhere", "--worker", "3"], "--workers");
}

#[test]
fn a_wrong_value_in_the_environment_is_refused_like_a_flag() {
    seed("/nowhere", "/nowhere").env("VOLSEED_WORKERS", "many").ends().fails(64, "many");
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let outcome = seed(source, sandbox.volume()).env("VOLSEED_WORKER", "3").ends().exits(0);
    outcome.says("VOLSEED_WORKER").says("VOLSEED_WORKERS");
}

#[test]
fn the_environment_alone_is_enough() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    volseed(["seed"]).env("VOLSEED_FROM", &source).env("VOLSEED_TO", &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn run_is_what_happens_without_a_subcommand() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let by_env = |arguments: &[&str]| {
        volseed(arguments).env("VOLSEED_FROM", &source).env("VOLSEED_TO", &volume).ends()
    };
    by_env(&["--", "echo", "started"]).exits(0).prints("started");
    by_env(&["--log", "json", "--", "echo", "again"]).exits(0).prints("again");
    assert_same_tree(&source, &volume);
}

#[test]
fn a_switch_is_set_by_true_or_1_and_not_by_false_or_0() {
    for (value, refused) in [("true", true), ("1", true), ("false", false), ("0", false)] {
        let sandbox = Sandbox::new();
        let source =
            Tree::new().file("a", "a").modified(1_400_000_000, 0).write_to(&sandbox.directory("source"));
        let volume = sandbox.volume();
        seed(source, &volume).env("VOLSEED_NO_TIMES", value).ends().exits(0);
        let modified = fs::metadata(volume.join("a")).unwrap().modified().unwrap();
        let recent = modified.elapsed().unwrap().as_secs() < 3600;
        assert_eq!(recent, refused, "VOLSEED_NO_TIMES={value}");
    }
}

#[test]
fn help_shows_the_environment_name_of_every_option() {
    for (subcommand, options) in [
        ("run", [VOLUME, SERVER, EVERYWHERE, &["user", "only-for"]].concat()),
        ("seed", [VOLUME, SERVER, EVERYWHERE].concat()),
        ("wait", [&["to", "wait-timeout"], EVERYWHERE].concat()),
        ("health", vec!["listen", "app-check"]),
        ("status", vec!["to", "config"]),
    ] {
        let help = volseed([subcommand, "--help"]).ends().exits(0).stdout;
        for option in options {
            let variable = format!("VOLSEED_{}", option.to_uppercase().replace('-', "_"));
            assert!(help.contains(&format!("--{option}")), "{subcommand}: no --{option} in\n{help}");
            assert!(help.contains(&variable), "{subcommand}: no {variable} in\n{help}");
        }
    }
}

#[test]
fn help_is_at_most_80_columns_wide() {
    for subcommand in [
        &["--help"][..],
        &["run", "--help"],
        &["seed", "--help"],
        &["wait", "--help"],
        &["health", "--help"],
        &["status", "--help"],
    ] {
        let help = volseed(subcommand).ends().exits(0).stdout;
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{subcommand:?}: {line:?}");
        }
    }
}

#[test]
fn nothing_of_ours_goes_to_standard_output() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let outcome = seed(source, sandbox.volume()).ends().exits(0);
    assert_eq!(outcome.stdout, "");
}

/// A configuration file, and volseed reading it.
fn configured(sandbox: &Sandbox, text: &str) -> Volseed {
    volseed(["seed"]).option("--config", sandbox.file("volseed.toml", text))
}

#[test]
fn one_file_seeds_two_volumes_each_with_its_options() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let archive = sandbox.file("seed.tar", Tree::many("d", 3).archive());
    let (first, second) = (sandbox.directory("first"), sandbox.directory("second"));
    let text = format!(
        "log-level = \"debug\"\n[[volume]]\nfrom = {source:?}\nto = {first:?}\nsentinel = \"version\"\n\
         [[volume]]\nfrom = {archive:?}\nto = {second:?}\nworkers = 2\nmemory = \"8MiB\"\nno-times = true\n"
    );
    configured(&sandbox, &text).ends().exits(0);
    assert!(first.join("version").exists() && first.join("index.php").exists());
    assert!(second.join("d/00002").exists() && !second.join("version").exists());
}

#[test]
fn a_mistake_in_the_file_names_table_and_key() {
    let first = "[[volume]]\nfrom = \"/nowhere\"\nto = \"/nowhere\"\n";
    for (text, key) in [
        (format!("{first}[[volume]]\nfrom = \"/a\"\nto = \"/b\"\nexisting = \"never\"\n"), "existing"),
        (format!("{first}[[volume]]\nform = \"/a\"\nto = \"/b\"\n"), "form"),
        (format!("{first}[[volume]]\nfrom = \"/a\"\nto = \"/b\"\nlisten = \":80\"\n"), "listen"),
        (format!("{first}[[volume]]\nfrom = \"/a\"\nto = \"/b\"\nno-times = \"yes\"\n"), "no-times"),
        (format!("{first}[[volume]]\nfrom = \"/a\"\nto = \"/b\"\nworkers = 0\n"), "workers"),
        (format!("{first}[[volume]]\nto = \"/b\"\n"), "from"),
    ] {
        let sandbox = Sandbox::new();
        configured(&sandbox, &text).ends().fails(64, key).says("volume");
    }
}

#[test]
fn a_mistake_at_the_top_of_the_file_names_file_and_key() {
    let sandbox = Sandbox::new();
    configured(&sandbox, "listen = 80\n").ends().fails(64, "listen").says("volseed.toml");
    configured(&sandbox, "lisen = \":80\"\n").ends().fails(64, "lisen");
    configured(&sandbox, "listen = \n").ends().fails(64, "volseed.toml");
}

#[test]
fn a_mistyped_key_is_answered_with_the_right_one() {
    let sandbox = Sandbox::new();
    configured(&sandbox, "listn = \":80\"\n").ends().fails(64, "listn").says("listen");
    configured(&sandbox, "[[volume]]\nexistng = \"keep\"\n")
        .ends()
        .fails(64, "[[volume]] 1")
        .says("existing");
}

#[test]
fn a_key_in_the_wrong_place_is_told_its_own() {
    let sandbox = Sandbox::new();
    configured(&sandbox, "existing = \"keep\"\n").ends().fails(64, "existing").says("in a [[volume]] table");
    configured(&sandbox, "[[volume]]\nlisten = \":80\"\n").ends().fails(64, "listen").says("above the");
}

#[test]
fn a_key_that_no_command_but_run_has_is_checked_for_all() {
    let sandbox = Sandbox::new();
    configured(&sandbox, "grace = \"soon\"\n").ends().fails(64, "grace");
}

#[test]
fn a_configuration_file_above_its_limit_is_refused_and_not_cut() {
    let sandbox = Sandbox::new();
    let text = format!("log = \"text\"\n{}", "# more\n".repeat(200_000));
    configured(&sandbox, &text).ends().fails(64, "volseed.toml").says("1 MiB");
    // The limit is in the middle of a character.
    let text = format!("#{}", "é".repeat(1 << 20));
    configured(&sandbox, &text).ends().fails(64, "volseed.toml").says("1 MiB");
}

#[test]
fn a_configuration_file_that_was_asked_for_has_to_be_there() {
    let outcome = volseed(["seed", "--config", "/nowhere/volseed.toml"]).ends();
    outcome.fails(66, "/nowhere/volseed.toml");
}

/// Seeds a volume that already holds a file: `fail` refuses that, `keep` does not.
#[track_caller]
fn existing_is_taken_from(file: &str, variable: Option<&str>, flag: Option<&str>, code: i32) {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    fs::write(volume.join("mine"), "mine").unwrap();
    let text = format!("[[volume]]\nfrom = {source:?}\nto = {volume:?}\nexisting = {file:?}\n");
    let mut start = configured(&sandbox, &text);
    if let Some(value) = variable {
        start = start.env("VOLSEED_EXISTING", value);
    }
    if let Some(value) = flag {
        start = start.option("--existing", value);
    }
    start.ends().exits(code);
}

#[test]
fn flags_beat_the_environment_and_the_environment_beats_the_file() {
    existing_is_taken_from("fail", None, None, 78);
    existing_is_taken_from("fail", Some("keep"), None, 0);
    existing_is_taken_from("keep", Some("fail"), None, 78);
    existing_is_taken_from("keep", Some("fail"), Some("keep"), 0);
    existing_is_taken_from("keep", Some("keep"), Some("fail"), 78);
    existing_is_taken_from("fail", None, Some("keep"), 0);
}

#[test]
fn the_environment_beats_the_file_whatever_kind_the_option_is() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let source = source.to_str().unwrap();
    for (key, by_file, variable, value) in [
        ("from = \"/nowhere\"", 66, "VOLSEED_FROM", source),
        ("max-entries = 1", 65, "VOLSEED_MAX_ENTRIES", "100"),
        ("exclude = [\"/index.php\"]", 64, "VOLSEED_EXCLUDE", "nothing,at-all"),
        ("memory = \"1MiB\"", 64, "VOLSEED_MEMORY", "8MiB"),
    ] {
        let volume = sandbox.directory(variable);
        let from = if by_file == 66 { String::new() } else { format!("from = {source:?}\n") };
        let text = format!("[[volume]]\nto = {volume:?}\nsentinel = \"index.php\"\n{from}{key}\n");
        configured(&sandbox, &text).ends().exits(by_file);
        configured(&sandbox, &text).env(variable, value).ends().exits(0);
        assert_same_tree(Path::new(source), &volume);
    }
    let file = sandbox.file("wait.toml", "[[volume]]\nwait-timeout = \"1h\"\n");
    let waiting = volseed(["wait"]).option("--config", file).option("--to", sandbox.volume());
    waiting.env("VOLSEED_WAIT_TIMEOUT", "1ms").ends().exits(75);
}

#[test]
fn a_switch_of_the_file_can_be_turned_off_in_the_environment() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let text = format!("[[volume]]\nfrom = {source:?}\nto = {volume:?}\nno-times = true\n");
    configured(&sandbox, &text).env("VOLSEED_NO_TIMES", "false").ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn log_levels_leave_out_what_is_below_them() {
    let said = |level: &str| {
        let sandbox = Sandbox::new();
        let source = Tree::sample().write_to(&sandbox.directory("source"));
        seed(source, sandbox.volume()).option("--log-level", level).ends().exits(0).stderr
    };
    assert_eq!(said("warn"), "");
    assert!(said("info").contains("seeded"));
    assert!(said("debug").contains("index.php"));
}

#[test]
fn json_log_lines_have_a_time_a_level_and_their_fields() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let line = seed(source, sandbox.volume()).json().ends().exits(0).line("seeded");
    for key in [
        "timestamp",
        "level",
        "volume",
        "files",
        "directories",
        "links",
        "bytes",
        "seconds",
        "writers",
        "kept",
        "reused",
        "file_latency_us",
        "one_writer_seconds",
        "stage_seconds",
        "sync_seconds",
        "publish_seconds",
    ] {
        assert!(!line[key].is_null(), "no {key} in {line}");
    }
    assert_eq!((&line["files"], &line["links"]), (&4.into(), &2.into()), "{line}");
    assert!(Path::new(line["volume"].as_str().unwrap()).is_absolute());
}

#[test]
fn the_binary_installs_itself_for_another_container() {
    let sandbox = Sandbox::on_disk();
    let directory = sandbox.directory("shared");
    for _ in 0..2 {
        let installed = directory.join("volseed");
        volseed(["install", directory.to_str().unwrap()]).ends().exits(0).prints(installed.to_str().unwrap());
        let version = Volseed::program(installed.to_str().unwrap()).flag("--version").ends().exits(0);
        assert!(version.stdout.starts_with("volseed "), "{version:?}");
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    volseed(["install", "/nowhere"]).ends().fails(74, "/nowhere/volseed");
}
