//! `--chmod`: what a mode of the seed becomes, parsed once.
//!
//! Octal sets the mode of files and directories alike, as Docker's `COPY --chmod` does. Symbolic means what it
//! means to chmod(1), with an umask of nothing.

use std::fmt;
use std::str::FromStr;

/// The permission bits with set-user-ID, set-group-ID and sticky.
const ALL: u32 = 0o7777;
/// Set-user-ID and set-group-ID: of a directory, chmod(1) leaves alone those that the mode does not mention.
const SET_IDS: u32 = 0o6000;

/// A change of modes: `755`, `u=rwX,go=rX`, `g=u`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModeChange(Change);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Octal(u32),
    Symbolic(String, Vec<Clause>),
}

/// One operator and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clause {
    /// The bits of the users that it is about.
    who: u32,
    operator: Operator,
    bits: Bits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    /// These, and the right to execute where there is any or it is a directory (`X`).
    Given { bits: u32, or_searchable: bool },
    /// Those that one kind of user has: how far its bits are to the left.
    Copied(u32),
}

impl ModeChange {
    /// What becomes of `mode`. `passed_on` is what a directory has from the one that it is made in: the
    /// set-group-ID bit, which octal does not take away, as little as chmod(1) does.
    pub(crate) fn apply(&self, mode: u32, is_directory: bool, passed_on: u32) -> u32 {
        match &self.0 {
            Change::Octal(bits) => bits | passed_on,
            Change::Symbolic(_, steps) => {
                steps.iter().fold(mode | passed_on, |mode, step| step.apply(mode, is_directory))
            }
        }
    }
}

impl Clause {
    fn apply(self, mode: u32, is_directory: bool) -> u32 {
        let (bits, mentioned) = match self.bits {
            Bits::Given { bits, or_searchable } => {
                let is_searchable = or_searchable && (is_directory || mode & 0o111 != 0);
                (bits | if is_searchable { 0o111 } else { 0 }, bits)
            }
            Bits::Copied(shift) => ((mode >> shift & 0o7) * 0o111, 0),
        };
        let left_alone = if is_directory { SET_IDS & !(mentioned & self.who) } else { 0 };
        let bits = bits & self.who & !left_alone;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => mode & (!self.who | left_alone) | bits,
        }
    }
}

impl FromStr for ModeChange {
    type Err = String;

    fn from_str(text: &str) -> Result<ModeChange, String> {
        let is_octal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let change = if is_octal {
            u32::from_str_radix(text, 8).ok().filter(|mode| mode & !ALL == 0).map(Change::Octal)
        } else {
            steps(text).map(|steps| Change::Symbolic(text.to_owned(), steps))
        };
        change.map(ModeChange).ok_or_else(|| "expected a mode such as 0644, u=rwX,go=rX or g=u".into())
    }
}

/// One spelling for each octal mode.
impl fmt::Display for ModeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Change::Octal(mode) => write!(f, "{mode:04o}"),
            Change::Symbolic(text, _) => f.write_str(text),
        }
    }
}

fn steps(text: &str) -> Option<Vec<Clause>> {
    let mut steps = Vec::new();
    for clause in text.split(',') {
        let (users, mut rest) = split(clause, "ugoa");
        let who = users.bytes().fold(0, |who, user| who | bits_of(user));
        let who = if users.is_empty() { ALL } else { who };
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let (step, after) = step(who, rest)?;
            steps.push(step);
            rest = after;
        }
    }
    Some(steps)
}

/// All the bits of one kind of user.
fn bits_of(user: u8) -> u32 {
    match user {
        b'u' => 0o4700,
        b'g' => 0o2070,
        b'o' => 0o1007,
        _ => ALL,
    }
}

fn step(who: u32, text: &str) -> Option<(Clause, &str)> {
    let operator = match text.bytes().next()? {
        b'+' => Operator::Add,
        b'-' => Operator::Remove,
        b'=' => Operator::Set,
        _ => return None,
    };
    let copied = match text.as_bytes().get(1) {
        Some(b'u') => Some(6),
        Some(b'g') => Some(3),
        Some(b'o') => Some(0),
        _ => None,
    };
    if let Some(shift) = copied {
        return Some((Clause { who, operator, bits: Bits::Copied(shift) }, &text[2..]));
    }
    let (letters, rest) = split(&text[1..], "rwxXst");
    let bits = letters.bytes().fold(0, |bits, letter| {
        bits | match letter {
            b'r' => 0o444,
            b'w' => 0o222,
            b'x' => 0o111,
            b's' => SET_IDS,
            b't' => 0o1000,
            _ => 0,
        }
    });
    let bits = Bits::Given { bits, or_searchable: letters.contains('X') };
    Some((Clause { who, operator, bits }, rest))
}

/// The longest beginning of `text` that has only such letters, and the rest.
fn split<'t>(text: &'t str, letters: &str) -> (&'t str, &'t str) {
    text.split_at(text.find(|letter| !letters.contains(letter)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: &str, before: u32, file: u32, directory: u32) {
        let change: ModeChange = change.parse().unwrap();
        let (as_file, as_directory) = (change.apply(before, false, 0), change.apply(before, true, 0));
        assert_eq!(
            (format!("{as_file:o}"), format!("{as_directory:o}")),
            (format!("{file:o}"), format!("{directory:o}")),
            "{change}"
        );
    }

    #[test]
    fn octal_sets_files_and_directories_alike() {
        check("755", 0o600, 0o755, 0o755);
        check("0644", 0o6777, 0o644, 0o644);
        check("7777", 0, 0o7777, 0o7777);
        check("0", 0o777, 0, 0);
        assert_eq!("00755".parse::<ModeChange>().unwrap().to_string(), "0755");
    }

    #[test]
    fn symbolic_is_what_chmod_makes_of_it() {
        check("g=u", 0o2640, 0o660, 0o2660);
        check("g=u", 0o755, 0o775, 0o775);
        check("u=rwX,go=rX", 0o600, 0o644, 0o755);
        check("u=rwX,go=rX", 0o700, 0o755, 0o755);
        check("a+X", 0o644, 0o644, 0o755);
        check("a+X", 0o654, 0o755, 0o755);
        check("+w", 0o444, 0o666, 0o666);
        check("=", 0o6755, 0, 0o6000);
        check("o=", 0o1777, 0o770, 0o770);
        check("u+s,g+s,+t", 0o755, 0o7755, 0o7755);
        check("u-s", 0o6755, 0o2755, 0o2755);
        check("g=s", 0o755, 0o2705, 0o2705);
        check("ug+r-w=x", 0o762, 0o112, 0o112);
        check("u=g+w,g=o", 0o751, 0o711, 0o711);
        check("o-g", 0o777, 0o770, 0o770);
    }

    #[test]
    fn a_directory_keeps_the_set_group_id_that_was_passed_on() {
        for (change, mode) in [("755", 0o2755), ("g=u", 0o2755), ("u=rwx,go=", 0o2700), ("g-s", 0o755)] {
            assert_eq!(
                change.parse::<ModeChange>().unwrap().apply(0o755, true, 0o2000) & !0o20,
                mode,
                "{change}"
            );
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in [
            "",
            "8",
            "10000",
            "0o644",
            "u",
            "a,",
            ",a+x",
            "u=rw,,g=r",
            "u=ug",
            "u=rwz",
            "+-?",
            "u+4",
            "u rw",
            "-1",
            "755x",
            "ü=r",
        ] {
            assert!(text.parse::<ModeChange>().is_err(), "{text}");
        }
    }
}
