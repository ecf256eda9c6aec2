//! slowfs as a program: mounts an empty volume, says `ready`, and counts until it is told to end.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::libc;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use slowfs::{Errno, Fault, Locks, Mount, Op, Options, Squash};

/// Mounts a file system in memory on which every NFS-like operation takes a round trip.
///
/// Says `ready` once it is mounted, prints its counts as a line of JSON on SIGUSR1 and at its end, and
/// unmounts on SIGTERM or SIGINT. From SIGUSR2 on, which prints them too, it answers at once. OP is one of lookup, getattr, setattr, create, open, read, write,
/// close, mkdir, symlink, mknod, link, unlink, rmdir, rename, readdir, readlink, access, statfs, lock,
/// fsync, opendir. Needs root and /dev/fuse.
#[derive(Parser)]
#[command(name = "slowfs")]
struct Flags {
    /// An empty directory
    mountpoint: PathBuf,
    /// How long a round trip takes
    #[arg(long, default_value = "3ms", value_parser = humantime::parse_duration)]
    rtt: Duration,
    /// Round trips at a time
    #[arg(long, default_value_t = 64)]
    slots: usize,
    /// Owner of the root directory
    #[arg(long, value_name = "UID:GID", default_value = "0:0", value_parser = owner)]
    owner: (u32, u32),
    /// Mode of the root directory, in octal
    #[arg(long, default_value = "755", value_parser = octal)]
    mode: u32,
    /// Takes root for nobody
    #[arg(long)]
    squash_root: bool,
    /// Takes everybody for this user and group
    #[arg(long, value_name = "UID:GID", value_parser = owner, conflicts_with = "squash_root")]
    squash_all: Option<(u32, u32)>,
    /// Refuses locks with this error
    #[arg(long, value_name = "ERROR", value_parser = errno)]
    refuse_locks: Option<Errno>,
    /// Leaves locks to the kernel of each mount
    #[arg(long, conflicts_with = "refuse_locks")]
    local_locks: bool,
    /// Room for file data, in bytes
    #[arg(long, value_name = "BYTES")]
    capacity: Option<u64>,
    /// Has an operation fail: all, or the next N, or those on what has this name. Repeatable
    #[arg(long, value_name = "OP[:NAME]=ERROR[*N]", value_parser = fault)]
    fail: Vec<Fault>,
    /// Makes an operation take longer. Repeatable
    #[arg(long, value_name = "OP=DURATION", value_parser = delay)]
    delay: Vec<(Op, Duration)>,
    /// Leaves an operation without an answer, or `all`
    #[arg(long, value_name = "OP", value_parser = hang)]
    hang: Option<Hang>,
}

#[derive(Clone, Copy)]
struct Hang(Option<Op>);

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: slowfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2])?;
    let options = Options {
        rtt: flags.rtt,
        slots: flags.slots,
        owner: flags.owner,
        mode: flags.mode,
        squash: match flags.squash_all {
            Some((uid, gid)) => Squash::All(uid, gid),
            None if flags.squash_root => Squash::Root,
            None => Squash::None,
        },
        locks: match flags.refuse_locks {
            Some(errno) => Locks::Refused(errno),
            None if flags.local_locks => Locks::Local,
            None => Locks::Shared,
        },
        capacity: flags.capacity,
        ..Options::default()
    };
    let mount = Mount::new(options, &flags.mountpoint)?;
    let faults = mount.faults();
    flags.fail.into_iter().for_each(|fault| faults.fail(fault));
    flags.delay.into_iter().for_each(|(op, by)| faults.delay(op, by));
    if let Some(Hang(op)) = flags.hang {
        faults.hang(op);
    }
    say("ready")?;
    for signal in signals.forever() {
        say(&mount.counts().json())?;
        match signal {
            SIGUSR1 => {}
            SIGUSR2 => mount.set_rtt(Duration::ZERO),
            _ => break,
        }
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').ok_or("not UID:GID")?;
    let number = |part: &str| part.parse().map_err(|_| format!("not a number: {part}"));
    Ok((number(user)?, number(group)?))
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|error| error.to_string())
}

fn op(text: &str) -> Result<Op, String> {
    Op::named(text).ok_or_else(|| format!("no operation '{text}'"))
}

fn errno(text: &str) -> Result<Errno, String> {
    let code = match text {
        "EACCES" => libc::EACCES,
        "EDQUOT" => libc::EDQUOT,
        "EIO" => libc::EIO,
        "ENOLCK" => libc::ENOLCK,
        "ENOSPC" => libc::ENOSPC,
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        "EROFS" => libc::EROFS,
        "ESTALE" => libc::ESTALE,
        _ => text.parse().map_err(|_| format!("no error '{text}'"))?,
    };
    Ok(Errno::from_i32(code))
}

fn fault(text: &str) -> Result<Fault, String> {
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

fn delay(text: &str) -> Result<(Op, Duration), String> {
    let (name, by) = text.split_once('=').ok_or("not OP=DURATION")?;
    Ok((op(name)?, humantime::parse_duration(by).map_err(|error| error.to_string())?))
}

fn hang(text: &str) -> Result<Hang, String> {
    if text == "all" { Ok(Hang(None)) } else { op(text).map(|op| Hang(Some(op))) }
}
