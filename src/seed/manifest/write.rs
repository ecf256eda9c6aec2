//! Writes a manifest while its tree is staged: many writers, one file, and bounded memory.
//!
//! What is in a directory gathers at the directory, and is written when that is finished, or before where much has
//! gathered. So the order of directories is that in which they were finished.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::digest::Digester;
use super::line::{HEADER, Listed, ListedAttrs, write_directory, write_entry, write_left_out, write_set};
use crate::error::{Context, Result};
use crate::seed::source::entry::Meta;
use crate::volume::openat;
use crate::volume::records::{ManifestRef, Unkept, close};

/// What may gather at one directory, in bytes.
const MAX_BLOCK: usize = 64 << 10;
/// What is reserved for a directory's first entries, in bytes: a dozen.
const FIRST: usize = 1 << 10;
/// What may gather at all of them, in bytes; from there on every line is written at once.
const MAX_PENDING: usize = 1 << 20;
/// What is written in one go, in bytes: the largest write that an NFS mount sends at once (nfs(5), `wsize`).
const WRITE: usize = 1 << 20;

/// What has gathered at a directory.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    text: Vec<u8>,
    set: Option<ListedAttrs>,
}

/// A manifest that is being written.
pub(crate) struct ManifestWriter {
    pending: AtomicUsize,
    output: Mutex<Output>,
}

struct Output {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    digester: Digester,
    bytes: u64,
}

impl ManifestWriter {
    /// Begins one of this name in the directory `stage`, whose path is for messages; one that an earlier run left is
    /// replaced.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(stage: BorrowedFd<'_>, name: &str, path: &Path) -> Result<ManifestWriter> {
        let path = path.join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = openat(stage, name.as_bytes(), flags, Mode::RUSR | Mode::WUSR);
        let file = file.context("create manifest", path.as_path())?.into();
        let mut buffer = Vec::with_capacity(WRITE + MAX_BLOCK);
        buffer.extend_from_slice(HEADER);
        buffer.push(b'\n');
        let output = Output { file, path, buffer, digester: Digester::default(), bytes: 0 };
        Ok(ManifestWriter { pending: AtomicUsize::new(0), output: Mutex::new(output) })
    }

    /// Adds an entry to what has gathered at the directory with this path.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub(crate) fn list(
        &self,
        (path, gathered): (&[u8], &Mutex<Gathered>),
        name: &[u8],
        meta: &Meta,
        entry: Listed,
    ) -> Result<()> {
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = gathered.text.len();
        if before == 0 {
            // Instead of growing with every line: all threads share one allocator.
            gathered.text.reserve(FIRST);
        }
        let attrs = ListedAttrs { mode: meta.mode, uid: meta.uid, gid: meta.gid };
        // Another name has what the first one has, and a symbolic link no mode.
        let attrs = match (&entry, gathered.set) {
            (Listed::Link(_), _) => None,
            (Listed::Symlink(_), Some(set)) => Some(ListedAttrs { mode: set.mode, ..attrs }),
            _ => Some(attrs),
        };
        if attrs.is_some() && gathered.set != attrs {
            gathered.set = attrs;
            attrs.into_iter().for_each(|attrs| write_set(attrs, &mut gathered.text));
        }
        write_entry(name, &entry, &mut gathered.text);
        let added = gathered.text.len() - before;
        let pending = self.pending.fetch_add(added, Relaxed) + added;
        if gathered.text.len() < MAX_BLOCK && pending < MAX_PENDING {
            return Ok(());
        }
        self.write((path, None), &mut gathered)
    }

    /// Adds one entry below the directory with this path, once all others are.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub(crate) fn list_alone(&self, path: &[u8], name: &[u8], meta: &Meta, entry: Listed) -> Result<()> {
        let gathered = Mutex::default();
        self.list((path, &gathered), name, meta, entry)?;
        self.end_directory((path, &gathered), None)
    }

    /// Nothing more will be added at this directory, of which more is known now.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub(crate) fn end_directory(
        &self,
        (path, gathered): (&[u8], &Mutex<Gathered>),
        meta: Option<&Meta>,
    ) -> Result<()> {
        let attrs = meta.map(|meta| ListedAttrs { mode: meta.mode, uid: meta.uid, gid: meta.gid });
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        self.write((path, attrs), &mut gathered)
    }

    /// What the volume has at this path, and below it, is not from the seed. Said once all is staged.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub(crate) fn leave_out(&self, path: &[u8]) -> Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        write_left_out(path, &mut output.buffer);
        output.flush_if_full()
    }

    /// Ends it. Once what is staged is durable, it is too.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) fn close(self, unkept: Unkept) -> Result<ManifestRef> {
        let mut output = self.output.into_inner().unwrap_or_else(PoisonError::into_inner);
        output.flush()?;
        output.close(unkept)
    }

    fn write(&self, (path, attrs): (&[u8], Option<ListedAttrs>), gathered: &mut Gathered) -> Result<()> {
        // Its memory goes, too.
        let Gathered { text, .. } = std::mem::take(gathered);
        self.pending.fetch_sub(text.len(), Relaxed);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        write_directory(path, attrs, &mut output.buffer);
        output.buffer.extend_from_slice(&text);
        output.flush_if_full()
    }
}

/// Adds to the manifest `name` in the directory `stage` that what the volume has at these paths is not from the seed.
/// It is `listed`, and complete. Blocks while it is read once.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn leave_out<'p>(
    (stage, path): (BorrowedFd<'_>, &Path),
    name: &str,
    listed: &ManifestRef,
    paths: impl Iterator<Item = &'p [u8]>,
) -> Result<ManifestRef> {
    let path = path.join(name);
    let file = openat(stage, name.as_bytes(), OFlags::RDWR, Mode::empty());
    let mut file: File = file.context("open", path.as_path())?.into();
    let (mut digester, mut buffer) = (Digester::default(), vec![0; WRITE]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => digester.add(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read", path.as_path()),
        }
    }
    buffer.clear();
    paths.for_each(|path| write_left_out(path, &mut buffer));
    let mut output = Output { file, path, buffer, digester, bytes: listed.bytes };
    output.flush()?;
    output.close(listed.unkept)
}

impl Output {
    fn close(self, unkept: Unkept) -> Result<ManifestRef> {
        let Output { file, path, digester, bytes, .. } = self;
        close(file.into()).context("close", path.as_path())?;
        Ok(ManifestRef { digest: digester.finish(bytes).to_string().into(), bytes, unkept })
    }

    fn flush_if_full(&mut self) -> Result<()> {
        if self.buffer.len() < WRITE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer).context("write", self.path.as_path())?;
        self.digester.add(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
