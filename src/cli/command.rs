//! From the words of the command line to a [`Command`] that is resolved completely: what is wrong with a
//! command is said before anything of it is done.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::FromArgMatches;
use clap::parser::ValueSource;

use super::config::{self, AppConfig, Config, HealthConfig, VolumeConfig};
use super::file::{File, is_given};
use super::values::{AppCheck, LogFormat, ShowProgress};
use super::{AppArgs, AppCheckArgs, Cli, HealthArgs, LogArgs, ServerArgs, Verb, usage, usage_error, words};
use crate::error::Result;

/// Options that say something of one volume only.
const OF_ONE_VOLUME: [&str; 4] = ["to", "from", "sentinel", "state_dir"];

/// What volseed does now.
#[derive(Debug)]
pub(crate) enum Command {
    /// Seed the volumes that the app wants seeded, and become the app.
    Run {
        /// The app.
        app: Box<AppConfig>,
        /// Its volumes; none where `--only-for` names another app.
        seed: Option<Config>,
        /// Whether their seed is left to other replicas.
        only_waits: bool,
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
    /// Put back what is missing on the volumes.
    Repair(Config),
    /// Print what a start would do with the volumes, as JSON or for people.
    Plan(Vec<VolumeConfig>, bool),
    /// Look at what a volume keeps.
    Doctor(Vec<VolumeConfig>, DoctorOptions),
    /// Compare the volumes with their manifests.
    Verify(Vec<VolumeConfig>, VerifyOptions),
    /// Copy this binary to a directory.
    Install(PathBuf),
    /// Print a page.
    Print(String),
}

/// How volumes are compared with their manifests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VerifyOptions {
    /// The data of every file is read.
    pub digest: bool,
    /// For machines.
    pub json: bool,
}

/// How volumes are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DoctorOptions {
    /// Together with another doctor.
    pub peer: bool,
    /// For machines.
    pub json: bool,
}

/// The command line, parsed over the environment and the configuration file.
#[derive(Debug)]
pub(crate) enum Request {
    /// Help or version.
    Page(String),
    /// A command.
    Verb(Box<Parsed>),
}

/// A command as it is for each volume.
#[derive(Debug)]
pub(crate) struct Parsed {
    verb: Verb,
    /// Once for each `[[volume]]` table, with how an error names that.
    volumes: Vec<(Verb, String)>,
    is_check_hidden: bool,
}

impl Request {
    /// Parses the command line, and reads the file that it names. `args` begins with the program's name; without a
    /// command, it is `run`.
    ///
    /// # Errors
    /// Exit 64 or 66, with what is wrong and where to read on.
    pub(crate) fn read(args: Vec<OsString>) -> Result<Request> {
        Request::read_with(args, File::read)
    }

    fn read_with(
        args: Vec<OsString>,
        read: impl Fn(Option<&Path>) -> Result<Option<File>>,
    ) -> Result<Request> {
        let root = super::command();
        let args = words::with_command(args, &root)?;
        let parsed = |root: clap::Command| -> std::result::Result<_, clap::Error> {
            let matches = root.try_get_matches_from(&args)?;
            let verb = Cli::from_arg_matches(&matches)?.verb;
            Ok((matches, verb))
        };
        let (matches, verb) = match parsed(root.clone()) {
            Ok(parsed) => parsed,
            Err(error) if !error.use_stderr() => return Ok(Request::Page(error.to_string())),
            Err(error) => return Err(usage_error(&error)),
        };
        if let Some((app, _)) = app(&verb) {
            words::check(&args, &app.command, &root)?;
        }
        let (name, given) = matches.subcommand().expect("a command was parsed");
        let is_check_hidden = app(&verb).is_some_and(|(_, check)| check.admin.is_empty())
            && given.value_source("app_check") == Some(ValueSource::CommandLine);
        let file = match given.try_get_one::<PathBuf>("config") {
            Ok(named) => read(named.map(PathBuf::as_path))?,
            // It takes none.
            Err(_) => None,
        };
        let Some(file) = file else {
            return Ok(Request::Verb(Parsed { verb, volumes: Vec::new(), is_check_hidden }.into()));
        };
        if let Some(id) = OF_ONE_VOLUME.iter().find(|id| file.volumes() > 1 && is_given(given, id)) {
            let cause = format!(
                "--{} names one volume, but the configuration file has {}",
                id.replace('_', "-"),
                file.volumes()
            );
            return Err(usage(cause));
        }
        let with_file = |volume| {
            let root = root.clone().mut_subcommand(name, |verb| file.defaults(verb, given, volume));
            parsed(root).map(|(_, verb)| verb).map_err(|error| usage_error(&error))
        };
        let volumes = (0..file.volumes()).map(|number| Ok((with_file(Some(number))?, file.place(number))));
        let volumes = volumes.collect::<Result<Vec<_>>>()?;
        Ok(Request::Verb(Parsed { verb: with_file(None)?, volumes, is_check_hidden }.into()))
    }

    /// What is logged. A command that prints its result logs only errors, in the format `early`.
    pub(crate) fn log(&self, early: LogFormat) -> LogArgs {
        let args = match self {
            Request::Verb(parsed) => match &parsed.verb {
                Verb::Run(args) => Some(args.log),
                Verb::Seed(args) => Some(args.log),
                Verb::Wait(args) => Some(args.log),
                Verb::Repair(args) => Some(args.log),
                Verb::Status(_)
                | Verb::Verify(_)
                | Verb::Plan(_)
                | Verb::Doctor(_)
                | Verb::Health(_)
                | Verb::Install(_) => None,
            },
            Request::Page(_) => None,
        };
        let errors = LogArgs { format: early, level: tracing::Level::ERROR, progress: ShowProgress::None };
        args.unwrap_or(errors)
    }

    /// Resolves the command. Touches no volume and no source.
    ///
    /// # Errors
    /// Exit 64: what is missing, unknown or contradicts itself.
    pub(crate) fn resolve(self) -> Result<Command> {
        let parsed = match self {
            Request::Page(page) => return Ok(Command::Print(page)),
            Request::Verb(parsed) => *parsed,
        };
        let volumes = |verb: &Verb| parsed.volumes(verb);
        Ok(match &parsed.verb {
            Verb::Run(args) => parsed.resolve_run(&args.app, &args.check, &args.server)?,
            Verb::Wait(args) if !args.app.command.is_empty() => {
                parsed.resolve_run(&args.app, &args.check, &args.server)?
            }
            verb @ Verb::Seed(args) => {
                Command::Seed(Config { volumes: volumes(verb)?, server: config::server(&args.server, &[])? })
            }
            verb @ Verb::Wait(args) => {
                Command::Wait(Config { volumes: volumes(verb)?, server: config::server(&args.server, &[])? })
            }
            verb @ Verb::Status(args) => Command::Status(volumes(verb)?, args.json),
            verb @ Verb::Plan(args) => Command::Plan(volumes(verb)?, args.json),
            verb @ Verb::Doctor(args) => {
                Command::Doctor(volumes(verb)?, DoctorOptions { peer: args.peer, json: args.json })
            }
            verb @ Verb::Repair(_) => Command::Repair(Config { volumes: volumes(verb)?, server: None }),
            verb @ Verb::Verify(args) => {
                Command::Verify(volumes(verb)?, VerifyOptions { digest: args.digest, json: args.json })
            }
            Verb::Health(args) => {
                let config = config::health(args, &args.server, &args.app.admin, &args.app.app_check);
                Command::Health(config, Box::new(args.clone()))
            }
            Verb::Install(args) => Command::Install(args.directory.clone()),
        })
    }
}

impl Parsed {
    fn resolve_run(&self, app: &AppArgs, check: &AppCheckArgs, server: &ServerArgs) -> Result<Command> {
        let app = config::app(app, check)?;
        let config = || -> Result<Config> {
            Ok(Config {
                volumes: self.volumes(&self.verb)?,
                server: config::server(server, &app.check.admin)?,
            })
        };
        let seed = if app.seeds { Some(config()?) } else { None };
        let only_waits = matches!(self.verb, Verb::Wait(_));
        Ok(Command::Run { app: Box::new(app), seed, only_waits, is_check_hidden: self.is_check_hidden })
    }

    /// The volumes of the file's tables, or the one of the command line.
    fn volumes(&self, alone: &Verb) -> Result<Vec<VolumeConfig>> {
        let volume = |verb: &Verb| match verb {
            Verb::Run(args) => {
                config::seeded(&args.volume, &args.copy, &args.upgrade, args.app.user.as_ref())
            }
            Verb::Seed(args) => config::seeded(&args.volume, &args.copy, &args.upgrade, None),
            Verb::Plan(args) => config::seeded(&args.volume, &args.copy, &args.upgrade, None),
            Verb::Doctor(args) => config::examined(args),
            Verb::Wait(args) => config::awaited(args),
            Verb::Status(args) => config::volume(&args.volume, None),
            Verb::Verify(args) => config::volume(&args.volume, None),
            Verb::Repair(args) => config::repair(args),
            Verb::Health(_) | Verb::Install(_) => unreachable!("it has no volume"),
        };
        if self.volumes.is_empty() {
            return Ok(vec![volume(alone)?]);
        }
        let of_file = self.volumes.iter();
        let volumes = of_file.map(|(verb, place)| volume(verb).map_err(|error| error.within(place)));
        config::distinct(volumes.collect::<Result<_>>()?)
    }
}

/// The app that this command becomes, if it becomes one.
fn app(verb: &Verb) -> Option<(&AppArgs, &AppCheckArgs)> {
    match verb {
        Verb::Run(run) => Some((&run.app, &run.check)),
        Verb::Wait(wait) if !wait.app.command.is_empty() => Some((&wait.app, &wait.check)),
        _ => None,
    }
}

/// The question `asked`, put to the server of the volseed that has the command line `args`; none where that is
/// no volseed that seeds or waits.
pub(crate) fn health_of(args: &[OsString], asked: &HealthArgs) -> Option<HealthConfig> {
    // That volseed may run as another user, whose file we may not read.
    let read = |named: Option<&Path>| Ok(File::read(named).unwrap_or_default());
    let Ok(Request::Verb(parsed)) = Request::read_with(args.to_vec(), read) else { return None };
    let (server, admin, check) = match &parsed.verb {
        Verb::Run(run) => (&run.server, &run.check.admin[..], &run.check.app_check),
        Verb::Seed(seed) => (&seed.server, &[][..], &AppCheck::None),
        Verb::Wait(wait) => (&wait.server, &wait.check.admin[..], &wait.check.app_check),
        Verb::Health(_)
        | Verb::Status(_)
        | Verb::Verify(_)
        | Verb::Plan(_)
        | Verb::Doctor(_)
        | Verb::Repair(_)
        | Verb::Install(_) => {
            return None;
        }
    };
    Some(config::health(asked, server, admin, check))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::SeedArgs;
    use crate::cli::values::{Existing, Size};

    /// What `volseed seed` understands, with the first volume of the file.
    fn seed(flags: &[&str], file: &str) -> SeedArgs {
        let args = ["volseed", "seed"].iter().chain(flags).map(OsString::from).collect();
        let read = |_: Option<&Path>| File::parse(Path::new("volseed.toml"), file).map(Some);
        let Request::Verb(parsed) = Request::read_with(args, read).unwrap() else { panic!("a page") };
        let of_volume = parsed.volumes.into_iter().next().map(|(verb, _)| verb);
        let Verb::Seed(seed) = of_volume.unwrap_or(parsed.verb) else { panic!("another command") };
        *seed
    }

    /// The default, what the file says, and what a flag says although the file says something.
    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug>(
        of: fn(SeedArgs) -> T,
        file: &str,
        flags: &[&str],
        expected: [T; 3],
    ) {
        assert_eq!([of(seed(&[], "")), of(seed(&[], file)), of(seed(flags, file))], expected, "{file}");
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let volume = |key: &str| format!("[[volume]]\nto = \"/v\"\n{key}\n");
        check(
            |seed| seed.copy.memory,
            &volume("memory = \"8MiB\""),
            &["--memory=4MiB"],
            [64, 8, 4].map(|mib| Size(mib << 20)),
        );
        check(
            |seed| seed.copy.max_entries,
            &volume("max-entries = 7"),
            &["--max-entries=9"],
            [2_000_000, 7, 9],
        );
        check(
            |seed| seed.copy.existing,
            &volume("existing = \"fail\""),
            &["--existing", "overwrite"],
            [Existing::Keep, Existing::Fail, Existing::Overwrite],
        );
        check(
            |seed| seed.copy.no_times,
            &volume("no-times = true"),
            &["--no-times=false"],
            [false, true, false],
        );
        check(|seed| seed.server.stall.as_secs(), "stall = \"9s\"", &["--stall=1m"], [120, 9, 60]);
        check(
            |seed| seed.copy.from,
            &volume("from = \"/f\""),
            &["--from=/g"],
            [None, Some("/f".into()), Some("/g".into())],
        );
        let names =
            |seed: SeedArgs| seed.copy.exclude.iter().map(|it| it.as_str().to_owned()).collect::<Vec<_>>();
        let lists = [vec![], vec!["a,b".to_owned(), "c".to_owned()], vec!["d".to_owned(), "e".to_owned()]];
        check(names, &volume("exclude = [\"a,b\", \"c\"]"), &["--exclude=d,e"], lists);
        let paths = |seed: SeedArgs| seed.server.live_path.len();
        check(paths, "live-path = \"/alive\"", &["--live-path=/a,/b,/c"], [2, 1, 3]);
    }

    #[test]
    fn a_key_of_another_command_is_checked_and_left_out() {
        assert!(seed(&[], "grace = \"3s\"\nuser = \"0\"\n").volume.to.is_none());
        let file = File::parse(Path::new("volseed.toml"), "grace = \"soon\"\n");
        assert!(file.unwrap_err().to_string().contains("key 'grace'"));
    }
}
