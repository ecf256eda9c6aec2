//! A standard error that nobody reads, until the test does.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;

use nix::pty::openpty;
use nix::sys::termios::{FlowArg, tcflow};
use rustix::fs::{OFlags, fcntl_setfl};

use super::pipes::Transcript;

/// What it can be.
pub(crate) const KINDS: [&str; 4] = ["pipe", "stream socket", "datagram socket", "terminal"];

pub(crate) struct Unread {
    far: OwnedFd,
    near: OwnedFd,
    is_terminal: bool,
}

impl Unread {
    pub(crate) fn new(kind: &str) -> Unread {
        let (far, near) = match kind {
            "pipe" => {
                let (far, near) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
                rustix::pipe::fcntl_setpipe_size(&near, 16 << 10).unwrap();
                (far, near)
            }
            "stream socket" => UnixStream::pair().map(|(far, near)| (far.into(), near.into())).unwrap(),
            "datagram socket" => UnixDatagram::pair().map(|(far, near)| (far.into(), near.into())).unwrap(),
            "terminal" => {
                let pair = openpty(None, None).unwrap();
                let cloexec = rustix::io::FdFlags::CLOEXEC;
                rustix::io::fcntl_setfd(&pair.master, cloexec).unwrap();
                rustix::io::fcntl_setfd(&pair.slave, cloexec).unwrap();
                (pair.master, pair.slave)
            }
            _ => panic!("{kind}"),
        };
        Unread { far, near, is_terminal: kind == "terminal" }
    }

    /// One that takes nothing: full, or a terminal that is stopped as by Ctrl-S.
    pub(crate) fn blocked(kind: &str) -> Unread {
        let unread = Unread::new(kind);
        unread.block();
        unread
    }

    pub(crate) fn block(&self) {
        if self.is_terminal {
            tcflow(&self.near, FlowArg::TCOOFF).unwrap();
            return;
        }
        let mut near = File::from(self.near.try_clone().unwrap());
        fcntl_setfl(&near, OFlags::NONBLOCK).unwrap();
        for size in [4096, 1] {
            while near.write(&[b'#'; 4096][..size]).is_ok() {}
        }
        fcntl_setfl(&near, OFlags::empty()).unwrap();
    }

    /// For what is started.
    pub(crate) fn near(&self) -> Stdio {
        self.near.try_clone().unwrap().into()
    }

    /// Reads from here on. It ends with the last process that has it.
    pub(crate) fn read(self) -> Transcript {
        if self.is_terminal {
            tcflow(&self.near, FlowArg::TCOON).unwrap();
        }
        Transcript::of(File::from(self.far))
    }
}
