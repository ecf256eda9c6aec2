//! Who is in the foreground of our terminal. Whatever goes wrong here is no reason to end an app.
//!
//! All signals are blocked when these are called, SIGTTOU among them: who is in the background may
//! change that then (tcsetpgrp(3)).

use std::fs::File;
use std::os::fd::AsFd;

use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// Whether a standard descriptor is a terminal whose foreground is ours to give.
pub(crate) fn is_ours() -> bool {
    foreground(&std::io::stdin()) == Some(getpgrp())
        || foreground(&std::io::stdout()) == Some(getpgrp())
        || foreground(&std::io::stderr()) == Some(getpgrp())
}

/// Brings a group of our session to the foreground, by a standard descriptor or the terminal's name.
pub(crate) fn give_to(group: Pid) {
    let given = tcsetpgrp(std::io::stdin(), group)
        .or_else(|_| tcsetpgrp(std::io::stdout(), group))
        .or_else(|_| tcsetpgrp(std::io::stderr(), group));
    if given.is_err()
        && let Ok(terminal) = open()
    {
        let _ = tcsetpgrp(terminal, group);
    }
}

/// Whether `group` is in the foreground.
pub(crate) fn is_with(group: Pid) -> bool {
    open().is_ok_and(|terminal| foreground(&terminal) == Some(group))
}

fn foreground(file: &impl AsFd) -> Option<Pid> {
    tcgetpgrp(file).ok()
}

fn open() -> std::io::Result<File> {
    // The controlling terminal (tty(4)), so opening it cannot make it one.
    File::options().read(true).write(true).open("/dev/tty")
}
