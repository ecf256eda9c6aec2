//! What a command starts in the end, behind interpreters, inits and scripts: `--only-for` asks for that.
//!
//! Nothing is executed, and of a script no more is read than that it is one. What cannot be told, such as a
//! script that chooses by itself, is not guessed.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use crate::system::commands;

/// How many programs may start one another.
const MAX_DEPTH: usize = 8;
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"];

/// A program that starts the command among its arguments.
struct Wrapper {
    names: &'static [&'static str],
    /// Options that have their value in the next word.
    valued: &'static [&'static str],
    /// How many words come before the command.
    operands: usize,
    /// Words with `=` are variables.
    assigns: bool,
}

const WRAPPERS: [Wrapper; 9] = [
    Wrapper { names: &["env"], valued: &["-u", "--unset", "-C", "--chdir"], operands: 0, assigns: true },
    Wrapper {
        names: &["tini", "tini-static", "docker-init"],
        valued: &["-p", "-e"],
        operands: 0,
        assigns: false,
    },
    Wrapper { names: &["dumb-init"], valued: &["-r", "--rewrite"], operands: 0, assigns: false },
    Wrapper {
        names: &["catatonit", "nohup", "exec", "command", "setsid"],
        valued: &[],
        operands: 0,
        assigns: false,
    },
    Wrapper { names: &["gosu", "su-exec", "setuidgid"], valued: &[], operands: 1, assigns: false },
    Wrapper {
        names: &["setpriv"],
        valued: &[
            "--ruid",
            "--euid",
            "--rgid",
            "--egid",
            "--reuid",
            "--regid",
            "--groups",
            "--inh-caps",
            "--ambient-caps",
            "--bounding-set",
            "--securebits",
            "--pdeathsig",
            "--selinux-label",
            "--apparmor-profile",
        ],
        operands: 0,
        assigns: false,
    },
    Wrapper { names: &["nice", "ionice"], valued: &["-n", "-c"], operands: 0, assigns: false },
    Wrapper { names: &["stdbuf"], valued: &["-i", "-o", "-e"], operands: 0, assigns: false },
    Wrapper {
        names: &["timeout"],
        valued: &["-s", "-k", "--signal", "--kill-after"],
        operands: 1,
        assigns: false,
    },
];

/// The words that stand for programs in `command`: its first, and those that this one starts, and so on.
pub fn programs(command: &[OsString]) -> Vec<OsString> {
    let mut found = Vec::new();
    look(command, MAX_DEPTH, &mut found);
    found
}

fn look(words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    let Some((first, rest)) = words.split_first() else { return };
    found.push(first.clone());
    if depth == 0 {
        return;
    }
    let name = Path::new(first).file_name().and_then(OsStr::to_str).unwrap_or_default();
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name)) {
        look_behind(wrapper, rest, depth - 1, found);
    } else if SHELLS.contains(&name) {
        look_into_shell(rest, depth - 1, found);
    } else if is_script(first) {
        let command = rest.iter().position(|word| !is_option(word)).unwrap_or(rest.len());
        look(&rest[command..], depth - 1, found);
    }
}

fn look_behind(wrapper: &Wrapper, mut words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    while let Some((word, rest)) = words.split_first() {
        let text = word.to_string_lossy();
        if text == "--" {
            words = rest;
            break;
        }
        if wrapper.assigns && ["-S", "--split-string"].contains(&&*text) {
            let split = rest.first().map(|text| split(text.as_bytes())).unwrap_or_default();
            let all: Vec<OsString> = split.into_iter().chain(rest.iter().skip(1).cloned()).collect();
            return look_behind(wrapper, &all, depth, found);
        }
        let is_variable = wrapper.assigns && text.contains('=');
        if !is_option(word) && !is_variable {
            break;
        }
        let skipped = usize::from(wrapper.valued.contains(&&*text));
        words = rest.get(skipped..).unwrap_or_default();
    }
    look(words.get(wrapper.operands..).unwrap_or_default(), depth, found);
}

/// `sh [OPTION]... -c STRING [NAME [ARGUMENT]...]`, or a script and its arguments.
fn look_into_shell(mut words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    while let Some((word, rest)) = words.split_first() {
        let text = word.to_string_lossy();
        let is_short = text.starts_with('-') && !text.starts_with("--");
        if is_short && text.contains('c') {
            let Some((string, rest)) = rest.split_first() else { return };
            let arguments = rest.get(1..).unwrap_or_default();
            return look_into_string(string.as_bytes(), arguments, depth, found);
        }
        if text == "--" || !(is_option(word) || text.starts_with('+')) {
            break;
        }
        let has_value = ["-o", "+o", "-O", "+O"].contains(&&*text);
        words = rest.get(usize::from(has_value)..).unwrap_or_default();
    }
    if let Some((script, rest)) = words.iter().filter(|word| *word != "--").collect::<Vec<_>>().split_first()
    {
        found.push((*script).clone());
        let rest: Vec<OsString> = rest.iter().map(|word| (*word).clone()).collect();
        let command = rest.iter().position(|word| !is_option(word)).unwrap_or(rest.len());
        look(&rest[command..], depth, found);
    }
}

/// The commands of a shell's text: the first word of each, behind variables.
fn look_into_string(text: &[u8], arguments: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    for part in text.split(|byte| b";&|\n(){}".contains(byte)) {
        let words = split(part);
        let is_variable = |word: &OsString| {
            let text = word.to_string_lossy();
            text.split_once('=').is_some_and(|(name, _)| {
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            })
        };
        let words: Vec<OsString> = words
            .into_iter()
            .skip_while(is_variable)
            .flat_map(|word| if word == "$@" || word == "$*" { arguments.to_vec() } else { vec![word] })
            .collect();
        look(&words, depth, found);
    }
}

/// Words between blanks, without the quotes around them or in them.
fn split(text: &[u8]) -> Vec<OsString> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Vec<u8>>, None);
    for byte in text {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b' ' | b'\t' | b'\n') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(*byte),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from_vec).collect()
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().first() == Some(&b'-')
}

/// Whether a program is a text for an interpreter. A FIFO in its place is not waited for.
fn is_script(word: &OsStr) -> bool {
    let Some(path) = commands::find(word) else { return false };
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut mark = [0; 2];
    opened.is_ok_and(|mut file| file.read_exact(&mut mark).is_ok()) && mark == *b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &[&str], expected: &[&str]) {
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        assert_eq!(programs(&command), expected, "{command:?}");
    }

    #[test]
    fn programs_are_found_behind_those_that_start_them() {
        check(&["nginx", "-g", "daemon off;"], &["nginx"]);
        check(&["sh", "-c", "exec php-fpm -F"], &["sh", "exec", "php-fpm"]);
        check(&["bash", "-eux", "-o", "pipefail", "/run.sh", "app"], &["bash", "/run.sh", "app"]);
        check(
            &["sh", "-ec", "umask 2 && A=1 exec \"$@\"", "sh", "nginx", "-g"],
            &["sh", "umask", "exec", "nginx"],
        );
        check(&["sh", "-c", "ls /etc/php-fpm.d"], &["sh", "ls"]);
        check(&["env", "-i", "-u", "X", "A=b", "php-fpm"], &["env", "php-fpm"]);
        check(&["env", "-S", "A=b php-fpm -F"], &["env", "php-fpm"]);
        check(&["tini", "-g", "-e", "143", "--", "gosu", "www-data", "nginx"], &["tini", "gosu", "nginx"]);
        check(&["dumb-init", "--rewrite", "15:3", "nginx"], &["dumb-init", "nginx"]);
        check(
            &["setpriv", "--reuid", "33", "--clear-groups", "nice", "-n", "5", "httpd"],
            &["setpriv", "nice", "httpd"],
        );
        check(&["timeout", "-k", "5", "60", "stdbuf", "-oL", "app"], &["timeout", "stdbuf", "app"]);
        check(&["tini"], &["tini"]);
        check(&["sh", "-c"], &["sh"]);
    }
}
