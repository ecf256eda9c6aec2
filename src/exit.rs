//! The exit codes: one table for the code, the documentation and the tests.
//!
//! Knows nothing of the rest. The numbers are those of BSD's `sysexits.h` where it has one, and of
//! the shell for commands that cannot be run and for signals.

/// How volseed ends. After a hand-over without a supervisor the code is the app's own and none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// `volseed health`: not healthy.
    Unhealthy,
    /// `volseed verify`: the volume is not as it was seeded.
    Differs,
    /// The app's own code, where it was supervised.
    App(u8),
    /// The command line, an environment variable or the configuration file is wrong.
    Usage,
    /// The archive is corrupt or truncated, or contains something that a seed must not contain.
    Archive,
    /// The source does not exist.
    Source,
    /// A hook failed.
    Hook,
    /// An error in volseed itself.
    Bug,
    /// A system call failed.
    System,
    /// The volume is read-only or full.
    Volume,
    /// Reading or writing failed.
    Io,
    /// Another replica holds the volume; try again.
    Held,
    /// A permission is missing.
    Permission,
    /// The volume's state conflicts with the request.
    Refused,
    /// The app exists but cannot be executed.
    NotExecutable,
    /// The app was not found.
    NotFound,
    /// Ended by a signal.
    Signal(u8),
}

/// Every code with a fixed number: the code, its name in `sysexits.h` or the shell, its meaning.
pub const TABLE: &[(Exit, u8, &str, &str)] = &[
    (
        Exit::Usage,
        64,
        "EX_USAGE",
        "the command line, an environment variable or the configuration file is wrong",
    ),
    (
        Exit::Archive,
        65,
        "EX_DATAERR",
        "the archive is corrupt or truncated, or contains something that a seed must not contain",
    ),
    (Exit::Source, 66, "EX_NOINPUT", "the source does not exist"),
    (Exit::Hook, 69, "EX_UNAVAILABLE", "the program of --hook failed"),
    (Exit::Bug, 70, "EX_SOFTWARE", "an error in volseed itself; please report it"),
    (Exit::System, 71, "EX_OSERR", "a system call failed"),
    (Exit::Volume, 73, "EX_CANTCREAT", "the volume is read-only or full"),
    (Exit::Io, 74, "EX_IOERR", "reading or writing failed"),
    (
        Exit::Held,
        75,
        "EX_TEMPFAIL",
        "another replica holds the volume for longer than --wait-timeout; try again",
    ),
    (Exit::Permission, 77, "EX_NOPERM", "a permission is missing"),
    (Exit::Refused, 78, "EX_CONFIG", "the volume's state conflicts with the request"),
    (Exit::NotExecutable, 126, "shell", "the app exists but cannot be executed"),
    (Exit::NotFound, 127, "shell", "the app was not found"),
];

impl Exit {
    /// The number that the process exits with: 64 to 255 where volseed did not do what was asked.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Unhealthy | Exit::Differs => 1,
            Exit::App(code) => code,
            Exit::Signal(number) => 128u8.saturating_add(number),
            fixed => {
                let row = TABLE.iter().find(|(exit, ..)| *exit == fixed);
                row.expect("the table has every other code").1
            }
        }
    }
}
