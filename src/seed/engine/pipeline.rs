//! One producer, N writers, one queue between them.
//!
//! The producer runs on the thread that calls [`run`]; the writers are joined before it returns.
//! Hard links wait until everything that they can point to is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::Stat;

use super::job::{CHUNK, Chunk, Data, Entry, FileJob, Job, LargeFile, Special};
use super::queue::Queue;
use super::schedule::{Number, Slot};
use super::workers::Parallelism;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::seed::source::entry::Meta;
use crate::seed::stage::case::NameCheck;
use crate::seed::stage::dir::Dir;
use crate::seed::stage::space::Space;
use crate::seed::stage::writer::{Shared, Writer};
use crate::volume::records::Totals;
use crate::volume::remove_tree;

/// Entries that the producer hands over at once: fewer turns of the queue's lock.
const BATCH: usize = 32;
/// The most bytes of all files together, holes included: what a file offset counts (`off_t`).
const MAX_BYTES: u64 = i64::MAX as u64;
/// Stack of a writer, in bytes: its deepest call is the making of a directory with all its parents.
const STACK: usize = 512 << 10;
/// The smallest buffer that a writer reads a file through, in bytes.
const MIN_BUFFER: u64 = 4096;

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

/// The producer's side of the pipeline.
pub(crate) struct Feed<'a> {
    shared: &'a Shared<'a>,
    queue: &'a Queue<Job>,
    batch: Vec<(Slot, Job)>,
    links: Vec<(Slot, Job)>,
    work: WorkDone,
    most_entries: u64,
    space: &'a mut Space,
    names: NameCheck,
}

/// What a pipeline may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Who writes, and how.
    pub crew: Parallelism,
    /// Bytes of all buffers together.
    pub memory: u64,
    /// Entries that the producer may feed.
    pub entries: u64,
}

/// Runs `producer` against the writers.
///
/// # Errors
/// The first error of any of them, which stops the rest.
pub(crate) fn run(
    shared: &Shared<'_>,
    limits: Budget,
    space: &mut Space,
    producer: impl FnOnce(&mut Feed<'_>) -> Result<()>,
) -> Result<WorkDone> {
    let Budget { crew: Parallelism { writers, pace, call, .. }, memory, entries: most_entries } = limits;
    let queue = Queue::new(writers, pace);
    let busy = Busy::default();
    let most_buffer = usize::try_from((memory / writers as u64).min(call).max(MIN_BUFFER));
    let most_buffer = most_buffer.unwrap_or(usize::MAX);
    let work = std::thread::scope(|scope| {
        let mut started = 0;
        for number in 0..writers {
            let thread = std::thread::Builder::new().name(format!("writer-{number}")).stack_size(STACK);
            match thread.spawn_scoped(scope, || write(shared, &queue, (writers, most_buffer), &busy)) {
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
        let mut feed = Feed {
            shared,
            queue: &queue,
            batch: Vec::new(),
            links: Vec::new(),
            work: WorkDone::default(),
            most_entries,
            space,
            names: NameCheck::new(shared.ignores_case),
        };
        let fed = producer(&mut feed).and_then(|()| feed.finish());
        match fed {
            Ok(()) => queue.close(),
            Err(error) => queue.poison(error),
        }
        feed.work.longest_chain = queue.longest_chain() as u64;
        Ok(feed.work)
    })?;
    match queue.into_error() {
        Some(error) => Err(error),
        None => {
            let [busy, busy_with_files] =
                [busy.all, busy.files].map(|time| Duration::from_nanos(time.into_inner()));
            Ok(WorkDone { busy, busy_with_files, ..work })
        }
    }
}

fn write(shared: &Shared<'_>, queue: &Queue<Job>, (writers, most_buffer): (usize, usize), busy: &Busy) {
    let mut writer = Writer::new(shared, queue, writers, most_buffer);
    let (mut all, mut files) = (Duration::ZERO, Duration::ZERO);
    let mut jobs = Vec::new();
    while let Some(mut hold) = queue.take(&mut jobs) {
        let taken = jobs.len();
        let mut began = Instant::now();
        for job in jobs.drain(..) {
            hold.next();
            let result =
                if shared.cancel.is_set() { Err(Error::cancelled()) } else { writer.run(&job, &mut hold) };
            let ended = Instant::now();
            all += ended - began;
            files += if job.has_data() { ended - began } else { Duration::ZERO };
            began = ended;
            if let Err(error) = result {
                queue.poison(error);
                // The producer may wait for a source that says nothing.
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

impl Feed<'_> {
    /// The stage's root.
    pub(crate) fn root(&self) -> Arc<Dir> {
        Arc::clone(self.shared.tree.root())
    }

    /// The parts that producer and writers share.
    pub(crate) fn shared(&self) -> &Shared<'_> {
        self.shared
    }

    /// A directory, to be made before what is in it, and held until [`Feed::directory_done`].
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub(crate) fn directory(&mut self, parent: &Arc<Dir>, name: &[u8], meta: Meta) -> Result<Arc<Dir>> {
        self.count()?;
        self.space.take(0)?;
        self.work.totals.directories += 1;
        let dir = self.shared.tree.directory(parent, name);
        self.check_name(dir.path())?;
        dir.set_meta(meta);
        self.push(Job::Directory(Arc::clone(&dir)))?;
        Ok(dir)
    }

    /// Nothing more will be put into this directory.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn directory_done(&mut self, dir: Arc<Dir>) -> Result<()> {
        if dir.release() { self.push(Job::Finish(dir)) } else { Ok(()) }
    }

    /// A file, and where its data is.
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub(crate) fn file(&mut self, file: FileJob, data: Data) -> Result<()> {
        self.begin_file(&file)?;
        self.push(Job::File(file, data))
    }

    /// A large file, of which chunks follow; [`Chunk::Last`] must come after them. `has_source` says
    /// that its data is in a file of its own in the source.
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub(crate) fn large_file(&mut self, file: FileJob, has_source: bool) -> Result<Arc<LargeFile>> {
        self.begin_file(&file)?;
        let large = LargeFile::new(file, self.shared.tree.number(), has_source);
        self.push(Job::Large(Arc::clone(&large)))?;
        Ok(large)
    }

    /// A chunk of a large file.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn chunk(&mut self, file: &Arc<LargeFile>, chunk: Chunk) -> Result<()> {
        if !matches!(chunk, Chunk::Last) {
            file.hold();
        }
        self.push(Job::Chunk(Arc::clone(file), chunk))
    }

    /// All chunks of a large file of `size` bytes, which the source has from byte `from` on, and the
    /// last one.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn copy_chunks(&mut self, file: &Arc<LargeFile>, size: u64, from: u64) -> Result<()> {
        for offset in (0..size).step_by(CHUNK as usize) {
            let length = CHUNK.min(size - offset);
            self.chunk(file, Chunk::Copy { offset, length, from: from + offset })?;
        }
        self.chunk(file, Chunk::Last)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn symlink(&mut self, entry: Entry, target: Box<[u8]>) -> Result<()> {
        self.space.take(0)?;
        self.begin(&entry)?;
        self.push(Job::Special(entry, Special::Symlink(target)))
    }

    /// A FIFO.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn fifo(&mut self, entry: Entry) -> Result<()> {
        self.space.take(0)?;
        self.begin(&entry)?;
        self.push(Job::Special(entry, Special::Fifo))
    }

    /// Another name for what was given as `name` in `dir`; made once that is written.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn link(&mut self, entry: Entry, dir: Arc<Dir>, name: Box<[u8]>) -> Result<()> {
        self.begin(&entry)?;
        let job = Job::Special(entry, Special::Link(dir, name));
        self.links.push((job.place(), job));
        Ok(())
    }

    /// Counts a hard link that is made later, with [`Feed::make_link`].
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn later_link(&mut self) -> Result<()> {
        self.count()?;
        self.work.totals.links += 1;
        Ok(())
    }

    /// Another name for what is written as `name` in `dir`.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn make_link(&mut self, entry: Entry, dir: Arc<Dir>, name: Box<[u8]>) -> Result<()> {
        self.check_name(&entry.path())?;
        entry.dir.retain();
        self.push(Job::Special(entry, Special::Link(dir, name)))
    }

    /// Removes what has this name; all that was fed is written. `size` is what it had, where it had no other
    /// name.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&mut self, dir: &Arc<Dir>, name: &[u8], size: Option<u64>) -> Result<()> {
        size.into_iter().for_each(|size| self.space.give_back(size));
        let fd = self.shared.tree.open(dir)?;
        let entry = || self.shared.tree.entry(&dir.child_path(name));
        remove_tree(std::os::fd::AsFd::as_fd(&*fd), name).context("remove", entry)
    }

    /// A directory that was finished, to be held once more until [`Feed::directory_done`]; `stat` is
    /// what it has now, and `times` whether it keeps its time.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn adopt(
        &mut self,
        parent: &Arc<Dir>,
        name: &[u8],
        stat: &Stat,
        times: bool,
    ) -> Result<Arc<Dir>> {
        self.check_name(&parent.child_path(name))?;
        let dir = self.shared.tree.adopt(parent, name, stat, times)?;
        self.queue.made(dir.number());
        Ok(dir)
    }

    /// Waits until all that was fed is written; numbers of directories that are done, and of large
    /// files, are used again.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn settle(&mut self, numbers: Vec<Number>) -> Result<()> {
        self.flush()?;
        self.drain()?;
        self.queue.recycle(&numbers);
        self.shared.tree.recycle(numbers);
        Ok(())
    }

    /// Hands over what has gathered, without waiting for a full batch.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn flush(&mut self) -> Result<()> {
        // The writer's error is in the queue; this one only ends the producer.
        self.queue.push(&mut self.batch).map_err(|_| Error::cancelled())
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        if !self.links.is_empty() {
            self.drain()?;
            let mut links = std::mem::take(&mut self.links);
            self.queue.push(&mut links).map_err(|_| Error::cancelled())?;
        }
        self.drain()
    }

    fn drain(&self) -> Result<()> {
        self.queue.drain().map_err(|_| Error::cancelled())
    }

    fn begin_file(&mut self, file: &FileJob) -> Result<()> {
        self.count()?;
        let bytes = self.work.totals.bytes.checked_add(file.size).filter(|bytes| *bytes <= MAX_BYTES);
        self.work.totals.bytes = bytes.ok_or_else(|| {
            Error::new(Exit::Archive, "seed", "its files are longer than any file system holds")
        })?;
        self.space.take(file.stored)?;
        self.check_name(&file.path())?;
        file.dir.retain();
        self.work.totals.files += 1;
        self.shared.progress.file_found(file.size);
        Ok(())
    }

    fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.count()?;
        self.check_name(&entry.path())?;
        entry.dir.retain();
        self.work.totals.links += 1;
        Ok(())
    }

    /// Refuses a path that the volume would not keep, or not tell apart from one before it.
    fn check_name(&mut self, path: &[u8]) -> Result<()> {
        self.names.check(self.shared.stage, self.shared.tree, path)
    }

    fn count(&self) -> Result<()> {
        if self.shared.cancel.is_set() {
            return Err(Error::cancelled());
        }
        let Totals { files, directories, links, .. } = self.work.totals;
        if files + directories + links >= self.most_entries {
            return Err(Error::new(
                Exit::Archive,
                "seed",
                format!("more than {} entries", self.most_entries),
            )
            .help("raise --max-entries if the seed is meant to be so large"));
        }
        Ok(())
    }

    fn push(&mut self, job: Job) -> Result<()> {
        self.batch.push((job.place(), job));
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }
}
