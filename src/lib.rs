//! volseed seeds a container's persistent volume before its app starts.
//!
//! - [`cli`]: what was asked for, resolved once.
//! - [`run`]: order, waiting and report; its `protocol` is the place to begin to read.
//! - [`claims`]: which replica seeds.
//! - [`seed`]: source, stage, publishing.
//! - [`volume`]: what is on the volume, the records among it.
//! - [`health`] and [`log`]: who is told, out of [`progress`].
//! - [`handover`]: the app, and the supervisor beside it.
//! - [`system`]: what the kernel and the container say.
//!
//! Who may know whom is in `ARCHITECTURE.md`.

pub mod cancel;
pub mod claims;
pub mod cli;
pub mod error;
pub mod exit;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod handover;
pub mod health;
pub mod log;
pub mod progress;
pub mod run;
pub mod seed;
pub mod system;
pub mod volume;

use crate::cli::config;
use crate::cli::environment;
use crate::cli::install;
use crate::run::control;
use crate::run::status;
use crate::system::signals;
use crate::system::text;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsRawFd;

use crate::cli::config::{Config, File};
use crate::cli::environment::Environment;
use crate::cli::{AppCheckArgs, Asked, CopyArgs, HealthArgs, LogArgs, RunArgs, StatusArgs, Verb, VolumeArgs};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::handover::supervise;
use crate::handover::supervise::Role;
use crate::log::{Console, print_error};
use crate::run::acquire::Mode;
use crate::run::control::{Ending, Kept};
use crate::system::signals::Signals;

/// Where `volseed health` finds the app's check when the app runs.
const APP_CHECK: &str = "VOLSEED_APP_CHECK";

/// Runs volseed with the command line `args`, and returns the code to exit with. Does not return
/// where volseed becomes the app.
pub fn run(args: Vec<OsString>, environment: Environment, signals: &Signals) -> u8 {
    let format = log::early_format(&args);
    let result = match check(&environment).and_then(|()| cli::parse(args)) {
        Ok(Asked::Page(page)) => print(&page),
        Ok(Asked::Verb(verb)) => act(*verb, environment, signals),
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| {
        print_error(&error, format);
        error.exit_code().code()
    })
}

/// Values that no parser would name the trouble of.
fn check(environment: &Environment) -> Result<()> {
    let Some((name, what)) = environment::ragged(environment, &cli::environment()) else { return Ok(()) };
    let help = "take it out of the file or the manifest that the variable comes from; of a file with the line ends of Windows, dos2unix does";
    Err(Error::new(Exit::Usage, format!("variable {name}"), format!("its value has {what}")).help(help))
}

fn act(verb: Verb, environment: Environment, signals: &Signals) -> Result<u8> {
    match verb {
        Verb::Run(args) => run_app(*args, environment, signals),
        Verb::Seed(args) => {
            let file = File::read(args.volume.config.as_deref())?;
            let console = start_log(&args.log, &file, &environment);
            let volumes = config::volumes(&args.volume, Some(&args.copy), &file);
            let server = config::server(&args.server, &[], &file);
            finish(&console, tell(Mode::Seed, config(volumes, server), signals, &console))
        }
        Verb::Wait(args) => {
            let file = File::read(args.volume.config.as_deref())?;
            let console = start_log(&args.log, &file, &environment);
            let volumes = config::volumes(&args.volume, None, &file);
            let server = config::server(&args.server, &[], &file);
            finish(&console, tell(Mode::Wait, config(volumes, server), signals, &console))
        }
        Verb::Health(args) => health(&args),
        Verb::Status(args) => status(&args),
        Verb::Install(args) => {
            let installed = install::install(&args.directory)?;
            print(&format!("{}\n", installed.display()))
        }
    }
}

fn run_app(args: RunArgs, environment: Environment, signals: &Signals) -> Result<u8> {
    let RunArgs { volume, copy, server, check, app, log } = args;
    let file = File::read(volume.config.as_deref())?;
    let console = start_log(&log, &file, &environment);
    let become_app = || -> Result<u8> {
        let flag = check.app_check.is_some() && check.admin.is_empty();
        if flag && !environment.variables.iter().any(|(name, _)| name == APP_CHECK) {
            // There is no volseed any more whose flags could be read.
            tracing::warn!(
                "--app-check is not known to volseed health after the hand-over: set {APP_CHECK} with ENV"
            );
        }
        let app = config::app(&app, &check, &file)?;
        let lifeline = match &app.supervise {
            None => {
                signals::ignore_the_app_s();
                None
            }
            Some(how) => match supervise::split(how, &app.command, config::log(&log, &file))? {
                Role::App(lifeline) => Some(lifeline),
                Role::Over(code) => return Ok(code),
            },
        };
        let mut kept = Kept::default();
        if !app.seeds {
            let command: Vec<_> = app.programs.iter().map(|program| program.to_string_lossy()).collect();
            tracing::info!(
                command = command.join(", "),
                "not seeding: --only-for names none of what this command starts"
            );
        }
        if app.seeds {
            let server = config::server(&server, &app.admin, &file);
            let config = config(seed_config(&volume, &copy, &file), server);
            match control::run(Mode::Seed, config?, app.pass_socket.is_some(), signals, &console)? {
                Ending::Complete(left) => kept = left,
                Ending::Stopped(signal) => return Ok(Exit::Signal(signal).code()),
            }
        }
        if let (Some(lifeline), Some(site), false) = (&lifeline, kept.site, kept.admin.is_empty()) {
            let (sockets, check) = (kept.admin, app.check.clone());
            let files: Vec<i32> = sockets.iter().map(|socket| socket.fd.as_raw_fd()).collect();
            supervise::beside(lifeline, &files, app.user.as_ref(), || {
                health::admin::run(sockets, site, check)
            })?;
        }
        let sockets = kept.listening.into_iter().map(|socket| (socket.address, socket.fd)).collect();
        let never = handover::become_app(&app, environment, sockets, signals, lifeline.as_ref())?;
        match never {}
    };
    finish(&console, become_app())
}

fn seed_config(volume: &VolumeArgs, copy: &CopyArgs, file: &File) -> Result<Vec<config::VolumeConfig>> {
    config::volumes(volume, Some(copy), file)
}

fn config(
    volumes: Result<Vec<config::VolumeConfig>>,
    server: Result<Option<config::ServerConfig>>,
) -> Result<Config> {
    Ok(Config { volumes: volumes?, server: server? })
}

fn tell(mode: Mode, config: Result<Config>, signals: &Signals, console: &Console) -> Result<u8> {
    match control::run(mode, config?, false, signals, console)? {
        Ending::Complete(_) => Ok(0),
        Ending::Stopped(signal) => Ok(Exit::Signal(signal).code()),
    }
}

fn health(args: &HealthArgs) -> Result<u8> {
    let file = File::read(args.config.as_deref())?;
    let config = config::health(args, &args.server, &args.app, &file);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::os("start", "runtime", error).exit(Exit::System))?;
    let verdict = runtime.block_on(health::client::ask(&config, &|line| asked_by(args, line)));
    // What answered may be another program that says that it is us.
    print(&format!("{}\n", text::shown(verdict.line.as_bytes())))?;
    Ok(u8::from(!verdict.healthy))
}

/// The question for the volseed that has this command line, where it is one that seeds or waits.
fn asked_by(question: &HealthArgs, line: &[OsString]) -> Option<config::HealthConfig> {
    let Ok(Asked::Verb(verb)) = cli::parse(line.to_vec()) else { return None };
    let (server, check, file) = match *verb {
        Verb::Run(run) => (run.server, run.check, run.volume.config),
        Verb::Seed(seed) => (seed.server, AppCheckArgs::default(), seed.volume.config),
        Verb::Wait(wait) => (wait.server, AppCheckArgs::default(), wait.volume.config),
        Verb::Health(_) | Verb::Status(_) | Verb::Install(_) => return None,
    };
    // Its own file may be another's to read.
    let file = File::read(file.as_deref()).unwrap_or_default();
    Some(config::health(question, &server, &check, &file))
}

fn status(args: &StatusArgs) -> Result<u8> {
    let file = File::read(args.volume.config.as_deref())?;
    let volumes = config::volumes(&args.volume, None, &file)?;
    let statuses = volumes.iter().map(status::status).collect::<Result<Vec<_>>>()?;
    let text = if args.json {
        let json = serde_json::to_string_pretty(&statuses).expect("a status has string keys only");
        json.lines().map(|line| format!("{}\n", text::json_line(line))).collect()
    } else {
        status::text(&statuses)
    };
    print(&text)
}

fn start_log(args: &LogArgs, file: &File, environment: &Environment) -> Console {
    let console = Console::start(config::log(args, file));
    for (name, nearest) in environment::unknown(environment, &cli::environment()) {
        tracing::warn!(name, nearest, "unknown environment variable");
    }
    console
}

/// Says what went wrong in the log's format.
fn finish(console: &Console, result: Result<u8>) -> Result<u8> {
    let code = result.or_else(|error| {
        console.error(&error);
        Ok(error.exit_code().code())
    });
    console.catch_up();
    code
}

fn print(text: &str) -> Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Nobody reads any more: `volseed --help | head`.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let cause = error::lowercase_first(&error.to_string());
            Err(Error::new(Exit::Io, "write standard output", cause))
        }
        _ => Ok(0),
    }
}
