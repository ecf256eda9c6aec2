//! The volume: its root descriptor, the kind of its file system, and paths that cannot leave it.
//!
//! Every path below the root is opened component by component without following links, by the
//! kernel (`openat2`, Linux 5.6) or, where that is not to be had, by us.

pub(crate) mod beside;
pub(crate) mod empty;
pub(crate) mod found;
pub(crate) mod location;
pub(crate) mod private;
pub(crate) mod records;
pub(crate) mod removal;
pub(crate) mod scratch;
pub(crate) mod state_dir;
pub(crate) mod target;
pub(crate) mod user;

use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::system::nfs;
pub(crate) use beside::{all_at_once, beside};
pub(crate) use empty::leads_to_mounts;
pub(crate) use found::{FoundEntry, ShortStat, is_refusal, look_at, refuses_names, short_stat};
pub(crate) use location::Location;
pub(crate) use private::{Ourselves, Privacy, PrivateDirectory, Wall, make, make_private, random};
pub(crate) use removal::{remove_directory, remove_tree};
pub(crate) use state_dir::check_renames;
use user::Owner;

/// A volume, held by a descriptor of its root: a rename of the mount point does not move it.
#[derive(Debug)]
pub(crate) struct Volume {
    path: PathBuf,
    root: Arc<OwnedFd>,
    state: Location<Arc<OwnedFd>>,
    user: Option<Owner>,
}

impl Volume {
    /// Opens the root. Blocks for as long as the file system does. The state is in `state_dir`, where that is
    /// given and the root has no `.volseed`.
    ///
    /// # Errors
    /// Exit 73 when it is not there or not a directory, 64 when it is `/`, or the state cannot be there.
    pub(crate) fn open(path: &Path, state_dir: Option<&Path>) -> Result<Volume> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let place =
            fs::open(path, flags, Mode::empty()).context("open volume", path).map_err(|error| match path
                .symlink_metadata()
            {
                Ok(found) if found.is_dir() => error,
                Ok(_) => {
                    error.exit(Exit::Volume).help("--to names the directory that the volume is mounted on")
                }
                Err(_) => error
                    .exit(Exit::Volume)
                    .help("mount the volume there, or create the directory in the image"),
            })?;
        let user = user::stands_for_root(place.as_fd());
        let opened = user::as_owner(user, || Volume::open_at(path, place.as_fd(), state_dir))?;
        Ok(Volume { user, ..opened })
    }

    fn open_at(path: &Path, place: BorrowedFd<'_>, state_dir: Option<&Path>) -> Result<Volume> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let root = openat(place, b".", flags, Mode::empty()).context("open volume", path)?;
        if target::is_system_root(root.as_fd()) {
            return Err(Error::new(
                Exit::Usage,
                "open volume",
                "it is the root of the container's file system",
            )
            .on(path)
            .help("--to names the directory that the volume is mounted on, such as /var/www/html"));
        }
        let mut volume = Volume::adopt(path, root);
        if let Some(dir) = state_dir
            && let Some(location) = state_dir::locate(&volume.root, path, dir)?
        {
            volume.state = location;
        }
        Ok(volume)
    }

    /// Whether it is no volume at all, but a directory of the container's own layer, which is removed with the
    /// container. The storage drivers overlay and fuse-overlayfs are known.
    pub(crate) fn is_container_layer(&self) -> bool {
        target::is_container_layer(self.root.as_fd())
    }

    /// The volume whose root is open already; `path` is for messages.
    pub(crate) fn adopt(path: &Path, root: OwnedFd) -> Volume {
        let root = Arc::new(root);
        let state = Location::in_root(Arc::clone(&root), path);
        Volume { path: path.to_owned(), root, state, user: None }
    }

    /// Whom root has to work as here ([`user::work_as`]); nobody where it may write as itself.
    pub(crate) fn user(&self) -> Option<Owner> {
        self.user
    }

    /// The root as it was named.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The root's descriptor.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The same, to be kept.
    pub(crate) fn shared_root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Where the state directory is, or would be.
    pub(crate) fn state(&self) -> &Location<Arc<OwnedFd>> {
        &self.state
    }

    /// What kind of file system holds the root.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub(crate) fn kind(&self) -> Result<FileSystem> {
        // What is on a server is told without asking it.
        match nfs::file_system(self.root()).as_deref().and_then(FileSystem::of_remote) {
            Some(kind) => Ok(kind),
            None => Ok(self.look()?.0),
        }
    }

    /// What kind of file system holds the root, and what it says of itself.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub(crate) fn look(&self) -> Result<(FileSystem, fs::StatFs)> {
        let found = fs::fstatfs(&self.root).context("statfs", self.path())?;
        Ok((FileSystem::of_magic(found.f_type as u64), found))
    }

    /// The number of the mount that the root was opened through, where the kernel has one that it never gives
    /// again (statx(2), `STATX_MNT_ID_UNIQUE`, Linux 6.8).
    pub(crate) fn mount(&self) -> Option<u64> {
        let wanted = fs::StatxFlags::from_bits_retain(0x4000);
        let found = fs::statx(&self.root, "", AtFlags::EMPTY_PATH, wanted).ok()?;
        (found.stx_mask & wanted.bits() != 0).then_some(found.stx_mnt_id)
    }

    /// What is at `path` below the root, where anything is; a link is not followed.
    ///
    /// # Errors
    /// When it cannot be told. A missing or linked parent counts as nothing there.
    pub(crate) fn find(&self, path: &Path) -> Result<Option<Stat>> {
        let whole = self.path.join(path);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let name = path.file_name().unwrap_or_default();
        let opened;
        let directory = match parent {
            None => self.root.as_fd(),
            Some(parent) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                match open_beneath(self.root.as_fd(), parent.as_os_str().as_bytes(), flags, Mode::empty()) {
                    Ok(fd) => opened = fd,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    Err(error) => return Err(error).context("open directory", whole.as_path()),
                }
                opened.as_fd()
            }
        };
        stat_entry(directory, name.as_bytes()).context("stat", whole.as_path())
    }

    /// Opens the state directory.
    ///
    /// # Errors
    /// When it is not there, or lets us in nowhere.
    pub(crate) fn open_state(&self) -> Result<OwnedFd> {
        let state = self.state();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let directory = openat(state.parent.as_fd(), state.name.as_bytes(), flags, Mode::empty());
        directory.context("open directory", state.path.as_path())
    }

    /// The names in the root, but for volseed's own.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = names(self.root.as_fd()).context("read directory", self.path())?;
        let is_ours = |name: &[u8]| name == records::DIRECTORY.as_bytes() || is_nested(name);
        names.retain(|name| !is_ours(name));
        Ok(names)
    }

    fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(name))
    }
}

/// For the names of a directory, in bytes. Some 200 at once: most directories need one call, and one more that says so.
const NAMES_BUFFER: usize = 8192;

/// How the names begin of stages for mounts below a volume, in the root of each.
pub(crate) const NESTED: &str = ".volseed-";

/// Whether it is the name of such a stage.
pub(crate) fn is_nested(name: &[u8]) -> bool {
    name.strip_prefix(NESTED.as_bytes()).is_some_and(|rest| rest.len() == 16)
}

/// The kind of a file system, as far as volseed treats them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// The name that `mount` knows it by, or `unknown`.
    pub name: &'static str,
    /// Where the data is kept.
    pub place: Storage,
}

/// Where a file system keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In memory: nothing outlives the machine's boot.
    Memory,
    /// On a device of this machine.
    Local,
    /// On a server: every call may be a round trip.
    Network,
    /// Not known; treated with a network's caution.
    Unknown,
}

impl FileSystem {
    /// Types of mounts whose every call may be a request, as the kernel names them.
    pub(crate) fn of_remote(kind: &str) -> Option<FileSystem> {
        let magic = match kind.split('.').next().unwrap_or(kind) {
            "nfs" | "nfs4" => 0x6969,
            "cifs" | "smb3" => 0xff53_4d42,
            "ceph" => 0x00c3_6400,
            "9p" => 0x0102_1997,
            "fuse" => 0x6573_5546,
            _ => return None,
        };
        Some(FileSystem::of_magic(magic))
    }

    /// Magic numbers from statfs(2) and `linux/magic.h`.
    fn of_magic(magic: u64) -> FileSystem {
        let (name, place) = match magic as u32 {
            0xef53 => ("ext4", Storage::Local),
            0x5846_5342 => ("xfs", Storage::Local),
            0x9123_683e => ("btrfs", Storage::Local),
            0xf2f5_2010 => ("f2fs", Storage::Local),
            0x2fc1_2fc1 => ("zfs", Storage::Local),
            0xca45_1a4e => ("bcachefs", Storage::Local),
            0x794c_7630 => ("overlay", Storage::Local),
            0x0102_1994 | 0x8584_58f6 => ("tmpfs", Storage::Memory),
            0x6969 => ("nfs", Storage::Network),
            0x517b | 0xff53_4d42 | 0xfe53_4d42 => ("cifs", Storage::Network),
            0x00c3_6400 => ("ceph", Storage::Network),
            0x0102_1997 => ("9p", Storage::Network),
            0x0bd0_0bd0 => ("lustre", Storage::Network),
            0x4d44 => ("vfat", Storage::Local),
            0x2011_bab0 => ("exfat", Storage::Local),
            0x5346_544e => ("ntfs", Storage::Local),
            0x7366_746e => ("ntfs3", Storage::Local),
            0xf15f => ("ecryptfs", Storage::Unknown),
            0x6573_5546 => ("fuse", Storage::Unknown),
            _ => ("unknown", Storage::Unknown),
        };
        FileSystem { name, place }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Opens `path` below `directory`, following no link and leaving by no `..`.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` where a component is a link; `EXDEV` where it would leave; the rest as
/// `openat`.
pub(crate) fn open_beneath(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match open_resolved(directory, path, flags, mode, resolve)? {
        Some(fd) => Ok(fd),
        None => open_by_components(directory, path, flags, mode),
    }
}

/// Nothing where the kernel is older than the call, or a seccomp profile does not know it.
fn open_resolved(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> rustix::io::Result<Option<OwnedFd>> {
    loop {
        match fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
            opened => return opened.map(Some),
        }
    }
}

fn open_by_components(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let mut parts =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    let mut parent: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        if part == b".." {
            return Err(Errno::XDEV);
        }
        let below = parent.as_ref().map_or(directory, AsFd::as_fd);
        let last = parts.peek().is_none();
        let (flags, mode) =
            if last { (flags, mode) } else { (OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) };
        let fd = openat(below, part, flags, mode)?;
        if last {
            return Ok(fd);
        }
        parent = Some(fd);
    }
    openat(directory, b".", flags, mode)
}

/// Opens `path` below `directory` as [`open_beneath`] does, and in the same mount. Before Linux 5.6, the same
/// device is taken for that.
///
/// # Errors
/// `EXDEV` where another mount is on the way or at its end; the rest as [`open_beneath`].
pub(crate) fn open_in_mount(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match open_resolved(directory, path, flags, Mode::empty(), resolve)? {
        Some(fd) => Ok(fd),
        None => open_on_device(directory, path, flags),
    }
}

fn open_on_device(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let fd = open_by_components(directory, path, flags, Mode::empty())?;
    if fs::fstat(&fd)?.st_dev == fs::fstat(directory)?.st_dev { Ok(fd) } else { Err(Errno::XDEV) }
}

/// Opens one name in `directory` without following a link, and without waiting for a FIFO's other end.
///
/// # Errors
/// As `openat`.
pub(crate) fn openat(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    // Without O_NONBLOCK a FIFO that somebody has put there would hold us until it is opened elsewhere.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::io::retry_on_intr(|| fs::openat(directory, name, flags, mode))
}

/// What `name` in `directory` is, where there is such a name; a link is not followed.
///
/// # Errors
/// As `fstatat`, but for `ENOENT`.
pub(crate) fn stat_entry(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Changes the mode of `name` in `directory`; a link is not followed.
///
/// # Errors
/// As `fchmodat` with `AT_SYMLINK_NOFOLLOW`, for which the C library needs `fchmodat2` (Linux 6.6) or /proc.
pub(crate) fn change_mode(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> rustix::io::Result<()> {
    use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
    let name = std::ffi::OsStr::from_bytes(name);
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(directory, name, mode, FchmodatFlags::NoFollowSymlink)
        .map_err(|error| Errno::from_raw_os_error(error as i32))
}

/// The names in a directory, in the order of the file system.
///
/// # Errors
/// As `getdents64`.
pub(crate) fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<Box<[u8]>>> {
    Ok(entries_with_types(directory)?.into_iter().map(|(name, _)| name).collect())
}

/// What is in a directory, and its types as far as the file system says them on the way.
///
/// # Errors
/// As `getdents64`.
pub(crate) fn entries_with_types(
    directory: BorrowedFd<'_>,
) -> rustix::io::Result<Vec<(Box<[u8]>, FileType)>> {
    let mut found = Vec::new();
    list(directory, &mut |name, file_type| {
        found.push((name.into(), file_type));
        Ok(())
    })?;
    Ok(found)
}

/// The next names of a directory, from where the last call on this descriptor has ended: at least so many, and as many
/// as the kernel tells at once. Whether these were the last.
///
/// # Errors
/// As `getdents64`.
pub(crate) fn next_names(
    directory: BorrowedFd<'_>,
    at_least: usize,
) -> rustix::io::Result<(Vec<Box<[u8]>>, bool)> {
    let mut buffer = [MaybeUninit::uninit(); NAMES_BUFFER];
    let (mut entries, mut names) = (fs::RawDir::new(directory, &mut buffer), Vec::new());
    while names.len() < at_least || !entries.is_buffer_empty() {
        let Some(entry) = entries.next() else { return Ok((names, true)) };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok((names, false))
}

/// What is in a directory, with what `stat` tells of each. A few names are read and then looked at
/// before the next: an NFS client takes that as the sign to fetch both at once (`READDIRPLUS`).
///
/// # Errors
/// As `getdents64` and `fstatat`.
pub(crate) fn entries(directory: BorrowedFd<'_>) -> rustix::io::Result<HashMap<Box<[u8]>, Stat>> {
    entries_of(directory, &|_| true)
}

/// The same of what has one of the names that are `wanted`.
///
/// # Errors
/// As [`entries`].
pub(crate) fn entries_of(
    directory: BorrowedFd<'_>,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> rustix::io::Result<HashMap<Box<[u8]>, Stat>> {
    let mut found = HashMap::new();
    list(directory, &mut |name, _| {
        if wanted(name) {
            found.extend(stat_entry(directory, name)?.map(|stat| (name.into(), stat)));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Tells of each name in a directory, and of its type as far as the file system says that on the way.
///
/// # Errors
/// As `getdents64`; that of `each`, which ends it.
pub(crate) fn list(
    directory: BorrowedFd<'_>,
    each: &mut dyn FnMut(&[u8], FileType) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); NAMES_BUFFER];
    fs::seek(directory, fs::SeekFrom::Start(0))?;
    let mut entries = fs::RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.file_type())?;
        }
    }
    Ok(())
}

/// Whether `stat` is of the type that `type_bits` (`S_IFDIR`, …) names.
pub(crate) fn is_type(stat: &Stat, file_type: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == file_type
}

/// Whether it is a regular file with one name: what is written to it reaches no other.
pub(crate) fn is_lone_file(stat: &Stat) -> bool {
    is_type(stat, FileType::RegularFile) && stat.st_nlink == 1
}

/// The error for something on the volume that is not what volseed left there.
pub(crate) fn foreign_state(path: &Path, cause: &str) -> Error {
    Error::new(Exit::Refused, "read state", cause.to_owned())
        .on(path)
        .help("look at what is there; remove .volseed from the volume to have it seeded again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Opener = fn(BorrowedFd<'_>, &[u8], OFlags, Mode) -> rustix::io::Result<OwnedFd>;

    #[test]
    fn paths_do_not_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        std::fs::write(dir.path().join("root/a/b/file"), "x").unwrap();
        symlink("b", dir.path().join("root/a/link")).unwrap();
        let root = std::fs::File::open(dir.path().join("root")).unwrap();
        for opener in [open_beneath as Opener, open_by_components] {
            let open = |path: &str| opener(root.as_fd(), path.as_bytes(), OFlags::RDONLY, Mode::empty());
            assert!(open("a/b/file").is_ok());
            assert!(open("a").is_ok());
            assert!(open("a/link/file").is_err());
            assert!(open("a/link").is_err());
            assert!(open("../root/a").is_err());
            assert!(open("a/../../root").is_err());
        }
    }
}
