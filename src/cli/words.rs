//! Which words of a command line are volseed's and which are the app's: a misspelt one of ours must not become
//! the app.

use std::ffi::{OsStr, OsString};

use clap::Command;

use super::usage;
use crate::error::{Quoted, Result};
use crate::system::commands;

/// How alike a misspelt word must be to what it may have been meant for (`strsim::jaro_winkler`).
const ALIKE: f64 = 0.7;

/// Puts `run` in its place, where no command is named: before options, and before a first word that is a
/// program's. `help COMMAND` becomes `COMMAND --help`.
///
/// # Errors
/// Exit 64 for a first word that is neither a command nor a program.
pub(super) fn with_command(mut args: Vec<OsString>, root: &Command) -> Result<Vec<OsString>> {
    let Some(first) = args.get(1) else {
        args.push("run".into());
        return Ok(args);
    };
    let is_command = |name: &&str| root.get_subcommands().any(|it| it.get_name() == *name);
    let is_ours = |name: &str| ["-h", "--help", "-V", "--version"].contains(&name) || is_command(&name);
    if first == "help" {
        let topic = args.get(2).and_then(|arg| arg.to_str()).filter(is_command);
        return Ok(["volseed"].into_iter().chain(topic).chain(["--help"]).map(OsString::from).collect());
    }
    if first.to_str().is_some_and(is_ours) {
        return Ok(args);
    }
    if !is_option(first) {
        check_program(first, root)?;
    }
    args.insert(1, "run".into());
    Ok(args)
}

/// Looks whether the app's first word is meant as such: behind `--` every word is.
///
/// # Errors
/// Exit 64 for an option that volseed does not have, and for a word that is no program's.
pub(super) fn check(args: &[OsString], app: &[OsString], root: &Command) -> Result<()> {
    let Some(first) = app.first() else { return Ok(()) };
    if args[..args.len() - app.len()].last().is_some_and(|word| word == "--") {
        return Ok(());
    }
    if !is_option(first) {
        return check_program(first, root);
    }
    let text = first.to_string_lossy();
    let name = text.split_once('=').map_or(&*text, |(name, _)| name);
    let run = root.find_subcommand("run").expect("it is one of the commands");
    let options: Vec<String> =
        run.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
    let help = match nearest(name, options.iter().map(String::as_str)) {
        Some(option) => format!("did you mean {option}? What is the app's comes behind --"),
        None => "volseed run --help shows the options; what is the app's comes behind --".into(),
    };
    Err(usage(format!("no such option: {name}")).help(help))
}

/// The one of `known` that is most like `word`, if any is.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &str| strsim::jaro_winkler(word, candidate);
    let best = known.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(best) > ALIKE).then_some(best)
}

fn is_option(word: &OsStr) -> bool {
    word.as_encoded_bytes().first() == Some(&b'-')
}

fn check_program(word: &OsStr, root: &Command) -> Result<()> {
    if word.as_encoded_bytes().contains(&b'/') || commands::find(word).is_some() {
        return Ok(());
    }
    let cause = format!(
        "{} is neither a command of volseed's nor a program in PATH",
        word.as_encoded_bytes().quoted()
    );
    let commands = root.get_subcommands().map(Command::get_name);
    let help = match word.to_str().and_then(|word| nearest(word, commands)) {
        Some(command) => format!("did you mean volseed {command}? What is the app's comes behind --"),
        None => "volseed --help shows the commands; what is the app's comes behind --".into(),
    };
    Err(usage(cause).help(help))
}
