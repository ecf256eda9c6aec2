//! What of a command line is volseed's and what is the app's, and what of the environment is a mistake.

use crate::kit::{Sandbox, Tree, Volseed, needs, run, volseed};

/// The options of a small seed.
fn options(sandbox: &Sandbox) -> [String; 4] {
    let source = Tree::new().file("a", "x").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    ["--from".into(), source.display().to_string(), "--to".into(), volume.display().to_string()]
}

#[test]
fn a_misspelt_option_is_told_its_nearest_name_and_is_not_the_app() {
    for (words, nearest) in [
        (&["--form", "/x", "--to", "/y"][..], "--from"),
        (&["--form=/x", "--to", "/y"], "--from"),
        (&["--to", "/y", "--supervize", "nginx"], "--supervise"),
        (&["run", "--lisen", ":80", "nginx"], "--listen"),
    ] {
        volseed(words).ends().fails(64, "no such option").says(&format!("did you mean {nearest}?"));
    }
    volseed(["-froom", "/x"]).ends().fails(64, "no such option: -froom");
}

#[test]
fn a_first_word_is_the_apps_where_it_is_a_program() {
    let sandbox = Sandbox::on_disk();
    let options = options(&sandbox);
    let app = sandbox.program("app", "#!/bin/sh\necho by path\n").display().to_string();
    let words = |app: &[&str]| volseed(options.iter().map(String::as_str).chain(app.iter().copied()));
    words(&["echo", "--from", "its own"]).ends().exits(0).prints("--from its own");
    words(&[&app]).ends().exits(0).prints("by path");
    words(&["ehco"]).ends().fails(64, "'ehco' is neither a command");
    words(&["--", "ehco"]).ends().fails(127, "ehco");
    volseed(["stauts"]).ends().fails(64, "'stauts'").says("did you mean volseed status?");
}

#[test]
fn without_a_command_nothing_is_seeded_and_entrypoint_is_named() {
    let sandbox = Sandbox::on_disk();
    for end in [&[][..], &["--"]] {
        let words = options(&sandbox).into_iter().chain(end.iter().map(|word| (*word).to_owned()));
        volseed(words).ends().fails(64, "no command").says("ENTRYPOINT empties the CMD");
        assert!(!sandbox.path("volume").join(".volseed").exists());
    }
}

#[test]
fn a_command_behind_a_wrapper_is_seeded_for() {
    let script = "#!/bin/sh\nexec \"$@\"\n";
    for (wrapper, seeds) in [
        (&["SCRIPT", "echo", "started"][..], true),
        (&["sh", "-c", "exec echo started"], true),
        (&["env", "A=b", "nice", "-n", "1", "echo", "started"], true),
        (&["bash", "-euo", "pipefail", "-c", "exec \"$0\" \"$@\"", "echo", "started"], true),
        (&["SCRIPT", "sh", "-c", "true && exec env -S 'A=b echo started'"], true),
        (&["SCRIPT", "printf", "echo"], false),
        (&["sh", "-c", "ls /bin/echo; printf 'a; echo' # ; echo"], false),
        (&["sh", "-c", "X=$(echo a; echo b) true; command -v echo"], false),
        (&["sh", "-c", "printf echo; cat </dev/null"], false),
    ] {
        let sandbox = Sandbox::on_disk();
        let script = sandbox.program("entrypoint.sh", script).display().to_string();
        let app: Vec<&str> =
            wrapper.iter().map(|word| if *word == "SCRIPT" { &script } else { *word }).collect();
        let source = Tree::new().file("a", "x").write_to(&sandbox.directory("source"));
        let volume = sandbox.volume();
        let outcome = run(&source, &volume, &app).option("--only-for", "echo").ends().exits(0);
        assert_eq!(volume.join("a").exists(), seeds, "{app:?}");
        let skips: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("--only-for")).collect();
        assert_eq!(skips.len(), usize::from(!seeds), "{app:?}: {}", outcome.stderr);
        assert!(skips.iter().all(|line| line.contains("INFO") && line.contains(app[0])), "{skips:?}");
    }
}

#[test]
fn errors_before_there_is_a_log_have_its_format() {
    let json = |it: Volseed| {
        let outcome = it.ends();
        let line: serde_json::Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
        (
            line["level"].as_str().unwrap().to_owned(),
            line["exit_code"].as_u64().unwrap(),
            line["help"].is_string(),
        )
    };
    let wrong = ["seed", "--workers", "many"];
    let expected = ("ERROR".to_owned(), 64, true);
    assert_eq!(json(volseed(wrong).env("VOLSEED_LOG", "json")), expected);
    assert_eq!(json(volseed(wrong).option("--log", "json")), expected);
    assert_eq!(json(volseed(wrong).arguments(["--log=json"])), expected);
    assert_eq!(json(volseed(["seed", "--config", "/nowhere"]).option("--log", "json")).1, 66);
    volseed(wrong).option("--log", "text").env("VOLSEED_LOG", "json").ends().says("error: ");
}

#[test]
fn what_is_around_a_value_is_named() {
    for (value, what) in
        [("/data\r", "a carriage return"), ("/data ", "blanks at its end"), (" /data", "blanks")]
    {
        let outcome = volseed(["seed", "--from", "/nowhere"]).env("VOLSEED_TO", value).ends();
        outcome.fails(64, "variable VOLSEED_TO").says(what);
    }
}

#[test]
fn the_variables_of_kubernetes_services_are_no_mistakes() {
    let sandbox = Sandbox::on_disk();
    let run = volseed(options(&sandbox)).arguments(["--", "true"]);
    let run = run.env("VOLSEED_PORT", "tcp://10.0.0.1:80").env("VOLSEED_SERVICE_HOST", "10.0.0.1");
    let run = run.env("VOLSEED_APP_PORT_80_TCP_ADDR", "10.0.0.1").env("VOLSEED_SERVICE_PORT_HTTP", "80");
    run.ends().exits(0).says_nothing_of("unknown environment variable");
}

/// Executes its arguments with an entry that is no variable.
const BARE: &str = r#"
import ctypes, os, sys
words = (ctypes.c_char_p * len(sys.argv))(*[word.encode() for word in sys.argv[1:]], None)
entries = (ctypes.c_char_p * 4)(b"A=1", b"no-variable", b"PATH=" + os.environ["PATH"].encode(), None)
ctypes.CDLL(None).execve(words[0], words, entries)
"#;

#[test]
fn an_entry_that_is_no_variable_reaches_the_app() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let volseed = env!("CARGO_BIN_EXE_volseed").to_owned();
    let words = ["-c", BARE, &volseed].map(str::to_owned).into_iter().chain(options(&sandbox));
    let app = ["--", "sh", "-c", "tr '\\0' '\\n' </proc/$$/environ"].map(str::to_owned);
    Volseed::program("python3").arguments(words.chain(app)).ends().exits(0).prints("no-variable");
}

#[test]
fn an_environment_that_is_too_large_is_named_as_the_cause() {
    if !needs::tools(&["strace"]) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let app = sandbox.program("app", "#!/bin/sh\n").display().to_string();
    let trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &app, "-e", "inject=execve:error=E2BIG"];
    for supervise in [&[][..], &["--supervise"]] {
        let run = volseed(options(&sandbox)).arguments(supervise).arguments(["--", &app]).under(trace);
        run.ends().fails(126, &app).says("environment and arguments are too large");
    }
}
