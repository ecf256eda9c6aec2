//! The configuration file: TOML whose keys are the names of the options.
//!
//! It declares nothing: what a key may say is what its option takes on the command line, and what it says becomes
//! that option's default, so that flags and environment variables come before it. Errors name file, table and key.

use std::error::Error as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use toml::{Table, Value};

use super::{AppArgs, AppCheckArgs, CopyArgs, LogArgs, ServerArgs, VolumeArgs, is_switch, value_name, words};
use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;
use crate::system::files::read_text;

/// Where the file is when it is not named.
const DEFAULT: &str = "/etc/volseed.toml";
/// The largest file that is read, in bytes: a thousand volumes.
const MAX_BYTES: u64 = 1 << 20;

/// The file, every key of it checked.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    top: Vec<Setting>,
    volumes: Vec<Vec<Setting>>,
}

/// What a key says: the option, and its values as on the command line.
#[derive(Debug)]
struct Setting {
    option: String,
    /// As clap takes a default without a feature of 70 KiB: the file is read once in a process.
    values: Vec<&'static str>,
}

impl File {
    /// Reads the file named, or `/etc/volseed.toml` where there is one.
    ///
    /// # Errors
    /// Exit 64 with table and key, 66 where the file named is not there.
    pub(super) fn read(named: Option<&Path>) -> Result<Option<File>> {
        let path = named.unwrap_or(Path::new(DEFAULT));
        let text = match read_text(path, MAX_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(None),
            Err(error) => {
                let kind = error.kind();
                let failed = Error::os("read configuration", path, error);
                return Err(match kind {
                    ErrorKind::NotFound => failed.exit(Exit::Source),
                    ErrorKind::FileTooLarge | ErrorKind::InvalidData => failed.exit(Exit::Usage),
                    _ => failed,
                });
            }
        };
        File::parse(path, &text).map(Some)
    }

    /// # Errors
    /// Exit 64 with table and key.
    pub(super) fn parse(path: &Path, text: &str) -> Result<File> {
        let table: Table = toml::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error::new(Exit::Usage, format!("configuration {}, line {line}", path.quoted()), error.message())
        })?;
        let mut file = File { path: path.to_owned(), top: Vec::new(), volumes: Vec::new() };
        for (key, value) in &table {
            if key != "volume" {
                file.top.push(file.setting(&top_options(), "", key, value)?);
                continue;
            }
            let tables = value.as_array().and_then(|items| items.iter().map(Value::as_table).collect());
            let tables: Vec<&Table> =
                tables.ok_or_else(|| file.error("", key, "expected [[volume]] tables"))?;
            for (number, table) in tables.into_iter().enumerate() {
                let place = format!("[[volume]] {}, ", number + 1);
                let setting =
                    |(key, value): (&String, &Value)| file.setting(&volume_options(), &place, key, value);
                let settings = table.iter().map(setting).collect::<Result<_>>()?;
                file.volumes.push(settings);
            }
        }
        Ok(file)
    }

    /// How many `[[volume]]` tables it has.
    pub(super) fn volumes(&self) -> usize {
        self.volumes.len()
    }

    /// How an error names a volume of it, counted from 0.
    pub(super) fn place(&self, volume: usize) -> String {
        format!("configuration {}, [[volume]] {}", self.path.as_path().quoted(), volume + 1)
    }

    /// `command` with what the file says as defaults, for its top level and that volume. What was `given` otherwise
    /// is left as it is.
    pub(super) fn defaults(&self, command: Command, given: &ArgMatches, volume: Option<usize>) -> Command {
        let of_volume = volume.into_iter().flat_map(|number| &self.volumes[number]);
        self.top.iter().chain(of_volume).fold(command, |command, setting| {
            let option = command.get_arguments().find(|arg| arg.get_long() == Some(&setting.option));
            match option.map(|arg| arg.get_id().clone()) {
                Some(id) if !is_given(given, id.as_str()) => {
                    // Items of a list are not split again.
                    command
                        .mut_arg(id, |arg| arg.value_delimiter(None).default_values(setting.values.clone()))
                }
                // Another command's.
                _ => command,
            }
        })
    }

    fn setting(&self, options: &Command, place: &str, key: &str, value: &Value) -> Result<Setting> {
        let Some(option) = options.get_arguments().find(|arg| arg.get_long() == Some(key)) else {
            return Err(self.unknown(options, place, key));
        };
        let wrong = |cause: &str| self.error(place, key, cause);
        let values = values(option, value).map_err(wrong)?;
        let words = values.iter().map(|value| format!("--{key}={value}"));
        // One by one: an item may hold the comma that separates them on the command line.
        let one = options.clone().mut_arg(option.get_id(), |arg| arg.value_delimiter(None));
        one.no_binary_name(true).try_get_matches_from(words).map_err(|error| match error.source() {
            Some(cause) => wrong(&cause.to_string()),
            None => wrong(&expected(option)),
        })?;
        let values = values.into_iter().map(|value| &*value.leak()).collect();
        Ok(Setting { option: key.to_owned(), values })
    }

    fn unknown(&self, options: &Command, place: &str, key: &str) -> Error {
        let error = self.error(place, key, "unknown key");
        let (of_volume, of_top) = (volume_options(), top_options());
        let known = of_volume.get_arguments().chain(of_top.get_arguments()).filter_map(Arg::get_long);
        let Some(nearest) = words::nearest(key, known) else { return error };
        let is_here = options.get_arguments().any(|arg| arg.get_long() == Some(nearest));
        error.help(match (is_here, place.is_empty()) {
            (true, _) => format!("did you mean {nearest}?"),
            (false, true) => format!("{nearest} belongs in a [[volume]] table"),
            (false, false) => format!("{nearest} belongs above the [[volume]] tables"),
        })
    }

    fn error(&self, place: &str, key: &str, cause: &str) -> Error {
        Error::new(Exit::Usage, format!("configuration {}, {place}key '{key}'", self.path.quoted()), cause)
            .help("the keys are the names of the options: volseed run --help")
    }
}

/// Whether the command line or the environment says it.
pub(super) fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let source = matches.try_contains_id(id).unwrap_or(false).then(|| matches.value_source(id)).flatten();
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The options of a `[[volume]]` table.
fn volume_options() -> Command {
    without_environment(CopyArgs::augment_args(VolumeArgs::augment_args(Command::new("volume"))))
}

/// The options of the file's top level.
fn top_options() -> Command {
    let server = AppCheckArgs::augment_args(ServerArgs::augment_args(Command::new("file")));
    without_environment(LogArgs::augment_args(AppArgs::augment_args(server)))
}

fn without_environment(command: Command) -> Command {
    // The file's own name is nothing that it says.
    command.mut_args(|arg| match arg.get_long() {
        Some("config") | None => arg.long("").env(None::<&str>),
        Some(_) => arg.env(None::<&str>),
    })
}

/// The values of a key as they are written on the command line.
fn values(option: &Arg, value: &Value) -> std::result::Result<Vec<String>, &'static str> {
    let word = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        // A number may be meant as octal or as decimal.
        Value::Integer(_) if value_name(option) == Some("MODE") => Err("expected a string such as \"0644\""),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err("expected a string or a number"),
    };
    match value {
        Value::Boolean(value) if is_switch(option) => Ok(vec![value.to_string()]),
        _ if is_switch(option) => Err("expected true or false"),
        Value::Array(items) => {
            let items = items.iter().map(word).collect::<std::result::Result<Vec<_>, _>>()?;
            let is_list = matches!(option.get_action(), ArgAction::Append);
            Ok(if is_list { items } else { vec![items.join(",")] })
        }
        value => Ok(vec![word(value)?]),
    }
}

fn expected(option: &Arg) -> String {
    let words = option.get_possible_values();
    let words: Vec<&str> = words.iter().map(|value| value.get_name()).collect();
    match &words[..] {
        [first @ .., last] if !first.is_empty() => format!("expected {} or {last}", first.join(", ")),
        _ => "not a value of this option".to_owned(),
    }
}
