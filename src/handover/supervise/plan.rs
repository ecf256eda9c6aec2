//! What the supervisor has to know, as its command line: `volseed supervise child=7 grace=8s … -- nginx`.
//! So `ps` in the container shows what it watches, and nothing has to be parsed twice.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use tracing::Level;

use crate::cli::config::SUPERVISOR;
use crate::cli::values::{self, LogFormat, ShowProgress};
use crate::cli::{LogArgs, SuperviseArgs};

/// See above.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The child's process number, which is that of its group.
    pub child: i32,
    /// What is done.
    pub config: SuperviseArgs,
    /// Whether the child was given the terminal.
    pub terminal: bool,
    /// How the last line is written.
    pub log: LogArgs,
    /// The app's command, for that line.
    pub command: Vec<OsString>,
}

impl Plan {
    /// The command line that says all of it.
    pub(crate) fn arguments(&self) -> Vec<CString> {
        let config = &self.config;
        let mut words: Vec<String> = vec![
            "volseed".into(),
            SUPERVISOR.into(),
            format!("child={}", self.child),
            format!("grace={}ms", config.grace.as_millis()),
            format!("scope={}", values::word(config.signal_scope)),
            format!("log={}", values::word(self.log.format)),
            format!("level={}", self.log.level),
        ];
        words.extend(config.stop_signal.map(|signal| format!("stop={signal}")));
        if self.terminal {
            words.push("terminal=yes".into());
        }
        words.extend(config.rewrite.iter().map(|rewrite| format!("rewrite={rewrite}")));
        words.extend(config.exit_map.iter().map(|map| format!("exit-map={map}")));
        words.push("--".into());
        let command = self.command.iter().map(|word| word.as_bytes().to_vec());
        let words = words.into_iter().map(String::into_bytes).chain(command);
        // The app's own words have been arguments before.
        words.map(|word| CString::new(word).unwrap_or_default()).collect()
    }

    /// Reads it; nothing where this is another command line.
    pub(crate) fn parse(arguments: &[OsString]) -> Option<Plan> {
        if arguments.get(1)? != SUPERVISOR {
            return None;
        }
        let mut words = arguments[2..].iter().map(OsString::as_os_str);
        let child = words.next()?.to_str()?.strip_prefix("child=")?.parse().ok()?;
        let mut plan = Plan {
            child,
            config: SuperviseArgs::default(),
            terminal: false,
            log: LogArgs { format: LogFormat::Text, level: Level::INFO, progress: ShowProgress::None },
            command: Vec::new(),
        };
        for word in words.by_ref().take_while(|word| *word != "--") {
            plan.set(word)?;
        }
        plan.command = words.map(OsStr::to_owned).collect();
        Some(plan)
    }

    fn set(&mut self, word: &OsStr) -> Option<()> {
        let (key, value) = word.to_str()?.split_once('=')?;
        match key {
            "grace" => {
                self.config.grace = Duration::from_millis(value.strip_suffix("ms")?.parse().ok()?);
            }
            "stop" => self.config.stop_signal = Some(value.parse().ok()?),
            "scope" => self.config.signal_scope = values::value(value)?,
            "log" => self.log.format = values::value(value)?,
            "level" => self.log.level = value.parse().ok()?,
            "terminal" => self.terminal = true,
            "rewrite" => self.config.rewrite.push(values::rewrite(value).ok()?),
            "exit-map" => self.config.exit_map.push(values::exit_map(value).ok()?),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::SignalScope;

    #[test]
    fn the_supervisor_reads_what_was_written_for_it() {
        let config = SuperviseArgs {
            signal_scope: SignalScope::Child,
            rewrite: ["TERM:QUIT", "USR1:0"].map(|text| values::rewrite(text).unwrap()).to_vec(),
            exit_map: vec![values::exit_map("143:0").unwrap()],
            grace: Duration::from_millis(1500),
            stop_signal: Some(28),
        };
        let log = LogArgs { format: LogFormat::Json, level: Level::WARN, progress: ShowProgress::None };
        let command = vec!["nginx".into(), OsStr::from_bytes(b"caf\xe9 --").into()];
        let written = Plan { child: 7, config, terminal: true, log, command };
        let words: Vec<OsString> =
            written.arguments().iter().map(|word| OsStr::from_bytes(word.to_bytes()).into()).collect();
        assert_eq!(format!("{:?}", Plan::parse(&words).unwrap()), format!("{written:?}"));
        for other in [&["volseed"][..], &["volseed", "supervise", "nginx"], &["volseed", "run", "child=7"]] {
            assert!(Plan::parse(&other.iter().map(OsString::from).collect::<Vec<_>>()).is_none());
        }
    }
}
