//! One producer, N writers, one queue between them.
//!
//! The producer runs on the thread that calls [`run`]; the writers are joined before it returns.
//! Hard links wait until everything that they can point to is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::entry::Meta;
use super::queue::Queue;
use super::tree::Dir;
use super::writer::{Chunk, Entry, File, Job, LargeFile, Shared, Writer};
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::state::Totals;
use crate::volume::remove_tree;

/// Entries that the producer hands over at once: fewer turns of the queue's lock.
const BATCH: usize = 32;
/// Stack of a writer, in bytes: its deepest call is the making of a directory with all its parents.
const STACK: usize = 512 << 10;
/// The largest buffer that a writer reads a file through, in bytes; it stays in the second-level
/// cache between the read and the write.
const MOST_BUFFER: u64 = 256 << 10;

/// What a pipeline did.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// What it was given.
    pub totals: Totals,
    /// What the writers took together, waiting for the volume included.
    pub busy: Duration,
    /// The part of it that files took.
    pub busy_with_files: Duration,
}

/// The producer's side of the pipeline.
pub struct Feed<'a> {
    shared: &'a Shared<'a>,
    queue: &'a Queue<Job>,
    batch: Vec<(usize, Job)>,
    links: Vec<(usize, Job)>,
    work: Work,
    most_entries: u64,
}

/// What a pipeline may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Threads that write.
    pub writers: usize,
    /// Bytes of all buffers together.
    pub memory: u64,
    /// Entries that the producer may feed.
    pub entries: u64,
}

/// Runs `producer` against the writers.
///
/// # Errors
/// The first error of any of them, which stops the rest.
pub fn run(
    shared: &Shared<'_>,
    limits: Limits,
    producer: impl FnOnce(&mut Feed<'_>) -> Result<()>,
) -> Result<Work> {
    let Limits { writers, memory, entries: most_entries } = limits;
    let queue = Queue::new(writers);
    let busy = Busy::default();
    let most_buffer = usize::try_from((memory / writers as u64).clamp(4096, MOST_BUFFER)).unwrap_or(4096);
    let work = std::thread::scope(|scope| {
        let mut started = 0;
        for number in 0..writers {
            let thread = std::thread::Builder::new().name(format!("writer-{number}")).stack_size(STACK);
            match thread.spawn_scoped(scope, || write(shared, &queue, most_buffer, &busy)) {
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
            work: Work::default(),
            most_entries,
        };
        let fed = producer(&mut feed).and_then(|()| feed.finish());
        match fed {
            Ok(()) => queue.close(),
            Err(error) => queue.poison(error),
        }
        Ok(feed.work)
    })?;
    match queue.into_error() {
        Some(error) => Err(error),
        None => {
            let [busy, busy_with_files] =
                [busy.all, busy.files].map(|time| Duration::from_nanos(time.into_inner()));
            Ok(Work { busy, busy_with_files, ..work })
        }
    }
}

fn write(shared: &Shared<'_>, queue: &Queue<Job>, most_buffer: usize, busy: &Busy) {
    let mut writer = Writer::new(shared, most_buffer);
    let (mut all, mut files) = (Duration::ZERO, Duration::ZERO);
    let mut jobs = Vec::new();
    while queue.take(&mut jobs) {
        let taken = jobs.len();
        let mut began = Instant::now();
        for job in jobs.drain(..) {
            let has_data = job.has_data();
            let result = if shared.cancel.is_set() { Err(Error::cancelled()) } else { writer.run(job) };
            let ended = Instant::now();
            all += ended - began;
            files += if has_data { ended - began } else { Duration::ZERO };
            began = ended;
            if let Err(error) = result {
                queue.poison(error);
                break;
            }
        }
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
    pub fn root(&self) -> Arc<Dir> {
        Arc::clone(self.shared.tree.root())
    }

    /// The parts that producer and writers share.
    pub fn shared(&self) -> &Shared<'_> {
        self.shared
    }

    /// A directory, held until [`Feed::directory_done`].
    ///
    /// # Errors
    /// When there are too many entries, or the end was asked for.
    pub fn directory(&mut self, parent: &Arc<Dir>, name: &[u8], meta: Meta) -> Result<Arc<Dir>> {
        self.count(parent, name)?;
        self.work.totals.directories += 1;
        let dir = self.shared.tree.directory(parent, name);
        dir.set_meta(meta);
        Ok(dir)
    }

    /// Nothing more will be put into this directory.
    ///
    /// # Errors
    /// When a writer has failed.
    pub fn directory_done(&mut self, dir: Arc<Dir>) -> Result<()> {
        self.push(Job::Directory(dir))
    }

    /// A file whose data is in `job`, which `make` builds.
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub fn file(&mut self, file: File, make: impl FnOnce(File) -> Job) -> Result<()> {
        self.begin_file(&file)?;
        self.push(make(file))
    }

    /// A large file, of which chunks follow; [`Chunk::Last`] must come after them.
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub fn large_file(&mut self, file: File) -> Result<Arc<LargeFile>> {
        self.begin_file(&file)?;
        Ok(LargeFile::new(file, 1))
    }

    /// A chunk of a large file.
    ///
    /// # Errors
    /// When a writer has failed.
    pub fn chunk(&mut self, file: &Arc<LargeFile>, chunk: Chunk) -> Result<()> {
        if !matches!(chunk, Chunk::Last) {
            file.hold();
        }
        self.push(Job::Chunk(Arc::clone(file), chunk))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub fn symlink(&mut self, entry: Entry, target: Box<[u8]>) -> Result<()> {
        self.begin(&entry)?;
        self.push(Job::Symlink(entry, target))
    }

    /// A FIFO.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub fn fifo(&mut self, entry: Entry) -> Result<()> {
        self.begin(&entry)?;
        self.push(Job::Fifo(entry))
    }

    /// Another name for what was given as `name` in `dir`; made once that is written.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub fn link(&mut self, entry: Entry, dir: Arc<Dir>, name: Box<[u8]>) -> Result<()> {
        self.begin(&entry)?;
        let job = Job::Link(entry, dir, name);
        self.links.push((job.group(), job));
        Ok(())
    }

    /// Makes room for a second entry of a name that was given before: everything so far is written,
    /// and what has the name removed.
    ///
    /// # Errors
    /// When a writer has failed.
    pub fn replace(&mut self, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
        self.finish()?;
        let fd = self.shared.tree.open(dir)?;
        let path = self.shared.tree.full_path(&dir.child_path(name));
        remove_tree(std::os::fd::AsFd::as_fd(&*fd), name).context("remove", path.as_path())
    }

    /// Hands over what has gathered, without waiting for a full batch.
    ///
    /// # Errors
    /// When a writer has failed.
    pub fn flush(&mut self) -> Result<()> {
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

    fn begin_file(&mut self, file: &File) -> Result<()> {
        self.count(&file.dir, &file.name)?;
        file.dir.hold();
        self.work.totals.files += 1;
        self.work.totals.bytes += file.size;
        self.shared.progress.file_found(file.size);
        Ok(())
    }

    fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.count(&entry.dir, &entry.name)?;
        entry.dir.hold();
        self.work.totals.links += 1;
        Ok(())
    }

    fn count(&mut self, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
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
        self.shared.tree.expect(dir, name);
        Ok(())
    }

    fn push(&mut self, job: Job) -> Result<()> {
        self.batch.push((job.group(), job));
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }
}
