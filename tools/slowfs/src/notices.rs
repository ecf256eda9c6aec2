//! What the kernel is told unasked: that a name it has cached is to be looked up anew.
//!
//! Telling it may wait for the directory's lock, and so for the answer to another request: it has a
//! thread of its own.

use std::ffi::OsString;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use fuser::{INodeNo, Notifier};

#[derive(Debug)]
pub(crate) struct Notice {
    directory: u64,
    name: OsString,
    done: SyncSender<()>,
}

/// The way to the thread that tells the kernel.
#[derive(Debug)]
pub(crate) struct Notices(Mutex<Option<Sender<Notice>>>);

impl Notices {
    pub(crate) fn new() -> (Notices, Receiver<Notice>) {
        let (sender, receiver) = channel();
        (Notices(Mutex::new(Some(sender))), receiver)
    }

    /// Has the kernel forget a name, and waits until it has.
    pub(crate) fn forget(&self, directory: u64, name: OsString) {
        let (done, told) = sync_channel(1);
        let notice = Notice { directory, name, done };
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if sender.is_some_and(|sender| sender.send(notice).is_ok()) {
            // No answer: the mount has ended.
            told.recv().ok();
        }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Tells the kernel, until [`Notices::close`].
pub(crate) fn tell(notifier: &Notifier, notices: Receiver<Notice>) {
    for Notice { directory, name, done } in notices {
        // It may not have cached it.
        notifier.inval_entry(INodeNo(directory), &name).ok();
        done.send(()).ok();
    }
}
