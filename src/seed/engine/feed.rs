//! The way from a source to the queue: counts each entry, holds it against what is allowed, and hands it over.
//!
//! A source that is a stream has one feed, on the thread that reads it. Of a directory each writer has one, for what it
//! lists; what they count together is in the ledger. Hard links wait until everything that they can point to is
//! written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Stat;

use super::job::{CHUNK, Chunk, Data, Entry, FileJob, Job, LargeFile, Listing, Special, Task};
use super::queue::Queue;
use super::schedule::Slot;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::seed::source::entry::Meta;
use crate::seed::stage::case::NameCheck;
use crate::seed::stage::dir::Dir;
use crate::seed::stage::space::Space;
use crate::seed::stage::writer::Shared;
use crate::volume::records::Totals;
use crate::volume::remove_tree;

/// Entries that are handed over at once: fewer turns of the queue's lock.
const BATCH: usize = 32;
/// The most bytes of all files together, holes included: what a file offset counts (`off_t`).
const MAX_BYTES: u64 = i64::MAX as u64;

/// What all feeds of a seed count together.
pub(super) struct Ledger {
    /// What was fed.
    pub(super) totals: Totals,
    max_entries: u64,
    names: NameCheck,
    links: Vec<WaitingLink>,
}

/// A further name of a file, made once all else is written. There may be as many as files: no more is kept than is needed.
struct WaitingLink {
    dir: Arc<Dir>,
    name: Box<[u8]>,
    /// Of a copy, where the volume has no links.
    meta: Meta,
    first: (Arc<Dir>, Box<[u8]>),
}

impl Ledger {
    pub(super) fn new(max_entries: u64, ignores_case: bool) -> Self {
        let names = NameCheck::new(ignores_case);
        Self { totals: Totals::default(), max_entries, names, links: Vec::new() }
    }

    fn count(&self) -> Result<()> {
        let Totals { files, directories, links, .. } = self.totals;
        if files + directories + links < self.max_entries {
            return Ok(());
        }
        Err(Error::new(Exit::Archive, "seed", format!("more than {} entries", self.max_entries))
            .help("raise --max-entries if the seed is meant to be so large"))
    }
}

/// One thread's side of the queue.
pub(crate) struct Feed<'a> {
    shared: &'a Shared<'a>,
    queue: &'a Queue<Task>,
    ledger: &'a Mutex<Ledger>,
    space: &'a Space,
    batch: Vec<(Slot, Task)>,
    /// Whether it waits while the queue is full.
    waits: bool,
}

impl<'a> Feed<'a> {
    /// For a thread that reads, and waits while the queue is full.
    pub(super) fn of_reader(
        shared: &'a Shared<'a>,
        queue: &'a Queue<Task>,
        ledger: &'a Mutex<Ledger>,
        space: &'a Space,
    ) -> Self {
        Self { shared, queue, ledger, space, batch: Vec::new(), waits: true }
    }

    /// The same for a writer that lists, which must not wait for itself.
    pub(super) fn of_writer(self) -> Self {
        Self { waits: false, ..self }
    }

    /// The stage's root.
    pub(crate) fn root(&self) -> Arc<Dir> {
        Arc::clone(self.shared.tree.root())
    }

    /// What all threads of the seed share.
    pub(crate) fn shared(&self) -> &'a Shared<'a> {
        self.shared
    }

    /// A directory, to be made before what is in it, and held until [`Feed::directory_done`].
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub(crate) fn directory(&mut self, parent: &Arc<Dir>, name: &[u8], meta: Meta) -> Result<Arc<Dir>> {
        let mut ledger = self.count()?;
        self.space.take(0)?;
        ledger.totals.directories += 1;
        self.check_name(&mut ledger, parent, name)?;
        drop(ledger);
        let dir = self.shared.tree.directory(self.queue.number(), parent, name);
        dir.set_meta(meta);
        self.write(Job::Directory(Arc::clone(&dir)))?;
        Ok(dir)
    }

    /// A directory of the source, or some of its names, for any writer to list.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn list(&mut self, listing: Listing) -> Result<()> {
        self.push(Task::List(listing))
    }

    /// Nothing more will be put into this directory.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn directory_done(&mut self, dir: Arc<Dir>) -> Result<()> {
        if dir.release() { self.write(Job::Finish(dir)) } else { Ok(()) }
    }

    /// A file, and where its data is.
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub(crate) fn file(&mut self, file: FileJob, data: Data) -> Result<()> {
        self.begin_file(&file)?;
        self.write(Job::File(file, data))
    }

    /// A large file, of which chunks follow; [`Chunk::Last`] must come after them. `has_source` says
    /// that its data is in a file of its own in the source.
    ///
    /// # Errors
    /// When there are too many entries, the end was asked for, or a writer has failed.
    pub(crate) fn large_file(&mut self, file: FileJob, has_source: bool) -> Result<Arc<LargeFile>> {
        self.begin_file(&file)?;
        let large = LargeFile::new(file, self.queue.number(), has_source);
        self.write(Job::Large(Arc::clone(&large)))?;
        Ok(large)
    }

    /// A chunk of a large file.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn chunk(&mut self, file: &Arc<LargeFile>, chunk: Chunk) -> Result<()> {
        if !matches!(chunk, Chunk::Last(_)) {
            file.hold();
        }
        self.write(Job::Chunk(Arc::clone(file), chunk))
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
        self.chunk(file, Chunk::Last(None))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn symlink(&mut self, entry: Entry, target: Box<[u8]>) -> Result<()> {
        self.begin(&entry, true)?;
        self.write(Job::Special(entry, Special::Symlink(target)))
    }

    /// A FIFO.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn fifo(&mut self, entry: Entry) -> Result<()> {
        self.begin(&entry, true)?;
        self.write(Job::Special(entry, Special::Fifo))
    }

    /// Another name for what was given as `name` in `dir`; made once that is written.
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn link(&mut self, entry: Entry, dir: Arc<Dir>, name: Box<[u8]>) -> Result<()> {
        self.begin(&entry, false)?;
        let first = (dir, name);
        let Entry { dir, name, meta, .. } = entry;
        self.ledger().links.push(WaitingLink { dir, name, meta, first });
        Ok(())
    }

    /// Counts a hard link that is made later, with [`Feed::make_link`].
    ///
    /// # Errors
    /// As [`Feed::file`].
    pub(crate) fn later_link(&mut self) -> Result<()> {
        self.count()?.totals.links += 1;
        Ok(())
    }

    /// Another name for what is written as `name` in `dir`.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn make_link(&mut self, entry: Entry, dir: Arc<Dir>, name: Box<[u8]>) -> Result<()> {
        self.check_name(&mut self.ledger(), &entry.dir, &entry.name)?;
        entry.dir.retain();
        self.write(Job::Special(entry, Special::Link(dir, name)))
    }

    /// Removes what has this name; all that was fed is written. `size` is what it had, where it had no other
    /// name.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&mut self, dir: &Arc<Dir>, name: &[u8], size: Option<u64>) -> Result<()> {
        if !self.shared.tree.is_staged() {
            // The line that comes last counts.
            return Ok(());
        }
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
        self.check_name(&mut self.ledger(), parent, name)?;
        let dir = self.shared.tree.adopt(self.queue.number(), parent, name, (stat, times))?;
        self.queue.made(dir.number());
        Ok(dir)
    }

    /// Waits until all that was fed is written.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.drain()
    }

    /// Hands over what has gathered, without waiting for a full batch.
    ///
    /// # Errors
    /// When a writer has failed.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.waits {
            self.queue.wait_for_room();
        }
        // The writer's error is in the queue; this one only ends what feeds.
        self.queue.push(&mut self.batch).map_err(|_| Error::cancelled())
    }

    /// Waits until all that was fed, listings and links included, is written.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.drain()?;
        let links = std::mem::take(&mut self.ledger().links);
        for WaitingLink { dir, name, meta, first: (first_dir, first) } in links {
            let entry = Entry { dir, name, meta, _charge: None };
            self.write(Job::Special(entry, Special::Link(first_dir, first)))?;
        }
        self.flush()?;
        self.drain()
    }

    fn drain(&self) -> Result<()> {
        self.queue.drain().map_err(|_| Error::cancelled())
    }

    fn begin_file(&mut self, file: &FileJob) -> Result<()> {
        let mut ledger = self.count()?;
        let bytes = ledger.totals.bytes.checked_add(file.size).filter(|bytes| *bytes <= MAX_BYTES);
        ledger.totals.bytes = bytes.ok_or_else(|| {
            Error::new(Exit::Archive, "seed", "its files are longer than any file system holds")
        })?;
        self.space.take(file.stored)?;
        ledger.totals.files += 1;
        self.check_name(&mut ledger, &file.dir, &file.name)?;
        drop(ledger);
        file.dir.retain();
        self.shared.progress.file_found(file.size);
        Ok(())
    }

    fn begin(&mut self, entry: &Entry, takes_inode: bool) -> Result<()> {
        let mut ledger = self.count()?;
        if takes_inode {
            self.space.take(0)?;
        }
        ledger.totals.links += 1;
        self.check_name(&mut ledger, &entry.dir, &entry.name)?;
        drop(ledger);
        entry.dir.retain();
        Ok(())
    }

    /// Refuses a name that the volume would not keep, or not tell apart from one before it.
    fn check_name(&self, ledger: &mut Ledger, dir: &Dir, name: &[u8]) -> Result<()> {
        ledger.names.check(self.shared.stage, self.shared.tree, dir, name)
    }

    /// The ledger, where one more entry is allowed.
    fn count(&self) -> Result<MutexGuard<'a, Ledger>> {
        if self.shared.cancel.is_set() {
            return Err(Error::cancelled());
        }
        let ledger = self.ledger();
        ledger.count()?;
        Ok(ledger)
    }

    fn ledger(&self) -> MutexGuard<'a, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&mut self, job: Job) -> Result<()> {
        self.push(Task::Write(job))
    }

    fn push(&mut self, task: Task) -> Result<()> {
        self.batch.push((task.place(), task));
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }
}
