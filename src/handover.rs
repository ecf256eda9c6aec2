//! Becoming the app: same process, same environment and directory, nothing of ours left. Or staying
//! beside it as its init.

pub(crate) mod exec;
pub(crate) mod identity;
pub(crate) mod sockets;
pub(crate) mod supervise;

use std::os::fd::OwnedFd;

use nix::libc;
use nix::unistd::getppid;

use crate::cli::config::AppConfig;
use crate::cli::environment::Environment;
use crate::cli::values::Address;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::system::signals;
use crate::system::signals::{Signals, inherited};
use supervise::Lifeline;

/// Becomes the app, and hands it the sockets that are `listening` for it. Returns only when that failed,
/// or when a signal came first. Who supervises us is told by `lifeline`.
///
/// # Errors
/// Exit 77 when the user cannot be changed, 71 when a socket cannot be handed over, 126 or 127 when the command cannot be executed, 128+n
/// after signal n.
pub(crate) fn become_app(
    app: &AppConfig,
    mut environment: Environment,
    listening: Vec<(Address, OwnedFd)>,
    signals: &Signals,
    lifeline: Option<&Lifeline>,
) -> Result<std::convert::Infallible> {
    tracing::info!(command = %app.args.command[0].display(), "handing over");
    if let Some(user) = &app.user {
        identity::give_standard_files(user.uid);
        identity::assume(user)?;
        environment.set("HOME", user.home.clone());
    }
    if lifeline.is_some() {
        sockets::readdress(&mut environment, getppid().as_raw().unsigned_abs(), std::process::id());
    }
    if let Some(signal) = signals::restore_for_exec(signals) {
        return Err(Error::new(Exit::Signal(signal), "hand over", format!("stopped by signal {signal}")));
    }
    for file in inherited::closed() {
        // SAFETY: what is open there is the runtime's `/dev/null`; its own streams bear a closed one.
        unsafe { libc::close(file) };
    }
    if let Some(how) = app.args.pass_socket.filter(|_| !listening.is_empty()) {
        sockets::pass(how, listening, &mut environment).inspect_err(|_| signals::ignore_sigpipe())?;
    }
    if let Some(lifeline) = lifeline {
        lifeline.app_starts();
    }
    let failed = exec::exec(&app.args.command, &environment);
    signals::ignore_sigpipe();
    if let Some(lifeline) = lifeline {
        lifeline.app_failed();
    }
    failed
}
