//! The hook: what it is called for, with what, and what follows from how it ends.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::work::{Heartbeat, VolumeWork};
use crate::claims::store::Claim;
use crate::cli::config::Hook;
use crate::error::{Context, Error, Result, lowercase_first, printable};
use crate::exit::Exit;
use crate::progress::{Phase, seconds};
use crate::system::program::{Ended, Program, Wish};
use crate::text::Untrusted;
use crate::volume::records::{HookEvent, Public};

/// What a hook is called for.
struct Call<'a> {
    event: HookEvent,
    old: Option<&'a str>,
    new: Option<&'a str>,
    /// Whether it may have run before.
    again: bool,
}

impl Call<'_> {
    fn environment(&self, volume: &Path) -> Vec<(&'static str, Option<OsString>)> {
        let volume = std::path::absolute(volume).unwrap_or_else(|_| volume.to_owned());
        vec![
            ("VOLSEED_VOLUME", Some(volume.into())),
            ("VOLSEED_OLD_VERSION", self.old.map(Into::into)),
            ("VOLSEED_NEW_VERSION", self.new.map(Into::into)),
            ("VOLSEED_RESUMED", self.again.then(|| "1".into())),
        ]
    }
}

impl VolumeWork<'_> {
    /// Asks the hook whether the volume of `record` may be upgraded now. Blocks until it ends.
    ///
    /// # Errors
    /// Exit 69 where it says no.
    pub(super) fn call_before_upgrade(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        let Some(hook) = &self.config.hook else { return Ok(()) };
        let complete = self.complete_record(claim, record)?;
        let call = Call {
            event: HookEvent::PreUpgrade,
            old: complete.version.as_ref().map(Untrusted::raw),
            new: self.config.seed_version.as_deref(),
            // That an earlier one got so far is not written down.
            again: claim.inherited,
        };
        self.call(hook, &call, heartbeat)
    }

    /// Runs the hook that `record` says is owed. Blocks until it ends.
    ///
    /// # Errors
    /// Exit 69 where it fails; then it is still owed.
    pub(super) fn call_owed(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        record: &Public,
        again: bool,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        let complete = self.complete_record(claim, record)?;
        let (Some(hook), Some(owed)) = (&self.config.hook, &complete.hook) else { return Ok(()) };
        let call = Call {
            event: owed.event,
            old: owed.from.as_ref().map(Untrusted::raw),
            new: self.config.seed_version.as_deref(),
            again,
        };
        self.call(hook, &call, heartbeat)
    }

    fn call(&self, hook: &Hook, call: &Call<'_>, heartbeat: &Heartbeat) -> Result<()> {
        self.progress.enter(Phase::Migrating);
        let (event, began) = (call.event.word(), Instant::now());
        tracing::info!(hook = event, program = %hook.program.display(), again = call.again, "calling");
        let named = format!("call hook '{event}'");
        let program = Program {
            path: &hook.program,
            argument: event,
            environment: call.environment(self.volume.path()),
            user: hook.user.as_ref(),
            directory: self.volume.root(),
        };
        let running = program.start().map_err(|error| {
            let cause = lowercase_first(&error.to_string());
            Error::new(Exit::Hook, named.clone(), cause)
                .on(hook.program.as_path())
                .help("does it begin with #! and the path of an interpreter that is there, and may the user of --user execute it?")
        })?;
        let say = |line: &[u8]| tracing::info!(hook = event, "{}", printable(line));
        let status = running.watch(say, || {
            self.progress.touch();
            match (heartbeat.is_lost(), heartbeat.stop().is_set()) {
                (true, _) => Wish::Kill,
                (false, true) => Wish::Stop,
                (false, false) => Wish::GoOn,
            }
        });
        let status = status.context("watch", "hook").map_err(|error| error.exit(Exit::System))?;
        self.progress.enter(Phase::Checking);
        if status == Ended::Code(0) {
            tracing::info!(hook = event, seconds = seconds(began.elapsed()), "called");
            return Ok(());
        }
        if heartbeat.is_lost() {
            return Err(Error::new(Exit::Held, named, "another replica has taken over meanwhile"));
        }
        if heartbeat.stop().is_set() {
            return Err(Error::cancelled());
        }
        let cause = match status {
            Ended::Code(code) => format!("it ended with {code}"),
            Ended::Signal(signal) => format!("it was ended by signal {signal}"),
        };
        let help = match call.event {
            HookEvent::PreUpgrade => {
                "nothing was changed; what it said is in the log above, and the next start asks it again"
            }
            HookEvent::PostSeed | HookEvent::PostUpgrade => {
                "no app starts before it has succeeded; what it said is in the log above, and the next start calls it again"
            }
        };
        Err(Error::new(Exit::Hook, named, cause).on(hook.program.as_path()).help(help))
    }
}
