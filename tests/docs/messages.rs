//! docs/troubleshooting.md against the program: the page has every warning and every error that the program can print,
//! and none that it cannot.
//!
//! A message is put together of literals: `act 'object': cause`, then `help: …`. The page may have any text for what
//! the program puts in.

use std::collections::BTreeSet;
use std::path::Path;

use crate::literals::{self, Literal};

/// Calls that make a message of their arguments.
const MESSAGES: &[&str] =
    &["Error::new", "error!", "explained", "foreign_state", "help", "refused", "usage", "warn!", "words"];

/// Calls that are handed what is done, to be named if it fails, and as which argument; others are no messages.
const ACTS: &[(&str, usize)] = &[("context", 0), ("Error::os", 0), ("none_if_missing", 1), ("not_made", 0)];

/// Calls of which no argument is a message.
const OTHERS: &[&str] = &[
    "assert!",
    "assert_eq!",
    "contains",
    "debug!",
    "expect",
    "info!",
    "join",
    "panic!",
    "push_str",
    "split_once",
    "starts_with",
    "strip_prefix",
    "unreachable!",
];

/// Files in which only the arguments of [`MESSAGES`] are messages: the other sentences are what is printed when all
/// is well, tables, and names. A folder ends with `/`.
const OUTPUT: &[&str] = &[
    "cli/only_for.rs",
    "doctor.rs",
    "doctor/",
    "exit.rs",
    "health/metrics.rs",
    "health/server.rs",
    "log/bar.rs",
    "run/plan.rs",
    "run/status.rs",
    "run/verify.rs",
    "seed/upgrade/matrix.rs",
    "system/nfs.rs",
    "volume/empty.rs",
];

/// Sentences that nobody reads as a message of volseed's: fingerprints, parts of a health answer, attributes.
const NONE: &[&str] = &[
    "PROXY header too long",
    "owner …, version …",
    "standard input, …",
    "the limit is restored when this is dropped",
    "upgrade of …, ",
    "… bytes of ….…",
    "…, size …, time ….…, …",
    "…: … files, … bytes…",
];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    std::fs::read_to_string(path).expect("the page can be read")
}

/// What stands between backticks in the first cell of each table's rows.
fn listed(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|line| line.trim_start_matches('|').split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// Whether the program prints it if something is wrong.
fn is_message(literal: &Literal) -> bool {
    let is_in = |names: &[&str], call: &str| names.iter().any(|name| is_call(call, name));
    let wraps = |call: &str| is_in(&["Some", "Ok", "Err", "format!"], call);
    let is_good_news =
        literal.calls.iter().rfind(|(call, _)| call != "format!").is_some_and(|(call, _)| call == "Ok");
    if is_good_news || literal.calls.iter().any(|(call, _)| is_in(OTHERS, call)) {
        return false;
    }
    let mut makers = literal.calls.iter().rev().filter(|(call, _)| !wraps(call));
    let is_argument = makers.next().is_some_and(|(call, _)| is_in(MESSAGES, call));
    let is_known = NONE.contains(&literal.text.as_str());
    words(&literal.text) > 1 && !is_known && (is_argument || is_sentence(literal))
}

/// `crate::error::Error::new` is `Error::new`.
fn is_call(call: &str, name: &str) -> bool {
    call == name || call.ends_with(&format!("::{name}"))
}

fn is_sentence(literal: &Literal) -> bool {
    let is_title = literal.text.starts_with(char::is_uppercase)
        && literal.text.chars().nth(1).is_some_and(char::is_lowercase);
    let is_text = literal.text.contains(' ') && !literal.text.contains('\n');
    let is_object =
        literal.calls.last().is_some_and(|(call, _)| ACTS.iter().any(|(act, _)| is_call(call, act)));
    let is_output =
        OUTPUT.iter().any(|it| literal.file == *it || it.ends_with('/') && literal.file.starts_with(it));
    is_text && !is_title && !is_object && !is_output
}

/// What was tried, as an error about it begins.
fn is_act(literal: &Literal) -> bool {
    let is_of = |call: &str, argument| ACTS.iter().any(|(act, at)| is_call(call, act) && argument == *at);
    literal.calls.last().is_some_and(|(call, argument)| is_of(call, *argument))
}

/// How many words of small letters it has, beside what is put in.
fn words(text: &str) -> usize {
    let is_word = |word: &&str| word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase() || c == '\'');
    text.split([' ', '…', ':', ',', ';', '(', ')']).filter(is_word).count()
}

/// Whether the literal stands in `text`, with anything for what is put in, and not in the middle of a word.
fn holds(text: &str, literal: &str) -> bool {
    let mut parts = literal.split('…').map(str::trim).filter(|part| !part.is_empty());
    let Some(first) = parts.next() else { return true };
    let rest: Vec<&str> = parts.collect();
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let begins_inside =
        |before: &str| first.starts_with(char::is_alphanumeric) && is_part(before.chars().next_back());
    text.match_indices(first).any(|(at, _)| {
        let mut after = &text[at + first.len()..];
        let follows = rest.iter().all(|part| match after.split_once(part) {
            Some((_, rest)) => {
                after = rest;
                true
            }
            None => false,
        });
        follows && !begins_inside(&text[..at]) && !is_part(after.chars().next())
    })
}

#[test]
fn the_page_of_messages_has_every_one_that_the_program_prints() {
    let page = page();
    let spans = listed(&page);
    let plain = page.replace('`', "");
    let begins = |act: &str| {
        spans.iter().any(|span| {
            span.strip_prefix(act).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ' ']))
        })
    };
    let mut missing: Vec<String> = Vec::new();
    for literal in literals::all() {
        let is_there = match is_act(&literal) {
            true => begins(&literal.text),
            false if is_message(&literal) => {
                plain.lines().any(|line| holds(line, &literal.text.replace('`', "")))
            }
            false => true,
        };
        if !is_there {
            missing.push(format!("src/{}:{}: {}", literal.file, literal.line, literal.text));
        }
    }
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md lacks {} messages (or they are none: see OTHERS, OUTPUT and NONE):\n{}",
        missing.len(),
        missing.join("\n")
    );
}

/// Whether all of `text` is what the program makes of the literal. One with hardly a word of its own could be anything.
fn is_made_of(text: &str, literal: &str) -> bool {
    const FEWEST_LETTERS: usize = 6;
    if literal.chars().filter(|c| c.is_alphabetic()).count() < FEWEST_LETTERS {
        return false;
    }
    let parts: Vec<&str> = literal.split('…').collect();
    let [first, between @ .., last] = &parts[..] else { return text == literal };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in between {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn the_page_of_messages_has_none_that_the_program_does_not_print() {
    let page = page();
    let literals = literals::all();
    let texts: BTreeSet<&str> = literals.iter().flat_map(|literal| literal.text.lines()).collect();
    let says = |text: &str| {
        let forms = [Some(text), text.strip_suffix(" …"), text.strip_suffix(": …")];
        let is = |literal: &str| forms.contains(&Some(literal)) || is_made_of(text, literal);
        text == "…" || texts.iter().any(|literal| is(literal))
    };
    let act = |text: &str| {
        let tried = text.strip_suffix('\'').and_then(|text| text.split_once(" '"));
        says(text) || tried.is_some_and(|(act, _)| says(act))
    };
    let is_said = |span: &str| {
        let splits = span.match_indices(": ").map(|(at, _)| (&span[..at], &span[at + 2..]));
        let is_error = |(left, right): (&str, &str)| act(left) && says(right);
        act(span) || splits.into_iter().any(is_error)
    };
    let unknown: Vec<&str> = listed(&page).into_iter().filter(|span| !is_said(span)).collect();
    assert!(unknown.is_empty(), "docs/troubleshooting.md has what the program does not print: {unknown:#?}");
}
