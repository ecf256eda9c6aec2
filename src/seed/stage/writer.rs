//! What a writer does with one entry: the calls on the volume, in the order that keeps them few.
//!
//! A file is created by its owner and with its mode, gets its data, what else it carries, and last, when its
//! data cannot be lost any more, its time: a staged file with the right time is therefore whole. Large files are written in chunks by as
//! many writers as come along; the last one finishes the file.

pub(crate) mod special;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::dir::Dir;
use super::losses::Loss;
use super::metadata::{Fidelity, InitialAttrs};
use super::owner::{Owner, create_as};
use super::tree::Tree;
use crate::cancel::Cancel;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::progress::{Operation, Progress};
use crate::seed::engine::job::{
    CHUNK, Chunk, Data, Entry, FileJob, Handles, Job, LargeFile, Opened, Target, Task,
};
use crate::seed::engine::queue::{Hold, Queue};
use crate::seed::engine::workers::Flush;
use crate::seed::manifest::digest::{DataDigest, Digester};
use crate::seed::manifest::line::Listed;
use crate::seed::source::entry::{EntryName, Meta, Time, Xattrs};
use crate::volume::records::close;
use crate::volume::{is_type, open_beneath, openat, remove_tree};

/// The buffers that all writers together keep between two files, in bytes; larger ones are made for a
/// file and freed after it.
const KEPT_BUFFERS: usize = 4 << 20;

/// What all writers of a seed share.
pub(crate) struct Shared<'a> {
    /// The stage.
    pub tree: &'a Tree,
    /// The source directory, or the archive where writers read from it themselves.
    pub source: Option<BorrowedFd<'a>>,
    /// The source's path, for messages.
    pub source_path: PathBuf,
    /// What could not be kept.
    pub fidelity: &'a Fidelity,
    /// How far the seed is.
    pub progress: &'a Progress,
    /// Asked between two pieces of a large file.
    pub cancel: &'a Cancel,
    /// Files that an earlier run had finished.
    pub reused: AtomicU64,
    /// Whether files are written past the page cache, where that is possible.
    pub direct: bool,
    /// Whether files are created only where nothing is.
    pub exclusive: bool,
    /// When a file's data may still be lost after it was written.
    pub flush: Flush,
    /// Whether times are kept.
    pub times: bool,
    /// The directory that the tree is in.
    pub stage: BorrowedFd<'a>,
    /// Whether the volume finds a name under other spellings.
    pub ignores_case: bool,
}

/// One writer: the shared parts and a buffer of its own.
pub(crate) struct Writer<'a> {
    shared: &'a Shared<'a>,
    queue: &'a Queue<Task>,
    buffer: Vec<u8>,
    most_buffer: usize,
    kept_buffer: usize,
}

impl<'a> Writer<'a> {
    /// One of `writers`, whose buffer grows to `most_buffer` bytes at the most.
    pub(crate) fn new(
        shared: &'a Shared<'a>,
        queue: &'a Queue<Task>,
        writers: usize,
        most_buffer: usize,
    ) -> Writer<'a> {
        let kept_buffer = KEPT_BUFFERS / writers.max(1);
        Writer { shared, queue, buffer: Vec::new(), most_buffer, kept_buffer }
    }

    /// Does the job in hand.
    ///
    /// # Errors
    /// The first thing that went wrong with it.
    pub(crate) fn run(&mut self, job: &Job, hold: &mut Hold<'_, Task>) -> Result<()> {
        let tree = self.shared.tree;
        let fidelity = self.shared.fidelity;
        let dir = match job {
            Job::Large(large) => {
                self.open_large(large, hold)?;
                self.queue.made(large.number);
                return Ok(());
            }
            Job::Chunk(large, chunk) => return self.chunk(large, chunk),
            Job::Finish(dir) => return self.finish_filled(dir),
            Job::Directory(dir) => {
                let parent = dir.parent().unwrap_or(dir);
                let began = Instant::now();
                tree.unless_stale(parent, || tree.make(dir, fidelity, || hold.created()))?;
                self.shared.progress.observe(Operation::Directory, began);
                self.queue.made(dir.number());
                dir
            }
            Job::File(file, data) => {
                let digest = tree.unless_stale(&file.dir, || self.write_file(file, data, hold))?;
                self.list_file(file, digest)?;
                &file.dir
            }
            Job::Special(entry, special) => {
                let is_made = tree.unless_stale(&entry.dir, || self.make_special(entry, special, hold))?;
                if is_made {
                    tree.list_entry(&entry.dir, &entry.name, &entry.meta, special.listed())?;
                }
                &entry.dir
            }
        };
        self.release(dir)
    }

    /// One thing less that a directory waits for. The last one finishes it, and so on upwards.
    fn release(&self, dir: &Arc<Dir>) -> Result<()> {
        if dir.release() { self.finish_filled(dir) } else { Ok(()) }
    }

    fn finish_filled(&self, dir: &Arc<Dir>) -> Result<()> {
        self.shared.tree.finish_filled(dir, self.shared.fidelity, |number| self.queue.ended(number))
    }

    /// Writes a whole file, unless an earlier run has; the digest of its data.
    fn write_file(&mut self, file: &FileJob, data: &Data, hold: &mut Hold<'_, Task>) -> Result<DataDigest> {
        let is_reused = self.reusable(file)?;
        let (source, xattrs) = match data {
            Data::Whole | Data::WithHoles => Some(self.open_source(file)?),
            Data::At(_) | Data::Slab(_) => None,
        }
        .unzip();
        let target = if is_reused { None } else { Some(self.create(file, xattrs.flatten(), hold)?) };
        let to = target.as_ref().map(|target| &target.fd);
        let mut digester = Digester::of_size(file.size);
        match (data, &source) {
            (Data::Slab(piece), _) => {
                digester.add(piece.bytes());
                to.map_or(Ok(()), |to| self.write_at(file, to, piece.bytes(), 0))?;
            }
            (Data::At(start), _) => {
                let archive = self.shared.source.expect("an archive with data to copy is open");
                self.copy_range(file, archive, to, (*start, 0), file.size, &mut digester)?;
            }
            (Data::WithHoles, Some(source)) => self.copy_data_only(file, source, to, &mut digester)?,
            (_, source) => {
                let source = source.as_ref().expect("it was opened just now");
                self.copy_range(file, source.as_fd(), to, (0, 0), file.size, &mut digester)?;
            }
        }
        target.map_or(Ok(()), |target| self.finish(file, target))?;
        Ok(digester.finish(file.size))
    }

    fn list_file(&self, file: &FileJob, digest: DataDigest) -> Result<()> {
        let entry = Listed::File { size: file.size, time: file.meta.mtime, digest };
        self.shared.tree.list_entry(&file.dir, &file.name, &file.meta, entry)
    }

    fn chunk(&mut self, large: &LargeFile, chunk: &Chunk) -> Result<()> {
        let opened = large.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (source, target) = match &opened {
            Some(Opened::Open(handles)) => (handles.source.as_ref(), Some(&handles.target.fd)),
            Some(Opened::Reused(source)) => (source.as_deref(), None),
            None => (None, None),
        };
        match (chunk, target) {
            (Chunk::Copy { offset, length, from }, _) => {
                let source = source.map(AsFd::as_fd).or(self.shared.source);
                let source = source.expect("what is copied has a source");
                let mut digester = Digester::of_size(*length);
                self.copy_range(&large.file, source, target, (*from, *offset), *length, &mut digester)?;
                let mut blocks = large.blocks.lock().unwrap_or_else(PoisonError::into_inner);
                blocks.push((*offset / CHUNK, digester.finish(*length)));
            }
            (Chunk::Write { offset, piece }, Some(target)) => {
                self.write_at(&large.file, target, piece.bytes(), *offset)?;
            }
            (Chunk::Last(Some(digest)), _) => drop(large.whole.set(*digest)),
            (Chunk::Write { .. } | Chunk::Last(None), _) => {}
        }
        // Before this chunk counts as done: the writer that finishes the file must be its only user.
        drop(opened);
        if large.pending.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let opened = large.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Opened::Open(handles)) = opened {
            let Handles { target, .. } =
                Arc::into_inner(handles).expect("every other chunk let go of its handles before it was done");
            // A hole at the end is not written by anybody.
            fs::ftruncate(&target.fd, large.file.size).context("set size of", || self.named(&large.file))?;
            self.finish(&large.file, target)?;
        }
        self.list_file(&large.file, large.digest())?;
        self.queue.ended(large.number);
        self.release(&large.file.dir)
    }

    fn open_large(&mut self, large: &LargeFile, hold: &mut Hold<'_, Task>) -> Result<()> {
        let file = &large.file;
        let opened = self.shared.tree.unless_stale(&file.dir, || {
            let is_reused = self.reusable(file)?;
            let (source, xattrs) =
                if large.has_source { Some(self.open_source(file)?) } else { None }.unzip();
            if is_reused {
                return Ok(Opened::Reused(source.map(Arc::new)));
            }
            let target = self.create(file, xattrs.flatten(), hold)?;
            Ok(Opened::Open(Arc::new(Handles { source, target })))
        })?;
        *large.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }

    /// Whether an earlier run has finished this very file. What else stands in its place is removed.
    fn reusable(&self, file: &FileJob) -> Result<bool> {
        if !self.shared.tree.is_staged() {
            // Nor is it written.
            return Ok(true);
        }
        let Some(found) = file.dir.found(&file.name) else { return self.taken(file) };
        let directory = self.shared.tree.open(&file.dir)?;
        if is_whole(file, &found) {
            self.reuse(file, directory.as_fd(), &found)?;
            file.dir.settled(&file.name);
            return Ok(true);
        }
        file.dir.mark_changed();
        remove_tree(directory.as_fd(), &file.name).context("remove", || self.named(file))?;
        file.dir.settled(&file.name);
        Ok(false)
    }

    /// Whether an earlier holder, who may still be at work, has finished this very file: then it is taken.
    /// Linked and not renamed, since the kernel lets one rename between two directories happen at a time.
    /// Its time was set after its last byte was written: no more comes.
    fn taken(&self, file: &FileJob) -> Result<bool> {
        let Some((from, found)) = file.dir.remaining(&file.name) else { return Ok(false) };
        if !is_whole(file, &found) {
            return Ok(false);
        }
        let (name, directory) = (&*file.name, self.shared.tree.open(&file.dir)?);
        file.dir.mark_changed();
        let linked = match self.shared.fidelity.refused(Loss::HardLink) {
            Some(cause) => Err(cause),
            None => fs::linkat(&*from, name, &*directory, name, AtFlags::empty()),
        };
        match linked {
            // Its other name goes with the rest of what remains.
            Ok(()) => {}
            // A file system without links, or one that counts them.
            Err(_) if fs::renameat(&*from, name, &*directory, name).is_ok() => {}
            Err(_) => return Ok(false),
        }
        self.reuse(file, directory.as_fd(), &found)?;
        Ok(true)
    }

    fn reuse(&self, file: &FileJob, directory: BorrowedFd<'_>, found: &Stat) -> Result<()> {
        // The volume may refuse the owner: then it did so before, and this counts it again.
        let mut birth = InitialAttrs::of(found);
        let (fidelity, path) = (self.shared.fidelity, || file.path());
        fidelity.own_entry(directory, &file.name, &file.meta, &mut birth, false, path)?;
        self.shared.reused.fetch_add(1, Ordering::Relaxed);
        self.shared.progress.bytes_done(file.size);
        self.shared.progress.file_done();
        Ok(())
    }

    fn open_source(&self, file: &FileJob) -> Result<(OwnedFd, Option<Box<Xattrs>>)> {
        let fd = match self.shared.tree.source(&file.dir) {
            Some(directory) => openat(directory.as_fd(), &file.name, OFlags::RDONLY, Mode::empty()),
            None => {
                let root = self.shared.source.expect("only a directory source has files to copy");
                open_beneath(root, &file.path(), OFlags::RDONLY, Mode::empty())
            }
        };
        let fd = fd.context("open", || self.source_path(file))?;
        let xattrs = self.shared.fidelity.read_xattrs(&fd, || self.source_path(file), || file.path())?;
        Ok((fd, xattrs))
    }

    /// Creates the file with its owner.
    fn create(
        &self,
        file: &FileJob,
        xattrs: Option<Box<Xattrs>>,
        hold: &mut Hold<'_, Task>,
    ) -> Result<Target> {
        let directory = self.shared.tree.open(&file.dir)?;
        let creator = self.creator(&file.dir, &file.meta);
        let exclusive = if self.shared.exclusive { OFlags::EXCL } else { OFlags::empty() };
        let flags = OFlags::WRONLY | OFlags::CREATE | exclusive;
        // Attributes can only be set on what may be written.
        let writable = if xattrs.is_some() || file.meta.xattrs.is_some() { 0o200 } else { 0 };
        let mode = file.meta.mode & 0o777 | writable;
        file.dir.mark_changed();
        let open = |flags| {
            create_as(creator, || openat(directory.as_fd(), &file.name, flags, Mode::from_raw_mode(mode)))
        };
        let began = Instant::now();
        let mut flush = self.shared.flush;
        let mut new = match self.shared.direct.then(|| open(flags | OFlags::DIRECT)) {
            None | Some(Err(Errno::INVAL)) => open(flags),
            Some(new) => {
                // What is written past the page cache is at the server when the write returns.
                flush = Flush::Sync;
                new
            }
        };
        if let Err(Errno::EXIST) = new {
            // Made before the server forgot the directory, or by somebody who was let in: not to be opened.
            self.shared.tree.make_way(&file.dir, directory.as_fd(), &file.name)?;
            new = open(flags);
        }
        hold.created();
        self.shared.progress.observe(Operation::Create, began);
        let fd = new.map_err(|cause| self.shared.tree.not_made("create file", &file.path(), cause))?;
        let birth = file.dir.file_birth(&fd, mode, creator).context("stat", || self.named(file))?;
        let mode = self.shared.fidelity.own_file(&fd, &file.meta, birth, || file.path())?;
        Ok(Target { fd, birth, mode, xattrs, flush })
    }

    fn creator(&self, dir: &Dir, meta: &Meta) -> Option<Owner> {
        self.shared.tree.creator(dir, (meta.uid, meta.gid))
    }

    /// Gives a file the rest. Its time comes after the call that is the last to report a loss: a later run
    /// takes a file with the right time for whole.
    fn finish(&self, file: &FileJob, target: Target) -> Result<()> {
        let Target { fd, birth, mode, xattrs, flush } = target;
        let with_xattrs = xattrs.map(|xattrs| Meta { xattrs: Some(xattrs), ..file.meta.clone() });
        let meta = with_xattrs.as_ref().unwrap_or(&file.meta);
        let (fidelity, path, named) = (self.shared.fidelity, || file.path(), || self.named(file));
        fidelity.finish_attributes(&fd, meta, mode, birth, path)?;
        let began = Instant::now();
        match (flush, meta.mtime) {
            (Flush::Sync, _) | (_, None) => {
                fidelity.set_time(&fd, meta, path)?;
                close(fd).context("close", named)?;
            }
            (Flush::Close, Some(_)) => {
                let second = fd.try_clone().context("open", named)?;
                close(fd).context("close", named)?;
                fidelity.set_time(&second, meta, path)?;
                close(second).context("close", named)?;
            }
            (Flush::OnlyClose, Some(_)) => {
                close(fd).context("close", named)?;
                let directory = self.shared.tree.open(&file.dir)?;
                fidelity.set_entry_time(directory.as_fd(), &file.name, meta, false, path)?;
            }
        }
        self.shared.progress.observe(Operation::Close, began);
        self.shared.progress.file_done();
        tracing::debug!(path = %printable(&file.path()), bytes = file.size, "file");
        Ok(())
    }

    /// Copies so many bytes from the first offset of `source` to the second of `target`, and digests them; without
    /// `target` an earlier run has copied them.
    fn copy_range(
        &mut self,
        file: &FileJob,
        source: BorrowedFd<'_>,
        target: Option<&OwnedFd>,
        (mut from, mut to): (u64, u64),
        length: u64,
        digester: &mut Digester,
    ) -> Result<()> {
        if target.is_none() && !self.shared.tree.is_listed() {
            return Ok(());
        }
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(self.most_buffer);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let end = from + length;
        while from < end {
            if self.shared.cancel.is_set() {
                return Err(Error::cancelled());
            }
            let room = usize::try_from(end - from).unwrap_or(usize::MAX).min(self.most_buffer);
            let read =
                rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut self.buffer[..room], from))
                    .context("read", || self.source_path(file))?;
            if read == 0 {
                return Err(Error::new(Exit::Io, "read", "file was truncated while being read")
                    .on(self.source_path(file).as_path()));
            }
            let bytes = &self.buffer[..read];
            digester.add(bytes);
            target.map_or(Ok(()), |target| self.write_at(file, target, bytes, to))?;
            from += read as u64;
            to += read as u64;
        }
        if self.buffer.len() > self.kept_buffer {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Copies what is not a hole (lseek(2), `SEEK_DATA`).
    fn copy_data_only(
        &mut self,
        file: &FileJob,
        source: &OwnedFd,
        target: Option<&OwnedFd>,
        digester: &mut Digester,
    ) -> Result<()> {
        let seek = |position| match fs::seek(source, position) {
            Ok(offset) => Ok(Some(offset.min(file.size))),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error).context("seek in", || self.source_path(file)),
        };
        let mut segments = Vec::new();
        let mut offset = 0;
        while offset < file.size {
            let Some(start) = seek(SeekFrom::Data(offset))? else { break };
            let end = seek(SeekFrom::Hole(start))?.unwrap_or(file.size);
            segments.push((start, end));
            offset = end.max(start + 1);
        }
        for (start, end) in segments {
            digester.hole(start);
            self.copy_range(file, source.as_fd(), target, (start, start), end - start, digester)?;
        }
        let Some(target) = target else { return Ok(()) };
        fs::ftruncate(target, file.size).context("set size of", || self.named(file))
    }

    fn write_at(&self, file: &FileJob, target: &OwnedFd, bytes: &[u8], offset: u64) -> Result<()> {
        let (mut rest, mut offset) = (bytes, offset);
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(target, rest, offset))
                .context("write", || self.named(file))?;
            rest = &rest[written..];
            offset += written as u64;
        }
        self.shared.progress.bytes_done(bytes.len() as u64);
        Ok(())
    }

    fn named(&self, file: &FileJob) -> EntryName {
        self.shared.tree.entry(&file.path())
    }

    fn named_entry(&self, entry: &Entry) -> EntryName {
        self.shared.tree.entry(&entry.path())
    }

    fn source_path(&self, file: &FileJob) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.shared.source_path.join(std::ffi::OsStr::from_bytes(&file.path()))
    }
}

/// Whether what was found is this very file, finished. One of another mode, with further names or with
/// attributes may be another image's.
fn is_whole(file: &FileJob, found: &Stat) -> bool {
    let Meta { mtime, mode, xattrs, .. } = &file.meta;
    *mtime == Some(Time::of(found))
        && is_type(found, FileType::RegularFile)
        && (found.st_size as u64, found.st_mode & 0o7777, found.st_nlink) == (file.size, *mode, 1)
        && xattrs.is_none()
}
