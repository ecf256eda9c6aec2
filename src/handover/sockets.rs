//! Handing listening sockets to the app, so that no connection is refused between us and it.
//!
//! Nobody accepts in between: a client that connects waits in the kernel's backlog. Each way of telling the app
//! is one that it knows already, for sockets of a predecessor or of systemd.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::cli::environment::Environment;
use crate::cli::values::{Address, PassSocket};
use crate::error::{Context, Result};
use crate::exit::Exit;

/// The first descriptor of sd_listen_fds(3), `SD_LISTEN_FDS_START`.
const FIRST: i32 = 3;
/// The variables of sd_listen_fds(3).
const FDS: &str = "LISTEN_FDS";
const PID: &str = "LISTEN_PID";
const NAMES: &str = "LISTEN_FDNAMES";
/// Where descriptors are put out of the way first.
const ASIDE: i32 = 64;
/// Where one goes that is not handed over, if the limit of open files is lower than that: there are few sockets
/// then.
const LOW_ASIDE: i32 = 24;

/// Sockets that came to the supervisor by socket activation are the app's, which has another process number.
pub(crate) fn readdress(environment: &mut Environment, supervisor: u32, app: u32) {
    let supervisor = supervisor.to_string();
    let Some((_, pid)) = environment.variables.iter_mut().find(|(name, _)| name == PID) else { return };
    if *pid == *supervisor {
        *pid = app.to_string().into();
        // The same number said in another way (sd_listen_fds(3)), which is optional.
        environment.variables.retain(|(name, _)| name != "LISTEN_PIDFDID");
    }
}

/// How many sockets came to this process by socket activation.
fn activated(environment: &Environment) -> i32 {
    let value = |name: &str| environment.value(name)?.to_str()?.parse::<i32>().ok();
    match (value(PID), value(FDS)) {
        (Some(pid), Some(count)) if u32::try_from(pid) == Ok(std::process::id()) => {
            (0..count.max(0)).take_while(|number| is_open(FIRST.saturating_add(*number))).count() as i32
        }
        _ => 0,
    }
}

fn is_open(file: i32) -> bool {
    // SAFETY: asks only whether there is such a descriptor.
    unsafe { libc::fcntl(file, libc::F_GETFD) >= 0 }
}

/// Gives the app the sockets as open descriptors, and tells it by the environment. Whatever had these
/// numbers in this process is gone: to be called right before `exec`.
///
/// # Errors
/// Exit 71 when there are too many open files.
pub(crate) fn pass(
    how: PassSocket,
    sockets: Vec<(Address, OwnedFd)>,
    environment: &mut Environment,
) -> Result<()> {
    let activated = activated(environment);
    let first = FIRST.saturating_add(activated);
    let mut numbers = Vec::new();
    for (place, (address, aside)) in (first..).zip(all_aside(how, sockets, first)?) {
        // SAFETY: nothing of this process uses the number `place` any more, see above.
        let given = unsafe { libc::dup2(aside.as_raw_fd(), place) };
        if given < 0 {
            let failed = Err(std::io::Error::last_os_error()).context("hand over", address.to_string());
            return failed.map_err(|error| error.exit(Exit::System));
        }
        numbers.push((address, place));
    }
    let list = |each: &dyn Fn(&(Address, i32)) -> String, between: &str| {
        numbers.iter().map(each).collect::<Vec<_>>().join(between)
    };
    match how {
        PassSocket::ListenFds => {
            let names = names(environment, activated, numbers.len());
            environment.remove("LISTEN_PIDFDID");
            environment.remove(NAMES);
            environment.set(FDS, (numbers.len() + usize::try_from(activated).unwrap_or(0)).to_string());
            environment.set(PID, std::process::id().to_string());
            if let Some(names) = names {
                environment.set(NAMES, names);
            }
        }
        // `3;4;` (ngx_add_inherited_sockets in nginx' src/core/nginx.c).
        PassSocket::Nginx => environment.set("NGINX", list(&|(_, number)| format!("{number};"), "")),
        // `127.0.0.1:9000=3,/run/php.sock=4` (fpm_sockets_init_main in php's sapi/fpm/fpm/fpm_sockets.c).
        PassSocket::PhpFpm => {
            environment.set("FPM_SOCKETS", list(&|(address, number)| format!("{address}={number}"), ","));
        }
    }
    Ok(())
}

/// All of them out of the way of the numbers from `first`: one may have another's.
fn all_aside(
    how: PassSocket,
    sockets: Vec<(Address, OwnedFd)>,
    first: i32,
) -> Result<Vec<(Address, OwnedFd)>> {
    let after_last = i32::try_from(sockets.len()).unwrap_or(i32::MAX).saturating_add(first);
    let moved = sockets.into_iter().map(|(address, fd)| {
        let aside = move_aside(&fd, after_last).context("hand over", address.to_string());
        let aside = aside
            .map_err(|error| error.exit(Exit::System).help("raise the limit of open files (ulimit -n)"))?;
        if how != PassSocket::Nginx {
            // Apps that know these take the socket as an ordinary one; nginx' workers want it as it is.
            let flags = fcntl_getfl(&aside).unwrap_or(OFlags::empty());
            let _ = fcntl_setfl(&aside, flags - OFlags::NONBLOCK);
        }
        Ok((address, aside))
    });
    moved.collect()
}

/// The names of the sockets that came to us and of ours behind them, where those have names.
fn names(environment: &Environment, activated: i32, ours: usize) -> Option<String> {
    let given = environment.value(NAMES).filter(|_| activated > 0)?;
    let named = std::iter::once(given.to_str()?).chain(std::iter::repeat_n("volseed", ours));
    Some(named.collect::<Vec<_>>().join(":"))
}

/// A descriptor out of the way of those that are handed over.
pub(crate) fn aside(fd: OwnedFd) -> OwnedFd {
    move_aside(&fd, LOW_ASIDE).unwrap_or(fd)
}

/// To `low` or higher where the limit of open files does not reach as far as it should.
fn move_aside(fd: &OwnedFd, low: i32) -> rustix::io::Result<OwnedFd> {
    use rustix::io::fcntl_dupfd_cloexec;
    fcntl_dupfd_cloexec(fd, ASIDE).or_else(|_| fcntl_dupfd_cloexec(fd, low))
}
