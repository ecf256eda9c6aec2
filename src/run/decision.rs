//! What to do with a volume, from what is known of it. Pure: no input, no output.

/// What an earlier holder left that is staged whole and durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing.
    #[default]
    None,
    /// A stage that is sealed: nothing of it is on the volume yet.
    Sealed {
        /// Whether it is the seed that this replica would make.
        same: bool,
    },
    /// A stage of which a part may have been moved to its place.
    Publishing,
}

/// What was found out about a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// There is a complete record.
    pub complete: bool,
    /// The record lists top-level names and none of them is there any more.
    pub emptied: bool,
    /// What is left of an earlier holder's stage.
    pub leftover: Leftover,
    /// The sentinel is there.
    pub sentinel: bool,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Complete: nothing to do.
    Skip,
    /// Seeded before volseed came: write the record.
    Adopt,
    /// Continue to publish what is staged.
    Publish,
    /// Seed it, with what of an earlier stage may be trusted.
    Seed,
}

/// The rules, first match wins.
pub fn decide(known: Known) -> Decision {
    match known {
        Known { complete: true, emptied: false, .. } => Decision::Skip,
        // Seeding begins by removing the record: a stage beside it is what was left of an earlier seed,
        // and was published then.
        Known { complete: true, emptied: true, .. } => Decision::Seed,
        // The sentinel, if it is there, is one that was published from it: the rest has yet to follow. Another
        // image's files among these would be half of each.
        Known { leftover: Leftover::Publishing | Leftover::Sealed { same: true }, .. } => Decision::Publish,
        // Of what is only sealed nothing is on the volume: another image gives it up.
        Known { sentinel: true, .. } => Decision::Adopt,
        _ => Decision::Seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Leftover = Leftover::None;
    const SAME: Leftover = Leftover::Sealed { same: true };
    const OTHER: Leftover = Leftover::Sealed { same: false };
    const PUBLISHING: Leftover = Leftover::Publishing;

    #[track_caller]
    fn check([complete, emptied]: [bool; 2], leftover: Leftover, sentinel: bool, expected: Decision) {
        assert_eq!(decide(Known { complete, emptied, leftover, sentinel }), expected);
    }

    #[test]
    fn every_state_has_its_decision() {
        check([false, false], NONE, false, Decision::Seed);
        check([false, false], NONE, true, Decision::Adopt);
        check([false, false], SAME, false, Decision::Publish);
        check([false, false], SAME, true, Decision::Publish);
        check([false, false], OTHER, false, Decision::Seed);
        check([false, false], OTHER, true, Decision::Adopt);
        check([false, false], PUBLISHING, false, Decision::Publish);
        check([false, false], PUBLISHING, true, Decision::Publish);
        check([true, false], NONE, false, Decision::Skip);
        check([true, false], PUBLISHING, true, Decision::Skip);
        check([true, true], NONE, false, Decision::Seed);
        check([true, true], SAME, false, Decision::Seed);
    }
}
