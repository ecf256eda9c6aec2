//! The shell around the story: signals, health, the bar, and in the end the hand-over.
//!
//! One runtime on the main thread waits for whatever comes first; the story runs on a thread of its
//! own. **Nothing here touches a volume**: a stat on a network volume may hang for minutes, and
//! probes must still be answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::{oneshot, watch};

use super::acquire::Mode;
use super::volumes;
use crate::cancel::Cancel;
use crate::cli::config::Config;
use crate::cli::values::Address;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::health::listen;
use crate::health::listen::{Socket, SocketFile};
use crate::health::page::Page;
use crate::health::server;
use crate::health::server::Seeding;
use crate::log;
use crate::log::Console;
use crate::progress::{Phase, Progress};
use crate::system::limits;
use crate::system::limits::FileBudget;
use crate::system::signals;
use crate::system::signals::Signals;

/// What the story may take to stop after a signal: less than the second that a container's stop may
/// take, more than any call on a volume that answers.
const STOPPING: Duration = Duration::from_millis(500);
/// How often a log that is not a terminal says how far the seed is.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// How often a terminal's bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Stack of the story's thread, in bytes.
const STORY_STACK: usize = 2 << 20;

/// How it ended.
#[derive(Debug)]
pub enum Ending {
    /// Every volume is complete. The sockets of the health server, where they are to be kept: nobody
    /// accepts a connection any more, and the kernel keeps those that come.
    Complete(Kept),
    /// A signal came first.
    Stopped(u8),
}

/// What is left of the health server.
#[derive(Debug, Default)]
pub struct Kept {
    /// Sockets for the app, where it wants them.
    pub listening: Vec<Socket>,
    /// Sockets for the app's whole life.
    pub admin: Vec<Socket>,
    /// What there is to tell.
    pub site: Option<Arc<Seeding>>,
}

/// Tells the story and answers for it meanwhile. Returns when it is over and nothing of it is left:
/// no thread, no runtime, no socket. Only a volume that hangs after a signal may leave a thread
/// behind.
///
/// # Errors
/// The story's, or exit 71 when the health server cannot listen.
pub fn run(
    mode: Mode,
    config: Config,
    keep_sockets: bool,
    signals: &Signals,
    console: &Console,
) -> Result<Ending> {
    // Until the end, which is before there is an app: the server's share follows from it, too.
    let _raised = limits::raise_open_files();
    let progress = Arc::new(Progress::default());
    let cancel = Arc::new(Cancel::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start", "runtime").map_err(|error| error.exit(Exit::System))?;
    // Before the volume is first touched.
    let (site, mut sockets, admin) = match &config.server {
        Some(server) => {
            let page = Page::read(server.page.as_deref())?;
            let listen = |addresses: &[Address]| listen::listen(addresses, &server.access);
            let site = Seeding { config: server.clone(), page, progress: Arc::clone(&progress) };
            (Some(Arc::new(site)), listen(&server.listen)?, listen(&server.admin)?)
        }
        None => (None, Vec::new(), Vec::new()),
    };
    for socket in sockets.iter().chain(&admin) {
        tracing::info!(address = %socket.address, "listening");
    }
    let watched = || Error::new(Exit::System, "listen", "too many open files");
    let files = |sockets: &[Socket]| sockets.iter().filter_map(Socket::file).collect::<Vec<_>>();
    let (listening_files, admin_files) = (files(&sockets), files(&admin));
    let again = |sockets: &mut dyn Iterator<Item = &Socket>| {
        sockets.map(Socket::again).collect::<std::io::Result<Vec<Socket>>>().map_err(|_| watched())
    };
    let listening = again(&mut sockets.iter().filter(|socket| keep_sockets && !socket.implied))?;
    sockets.extend(again(&mut admin.iter())?);
    let kept = Kept { listening, admin, site: site.clone() };
    let ending = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let server = match site {
            Some(site) => {
                let connections = FileBudget::read().connections();
                let served = server::serve(sockets, site, connections, stopped);
                Some(tokio::spawn(served.map_err(|_| watched())?))
            }
            None => None,
        };
        let outcome = start(mode, config, &progress, &cancel)?;
        let ending = wait_for(outcome, signals, &cancel, &progress, console).await;
        if ending.is_err() {
            progress.enter(Phase::Failed);
        }
        // Of what is closed now the file is gone first: an app may bind in its place.
        let complete = matches!(ending, Ok(None));
        let closed = [(&listening_files, complete && keep_sockets), (&admin_files, complete)];
        for (files, _) in closed.into_iter().filter(|(_, kept)| !kept) {
            files.iter().for_each(SocketFile::remove);
        }
        let _ = stop.send(true);
        if let Some(server) = server {
            let _ = server.await;
        }
        ending
    });
    console.clear();
    // A story that hangs is left; one that is over has been joined.
    runtime.shutdown_background();
    ending.map(|signal| signal.map_or(Ending::Complete(kept), Ending::Stopped))
}

fn start(
    mode: Mode,
    config: Config,
    progress: &Arc<Progress>,
    cancel: &Arc<Cancel>,
) -> Result<oneshot::Receiver<(Result<()>, std::thread::JoinHandle<()>)>> {
    let (tell, told) = oneshot::channel();
    let (give_handle, own_handle) = std::sync::mpsc::channel();
    let (progress, cancel) = (Arc::clone(progress), Arc::clone(cancel));
    let guard = signals::blocked();
    let thread = std::thread::Builder::new().name("story".into()).stack_size(STORY_STACK).spawn(move || {
        let result = volumes::complete(mode, &config.volumes, &progress, &cancel);
        if let Ok(handle) = own_handle.recv() {
            let _ = tell.send((result, handle));
        }
    });
    drop(guard);
    let thread = thread.context("start", "thread").map_err(|error| error.exit(Exit::System))?;
    let _ = give_handle.send(thread);
    Ok(told)
}

type Outcome = oneshot::Receiver<(Result<()>, std::thread::JoinHandle<()>)>;

/// The signal that came first, or nothing once the story is over.
async fn wait_for(
    mut outcome: Outcome,
    signals: &Signals,
    cancel: &Cancel,
    progress: &Progress,
    console: &Console,
) -> Result<Option<u8>> {
    let waker = signals.waker().and_then(tokio::net::UnixStream::from_std);
    let mut waker = waker.context("watch", "signals").map_err(|error| error.exit(Exit::System))?;
    let mut byte = [0];
    let (every, has_bar) = if console.has_bar() { (DRAW_EVERY, true) } else { (LOG_EVERY, false) };
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let result = loop {
        tokio::select! {
            biased;
            _ = waker.read(&mut byte) => match signals.received() {
                Some(_) => break None,
                // A child has ended: as process 1 we are given orphans.
                None => signals::reap(),
            },
            told = &mut outcome => break Some(told),
            _ = tick.tick() => {
                console.catch_up();
                if has_bar {
                    console.draw(progress);
                } else if matches!(progress.phase(), Phase::Seeding | Phase::Syncing | Phase::Publishing) {
                    log::progress(progress);
                }
            }
        }
    };
    let told = match result {
        Some(told) => told,
        None => {
            cancel.set();
            let signal = signals.received().unwrap_or_default();
            tracing::info!(signal, "stopping");
            let finished = tokio::time::timeout(STOPPING, outcome).await;
            if let Ok(Ok((_, thread))) = finished {
                let _ = thread.join();
            }
            return Ok(Some(signal));
        }
    };
    match told {
        Ok((result, thread)) => {
            // It has told its result and has nothing left to do.
            let _ = thread.join();
            result.map(|()| None)
        }
        Err(_) => Err(Error::new(Exit::Bug, "seed", "the story's thread ended without a word")),
    }
}
