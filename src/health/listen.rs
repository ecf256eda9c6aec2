//! The sockets that probes come in by, and the files of those that are Unix sockets.
//!
//! A file is there with its mode before it can be connected to, and is gone with us unless the app was
//! handed the socket. What another has put in its place is neither changed nor removed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::cli::config::ServerConfig;
use crate::cli::values::Address;
use crate::error::{Context, Result};
use crate::exit::Exit;

/// Connections that the kernel keeps while nobody accepts them; it takes no more than
/// `net.core.somaxconn`, 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// A socket that listens, and where.
#[derive(Debug)]
pub(crate) struct Socket {
    /// The address that it is bound to: the port is the real one where 0 was asked for.
    pub address: Address,
    /// The socket, which does not block.
    pub fd: OwnedFd,
    /// Whether it is the IPv6 one that `:80` brings along: an app is not handed it.
    pub implied: bool,
    file: Option<SocketFile>,
}

impl Socket {
    fn tcp(address: SocketAddr) -> io::Result<Socket> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // A restarted container finds connections of its predecessor in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if address.is_ipv6() {
            // So that `0.0.0.0:80` and `[::]:80` are two sockets, as they are for nginx.
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, BACKLOG)?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?).unwrap_or(address);
        Ok(Socket { address: Address::Tcp(bound), fd, implied: false, file: None })
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(crate) fn try_clone(&self) -> io::Result<Socket> {
        let (address, file) = (self.address.clone(), self.file.clone());
        Ok(Socket { address, fd: self.fd.try_clone()?, implied: self.implied, file })
    }

    /// Removes the file of a Unix socket, where it is still the one that was made.
    pub(crate) fn remove_file(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// The file of a Unix socket, and which it was when it was made.
#[derive(Debug, Clone)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn remove(&self) {
        let found = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == (self.device, self.inode)) {
            let _ = rustix::fs::unlinkat(CWD, &self.path, AtFlags::empty());
        }
    }
}

/// Listens on all addresses.
///
/// # Errors
/// Exit 71 when one is taken or may not be had.
pub(crate) fn listen(addresses: &[Address], config: &ServerConfig) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for address in addresses {
        let bound = match address {
            Address::Tcp(address) => Socket::tcp(*address).map(|socket| vec![socket]),
            Address::Port(port) => every_address(*port, addresses),
            Address::Unix(path) => unix(path, config).map(|socket| vec![socket]),
        };
        let help = bound.as_ref().err().map(|error| help(error, address));
        let bound = bound
            .context("listen on", address.to_string())
            .map_err(|error| error.exit(Exit::System).help(help.unwrap_or_default()));
        sockets.extend(bound?);
    }
    Ok(sockets)
}

/// A port of every IPv4 address, and of every IPv6 one where the system has any and no other of `all`
/// the addresses asks for it.
fn every_address(port: u16, all: &[Address]) -> io::Result<Vec<Socket>> {
    let unless_unknown = |error: io::Error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => Ok(None),
        _ => Err(error),
    };
    let first = Socket::tcp((Ipv4Addr::UNSPECIFIED, port).into()).map(Some).or_else(unless_unknown)?;
    let port = match &first {
        Some(Socket { address: Address::Tcp(bound), .. }) => bound.port(),
        _ => port,
    };
    let is_asked_for =
        |other: &Address| matches!(other, Address::Tcp(it) if it.is_ipv6() && it.port() == port);
    if first.is_some() && all.iter().any(is_asked_for) {
        return Ok(first.into_iter().collect());
    }
    let second = match Socket::tcp((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(socket) => Some(Socket { implied: first.is_some(), ..socket }),
        Err(error) if first.is_none() => return Err(error),
        Err(error) => {
            let missing = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL, libc::EPROTONOSUPPORT];
            if !error.raw_os_error().is_some_and(|number| missing.contains(&number)) {
                tracing::warn!(address = %format!("[::]:{port}"), %error, "IPv6 left out");
            }
            None
        }
    };
    Ok(first.into_iter().chain(second).collect())
}

fn unix(path: &Path, config: &ServerConfig) -> io::Result<Socket> {
    if is_left_behind(path) {
        // Of a container that was killed: nobody listens there.
        rustix::fs::unlinkat(CWD, path, AtFlags::empty())?;
    }
    let name = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The mode is the one that it is born with; no other thread makes files yet.
    let before = rustix::process::umask(Mode::from_raw_mode(0o777 & !config.args.listen_mode));
    let bound = rustix::net::bind(&fd, &name);
    rustix::process::umask(before);
    bound?;
    // Nobody can connect before it listens.
    let file = own(path, config.owner)?;
    rustix::net::listen(&fd, BACKLOG).inspect_err(|_| file.remove())?;
    Ok(Socket { address: Address::Unix(path.to_owned()), fd, implied: false, file: Some(file) })
}

/// Gives the file that was just made to its owner, by a descriptor: another could have the directory, and
/// put something else there.
fn own(path: &Path, owner: Option<(u32, u32)>) -> io::Result<SocketFile> {
    let made = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&made)?;
    let file = SocketFile { path: path.to_owned(), device: stat.st_dev, inode: stat.st_ino };
    if let Some((uid, gid)) = owner {
        let ours =
            is_socket(&stat) && stat.st_nlink == 1 && stat.st_uid == rustix::process::geteuid().as_raw();
        let given = if ours {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(made.as_fd(), "", uid, gid, AtFlags::EMPTY_PATH)
        } else {
            Err(Errno::STALE)
        };
        given.inspect_err(|_| file.remove())?;
    }
    Ok(file)
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

/// Whether it is a socket that nobody listens on.
fn is_left_behind(path: &Path) -> bool {
    let connect = || {
        // It does not wait where another's queue is full.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)
    };
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_socket(&stat))
        && connect() == Err(Errno::CONNREFUSED)
}

/// What the reader can do about an address that may not be had.
fn help(error: &io::Error, address: &Address) -> &'static str {
    let is_unix = matches!(address, Address::Unix(_));
    let is_ipv6 = matches!(address, Address::Tcp(address) if address.is_ipv6());
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) if is_ipv6 => {
            "this system has no such IPv6 address, or no IPv6 at all: leave it out; `:80` is IPv4, and IPv6 where there is any"
        }
        Some(libc::EAFNOSUPPORT) => {
            "this system does not have this kind of address (IPv4 or Unix sockets), or a seccomp profile refuses it"
        }
        Some(libc::EADDRNOTAVAIL) => "no interface of this container has this address; `:80` is every one",
        Some(libc::EADDRINUSE) if is_unix => {
            "another program listens there, or what is there is not a socket: remove it or choose another path"
        }
        Some(libc::EADDRINUSE) => {
            "another program listens there: in this container, in its pod, or on the host with `network_mode: host`"
        }
        Some(libc::EACCES | libc::EPERM) if is_unix => {
            "this user may not make files in that directory, or not give them to another (--listen-owner needs root)"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "a port below 1024 needs root, CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start; or choose one above"
        }
        Some(libc::ENOENT | libc::ENOTDIR) => "the socket's directory has to be there: make it in the image",
        Some(libc::ENAMETOOLONG | libc::EINVAL) if is_unix => {
            "the path of a Unix socket is at most 107 bytes long"
        }
        _ => "choose another address for it",
    }
}
