//! slowfs as a program: mounts an empty volume, says `ready`, and counts until it is told to end.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use slowfs::{Errno, Fault, Locks, Mount, Op, Options, Quirks, Squash};

mod flags;

use flags::{Hang, Quirk};

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
    #[arg(long, value_name = "UID:GID", default_value = "0:0", value_parser = flags::owner)]
    owner: (u32, u32),
    /// Mode of the root directory, in octal
    #[arg(long, default_value = "755", value_parser = flags::octal)]
    mode: u32,
    /// Takes root for nobody
    #[arg(long)]
    squash_root: bool,
    /// Takes everybody for this user and group
    #[arg(long, value_name = "UID:GID", value_parser = flags::owner, conflicts_with = "squash_root")]
    squash_all: Option<(u32, u32)>,
    /// Refuses locks with this error
    #[arg(long, value_name = "ERROR", value_parser = flags::errno)]
    refuse_locks: Option<Errno>,
    /// Leaves locks to the kernel of each mount
    #[arg(long, conflicts_with = "refuse_locks")]
    local_locks: bool,
    /// Room for file data, in bytes
    #[arg(long, value_name = "BYTES")]
    capacity: Option<u64>,
    /// Has the file system refuse something, or do it in another way. QUIRK is symlinks, hard-links,
    /// links-to-symlinks, special-files, modes, owners, times, xattrs or not-utf8 with =ERROR;
    /// modes=ignored, owners=ignored, times=ignored, xattrs=kept; max-name, max-links, oldest-time, quota,
    /// statfs-blocks, statfs-inodes, statfs-free-inodes or statfs-max-name with =N; forbidden=CHARACTERS or
    /// drops-at-end=CHARACTERS; ignores-case, or ignores-case-in=DIRECTORY. Repeatable
    #[arg(long, value_name = "QUIRK", value_parser = flags::quirk)]
    quirk: Vec<Quirk>,
    /// Has an operation fail: all, or the next N, or those on what has this name. Repeatable
    #[arg(long, value_name = "OP[:NAME]=ERROR[*N]", value_parser = flags::fault)]
    fail: Vec<Fault>,
    /// Makes an operation take longer. Repeatable
    #[arg(long, value_name = "OP=DURATION", value_parser = flags::delay)]
    delay: Vec<(Op, Duration)>,
    /// Leaves an operation without an answer, or `all`
    #[arg(long, value_name = "OP", value_parser = flags::hang)]
    hang: Option<Hang>,
}

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
    let mut quirks = Quirks::default();
    flags.quirk.iter().try_for_each(|quirk| quirk.apply(&mut quirks)).map_err(io::Error::other)?;
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
        quirks,
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
