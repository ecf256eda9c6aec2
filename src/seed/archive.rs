//! A tar archive as the source: every member checked before anything of it is written.
//!
//! What no seed may hold refuses the whole archive, and since nothing is published before its end
//! mark and its checksums were read, nothing of a refused archive ever shows.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::Wishes;
use super::entry::Meta;
use super::extension::Segment;
use super::job::{CHUNK, Chunk, Data, Entry, File, Job, LargeFile};
use super::members::{Fault, Kind, Member, Stream, Tar};
use super::names::{Known, LONGEST_PATH, Names, components};
use super::pipeline::Feed;
use super::slab::{Piece, Pool, SLAB};
use super::tree::Dir;
use crate::error::{Error, Quoted, Result, lowercase_first, printable};
use crate::exit::Exit;

/// A slow source's files are written after so long, even if their slab has room left.
const SLAB_PATIENCE: Duration = Duration::from_millis(50);

/// Feeds every member of the tar that `source` holds. `path` is for messages. Returns what the
/// archive says of its root, if it does. Where `idle` says that the source is silent, what has
/// gathered is written without waiting for more. Of a plain tar in a file only an index is made, and
/// writers read its data themselves: so all of it is known before most of it is written.
///
/// # Errors
/// Exit 65 when the archive is refused, with the member; or a writer's.
pub fn produce(
    source: Stream,
    path: &Path,
    wishes: Wishes,
    pool: &Arc<Pool>,
    idle: &dyn Fn() -> bool,
    feed: &mut Feed<'_>,
) -> Result<Option<Meta>> {
    let mut reading = Reading {
        path,
        tar: Tar::new(source),
        wishes,
        feed,
        names: Names::default(),
        dirs: Vec::new(),
        root: None,
        slab: Slab::new(pool),
    };
    while let Some(member) = reading.next()? {
        reading.member(member)?;
        if idle() {
            reading.flush()?;
        }
    }
    reading.end()?;
    Ok(reading.root)
}

/// The error for an archive that cannot be begun.
pub fn unreadable(path: &Path, error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(code) => Error::os("read archive", shown(path).as_slice(), io::Error::from_raw_os_error(code)),
        None => Error::new(
            Exit::Archive,
            format!("read archive {}", shown(path).quoted()),
            lowercase_first(&error.to_string()),
        )
        .help("--from takes a directory or a tar, plain or in gzip, zstd, bzip2 or xz"),
    }
}

/// The archive's name for messages.
fn shown(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    match path.as_os_str().as_bytes() {
        b"-" => b"standard input".to_vec(),
        bytes => bytes.to_vec(),
    }
}

/// The slab that is being filled, and the jobs that wait for it to be full.
struct Slab<'a> {
    pool: &'a Arc<Pool>,
    buffer: Option<Vec<u8>>,
    files: Vec<(File, std::ops::Range<usize>)>,
    since: Instant,
}

impl<'a> Slab<'a> {
    fn new(pool: &'a Arc<Pool>) -> Slab<'a> {
        Slab { pool, buffer: None, files: Vec::new(), since: Instant::now() }
    }
}

/// Offsets in a file, and where in a slab the bytes for them are.
type Parts = Vec<(u64, std::ops::Range<usize>)>;

struct Reading<'a, 'f> {
    path: &'a Path,
    tar: Tar,
    wishes: Wishes,
    feed: &'a mut Feed<'f>,
    names: Names,
    dirs: Vec<Arc<Dir>>,
    root: Option<Meta>,
    slab: Slab<'a>,
}

impl Reading<'_, '_> {
    fn next(&mut self) -> Result<Option<Member>> {
        self.tar.next().map_err(|fault| self.refused(fault))
    }

    fn member(&mut self, member: Member) -> Result<()> {
        let parts = components(&member.path).map_err(|cause| self.refused(cause))?;
        let mut meta = member.meta;
        self.wishes.apply(&mut meta);
        let Some((name, parents)) = parts.split_last() else {
            if member.kind == Kind::Directory {
                self.root = Some(meta);
                return Ok(());
            }
            return Err(self.refused("the root must be a directory"));
        };
        let dir = self.parent(parents)?;
        match member.kind {
            Kind::Directory => self.directory(&dir, name, meta),
            Kind::File => {
                self.begin(&dir, name, Known::File)?;
                let size = member.sparse.as_ref().map_or(member.data, |(_, size)| *size);
                self.file(File { dir, name: name.clone(), meta, size }, member.data, member.sparse)
            }
            Kind::Symlink => {
                self.check_link(&member.link)?;
                self.begin(&dir, name, Known::Symlink)?;
                self.flush()?;
                self.feed.symlink(Entry { dir, name: name.clone(), meta }, member.link.into())
            }
            Kind::Fifo => {
                self.begin(&dir, name, Known::Fifo)?;
                self.flush()?;
                self.feed.fifo(Entry { dir, name: name.clone(), meta })
            }
            Kind::Link => {
                self.check_link(&member.link)?;
                let (target_dir, target_name) = self
                    .names
                    .link_target(&member.link, &self.feed.root())
                    .map_err(|cause| self.refused(cause))?;
                if (target_dir.path(), &*target_name) == (dir.path(), &**name) {
                    return Err(self.refused("a hard link to itself"));
                }
                self.begin(&dir, name, Known::Link(Some((Arc::clone(&target_dir), target_name.clone()))))?;
                self.feed.link(Entry { dir, name: name.clone(), meta }, target_dir, target_name)
            }
        }
    }

    fn parent(&mut self, parts: &[Box<[u8]>]) -> Result<Arc<Dir>> {
        let mut dir = self.feed.root();
        for part in parts {
            let path = dir.child_path(part);
            dir = match self.names.directory(&path) {
                Ok(Some(known)) => known,
                Ok(None) => self.new_directory(&dir, part, None)?,
                Err(noun) => {
                    return Err(self.refused(format!("its parent {} is a {noun}", path.as_slice().quoted())));
                }
            };
        }
        Ok(dir)
    }

    fn directory(&mut self, parent: &Arc<Dir>, name: &[u8], meta: Meta) -> Result<()> {
        match self.names.directory(&parent.child_path(name)) {
            Ok(Some(known)) => known.set_meta(meta),
            Ok(None) => drop(self.new_directory(parent, name, Some(meta))?),
            Err(noun) => return Err(self.refused(format!("a directory, and before a {noun}"))),
        }
        Ok(())
    }

    /// Without `meta` it is implied by a name below it: then as `tar` would make it.
    fn new_directory(&mut self, parent: &Arc<Dir>, name: &[u8], meta: Option<Meta>) -> Result<Arc<Dir>> {
        let meta = meta.unwrap_or_else(|| {
            let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let (uid, gid) = self.wishes.owner.unwrap_or(ours);
            Meta { mode: 0o755, uid, gid, ..Meta::default() }
        });
        let dir = self.feed.directory(parent, name, meta)?;
        self.names.enter_directory(&dir);
        self.dirs.push(Arc::clone(&dir));
        Ok(dir)
    }

    /// Enters a name, and makes room for it where it was given before.
    fn begin(&mut self, dir: &Arc<Dir>, name: &[u8], known: Known) -> Result<()> {
        let path = dir.child_path(name);
        if self.names.is_known(&path, &known).map_err(|cause| self.refused(cause))? {
            self.flush()?;
            self.feed.replace(dir, name)?;
            self.names.links_are_made();
        }
        self.names.enter(path, known);
        Ok(())
    }

    fn check_link(&self, target: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() > LONGEST_PATH {
            return Err(self.refused("a link to an impossible name"));
        }
        Ok(())
    }

    /// A file with so many bytes of data in the archive, and where they go if it has holes.
    fn file(&mut self, file: File, data: u64, sparse: Option<(Vec<Segment>, u64)>) -> Result<()> {
        match (sparse, usize::try_from(data)) {
            (Some((segments, _)), _) => self.large_file(file, &segments),
            (None, _) if self.tar.is_file() => self.file_in_archive(file),
            (None, Ok(size)) if size <= SLAB => self.small_file(file, size),
            (None, _) => self.large_file(file, &[Segment { offset: 0, length: data }]),
        }
    }

    /// A file whose data writers read where it is.
    fn file_in_archive(&mut self, file: File) -> Result<()> {
        let (start, size) = (self.tar.position(), file.size);
        if size <= CHUNK {
            return self.feed.file(file, |file| Job::Copy(file, Data::At(start)));
        }
        let large = self.feed.large_file(file, false)?;
        self.feed.copy_chunks(&large, size, start)
    }

    fn small_file(&mut self, file: File, size: usize) -> Result<()> {
        let full = self.slab.buffer.as_ref().is_some_and(|buffer| buffer.len() + size > SLAB);
        if full || self.slab.since.elapsed() > SLAB_PATIENCE {
            self.flush()?;
        }
        let mut buffer = match self.slab.buffer.take() {
            Some(buffer) => buffer,
            None => {
                self.slab.since = Instant::now();
                self.slab.pool.take()
            }
        };
        let start = buffer.len();
        self.read(&mut buffer, size)?;
        self.slab.files.push((file, start..start + size));
        self.slab.buffer = Some(buffer);
        Ok(())
    }

    /// A file with data in these places.
    fn large_file(&mut self, file: File, segments: &[Segment]) -> Result<()> {
        self.flush()?;
        let large = self.feed.large_file(file, false)?;
        let (mut buffer, mut parts, mut from) = (Vec::new(), Vec::new(), self.tar.position());
        for segment in segments {
            let (mut offset, end) = (segment.offset, segment.offset + segment.length);
            if self.tar.is_file() {
                for offset in (offset..end).step_by(CHUNK as usize) {
                    let length = CHUNK.min(end - offset);
                    self.feed.chunk(&large, Chunk::Copy { offset, length, from })?;
                    from += length;
                }
                continue;
            }
            while offset < end {
                if buffer.capacity() == 0 {
                    buffer = self.slab.pool.take();
                }
                let start = buffer.len();
                let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(SLAB - start);
                self.read(&mut buffer, length)?;
                parts.push((offset, start..start + length));
                offset += length as u64;
                if buffer.len() == SLAB {
                    self.pieces(&large, std::mem::take(&mut buffer), &mut parts)?;
                }
            }
        }
        self.pieces(&large, buffer, &mut parts)?;
        self.feed.chunk(&large, Chunk::Last)
    }

    /// Hands over pieces of a large file, each with its offset there.
    fn pieces(&mut self, large: &Arc<LargeFile>, buffer: Vec<u8>, parts: &mut Parts) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let slab = self.slab.pool.seal(buffer);
        for (offset, range) in parts.drain(..) {
            let piece = Piece { slab: Arc::clone(&slab), range };
            self.feed.chunk(large, Chunk::Write { offset, piece })?;
        }
        self.feed.flush()
    }

    fn read(&mut self, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
        self.tar.read(buffer, length).map_err(|error| self.refused(error))
    }

    /// Hands the slab over, with the files in it.
    fn flush(&mut self) -> Result<()> {
        if let Some(buffer) = self.slab.buffer.take() {
            let slab = self.slab.pool.seal(buffer);
            for (file, range) in self.slab.files.drain(..) {
                let piece = Piece { slab: Arc::clone(&slab), range };
                self.feed.file(file, |file| Job::Write(file, piece))?;
            }
        }
        self.feed.flush()
    }

    /// Past the last member: the checksums after the end mark must hold.
    fn end(&mut self) -> Result<()> {
        self.tar.finish().map_err(|fault| self.refused(fault))?;
        self.flush()?;
        for dir in std::mem::take(&mut self.dirs) {
            self.feed.directory_done(dir)?;
        }
        self.feed.shared().progress.all_found();
        Ok(())
    }

    fn refused(&self, fault: impl Into<Fault>) -> Error {
        let cause = match fault.into() {
            Fault::Read(error) if error.raw_os_error().is_some() => {
                return Error::os("read archive", shown(self.path).as_slice(), error).exit(Exit::Io);
            }
            Fault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it was cut short".to_owned()
            }
            Fault::Read(error) => printable(lowercase_first(&error.to_string()).as_bytes()),
            Fault::Refused(cause) => cause,
        };
        let act = format!("archive {}{}", shown(self.path).as_slice().quoted(), self.tar.place());
        Error::new(Exit::Archive, act, cause).help("nothing of it was published; build the archive anew")
    }
}
