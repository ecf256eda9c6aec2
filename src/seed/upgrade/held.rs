//! Whether a holder's claim is still held, asked of the volume by many threads as seldom as possible.
//!
//! A replica that takes over moves all that is sealed to another directory, and removes the one that the earlier holder
//! has open. While something can be made in that, no other replica is done with its takeover.

use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

/// The question, and how often it was asked.
#[derive(Debug, Default)]
pub(super) struct Held {
    asked: Mutex<Asked>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    begun: u64,
    answered: u64,
    /// The last answer.
    is_held: bool,
}

impl Held {
    /// Whether the claim of number `epoch` was held at a moment after this call began: what is sealed is in `stage`
    /// then. Threads that ask while another one does wait for the next answer, and share it. Blocks for a round trip
    /// or two. A volume that refuses it for any reason says no.
    pub(super) fn ask(&self, stage: BorrowedFd<'_>, epoch: u64) -> bool {
        let mut asked = self.lock();
        // One that is on its way may have been answered by now.
        let wanted = asked.begun + 1;
        while asked.answered < wanted && asked.begun > asked.answered {
            asked = self.answered.wait(asked).unwrap_or_else(PoisonError::into_inner);
        }
        if asked.answered >= wanted {
            return asked.is_held;
        }
        asked.begun += 1;
        let number = asked.begun;
        drop(asked);
        let name = format!("held-{epoch}-{number}");
        let made = fs::mkdirat(stage, &name, Mode::RWXU);
        let is_held = matches!(made, Ok(()) | Err(Errno::EXIST));
        let mut asked = self.lock();
        (asked.answered, asked.is_held) = (number, is_held);
        drop(asked);
        self.answered.notify_all();
        if is_held {
            // One that stays goes with what it is in.
            let _ = fs::unlinkat(stage, &name, AtFlags::REMOVEDIR);
        }
        is_held
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
