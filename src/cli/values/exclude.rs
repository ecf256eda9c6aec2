//! `--exclude`: a pattern that entries of a source are left out by.
//!
//! Matched component by component, so that the time for an entry is bounded by the lengths of its name and of
//! the pattern: the `glob` crate alone tries every split where a pattern has several stars before a slash.

use std::path::Path;
use std::str::FromStr;

use glob::Pattern;

/// The longest pattern, in bytes.
const MAX_BYTES: usize = 1024;
/// The most components of a pattern: with where it ends they fit into [`Reached`].
const MAX_PARTS: usize = 63;

/// A shell pattern on paths below a source's root.
#[derive(Debug, Clone)]
pub(crate) struct Exclude {
    text: String,
    parts: Vec<Part>,
    directories_only: bool,
}

#[derive(Debug, Clone)]
enum Part {
    /// One component that matches.
    One(Pattern),
    /// `**`: any number of components; at the end of a pattern at least one.
    Any,
}

/// How much of a pattern the components so far may have matched: a bit for each of its components, set
/// where that one is next, and one for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached(u64);

impl FromStr for Exclude {
    type Err = String;

    fn from_str(text: &str) -> Result<Exclude, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("a pattern of more than {MAX_BYTES} bytes"));
        }
        let names = text.split('/').filter(|part| !part.is_empty() && *part != ".");
        let parts = names.map(Part::from_str).collect::<Result<Vec<_>, String>>()?;
        match parts.len() {
            0 => Err("expected a pattern below the source's root, such as cache or **/*.log".into()),
            1..=MAX_PARTS => {
                Ok(Exclude { directories_only: text.ends_with('/'), text: text.to_owned(), parts })
            }
            _ => Err(format!("a pattern of more than {MAX_PARTS} components")),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        match text {
            "**" => Ok(Part::Any),
            ".." => Err("a pattern with '..': it is relative to the source's root".into()),
            _ => Pattern::new(text).map(Part::One).map_err(|error| format!("'{text}': {}", error.msg)),
        }
    }
}

impl Exclude {
    /// As it was given.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// At the source's root.
    pub(crate) fn start(&self) -> Reached {
        self.passing(1)
    }

    /// One component further down. Bytes that are not UTF-8 are replaced before, with U+FFFD.
    pub(crate) fn step(&self, reached: Reached, name: &str) -> Reached {
        let mut next = 0;
        for (index, part) in self.parts.iter().enumerate().filter(|(index, _)| reached.0 & 1 << index != 0) {
            next |= match part {
                Part::Any if index + 1 == self.parts.len() => 0b11 << index,
                Part::Any => 1 << index,
                Part::One(pattern) if pattern.matches(name) => 1 << (index + 1),
                Part::One(_) => 0,
            };
        }
        self.passing(next)
    }

    /// Whether what was reached is left out, with all below it.
    pub(crate) fn covers(&self, reached: Reached, is_directory: bool) -> bool {
        reached.0 & 1 << self.parts.len() != 0 && (is_directory || !self.directories_only)
    }

    /// Whether it matches this path itself.
    pub(crate) fn matches(&self, path: &Path, is_directory: bool) -> bool {
        let names = path.iter();
        let reached = names.fold(self.start(), |reached, name| self.step(reached, &name.to_string_lossy()));
        self.covers(reached, is_directory)
    }

    /// Whether this file, or a directory that it is in, is left out.
    pub(crate) fn leaves_out(&self, file: &Path) -> bool {
        let mut names = file.iter().peekable();
        let mut reached = self.start();
        while let Some(name) = names.next() {
            reached = self.step(reached, &name.to_string_lossy());
            if self.covers(reached, names.peek().is_some()) {
                return true;
            }
        }
        false
    }

    /// A `**` may stand for no component, unless it is the last.
    fn passing(&self, mut reached: u64) -> Reached {
        for (index, part) in self.parts.iter().enumerate() {
            let passes = matches!(part, Part::Any) && index + 1 < self.parts.len();
            if passes && reached & 1 << index != 0 {
                reached |= 1 << (index + 1);
            }
        }
        Reached(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[track_caller]
    fn check(pattern: &str, left_out: &[&str], kept: &[&str]) {
        let exclude: Exclude = pattern.parse().unwrap();
        for path in left_out {
            assert!(exclude.leaves_out(Path::new(path)), "{pattern} keeps {path}");
        }
        for path in kept {
            assert!(!exclude.leaves_out(Path::new(path)), "{pattern} leaves {path} out");
        }
    }

    #[test]
    fn patterns_are_relative_to_the_root_and_cover_what_is_below() {
        check("cache", &["cache", "cache/a/b"], &["a/cache", "cache2", "Cache"]);
        check("./cache", &["cache"], &["a/cache"]);
        check("/a//cache", &["a/cache/x"], &["cache"]);
        check("cache/", &["cache/a"], &["cache"]);
        check("*.log", &["x.log", ".log", "x.log/y"], &["a/x.log"]);
        check("a/?", &["a/b", "a/b/c"], &["a", "a/bb", "b/a"]);
        check("a/[bc]*", &["a/b", "a/cd"], &["a/d", "a"]);
        check("**/*.log", &["x.log", "a/x.log", "a/b/c.log/d"], &["a/log"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "b/a"]);
        check("a/**/z", &["a/z", "a/b/z", "a/b/c/z/y"], &["a", "z", "b/a/z"]);
        check("**/a/**/b", &["a/b", "x/a/y/z/b"], &["a", "b/a"]);
        check("**/tmp/", &["tmp/a", "a/tmp/b"], &["tmp", "a/tmp"]);
        check("**", &["a", "a/b"], &[]);
        check("**/**", &["a"], &[]);
    }

    #[test]
    fn what_is_no_pattern_below_the_root_is_refused() {
        for text in ["", "/", "./", "..", "a/../b", "a**", "***", "[a", "a[b/c]d"] {
            assert!(text.parse::<Exclude>().is_err(), "{text}");
        }
        assert!("a/".repeat(63).parse::<Exclude>().is_ok());
        assert!("a/".repeat(64).parse::<Exclude>().is_err());
        assert!("a".repeat(1025).parse::<Exclude>().is_err());
    }

    #[test]
    fn no_pattern_takes_long() {
        let name = "a".repeat(255);
        let (path, deep) = (format!("{name}/{name}/y"), "a/".repeat(255));
        let began = Instant::now();
        for pattern in ["*a".repeat(500), "?*".repeat(500), format!("{}b", "*[ab]".repeat(200))] {
            check(&format!("{pattern}/x"), &[], &[&path]);
            check(&format!("**/{pattern}/x"), &[], &[&path]);
        }
        check(&format!("{}x", "**/a/".repeat(31)), &[], &[&deep]);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
