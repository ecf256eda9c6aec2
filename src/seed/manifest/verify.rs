//! Compares a volume with its manifest: directories are listed in parallel, and a file is opened only where its data
//! has to tell.
//!
//! Changes nothing, follows no link and enters no other mount. What an app does meanwhile may be seen or not.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::compare::{Content, Difference, content, has_attrs};
use super::digest::{DataDigest, Digester};
use super::line::{Listed, ListedAttrs};
use super::read::{ListedEntry, Lookup, Manifest, split};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::seed::stage::common::{full_path, join};
use crate::system::parallel::work_off;
use crate::volume::records::DIRECTORY;
use crate::volume::{Volume, entries, is_nested, is_type, open_in_mount};

/// What is in a directory of the volume.
type Found = HashMap<Box<[u8]>, Stat>;

/// Files whose data is read in one go by one thread.
const BATCH: usize = 16;
/// The buffer for a file's data, in bytes: the largest read that an NFS mount sends at once (nfs(5), `rsize`).
const READ: usize = 1 << 20;
/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Entries of the seed that were compared.
    pub compared: u64,
    /// Names on the volume that are not from the seed; what is below such a directory does not count.
    pub extra: u64,
    /// What is not as the seed had it, by path. Of a directory that is missing only itself.
    pub differences: Vec<(Box<[u8]>, Difference)>,
}

/// A comparison that is under way.
pub(crate) struct Verification<'a> {
    volume: &'a Volume,
    manifest: &'a Manifest,
    reads_all: bool,
    progress: Option<&'a Progress>,
    /// The state directory, below the volume's root.
    state: Vec<u8>,
    compared: AtomicU64,
    extra: AtomicU64,
    differences: Mutex<Vec<(Box<[u8]>, Difference)>>,
}

/// What is left to do.
enum Part {
    /// A directory, by its path.
    Directory(Box<[u8]>),
    /// Files of one that is open.
    Files(Arc<OwnedFd>, Vec<Candidate>),
}

/// A file or link of which only its content can tell whether it is as the seed had it.
struct Candidate {
    path: Vec<u8>,
    listed: Listed,
    has_attrs: bool,
}

impl<'a> Verification<'a> {
    /// Of all of a volume, whose manifest it is. With `reads_all` the data of every file is read.
    pub(crate) fn new(volume: &'a Volume, manifest: &'a Manifest, reads_all: bool) -> Verification<'a> {
        let (compared, extra) = (AtomicU64::new(0), AtomicU64::new(0));
        let state = volume.state().path.strip_prefix(volume.path()).unwrap_or(Path::new(DIRECTORY));
        let state = state.as_os_str().as_bytes().to_vec();
        let differences = Mutex::default();
        Verification { volume, manifest, reads_all, progress: None, state, compared, extra, differences }
    }

    /// The same, and `progress` hears of every directory.
    pub(crate) fn telling(self, progress: &'a Progress) -> Verification<'a> {
        Verification { progress: Some(progress), ..self }
    }

    /// Compares, on so many threads. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// When something on the volume cannot be read.
    pub(crate) fn run(self, threads: usize) -> Result<Comparison> {
        self.run_below(b"", threads)
    }

    /// The same of the directory at `path`, and what is below it.
    ///
    /// # Errors
    /// As [`Verification::run`].
    pub(crate) fn run_below(self, path: &[u8], threads: usize) -> Result<Comparison> {
        let first = vec![Part::Directory(path.into())];
        work_off(threads, first, |part, more| {
            self.progress.inspect(|progress| progress.touch());
            match part {
                Part::Directory(path) => self.directory(path, more),
                Part::Files(directory, files) => {
                    let mut buffer = Vec::new();
                    files.into_iter().try_for_each(|file| self.read(directory.as_fd(), &file, &mut buffer))
                }
            }
        })?;
        let mut differences = self.differences.into_inner().unwrap_or_else(PoisonError::into_inner);
        differences.sort_unstable();
        let [compared, extra] = [self.compared, self.extra].map(AtomicU64::into_inner);
        Ok(Comparison { compared, extra, differences })
    }

    fn directory(&self, path: Box<[u8]>, more: &mut Vec<Part>) -> Result<()> {
        let differs = |difference| {
            self.differs(&path, difference);
            Ok(())
        };
        let list = || self.list(&path);
        // A server may also have forgotten a directory that is still there.
        let listed = list().or_else(|error| if error == Errno::STALE { list() } else { Err(error) });
        let (directory, stat, mut found) = match listed {
            // It was there a moment ago. What is mounted there is not the seed's.
            Err(Errno::NOENT | Errno::STALE) => return differs(Difference::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => return differs(Difference::Type),
            Err(Errno::XDEV) => return Ok(()),
            listed => listed.context("read directory", || full_path(self.volume.path(), &path))?,
        };
        if let Some(attrs) = self.manifest.directory(&path).and_then(|listed| listed.attrs)
            && !has_attrs(attrs, &stat, self.manifest.unkept)
        {
            self.differs(&path, Difference::Meta);
        }
        let directory = Arc::new(directory);
        self.directories_in(&path, &mut found, more);
        self.entries_in(&path, &directory, &mut found, more)?;
        found.retain(|name, _| {
            let child = join(&path, name);
            !self.manifest.is_left_out(&child) && child != self.state && !is_nested(&child)
        });
        self.extra.fetch_add(found.len() as u64, Relaxed);
        Ok(())
    }

    /// Opens the directory at `path`, and lists it.
    fn list(&self, path: &[u8]) -> rustix::io::Result<(OwnedFd, Stat, Found)> {
        let here: &[u8] = if path.is_empty() { b"." } else { path };
        let directory = open_in_mount(self.volume.root(), here, OFlags::DIRECTORY | OFlags::RDONLY)?;
        // Before it is listed: that changes its time of access, and an NFS client asks for it again.
        let stat = fs::fstat(&directory)?;
        let found = entries(directory.as_fd())?;
        Ok((directory, stat, found))
    }

    /// The directories that the seed has in the one at `path`; what is compared is taken out of `found`.
    fn directories_in(&self, path: &[u8], found: &mut Found, more: &mut Vec<Part>) {
        for name in self.manifest.directory(path).into_iter().flat_map(|listed| &listed.directories) {
            let child = join(path, name);
            if self.manifest.is_left_out(&child) {
                continue;
            }
            self.compared.fetch_add(1, Relaxed);
            match found.remove(name) {
                None => self.differs(&child, Difference::Missing),
                Some(stat) if !is_type(&stat, FileType::Directory) => self.differs(&child, Difference::Type),
                Some(_) => more.push(Part::Directory(child.into())),
            }
        }
    }

    /// The same for all else in it.
    fn entries_in(
        &self,
        path: &[u8],
        directory: &Arc<OwnedFd>,
        found: &mut Found,
        more: &mut Vec<Part>,
    ) -> Result<()> {
        let (mut files, mut links) = (Vec::new(), Lookup::of(self.manifest));
        for (name, entry) in self.manifest.entries(path).map_err(unreadable)? {
            self.compared.fetch_add(1, Relaxed);
            let child = join(path, &name);
            let Some(stat) = found.remove(&name) else {
                self.differs(&child, Difference::Missing);
                continue;
            };
            // What it is a further name of is not listed: nothing is known of it.
            let first = links.first_name(entry).map_err(unreadable)?;
            let Some(ListedEntry { listed, attrs }) = first else { continue };
            let has_attrs = self.has_attrs(attrs, &stat);
            match content(&listed, &stat, self.manifest.unkept) {
                Content::Differs(difference) => self.differs(&child, difference),
                Content::Same if !self.reads_all || !matches!(listed, Listed::File { .. }) => {
                    if !has_attrs {
                        self.differs(&child, Difference::Meta);
                    }
                }
                Content::Same | Content::Open => files.push(Candidate { path: child, listed, has_attrs }),
            }
        }
        while !files.is_empty() {
            let rest = files.split_off(files.len().min(BATCH));
            more.push(Part::Files(Arc::clone(directory), std::mem::replace(&mut files, rest)));
        }
        Ok(())
    }

    fn has_attrs(&self, attrs: Option<ListedAttrs>, stat: &Stat) -> bool {
        attrs.is_none_or(|attrs| has_attrs(attrs, stat, self.manifest.unkept))
    }

    fn read(&self, directory: BorrowedFd<'_>, file: &Candidate, buffer: &mut Vec<u8>) -> Result<()> {
        let (_, name) = split(&file.path);
        let same = match &file.listed {
            Listed::Symlink(target) => {
                fs::readlinkat(directory, name, Vec::new()).map(|found| found.as_bytes() == &**target)
            }
            // Without times a listing is all that is asked for.
            Listed::File { time, .. }
                if !self.reads_all && (time.is_none() || self.manifest.unkept.times) =>
            {
                Ok(true)
            }
            Listed::File { size, digest, .. } => {
                digest_of(directory, name, *size, buffer).map(|found| found == Some(*digest))
            }
            Listed::Link(_) | Listed::Fifo => Ok(true),
        };
        match same {
            Ok(true) if file.has_attrs => {}
            Ok(true) => self.differs(&file.path, Difference::Meta),
            Ok(false) => self.differs(&file.path, Difference::Modified),
            Err(Errno::NOENT | Errno::STALE) => self.differs(&file.path, Difference::Missing),
            Err(Errno::LOOP | Errno::INVAL | Errno::NXIO) => self.differs(&file.path, Difference::Type),
            Err(error) => return Err(error).context("read", || full_path(self.volume.path(), &file.path)),
        }
        Ok(())
    }

    fn differs(&self, path: &[u8], difference: Difference) {
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        differences.push((path.into(), difference));
    }
}

/// Whether the volume has at `path` the file that a seed has there; nothing where one of them has nothing there, or the
/// seed no file.
///
/// # Errors
/// When the volume's cannot be read.
pub(crate) fn has_file(volume: &Volume, manifest: &Manifest, path: &Path) -> Result<Option<bool>> {
    let name = path.as_os_str().as_bytes();
    let mut lookup = Lookup::of(manifest);
    let entry = lookup.entry(name).and_then(|entry| entry.map_or(Ok(None), |it| lookup.first_name(it)));
    let Ok(Some(ListedEntry { listed: Listed::File { size, digest, .. }, .. })) = entry else {
        return Ok(None);
    };
    let Some(found) = volume.find(path)? else { return Ok(None) };
    if !is_type(&found, FileType::RegularFile) || found.st_size as u64 != size {
        return Ok(Some(false));
    }
    let there = digest_of(volume.root(), name, size, &mut Vec::new());
    Ok(Some(there.context("read", || volume.path().join(path))? == Some(digest)))
}

/// The error for a manifest that could be read before.
pub(crate) fn unreadable(error: io::Error) -> Error {
    Error::os("read", "manifest", error)
}

/// The digest of a file of the volume; nothing where it has another size by now.
pub(crate) fn digest_of(
    directory: BorrowedFd<'_>,
    name: &[u8],
    size: u64,
    buffer: &mut Vec<u8>,
) -> rustix::io::Result<Option<DataDigest>> {
    let file = open_in_mount(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    let stat = fs::fstat(&file)?;
    if !is_type(&stat, FileType::RegularFile) {
        return Err(Errno::LOOP);
    }
    // stat(2) counts blocks of 512 bytes.
    let has_holes = (stat.st_blocks as u64).saturating_mul(512) < size;
    buffer.resize(READ.min(usize::try_from(size).unwrap_or(READ)).max(1), 0);
    let (mut digester, mut at) = (Digester::of_size(size), 0);
    while at < size {
        if has_holes {
            at = match fs::seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                // It does not know of holes.
                Err(_) => at,
            };
            digester.hole(at);
        }
        if at == size {
            break;
        }
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut *buffer, at))?;
        if read == 0 {
            return Ok(None);
        }
        digester.add(&buffer[..read]);
        at += read as u64;
    }
    Ok((at == size).then(|| digester.finish(size)))
}
