//! Whether owners, modes, times and extended attributes are kept: set on a file, and read again through its name.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};

use super::directory::{TestDirectory, in_words};
use super::finding::{Fact, Finding, unkept};
use super::needs::Needs;
use crate::cli::config::VolumeConfig;
use crate::volume::user::{self, spelled};
use rustix::io::Result;

/// Nobody's, as far as that can be: what is given to it shows whether owners are kept at all.
pub(super) const OTHER: (u32, u32) = (61_234, 61_235);
/// Modes that mean something each.
const MODES: [u32; 4] = [0o751, 0o640, 0o4755, 0o2750];
/// Times that some file system does not have: with nanoseconds, 1970, 1901, after 2038, after 2106.
const TIMES: [(&str, i64, i64); 4] =
    [("1970", 0, 0), ("1901", -2_147_000_000, 0), ("2040", 2_209_000_000, 0), ("2110", 4_418_000_000, 0)];
/// A moment with every digit of its nanoseconds.
const PRECISE: (i64, i64) = (1_234_567_891, 123_456_789);
/// `vfs_cap_data` of version 2 (linux/capability.h): CAP_NET_BIND_SERVICE, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// All of them.
///
/// # Errors
/// When a file cannot be made or looked at.
pub(super) fn findings(
    config: &VolumeConfig,
    directory: &TestDirectory,
    needs: Option<&Needs>,
) -> Result<Vec<Finding>> {
    let file = directory.file("attributes")?;
    let look = || -> Result<Stat> { fs::statat(directory.at(), "attributes", AtFlags::SYMLINK_NOFOLLOW) };
    Ok(vec![
        // Before the owner is changed, which may cost us the right to change the rest.
        modes(&file, look)?,
        times(&file, look)?,
        xattrs(&file),
        owners(config, &file, look, needs)?,
    ])
}

fn modes(file: &OwnedFd, look: impl Fn() -> Result<Stat>) -> Result<Finding> {
    for mode in MODES {
        let set = fs::fchmod(file, Mode::from_raw_mode(mode));
        let kept = look()?.st_mode & 0o7777;
        if let Err(error) = set {
            let what = format!("{mode:04o} is refused: {}", in_words(error));
            return Ok(Finding::warn("modes", what).then("modes are not set, and one warning counts them"));
        }
        if kept != mode {
            let what = format!("{mode:04o} became {kept:04o}, without an error");
            return Ok(Finding::warn("modes", what)
                .then("files have the modes of the mount (file_mode=, dir_mode=, umask=)"));
        }
    }
    let _ = fs::fchmod(file, Mode::RUSR | Mode::WUSR);
    Ok(Finding::ok("modes", "kept"))
}

fn times(file: &OwnedFd, look: impl Fn() -> Result<Stat>) -> Result<Finding> {
    let set = |seconds, nanoseconds| {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
    };
    if let Err(error) = set(PRECISE.0, PRECISE.1) {
        return Ok(Finding::warn("times", format!("refused: {}", in_words(error)))
            .then("an interrupted seed starts from scratch, and each try costs a call")
            .flag("--no-times".to_owned()));
    }
    let found = look()?;
    let off = (found.st_mtime - PRECISE.0) * 1_000_000_000 + (found.st_mtime_nsec as i64 - PRECISE.1);
    if off.abs() > 2_000_000_000 {
        return Ok(Finding::warn("times", "not kept, without an error")
            .then("an interrupted seed starts from scratch")
            .flag("--no-times".to_owned()));
    }
    let mut lost = Vec::new();
    for (year, seconds, nanoseconds) in TIMES {
        if set(seconds, nanoseconds).is_err() || look()?.st_mtime != seconds {
            lost.push(year);
        }
    }
    let resolution = match off.unsigned_abs() {
        0 => "to the nanosecond",
        1..100 => "to 100 ns",
        100..1_000 => "to the microsecond",
        1_000..10_000_000 => "to the millisecond",
        10_000_000..1_000_000_000 => "to the second",
        _ => "to 2 s",
    };
    let finding = match lost.is_empty() {
        true => Finding::ok("times", format!("kept {resolution}")),
        false => Finding::warn("times", format!("kept {resolution}, but not {}", lost.join(", ")))
            .then("files of these years get another time"),
    };
    Ok(finding.fact("off_by_ns", off.unsigned_abs()).fact("lost", Fact::List(lost)))
}

fn xattrs(file: &OwnedFd) -> Finding {
    let keeps = |name: &str, value: &[u8]| -> Result<bool> {
        fs::fsetxattr(file, name, value, XattrFlags::empty())?;
        let mut found = [0; 64];
        let length = fs::fgetxattr(file, name, &mut found)?;
        let _ = fs::fremovexattr(file, name);
        Ok(found[..length] == *value)
    };
    let told = |kept: Result<bool>| match kept {
        Ok(true) => "kept".to_owned(),
        Ok(false) => "not kept, without an error".to_owned(),
        Err(error) => format!("refused: {}", in_words(error)),
    };
    let user = keeps("user.volseed", b"value");
    let capability = keeps("security.capability", &CAPABILITY);
    let what = format!("user.* {}, file capabilities {}", told(user), told(capability));
    let finding = match (user, capability) {
        (Ok(true), Ok(true)) => Finding::ok("xattrs", "kept"),
        (Ok(true), _) => {
            Finding::warn("xattrs", what).then("a program that needs a file capability fails here")
        }
        _ => Finding::warn("xattrs", what).then("they are left out, and one warning counts them"),
    };
    finding.fact("user", user == Ok(true)).fact("capability", capability == Ok(true))
}

fn owners(
    config: &VolumeConfig,
    file: &OwnedFd,
    look: impl Fn() -> Result<Stat>,
    needs: Option<&Needs>,
) -> Result<Finding> {
    let own = user::current();
    let made = look()?;
    let made = (made.st_uid, made.st_gid);
    let set = fs::fchown(file.as_fd(), Some(Uid::from_raw(OTHER.0)), Some(Gid::from_raw(OTHER.1)));
    let found = look()?;
    let kept = set.is_ok() && (found.st_uid, found.st_gid) == OTHER;
    let finding = if kept {
        Finding::ok("owners", "kept")
    } else {
        let others = needs.map(|needs| {
            needs.owners.iter().filter(|(owner, _)| *owner != made).map(|(_, count)| count).sum()
        });
        let how = match set {
            Err(error) => format!("another one is refused: {}", in_words(error)),
            Ok(()) => "another one is ignored, without an error".to_owned(),
        };
        let finding = Finding::new(
            unkept(others, false),
            "owners",
            format!("everything belongs to {}; {how}", spelled(made)),
        );
        let finding = match (made == own, own.0) {
            (true, 1..) if !rustix::process::geteuid().is_root() => {
                finding.then("run volseed as root to set owners, or let everything be of this user")
            }
            _ => finding.then("owners are left as they are here"),
        };
        // It says what is anyhow, and spares the tries and the warning.
        match config.owner == Some(made) || others == Some(0) {
            true => finding,
            false => finding.flag(format!("--chown {}", spelled(made))),
        }
    };
    Ok(finding.fact("kept", kept).fact("uid", u64::from(made.0)).fact("gid", u64::from(made.1)))
}
