//! What a person or a machine reads on standard error: log lines, error lines, and on a terminal a
//! bar. Standard output is the app's.
//!
//! Nothing here waits for a reader: lines that standard error does not take at once are dropped and counted,
//! and the next one that it takes is preceded by how many those were. Nothing depends on a line's fate.

mod bar;
mod standard_error;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::cli::LogArgs;
use crate::cli::values::{self, LogFormat, ShowProgress};
use crate::error::Error;
use crate::progress::Progress;
use crate::text::{json_line, one_line};
use standard_error::StandardError;

/// Standard error, shared by the log and the bar.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    /// What it was started with.
    pub config: LogArgs,
    screen: Arc<Mutex<Screen>>,
}

/// What is on standard error by now.
#[derive(Debug, Default)]
struct Screen {
    standard_error: StandardError,
    /// Lines that were not taken, since the last one that was.
    lost: u64,
    bar: Option<String>,
    /// The bar is not drawn as it should be.
    is_stale: bool,
}

impl Console {
    /// Starts logging. A second time, in a supervisor that could not execute itself, the log goes on as it is.
    pub(crate) fn start(config: LogArgs) -> Console {
        let console = Console { config, screen: Arc::default() };
        let writer = console.clone();
        let builder = tracing_subscriber::fmt()
            .with_max_level(config.level)
            .with_target(false)
            .with_ansi(false)
            // It would print to standard error, which is what just failed.
            .log_internal_errors(false)
            .with_writer(move || writer.clone());
        let _ = match config.format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => {
                builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
            }
        };
        console
    }

    /// Whether there is a terminal that a bar can be drawn on.
    pub(crate) fn has_bar(&self) -> bool {
        let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
        self.config.progress == ShowProgress::Auto
            && self.config.format == LogFormat::Text
            && io::stderr().is_terminal()
            && !is_dumb
    }

    /// Draws the bar as the progress is now, or takes it away when nothing is being seeded.
    pub(crate) fn draw(&self, progress: &Progress) {
        self.show(bar::bar(&progress.volume(), &progress.snapshot()));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.show(None);
    }

    /// Writes what is left of a line that was taken in part, and how many lines were lost.
    pub(crate) fn catch_up(&self) {
        let mut screen = self.screen();
        if screen.lost > 0 || screen.standard_error.is_torn() {
            self.write_lines(&mut screen, "");
        }
    }

    /// Writes the line that says why volseed ends, and what to do about it.
    pub(crate) fn error(&self, error: &Error) {
        match self.config.format {
            LogFormat::Text => self.write_lines(&mut self.screen(), &error_lines(error)),
            LogFormat::Json => {
                let (exit_code, help) = (error.exit_code().code(), error.help_text());
                tracing::error!(exit_code, help = help.as_deref(), "{error}");
            }
        }
    }

    /// A caller that holds this does not wait.
    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, bar: Option<String>) {
        let mut screen = self.screen();
        if screen.bar == bar && !screen.is_stale {
            return;
        }
        let taken = screen.standard_error.write(bar.as_deref().unwrap_or(bar::CLEAR).as_bytes());
        (screen.bar, screen.is_stale) = (bar, !taken);
    }

    /// Whole lines, above the bar and below what is said of those that were lost.
    fn write_lines(&self, screen: &mut Screen, lines: &str) {
        let mut text = String::new();
        if screen.bar.is_some() || screen.is_stale {
            text += bar::CLEAR;
        }
        if screen.lost > 0 {
            text += &self.loss(screen.lost);
        }
        text += lines;
        text += screen.bar.as_deref().unwrap_or_default();
        if screen.standard_error.write(text.as_bytes()) {
            (screen.lost, screen.is_stale) = (0, false);
        } else {
            screen.lost += lines.matches('\n').count() as u64;
        }
    }

    /// The line that says how many were lost, as the log would write it: it cannot be asked to from here.
    fn loss(&self, lost: u64) -> String {
        let message = "log lines were lost: standard error did not accept them";
        let time = timestamp();
        match self.config.format {
            LogFormat::Text => format!("{time}  WARN {message} lost={lost}\n"),
            LogFormat::Json => {
                let line = serde_json::json!({
                    "timestamp": time, "level": "WARN", "message": message, "lost": lost
                });
                format!("{line}\n")
            }
        }
    }
}

/// The time as the log's lines have it.
fn timestamp() -> String {
    let mut time = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

/// Writes an error's lines, before there is a log.
pub(crate) fn print_error(error: &Error, format: LogFormat) {
    let text = match format {
        LogFormat::Text => error_lines(error),
        LogFormat::Json => {
            let mut line = serde_json::json!({
                "timestamp": timestamp(), "level": "ERROR", "message": error.to_string(), "exit_code": error.exit_code().code()
            });
            if let Some(help) = error.help_text() {
                line["help"] = help.into();
            }
            json_line(&line.to_string()).into_owned() + "\n"
        }
    };
    StandardError::default().write(text.as_bytes());
}

/// The format that errors have before the command line is understood: what it asks for as far as that can be seen,
/// else the environment.
pub(crate) fn early_format(args: &[OsString]) -> LogFormat {
    let ours = args.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str());
    let ours: Vec<&str> = ours.collect();
    let mut asked = ours.iter().enumerate().filter_map(|(place, word)| match word.strip_prefix("--log")? {
        "" => ours.get(place + 1).copied(),
        value => value.strip_prefix('='),
    });
    let environment = std::env::var("VOLSEED_LOG").ok();
    asked.next_back().or(environment.as_deref()).and_then(values::value).unwrap_or(LogFormat::Text)
}

/// Writes the lines of an error in volseed itself.
pub(crate) fn print_panic(panic: &PanicHookInfo<'_>) {
    let help = "this is an error in volseed; please report it with this line";
    StandardError::default().write(format!("error: volseed: {panic}\nhelp: {help}\n").as_bytes());
}

/// Writes the lines of an allocation that failed.
pub(crate) fn print_without_memory() {
    standard_error::write_some(
        b"error: allocate memory: out of memory\nhelp: allow the container more memory\n",
    );
}

fn error_lines(error: &Error) -> String {
    let help = error.help_text().map(|help| format!("help: {help}\n"));
    format!("error: {error}\n{}", help.unwrap_or_default())
}

/// Logs how far the seed is.
pub(crate) fn progress(progress: &Progress) {
    let snapshot = progress.snapshot();
    tracing::info!(
        phase = snapshot.phase.name(),
        files = snapshot.counts.files,
        files_total = snapshot.counts.files_total,
        bytes = snapshot.counts.bytes,
        percent = snapshot.counts.percent,
        rate = snapshot.rate,
        seconds_left = snapshot.seconds_left,
        "progress"
    );
}

impl Write for Console {
    /// Takes an event's line whole, as `tracing_subscriber::fmt` hands it over: only its end ends a line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.config.format {
            LogFormat::Text => one_line(text),
            LogFormat::Json => json_line(text),
        };
        self.write_lines(&mut self.screen(), &format!("{line}\n"));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
