//! The environment: kept as it was for the app, and readied for the command line's parser.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::words;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// What volseed was started with, for the app.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// Names and values, in their order.
    pub variables: Vec<(OsString, OsString)>,
    /// Entries without `=`: no shell makes one, and an app may still want it.
    bare: Vec<OsString>,
}

impl Environment {
    /// The value of a variable; its first, where it is there twice.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_os_str())
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.remove(name);
        self.variables.push((name.into(), value.into()));
    }

    /// Unsets a variable.
    pub(crate) fn remove(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    /// As execve(2) takes it.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Vec<u8>> {
        let variable =
            |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        self.variables.iter().map(variable).chain(self.bare.iter().map(|entry| entry.as_bytes().to_vec()))
    }
}

const PREFIX: &str = "VOLSEED_";

/// Takes the environment as it is, and then unsets what of ours is empty: `VOLSEED_WORKERS=` is what
/// a compose file makes of a variable that is not set.
///
/// To be called first in `main`, before there is a second thread.
pub(crate) fn capture() -> Environment {
    let environment = Environment { variables: std::env::vars_os().collect(), bare: bare() };
    for (name, value) in &environment.variables {
        if value.is_empty() && name.as_bytes().starts_with(PREFIX.as_bytes()) {
            // SAFETY: no other thread exists yet that could read the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
    environment
}

/// The entries that the standard library leaves out.
fn bare() -> Vec<OsString> {
    unsafe extern "C" {
        // environ(7)
        static environ: *const *const std::ffi::c_char;
    }
    let mut found = Vec::new();
    // SAFETY: nobody changes the environment yet; it is a list of strings that ends with a null pointer.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = std::ffi::CStr::from_ptr(*entry).to_bytes();
            if !text.contains(&b'=') {
                found.push(OsStr::from_bytes(text).to_owned());
            }
            entry = entry.add(1);
        }
    }
    found
}

/// Refuses a value of ours that ends in the carriage return of a file with Windows' line ends, or has blanks
/// around it: no parser would name them.
///
/// # Errors
/// Exit 64 with the variable's name.
pub(crate) fn check(environment: &Environment) -> Result<()> {
    let Some((name, what)) = ragged(environment, &super::environment()) else { return Ok(()) };
    let help = "take it out of the file or the manifest that the variable comes from; of a file with the line ends of Windows, dos2unix does";
    Err(Error::new(Exit::Usage, format!("variable {name}"), format!("its value has {what}")).help(help))
}

fn ragged(environment: &Environment, known: &[String]) -> Option<(String, &'static str)> {
    let variables = environment.variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value)));
    let mut ours = variables.filter(|(name, _)| known.iter().any(|known| known == name));
    ours.find_map(|(name, value)| {
        let is_blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
        let what = match value.as_bytes() {
            [.., b'\r'] => "a carriage return at its end",
            value if is_blank(value.first()) => "blanks at its beginning",
            value if is_blank(value.last()) => "blanks at its end",
            _ => return None,
        };
        Some((name.to_owned(), what))
    })
}

/// Warns of variables that look like ours and are not, each with the nearest that is.
pub(crate) fn warn_of_unknown(environment: &Environment) {
    for (name, nearest) in unknown(environment, &super::environment()) {
        tracing::warn!(name, nearest, "unknown environment variable");
    }
}

fn unknown(environment: &Environment, known: &[String]) -> Vec<(String, Option<String>)> {
    let names = environment.variables.iter().filter_map(|(name, _)| name.to_str());
    names
        .filter(|name| name.starts_with(PREFIX) && !known.iter().any(|known| known == name))
        .filter(|name| !is_of_a_service(name))
        .map(|name| (name.to_owned(), nearest(name, known).map(|name| format!("{PREFIX}{name}"))))
        .collect()
}

/// Kubernetes sets such variables for every service of the namespace, and one may be called volseed
/// (kubernetes.io, "Accessing the Service"; `VOLSEED_PORT` is Docker's link).
fn is_of_a_service(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_port = || {
        let (_, port) = name.rsplit_once("_PORT_")?;
        let (number, rest) = port.split_once('_')?;
        let (protocol, what) = rest.split_once('_').unwrap_or((rest, ""));
        let is_known =
            ["TCP", "UDP", "SCTP"].contains(&protocol) && ["", "PROTO", "PORT", "ADDR"].contains(&what);
        (is_number(number) && is_known).then_some(())
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || of_port().is_some()
}

fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let known = known.iter().map(|known| &known[PREFIX.len()..]);
    words::nearest(&name[PREFIX.len()..], known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_its_nearest_name() {
        let known = ["VOLSEED_FROM".to_string(), "VOLSEED_NO_TIMES".to_string()];
        let names = [
            "VOLSEED_FORM",
            "VOLSEED_NOTIMES",
            "VOLSEED_FROM",
            "VOLSEED_XYZ",
            "PATH",
            "VOLSEED_PORT",
            "VOLSEED_SERVICE_HOST",
            "VOLSEED_APP_SERVICE_PORT_HTTP",
            "VOLSEED_PORT_80_TCP",
            "VOLSEED_APP_PORT_443_UDP_ADDR",
        ];
        let variables = names.map(|name| (OsString::from(name), OsString::new())).to_vec();
        let environment = Environment { variables, bare: Vec::new() };
        let found = unknown(&environment, &known);
        assert_eq!(
            found,
            [
                ("VOLSEED_FORM".to_string(), Some("VOLSEED_FROM".to_string())),
                ("VOLSEED_NOTIMES".to_string(), Some("VOLSEED_NO_TIMES".to_string())),
                ("VOLSEED_XYZ".to_string(), None),
            ]
        );
    }
}
