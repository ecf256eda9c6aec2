//! The environment: kept as it was for the app, and readied for the command line's parser.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// The names and values that volseed was started with, for the app.
pub type Environment = Vec<(OsString, OsString)>;

const PREFIX: &str = "VOLSEED_";

/// Takes the environment as it is, and then unsets what of ours is empty: `VOLSEED_WORKERS=` is what
/// a compose file makes of a variable that is not set.
///
/// To be called first in `main`, before there is a second thread.
pub fn capture() -> Environment {
    let environment: Environment = std::env::vars_os().collect();
    for (name, value) in &environment {
        if value.is_empty() && name.as_bytes().starts_with(PREFIX.as_bytes()) {
            // SAFETY: no other thread exists yet that could read the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
    environment
}

/// The variables that look like ours and are none of `known`, each with the nearest known one.
pub fn unknown<'a>(environment: &Environment, known: &'a [String]) -> Vec<(String, Option<&'a str>)> {
    environment
        .iter()
        .filter_map(|(name, _)| name.to_str())
        .filter(|name| name.starts_with(PREFIX) && !known.iter().any(|known| known == name))
        .map(|name| (name.to_owned(), nearest(name, known)))
        .collect()
}

fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let likeness = |candidate: &&String| {
        (strsim::jaro_winkler(&name[PREFIX.len()..], &candidate[PREFIX.len()..]) * 1000.0) as u32
    };
    known.iter().max_by_key(likeness).filter(|best| likeness(best) > 700).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_its_nearest_name() {
        let known = ["VOLSEED_FROM".to_string(), "VOLSEED_NO_TIMES".to_string()];
        let environment = ["VOLSEED_FORM", "VOLSEED_NOTIMES", "VOLSEED_FROM", "VOLSEED_XYZ", "PATH"]
            .map(|name| (OsString::from(name), OsString::new()))
            .to_vec();
        let found = unknown(&environment, &known);
        assert_eq!(
            found,
            [
                ("VOLSEED_FORM".to_string(), Some("VOLSEED_FROM")),
                ("VOLSEED_NOTIMES".to_string(), Some("VOLSEED_NO_TIMES")),
                ("VOLSEED_XYZ".to_string(), None),
            ]
        );
    }
}
