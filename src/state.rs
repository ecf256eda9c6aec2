//! The records under `.volseed/`: read bounded, written whole.
//!
//! A record is one JSON document. It is written to a temporary, synced, renamed and its directory
//! synced, so that it is there whole or not at all, and it is read up to a fixed size, from a
//! regular file only. What a record means is for others to say.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::mutant::{self, Mutant};
use crate::text::{self, Untrusted};
use crate::volume::{self, Location, Volume, is_lone_file, is_type, not_ours, remove_tree};

/// The name of the directory of everything of ours, where no other is given.
pub const DIRECTORY: &str = ".volseed";

/// The record that says that the volume is complete.
pub const COMPLETE: &str = "state.json";

/// The staged tree's name in a stage.
pub const TREE: &str = "tree";

/// The layout of the records that this volseed writes and reads.
pub const FORMAT: u32 = 1;

/// The field of a record that holds its checksum.
const CHECKSUM: &str = "checksum";

/// The largest record that is read, in bytes: it lists at most [`TOP_LISTED`] names of 255 bytes.
const LARGEST: u64 = 1 << 20;

/// How many top-level names a record lists. More say nothing more about whether they are still there.
pub const TOP_LISTED: usize = 256;

/// A file name in JSON: text where it is UTF-8, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Name {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Name {
    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Text(text) => text.as_bytes(),
            Name::Bytes(bytes) => bytes,
        }
    }
}

/// On one line, and cut where it is longer than a name.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::shown(self.as_bytes()))
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Name {
        match std::str::from_utf8(bytes) {
            Ok(text) => Name::Text(text.to_owned()),
            Err(_) => Name::Bytes(bytes.to_owned()),
        }
    }
}

/// How a volume came to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// By volseed.
    Seeded,
    /// Before volseed: its sentinel was there.
    Adopted,
}

/// What a seed held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Regular files, without further links to them.
    pub files: u64,
    /// Directories, without the root.
    pub directories: u64,
    /// Symbolic and hard links, and FIFOs.
    pub links: u64,
    /// Bytes of file data.
    pub bytes: u64,
}

/// `state.json`: the volume is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Complete {
    /// Layout of this record.
    pub format: u32,
    /// How often this volume was seeded or upgraded, from 1.
    pub generation: u64,
    /// The version of the seed, where `--seed-version` said it.
    pub version: Option<Untrusted>,
    /// The claim that completed it.
    pub epoch: u64,
    /// How it came to be complete.
    pub origin: Origin,
    /// Where the seed came from.
    pub source: Name,
    /// What the seed held.
    pub totals: Totals,
    /// Top-level names of the seed; at least one of them is there on a volume that nobody emptied.
    pub top: Vec<Name>,
    /// When it was completed, in seconds since 1970, for people.
    pub finished: u64,
    /// The volseed that wrote this.
    pub volseed: Untrusted,
}

impl Complete {
    /// A record of this volseed's.
    pub fn new(
        origin: Origin,
        epoch: u64,
        generation: u64,
        version: Option<String>,
        source: &Path,
        totals: Totals,
        top: Vec<Name>,
    ) -> Complete {
        use std::os::unix::ffi::OsStrExt;
        let mut top = top;
        top.truncate(TOP_LISTED);
        Complete {
            format: FORMAT,
            generation,
            version: version.map(Untrusted::from),
            epoch,
            origin,
            source: source.as_os_str().as_bytes().into(),
            totals,
            top,
            finished: now(),
            volseed: env!("CARGO_PKG_VERSION").to_owned().into(),
        }
    }

    /// Reads a record from its bytes; `path` is for messages.
    ///
    /// # Errors
    /// Exit 78 when they are no record of this layout.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Complete> {
        let record: Complete = from_bytes(bytes, path)?;
        if record.format != FORMAT {
            let cause = format!("format {} was written by another version of volseed", record.format);
            return Err(not_ours(path, &cause));
        }
        Ok(record)
    }
}

/// `stage.json`, beside the staged tree: what of it may be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// Layout of this record.
    pub format: u32,
    /// What the volume's generation will be when this is complete.
    pub generation: u64,
    /// The boot that everything unsynced was written under.
    pub boot: Option<String>,
    /// The mount that it was written through, where the kernel has a number for it that never comes again.
    pub mount: Option<u64>,
    /// What the source looked like: a stage of another one is worth nothing.
    pub fingerprint: String,
    /// Whether the volume held nothing when the seed began: its root then becomes the seed's.
    pub empty: bool,
    /// Set before a sync is asked for. Where it is still set, the sync's answer is not known: an error is
    /// reported once (syncfs(2)), and the kernel does not write those pages again.
    pub syncing: bool,
    /// Set once the whole tree is staged and synced; from here on only publishing is left.
    pub sealed: Option<Sealed>,
}

/// When a staged file with the right size and time is sure to hold its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// At once: a server said so before the time was set.
    ByServer,
    /// While the kernel runs: nothing that it does later can report a loss.
    WhileUp,
    /// Once a sync has said so; until then while the kernel runs and the volume stays mounted, since the next
    /// sync through this mount still reports an error that was reported to no other.
    BySync,
}

/// A stage that is whole and durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// What the volume's generation will be.
    pub generation: u64,
    /// The version of the seed, where `--seed-version` said it.
    pub version: Option<String>,
    /// What the seed held.
    pub totals: Totals,
    /// Its top-level names, the first of them at least.
    pub top: Vec<Name>,
    /// What the volume's root becomes, where it was empty and the seed says.
    pub root: Option<Root>,
}

/// Owner, mode and time of the seed's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Permission bits, where the seed says.
    pub mode: Option<u32>,
    /// Modification time, seconds and nanoseconds since 1970; `None` where times are not set.
    pub mtime: Option<(i64, u32)>,
}

impl Staged {
    /// The record's name in the stage.
    pub const FILE: &str = "stage.json";

    /// The record of a stage that is begun now, through this mount.
    pub fn new(generation: u64, fingerprint: String, empty: bool, mount: Option<u64>) -> Staged {
        let boot = boot_id();
        Staged { format: FORMAT, generation, boot, mount, fingerprint, empty, syncing: false, sealed: None }
    }

    /// Reads the record of a stage from its bytes; what is none of this layout says nothing.
    pub fn parse(bytes: &[u8]) -> Option<Staged> {
        let record: Staged = from_bytes(bytes, Path::new(Staged::FILE)).ok()?;
        Some(record).filter(|record| record.format == FORMAT)
    }

    /// Reads the record of a stage, where it has one of this layout.
    pub fn read(stage: BorrowedFd<'_>) -> Option<Staged> {
        Staged::parse(&read_whole(stage, Staged::FILE).ok()?)
    }

    /// Writes the record; it is durable on return.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn write(&self, stage: BorrowedFd<'_>, path: &Path) -> Result<()> {
        write(stage, Staged::FILE, self, path)
    }

    /// Why what was staged may not be continued by the run that would begin `new`; `None` where it may: it is
    /// the same seed, and every file that looks whole is.
    pub fn distrusted_by(&self, new: &Staged, kept: Kept) -> Option<&'static str> {
        let same_kernel = self.boot.is_some() && self.boot == new.boot;
        let same_mount = self.mount.is_some() && self.mount == new.mount;
        let is_unheard = self.syncing && !mutant::on(Mutant::TrustAfterFailedSync);
        if self.fingerprint != new.fingerprint {
            return Some("the source or the options are others");
        }
        match kept {
            _ if mutant::on(Mutant::TrustAfterPowerCut) => None,
            Kept::ByServer => None,
            Kept::WhileUp | Kept::BySync if !same_kernel => Some("the machine was started again since"),
            Kept::WhileUp => None,
            Kept::BySync if !same_mount => Some("it was staged through another mount and not synced"),
            Kept::BySync if is_unheard => Some("whether its sync kept everything is not known"),
            Kept::BySync => None,
        }
    }
}

/// Seconds since 1970, for people: nothing is decided by it.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// This boot of this kernel, where the kernel says (proc(5), `/proc/sys/kernel/random/boot_id`).
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The volume's `.volseed`, of any owner.
#[derive(Debug)]
pub struct StateDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl StateDir {
    /// Opens it where it is.
    ///
    /// # Errors
    /// Exit 77 when it may not be entered, 78 when something else has its name.
    pub fn open(volume: &Volume) -> Result<Option<StateDir>> {
        let Location { parent, name, path } = volume.state();
        let (path, flags) = (path.clone(), OFlags::DIRECTORY | OFlags::RDONLY);
        match volume::openat(parent.as_fd(), name.as_bytes(), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(StateDir { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(not_ours(&path, "not a directory")),
            Err(error) => Err(error).context("open directory", path.as_path()),
        }
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The complete record, where there is one.
    ///
    /// # Errors
    /// Exit 78 when what is there cannot be a record of ours.
    pub fn complete(&self) -> Result<Option<Complete>> {
        let path = self.path.join(COMPLETE);
        match read_whole(self.fd(), COMPLETE) {
            Ok(bytes) => Complete::parse(&bytes, &path).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(not_ours(&path, "not a regular file")),
            Err(Errno::FBIG) => Err(not_ours(&path, "too large to be a record")),
            Err(error) => Err(error).context("read record", path.as_path()),
        }
    }
}

/// A record as it is written: JSON, with a checksum of all its other fields.
pub fn to_bytes<T: Serialize>(record: &T) -> Vec<u8> {
    let mut value = serde_json::to_value(record).expect("a record has string keys only");
    let sum = checksum(&value);
    if let Some(fields) = value.as_object_mut() {
        fields.insert(CHECKSUM.to_owned(), sum.into());
    }
    let mut bytes = serde_json::to_vec_pretty(&value).expect("a record has string keys only");
    bytes.push(b'\n');
    bytes
}

/// A record from its bytes; `path` is for messages.
///
/// # Errors
/// Exit 78 when they are not what `T` looks like, or not what was written.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    let no_record = |cause: String| {
        let cause = text::shown(cause.as_bytes());
        not_ours(path, &format!("not a record of volseed's ({cause})"))
    };
    let mut value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| no_record(error.to_string()))?;
    let written = value.as_object_mut().and_then(|fields| fields.remove(CHECKSUM));
    if written.as_ref().and_then(serde_json::Value::as_str) != Some(checksum(&value).as_str()) {
        return Err(no_record("its checksum is wrong".into()));
    }
    serde_json::from_value(value).map_err(|error| no_record(error.to_string()))
}

/// Of a record's fields in the order of their names, without white space.
fn checksum(fields: &serde_json::Value) -> String {
    let mut sum = flate2::Crc::new();
    sum.update(fields.to_string().as_bytes());
    format!("crc32:{:08x}", sum.sum())
}

/// Reads a small file whole.
///
/// # Errors
/// `ELOOP` where it is no regular file, `EFBIG` where it is larger than any record; else as `openat`
/// and `read`.
pub fn read_whole(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Vec<u8>> {
    let fd = volume::openat(directory, name.as_bytes(), OFlags::RDONLY, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    if !is_type(&stat, FileType::RegularFile) {
        return Err(Errno::LOOP);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > LARGEST {
        return Err(Errno::FBIG);
    }
    let mut bytes = vec![0; size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut bytes[filled..]))? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes the record `name` in `directory`, durable on return.
///
/// # Errors
/// When it could not be made durable.
pub fn write<T: Serialize>(directory: BorrowedFd<'_>, name: &str, record: &T, path: &Path) -> Result<()> {
    let temporary = format!("{name}.tmp");
    let path = path.join(name);
    write_whole(directory, temporary.as_bytes(), &to_bytes(record))
        .context("write record", path.as_path())?;
    fs::renameat(directory, temporary.as_bytes(), directory, name.as_bytes())
        .context("rename record", path.as_path())?;
    fs::fsync(directory).context("sync directory of record", path.as_path())
}

/// Makes or replaces a small file; it is durable on return.
///
/// # Errors
/// As `openat`, `write`, `fsync` and `close`.
pub fn write_whole(directory: BorrowedFd<'_>, name: &[u8], bytes: &[u8]) -> rustix::io::Result<()> {
    // Without O_EXCL it is one call to an NFS server. What is there may be another name of a file
    // elsewhere, which must not even be made shorter.
    let create = |more: OFlags| {
        let flags = OFlags::WRONLY | OFlags::CREATE | more;
        volume::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
    };
    let found = match create(OFlags::empty()) {
        Ok(fd) => Some((fs::fstat(&fd)?, fd)).filter(|(stat, _)| is_lone_file(stat)),
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS) => None,
        Err(error) => return Err(error),
    };
    let fd = match found {
        Some((stat, fd)) => {
            if stat.st_size > 0 {
                fs::ftruncate(&fd, 0)?;
            }
            fd
        }
        None => {
            remove_tree(directory, name)?;
            create(OFlags::EXCL)?
        }
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))?;
        rest = &rest[written..];
    }
    fs::fsync(&fd)?;
    close(fd)
}

/// Closes a descriptor and says what `close` says: on a network file system it may be the first to
/// report that the data did not fit.
///
/// # Errors
/// As `close`, but for `EINTR`, after which Linux has closed it all the same (close(2)).
pub fn close(fd: OwnedFd) -> rustix::io::Result<()> {
    match nix::unistd::close(fd) {
        Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(Errno::from_raw_os_error(error as i32)),
    }
}
