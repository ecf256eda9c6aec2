//! What to do with a volume that is ours, from what was found on it. Pure: no input, no output.

use crate::claims::store::{Leftover, Sealing};
use crate::volume::records::Public;

/// What was found on a volume once no other replica can change it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    /// The public record.
    pub record: Option<Public>,
    /// That record lists top-level names, and none of them is there any more.
    pub is_emptied: bool,
    /// What an earlier holder left that is staged whole and durable.
    pub leftover: Option<Leftover>,
    /// The leftover is the seed that this replica would make.
    pub is_same: bool,
    /// The sentinel is there.
    pub has_sentinel: bool,
}

/// What follows, with what it needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Complete by this record.
    Keep(Box<Public>),
    /// Seeded before volseed came: write the record.
    Adopt {
        /// Another image's sealed stage is given up by that.
        gives_up: bool,
    },
    /// Publish what is left of it.
    Publish(Leftover),
    /// Seed it.
    Seed {
        /// Another image's sealed stage is given up by that.
        gives_up: bool,
    },
    /// Complete by this record, and emptied since: retire the record and seed again.
    SeedAgain(Box<Public>),
}

/// The rules, first match wins.
pub(crate) fn decide(found: Found) -> Decision {
    match found {
        Found { record: Some(record), is_emptied: false, .. } => Decision::Keep(record.into()),
        // Seeding begins by removing the record: a stage beside it is what was left of an earlier seed,
        // and was published then.
        Found { record: Some(record), .. } => Decision::SeedAgain(record.into()),
        // The sentinel, if it is there, is one that was published from it: the rest has yet to follow. Another
        // image's files among these would be half of each.
        Found { leftover: Some(leftover), is_same, .. }
            if is_same || leftover.sealing == Sealing::Publishing =>
        {
            Decision::Publish(leftover)
        }
        // Of what is only sealed nothing is on the volume: another image gives it up.
        Found { has_sentinel: true, leftover, .. } => Decision::Adopt { gives_up: leftover.is_some() },
        Found { leftover, .. } => Decision::Seed { gives_up: leftover.is_some() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::records::{Complete, Staged, Totals, to_bytes};

    fn record() -> Public {
        let private = Complete::seeded(1, 1, None, Totals::default());
        Public::of(&private, &to_bytes(&private))
    }

    fn leftover(sealing: Sealing) -> Option<Leftover> {
        Some(Leftover { sealing, staged: Staged::new(1, "seed".into(), true, None).into() })
    }

    #[track_caller]
    fn check(found: Found, has_sentinel: bool, expected: Decision) {
        assert_eq!(decide(Found { has_sentinel, ..found }), expected);
    }

    #[test]
    fn a_volume_without_a_record_is_seeded_adopted_or_finished() {
        let (sealed, publishing) = (leftover(Sealing::Sealed), leftover(Sealing::Publishing));
        let publish = |leftover: &Option<Leftover>| Decision::Publish(leftover.clone().unwrap());
        let found = |leftover: &Option<Leftover>, is_same| Found {
            leftover: leftover.clone(),
            is_same,
            ..Found::default()
        };
        check(Found::default(), false, Decision::Seed { gives_up: false });
        check(Found::default(), true, Decision::Adopt { gives_up: false });
        check(found(&sealed, true), false, publish(&sealed));
        check(found(&sealed, true), true, publish(&sealed));
        check(found(&sealed, false), false, Decision::Seed { gives_up: true });
        check(found(&sealed, false), true, Decision::Adopt { gives_up: true });
        check(found(&publishing, false), false, publish(&publishing));
        check(found(&publishing, true), true, publish(&publishing));
    }

    #[test]
    fn a_record_counts_unless_the_volume_was_emptied() {
        for leftover in [None, leftover(Sealing::Sealed), leftover(Sealing::Publishing)] {
            let found = |is_emptied| Found {
                record: Some(record()),
                leftover: leftover.clone(),
                is_emptied,
                ..Found::default()
            };
            assert!(matches!(decide(found(false)), Decision::Keep(_)), "{leftover:?}");
            assert!(matches!(decide(found(true)), Decision::SeedAgain(_)), "{leftover:?}");
        }
    }
}
