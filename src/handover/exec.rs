//! execvp(3), with the environment handed in: musl's does not run a script without `#!`.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::execve;

use crate::cli::environment::Environment;
use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;
use crate::system::commands::{DEFAULT_PATH, candidates};

/// Replaces this process by `command`.
///
/// # Errors
/// Exit 127 when there is no such command, 126 when it cannot be executed.
pub(crate) fn exec(command: &[OsString], environment: &Environment) -> Result<Infallible> {
    let name = command[0].as_os_str();
    let nul = |_| Error::new(Exit::NotExecutable, "execute", "a NUL in the command").on(name.as_bytes());
    let arguments =
        command.iter().map(|text| CString::new(text.as_bytes())).collect::<std::result::Result<Vec<_>, _>>();
    let arguments = arguments.map_err(nul)?;
    let path = environment.value("PATH").map_or(DEFAULT_PATH.as_bytes(), OsStr::as_bytes);
    let entries =
        environment.entries().map(CString::new).collect::<std::result::Result<Vec<_>, _>>().map_err(nul)?;
    let mut failed = Errno::ENOENT;
    for candidate in candidates(name, path) {
        let Ok(candidate) = CString::new(candidate) else { continue };
        let Err(error) = execve(&candidate, &arguments, &entries);
        match error {
            Errno::ENOEXEC => {
                let shell =
                    [c"/bin/sh".to_owned(), candidate].into_iter().chain(arguments.iter().skip(1).cloned());
                let Err(error) = execve(c"/bin/sh", &shell.collect::<Vec<_>>(), &entries);
                return Err(failure(name, error));
            }
            // Another one further on may do; a refusal is remembered.
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => failed = error,
            error => return Err(failure(name, error)),
        }
    }
    Err(failure(name, failed))
}

fn failure(name: &OsStr, error: Errno) -> Error {
    let missing = matches!(error, Errno::ENOENT | Errno::ENOTDIR);
    let cause = if missing && !name.as_bytes().contains(&b'/') {
        "no such command in PATH".to_owned()
    } else {
        crate::error::lowercase_first(&std::io::Error::from(error).to_string())
    };
    let help = match error {
        Errno::E2BIG => {
            "environment and arguments are too large: together they may take a quarter of the stack limit (ulimit -s), and 128 KiB each. Leave variables out, such as those of services (Kubernetes: enableServiceLinks: false)"
        }
        _ if missing => "is it installed in the image, and its interpreter (#!) and libraries too?",
        Errno::EACCES => "it is not executable, or a directory on its way cannot be entered by this user",
        _ => "is it built for this machine?",
    };
    let exit = if missing { Exit::NotFound } else { Exit::NotExecutable };
    Error::new(exit, format!("execute {}", name.as_bytes().quoted()), cause).help(help)
}
