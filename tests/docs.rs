//! The pages under `docs/` that are made from the program: they must say what it does.
//!
//! `BLESS=1 cargo test --test docs` rewrites them.

use std::fmt::Write;
use std::path::Path;

use volseed::{cli, exit};

#[track_caller]
fn check(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, expected).expect("write the page");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/{page} is out of date: run BLESS=1 cargo test --test docs");
}

#[test]
fn the_page_of_options_is_what_the_command_line_takes() {
    let mut page = String::from(
        "# Options\n\n\
         Made from the program by `BLESS=1 cargo test --test docs`.\n\n\
         Every option is a flag, an environment variable and, where a table is named, a key of the\n\
         configuration file (`--config`). Flags beat environment variables, and those beat the file. An\n\
         environment variable that is set and empty counts as not set. A switch takes `=false` to turn off\n\
         what the environment or the file turns on.\n\n\
         Without `--`, the first word that is no option is CMD where it has a slash or is found in `PATH`;\n\
         behind `--` every word is. A value of ours with a carriage return at its end, or blanks around it, is\n\
         refused.\n\n\
         | kind | written | means |\n|---|---|---|\n\
         | time (`DUR`) | `90s`, `1m30s`, `1min 30s`, `1.5h`, `500ms`, `2d` | as Docker and systemd write it; the units may stand one after the other |\n\
         | | `90` | seconds |\n\
         | size (`SIZE`) | `64m`, `64MiB`, `1.5G`, `512k`, `1048576` | bytes, or powers of 1024 of them, in either case, with or without `B` or `iB` |\n",
    );
    let command = cli::command();
    let mut told: Vec<String> = Vec::new();
    for verb in command.get_subcommands() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(page, "\n## volseed {}\n\n{about}.\n", verb.get_name());
        let mut again = Vec::new();
        let mut heading = "";
        for arg in verb.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help")) {
            let flag = cli::flag(arg);
            if told.contains(&flag) {
                again.push(format!("`{}`", flag.split(' ').next().unwrap_or_default()));
                continue;
            }
            let under = arg.get_help_heading().unwrap_or_default();
            if under != heading {
                heading = under;
                let _ = write!(page, "\n### {heading}\n");
            }
            let _ = write!(page, "\n**`{flag}`**");
            if let Some(name) = arg.get_env().and_then(|name| name.to_str()) {
                let key = arg.get_long().unwrap_or_default();
                let place = match heading {
                    _ if key == "config" => None,
                    "Volume" | "Copying" => Some("`[[volume]]`"),
                    _ => Some("top level"),
                };
                let _ = write!(page, " · `{name}`");
                if let Some(place) = place {
                    let _ = write!(page, " · key `{key}`, {place}");
                }
            }
            if let Some(default) = cli::default(arg) {
                let _ = write!(page, " · default `{default}`");
            }
            let text = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
            let _ = write!(page, "\n\n{}\n", text.trim());
            told.push(flag);
        }
        if !again.is_empty() {
            let _ = write!(page, "\nTakes these too, as above: {}.\n", again.join(", "));
        }
    }
    check("options.md", &page);
}

#[test]
fn the_page_of_exit_codes_is_what_the_program_ends_with() {
    let mut page = String::from(
        "# Exit codes\n\n\
         Made from the program by `BLESS=1 cargo test --test docs`.\n\n\
         After the hand-over the exit code is the app's. Before it, and for `seed`, `wait` and `status`:\n\n\
         | code | name | meaning |\n|---|---|---|\n| 0 | | done |\n",
    );
    for (_, code, name, meaning) in exit::TABLE {
        let _ = writeln!(page, "| {code} | {name} | {meaning} |");
    }
    page.push_str(
        "| 128 + n | shell | ended by signal n: 143 after SIGTERM, 130 after SIGINT |\n\n\
         `volseed health` exits with 0 or 1 only; 64 where its own command line is wrong.\n\n\
         Every error is one line on standard error, `error: ` and what was done to what and why it went\n\
         wrong, and often a second, `help: ` and what to do. With `--log json` it is one log line with the\n\
         keys `message`, `help` and `exit_code`.\n",
    );
    check("exit-codes.md", &page);
}
