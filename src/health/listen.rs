//! The sockets that probes come in by.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::error::{Context, Result};
use crate::exit::Exit;
use crate::options::Address;

/// Connections that the kernel keeps while nobody accepts them; it takes no more than
/// `net.core.somaxconn`, 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// A socket that listens, and where.
#[derive(Debug)]
pub struct Socket {
    /// The address that it is bound to: the port is the real one where 0 was asked for.
    pub address: Address,
    /// The socket, which does not block.
    pub fd: OwnedFd,
}

impl Socket {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn again(&self) -> io::Result<Socket> {
        Ok(Socket { address: self.address.clone(), fd: self.fd.try_clone()? })
    }
}

/// Listens on an address.
///
/// # Errors
/// Exit 71 when it is taken or may not be had.
pub fn listen(address: &Address) -> Result<Socket> {
    let bound = match address {
        Address::Tcp(address) => tcp(*address),
        Address::Unix(path) => unix(path),
    };
    bound.context("listen on", address.to_string()).map_err(|error| {
        error.exit(Exit::System).help("is the address in use, or a port below 1024 and this user not root?")
    })
}

fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restarted container finds connections of its predecessor in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        // So that `:80` and `[::]:80` are two sockets, as they are for nginx.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    let bound = rustix::net::getsockname(&fd)?;
    Ok(Socket { address: Address::Tcp(SocketAddr::try_from(bound).unwrap_or(address)), fd })
}

fn unix(path: &Path) -> io::Result<Socket> {
    let is_left = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_left {
        // Of a container that was killed: nobody listens there.
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Socket { address: Address::Unix(path.to_owned()), fd: listener.into() })
}
