//! A tar archive as the source: every member checked before anything of it is written.
//!
//! What no seed may hold refuses the whole archive, and since nothing is published before its end
//! mark and its checksums were read, nothing of a refused archive ever shows.

pub(crate) mod data;
pub(crate) mod excluded;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use data::FillingSlab;
use excluded::{Instead, LeftOut};

use super::directory::Part;
use super::entry::Meta;
use super::exclude::Excluding;
use super::headers::Segment;
use super::links::{Link, Links};
use super::members::{Fault, Member, MemberKind, Stream, Tar};
use super::names::{LONGEST_PATH, NameFilter, components, split};
use super::slab::{Charge, MemoryShares, Pool};
use crate::error::{Error, Quoted, Result, lowercase_first, printable};
use crate::exit::Exit;
use crate::seed::engine::feed::Feed;
use crate::seed::engine::job::{Entry, FileJob};
use crate::seed::stage::dir::Dir;
use crate::seed::stage::overrides::Overrides;
use crate::volume::is_type;

/// What a directory takes besides names and attributes, here, in the tree and in the schedule, in bytes.
const DIR_COST: usize = 768;
/// The most that directories take which are only needed for links, in bytes.
const BORROWED: usize = 1 << 20;
/// The most that the names of links that wait take, in bytes.
const WAITING: u64 = 512 << 10;
/// What an entry may take without being counted: as much as its place in the queue, in bytes.
const FREE_OF_CHARGE: usize = 64;

/// Feeds every member of the tar that `source` holds. `path` is for messages. Returns what the
/// archive says of its root, if it does. Where `idle` says that the source is silent, what has
/// gathered is written without waiting for more. Of a plain tar in a file only an index is made, and
/// writers read its data themselves: so all of it is known before most of it is written.
///
/// # Errors
/// Exit 65 when the archive is refused, with the member; or a writer's.
pub(crate) fn produce(
    source: Stream,
    path: &Path,
    (overrides, excluding, only): (Overrides<'_>, &mut Excluding, Option<Part<'_>>),
    (pool, budget): (&Arc<Pool>, MemoryShares),
    links: Links<'_>,
    idle: &dyn Fn() -> bool,
    feed: &mut Feed<'_>,
) -> Result<Option<Meta>> {
    let mut reading = Reading {
        path,
        tar: Tar::new(source),
        overrides,
        feed,
        names: NameFilter::new(budget.names),
        dirs: Dirs::default(),
        max_dirs: usize::try_from(budget.directories).unwrap_or(usize::MAX),
        links,
        waiting: NameFilter::new(WAITING),
        linking: None,
        root: None,
        slab: FillingSlab::new(pool),
        left_out: LeftOut::new(excluding),
        only,
    };
    while let Some(member) = reading.tar.next().map_err(|fault| reading.refused(fault))? {
        reading.member(member)?;
        if idle() {
            reading.flush()?;
        }
    }
    reading.end()?;
    Ok(reading.root)
}

/// The error for an archive that cannot be begun.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Error {
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

/// Directories that something may still be put into.
#[derive(Default)]
struct Dirs {
    known: HashMap<Box<[u8]>, Arc<Dir>>,
    bytes: usize,
}

impl Dirs {
    fn add(&mut self, dir: &Arc<Dir>) {
        self.bytes += DIR_COST + 2 * dir.path().len();
        self.known.insert(dir.path().into(), Arc::clone(dir));
    }
}

/// What a member is, with all but its name.
pub(crate) struct MemberContent {
    kind: MemberKind,
    link: Vec<u8>,
    meta: Meta,
    /// Where its data begins, and how much of it there is, in bytes.
    start: u64,
    data: u64,
    sparse: Option<(Vec<Segment>, u64)>,
}

struct Reading<'a, 'f> {
    path: &'a Path,
    tar: Tar,
    overrides: Overrides<'a>,
    feed: &'a mut Feed<'f>,
    names: NameFilter,
    dirs: Dirs,
    /// Bytes that they may take.
    max_dirs: usize,
    links: Links<'a>,
    /// The names of those links.
    waiting: NameFilter,
    /// The link that is being made, for messages.
    linking: Option<Vec<u8>>,
    root: Option<Meta>,
    slab: FillingSlab<'a>,
    left_out: LeftOut<'a>,
    only: Option<Part<'a>>,
}

impl Reading<'_, '_> {
    fn member(&mut self, member: Member) -> Result<()> {
        if self.dirs.bytes > self.max_dirs {
            self.flush()?;
            let dirs = std::mem::take(&mut self.dirs);
            self.forget(dirs)?;
        }
        let Member { path, link, kind, mut meta, data, sparse } = member;
        let parts = split(&path).map_err(|cause| self.refused(cause))?;
        self.overrides.apply(
            &mut meta,
            match kind {
                MemberKind::Directory => FileType::Directory,
                MemberKind::Symlink => FileType::Symlink,
                _ => FileType::RegularFile,
            },
        );
        let content = MemberContent { kind, link, meta, start: self.tar.position(), data, sparse };
        if self.left_out.leaves_out(&parts, kind) {
            return self.leave_out(&parts.join(&b'/'), content);
        }
        if !self.is_wanted(&parts)? {
            return Ok(());
        }
        if kind == MemberKind::Device {
            return Err(self.refused("a device node"));
        }
        let parts = components(&path).map_err(|cause| self.refused(cause))?;
        let Some((name, parents)) = parts.split_last() else {
            if kind == MemberKind::Directory && !path.is_empty() {
                self.root = Some(content.meta);
                return Ok(());
            }
            return Err(self.refused("the root must be a directory"));
        };
        let dir = self.parent(parents)?;
        match kind {
            MemberKind::Directory => self.directory(&dir, name, Some(content.meta)).map(drop),
            MemberKind::Link => self.link(&dir, name, &content),
            _ => self.entry(dir, name, content),
        }
    }

    /// Whether a member is one of those that are wanted.
    fn is_wanted(&self, parts: &[&[u8]]) -> Result<bool> {
        let Some(only) = self.only else { return Ok(true) };
        for (depth, part) in parts.iter().enumerate() {
            match (only.names)(&parts[..depth].join(&b'/'))? {
                None => break,
                Some(names) if !names.contains(*part) => return Ok(false),
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// A file, a symbolic link or a FIFO.
    fn entry(&mut self, dir: Arc<Dir>, name: &[u8], content: MemberContent) -> Result<()> {
        let MemberContent { kind, link, meta, start, data, sparse } = content;
        let file_type = match kind {
            MemberKind::Symlink => FileType::Symlink,
            MemberKind::Fifo => FileType::Fifo,
            _ => FileType::RegularFile,
        };
        if kind == MemberKind::Symlink && (link.is_empty() || link.len() > LONGEST_PATH) {
            return Err(self.refused("a link to an impossible name"));
        }
        self.begin(&dir, name, Some(file_type))?;
        let charge = self.charge(name.len() + link.len() + size_of_xattrs(&meta))?;
        let name = name.into();
        match kind {
            MemberKind::Symlink => self.feed.symlink(Entry { dir, name, meta, _charge: charge }, link.into()),
            MemberKind::Fifo => self.feed.fifo(Entry { dir, name, meta, _charge: charge }),
            _ => {
                let size = sparse.as_ref().map_or(data, |(_, size)| *size);
                self.file(
                    FileJob { dir, name, meta, size, stored: data, _charge: charge },
                    (start, data),
                    sparse,
                )
            }
        }
    }

    fn parent(&mut self, parts: &[&[u8]]) -> Result<Arc<Dir>> {
        // As a rule that of the member before.
        if let Some(dir) = self.dirs.known.get(&*parts.join(&b'/')) {
            return Ok(Arc::clone(dir));
        }
        parts.iter().try_fold(self.feed.root(), |dir, part| self.directory(&dir, part, None))
    }

    /// A directory of the seed. Without `meta` it is implied by a name below it, and where it is new it
    /// is as `tar` would make it.
    fn directory(&mut self, parent: &Arc<Dir>, name: &[u8], meta: Option<Meta>) -> Result<Arc<Dir>> {
        let path = parent.child_path(name);
        let meta = match (meta, &self.only) {
            (Some(meta), Some(only)) => Some(only.carried(&path, meta)?),
            (meta, _) => meta,
        };
        let mut known = self.dirs.known.get(&*path).map(Arc::clone);
        if known.is_none() && self.names.add(&path) {
            known = self.adopt(parent, name)?;
            known.iter().for_each(|dir| self.dirs.add(dir));
        }
        self.dirs.bytes += meta.as_ref().map_or(0, size_of_xattrs);
        if let Some(dir) = known {
            meta.into_iter().for_each(|meta| dir.set_meta(meta));
            return Ok(dir);
        }
        let meta = meta.unwrap_or_else(|| self.overrides.implied());
        let dir = self.feed.directory(parent, name, meta)?;
        self.dirs.add(&dir);
        Ok(dir)
    }

    /// The directory that the stage has under this name; `None` where there is nothing.
    fn adopt(&mut self, parent: &Arc<Dir>, name: &[u8]) -> Result<Option<Arc<Dir>>> {
        let mut stat = self.feed.shared().tree.look(parent, name)?;
        if stat.is_none() {
            self.make_links()?;
            stat = self.feed.shared().tree.look(parent, name)?;
        }
        let Some(stat) = stat else { return Ok(None) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.feed.adopt(parent, name, &stat, self.overrides.times).map(Some),
            before => {
                let path = parent.child_path(name);
                Err(self.refused(format!("{} is a {} before it", path.as_slice().quoted(), noun(before))))
            }
        }
    }

    /// Makes room for an entry of this type, or a hard link, where its name was given before: the last
    /// one of a type counts, as in `tar`.
    fn begin(&mut self, dir: &Arc<Dir>, name: &[u8], file_type: Option<FileType>) -> Result<()> {
        let path = dir.child_path(name);
        let (mut before, mut size) = (None, None);
        if self.dirs.known.contains_key(&*path) {
            before = Some(FileType::Directory);
        } else if self.names.add(&path) {
            self.left_out.is_replaced(&path);
            self.make_links()?;
            let stat = self.feed.shared().tree.look(dir, name)?;
            // Another name of it takes its place no less.
            size = stat.filter(|stat| stat.st_nlink == 1).map(|stat| stat.st_size as u64);
            before = stat.map(|stat| FileType::from_raw_mode(stat.st_mode));
        }
        match before {
            None => Ok(()),
            Some(before) if before != FileType::Directory && file_type.is_none_or(|it| it == before) => {
                self.feed.remove(dir, name, size)
            }
            Some(before) => {
                let now = file_type.map_or("hard link", noun);
                Err(self.refused(format!("a {now}, and before a {}", noun(before))))
            }
        }
    }

    fn link(&mut self, dir: &Arc<Dir>, name: &[u8], link: &MemberContent) -> Result<()> {
        let parts = split(&link.link).map_err(|cause| self.refused(cause))?;
        let (path, mut target) = (dir.child_path(name), parts.join(&b'/'));
        if self.left_out.covers(&target) {
            match self.instead_of(&target)? {
                Instead::Content(content) => {
                    self.entry(Arc::clone(dir), name, content)?;
                    self.left_out.is_kept_as(&target, path);
                    return Ok(());
                }
                Instead::Kept(kept) => target = kept,
            }
        } else {
            components(&link.link).map_err(|cause| self.refused(cause))?;
        }
        let cause = match () {
            () if target == path => "a hard link to itself".to_owned(),
            () if target.is_empty() => "a hard link to the root".to_owned(),
            () if self.dirs.known.contains_key(&*target) => {
                format!("a hard link to the directory {}", target.as_slice().quoted())
            }
            () if !self.names.is_known(&target) => not_before(&target),
            () => {
                self.begin(dir, name, None)?;
                self.feed.later_link()?;
                let waits = self.waiting.is_known(&target);
                self.waiting.add(&path);
                let owner = (link.meta.uid, link.meta.gid);
                return self.links.add(&Link { path, target, owner, waits });
            }
        };
        Err(self.refused(cause))
    }

    /// Waits until everything so far is written, and makes the links to it.
    fn make_links(&mut self) -> Result<()> {
        self.flush()?;
        self.feed.settle()?;
        let (mut links, mut borrowed) = (self.links.take()?, Dirs::default());
        self.waiting = NameFilter::new(WAITING);
        while let Some(Link { path, target, owner: (uid, gid), waits }) = links.next()? {
            self.linking = Some(path.clone());
            if borrowed.bytes > BORROWED {
                self.forget(std::mem::take(&mut borrowed))?;
            } else if waits {
                self.feed.settle()?;
            }
            let (dir, name) = self.place(&path, &mut borrowed)?;
            let (target_dir, target_name) = self.place(&target, &mut borrowed)?;
            let charge = self.charge(name.len() + target_name.len())?;
            let meta = Meta { uid, gid, ..Meta::default() };
            self.feed.make_link(Entry { dir, name, meta, _charge: charge }, target_dir, target_name)?;
        }
        self.forget(borrowed)?;
        self.linking = None;
        Ok(())
    }

    /// The directory that a name which is on the stage is in, and the name there.
    fn place(&mut self, path: &[u8], borrowed: &mut Dirs) -> Result<(Arc<Dir>, Box<[u8]>)> {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let name = parts.pop().unwrap_or_default().into();
        let known = |dirs: &Dirs, path: &[u8]| dirs.known.get(path).map(Arc::clone);
        let mut dir = self.feed.root();
        for part in parts {
            let below = dir.child_path(part);
            dir = match known(&self.dirs, &below).or_else(|| known(borrowed, &below)) {
                Some(dir) => dir,
                None => {
                    let stat = self.feed.shared().tree.look(&dir, part)?;
                    let stat = stat.filter(|stat| is_type(stat, FileType::Directory));
                    let stat = stat.ok_or_else(|| self.refused(not_before(path)))?;
                    let dir = self.feed.adopt(&dir, part, &stat, self.overrides.times)?;
                    borrowed.add(&dir);
                    dir
                }
            };
        }
        Ok((dir, name))
    }

    /// Finishes directories, and waits for that: what comes for one of them later asks the stage.
    fn forget(&mut self, dirs: Dirs) -> Result<()> {
        for (_, dir) in dirs.known {
            self.feed.directory_done(dir)?;
        }
        self.feed.settle()
    }

    /// Counts what an entry takes while it waits, and waits itself where others take too much.
    fn charge(&mut self, bytes: usize) -> Result<Option<Charge>> {
        if bytes < FREE_OF_CHARGE {
            return Ok(None);
        }
        let charge = self.slab.pool.charge(bytes);
        if charge.is_none() {
            self.flush()?;
        }
        Ok(Some(charge.unwrap_or_else(|| self.slab.pool.charge_when_free(bytes))))
    }

    /// Past the last member: the checksums after the end mark must hold.
    fn end(&mut self) -> Result<()> {
        self.tar.finish().map_err(|fault| self.refused(fault))?;
        self.make_links()?;
        for (_, dir) in std::mem::take(&mut self.dirs.known) {
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
        let place = match &self.linking {
            Some(link) => format!(", member {}", link.as_slice().quoted()),
            None => self.tar.place(),
        };
        let act = format!("archive {}{place}", shown(self.path).as_slice().quoted());
        Error::new(Exit::Archive, act, cause).help("nothing of it was published; build the archive again")
    }
}

fn size_of_xattrs(meta: &Meta) -> usize {
    let xattrs = meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
    xattrs.map(|(name, value)| size_of::<(Vec<u8>, Vec<u8>)>() + name.len() + value.len()).sum()
}

fn not_before(target: &[u8]) -> String {
    format!("a hard link to {}, which is not before it in the archive", target.quoted())
}

fn noun(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        _ => "file",
    }
}
