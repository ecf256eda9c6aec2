//! What a writer does with one entry: the calls on the volume, in the order that keeps them few.
//!
//! A file is created with its mode, gets its owner while it is empty, its data, what else it carries,
//! and last its time: a staged file with the right time is therefore whole. Large files are written
//! in chunks by as many writers as come along; the last one finishes the file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::entry::{Meta, Time, Xattrs};
use super::fidelity::{Birth, Fidelity};
use super::slab::Piece;
use super::tree::{Dir, OpenDir, Tree};
use crate::cancel::Cancel;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::state::close;
use crate::volume::{is_type, open_beneath, openat, remove_tree, stat_entry};

/// A file as its producer describes it.
#[derive(Debug)]
pub struct File {
    /// Where it goes.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// What it carries.
    pub meta: Meta,
    /// Its length in bytes, holes included.
    pub size: u64,
}

/// A unit of work for a writer.
#[derive(Debug)]
pub enum Job {
    /// Nothing more will be added to this directory.
    Directory(Arc<Dir>),
    /// A whole file out of the source directory; `true` where it has holes.
    Copy(File, bool),
    /// A whole file out of a slab.
    Write(File, Piece),
    /// A part of a large file.
    Chunk(Arc<LargeFile>, Chunk),
    /// A symbolic link and where it points.
    Symlink(Entry, Box<[u8]>),
    /// A FIFO.
    Fifo(Entry),
    /// Another name for the file at a place that is already written.
    Link(Entry, Arc<Dir>, Box<[u8]>),
}

impl Job {
    /// Whether it writes a file.
    pub fn has_data(&self) -> bool {
        matches!(self, Job::Copy(..) | Job::Write(..) | Job::Chunk(..))
    }

    /// Whose lock its writer needs, as a number to group by: the directory's that it creates in, or
    /// the large file's that it writes a chunk of.
    pub fn group(&self) -> usize {
        Arc::as_ptr(match self {
            Job::Chunk(large, _) => return Arc::as_ptr(large).addr(),
            Job::Directory(dir) => dir,
            Job::Copy(file, _) | Job::Write(file, _) => &file.dir,
            Job::Symlink(entry, _) | Job::Fifo(entry) | Job::Link(entry, ..) => &entry.dir,
        })
        .addr()
    }
}

/// An entry without data.
#[derive(Debug)]
pub struct Entry {
    /// Where it goes.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// What it carries.
    pub meta: Meta,
}

/// A part of a large file.
#[derive(Debug)]
pub enum Chunk {
    /// So many bytes at this offset of the source's file.
    Copy {
        /// In bytes from the file's start.
        offset: u64,
        /// In bytes.
        length: u64,
    },
    /// This piece goes to this offset.
    Write {
        /// In bytes from the file's start.
        offset: u64,
        /// The data.
        piece: Piece,
    },
    /// The producer has handed out all others.
    Last,
}

/// A file that several writers write at once.
#[derive(Debug)]
pub struct LargeFile {
    file: File,
    /// Chunks that are not written; the last one finishes the file.
    pending: AtomicU64,
    opened: Mutex<Option<Opened>>,
}

#[derive(Debug, Clone)]
enum Opened {
    Reused,
    Open(Arc<Handles>),
}

#[derive(Debug)]
struct Handles {
    source: Option<OwnedFd>,
    target: Target,
}

/// A file that was created and is not finished.
#[derive(Debug)]
struct Target {
    fd: OwnedFd,
    birth: Birth,
    /// The mode that it may have, by its owner.
    mode: u32,
    /// The source's, where it is a directory.
    xattrs: Option<Box<Xattrs>>,
}

impl LargeFile {
    /// A file of which `chunks` will come.
    pub fn new(file: File, chunks: u64) -> Arc<LargeFile> {
        Arc::new(LargeFile { file, pending: AtomicU64::new(chunks), opened: Mutex::default() })
    }

    /// One more chunk will come.
    pub fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }
}

/// What all writers of a seed share.
pub struct Shared<'a> {
    /// The stage.
    pub tree: &'a Tree,
    /// The source directory, where it is one.
    pub source: Option<BorrowedFd<'a>>,
    /// The source directory's path, for messages.
    pub source_path: PathBuf,
    /// What could not be kept.
    pub fidelity: &'a Fidelity,
    /// How far the seed is.
    pub progress: &'a Progress,
    /// Asked between two pieces of a large file.
    pub cancel: &'a Cancel,
    /// Files that an earlier run had finished.
    pub reused: AtomicU64,
}

/// One writer: the shared parts and a buffer of its own.
pub struct Writer<'a> {
    shared: &'a Shared<'a>,
    buffer: Vec<u8>,
    most_buffer: usize,
}

impl<'a> Writer<'a> {
    /// A writer whose buffer grows to `most_buffer` bytes at the most.
    pub fn new(shared: &'a Shared<'a>, most_buffer: usize) -> Writer<'a> {
        Writer { shared, buffer: Vec::new(), most_buffer }
    }

    /// Does one job.
    ///
    /// # Errors
    /// The first thing that went wrong with it.
    pub fn run(&mut self, job: Job) -> Result<()> {
        let tree = self.shared.tree;
        match job {
            Job::Directory(dir) => {
                tree.open(&dir)?;
                self.release(&dir)
            }
            Job::Copy(file, holes) => {
                self.copy(&file, holes)?;
                self.release(&file.dir)
            }
            Job::Write(file, piece) => {
                self.write(&file, &piece)?;
                self.release(&file.dir)
            }
            Job::Chunk(large, chunk) => self.chunk(&large, &chunk),
            Job::Symlink(entry, target) => {
                self.make("create symbolic link", &entry, |fd| fs::symlinkat(&*target, fd, &*entry.name))?;
                self.finish_special(&entry, true)
            }
            Job::Fifo(entry) => {
                let mode = Mode::from_raw_mode(entry.meta.mode & 0o777);
                self.make("create FIFO", &entry, |fd| {
                    fs::mknodat(fd, &*entry.name, FileType::Fifo, mode, 0)
                })?;
                self.finish_special(&entry, false)
            }
            Job::Link(entry, dir, name) => {
                let target = tree.open(&dir)?;
                let flags = AtFlags::empty();
                self.make("create hard link", &entry, |fd| {
                    fs::linkat(target.as_fd(), &*name, fd, &*entry.name, flags)
                })?;
                self.release(&entry.dir)
            }
        }
    }

    fn copy(&mut self, file: &File, holes: bool) -> Result<()> {
        let directory = self.shared.tree.open(&file.dir)?;
        if self.reusable(&directory, file)? {
            return Ok(());
        }
        let (source, xattrs) = self.open_source(file)?;
        let target = self.create(&directory, file, xattrs)?;
        if holes {
            self.copy_data_only(file, &source, &target.fd)?;
        } else {
            self.copy_range(file, &source, &target.fd, 0, file.size)?;
        }
        self.finish(file, target)
    }

    fn write(&mut self, file: &File, piece: &Piece) -> Result<()> {
        let directory = self.shared.tree.open(&file.dir)?;
        if self.reusable(&directory, file)? {
            return Ok(());
        }
        let target = self.create(&directory, file, None)?;
        self.write_at(file, &target.fd, piece.bytes(), 0)?;
        self.finish(file, target)
    }

    fn chunk(&mut self, large: &LargeFile, chunk: &Chunk) -> Result<()> {
        let opened = self.open_large(large, matches!(chunk, Chunk::Copy { .. }))?;
        if let Opened::Open(handles) = &opened {
            match chunk {
                Chunk::Copy { offset, length } => {
                    let source = handles.source.as_ref().expect("a copied file's source is opened with it");
                    self.copy_range(&large.file, source, &handles.target.fd, *offset, *length)?;
                }
                Chunk::Write { offset, piece } => {
                    self.write_at(&large.file, &handles.target.fd, piece.bytes(), *offset)?;
                }
                Chunk::Last => {}
            }
        }
        // Before this chunk counts as done: whoever finishes the file must be its only user.
        drop(opened);
        if large.pending.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let opened = large.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Opened::Open(handles)) = opened {
            let Handles { target, .. } =
                Arc::into_inner(handles).expect("every other chunk let go of its handles before it was done");
            // A hole at the end is not written by anybody.
            fs::ftruncate(&target.fd, large.file.size).context("set size of", || self.path(&large.file))?;
            self.finish(&large.file, target)?;
        }
        self.release(&large.file.dir)
    }

    fn open_large(&mut self, large: &LargeFile, copied: bool) -> Result<Opened> {
        let mut opened = large.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let file = &large.file;
        let directory = self.shared.tree.open(&file.dir)?;
        let new = if self.reusable(&directory, file)? {
            Opened::Reused
        } else {
            let (source, xattrs) = if copied { Some(self.open_source(file)?) } else { None }.unzip();
            let target = self.create(&directory, file, xattrs.flatten())?;
            Opened::Open(Arc::new(Handles { source, target }))
        };
        Ok(opened.insert(new).clone())
    }

    /// Whether an earlier run has finished this very file. What else stands in its place is removed.
    fn reusable(&self, directory: &OpenDir, file: &File) -> Result<bool> {
        if !self.shared.tree.resumed() {
            return Ok(false);
        }
        let found = stat_entry(directory.as_fd(), &file.name).context("stat", || self.path(file))?;
        let Some(found) = found else { return Ok(false) };
        let Meta { mtime, mode, xattrs, .. } = &file.meta;
        // A file of another mode, with further names or with attributes may be another image's.
        let same = *mtime == Some(Time::of(&found))
            && is_type(&found, FileType::RegularFile)
            && (found.st_size as u64, found.st_mode & 0o7777, found.st_nlink) == (file.size, *mode, 1)
            && xattrs.is_none();
        if same {
            // The volume may refuse the owner: then it did so before, and this counts it again.
            let birth = Birth::of(&found);
            self.shared
                .fidelity
                .own_entry(directory.as_fd(), &file.name, &file.meta, birth, || self.path(file))?;
            self.shared.reused.fetch_add(1, Ordering::Relaxed);
            self.shared.progress.bytes_done(file.size);
            self.shared.progress.file_done();
            return Ok(true);
        }
        remove_tree(directory.as_fd(), &file.name).context("remove", || self.path(file))?;
        Ok(false)
    }

    fn open_source(&self, file: &File) -> Result<(OwnedFd, Option<Box<Xattrs>>)> {
        let fd = match self.shared.tree.source(&file.dir) {
            Some(directory) => openat(directory.as_fd(), &file.name, OFlags::RDONLY, Mode::empty()),
            None => {
                let root = self.shared.source.expect("only a directory source has files to copy");
                open_beneath(root, &file.dir.child_path(&file.name), OFlags::RDONLY, Mode::empty())
            }
        };
        let fd = fd.context("open", || self.source_path(file))?;
        let xattrs = self.shared.fidelity.read_xattrs(&fd, || self.source_path(file))?;
        Ok((fd, xattrs))
    }

    /// Creates the file with its owner.
    fn create(&self, directory: &OpenDir, file: &File, xattrs: Option<Box<Xattrs>>) -> Result<Target> {
        // Without O_EXCL: nobody else can reach the stage, and it would cost an NFS client a SETATTR.
        let flags = OFlags::WRONLY | OFlags::CREATE;
        // Attributes can only be set on what may be written.
        let writable = if xattrs.is_some() || file.meta.xattrs.is_some() { 0o200 } else { 0 };
        let mode = file.meta.mode & 0o777 | writable;
        let created = openat(directory.as_fd(), &file.name, flags, Mode::from_raw_mode(mode));
        let fd = created.context("create file", || self.path(file))?;
        let birth = directory.birth_of(&fd, mode).context("stat", || self.path(file))?;
        let mode = self.shared.fidelity.own_file(&fd, &file.meta, birth, || self.path(file))?;
        Ok(Target { fd, birth, mode, xattrs })
    }

    fn finish(&self, file: &File, target: Target) -> Result<()> {
        let Target { fd, birth, mode, xattrs } = target;
        let with_xattrs = xattrs.map(|xattrs| Meta { xattrs: Some(xattrs), ..file.meta.clone() });
        let meta = with_xattrs.as_ref().unwrap_or(&file.meta);
        self.shared.fidelity.finish_file(&fd, meta, mode, birth, || self.path(file))?;
        close(fd).context("close", || self.path(file))?;
        self.shared.progress.file_done();
        tracing::debug!(path = %printable(&file.dir.child_path(&file.name)), bytes = file.size, "file");
        Ok(())
    }

    fn copy_range(
        &mut self,
        file: &File,
        source: &OwnedFd,
        target: &OwnedFd,
        start: u64,
        length: u64,
    ) -> Result<()> {
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(self.most_buffer);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let mut offset = start;
        let end = start + length;
        while offset < end {
            if self.shared.cancel.is_set() {
                return Err(Error::cancelled());
            }
            let room = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.most_buffer);
            let read =
                rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut self.buffer[..room], offset))
                    .context("read", || self.source_path(file))?;
            if read == 0 {
                return Err(Error::new(Exit::Io, "read", "it became shorter while it was read")
                    .on(self.source_path(file).as_path()));
            }
            self.write_at(file, target, &self.buffer[..read], offset)?;
            offset += read as u64;
        }
        Ok(())
    }

    /// Copies what is not a hole (lseek(2), `SEEK_DATA`).
    fn copy_data_only(&mut self, file: &File, source: &OwnedFd, target: &OwnedFd) -> Result<()> {
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
            self.copy_range(file, source, target, start, end - start)?;
        }
        fs::ftruncate(target, file.size).context("set size of", || self.path(file))
    }

    fn write_at(&self, file: &File, target: &OwnedFd, bytes: &[u8], offset: u64) -> Result<()> {
        let (mut rest, mut offset) = (bytes, offset);
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(target, rest, offset))
                .context("write", || self.path(file))?;
            rest = &rest[written..];
            offset += written as u64;
        }
        self.shared.progress.bytes_done(bytes.len() as u64);
        Ok(())
    }

    /// Makes an entry without data; in a resumed tree it replaces what is there.
    fn make(
        &self,
        act: &'static str,
        entry: &Entry,
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let directory = self.shared.tree.open(&entry.dir)?;
        let mut made = make(directory.as_fd());
        if made == Err(Errno::EXIST) && self.shared.tree.resumed() {
            made = remove_tree(directory.as_fd(), &entry.name).and_then(|()| make(directory.as_fd()));
        }
        made.context(act, || self.entry_path(entry))?;
        self.shared.progress.touch();
        Ok(())
    }

    fn finish_special(&self, entry: &Entry, is_link: bool) -> Result<()> {
        let directory = self.shared.tree.open(&entry.dir)?;
        let path = || self.entry_path(entry);
        self.shared.fidelity.finish_special(directory.as_fd(), &entry.name, &entry.meta, is_link, path)?;
        self.release(&entry.dir)
    }

    fn release(&self, dir: &Arc<Dir>) -> Result<()> {
        self.shared.tree.release(dir, self.shared.fidelity)
    }

    fn path(&self, file: &File) -> PathBuf {
        self.shared.tree.full_path(&file.dir.child_path(&file.name))
    }

    fn entry_path(&self, entry: &Entry) -> PathBuf {
        self.shared.tree.full_path(&entry.dir.child_path(&entry.name))
    }

    fn source_path(&self, file: &File) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.shared.source_path.join(std::ffi::OsStr::from_bytes(&file.dir.child_path(&file.name)))
    }
}
