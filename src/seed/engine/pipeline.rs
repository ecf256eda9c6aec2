//! N writers and one queue: what is found goes in, and comes out in the order of the schedule.
//!
//! A stream is read on the thread that calls [`run`]. A directory is listed by the writers themselves: no thread has
//! to run for the others to have work. They are joined before `run` returns.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::feed::{Feed, Ledger};
use super::job::{Listing, Task};
use super::queue::Queue;
use super::workers::Parallelism;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::seed::stage::space::Space;
use crate::seed::stage::writer::{Shared, Writer};
use crate::volume::records::Totals;

/// Stack of a writer, in bytes: its deepest call is the making of a directory with all its parents.
const STACK: usize = 512 << 10;
/// The smallest buffer that a writer reads a file through, in bytes.
const MIN_BUFFER: u64 = 4096;

/// What an entry takes while it waits, in bytes: about 250, and a directory with all that is known of it four times as
/// much.
const ENTRY: u64 = 1 << 10;
/// The most entries that wait. A source with fewer is known whole before its first file is written, so that percent and
/// time left are true from the start.
const MAX_ENTRIES: usize = 65_536;

/// What a pipeline did.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkDone {
    /// What it was given.
    pub totals: Totals,
    /// What the writers took together, waiting for the volume included.
    pub busy: Duration,
    /// The part of it that files took.
    pub busy_with_files: Duration,
    /// Creations that could only happen one after the other.
    pub longest_chain: u64,
}

/// What a writer does with a part of the source that it is given to list.
pub(crate) type List<'a> = &'a (dyn Fn(Listing, &mut Feed<'_>) -> Result<()> + Sync);

/// What reads a stream from its first entry to its last.
type Read<'a> = Box<dyn FnOnce(&mut Feed<'_>) -> Result<()> + 'a>;

/// Where the entries come from.
pub(crate) enum Producer<'a> {
    /// A stream, which is read on the thread that calls.
    Stream(Read<'a>),
    /// A directory, which the writers list, beginning with its root.
    Directory(List<'a>),
}

/// What a pipeline may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Who writes, and how.
    pub crew: Parallelism,
    /// Bytes of all buffers together.
    pub memory: u64,
    /// Entries that may be fed.
    pub entries: u64,
}

/// Writes all that comes from `producer`.
///
/// # Errors
/// The first error of any of them, which stops the rest.
pub(crate) fn run(
    shared: &Shared<'_>,
    limits: Budget,
    space: &Space,
    producer: Producer<'_>,
) -> Result<WorkDone> {
    let Budget { crew: Parallelism { writers, pace, call, .. }, memory, entries: most_entries } = limits;
    let room = usize::try_from(memory / ENTRY).unwrap_or(usize::MAX).min(MAX_ENTRIES);
    let queue = Queue::new(writers, pace, room);
    let ledger = Mutex::new(Ledger::new(most_entries, shared.ignores_case));
    let list = match &producer {
        Producer::Stream(_) => None,
        Producer::Directory(list) => Some(*list),
    };
    let busy = Busy::default();
    let most_buffer = usize::try_from((memory / writers as u64).min(call).max(MIN_BUFFER));
    let most_buffer = most_buffer.unwrap_or(usize::MAX);
    std::thread::scope(|scope| {
        let mut started = 0;
        for number in 0..writers {
            let thread = std::thread::Builder::new().name(format!("writer-{number}")).stack_size(STACK);
            match thread.spawn_scoped(scope, || {
                let writer = Writer::new(shared, &queue, writers, most_buffer);
                let feed = Feed::of_reader(shared, &queue, &ledger, space).of_writer();
                write(writer, &queue, list, feed, &busy);
            }) {
                Ok(_) => started += 1,
                // Some are enough; none is an error.
                Err(_) if started > 0 => break,
                Err(error) => {
                    return Err(Error::os("start", "writer", error)
                        .exit(Exit::System)
                        .help("allow the container more processes (--pids-limit)"));
                }
            }
        }
        shared.progress.set_writers(started);
        let mut feed = Feed::of_reader(shared, &queue, &ledger, space);
        let fed = match producer {
            Producer::Stream(read) => read(&mut feed),
            Producer::Directory(_) => feed.list(Listing { dir: feed.root(), rest: None }),
        };
        match fed.and_then(|()| feed.finish()) {
            Ok(()) => queue.close(),
            Err(error) => queue.poison(error),
        }
        Ok(())
    })?;
    let longest_chain = queue.longest_chain() as u64;
    match queue.into_error() {
        Some(error) => Err(error),
        None => {
            let [busy, busy_with_files] =
                [busy.all, busy.files].map(|time| Duration::from_nanos(time.into_inner()));
            let totals = ledger.into_inner().unwrap_or_else(PoisonError::into_inner).totals;
            Ok(WorkDone { totals, busy, busy_with_files, longest_chain })
        }
    }
}

fn write(
    mut writer: Writer<'_>,
    queue: &Queue<Task>,
    list: Option<List<'_>>,
    mut feed: Feed<'_>,
    busy: &Busy,
) {
    let shared = feed.shared();
    let (mut all, mut files) = (Duration::ZERO, Duration::ZERO);
    let mut tasks = Vec::new();
    while let Some(mut hold) = queue.take(&mut tasks) {
        let taken = tasks.len();
        let mut began = Instant::now();
        for task in tasks.drain(..) {
            hold.next();
            let result = match task {
                _ if shared.cancel.is_set() => Err(Error::cancelled()),
                Task::List(listing) => {
                    let list = list.expect("listings are of directories");
                    let listed = shared.progress.reading(|| list(listing, &mut feed));
                    let listed = listed.and_then(|()| feed.flush());
                    began = Instant::now();
                    listed
                }
                Task::Write(job) => {
                    let written = shared.progress.writing(|| writer.run(&job, &mut hold));
                    let ended = Instant::now();
                    all += ended - began;
                    files += if job.has_data() { ended - began } else { Duration::ZERO };
                    began = ended;
                    written
                }
            };
            if let Err(error) = result {
                queue.poison(error);
                // The reader may wait for a source that says nothing.
                shared.cancel.set();
                break;
            }
        }
        drop(hold);
        queue.done(taken);
    }
    busy.add(all, files);
}

/// What the writers took together, in nanoseconds: for everything, and for files.
#[derive(Default)]
struct Busy {
    all: AtomicU64,
    files: AtomicU64,
}

impl Busy {
    fn add(&self, all: Duration, files: Duration) {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.all.fetch_add(nanoseconds(all), Relaxed);
        self.files.fetch_add(nanoseconds(files), Relaxed);
    }
}
