//! What a command starts in the end, behind interpreters, inits and scripts: `--only-for` asks for that, and
//! whether it is one of volseed's own that looks.
//!
//! Nothing is executed, and of a script no more is read than that it is one: what it is given counts. What
//! cannot be told, such as a script that chooses by itself, is not guessed.

mod shell;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use crate::system::commands;

/// How many programs may start one another.
const MAX_DEPTH: usize = 8;

/// A program that starts the command among its arguments.
struct Wrapper {
    names: &'static [&'static str],
    /// Letters of options that have a value.
    short: &'static str,
    /// Long options, between blanks, that have their value in the next word, unless it stands behind `=`.
    long: &'static str,
    /// How many words come before the command.
    operands: usize,
    /// Words with `=` are variables.
    assigns: bool,
}

const fn wrapper(names: &'static [&'static str], short: &'static str) -> Wrapper {
    Wrapper { names, short, long: "", operands: 0, assigns: false }
}

const ENV: &str = "env";
const SHELL: Wrapper =
    Wrapper { long: "--rcfile --init-file", ..wrapper(&["sh", "bash", "dash", "ash", "ksh", "zsh"], "oO") };
const SETPRIV_LONG: &str = "--ruid --euid --rgid --egid --reuid --regid --groups --inh-caps --ambient-caps \
    --bounding-set --securebits --pdeathsig --ptracer --selinux-label --apparmor-profile --landlock-access \
    --landlock-rule --seccomp-filter";
const WRAPPERS: [Wrapper; 11] = [
    Wrapper { long: "--unset --chdir --argv0", assigns: true, ..wrapper(&[ENV], "uCaP") },
    Wrapper { assigns: true, ..wrapper(&["sudo"], "ugCDRTUhp") },
    wrapper(&["tini", "tini-static", "docker-init"], "pe"),
    Wrapper { long: "--rewrite", ..wrapper(&["dumb-init"], "r") },
    wrapper(&["catatonit", "nohup", "setsid", "busybox", "toybox"], ""),
    Wrapper { operands: 1, ..wrapper(&["gosu", "su-exec", "setuidgid", "s6-setuidgid"], "") },
    Wrapper { long: SETPRIV_LONG, ..wrapper(&["setpriv"], "") },
    Wrapper { long: "--adjustment", ..wrapper(&["nice"], "n") },
    Wrapper { long: "--class --classdata", ..wrapper(&["ionice"], "cn") },
    Wrapper { long: "--input --output --error", ..wrapper(&["stdbuf"], "ioe") },
    Wrapper { long: "--signal --kill-after", operands: 1, ..wrapper(&["timeout"], "sk") },
];

/// The words that stand for programs in `command`: its first, and those that this one starts, and so on.
pub(super) fn programs(command: &[OsString]) -> Vec<OsString> {
    let mut found = Vec::new();
    look(command, MAX_DEPTH, &mut found);
    found
}

/// The commands of volseed's own that look at a volume, or need none: what they see is what a start would find.
const OWN: [&str; 6] = ["doctor", "health", "install", "plan", "status", "verify"];

/// Whether `command`, which starts these programs, is volseed itself with one of [`OWN`].
pub(super) fn is_own(command: &[OsString], programs: &[OsString]) -> bool {
    command.windows(2).any(|words| {
        programs.contains(&words[0])
            && Path::new(&words[0]).file_name() == Some(OsStr::new("volseed"))
            && OWN.iter().any(|own| words[1] == *own)
    })
}

fn look(words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    let Some((first, rest)) = words.split_first() else { return };
    if !found.contains(first) {
        found.push(first.clone());
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    let name = Path::new(first).file_name().and_then(OsStr::to_str).unwrap_or_default();
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name)) {
        look_behind(wrapper, rest, depth, found);
    } else if SHELL.names.contains(&name) {
        look_into_shell(rest, depth, found);
    } else if is_script(first) {
        look_at_given(rest, depth, found);
    }
}

/// What a script is given: the first word that is no option, and what stands behind `--`, as
/// `wait-for-it.sh db:3306 -- nginx` has it.
fn look_at_given(words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    let first = words.iter().position(|word| !is_option(word)).unwrap_or(words.len());
    look(&words[first..], depth, found);
    let behind = words.iter().position(|word| word == "--").map_or(words.len(), |place| place + 1);
    if behind > first {
        look(&words[behind..], depth, found);
    }
}

fn look_behind(wrapper: &Wrapper, words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    let mut words = words;
    let mut options = true;
    while let Some((word, rest)) = words.split_first() {
        if options
            && wrapper.names == [ENV]
            && let Some((text, rest)) = split_string(word, rest)
        {
            let all: Vec<OsString> = split(&text).into_iter().chain(rest.iter().cloned()).collect();
            return look_behind(wrapper, &all, depth, found);
        }
        let is_variable = wrapper.assigns && word.as_bytes().contains(&b'=');
        words = match () {
            () if options && word == "--" => {
                options = false;
                rest
            }
            () if options && is_option(word) => {
                rest.get(usize::from(has_value_behind(wrapper, word))..).unwrap_or_default()
            }
            () if is_variable => rest,
            () => break,
        };
    }
    look(words.get(wrapper.operands..).unwrap_or_default(), depth, found);
}

/// Whether the next word is the value of this option.
fn has_value_behind(wrapper: &Wrapper, option: &OsStr) -> bool {
    let text = option.to_string_lossy();
    if text.starts_with("--") {
        return wrapper.long.split(' ').any(|option| option == text);
    }
    // `-n5` has its value in the same word.
    let valued = text.char_indices().skip(1).find(|(_, letter)| wrapper.short.contains(*letter));
    valued.is_some_and(|(place, letter)| place + letter.len_utf8() == text.len())
}

/// The text of `env -S TEXT`, and what follows it.
fn split_string<'a>(option: &OsStr, rest: &'a [OsString]) -> Option<(Vec<u8>, &'a [OsString])> {
    let text = option.as_bytes();
    let attached = match text.strip_prefix(b"--split-string") {
        Some([b'=', value @ ..]) => value,
        Some([]) => b"",
        Some(_) => return None,
        None if text.starts_with(b"--") || !is_option(option) => return None,
        None => {
            let letters = text.iter().position(|byte| b"uCaP".contains(byte)).unwrap_or(text.len());
            let place = text[..letters].iter().position(|byte| *byte == b'S')?;
            &text[place + 1..]
        }
    };
    if attached.is_empty() {
        let (value, rest) = rest.split_first()?;
        return Some((value.as_bytes().to_vec(), rest));
    }
    Some((attached.to_vec(), rest))
}

/// `sh [OPTION]... -c TEXT [NAME [ARGUMENT]...]`, or a script and its arguments.
fn look_into_shell(words: &[OsString], depth: usize, found: &mut Vec<OsString>) {
    let (mut words, mut is_text) = (words, false);
    while let Some((word, rest)) = words.split_first() {
        let text = word.as_bytes();
        if text == b"--" || text == b"-" {
            words = rest;
            break;
        }
        if !matches!(text.first(), Some(b'-' | b'+')) {
            break;
        }
        is_text |= text.starts_with(b"-") && !text.starts_with(b"--") && text.contains(&b'c');
        words = rest.get(usize::from(has_value_behind(&SHELL, word))..).unwrap_or_default();
    }
    let Some((first, rest)) = words.split_first() else { return };
    if is_text {
        for command in shell::commands(first.as_bytes(), rest) {
            look(&command, depth, found);
        }
    } else {
        found.push(first.clone());
        look_at_given(rest, depth, found);
    }
}

/// Words between blanks, without the quotes around them or in them (env(1), `-S`).
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

/// Whether a program is a text for an interpreter, with or without `#!`; one that is not there yet, since the
/// seed brings it, may be. A FIFO in its place is not waited for.
fn is_script(word: &OsStr) -> bool {
    let Some(path) = commands::find(word) else {
        return word.as_bytes().contains(&b'/') && !Path::new(word).exists();
    };
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut start = Vec::new();
    let is_read = opened.is_ok_and(|file| file.take(4).read_to_end(&mut start).is_ok());
    // elf(5)
    is_read && start != b"\x7fELF"
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
    fn programs_are_found_behind_shells() {
        check(&["sh", "-c", "exec php-fpm -F"], &["sh", "php-fpm"]);
        check(&["sh", "-c", "ls /etc/php-fpm.d"], &["sh", "ls"]);
        check(&["bash", "-eux", "-o", "pipefail", "/run.sh", "app"], &["bash", "/run.sh", "app"]);
        check(&["bash", "-euo", "pipefail", "-c", "umask 2 && app"], &["bash", "umask", "app"]);
        check(&["bash", "-c", "-e", "app"], &["bash", "app"]);
        check(&["bash", "--rcfile", "/x", "+o", "posix", "--", "/run.sh"], &["bash", "/run.sh"]);
        check(&["sh", "-ec", "A=1 exec \"$@\"", "sh", "nginx", "-g"], &["sh", "nginx"]);
        check(&["sh", "-c", "exec \"$0\" \"$@\"", "nginx", "-g"], &["sh", "nginx"]);
        check(&["sh", "-c", "exec gosu app env X=1 nginx"], &["sh", "gosu", "env", "nginx"]);
        check(&["busybox", "sh", "-c", "httpd -f"], &["busybox", "sh", "httpd"]);
        check(&["sh", "-c", "command -v nginx; echo nginx"], &["sh", "echo"]);
        check(&["sh", "-c"], &["sh"]);
        check(&["sh"], &["sh"]);
    }

    #[test]
    fn programs_are_found_behind_wrappers() {
        check(&["nginx", "-g", "daemon off;"], &["nginx"]);
        check(&["env", "-i", "-u", "X", "-uY", "A=b", "php-fpm", "C=d"], &["env", "php-fpm"]);
        check(&["env", "--unset=X", "--chdir", "/", "--", "A=b", "php-fpm"], &["env", "php-fpm"]);
        check(&["env", "-S", "A=b php-fpm -F"], &["env", "php-fpm"]);
        check(&["env", "-vSphp-fpm -F", "x"], &["env", "php-fpm"]);
        check(&["env", "--split-string=-u X php-fpm"], &["env", "php-fpm"]);
        check(&["env", "-uS", "php-fpm"], &["env", "php-fpm"]);
        check(&["env", "-S"], &["env"]);
        check(
            &["/sbin/tini", "-g", "-ve", "143", "--", "gosu", "www", "nginx"],
            &["/sbin/tini", "gosu", "nginx"],
        );
        check(&["tini", "-e143", "nginx"], &["tini", "nginx"]);
        check(&["dumb-init", "--rewrite", "15:3", "--", "nginx"], &["dumb-init", "nginx"]);
        check(&["catatonit", "-g", "--", "su-exec", "www", "nginx"], &["catatonit", "su-exec", "nginx"]);
        check(&["setpriv", "--reuid", "33", "--clear-groups", "--regid=33", "httpd"], &["setpriv", "httpd"]);
        check(&["nice", "-n", "5", "nice", "-10", "nohup", "app"], &["nice", "nohup", "app"]);
        check(
            &["timeout", "-k", "5", "--signal=INT", "60", "stdbuf", "-oL", "app"],
            &["timeout", "stdbuf", "app"],
        );
        check(&["timeout", "60"], &["timeout"]);
        check(&["tini"], &["tini"]);
    }

    #[test]
    fn scripts_are_looked_past_and_programs_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &[u8]| {
            use std::os::unix::fs::PermissionsExt;
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.display().to_string()
        };
        let script = program("entrypoint", b"#!/bin/sh\nexec \"$@\"\n");
        let bare = program("bare", b"exec \"$@\"\n");
        let binary = program("binary", b"\x7fELF...");
        check(&[&script, "-x", "nginx", "-g"], &[&script, "nginx"]);
        check(&[&script, &bare, "sh", "-c", "nginx"], &[&script, &bare, "sh", "nginx"]);
        check(&[&script, "db:3306", "-t", "30", "--", "nginx"], &[&script, "db:3306", "nginx"]);
        check(&[&script, "--", "nginx"], &[&script, "nginx"]);
        check(&["/nowhere/of-the-seed.sh", "nginx"], &["/nowhere/of-the-seed.sh", "nginx"]);
        check(&[&binary, "nginx"], &[&binary]);
        check(&["no-such-command", "nginx"], &["no-such-command"]);
    }
}
