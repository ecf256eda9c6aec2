//! What to do with a volume, from what is known of it. Pure: no input, no output.

/// What was found out about a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// There is a complete record.
    pub complete: bool,
    /// The record lists top-level names and none of them is there any more.
    pub emptied: bool,
    /// A stage is there that was synced whole: its publishing began.
    pub sealed: bool,
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
    /// Go on publishing what is staged.
    Publish,
    /// Seed it, with what of an earlier stage may be trusted.
    Seed,
}

/// The rules, first match wins.
pub fn decide(known: Known) -> Decision {
    match known {
        Known { complete: true, emptied: false, .. } => Decision::Skip,
        // Seeding begins by removing the record: a sealed stage beside it is what was left of an
        // earlier seed, and was published then.
        Known { complete: true, emptied: true, .. } => Decision::Seed,
        // The sentinel, if it is there, is one that we published: the rest has yet to follow.
        Known { sealed: true, .. } => Decision::Publish,
        Known { sentinel: true, .. } => Decision::Adopt,
        _ => Decision::Seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(known: [bool; 4], expected: Decision) {
        let [complete, emptied, sealed, sentinel] = known;
        assert_eq!(decide(Known { complete, emptied, sealed, sentinel }), expected);
    }

    #[test]
    fn every_state_has_its_decision() {
        check([false, false, false, false], Decision::Seed);
        check([false, false, false, true], Decision::Adopt);
        check([false, false, true, false], Decision::Publish);
        check([false, false, true, true], Decision::Publish);
        check([true, false, false, false], Decision::Skip);
        check([true, false, true, true], Decision::Skip);
        check([true, true, false, false], Decision::Seed);
        check([true, true, true, false], Decision::Seed);
    }
}
