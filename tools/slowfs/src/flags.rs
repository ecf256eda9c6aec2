//! What the flags of the program take.

use std::time::{Duration, UNIX_EPOCH};

use nix::libc;
use slowfs::{Change, Errno, Fault, Op, Quirks, Xattrs};

/// An operation that is left without an answer, or all of them.
#[derive(Clone, Copy)]
pub(crate) struct Hang(pub Option<Op>);

/// A change of [`Quirks`].
#[derive(Clone)]
pub(crate) struct Quirk {
    name: String,
    value: String,
}

impl Quirk {
    pub(crate) fn apply(&self, quirks: &mut Quirks) -> Result<(), String> {
        let value = self.value.as_str();
        let refused = || errno(value).map(Some);
        match self.name.as_str() {
            "symlinks" => quirks.symlinks = refused()?,
            "hard-links" => quirks.hard_links = refused()?,
            "links-to-symlinks" => quirks.links_to_symlinks = refused()?,
            "special-files" => quirks.special_files = refused()?,
            "modes" => quirks.modes = change(value)?,
            "owners" => quirks.owners = change(value)?,
            "times" => quirks.times = change(value)?,
            "xattrs" if value == "kept" => quirks.xattrs = Xattrs::Kept,
            "xattrs" => quirks.xattrs = Xattrs::Refused(errno(value)?),
            "max-name" => quirks.max_name = Some(number(value)?),
            "forbidden" => quirks.forbidden = value.to_owned(),
            "not-utf8" => quirks.not_utf8 = refused()?,
            "ignores-case" => quirks.ignores_case = true,
            "ignores-case-in" => quirks.ignores_case_in = Some(value.into()),
            "drops-at-end" => quirks.drops_at_end = value.to_owned(),
            "oldest-time" => quirks.oldest_time = Some(UNIX_EPOCH + Duration::from_secs(number(value)?)),
            "max-links" => quirks.max_links = Some(number(value)?),
            "quota" => quirks.quota = Some(number(value)?),
            "statfs-blocks" => quirks.room.free_blocks = Some(number(value)?),
            "statfs-inodes" => quirks.room.inodes = Some(number(value)?),
            "statfs-free-inodes" => quirks.room.free_inodes = Some(number(value)?),
            "statfs-max-name" => quirks.room.max_name = Some(number(value)?),
            other => return Err(format!("no quirk '{other}'")),
        }
        Ok(())
    }
}

pub(crate) fn quirk(text: &str) -> Result<Quirk, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let quirk = Quirk { name: name.to_owned(), value: value.to_owned() };
    quirk.apply(&mut Quirks::default()).map(|()| quirk)
}

fn change(text: &str) -> Result<Change, String> {
    if text == "ignored" { Ok(Change::Ignored) } else { errno(text).map(Change::Refused) }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

pub(crate) fn owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').ok_or("not UID:GID")?;
    let number = |part: &str| part.parse().map_err(|_| format!("not a number: {part}"));
    Ok((number(user)?, number(group)?))
}

pub(crate) fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|error| error.to_string())
}

pub(crate) fn op(text: &str) -> Result<Op, String> {
    Op::named(text).ok_or_else(|| format!("no operation '{text}'"))
}

pub(crate) fn errno(text: &str) -> Result<Errno, String> {
    let code = match text {
        "EACCES" => libc::EACCES,
        "EDQUOT" => libc::EDQUOT,
        "EILSEQ" => libc::EILSEQ,
        "EIO" => libc::EIO,
        "EINVAL" => libc::EINVAL,
        "ENOLCK" => libc::ENOLCK,
        "ENOSPC" => libc::ENOSPC,
        "ENOSYS" => libc::ENOSYS,
        "ENOTSUP" | "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "EPERM" => libc::EPERM,
        "EROFS" => libc::EROFS,
        "ESTALE" => libc::ESTALE,
        _ => text.parse().map_err(|_| format!("no error '{text}'"))?,
    };
    Ok(Errno::from_i32(code))
}

pub(crate) fn fault(text: &str) -> Result<Fault, String> {
    let (what, error) = text.split_once('=').ok_or("not OP=ERROR")?;
    let (op_name, name) = what.split_once(':').map_or((what, None), |(op, name)| (op, Some(name)));
    let (error, times) = error.split_once('*').map_or((error, None), |(error, times)| (error, Some(times)));
    let mut fault = Fault::new(op(op_name)?, errno(error)?);
    if let Some(name) = name {
        fault = fault.named(name);
    }
    match times {
        Some(times) => Ok(fault.times(times.parse().map_err(|_| format!("not a number: {times}"))?)),
        None => Ok(fault),
    }
}

pub(crate) fn delay(text: &str) -> Result<(Op, Duration), String> {
    let (name, by) = text.split_once('=').ok_or("not OP=DURATION")?;
    Ok((op(name)?, humantime::parse_duration(by).map_err(|error| error.to_string())?))
}

pub(crate) fn hang(text: &str) -> Result<Hang, String> {
    if text == "all" { Ok(Hang(None)) } else { op(text).map(|op| Hang(Some(op))) }
}
