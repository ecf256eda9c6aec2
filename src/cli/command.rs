//! From the words of the command line to a [`Command`] that is resolved completely: what is wrong with a
//! command is said before anything of it is done.

use std::ffi::OsString;
use std::path::PathBuf;

use super::config::{self, AppConfig, Config, ConfigFile, HealthConfig, LogConfig, VolumeConfig};
use super::values::{LogFormat, LogLevel, ShowProgress};
use super::{AppCheckArgs, Asked, HealthArgs, RunArgs, Verb};
use crate::error::Result;

/// What volseed does now.
#[derive(Debug)]
pub enum Command {
    /// Seed the volumes that the app wants seeded, and become the app.
    Run {
        /// The app.
        app: Box<AppConfig>,
        /// Its volumes; none where `--only-for` names another app.
        seed: Option<Config>,
        /// `--app-check` is a flag, which `volseed health` cannot read after the hand-over.
        is_check_hidden: bool,
    },
    /// Seed the volumes.
    Seed(Config),
    /// Wait until the volumes are complete.
    Wait(Config),
    /// Ask the volseed of this container.
    Health(HealthConfig, Box<HealthArgs>),
    /// Print what the volumes' state records, as JSON or for people.
    Status(Vec<VolumeConfig>, bool),
    /// Copy this binary to a directory.
    Install(PathBuf),
    /// Print a page.
    Print(String),
}

/// The command line, parsed, and the configuration file that it names.
#[derive(Debug)]
pub struct Request {
    asked: Asked,
    file: ConfigFile,
}

impl Request {
    /// Parses the command line, and reads the file.
    ///
    /// # Errors
    /// Exit 64 or 66, with what is wrong and where to read on.
    pub fn read(args: Vec<OsString>) -> Result<Request> {
        let asked = super::parse(args)?;
        let file = match &asked {
            Asked::Page(_) => ConfigFile::default(),
            Asked::Verb(verb) => match &**verb {
                Verb::Run(args) => ConfigFile::read(args.volume.config.as_deref())?,
                Verb::Seed(args) => ConfigFile::read(args.volume.config.as_deref())?,
                Verb::Wait(args) => ConfigFile::read(args.volume.config.as_deref())?,
                Verb::Status(args) => ConfigFile::read(args.volume.config.as_deref())?,
                Verb::Health(args) => ConfigFile::read(args.config.as_deref())?,
                Verb::Install(_) => ConfigFile::default(),
            },
        };
        Ok(Request { asked, file })
    }

    /// What is logged. A command that prints its result logs only errors, in the format `early`.
    pub fn log(&self, early: LogFormat) -> LogConfig {
        let args = match &self.asked {
            Asked::Verb(verb) => match &**verb {
                Verb::Run(args) => Some(&args.log),
                Verb::Seed(args) => Some(&args.log),
                Verb::Wait(args) => Some(&args.log),
                Verb::Status(_) | Verb::Health(_) | Verb::Install(_) => None,
            },
            Asked::Page(_) => None,
        };
        let errors =
            LogConfig { format: early, level: LogLevel(tracing::Level::ERROR), progress: ShowProgress::None };
        args.map_or(errors, |args| config::log(args, &self.file))
    }

    /// Resolves the command. Touches no volume and no source.
    ///
    /// # Errors
    /// Exit 64: what is missing, unknown or contradicts itself.
    pub fn resolve(self) -> Result<Command> {
        let file = &self.file;
        let verb = match self.asked {
            Asked::Page(page) => return Ok(Command::Print(page)),
            Asked::Verb(verb) => *verb,
        };
        Ok(match verb {
            Verb::Run(args) => resolve_run(&args, file)?,
            Verb::Seed(args) => Command::Seed(Config {
                volumes: config::volumes(&args.volume, Some(&args.copy), file)?,
                server: config::server(&args.server, &[], file)?,
            }),
            Verb::Wait(args) => Command::Wait(Config {
                volumes: config::volumes(&args.volume, None, file)?,
                server: config::server(&args.server, &[], file)?,
            }),
            Verb::Status(args) => Command::Status(config::volumes(&args.volume, None, file)?, args.json),
            Verb::Health(args) => {
                Command::Health(config::health(&args, &args.server, &args.app, file), Box::new(args))
            }
            Verb::Install(args) => Command::Install(args.directory),
        })
    }
}

fn resolve_run(args: &RunArgs, file: &ConfigFile) -> Result<Command> {
    let app = config::app(&args.app, &args.check, file)?;
    let config = || -> Result<Config> {
        Ok(Config {
            volumes: config::volumes(&args.volume, Some(&args.copy), file)?,
            server: config::server(&args.server, &app.admin, file)?,
        })
    };
    let seed = if app.seeds { Some(config()?) } else { None };
    let is_check_hidden = args.check.app_check.is_some() && args.check.admin.is_empty();
    Ok(Command::Run { app: Box::new(app), seed, is_check_hidden })
}

/// The question `asked`, put to the server of the volseed that has the command line `args`; none where that is
/// no volseed that seeds or waits.
pub fn health_of(args: &[OsString], asked: &HealthArgs) -> Option<HealthConfig> {
    let Ok(Asked::Verb(verb)) = super::parse(args.to_vec()) else { return None };
    let (server, check, file) = match *verb {
        Verb::Run(run) => (run.server, run.check, run.volume.config),
        Verb::Seed(seed) => (seed.server, AppCheckArgs::default(), seed.volume.config),
        Verb::Wait(wait) => (wait.server, AppCheckArgs::default(), wait.volume.config),
        Verb::Health(_) | Verb::Status(_) | Verb::Install(_) => return None,
    };
    // That volseed may run as another user, whose file we may not read.
    let file = ConfigFile::read(file.as_deref()).unwrap_or_default();
    Some(config::health(asked, &server, &check, &file))
}
