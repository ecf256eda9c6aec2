//! Which calls of a run are swept, and a text for each case, by which it can be repeated.

use std::fmt;
use std::str::FromStr;

use crate::kinds::{KINDS, Kind};
use crate::tracer::Fault;

/// The n-th call of a kind, and what happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// The kind's index.
    pub(crate) kind: usize,
    /// From 1.
    pub(crate) nth: u32,
    /// What happens.
    pub(crate) fault: Fault,
}

impl Case {
    /// All cases of a run that makes so many calls of each kind: the first `dense` calls of a kind, as many that are
    /// spread over the rest, and the last.
    pub(crate) fn all(counts: &[u32], dense: u32) -> Vec<Self> {
        let mut cases = Vec::new();
        for (kind, &count) in counts.iter().enumerate() {
            for nth in visited(count, dense.max(1)) {
                cases.extend(faults(&KINDS[kind]).map(|fault| Self { kind, nth, fault }));
            }
        }
        cases
    }

    /// The name of the kind.
    pub(crate) fn kind_name(&self) -> &'static str {
        KINDS[self.kind].name
    }
}

fn visited(count: u32, dense: u32) -> Vec<u32> {
    let mut visited: Vec<u32> = (1..=count.min(dense)).collect();
    if count > dense {
        let step = f64::from(count - dense) / f64::from(dense);
        visited.extend((1..=dense).map(|number| dense + (step * f64::from(number)).round() as u32));
    }
    visited.dedup();
    visited
}

/// What can happen to a call of this kind.
fn faults(kind: &'static Kind) -> impl Iterator<Item = Fault> {
    let before = kind.before.iter().map(|&error| Fault::Error(error));
    let after = kind.after.iter().map(|&error| Fault::After(error));
    let short = kind.short.map(|_| Fault::Short);
    before.chain(after).chain(short).chain([Fault::KillBefore, Fault::KillAfter])
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Error(error) => write!(formatter, "{error:?}"),
            Fault::After(error) => write!(formatter, "{error:?}-after"),
            Fault::Short => write!(formatter, "short"),
            Fault::KillBefore => write!(formatter, "kill-before"),
            Fault::KillAfter => write!(formatter, "kill-after"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.kind_name(), self.nth, self.fault)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.splitn(3, ':');
            let (name, nth, fault) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
            let kind = KINDS.iter().position(|kind| kind.name == name)?;
            let fault = faults(&KINDS[kind]).find(|known| known.to_string() == fault)?;
            Some(Self { kind, nth, fault })
        };
        parsed().ok_or_else(|| {
            "not KIND:N:FAULT, such as openat:3:EIO, close:1:EIO-after or read:2:short".to_owned()
        })
    }
}
