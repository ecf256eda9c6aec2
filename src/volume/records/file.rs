//! Records as files: read bounded, written whole.
//!
//! A record is one JSON document with a checksum. It is written to a temporary, synced, renamed and its
//! directory synced, so that it is there whole or not at all, and it is read up to a fixed size, from a
//! regular file only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::FORMAT;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::text;
use crate::volume;
use crate::volume::{foreign_state, is_lone_file, is_type, remove_tree};

/// The field of a record that holds its checksum.
const CHECKSUM: &str = "checksum";

/// The largest record that is read, in bytes: it lists at most [`super::TOP_LISTED`] names of 255 bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A record as it is written: JSON, with a checksum of all its other fields.
pub(crate) fn to_bytes<T: Serialize>(record: &T) -> Vec<u8> {
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
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    let no_record = |cause: String| {
        let cause = text::shown(cause.as_bytes());
        foreign_state(path, &format!("not a record of volseed's ({cause})"))
    };
    let mut value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| no_record(error.to_string()))?;
    check_format(&value, path)?;
    let written = value.as_object_mut().and_then(|fields| fields.remove(CHECKSUM));
    if written.as_ref().and_then(serde_json::Value::as_str) != Some(checksum(&value).as_str()) {
        return Err(no_record("its checksum is wrong".into()));
    }
    serde_json::from_value(value).map_err(|error| no_record(error.to_string()))
}

/// Another layout may have another checksum, and other fields.
fn check_format(record: &serde_json::Value, path: &Path) -> Result<()> {
    let refused = |cause: &str, help: &'static str| {
        Err(Error::new(Exit::Refused, "read state", cause.to_owned()).on(path).help(help))
    };
    match record.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => {
            let cause = format!("a newer volseed wrote it (format {format}; this one reads {FORMAT})");
            refused(&cause, "start an image with that volseed or a newer one")
        }
        Some(format) if format < u64::from(FORMAT) => {
            let cause = format!("a volseed from before the first release wrote it (format {format})");
            refused(&cause, "remove .volseed from the volume; with --sentinel it is then adopted, not seeded")
        }
        _ => Ok(()),
    }
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
pub(crate) fn read_whole(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Vec<u8>> {
    let fd = volume::openat(directory, name.as_bytes(), OFlags::RDONLY, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    if !is_type(&stat, FileType::RegularFile) {
        return Err(Errno::LOOP);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > MAX_BYTES {
        return Err(Errno::FBIG);
    }
    let mut bytes = Vec::with_capacity(size as usize);
    File::from(fd).take(size).read_to_end(&mut bytes).map_err(errno)?;
    Ok(bytes)
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// We alone.
    Closed,
    /// Everybody, and nobody else may write it.
    Readable,
}

/// Writes the record `name` in `directory`, durable on return.
///
/// # Errors
/// When it could not be made durable.
pub(crate) fn write<T: Serialize>(
    directory: BorrowedFd<'_>,
    name: &str,
    record: &T,
    path: &Path,
) -> Result<()> {
    let temporary = format!("{name}.tmp");
    let path = path.join(name);
    write_whole(directory, temporary.as_bytes(), &to_bytes(record), Access::Closed)
        .context("write record", path.as_path())?;
    fs::renameat(directory, temporary.as_bytes(), directory, name.as_bytes())
        .context("rename record", path.as_path())?;
    fs::fsync(directory).context("sync directory of record", path.as_path())
}

/// Makes or replaces a small file; it is durable on return.
///
/// # Errors
/// As `openat`, `write`, `fsync` and `close`.
pub(crate) fn write_whole(
    directory: BorrowedFd<'_>,
    name: &[u8],
    bytes: &[u8],
    access: Access,
) -> rustix::io::Result<()> {
    let mode = match access {
        Access::Closed => Mode::RUSR | Mode::WUSR,
        Access::Readable => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
    };
    // Without O_EXCL it is one call to an NFS server. What is there may be another name of a file
    // elsewhere, which must not even be made shorter.
    let create = |more: OFlags| {
        let flags = OFlags::WRONLY | OFlags::CREATE | more;
        volume::openat(directory, name, flags, mode)
    };
    let found = match create(OFlags::empty()) {
        Ok(fd) => Some((fs::fstat(&fd)?, fd)).filter(|(stat, _)| is_lone_file(stat)),
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS) => None,
        Err(error) => return Err(error),
    };
    let (stat, fd) = match found {
        Some((stat, fd)) => {
            if stat.st_size > 0 {
                fs::ftruncate(&fd, 0)?;
            }
            (stat, fd)
        }
        None => {
            remove_tree(directory, name)?;
            let fd = create(OFlags::EXCL)?;
            (fs::fstat(&fd)?, fd)
        }
    };
    // The umask, or a default ACL of the directory's.
    if stat.st_mode & 0o7777 != mode.as_raw_mode() {
        match fs::fchmod(&fd, mode) {
            // On a mount that decides about modes itself.
            Ok(()) | Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {}
            Err(error) => return Err(error),
        }
    }
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(errno)?;
    fs::fsync(&file)?;
    close(file.into())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Closes a descriptor and says what `close` says: on a network file system it may be the first to
/// report that the data did not fit.
///
/// # Errors
/// As `close`, but for `EINTR`, after which Linux has closed it all the same (close(2)).
pub(crate) fn close(fd: OwnedFd) -> rustix::io::Result<()> {
    match nix::unistd::close(fd) {
        Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(Errno::from_raw_os_error(error as i32)),
    }
}
