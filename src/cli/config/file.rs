//! The configuration file: TOML whose keys are the names of the options.
//!
//! Every value goes through the type of its option, so that the file can say no more and no less
//! than the command line. Errors name the table and the key.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::ConfigFile;
use crate::cli::{AppArgs, AppCheckArgs, CopyArgs, LogArgs, ServerArgs, VolumeArgs};
use crate::error::{Context, Error, Quoted, Result};
use crate::exit::Exit;

/// Where the file is when it is not named.
const DEFAULT: &str = "/etc/volseed.toml";

/// The largest file that is read, in bytes: a thousand volumes.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) fn read(named: Option<&Path>) -> Result<ConfigFile> {
    let path = named.unwrap_or(Path::new(DEFAULT));
    let text = match load(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
            return Ok(ConfigFile::default());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(error).context("read configuration", path).map_err(|error| error.exit(Exit::Source));
        }
        Err(error) => return Err(error).context("read configuration", path),
    };
    let reader = Reader { path };
    let table: Table = toml::from_str(&text).map_err(|error| reader.syntax(&text, &error))?;
    reader.file(&table)
}

fn load(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn file(&self, table: &Table) -> Result<ConfigFile> {
        let (mut server, mut app, mut log) = (ServerArgs::default(), AppArgs::default(), LogArgs::default());
        let mut app_check = AppCheckArgs::default();
        let mut volumes = Vec::new();
        for (key, value) in table {
            let at = Place { reader: self, table: String::new(), key };
            match key.as_str() {
                "volume" => volumes = self.volumes(value)?,
                "listen" => server.listen = at.list(value)?,
                "listen-mode" if value.is_integer() => {
                    return Err(at.error("expected a string in octal such as \"0660\"".into()));
                }
                "listen-mode" => server.listen_mode = Some(at.parse(value)?),
                "listen-owner" => server.listen_owner = Some(at.parse(value)?),
                "metrics-path" => server.metrics_path = Some(at.parse(value)?),
                "page" => server.page = Some(at.path(value)?),
                "pass-socket" => app.pass_socket = Some(at.parse(value)?),
                "live-path" => server.live_path = at.list(value)?,
                "ready-path" => server.ready_path = at.list(value)?,
                "started-path" => server.started_path = at.list(value)?,
                "seeding-status" => server.seeding_status = Some(at.parse(value)?),
                "stall" => server.stall = Some(at.parse(value)?),
                "admin" => app_check.admin = at.list(value)?,
                "app-check" => app_check.app_check = Some(at.parse(value)?),
                "user" => app.user = Some(at.parse(value)?),
                "only-for" => app.only_for = Some(at.parse(value)?),
                "supervise" => app.supervise = Some(at.flag(value)?),
                "stop-signal" => app.stop_signal = Some(at.parse(value)?),
                "grace" => app.grace = Some(at.parse(value)?),
                "signal-scope" => app.signal_scope = Some(at.parse(value)?),
                "rewrite" => app.rewrite = at.list(value)?,
                "exit-map" => app.exit_map = at.list(value)?,
                "log" => log.log = Some(at.parse(value)?),
                "log-level" => log.log_level = Some(at.parse(value)?),
                "progress" => log.progress = Some(at.parse(value)?),
                _ => return Err(at.error("unknown key".into())),
            }
        }
        Ok(ConfigFile { path: self.path.to_owned(), volumes, server, app_check, app, log })
    }

    fn volumes(&self, value: &Value) -> Result<Vec<(VolumeArgs, CopyArgs)>> {
        let at = Place { reader: self, table: String::new(), key: "volume" };
        let tables = value.as_array().ok_or_else(|| at.error("expected [[volume]] tables".into()))?;
        tables
            .iter()
            .enumerate()
            .map(|(index, table)| {
                let table = table.as_table().ok_or_else(|| at.error("expected [[volume]] tables".into()))?;
                self.volume(index + 1, table)
            })
            .collect()
    }

    fn volume(&self, number: usize, table: &Table) -> Result<(VolumeArgs, CopyArgs)> {
        let (mut volume, mut copy) = (VolumeArgs::default(), CopyArgs::default());
        for (key, value) in table {
            let at = Place { reader: self, table: format!("[[volume]] {number}, "), key };
            match key.as_str() {
                "to" => volume.to = Some(at.path(value)?),
                "state-dir" => volume.state_dir = Some(at.path(value)?),
                "sentinel" => volume.sentinel = Some(at.path(value)?),
                "seed-version" => volume.seed_version = Some(at.parse(value)?),
                "lock" => volume.lock = Some(at.parse(value)?),
                "wait-timeout" => volume.wait_timeout = Some(at.parse(value)?),
                "from" => copy.from = Some(at.path(value)?),
                "exclude" => copy.exclude = at.list(value)?,
                "existing" => copy.existing = Some(at.parse(value)?),
                "chown" => copy.chown = Some(at.parse(value)?),
                // A number of TOML may be meant as octal or as decimal.
                "chmod" if value.is_str() => copy.chmod = Some(at.parse(value)?),
                "chmod" => return Err(at.error("expected a string such as \"0644\" or \"g=u\"".into())),
                "no-times" => copy.no_times = Some(at.flag(value)?),
                "strict" => copy.strict = Some(at.flag(value)?),
                "workers" => copy.workers = Some(at.parse(value)?),
                "memory" => copy.memory = Some(at.parse(value)?),
                "max-entries" => copy.max_entries = Some(at.parse(value)?),
                _ => return Err(at.error("unknown key".into())),
            }
        }
        Ok((volume, copy))
    }

    fn syntax(&self, text: &str, error: &toml::de::Error) -> Error {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        Error::new(Exit::Usage, format!("configuration {}, line {line}", self.path.quoted()), error.message())
    }
}

/// Where in the file a value stands, for the message when it is wrong.
struct Place<'a> {
    reader: &'a Reader<'a>,
    table: String,
    key: &'a str,
}

impl Place<'_> {
    fn error(&self, cause: String) -> Error {
        Error::new(
            Exit::Usage,
            format!("configuration {}, {}key '{}'", self.reader.path.quoted(), self.table, self.key),
            cause,
        )
        .help("the keys are the names of the options: volseed run --help")
    }

    fn parse<T: FromStr>(&self, value: &Value) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Array(items) if items.iter().all(Value::is_str) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            }
            _ => return Err(self.error("expected a string or a number".into())),
        };
        text.parse().map_err(|cause: T::Err| self.error(cause.to_string()))
    }

    fn path(&self, value: &Value) -> Result<PathBuf> {
        self.parse(value)
    }

    fn flag(&self, value: &Value) -> Result<bool> {
        value.as_bool().ok_or_else(|| self.error("expected true or false".into()))
    }

    fn list<T: FromStr>(&self, value: &Value) -> Result<Vec<T>>
    where
        T::Err: std::fmt::Display,
    {
        let one = std::slice::from_ref(value);
        value.as_array().map_or(one, Vec::as_slice).iter().map(|item| self.parse(item)).collect()
    }
}
