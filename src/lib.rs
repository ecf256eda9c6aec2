//! volseed seeds a container's persistent volume before its app starts.
//!
//! - [`cli`]: what was asked for, resolved once.
//! - [`run`]: order, waiting and report; its `protocol` is the place to begin to read.
//! - [`doctor`]: what a volume keeps, before it is seeded.
//! - [`claims`]: which replica seeds.
//! - [`seed`]: source, stage, publishing.
//! - [`volume`]: what is on the volume, the records among it.
//! - [`health`] and [`log`]: who is told, out of [`progress`].
//! - [`handover`]: the app, and the supervisor beside it.
//! - [`system`]: what the kernel and the container say.
//!
//! Who may know whom is in `ARCHITECTURE.md`.

mod cancel;
mod claims;
pub mod cli;
mod doctor;
mod error;
pub mod exit;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod handover;
mod health;
mod log;
mod progress;
mod run;
mod seed;
mod system;
mod text;
mod volume;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::exit;

use crate::cli::HealthArgs;
use crate::cli::command::{Command, DoctorOptions, Request, VerifyOptions, health_of};
use crate::cli::config::{AppConfig, Config, HealthConfig, VolumeConfig};
use crate::cli::environment::{self, Environment};
use crate::cli::install;
use crate::doctor::Examined;
use crate::doctor::helper::{self, Question};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::handover::supervise::{self, Plan, Role, watch};
use crate::log::Console;
use crate::run::acquire::Mode;
use crate::run::control::{self, RunOutcome};
use crate::run::{plan, status, verify};
use crate::system::signals::{self, Signals};

/// Where `volseed health` finds the app's check when the app runs.
const APP_CHECK: &str = "VOLSEED_APP_CHECK";

/// Ends the process after an allocation that failed. Allocates nothing.
pub fn end_without_memory() -> ! {
    log::print_without_memory();
    exit(Exit::System.code().into())
}

/// The process from its first line to its last: signal handlers, then what the command line asks for. Or, where
/// volseed executed itself as a supervisor, that and nothing else. Has the only `exit`.
pub fn main() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        log::print_panic(panic);
        exit(Exit::Bug.code().into());
    }));
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(question) = Question::parse(&args) {
        exit(helper::answer(question).code().into());
    }
    if let Some(plan) = Plan::parse(&args) {
        exit(watch(&plan).code().into());
    }
    let signals = Signals::install();
    let environment = environment::capture();
    let ended = match &signals {
        Ok(signals) => run(args, environment, signals),
        Err(error) => {
            log::print_error(error, log::early_format(&args));
            error.exit_code()
        }
    };
    exit(ended.code().into());
}

/// Does not return where volseed becomes the app.
fn run(args: Vec<OsString>, environment: Environment, signals: &Signals) -> Exit {
    let early = log::early_format(&args);
    let request = match environment::check(&environment).and_then(|()| Request::read(args)) {
        Ok(request) => request,
        Err(error) => {
            log::print_error(&error, early);
            return error.exit_code();
        }
    };
    let console = Console::start(request.log(early));
    environment::warn_of_unknown(&environment);
    let ended = request.resolve().and_then(|command| act(command, environment, signals, &console));
    let exit = ended.unwrap_or_else(|error| {
        console.error(&error);
        error.exit_code()
    });
    console.catch_up();
    exit
}

fn act(command: Command, environment: Environment, signals: &Signals, console: &Console) -> Result<Exit> {
    match command {
        Command::Run { app, seed, only_waits, is_check_hidden } => {
            if is_check_hidden && environment.value(APP_CHECK).is_none() {
                // There is no volseed any more whose flags could be read.
                tracing::warn!(
                    "--app-check is not known to volseed health after the hand-over: set {APP_CHECK} with ENV"
                );
            }
            let mode = if only_waits { Mode::Wait } else { Mode::Seed };
            run_app(&app, seed.map(|seed| (mode, seed)), environment, signals, console)
        }
        Command::Seed(config) => complete(Mode::Seed, config, signals, console),
        Command::Wait(config) => complete(Mode::Wait, config, signals, console),
        Command::Repair(config) => complete(Mode::Repair, config, signals, console),
        Command::Health(config, args) => health(&config, &args),
        Command::Status(volumes, json) => status(&volumes, json),
        Command::Verify(volumes, options) => verify(&volumes, options),
        Command::Plan(volumes, json) => plan(&volumes, json),
        Command::Doctor(volumes, options) => doctor(volumes, options, signals),
        Command::Install(directory) => print(&format!("{}\n", install::install(&directory)?.display())),
        Command::Print(page) => print(&page),
    }
}

fn run_app(
    app: &AppConfig,
    seed: Option<(Mode, Config)>,
    environment: Environment,
    signals: &Signals,
    console: &Console,
) -> Result<Exit> {
    let lifeline = if app.args.supervise {
        match supervise::split(&app.args.supervision, &app.args.command, console.config)? {
            Role::App(lifeline) => Some(lifeline),
            Role::Over(exit) => return Ok(exit),
        }
    } else {
        signals::ignore_app_signals();
        None
    };
    let kept = match seed {
        Some((mode, config)) => {
            match control::run(mode, config, app.args.pass_socket.is_some(), signals, console)? {
                RunOutcome::Complete(kept) => kept,
                RunOutcome::Stopped(signal) => return Ok(Exit::Signal(signal)),
            }
        }
        None => {
            let command: Vec<_> = app.programs.iter().map(|program| program.to_string_lossy()).collect();
            let command = command.join(", ");
            if !app.is_own {
                tracing::info!(command, "not seeding: --only-for names none of what this command starts");
            }
            None
        }
    };
    let mut listening = Vec::new();
    if let Some(kept) = kept {
        listening = kept.listening;
        if let Some(lifeline) = lifeline.as_ref().filter(|_| !kept.admin.is_empty()) {
            let sockets: Vec<i32> = kept.admin.iter().map(|socket| socket.fd.as_raw_fd()).collect();
            supervise::beside(lifeline, &sockets, app.user.as_ref(), || {
                health::admin::run(kept.admin, kept.seeding, app.check.app_check.clone())
            })?;
        }
    }
    let never = handover::become_app(app, environment, listening, signals, lifeline.as_ref())?;
    match never {}
}

fn complete(mode: Mode, config: Config, signals: &Signals, console: &Console) -> Result<Exit> {
    match control::run(mode, config, false, signals, console)? {
        RunOutcome::Complete(_) => Ok(Exit::Success),
        RunOutcome::Stopped(signal) => Ok(Exit::Signal(signal)),
    }
}

fn health(config: &HealthConfig, args: &HealthArgs) -> Result<Exit> {
    let verdict = health::runtime()?.block_on(health::client::ask(config, &|line| health_of(line, args)));
    // What answered may be another program that says that it is us.
    print(&format!("{}\n", text::shown(verdict.as_ref().unwrap_or_else(|line| line).as_bytes())))?;
    Ok(verdict.map_or(Exit::Unhealthy, |_| Exit::Success))
}

fn status(volumes: &[VolumeConfig], json: bool) -> Result<Exit> {
    let statuses = volumes.iter().map(status::status).collect::<Result<Vec<_>>>()?;
    if !json {
        return print(&status::text(&statuses));
    }
    let json = serde_json::to_string_pretty(&statuses).expect("a status has string keys only");
    print(&json.lines().map(|line| format!("{}\n", text::json_line(line))).collect::<String>())
}

fn verify(volumes: &[VolumeConfig], options: VerifyOptions) -> Result<Exit> {
    let verified = volumes.iter().map(|volume| verify::verify(volume, options.digest));
    let verified = verified.collect::<Result<Vec<_>>>()?;
    let is_as_seeded = verified.iter().all(verify::Verified::is_as_seeded);
    print(
        &verified.iter().map(|one| if options.json { one.json() } else { one.text() }).collect::<String>(),
    )?;
    Ok(if is_as_seeded { Exit::Success } else { Exit::Differs })
}

fn plan(volumes: &[VolumeConfig], json: bool) -> Result<Exit> {
    let planned = volumes.iter().map(plan::plan).collect::<Result<Vec<_>>>()?;
    print(&planned.iter().map(|one| if json { one.json() } else { one.text() }).collect::<String>())?;
    let exits: Vec<Exit> = planned.iter().map(plan::Planned::exit).collect();
    let first = [Exit::Refused, Exit::Differs].into_iter().find(|exit| exits.contains(exit));
    Ok(first.unwrap_or(Exit::Success))
}

fn doctor(volumes: Vec<VolumeConfig>, options: DoctorOptions, signals: &Signals) -> Result<Exit> {
    let mut exit = Exit::Success;
    for volume in volumes {
        let report = match doctor::examine(volume, options.peer, signals)? {
            Examined::Found(report) => report,
            Examined::Stopped(signal) => return Ok(Exit::Signal(signal)),
        };
        print(&if options.json { report.json() } else { report.text() })?;
        if report.exit() != Exit::Success {
            exit = report.exit();
        }
    }
    Ok(exit)
}

fn print(text: &str) -> Result<Exit> {
    match io::stdout().write_all(text.as_bytes()) {
        // Nobody reads any more: `volseed --help | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let cause = error::lowercase_first(&error.to_string());
            Err(Error::new(Exit::Io, "write standard output", cause))
        }
        _ => Ok(Exit::Success),
    }
}
