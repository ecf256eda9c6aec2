//! The string literals of `src`, each with the calls and macros that it is an argument of.
//!
//! Knows as much of Rust's grammar as it takes to tell strings from the rest. Tests and the simulation are left out.

use std::path::Path;

/// A string of the program.
pub(crate) struct Literal {
    /// The file below `src`, and the line.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// What it is an argument of, the innermost last, and which argument: `Error::new`, 1.
    pub(crate) calls: Vec<(String, usize)>,
    /// As the program has it; what is put in is `…`.
    pub(crate) text: String,
}

/// Every literal of the program's own code, file by file.
pub(crate) fn all() -> Vec<Literal> {
    let mut literals = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            let name = path.strip_prefix(&root).expect("it is below src").display().to_string();
            let is_left_out = name.starts_with("run/simulation") || name.contains("fuzzing");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && !is_left_out {
                literals.extend(of(&name, &std::fs::read_to_string(&path).expect("a source can be read")));
            }
        }
    }
    literals.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    literals
}

fn of(file: &str, source: &str) -> Vec<Literal> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or(source);
    let mut literals = Vec::new();
    let mut calls: Vec<(String, usize)> = Vec::new();
    let mut rest = source;
    // The path or name that ends where `rest` begins: what a bracket there calls.
    let mut callee = String::new();
    while let Some(first) = rest.chars().next() {
        let length = token(rest);
        let text = &rest[..length];
        match first {
            '(' | '[' | '{' => calls.push((std::mem::take(&mut callee), 0)),
            ')' | ']' | '}' => drop(calls.pop()),
            ',' => calls.iter_mut().next_back().into_iter().for_each(|(_, argument)| *argument += 1),
            '"' => literals.push(Literal {
                file: file.to_owned(),
                line: source[..source.len() - rest.len()].matches('\n').count() + 1,
                calls: calls.iter().filter(|(name, _)| !name.is_empty()).cloned().collect(),
                text: shown(&text[1..length - 1]),
            }),
            _ => {}
        }
        let is_part = first.is_alphanumeric() || matches!(first, '_' | ':' | '!');
        if is_part {
            callee.push_str(text)
        } else {
            callee.clear()
        }
        rest = &rest[length..];
    }
    literals
}

/// How long the token is that `text` begins with: a comment, a string, a character, a word, or one character.
fn token(text: &str) -> usize {
    let bytes = text.as_bytes();
    let until = |end: &str| text[1..].find(end).map_or(text.len(), |at| at + 1);
    match bytes[0] {
        b'/' if text.starts_with("//") => until("\n"),
        b'"' => {
            let mut at = 1;
            while bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at + 1
        }
        // A character, unless it is a lifetime.
        b'\'' if bytes[1] == b'\\' => 3 + text[3..].find('\'').expect("a character ends"),
        b'\'' => {
            let character = text[1..].chars().next().map_or(0, char::len_utf8);
            if bytes[1 + character] == b'\'' { character + 2 } else { 1 }
        }
        byte if byte.is_ascii_alphanumeric() || byte == b'_' => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            text.find(|c| !is_word(c)).unwrap_or(text.len())
        }
        _ => text.chars().next().map_or(1, char::len_utf8),
    }
}

/// A literal's body as it is printed: escapes resolved, what is put in as `…`.
fn shown(body: &str) -> String {
    let mut text = String::new();
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                Some(other) => text.push(other),
                None => {}
            },
            '{' if chars.next_if_eq(&'{').is_none() => {
                while chars.next().is_some_and(|c| c != '}') {}
                text.push('…');
            }
            other => text.push(other),
        }
    }
    text
}
