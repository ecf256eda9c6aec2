//! The run of a command on volumes: the seeding thread, and beside it signals, health and the bar.
//!
//! One runtime on the main thread waits for what comes first: a signal, or the seeding thread's result.
//! **Nothing here touches a volume**: a stat on a network volume may hang for minutes, and probes must
//! still be answered.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use super::acquire::Mode;
use super::answers::{AnswerWatch, LOOK_EVERY};
use super::volumes;
use crate::cancel::Cancel;
use crate::cli::config::{Config, VolumeConfig};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::health;
use crate::health::endpoint::{Endpoint, HandoverSockets};
use crate::log;
use crate::log::Console;
use crate::progress::{Phase, Progress};
use crate::system::limits;
use crate::system::program::LAST_SECONDS;
use crate::system::signals;
use crate::system::signals::Signals;

/// What the seeding thread may take to stop after a signal: less than the second that a container's stop may
/// take, more than any call on a volume that answers.
const STOPPING: Duration = Duration::from_millis(500);
/// How often a log that is not a terminal says how far the seed is.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// How often a terminal's bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Stack of the seeding thread, in bytes.
const STACK: usize = 2 << 20;

/// How a run ends that did not fail.
#[derive(Debug)]
pub(crate) enum RunOutcome {
    /// Every volume is complete. Nobody accepts a connection of the server's sockets any more; the kernel keeps
    /// those that come.
    Complete(Option<HandoverSockets>),
    /// A signal came first.
    Stopped(u8),
}

/// Seeds the volumes, or waits for them, and answers probes meanwhile; with `keeps_listening` the app is handed
/// the server's sockets. Blocks until it is over and no thread and no runtime is left. Only a volume that hangs
/// after a signal may leave a thread behind.
///
/// # Errors
/// The seeding thread's, or exit 71 when the health server cannot listen.
pub(crate) fn run(
    mode: Mode,
    config: Config,
    keeps_listening: bool,
    signals: &Signals,
    console: &Console,
) -> Result<RunOutcome> {
    // Until the end, which is before there is an app: the server's share follows from it, too.
    let _raised = limits::raise_open_files();
    let progress = Arc::new(Progress::default());
    let runtime = health::runtime()?;
    // Before the volume is first touched.
    let endpoint = config.server.map(|server| Endpoint::bind(server, &progress)).transpose()?;
    let outcome = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let server = endpoint.as_ref().map(|endpoint| endpoint.serve(stopped)).transpose()?.map(tokio::spawn);
        let seeding = SeedingThread::start(mode, config.volumes, &progress)?;
        let signal = seeding.wait(signals, &progress, console).await;
        if signal.is_err() {
            progress.enter(Phase::Failed);
        }
        let kept = match (endpoint, &signal) {
            (Some(endpoint), Ok(None)) => Some(endpoint.hand_over(keeps_listening)),
            (Some(endpoint), _) => {
                endpoint.close();
                None
            }
            (None, _) => None,
        };
        stop.send_replace(true);
        if let Some(server) = server {
            let _ = server.await;
        }
        Ok(signal?.map_or(RunOutcome::Complete(kept), RunOutcome::Stopped))
    });
    console.clear();
    // A thread that hangs is left; one that is over has been joined.
    runtime.shutdown_background();
    outcome
}

/// The thread that works on the volumes.
struct SeedingThread {
    thread: JoinHandle<()>,
    result: oneshot::Receiver<Result<()>>,
    cancel: Arc<Cancel>,
}

impl SeedingThread {
    fn start(mode: Mode, volumes: Vec<VolumeConfig>, progress: &Arc<Progress>) -> Result<SeedingThread> {
        let (send, result) = oneshot::channel();
        let cancel = Arc::new(Cancel::default());
        let (progress, canceled) = (Arc::clone(progress), Arc::clone(&cancel));
        let guard = signals::blocked();
        let thread = std::thread::Builder::new().name("seed".into()).stack_size(STACK).spawn(move || {
            let _ = send.send(volumes::complete(mode, &volumes, &progress, &canceled));
        });
        drop(guard);
        let thread = thread.context("start", "thread").map_err(|error| error.exit(Exit::System))?;
        Ok(SeedingThread { thread, result, cancel })
    }

    /// The signal that came first, or nothing once every volume is complete.
    async fn wait(mut self, signals: &Signals, progress: &Progress, console: &Console) -> Result<Option<u8>> {
        let waker = signals.waker().and_then(UnixStream::from_std);
        let mut waker = waker.context("watch", "signals").map_err(|error| error.exit(Exit::System))?;
        let mut byte = [0];
        let every = if console.has_bar() { DRAW_EVERY } else { LOG_EVERY };
        let mut tick = ticks(every);
        let (mut look, mut answers) = (ticks(LOOK_EVERY), AnswerWatch::default());
        loop {
            tokio::select! {
                biased;
                _ = waker.read(&mut byte) => match signals.received() {
                    Some(signal) => {
                        tracing::info!(signal, "stopping");
                        self.stop(progress).await;
                        return Ok(Some(signal));
                    }
                    // A child has ended: as PID 1 we are given orphans.
                    None => signals::reap(),
                },
                result = &mut self.result => {
                    // It has nothing left to do.
                    let _ = self.thread.join();
                    answers.look(progress);
                    let bug = |_| Error::new(Exit::Bug, "seed", "the seeding thread ended without a result");
                    return result.map_err(bug)?.map(|()| None);
                }
                _ = tick.tick() => show(progress, console),
                _ = look.tick() => answers.look(progress),
            }
        }
    }

    /// Leaves it where it does not end in time. A hook has its own.
    async fn stop(self, progress: &Progress) {
        self.cancel.set();
        let hook = if progress.phase() == Phase::Migrating { LAST_SECONDS } else { Duration::ZERO };
        if tokio::time::timeout(hook + STOPPING, self.result).await.is_ok() {
            let _ = self.thread.join();
        }
    }
}

/// The first after `every`, and those that were missed not at all.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

fn show(progress: &Progress, console: &Console) {
    console.catch_up();
    if console.has_bar() {
        console.draw(progress);
    } else if progress.phase().has_stage() {
        log::progress(progress);
    }
}
