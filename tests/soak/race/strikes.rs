//! What is done to the replicas of a round, drawn before it begins.

use std::collections::VecDeque;

use nix::sys::signal::Signal;

use crate::corpus::drawn;

/// Until when a stopped replica stays stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// For less than makes a takeover.
    Brief,
    TakenOver,
    Complete,
    /// Its continuation is on its way.
    Woken,
}

/// A blow: `after` a line of the log or from the start, at once or spread over the time of a whole seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub after: Option<&'static str>,
    pub is_spread: bool,
    pub at_holder: bool,
    pub signal: Signal,
    pub until: Until,
}

const AIMED_AT: [&str; 7] = ["taking over", "claimed", "seeding", "staged", "synced", "published", "seeded"];

/// One of several, each as likely as its weight says.
fn weighted<T: Copy>(draw: &mut fastrand::Rng, from: &[(u32, T)]) -> T {
    let mut ticket = draw.u32(..from.iter().map(|(weight, _)| weight).sum::<u32>());
    for &(weight, one) in from {
        if ticket < weight {
            return one;
        }
        ticket -= weight;
    }
    unreachable!("a ticket is below the sum of the weights")
}

pub(super) fn draw_all(draw: &mut fastrand::Rng) -> VecDeque<Strike> {
    let count = weighted(draw, &[(1, 0), (5, 1), (6, 2), (3, 3), (1, 4)]);
    (0..count).map(|index| draw_one(draw, index == 0)).collect()
}

fn draw_one(draw: &mut fastrand::Rng, is_first: bool) -> Strike {
    // Before the first there is nobody to take over from.
    let aimed_at = *drawn(draw, if is_first { &AIMED_AT[1..] } else { &AIMED_AT });
    let weights = if is_first { [4, 2, 4] } else { [1, 4, 5] };
    let kinds = [(None, true), (Some("seeding"), true), (Some(aimed_at), false)];
    let [one, two, three] = kinds;
    let (after, is_spread) = weighted(draw, &[(weights[0], one), (weights[1], two), (weights[2], three)]);
    Strike {
        after,
        is_spread,
        at_holder: draw.u8(..4) < 3,
        signal: weighted(draw, &[(4, Signal::SIGKILL), (4, Signal::SIGSTOP), (2, Signal::SIGTERM)]),
        until: weighted(draw, &[(14, Until::Brief), (3, Until::TakenOver), (3, Until::Complete)]),
    }
}
