//! `volseed doctor`: whether a volume is fit for a seed, what it does not keep, and what a seed would cost there.
//!
//! Each file below looks at one kind of thing and returns what it found. All of it happens in one directory of our own
//! on the volume ([`directory`]), which is removed however it ends; only a SIGKILL leaves it. The work has a thread of
//! its own, so that a signal ends it while a volume hangs.

mod attributes;

mod cost;
mod data;
mod directory;
mod entries;
mod finding;
pub(crate) mod helper;
mod locks;
mod mapping;
mod met;
mod mount;
mod names;
mod needs;
mod pace;
mod peer;
mod privacy;
mod space;
mod sqlite;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::Builder;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::cli::config::VolumeConfig;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::system::limits;
use crate::system::signals::{self, Signals};
use crate::volume::{FileSystem, Volume, user};
use directory::{TestDirectory, in_words};
use finding::Finding;
pub(crate) use finding::Report;
use met::Met;
use needs::Needs;

/// What the directory may take to be removed after a signal: less than the 10 s of `docker stop`.
const REMOVING: Timespec = Timespec { tv_sec: 7, tv_nsec: 0 };
/// Stack of the thread, in bytes.
const STACK: usize = 2 << 20;

/// How it ended.
pub(crate) enum Examined {
    /// With findings.
    Found(Report),
    /// By a signal.
    Stopped(u8),
}

/// Looks at a volume. With `peer`, another doctor on the same volume is waited for. Blocks until nothing of it is left
/// on the volume; only a volume that hangs after a signal may leave a thread behind.
///
/// # Errors
/// When the volume or the source cannot be opened, the source cannot be read, or what was made cannot be removed.
pub(crate) fn examine(config: VolumeConfig, peer: bool, signals: &Signals) -> Result<Examined> {
    let _raised = limits::raise_open_files();
    let system = |error: Error| error.exit(Exit::System);
    let cancel = Arc::new(Cancel::default());
    let (ended, ends) = UnixStream::pair().context("open", "socket pair").map_err(system)?;
    let mut waker = signals.waker().context("watch", "signals").map_err(system)?;
    let canceled = Arc::clone(&cancel);
    let guard = signals::blocked();
    let thread = Builder::new().name("doctor".into()).stack_size(STACK).spawn(move || {
        let report = look(&config, peer, &canceled);
        drop(ends);
        report
    });
    drop(guard);
    let thread = thread.context("start", "thread").map_err(system)?;
    loop {
        let mut wait = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&waker, PollFlags::IN)];
        let _ = poll(&mut wait, None);
        let is_over = !wait[0].revents().is_empty();
        if let Some(signal) = signals.received() {
            cancel.set();
            let _ = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&REMOVING));
            if thread.is_finished() {
                let _ = thread.join();
            }
            return Ok(Examined::Stopped(signal));
        }
        if is_over {
            return thread.join().expect("a panic ends the process").map(Examined::Found);
        }
        // A child has ended.
        let _ = waker.read(&mut [0; 64]);
    }
}

fn look(config: &VolumeConfig, peer: bool, cancel: &Arc<Cancel>) -> Result<Report> {
    let volume = Volume::open(&config.to, config.state_dir.as_deref())?;
    user::work_as(volume.user(), || {
        let needs = Needs::of(config, &volume, cancel)?;
        let mut report = Report::new(config, mount::findings(config, &volume, needs.as_ref())?);
        // Before anything of ours takes some of it.
        report.extend(space::findings(&volume, needs.as_ref())?);
        let directory = match TestDirectory::create(&volume, cancel) {
            Ok(directory) => directory,
            Err(refused) => {
                report.add(refused);
                return Ok(report);
            }
        };
        let kind = volume.kind()?;
        let looked =
            Examination { config, volume: &volume, kind, directory: &directory, needs: needs.as_ref() };
        let looked = looked.run(peer, &mut report);
        let canceled = directory.check();
        let path = volume.path().join(&directory.name);
        directory.remove().context("remove", path)?;
        canceled.map_err(|_| Error::cancelled())?;
        report.extend(looked.err().map(failed));
        Ok(report)
    })
}

/// What the volume answered in the place of what it was asked.
fn failed((topic, error): (&'static str, Errno)) -> Finding {
    let what = format!("it answers with an error while {topic} is looked at: {}", in_words(error));
    Finding::fail("volume", what).then("a seed may end with it; the rest was not looked at")
}

/// All that is looked at in the directory.
struct Examination<'a> {
    config: &'a VolumeConfig,
    volume: &'a Volume,
    kind: FileSystem,
    directory: &'a TestDirectory,
    needs: Option<&'a Needs>,
}

impl Examination<'_> {
    /// Adds what it finds to the report.
    ///
    /// # Errors
    /// Where it is stopped, or the volume answers with an error that says nothing of what it keeps.
    fn run(&self, peer: bool, report: &mut Report) -> std::result::Result<(), (&'static str, Errno)> {
        let Examination { config, volume, kind, directory, needs } = *self;
        let at = |topic: &'static str| move |error| (topic, error);
        let check = || directory.check().map_err(at("volume"));
        // First, so that the two meet before one of them is done with the rest.
        let met = if peer { Some(peer::meet(config, volume, directory).map_err(at("peer"))?) } else { None };
        let pace = pace::measure(volume, kind, directory, needs.is_some()).map_err(at("pace"))?;
        report.add(pace.finding(config));
        check()?;
        let locks = locks::look(volume, directory, kind).map_err(at("locks"))?;
        report.add(locks.finding(&pace, met.as_ref()));
        report.extend(met.iter().flat_map(Met::findings));
        check()?;
        report.extend(attributes::findings(config, directory, needs).map_err(at("attributes"))?);
        check()?;
        report.extend(entries::findings(directory, needs).map_err(at("links and renames"))?);
        check()?;
        report.extend(names::findings(volume, directory, needs).map_err(at("names"))?);
        check()?;
        report.extend(data::findings(directory).map_err(at("data"))?);
        check()?;
        report.add(privacy::finding(volume, directory).map_err(at("private"))?);
        report.add(sqlite::finding(&locks, &pace, met.as_ref()));
        report.extend(needs.map(|needs| cost::finding(needs, &pace)));
        Ok(())
    }
}
