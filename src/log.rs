//! What a person or a machine reads on standard error: log lines, error lines, and on a terminal a
//! bar. Standard output is the app's.

#[allow(dead_code)]
mod standard_error;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::config::LogConfig;
use crate::cli::values::LogFormat;
use crate::error::Error;
use crate::progress::{Phase, Progress, Snapshot};
use crate::system::text::{json_line, one_line};

/// Standard error, shared by the log and the bar.
#[derive(Debug, Clone)]
pub struct Console {
    format: LogFormat,
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Console {
    /// Starts logging. To be called once.
    pub fn start(config: LogConfig) -> Console {
        let console = Console { format: config.format, bar: Arc::default() };
        let builder = tracing_subscriber::fmt()
            .with_max_level(config.level.0)
            .with_target(false)
            .with_ansi(false)
            // It would print to standard error, which is what just failed.
            .log_internal_errors(false)
            .with_writer(console.clone());
        match config.format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => {
                builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
            }
        }
        console
    }

    /// Whether a bar would be seen.
    pub fn is_terminal(&self) -> bool {
        self.format == LogFormat::Text && io::stderr().is_terminal()
    }

    /// Draws the bar as the progress is now, or takes it away when nothing is being seeded.
    pub fn draw(&self, progress: &Progress) {
        let snapshot = progress.snapshot();
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(snapshot.phase, Phase::Seeding | Phase::Syncing | Phase::Publishing) {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {wide_msg}")
                .expect("the template is well-formed")
                .progress_chars("=> ");
            ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr()).with_style(style)
        });
        bar.set_prefix(one_line(&progress.volume()).into_owned());
        bar.set_message(message(&snapshot));
        bar.set_position(snapshot.percent.unwrap_or(0).into());
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    /// Writes the line that says why volseed ends, and what to do about it.
    pub fn error(&self, error: &Error) {
        match self.format {
            LogFormat::Text => print_error(error),
            LogFormat::Json => {
                let (exit_code, help) = (error.exit_code().code(), error.help_text());
                tracing::error!(exit_code, help = help.as_deref(), "{error}");
            }
        }
    }
}

/// Writes an error's lines, before there is a log.
pub fn print_error(error: &Error) {
    // Nobody is left to be told if standard error is gone.
    let _ = writeln!(io::stderr(), "error: {error}");
    if let Some(help) = error.help_text() {
        let _ = writeln!(io::stderr(), "help: {help}");
    }
}

/// Logs how far the seed is.
pub fn progress(progress: &Progress) {
    let snapshot = progress.snapshot();
    tracing::info!(
        phase = format!("{:?}", snapshot.phase).to_lowercase(),
        files = snapshot.files,
        files_total = snapshot.files_total,
        bytes = snapshot.bytes,
        percent = snapshot.percent,
        rate = snapshot.rate,
        seconds_left = snapshot.seconds_left,
        "progress"
    );
}

fn message(snapshot: &Snapshot) -> String {
    let percent = snapshot.percent.map(|percent| format!("{percent}%  ")).unwrap_or_default();
    let total = snapshot.files_total.map(|total| format!(" of {total}")).unwrap_or_default();
    let left = snapshot
        .seconds_left
        .map(|seconds| format!("  {} left", HumanDuration(std::time::Duration::from_secs(seconds))));
    let phase = match snapshot.phase {
        Phase::Syncing => "syncing  ",
        Phase::Publishing => "publishing  ",
        _ => "",
    };
    format!(
        "{phase}{percent}{}{total} files  {}  {}/s{}",
        snapshot.files,
        HumanBytes(snapshot.bytes),
        HumanBytes(snapshot.rate),
        left.unwrap_or_default()
    )
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Console;

    fn make_writer(&'a self) -> Console {
        self.clone()
    }
}

impl Write for Console {
    /// Takes an event's line whole, as `tracing_subscriber::fmt` hands it over: only its end ends a line.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.format {
            LogFormat::Text => one_line(text),
            LogFormat::Json => json_line(text),
        };
        let line = [line.as_bytes(), b"\n"].concat();
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match &*bar {
            Some(bar) => bar.suspend(|| io::stderr().write_all(&line))?,
            None => io::stderr().write_all(&line)?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
