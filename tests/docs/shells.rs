//! The completions for bash, zsh and fish: made from the command line, and used by real shells.
//!
//! The binary does not have them: it stays small, and containers have no use for them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap_complete::{Shell, generate};
use volseed::cli;

use crate::{are_there, check};

const SCRIPTS: [(Shell, &str); 3] =
    [(Shell::Bash, "volseed.bash"), (Shell::Zsh, "_volseed"), (Shell::Fish, "volseed.fish")];

fn completions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/completions")
}

#[test]
fn the_completions_have_what_the_command_line_takes() {
    for (shell, name) in SCRIPTS {
        let mut script = Vec::new();
        generate(shell, &mut cli::command(), "volseed", &mut script);
        check(&format!("completions/{name}"), &String::from_utf8(script).expect("a script is text"));
    }
}

/// What `shell` shows on a terminal where `keys` are typed.
fn typed(shell: &str, keys: &str) -> String {
    let mut terminal = Command::new("timeout")
        .args(["60", "script", "-qec", shell, "/dev/null"])
        .env("TERM", "dumb")
        .env("INPUTRC", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    terminal.stdin.take().expect("it has one").write_all(keys.as_bytes()).expect("the shell reads");
    let output = terminal.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn bash_completes_a_command_and_its_options() {
    if !are_there(&["bash", "script"]) {
        return;
    }
    let source = completions().join("volseed.bash");
    let keys = format!(
        "volseed() {{ printf 'got<%s>\\n' \"$*\"; }}\nsource '{}'\nvolseed se\t--sen\t--lock l\t\nexit\n",
        source.display()
    );
    let said = typed("bash --norc --noprofile -i", &keys);
    assert!(said.contains("got<seed --sentinel --lock lease>"), "{said}");
}

#[test]
fn zsh_completes_a_command_and_its_options() {
    if !are_there(&["zsh", "script"]) {
        return;
    }
    let keys = format!(
        "fpath=('{}' $fpath); autoload -Uz compinit; compinit -u -D\nvolseed() {{ printf 'got<%s>\\n' \"$*\" }}\n\
         volseed se\t--sen\t\nexit\n",
        completions().display()
    );
    let said = typed("zsh -f -i", &keys);
    assert!(said.contains("got<seed --sentinel>"), "{said}");
}

#[test]
fn fish_completes_a_command_and_its_options() {
    if !are_there(&["fish"]) {
        return;
    }
    let script = completions().join("volseed.fish");
    let ask = |line: &str| {
        let commands = format!("source '{}'; complete -C '{line}'", script.display());
        let output =
            Command::new("fish").args(["--no-config", "-c", &commands]).output().expect("fish starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(ask("volseed se").starts_with("seed\t"), "{}", ask("volseed se"));
    assert!(ask("volseed seed --sen").starts_with("--sentinel\t"), "{}", ask("volseed seed --sen"));
}
