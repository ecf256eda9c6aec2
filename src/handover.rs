//! Becoming the app: same process, same environment and directory, nothing of ours left.

mod exec;
mod identity;

use crate::config::AppConfig;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::signals::{self, Signals};

/// Becomes the app. Returns only when that failed, or when a signal came first.
///
/// # Errors
/// Exit 77 when the user cannot be changed, 126 or 127 when the command cannot be executed, 128+n
/// after signal n.
pub fn become_app(
    app: &AppConfig,
    mut environment: Environment,
    signals: &Signals,
) -> Result<std::convert::Infallible> {
    tracing::info!(command = %app.command[0].display(), "handing over");
    if let Some(user) = &app.user {
        identity::assume(user)?;
        environment.retain(|(name, _)| name != "HOME");
        environment.push(("HOME".into(), user.home.clone().into()));
    }
    if let Some(signal) = signals::reset(signals) {
        return Err(Error::new(Exit::Signal(signal), "hand over", format!("stopped by signal {signal}")));
    }
    exec::exec(&app.command, &environment)
}
