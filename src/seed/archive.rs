//! A tar archive as the source: every member checked before anything of it is written.
//!
//! The tar crate frames the members; names, links and extension headers are ours to judge. What no
//! seed may hold refuses the whole archive, and since nothing is published before its end mark and
//! its checksums were read, nothing of a refused archive ever shows.

use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tar::{Entry as Member, EntryType, Header};

use super::directory::Wishes;
use super::entry::{Meta, Time};
use super::extension::{self, Extension, Segment, Sparse};
use super::job::{CHUNK, Chunk, Data, Entry, File, Job};
use super::names::{Known, LONGEST_PATH, Names, components};
use super::pipeline::Feed;
use super::slab::{Piece, Pool, SLAB};
use super::tape::{Reel, Stream, Tape};
use super::tree::Dir;
use crate::error::{Error, Quoted, Result, lowercase_first};
use crate::exit::Exit;

/// The most segments in the map of a sparse file: it is held in memory.
const MOST_SEGMENTS: u64 = 65_536;
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
    let length = source.length();
    let (tape, reel) = Tape::new(source);
    let mut archive = tar::Archive::new(tape);
    let mut reading = Reading {
        path,
        length,
        wishes,
        feed,
        names: Names::default(),
        dirs: Vec::new(),
        root: None,
        member: None,
        slab: Slab::new(pool),
    };
    let members = if length.is_some() { archive.entries_with_seek() } else { archive.entries() };
    let mut members = members.map_err(|error| reading.refused_io(&error))?;
    let end = loop {
        reel.keep();
        let next = members.next();
        let (from, kept) = reel.kept();
        let data_end = from.next_multiple_of(512);
        let Some(member) = next else { break data_end };
        let mut member = member.map_err(|error| reading.refused_io(&error))?;
        let between = Between::new(&kept, from, member.raw_header_position());
        reading.member(&mut member, &between)?;
        if length.is_none() {
            reading.skip(&mut member)?;
        }
        if idle() {
            reading.flush()?;
        }
    };
    reading.end(archive, &reel, end)?;
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

/// What stands between the data of two members.
struct Between<'a> {
    /// Extension headers and their data.
    extensions: &'a [u8],
    /// What follows the member's own header: the rest of an old GNU sparse map.
    after_header: &'a [u8],
}

impl<'a> Between<'a> {
    /// `kept` was read from `from` on, where the data of the member before ended; `header` is where
    /// the member's own header is.
    fn new(kept: &'a [u8], from: u64, header: u64) -> Between<'a> {
        let index = |position: u64| {
            usize::try_from(position.saturating_sub(from)).unwrap_or(usize::MAX).min(kept.len())
        };
        let (start, header, after) = (index(from.next_multiple_of(512)), index(header), index(header + 512));
        Between { extensions: &kept[start.min(header)..header], after_header: &kept[after..] }
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

struct Reading<'a, 'f> {
    path: &'a Path,
    /// Of a plain tar in a file: its bytes.
    length: Option<u64>,
    wishes: Wishes,
    feed: &'a mut Feed<'f>,
    names: Names,
    dirs: Vec<Arc<Dir>>,
    root: Option<Meta>,
    member: Option<Vec<u8>>,
    slab: Slab<'a>,
}

type TarMember<'a> = Member<'a, Tape>;

impl Reading<'_, '_> {
    fn member(&mut self, member: &mut TarMember<'_>, between: &Between<'_>) -> Result<()> {
        let header = member.header().clone();
        self.member = Some(header.path_bytes().into_owned());
        let extension = Extension::parse(between.extensions).map_err(|cause| self.refused(cause))?;
        if header.entry_type() == EntryType::XGlobalHeader {
            return self.global(member);
        }
        let path = extension.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        self.member = Some(path.clone());
        if extension.size.is_some_and(|size| size != member.size()) && !header.entry_type().is_gnu_sparse() {
            return Err(self.refused("its headers disagree about its size"));
        }
        let parts = components(&path).map_err(|cause| self.refused(cause))?;
        let meta = self.meta(&header, &extension)?;
        let named_like_directory = path.ends_with(b"/");
        let Some((name, parents)) = parts.split_last() else {
            if header.entry_type().is_dir() {
                self.root = Some(meta);
                return Ok(());
            }
            return Err(self.refused("the root must be a directory"));
        };
        let dir = self.parent(parents)?;
        match header.entry_type() {
            EntryType::Directory => self.directory(&dir, name, meta),
            // Before POSIX a slash at the end was what made a directory.
            EntryType::Regular if named_like_directory => self.directory(&dir, name, meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.begin(&dir, name, Known::File)?;
                let segments = self.segments(member, &header, between.after_header, extension.sparse)?;
                self.file(member, &dir, name, meta, segments)
            }
            EntryType::Symlink => {
                let target = self.link_name(&header, extension.link)?;
                self.begin(&dir, name, Known::Symlink)?;
                self.flush()?;
                self.feed.symlink(Entry { dir, name: name.clone(), meta }, target.into())
            }
            EntryType::Fifo => {
                self.begin(&dir, name, Known::Fifo)?;
                self.flush()?;
                self.feed.fifo(Entry { dir, name: name.clone(), meta })
            }
            EntryType::Link => {
                let target = self.link_name(&header, extension.link)?;
                let (target_dir, target_name) = self
                    .names
                    .link_target(&target, &self.feed.root())
                    .map_err(|cause| self.refused(cause))?;
                if (target_dir.path(), &*target_name) == (dir.path(), &**name) {
                    return Err(self.refused("a hard link to itself"));
                }
                self.begin(&dir, name, Known::Link(Some((Arc::clone(&target_dir), target_name.clone()))))?;
                self.feed.link(Entry { dir, name: name.clone(), meta }, target_dir, target_name)
            }
            EntryType::Char | EntryType::Block => Err(self.refused("a device node")),
            other => Err(self.refused(format!("a member of unknown type {:?}", char::from(other.as_byte())))),
        }
    }

    fn global(&mut self, member: &mut TarMember<'_>) -> Result<()> {
        let mut records = Vec::new();
        let most = super::tape::MOST_EXTENSIONS;
        member.take(most).read_to_end(&mut records).map_err(|error| self.refused_io(&error))?;
        let mut extension = Extension::default();
        extension.records(&records).map_err(|cause| self.refused(cause))?;
        // `git archive` writes only a comment. Anything that would change members is too rare to be
        // right by accident.
        let Extension {
            path: None,
            link: None,
            size: None,
            uid: None,
            gid: None,
            mtime: None,
            sparse: None,
            ..
        } = extension
        else {
            return Err(self.refused("a global header that changes members"));
        };
        Ok(())
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

    fn link_name(&self, header: &Header, long: Option<Vec<u8>>) -> Result<Vec<u8>> {
        let name =
            long.or_else(|| header.link_name_bytes().map(|name| name.into_owned())).unwrap_or_default();
        if name.is_empty() || name.len() > LONGEST_PATH {
            return Err(self.refused("a link to an impossible name"));
        }
        Ok(name)
    }

    fn meta(&self, header: &Header, extension: &Extension) -> Result<Meta> {
        let number = |value: io::Result<u64>, what: &str| {
            value.map_err(|_| self.refused(format!("a malformed {what}")))
        };
        let owner = |value: Option<u64>, in_header: io::Result<u64>, what: &str| {
            let id = value.map_or_else(|| number(in_header, what), Ok)?;
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| self.refused(format!("an impossible {what}")))
        };
        let mtime = match extension.mtime {
            Some(mtime) => mtime,
            None => {
                Time { seconds: header_time(header).map_err(|cause| self.refused(cause))?, nanoseconds: 0 }
            }
        };
        let mut meta = Meta {
            mode: number(header.mode().map(u64::from), "mode")? as u32 & 0o7777,
            uid: owner(extension.uid, header.uid(), "user number")?,
            gid: owner(extension.gid, header.gid(), "group number")?,
            mtime: Some(mtime),
            xattrs: (!extension.xattrs.is_empty()).then(|| Box::new(extension.xattrs.clone())),
        };
        self.wishes.apply(&mut meta);
        Ok(meta)
    }

    /// Where the data of a sparse file goes, and the file's length; `None` for any other.
    fn segments(
        &self,
        member: &mut TarMember<'_>,
        header: &Header,
        after_header: &[u8],
        sparse: Option<Sparse>,
    ) -> Result<Option<(Vec<Segment>, u64)>> {
        if header.entry_type().is_gnu_sparse() {
            let size = member.size();
            let segments =
                extension::gnu_segments(header, after_header, size).map_err(|cause| self.refused(cause))?;
            return Ok(Some((segments, size)));
        }
        let Some(Sparse { size, segments }) = sparse else { return Ok(None) };
        let (segments, data) = match segments {
            Some(segments) => (segments, member.size()),
            None => {
                let (numbers, used) = self.sparse_map(member)?;
                let segments = extension::segments(&numbers, size).map_err(|cause| self.refused(cause))?;
                (segments, member.size() - used)
            }
        };
        let listed: u64 = segments.iter().map(|segment| segment.length).sum();
        if listed != data {
            return Err(self.refused("a sparse map that does not fit its data"));
        }
        Ok(Some((segments, size)))
    }

    /// The map of sparse format 1.0, which stands before the data in decimal lines, padded to a block.
    fn sparse_map(&self, member: &mut TarMember<'_>) -> Result<(Vec<u64>, u64)> {
        let mut block = [0u8; 512];
        let (mut used, mut numbers, mut digits) = (0u64, Vec::new(), Vec::new());
        let mut expected = None;
        while expected.is_none_or(|expected| (numbers.len() as u64) < expected) {
            member.read_exact(&mut block).map_err(|error| self.refused_io(&error))?;
            used += 512;
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(self.refused("a malformed sparse map"));
                    }
                    continue;
                }
                let number = extension::number(&digits).map_err(|cause| self.refused(cause))?;
                digits.clear();
                match expected {
                    None if number > MOST_SEGMENTS => {
                        return Err(
                            self.refused(format!("a sparse file of more than {MOST_SEGMENTS} segments"))
                        );
                    }
                    None => expected = Some(number * 2),
                    Some(_) => numbers.push(number),
                }
                if expected == Some(numbers.len() as u64) {
                    break;
                }
            }
        }
        Ok((numbers, used))
    }

    fn file(
        &mut self,
        member: &mut TarMember<'_>,
        dir: &Arc<Dir>,
        name: &[u8],
        meta: Meta,
        sparse: Option<(Vec<Segment>, u64)>,
    ) -> Result<()> {
        let size = sparse.as_ref().map_or(member.size(), |(_, size)| *size);
        let file = File { dir: Arc::clone(dir), name: name.into(), meta, size };
        let Some((segments, _)) = sparse else {
            if let Some(length) = self.length {
                return self.file_in_archive(file, member.raw_file_position(), length);
            }
            return match usize::try_from(size) {
                Ok(size) if size <= SLAB => self.small_file(member, file, size),
                _ => self.large_file(member, file, &[Segment { offset: 0, length: size }], false),
            };
        };
        // The tar crate gives the holes of an old GNU sparse member as zeros; they are skipped.
        let zeros_for_holes = member.header().entry_type().is_gnu_sparse();
        self.large_file(member, file, &segments, zeros_for_holes)
    }

    /// A file whose data writers read where it is.
    fn file_in_archive(&mut self, file: File, start: u64, length: u64) -> Result<()> {
        let size = file.size;
        if start.checked_add(size).is_none_or(|end| end > length) {
            return Err(self.refused("it ends in the middle of this member"));
        }
        if size <= CHUNK {
            return self.feed.file(file, |file| Job::Copy(file, Data::At(start)));
        }
        let large = self.feed.large_file(file, false)?;
        self.feed.copy_chunks(&large, size, start)
    }

    fn small_file(&mut self, member: &mut TarMember<'_>, file: File, size: usize) -> Result<()> {
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
        self.fill(member, &mut buffer, size)?;
        self.slab.files.push((file, start..start + size));
        self.slab.buffer = Some(buffer);
        Ok(())
    }

    fn large_file(
        &mut self,
        member: &mut TarMember<'_>,
        file: File,
        segments: &[Segment],
        zeros: bool,
    ) -> Result<()> {
        self.flush()?;
        let large = self.feed.large_file(file, false)?;
        let mut position = 0;
        for segment in segments {
            if zeros {
                self.discard(member, segment.offset - position)?;
            }
            let mut offset = segment.offset;
            position = segment.offset + segment.length;
            while offset < position {
                let mut buffer = self.slab.pool.take();
                let length = usize::try_from(position - offset).unwrap_or(usize::MAX).min(SLAB);
                self.fill(member, &mut buffer, length)?;
                let piece = Piece { slab: self.slab.pool.seal(buffer), range: 0..length };
                self.feed.chunk(&large, Chunk::Write { offset, piece })?;
                self.feed.flush()?;
                offset += length as u64;
            }
        }
        self.feed.chunk(&large, Chunk::Last)
    }

    fn fill(&self, member: &mut TarMember<'_>, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
        let read = member.take(length as u64).read_to_end(buffer).map_err(|error| self.refused_io(&error))?;
        if read < length { Err(self.refused("it ends in the middle of this member")) } else { Ok(()) }
    }

    fn discard(&self, member: &mut TarMember<'_>, length: u64) -> Result<()> {
        let read =
            io::copy(&mut member.take(length), &mut io::sink()).map_err(|error| self.refused_io(&error))?;
        if read < length { Err(self.refused("it ends in the middle of this member")) } else { Ok(()) }
    }

    /// Reads what is left of a member, so that what comes next is within the tape's budget.
    fn skip(&self, member: &mut TarMember<'_>) -> Result<()> {
        io::copy(member, &mut io::sink()).map(drop).map_err(|error| self.refused_io(&error))
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

    /// Past the last member: the end mark must be there, and the checksums after it must hold.
    fn end(&mut self, archive: tar::Archive<Tape>, reel: &Rc<Reel>, end: u64) -> Result<()> {
        self.member = None;
        if reel.position() < end + 512 {
            return Err(self.refused("it ends without its end mark: it was cut short"));
        }
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| self.refused_io(&error))?;
        self.flush()?;
        for dir in std::mem::take(&mut self.dirs) {
            self.feed.directory_done(dir)?;
        }
        self.feed.shared().progress.all_found();
        Ok(())
    }

    fn refused(&self, cause: impl Into<String>) -> Error {
        self.refused_at("member", cause.into())
    }

    fn refused_io(&self, error: &io::Error) -> Error {
        if error.raw_os_error().is_some() {
            return Error::new(Exit::Io, "read archive", lowercase_first(&error.to_string()))
                .on(shown(self.path).as_slice());
        }
        // Found while the next header was looked for: the last good member is all that can be named.
        self.refused_at(
            "at or after member",
            match error.kind() {
                io::ErrorKind::UnexpectedEof => "it was cut short".to_owned(),
                _ => lowercase_first(&error.to_string()),
            },
        )
    }

    fn refused_at(&self, place: &str, cause: String) -> Error {
        let archive = shown(self.path).as_slice().quoted();
        let act = match &self.member {
            Some(member) => format!("archive {archive}, {place} {}", member.as_slice().quoted()),
            None => format!("archive {archive}"),
        };
        Error::new(Exit::Archive, act, cause).help("nothing of it was published; build the archive anew")
    }
}

/// The header's time; base-256 values may be negative.
fn header_time(header: &Header) -> std::result::Result<i64, String> {
    let field = &header.as_old().mtime;
    if field[0] & 0x80 != 0 {
        let mut low = [0u8; 8];
        low.copy_from_slice(&field[4..12]);
        return Ok(i64::from_be_bytes(low));
    }
    let time = header.mtime().map_err(|_| "a malformed time")?;
    i64::try_from(time).map_err(|_| "an impossible time".to_owned())
}
