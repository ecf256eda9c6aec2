//! Compares a volume with its manifest: directories are listed in parallel, and a file is opened only where its data
//! has to tell.
//!
//! Changes nothing, follows no link and enters no other mount. What an app does meanwhile may be seen or not.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::compare::{Content, Difference, content, has_attrs};
use super::digest::{DataDigest, Digester};
use super::line::{Listed, ListedAttrs};
use super::read::{ListedEntries, ListedEntry, Lookup, Manifest, NameRange, split};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::seed::stage::common::{full_path, join};
use crate::system::parallel::{Room, parts, work_off};
use crate::volume::records::DIRECTORY;
use crate::volume::{Volume, is_nested, is_type, list, open_in_mount, stat_entry};

/// Bytes of lines of which entries are in memory: those of all directories that are looked at, and those of a part of a
/// large one. With what is found of them they take four times as much.
const ENTRIES: u64 = 6 << 20;
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
    room: Room,
    compared: AtomicU64,
    extra: AtomicU64,
    differences: Mutex<Vec<(Box<[u8]>, Difference)>>,
}

/// What is left to do.
enum Part {
    /// A directory, by its path, and which of the ranges of its names.
    Directory(Box<[u8]>, usize),
    /// Files of one that is open.
    Files(Arc<OwnedFd>, Vec<Candidate>),
}

/// A file or link of which only its content can tell whether it is as the seed had it.
struct Candidate {
    path: Vec<u8>,
    listed: Listed,
    has_attrs: bool,
}

/// A directory of the volume, and what was found of one range of its names.
struct Looked {
    directory: Arc<OwnedFd>,
    stat: Stat,
    /// Entries of the seed.
    compared: u64,
    /// Names that are not from the seed.
    extra: u64,
    differences: Vec<(Box<[u8]>, Difference)>,
    /// Directories that come next.
    directories: Vec<Vec<u8>>,
    /// What has to be read.
    files: Vec<Candidate>,
}

impl Looked {
    fn at(directory: OwnedFd, stat: Stat, compared: u64) -> Looked {
        let (differences, directories, files) = (Vec::new(), Vec::new(), Vec::new());
        let directory = Arc::new(directory);
        Looked { directory, stat, compared, extra: 0, differences, directories, files }
    }

    fn differs(&mut self, path: Vec<u8>, difference: Difference) {
        self.differences.push((path.into(), difference));
    }
}

impl<'a> Verification<'a> {
    /// Of all of a volume, whose manifest it is. With `reads_all` the data of every file is read.
    pub(crate) fn new(volume: &'a Volume, manifest: &'a Manifest, reads_all: bool) -> Verification<'a> {
        let (compared, extra) = (AtomicU64::new(0), AtomicU64::new(0));
        let state = volume.state().path.strip_prefix(volume.path()).unwrap_or(Path::new(DIRECTORY));
        let state = state.as_os_str().as_bytes().to_vec();
        let (room, differences) = (Room::new(ENTRIES), Mutex::default());
        Verification {
            volume,
            manifest,
            reads_all,
            progress: None,
            state,
            room,
            compared,
            extra,
            differences,
        }
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
        let first = vec![Part::Directory(path.into(), 0)];
        work_off(threads, first, |part, more| {
            self.progress.inspect(|progress| progress.touch());
            match part {
                Part::Directory(path, number) => self.directory((path, number), more),
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

    fn directory(&self, (path, number): (Box<[u8]>, usize), more: &mut Vec<Part>) -> Result<()> {
        let mut ranges = self.manifest.ranges(&path, ENTRIES);
        let (count, range) = (ranges.len(), ranges.swap_remove(number));
        let _room = self.room.take(range.bytes);
        let look = || self.look(&path, &range);
        let looked = match look()? {
            // A server may also have forgotten a directory that is still there.
            Err(Errno::STALE) => look()?,
            looked => looked,
        };
        let looked = match looked {
            // It was there a moment ago. What is mounted there is not the seed's.
            Err(Errno::NOENT | Errno::STALE) => return self.differs(&path, Difference::Missing, number),
            Err(Errno::NOTDIR | Errno::LOOP) => return self.differs(&path, Difference::Type, number),
            Err(Errno::XDEV) => return Ok(()),
            looked => looked.context("read directory", || full_path(self.volume.path(), &path))?,
        };
        let Looked { directory, stat, compared, extra, differences, directories, files } = looked;
        if let Some(attrs) = self.manifest.directory(&path).and_then(|listed| listed.attrs)
            && !has_attrs(attrs, &stat, self.manifest.unkept)
        {
            self.differs(&path, Difference::Meta, number)?;
        }
        self.compared.fetch_add(compared, Relaxed);
        self.extra.fetch_add(extra, Relaxed);
        self.told().extend(differences);
        if number + 1 < count {
            more.push(Part::Directory(path, number + 1));
        }
        more.extend(directories.into_iter().map(|path| Part::Directory(path.into(), 0)));
        // Taken first: what is to be read is not to pile up.
        more.extend(parts(files, BATCH).map(|files| Part::Files(Arc::clone(&directory), files)));
        Ok(())
    }

    /// Opens the directory at `path`, lists it, and compares what has a name in this range.
    fn look(&self, path: &[u8], range: &NameRange) -> Result<rustix::io::Result<Looked>> {
        let here: &[u8] = if path.is_empty() { b"." } else { path };
        let opened = open_in_mount(self.volume.root(), here, OFlags::DIRECTORY | OFlags::RDONLY)
            // Before it is listed: that changes its time of access, and an NFS client asks for it again.
            .and_then(|directory| fs::fstat(&directory).map(|stat| (directory, stat)));
        let (directory, stat) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let mut entries = self.entries(path, range).map_err(unreadable)?;
        let mut directories = self.directories(path, range);
        let mut looked = Looked::at(directory, stat, (entries.len() + directories.len()) as u64);
        let opened = Arc::clone(&looked.directory);
        let listed = list(opened.as_fd(), &mut |name, _| {
            if !range.contains(name) {
                return Ok(());
            }
            let (is_directory, entry) = match directories.remove(name) {
                true => (true, None),
                false => (false, entries.remove(name)),
            };
            // Made for few of them: all threads share one allocator.
            let path = || join(path, name);
            if !is_directory && entry.is_none() {
                looked.extra += u64::from(self.is_extra(&path()));
                return Ok(());
            }
            match (stat_entry(opened.as_fd(), name)?, entry) {
                (None, _) => looked.differs(path(), Difference::Missing),
                (Some(stat), Some(entry)) => self.compare(&path, entry, &stat, &mut looked),
                (Some(stat), None) if !is_type(&stat, FileType::Directory) => {
                    looked.differs(path(), Difference::Type);
                }
                (Some(_), None) => looked.directories.push(path()),
            }
            Ok(())
        });
        let missing = entries.keys().map(|name| &**name).chain(directories);
        missing.for_each(|name| looked.differs(join(path, name), Difference::Missing));
        Ok(listed.map(|()| looked))
    }

    /// The directories that the seed has in the one at `path`.
    fn directories(&self, path: &[u8], range: &NameRange) -> HashSet<&[u8]> {
        let listed = self.manifest.directory(path).into_iter().flat_map(|listed| &listed.directories);
        let is_in = |name: &&[u8]| range.contains(name) && !self.manifest.is_left_out(&join(path, name));
        listed.map(|name| &**name).filter(is_in).collect()
    }

    /// All else that the seed has there. A further name stands for its first, where that is listed.
    fn entries(&self, path: &[u8], range: &NameRange) -> io::Result<ListedEntries> {
        let (mut entries, mut links) = (self.manifest.entries(path, range)?, Lookup::of(self.manifest));
        for entry in entries.values_mut().filter(|entry| matches!(entry.listed, Listed::Link(_))) {
            if let Some(first) = links.first_name(entry.clone())? {
                *entry = first;
            }
        }
        Ok(entries)
    }

    fn compare(&self, path: &dyn Fn() -> Vec<u8>, entry: ListedEntry, stat: &Stat, looked: &mut Looked) {
        let ListedEntry { listed, attrs } = entry;
        let has_attrs = self.has_attrs(attrs, stat);
        match content(&listed, stat, self.manifest.unkept) {
            // What it is a further name of is not listed: nothing is known of it.
            _ if matches!(listed, Listed::Link(_)) => {}
            Content::Differs(difference) => looked.differs(path(), difference),
            Content::Same if !self.reads_all || !matches!(listed, Listed::File { .. }) => {
                if !has_attrs {
                    looked.differs(path(), Difference::Meta);
                }
            }
            Content::Same | Content::Open => {
                looked.files.push(Candidate { path: path(), listed, has_attrs });
            }
        }
    }

    /// Whether what is at this path, and not from the seed, counts.
    fn is_extra(&self, path: &[u8]) -> bool {
        !self.manifest.is_left_out(path) && *path != *self.state && !is_nested(path)
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
            Ok(true) => return self.differs(&file.path, Difference::Meta, 0),
            Ok(false) => return self.differs(&file.path, Difference::Modified, 0),
            Err(Errno::NOENT | Errno::STALE) => return self.differs(&file.path, Difference::Missing, 0),
            Err(Errno::LOOP | Errno::INVAL | Errno::NXIO) => {
                return self.differs(&file.path, Difference::Type, 0);
            }
            Err(error) => return Err(error).context("read", || full_path(self.volume.path(), &file.path)),
        }
        Ok(())
    }

    /// Said once of what is looked at in several parts: with the first.
    fn differs(&self, path: &[u8], difference: Difference, part: usize) -> Result<()> {
        if part == 0 {
            self.told().push((path.into(), difference));
        }
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, Vec<(Box<[u8]>, Difference)>> {
        self.differences.lock().unwrap_or_else(PoisonError::into_inner)
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
