//! The one error type: what was done, to what, why it went wrong, what to do about it.
//!
//! Knows only the exit codes and how text is shown. An error is made where the cause is known and handed up unchanged;
//! nothing is logged on the way.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::text::one_line;
pub use crate::text::printable;

/// What every fallible function of volseed returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that a person can act on: `act 'object': cause`, then what to do.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    act: Cow<'static, str>,
    object: Option<String>,
    cause: String,
    number: Option<i32>,
    help: Option<Cow<'static, str>>,
}

impl Error {
    /// An error whose cause is a sentence of ours.
    pub fn new(exit: Exit, act: impl Into<Cow<'static, str>>, cause: impl Into<String>) -> Error {
        Error { exit, act: act.into(), object: None, cause: cause.into(), number: None, help: None }
    }

    /// An error whose cause is the operating system's. The exit code and the help follow from the
    /// error number; the caller may overrule both.
    pub fn os(act: impl Into<Cow<'static, str>>, object: impl Quoted, cause: impl Into<io::Error>) -> Error {
        let cause = cause.into();
        let (exit, help) = classify(&cause);
        Error {
            exit,
            act: act.into(),
            object: Some(object.quoted()),
            cause: lowercase_first(&cause.to_string()),
            number: cause.raw_os_error(),
            help: help.map(Cow::Borrowed),
        }
    }

    /// The story was stopped on its way because the shell asked for it; who asked says why.
    pub fn cancelled() -> Error {
        Error::new(Exit::Signal(0), "seed", "stopped")
    }

    /// Says where the act belongs, in place of what it was before.
    pub fn within(mut self, place: &str) -> Error {
        self.act = Cow::Owned(place.to_owned());
        self
    }

    /// Names the object of the act.
    pub fn on(mut self, object: impl Quoted) -> Error {
        self.object = Some(object.quoted());
        self
    }

    /// Says in words what the operating system's cause means here, and replaces the exit code.
    pub fn explained(mut self, exit: Exit, words: &str) -> Error {
        self.exit = exit;
        self.cause = format!("{words}: {}", self.cause);
        self
    }

    /// Replaces the exit code.
    pub fn exit(mut self, exit: Exit) -> Error {
        self.exit = exit;
        self
    }

    /// Says what the reader can do.
    pub fn help(mut self, help: impl Into<Cow<'static, str>>) -> Error {
        self.help = Some(help.into());
        self
    }

    /// The exit code that this error ends the process with.
    pub fn exit_code(&self) -> Exit {
        self.exit
    }

    /// Whether a server no longer knows the handle that was used (`ESTALE`): what stands for the same
    /// place may still be opened anew.
    pub fn is_stale(&self) -> bool {
        self.number == Some(nix::libc::ESTALE)
    }

    /// What the reader can do, where there is anything; on one line.
    pub fn help_text(&self) -> Option<Cow<'_, str>> {
        self.help.as_deref().map(one_line)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Causes come from crates and records, too: whatever they hold, it is one line.
        f.write_str(&one_line(&self.act))?;
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        write!(f, ": {}", one_line(&self.cause))
    }
}

impl std::error::Error for Error {}

/// Gives a result of the operating system its act and object.
pub trait Context<T> {
    /// `act` is a verb phrase such as `create directory`; `object` is quoted when it is printed.
    ///
    /// # Errors
    /// The result's own error, with the act and the object.
    fn context(self, act: &'static str, object: impl Quoted) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, act: &'static str, object: impl Quoted) -> Result<T> {
        self.map_err(|cause| Error::os(act, object, cause))
    }
}

/// Names as they are printed: in quotes, with what a terminal would choke on escaped.
pub trait Quoted {
    /// The name in single quotes; bytes that are not UTF-8 as `\xNN`, control characters escaped.
    fn quoted(&self) -> String;
}

impl Quoted for [u8] {
    fn quoted(&self) -> String {
        format!("'{}'", printable(self))
    }
}

impl Quoted for &[u8] {
    fn quoted(&self) -> String {
        (**self).quoted()
    }
}

impl Quoted for Vec<u8> {
    fn quoted(&self) -> String {
        self.as_slice().quoted()
    }
}

impl Quoted for &Path {
    fn quoted(&self) -> String {
        self.as_os_str().as_bytes().quoted()
    }
}

/// A name that is only put together when there is an error to print.
impl<T: Quoted, F: Fn() -> T> Quoted for F {
    fn quoted(&self) -> String {
        self().quoted()
    }
}

impl Quoted for PathBuf {
    fn quoted(&self) -> String {
        self.as_path().quoted()
    }
}

impl Quoted for &str {
    fn quoted(&self) -> String {
        self.as_bytes().quoted()
    }
}

impl Quoted for String {
    fn quoted(&self) -> String {
        self.as_bytes().quoted()
    }
}

/// The cause of an operating system's error in the words and the case of our messages: `No such file`
/// loses its capital, musl's `I/O error` keeps it.
pub fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.clone().next().is_none_or(|second| second.is_lowercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

fn classify(cause: &io::Error) -> (Exit, Option<&'static str>) {
    use nix::libc::{EACCES, EDQUOT, EMFILE, ENFILE, ENOSPC, EPERM, EROFS, ESTALE};
    match cause.raw_os_error() {
        Some(ENOSPC) => (
            Exit::Volume,
            Some(
                "the volume is full (space or inodes): enlarge it and start again; what is already staged is kept",
            ),
        ),
        Some(EDQUOT) => (
            Exit::Volume,
            Some("the quota is used up: raise it and start again; what is already staged is kept"),
        ),
        Some(EROFS) => (Exit::Volume, Some("mount the volume read-write for the container that seeds it")),
        Some(EACCES | EPERM) => (
            Exit::Permission,
            Some(
                "run volseed as a user who may do this (often root, with --user for the app), or change the owner",
            ),
        ),
        Some(ESTALE) => {
            (Exit::Io, Some("the server no longer knows this file: remount the volume and start again"))
        }
        Some(EMFILE | ENFILE) => {
            (Exit::System, Some("raise the limit of open files (ulimit -n); 64 are enough"))
        }
        _ => (Exit::Io, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_begin_in_lowercase_unless_they_are_abbreviations() {
        for (text, expected) in
            [("Permission denied", "permission denied"), ("I/O error", "I/O error"), ("", "")]
        {
            assert_eq!(lowercase_first(text), expected);
        }
    }

    #[test]
    fn an_error_is_one_line_whatever_its_cause_holds() {
        let error = Error::new(Exit::Archive, "read\n", "bad\nfield\u{1b}[1m").on("a\nb").help("x\ny");
        assert_eq!(error.to_string(), "read\\n 'a\\nb': bad\\nfield\\u{1b}[1m");
        assert_eq!(error.help_text().unwrap(), "x\\ny");
    }

    #[test]
    fn an_error_says_act_object_and_cause() {
        let error = Error::os("create directory", "/data/x", io::Error::from_raw_os_error(nix::libc::EACCES));
        assert_eq!(error.to_string(), "create directory '/data/x': permission denied (os error 13)");
        assert_eq!(error.exit_code(), Exit::Permission);
    }
}
