//! How a volseed ended, and what a test expects of that.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use serde_json::Value;

/// How a volseed, or the app it became, ended and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn killed_by(self, signal: Signal) -> Self {
        assert_eq!(self.status.signal(), Some(signal as i32), "{}\n{}", self.status, self.stderr);
        self
    }

    /// Standard error holds this text.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "nothing of {text:?} in:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn says_nothing_of(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "{text:?} in:\n{}", self.stderr);
        self
    }

    /// Standard output holds this line.
    #[track_caller]
    pub(crate) fn prints(self, line: &str) -> Self {
        assert!(self.stdout.lines().any(|it| it == line), "no {line:?} in:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// One `error:` line, and no trace of a panic.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, text: &str) -> Self {
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{}\n{}", self.status, self.stderr);
        self.says_nothing_of("panicked").says(text).exits(code)
    }

    /// The fields of the log line with this message; started with `json()`.
    #[track_caller]
    pub(crate) fn line(&self, message: &str) -> Value {
        self.lines(|line| line["message"] == message)
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("no {message:?} in:\n{}", self.stderr))
    }

    pub(crate) fn has_line(&self, message: &str) -> bool {
        !self.lines(|line| line["message"] == message).is_empty()
    }

    /// There is one warning, and one of its fields is this number.
    #[track_caller]
    pub(crate) fn warns_once(&self, count: u64) {
        let warnings =
            self.lines(|line| line["level"].as_str().is_some_and(|level| level.eq_ignore_ascii_case("warn")));
        assert_eq!(warnings.len(), 1, "{}", self.stderr);
        let fields = warnings[0].as_object().unwrap();
        assert!(fields.values().any(|value| value == count), "no {count} in {}", warnings[0]);
    }

    fn lines(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let objects = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects.filter(wanted).collect()
    }
}
