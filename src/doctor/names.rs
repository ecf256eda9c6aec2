//! Which names the volume has: whether it tells upper and lower case apart, long names, and unusual characters.

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::directory::{TestDirectory, in_words};
use super::finding::{Fact, Finding, unkept};
use super::needs::Needs;
use crate::seed::stage::case::ignores_case;
use crate::volume::{Volume, names, openat};
use rustix::io::Result;

/// The longest name that Linux has, in bytes (limits.h, `NAME_MAX`).
const LONGEST: usize = 255;
/// Names that some file systems refuse, or change without a word.
const UNUSUAL: [(&str, &[u8]); 7] = [
    ("a colon", b"a:b"),
    ("? \" * < > |", b"a?\"*<>|b"),
    ("a backslash", b"a\\b"),
    ("a newline", b"a\nb"),
    ("a dot at the end", b"ab."),
    ("a blank at the end", b"ac "),
    ("composed accents", b"e\xcc\x81"),
];
const NOT_UTF8: &[u8] = b"a\xff\xfe";

/// All of them.
///
/// # Errors
/// When a directory cannot be made.
pub(super) fn findings(
    volume: &Volume,
    directory: &TestDirectory,
    needs: Option<&Needs>,
) -> Result<Vec<Finding>> {
    let at = directory.directory("names")?;
    let keeps = |name: &[u8]| keeps(&at, name);
    Ok(vec![case(volume, directory, needs)?, length(needs, keeps), characters(needs, keeps)])
}

/// Whether a name can be made and is listed as it was made.
fn keeps(at: &std::os::fd::OwnedFd, name: &[u8]) -> Result<bool> {
    use std::os::fd::AsFd;
    fs::mkdirat(at, name, Mode::RWXU)?;
    let listed = names(openat(at.as_fd(), b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?.as_fd())?;
    let is_kept = listed.iter().any(|other| **other == *name);
    let _ = fs::unlinkat(at, name, AtFlags::REMOVEDIR);
    Ok(is_kept)
}

fn case(volume: &Volume, directory: &TestDirectory, needs: Option<&Needs>) -> Result<Finding> {
    directory.directory("case-Probe")?;
    let told = ignores_case(directory.at(), b"case-Probe")?;
    // On ext4 that is each directory's own: a new one has it from the root.
    let of_root = ignores_case(volume.root(), directory.name.as_bytes())?;
    if !told && !of_root {
        return Ok(Finding::ok("case", "told apart"));
    }
    Ok(match needs.map(|needs| &needs.alike) {
        Some(Some((one, other))) => Finding::fail("case", "ignored")
            .then(format!("the seed is refused (78): '{one}' and '{other}' would be one name")),
        Some(None) => Finding::ok("case", "ignored").then("no two names of the source differ in case only"),
        None => Finding::warn("case", "ignored")
            .then("a seed with two names that differ in case only is refused (78)"),
    })
}

fn length(needs: Option<&Needs>, keeps: impl Fn(&[u8]) -> Result<bool>) -> Finding {
    let fits = |length: usize| keeps(&vec![b'n'; length]) == Ok(true);
    if fits(LONGEST) {
        return Finding::ok("long names", format!("kept, {LONGEST} bytes"));
    }
    let (mut longest, mut refused) = (0, LONGEST);
    while longest + 1 < refused {
        let middle = (longest + refused) / 2;
        if fits(middle) { longest = middle } else { refused = middle }
    }
    let what = format!("of at most {longest} bytes");
    let finding = match needs.map(|needs| needs.longest_name) {
        Some(needed) if needed > longest => Finding::fail("long names", what)
            .then(format!("the seed is refused (78): it has a name of {needed} bytes")),
        Some(needed) => Finding::ok("long names", what).then(format!("the source's longest has {needed}")),
        None => Finding::warn("long names", what).then("a seed with a longer one is refused (78)"),
    };
    finding.fact("longest", longest as u64)
}

fn characters(needs: Option<&Needs>, keeps: impl Fn(&[u8]) -> Result<bool>) -> Finding {
    let mut lost = Vec::new();
    let mut first = None;
    let mut look = |what: &'static str, name: &[u8]| match keeps(name) {
        Ok(true) => true,
        Ok(false) => {
            lost.push(what);
            first.get_or_insert_with(|| "without an error".to_owned());
            false
        }
        Err(error) => {
            lost.push(what);
            first.get_or_insert_with(|| in_words(error));
            false
        }
    };
    let kept: Vec<bool> = UNUSUAL.iter().map(|(what, name)| look(what, name)).collect();
    let keeps_bytes = look("bytes that are not UTF-8", NOT_UTF8);
    if lost.is_empty() {
        return Finding::ok("names", "any bytes are kept");
    }
    let needed = needs.map(|needs| {
        let mut needed = if keeps_bytes { 0 } else { needs.not_utf8 };
        if kept[..4].contains(&false) {
            needed += needs.forbidden;
        }
        if kept[4..6].contains(&false) {
            needed += needs.dotted;
        }
        needed
    });
    let what = format!("not kept: {} ({})", lost.join(", "), first.unwrap_or_default());
    let then = match needed {
        Some(0) => "the source has none of these".to_owned(),
        Some(count) => format!("the seed may be refused (78): the source has {count} such names"),
        None => "a seed that has such a name is refused (78)".to_owned(),
    };
    Finding::new(unkept(needed, true), "names", what).then(then).fact("lost", Fact::List(lost))
}
