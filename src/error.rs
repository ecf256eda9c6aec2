//! The one error type: what was done, to what, why it went wrong, what to do about it.
//!
//! Knows only the exit codes and how text is shown. An error is made where the cause is known and handed up unchanged;
//! nothing is logged on the way.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::exit::Exit;
use crate::text::one_line;
pub(crate) use crate::text::printable;

/// What every fallible function of volseed returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error that a person can act on: `act 'object': cause`, then what to do.
#[derive(Debug)]
pub(crate) struct Error {
    exit: Exit,
    act: Cow<'static, str>,
    object: Option<String>,
    cause: String,
    number: Option<i32>,
    help: Option<Cow<'static, str>>,
}

impl Error {
    /// An error whose cause is a sentence of ours.
    pub(crate) fn new(exit: Exit, act: impl Into<Cow<'static, str>>, cause: impl Into<String>) -> Error {
        Error { exit, act: act.into(), object: None, cause: cause.into(), number: None, help: None }
    }

    /// An error whose cause is the operating system's. The exit code and the help follow from the
    /// error number; the caller may overrule both.
    pub(crate) fn os(
        act: impl Into<Cow<'static, str>>,
        object: impl Quoted,
        cause: impl Into<io::Error>,
    ) -> Error {
        let cause = cause.into();
        let number = cause.raw_os_error();
        Error {
            exit: exit_of(number),
            act: act.into(),
            object: Some(object.quoted()),
            cause: lowercase_first(&cause.to_string()),
            number,
            help: help_of(number, nix::unistd::geteuid().is_root()).map(Cow::Borrowed),
        }
    }

    /// The seeding thread was cancelled; the caller says why.
    pub(crate) fn cancelled() -> Error {
        Error::new(Exit::Signal(0), "seed", "stopped")
    }

    /// Says where the act belongs, in place of what it was before.
    pub(crate) fn within(mut self, place: &str) -> Error {
        self.act = Cow::Owned(place.to_owned());
        self
    }

    /// Names the object of the act.
    pub(crate) fn on(mut self, object: impl Quoted) -> Error {
        self.object = Some(object.quoted());
        self
    }

    /// Says in words what the operating system's cause means here, and replaces the exit code.
    pub(crate) fn explained(mut self, exit: Exit, words: &str) -> Error {
        self.exit = exit;
        self.cause = format!("{words}: {}", self.cause);
        self
    }

    /// Replaces the exit code.
    pub(crate) fn exit(mut self, exit: Exit) -> Error {
        self.exit = exit;
        self
    }

    /// Says what the reader can do.
    pub(crate) fn help(mut self, help: impl Into<Cow<'static, str>>) -> Error {
        self.help = Some(help.into());
        self
    }

    /// The exit code that this error ends the process with.
    pub(crate) fn exit_code(&self) -> Exit {
        self.exit
    }

    /// Whether a server no longer knows the handle that was used (`ESTALE`): what stands for the same
    /// place may still be opened again.
    pub(crate) fn is_stale(&self) -> bool {
        self.number == Some(libc::ESTALE)
    }

    /// The operating system's number, where the cause is its own.
    pub(crate) fn errno(&self) -> Option<rustix::io::Errno> {
        self.number.map(rustix::io::Errno::from_raw_os_error)
    }

    /// Whether its object is `path` or below it.
    pub(crate) fn is_below(&self, path: &Path) -> bool {
        let object = self.object.as_deref().unwrap_or_default();
        object.starts_with(path.quoted().trim_end_matches('\''))
    }

    /// What the reader can do, where there is anything; on one line.
    pub(crate) fn help_text(&self) -> Option<Cow<'_, str>> {
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
pub(crate) trait Context<T> {
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
pub(crate) trait Quoted {
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
pub(crate) fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.clone().next().is_none_or(|second| second.is_lowercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// The exit code for an error number: what it most often means on a volume.
fn exit_of(number: Option<i32>) -> Exit {
    match number {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EROFS) => Exit::Volume,
        Some(libc::EACCES | libc::EPERM) => Exit::Permission,
        Some(libc::ENAMETOOLONG | libc::EMLINK) => Exit::Refused,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Exit::System,
        _ => Exit::Io,
    }
}

/// The help for an error number. `is_root` is who asks: root is not told to be root.
fn help_of(number: Option<i32>, is_root: bool) -> Option<&'static str> {
    Some(match number? {
        libc::ENOSPC => {
            "the volume is full (space: df; inodes: df -i): enlarge it and start again; what is already staged is kept"
        }
        libc::EDQUOT => "the quota is used up: raise it and start again; what is already staged is kept",
        libc::EFBIG => {
            "the file is larger than the file system (FAT: 4 GiB) or the limit of file sizes (ulimit -f) allows"
        }
        libc::EROFS => {
            "mount the volume read-write for the container that seeds it; one that turned read-only by itself has failed: see dmesg"
        }
        libc::EACCES | libc::EPERM if is_root => {
            "root was refused: a capability may be missing (CAP_DAC_OVERRIDE, CAP_CHOWN, CAP_FOWNER), it may be immutable (lsattr), the server may squash root (root_squash), or a user namespace, a seccomp profile or the mount forbids it"
        }
        libc::EACCES | libc::EPERM => {
            "run volseed as a user who may do this (often root, with --user for the app), or change the owner"
        }
        libc::ENAMETOOLONG => {
            "a name or path is longer than the file system takes: shorten it, or use another one"
        }
        libc::EMLINK => {
            "the file system allows no more names of a file, or directories in one: spread them, or use another one"
        }
        libc::EINVAL => {
            "the file system does not take this: see which kind it is, and what it does not keep (docs/volumes.md)"
        }
        libc::ENOTSUP => {
            "the file system or its mount options do not offer this: use another one, or mount it differently"
        }
        libc::ENOSYS => {
            "the file system, the kernel or a seccomp profile does not have this call: allow it, or use another one"
        }
        libc::EIO => "the storage or its server has failed: see dmesg, repair it, and start again",
        libc::ESTALE => "the server no longer knows this file: remount the volume and start again",
        libc::ETIMEDOUT | libc::EHOSTDOWN | libc::EHOSTUNREACH | libc::ENOTCONN | libc::ECONNABORTED => {
            "the server, or the process behind a FUSE mount, does not answer: see that it runs, remount, start again"
        }
        libc::EBUSY => "another mount or program uses it: unmount or stop that, and start again",
        libc::ETXTBSY => "a program is being run from it: stop that, and start again",
        libc::EMFILE | libc::ENFILE => "raise the limit of open files (ulimit -n)",
        libc::ENOMEM => "allow the container more memory",
        _ => return None,
    })
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
    fn every_error_number_has_its_exit_code_and_help() {
        use nix::libc as c;
        let table: &[(i32, Exit, &str)] = &[
            (c::ENOSPC, Exit::Volume, "inodes"),
            (c::EDQUOT, Exit::Volume, "quota"),
            (c::EFBIG, Exit::Volume, "4 GiB"),
            (c::EROFS, Exit::Volume, "read-write"),
            (c::EACCES, Exit::Permission, "--user"),
            (c::EPERM, Exit::Permission, "--user"),
            (c::ENAMETOOLONG, Exit::Refused, "longer"),
            (c::EMLINK, Exit::Refused, "no more names"),
            (c::EINVAL, Exit::Io, "does not take"),
            (c::ENOTSUP, Exit::Io, "mount options"),
            (c::ENOSYS, Exit::Io, "seccomp"),
            (c::EIO, Exit::Io, "dmesg"),
            (c::ESTALE, Exit::Io, "remount"),
            (c::ETIMEDOUT, Exit::Io, "does not answer"),
            (c::EHOSTDOWN, Exit::Io, "does not answer"),
            (c::EHOSTUNREACH, Exit::Io, "does not answer"),
            (c::ENOTCONN, Exit::Io, "FUSE"),
            (c::ECONNABORTED, Exit::Io, "FUSE"),
            (c::EBUSY, Exit::Io, "uses it"),
            (c::ETXTBSY, Exit::Io, "program"),
            (c::EMFILE, Exit::System, "ulimit -n"),
            (c::ENFILE, Exit::System, "ulimit -n"),
            (c::ENOMEM, Exit::System, "memory"),
        ];
        for (number, exit, part) in table {
            let help = help_of(Some(*number), false);
            assert_eq!(exit_of(Some(*number)), *exit, "{number}");
            assert!(help.unwrap().contains(part), "{number}: {help:?}");
        }
        for number in [Some(c::ENOENT), None] {
            assert_eq!((exit_of(number), help_of(number, true)), (Exit::Io, None));
        }
    }

    #[test]
    fn root_is_not_told_to_be_root() {
        for number in [nix::libc::EPERM, nix::libc::EACCES] {
            assert!(
                help_of(Some(number), true)
                    .is_some_and(|help| help.contains("CAP_") && !help.contains("--user"))
            );
        }
    }

    #[test]
    fn an_error_says_act_object_and_cause() {
        let error = Error::os("create directory", "/data/x", io::Error::from_raw_os_error(nix::libc::EACCES));
        assert_eq!(error.to_string(), "create directory '/data/x': permission denied (os error 13)");
        assert_eq!(error.exit_code(), Exit::Permission);
    }
}
