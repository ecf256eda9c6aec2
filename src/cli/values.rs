//! The types that option values are parsed into, once: what has such a type is valid.
//!
//! The command line, the environment and the configuration file all go through these.

pub(super) mod amounts;
pub(crate) mod chmod;
pub(crate) mod exclude;

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use glob::Pattern;
use nix::sys::signal::Signal;
use tracing::Level;

use crate::system::signals::names;
pub(crate) use chmod::ModeChange;
pub(crate) use exclude::{Exclude, Reached};

/// A size in bytes: `64MiB`, `1G`, `1048576`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        amounts::size(text).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Number of parallel writers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Workers {
    /// By the kind of the volume's file system.
    #[default]
    Auto,
    /// 1 to 1024.
    Count(usize),
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Workers, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Workers::Auto),
            Ok(count @ 1..=1024) => Ok(Workers::Count(count)),
            _ => Err("expected a number from 1 to 1024, or auto".into()),
        }
    }
}

/// How replicas agree who seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LockMode {
    /// By the file system: its lock where all replicas see it, and heartbeats.
    Auto,
    /// By heartbeats alone.
    Lease,
    /// Not at all: there is no other replica.
    None,
}

/// The version of a seed: 1 to 128 characters, none of which is a control character.
pub(super) fn seed_version(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.chars().count() <= 128 && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("expected 1 to 128 printable characters".into()) }
}

/// What happens to files that are already on an unseeded volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Existing {
    /// They stay; the seed's are left out.
    #[default]
    Keep,
    /// The seed's replace them.
    Overwrite,
    /// The volume is refused unless it is empty.
    Fail,
}

/// What happens to a volume that was seeded before volseed, and lacks something of the seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Adopt {
    /// It is adopted, with a warning.
    #[default]
    AsIs,
    /// What it lacks is put there first.
    Complete,
    /// It is refused.
    Refuse,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged: why volseed ends, what needs a look, phases and the report, every entry.
pub(crate) fn log_levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["error", "warn", "info", "debug"])
        .map(|word| word.parse::<Level>().expect("it is one of them"))
}

/// Whether progress is shown as a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ShowProgress {
    /// On a terminal.
    Auto,
    /// Never.
    None,
}

/// Who gets a signal that is passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SignalScope {
    /// The app's process group.
    #[default]
    Group,
    /// The app's main process alone.
    Child,
}

/// The word for a value of an option that has a list of them.
pub(crate) fn word(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|word| word.get_name().to_owned()).unwrap_or_default()
}

/// The value that a word stands for.
pub(crate) fn value<V: clap::ValueEnum>(word: &str) -> Option<V> {
    V::from_str(word, false).ok()
}

/// A signal that asks an app to end: `QUIT`, `SIGRTMIN+3`.
pub(super) fn stop_signal(text: &str) -> Result<u8, String> {
    passed_on(names::number(text)?)
}

/// A number that becomes another one: `15:3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    from: u8,
    to: u8,
}

impl Mapping {
    /// What becomes of `number`: the first that fits says it.
    pub(crate) fn apply(all: &[Mapping], number: u8) -> u8 {
        all.iter().find(|mapping| mapping.from == number).map_or(number, |mapping| mapping.to)
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.from, self.to)
    }
}

/// A signal that is passed on as another one: `TERM:QUIT`; as 0 it is dropped.
pub(crate) fn rewrite(text: &str) -> Result<Mapping, String> {
    let (from, to) = text.split_once(':').ok_or("expected FROM:TO, such as TERM:QUIT or HUP:0")?;
    let to = if to == "0" { 0 } else { names::number(to)? };
    Ok(Mapping { from: passed_on(names::number(from)?)?, to })
}

/// A signal that a supervisor passes on. signal(7): two cannot be caught; a child's end is for its parent.
fn passed_on(number: u8) -> Result<u8, String> {
    let never = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGCHLD];
    match never.into_iter().find(|signal| *signal as u8 == number) {
        Some(signal) => Err(format!("{signal} is never passed on")),
        None => Ok(number),
    }
}

/// An exit code of the app's, or 128 and the number of the signal that ended it, that becomes another one: `143:0`.
pub(crate) fn exit_map(text: &str) -> Result<Mapping, String> {
    let expected = "expected FROM:TO, two numbers from 0 to 255 such as 143:0";
    let (from, to) = text.split_once(':').ok_or(expected)?;
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) => Ok(Mapping { from, to }),
        _ => Err(expected.into()),
    }
}

/// A span of time: `90s`, `2m`, `1h 30m`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span = amounts::time(text)?;
    if span.is_zero() { Err("expected a time greater than zero".into()) } else { Ok(span) }
}

/// Where the health server listens: `:80`, `127.0.0.1:8080`, `[::1]:80`, `/run/volseed.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A port on one address, or on every one of its family.
    Tcp(SocketAddr),
    /// A port on every address: of IPv4, and of IPv6 where there is any.
    Port(u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Address::Unix(path.into()));
        }
        let address = match text.strip_prefix(':') {
            Some(port) => port.parse().map(Address::Port).ok(),
            None => text.parse().map(Address::Tcp).ok(),
        };
        address.ok_or_else(|| {
            "expected an address such as :80, 127.0.0.1:8080, [::]:80 or /run/volseed.sock".into()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Port(port) => write!(f, ":{port}"),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The mode of a Unix socket's file, in octal: `0660`.
pub(super) fn socket_mode(text: &str) -> Result<u32, String> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) if digits => Ok(mode),
        _ => Err("expected a mode in octal such as 0660".into()),
    }
}

/// How a listening socket is handed to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PassSocket {
    /// `LISTEN_FDS` and `LISTEN_PID`, as systemd does (sd_listen_fds(3)).
    ListenFds,
    /// `NGINX`, as an nginx hands them to its successor.
    Nginx,
    /// `FPM_SOCKETS`, as a php-fpm hands them to its successor.
    PhpFpm,
}

/// A path that the health server answers: `/livez`.
pub(super) fn probe_path(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
    if text.starts_with('/') && plain {
        Ok(text.into())
    } else {
        Err("expected a path such as /livez".into())
    }
}

/// An HTTP status code, 200 to 599.
pub(super) fn http_status(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(code @ 200..=599) => Ok(code),
        _ => Err("expected an HTTP status from 200 to 599".into()),
    }
}

/// The machine itself, by whichever of its two addresses.
pub(crate) const LOCALHOST: &str = "localhost";

/// How `volseed health` asks the app once volseed has handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AppCheck {
    /// The URL answers with a status below 400.
    Http {
        /// Host to connect to, by name or number; IPv6 in brackets.
        host: String,
        /// Its port.
        port: u16,
        /// Path and query to ask for.
        path: String,
    },
    /// The port accepts a connection.
    Tcp {
        /// Host to connect to, by name or number; IPv6 in brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The app is not asked: that it runs is enough.
    None,
}

impl FromStr for AppCheck {
    type Err = String;

    fn from_str(text: &str) -> Result<AppCheck, String> {
        let wrong = || "expected http://HOST[:PORT]/PATH, tcp:PORT, tcp:HOST:PORT or none".to_string();
        if text == "none" {
            return Ok(AppCheck::None);
        }
        if let Some(place) = text.strip_prefix("tcp:") {
            let (host, port) = place.rsplit_once(':').unwrap_or((LOCALHOST, place));
            let port = port.parse().ok().filter(|port| *port > 0);
            return match port {
                Some(port) if is_host(host) => Ok(AppCheck::Tcp { host: host.into(), port }),
                _ => Err(wrong()),
            };
        }
        let uri: hyper::Uri = text.parse().map_err(|_| wrong())?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => Ok(AppCheck::Http {
                host: host.into(),
                port: uri.port_u16().unwrap_or(80),
                path: uri.path_and_query().map_or("/", |path| path.as_str()).into(),
            }),
            _ => Err(wrong()),
        }
    }
}

/// A name, an IPv4 address, or an IPv6 one in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            !text.is_empty() && text.bytes().all(named)
        }
    }
}

/// Commands that a volume is seeded for: shell patterns on the command's name or path.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    patterns: Vec<Pattern>,
}

impl FromStr for Commands {
    type Err = String;

    fn from_str(text: &str) -> Result<Commands, String> {
        let patterns = text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        let patterns: Result<Vec<Pattern>, _> = patterns.map(Pattern::new).collect();
        match patterns {
            Ok(patterns) if patterns.is_empty() => Err("expected patterns such as apache2*,php-fpm".into()),
            Ok(patterns) => Ok(Commands { patterns }),
            Err(error) => Err(format!("{} at position {}", error.msg, error.pos + 1)),
        }
    }
}

impl Commands {
    /// Whether `command`, as it was given or by its last component, matches any pattern.
    pub(crate) fn matches(&self, command: &std::ffi::OsStr) -> bool {
        let path = std::path::Path::new(command);
        let name = path.file_name().unwrap_or_default();
        let matches = |text: &std::ffi::OsStr| {
            let text = text.to_string_lossy();
            self.patterns.iter().any(|pattern| pattern.matches(&text))
        };
        matches(command) || matches(name)
    }
}

/// Versions of a volume that an image upgrades: a shell pattern on the version's text, or `none` for one that is not
/// known.
#[derive(Debug, Clone)]
pub(crate) struct VersionPattern(Option<Pattern>);

impl FromStr for VersionPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<VersionPattern, String> {
        match text.trim() {
            "" => Err("expected versions such as 28.*,29.*,none".into()),
            "none" => Ok(VersionPattern(None)),
            text => Pattern::new(text)
                .map(|pattern| VersionPattern(Some(pattern)))
                .map_err(|error| format!("{} at position {}", error.msg, error.pos + 1)),
        }
    }
}

impl VersionPattern {
    /// Whether a volume at this version, or at none that is known, is one of these.
    pub(crate) fn matches(&self, version: Option<&str>) -> bool {
        match (&self.0, version) {
            (Some(pattern), Some(version)) => pattern.matches(version),
            (None, None) => true,
            _ => false,
        }
    }
}

impl std::fmt::Display for VersionPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_ref().map_or("none", Pattern::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_match_by_path_or_name() {
        let commands: Commands = "apache2*, php-fpm".parse().unwrap();
        for (command, matches) in
            [("apache2-foreground", true), ("/usr/sbin/apache2", true), ("php-fpm", true), ("bash", false)]
        {
            assert_eq!(commands.matches(command.as_ref()), matches, "{command}");
        }
    }

    #[test]
    fn addresses() {
        for text in [":80", "127.0.0.1:0", "[::1]:8080", "/run/volseed.sock", "unix:/run/x"] {
            assert!(text.parse::<Address>().is_ok(), "{text}");
        }
        for text in ["80", "localhost:80", ":99999", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn modes_of_sockets() {
        for (text, mode) in [("0660", 0o660), ("777", 0o777)] {
            assert_eq!(socket_mode(text), Ok(mode));
        }
        for text in ["", "8", "0o660", "1777", "rw", "-660", "+660"] {
            assert!(socket_mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_are_rewritten_by_name_or_number() {
        assert_eq!(rewrite("TERM:QUIT"), Ok(Mapping { from: 15, to: 3 }));
        assert_eq!(rewrite("SIGHUP:0"), Ok(Mapping { from: 1, to: 0 }));
        assert_eq!(rewrite("37:RTMIN+4"), Ok(Mapping { from: 37, to: 38 }));
        for text in ["TERM", "TERM:", "0:TERM", "KILL:TERM", "CHLD:0", "TERM:65", "TERM:QUIT:HUP"] {
            assert!(rewrite(text).is_err(), "{text}");
        }
        for text in ["143", "143:256", "-1:0", "a:0", "1:2:3"] {
            assert!(exit_map(text).is_err(), "{text}");
        }
    }

    #[test]
    fn app_checks() {
        for (text, host) in
            [("tcp:80", "localhost"), ("tcp:db.test:80", "db.test"), ("tcp:[::1]:80", "[::1]")]
        {
            assert_eq!(text.parse(), Ok(AppCheck::Tcp { host: host.into(), port: 80 }));
        }
        let http = AppCheck::Http { host: "127.0.0.1".into(), port: 80, path: "/health?x=1".into() };
        assert_eq!("http://127.0.0.1/health?x=1".parse(), Ok(http));
        for text in
            ["https://x/", "tcp:0", "tcp:x", "tcp::80", "tcp:::1:80", "tcp:a b:80", "/livez", "http://"]
        {
            assert!(text.parse::<AppCheck>().is_err(), "{text}");
        }
    }
}
