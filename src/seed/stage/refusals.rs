//! What a volume refuses to keep: which answers mean that, and what need not be asked again.
//!
//! A refusal is an answer that the next try would get, too, and without which a sensible copy is still
//! possible. What may have lost data (`EIO`, `ENOSPC`, `ESTALE` …) is none.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use rustix::io::Errno;

use super::losses::Loss;

/// The most questions whose answers are remembered: an archive may name any number of owners.
const MAX_ANSWERS: usize = 4096;
/// `ENOTSUPP`, which the kernel keeps to itself, and some file systems do not (linux/errno.h).
const KERNEL_NOTSUPP: Errno = Errno::from_raw_os_error(524);

/// What a volume is asked for, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    /// What is lost where it is refused.
    pub loss: Loss,
    /// Whether of a symbolic link or FIFO, about which file systems have answers of their own.
    pub special: bool,
    /// The owner, the mode or the range of the time that is asked for, and whose it is.
    pub of: (u32, u32),
}

/// What a volume answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VolumeAnswer {
    /// It keeps that.
    Kept,
    /// It does not; without a cause where the call succeeded and had no effect.
    Refused(Option<Errno>),
}

/// The answers so far.
#[derive(Debug, Default)]
pub(crate) struct Answers(RwLock<HashMap<Ask, VolumeAnswer>>);

impl Answers {
    /// The answer to the same question.
    pub(crate) fn to(&self, ask: Ask) -> Option<VolumeAnswer> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&ask).copied()
    }

    /// Remembers it.
    pub(crate) fn remember(&self, ask: Ask, answer: VolumeAnswer) {
        let mut answers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if answers.len() < MAX_ANSWERS {
            answers.insert(ask, answer);
        }
    }
}

impl Ask {
    /// Whether it was refused, and the entry can do without.
    pub(crate) fn is_refused_by(self, cause: Errno) -> bool {
        let of_attribute = matches!(self.loss, Loss::Xattr | Loss::Capability);
        match cause {
            // Too large for the file system: ext4 has room for a block of them. A full volume fails the
            // next write, too.
            Errno::NOSPC | Errno::DQUOT | Errno::NAMETOOLONG | Errno::FBIG => of_attribute,
            // Where a call on a link is one on what it names, or has no sense.
            Errno::NOENT | Errno::LOOP | Errno::IO => self.special,
            cause => is_refusal(cause),
        }
    }
}

/// Whether a call was refused and not failed.
pub(crate) fn is_refusal(cause: Errno) -> bool {
    matches!(
        cause,
        Errno::PERM
            | Errno::ACCESS
            | Errno::NOTSUP
            | Errno::NOSYS
            | Errno::INVAL
            | Errno::OVERFLOW
            | Errno::NODATA
            | Errno::TOOBIG
            | Errno::RANGE
            | Errno::DOM
            | Errno::NOTTY
            | Errno::NODEV
            | Errno::NXIO
            | Errno::PROTONOSUPPORT
            | Errno::REMOTEIO
            | KERNEL_NOTSUPP
    )
}

/// Whether a hard link was refused for what it is; `to_special` says that it is one to a symbolic link or FIFO.
pub(crate) fn is_link_refusal(cause: Errno, to_special: bool) -> bool {
    match cause {
        Errno::MLINK | Errno::XDEV => true,
        // Docker Desktop's shares, for one, have no hard links to symbolic links.
        Errno::IO | Errno::NOENT | Errno::LOOP => to_special,
        cause => is_refusal(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_lost_data_is_no_refusal() {
        for cause in [Errno::IO, Errno::STALE, Errno::ROFS, Errno::NOMEM, Errno::TIMEDOUT, Errno::HOSTDOWN] {
            let ask = |loss, special| Ask { loss, special, of: (0, 0) };
            assert!(!ask(Loss::Time, false).is_refused_by(cause), "{cause}");
            assert!(!ask(Loss::Xattr, false).is_refused_by(cause), "{cause}");
            assert!(!is_link_refusal(cause, false), "{cause}");
        }
    }

    #[test]
    fn a_full_volume_refuses_attributes_only() {
        let ask = |loss| Ask { loss, special: false, of: (0, 0) };
        assert!(ask(Loss::Xattr).is_refused_by(Errno::NOSPC));
        assert!(!ask(Loss::Owner).is_refused_by(Errno::DQUOT));
    }
}
