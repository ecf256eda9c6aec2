//! What becomes of one entry in an upgrade, from how the two seeds and the volume have it. Pure.

/// How the new seed differs from the old one in an entry that is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Only the new one has it.
    Added,
    /// They have it differently.
    Changed,
    /// Only the old one has it.
    Removed,
}

/// What the volume has in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// What the old seed put there.
    AsOld,
    /// What the new one has.
    AsNew,
    /// Something of the user's.
    Other,
    /// A directory.
    Directory,
}

/// What the options say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing.
    Default,
    /// `--keep`: what the user changed stays.
    Keep,
    /// `--keep`, of a directory in which the user changed something: all of it stays.
    Held,
    /// `--protect`: only the first seed touches it.
    Protect,
}

/// Why something stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// The user had a file of that name before the image had.
    Own,
    /// The user deleted it.
    Deleted,
    /// The user changed it.
    Modified,
    /// A directory is in the place of a file, or a file in that of a directory.
    Conflict,
    /// The options protect it.
    Protected,
}

impl Why {
    /// As it is printed.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Why::Own => "the user's own",
            Why::Deleted => "deleted by the user",
            Why::Modified => "changed by the user",
            Why::Conflict => "of another type",
            Why::Protected => "protected",
        }
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing: it is as the new seed has it.
    Nothing,
    /// The new seed's gets its place.
    Add,
    /// The new seed's takes the place of the old one's.
    Replace,
    /// The same of the user's, which is kept elsewhere.
    ReplaceAndSave,
    /// The old seed's goes.
    Remove,
    /// It stays. The new seed's, where there is one and it is offered, is laid beside the volume's tree.
    Stay(Why, bool),
}

/// The matrix.
pub(crate) fn decide(change: Change, found: Found, rule: Rule) -> Action {
    use Action::{Add, Nothing, Remove, Replace, ReplaceAndSave, Stay};
    match (change, found, rule) {
        (_, Found::AsNew, _) => Nothing,
        (Change::Added, Found::Nothing, Rule::Held) => Stay(Why::Modified, true),
        (Change::Added, Found::Nothing, _) => Add,
        (Change::Added, Found::Directory, _) => Stay(Why::Conflict, true),
        (Change::Added, ..) => Stay(Why::Own, true),
        (Change::Changed, Found::Nothing, _) => Stay(Why::Deleted, true),
        (Change::Changed, _, Rule::Protect) => Stay(Why::Protected, false),
        (Change::Changed, Found::Directory, _) => Stay(Why::Conflict, true),
        (Change::Changed, _, Rule::Held) => Stay(Why::Modified, true),
        (Change::Changed, Found::AsOld, _) => Replace,
        (Change::Changed, Found::Other, Rule::Keep) => Stay(Why::Modified, true),
        (Change::Changed, Found::Other, Rule::Default) => ReplaceAndSave,
        (Change::Removed, Found::Nothing, _) => Nothing,
        (Change::Removed, _, Rule::Protect) => Stay(Why::Protected, false),
        (Change::Removed, Found::Directory, _) => Stay(Why::Conflict, false),
        (Change::Removed, _, Rule::Held) | (Change::Removed, Found::Other, _) => Stay(Why::Modified, false),
        (Change::Removed, Found::AsOld, _) => Remove,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of docs/upgrades.md: change and what is found, and what follows by default, with `--keep`, in a
    /// directory of `--keep` that was changed, and with `--protect`.
    #[test]
    fn every_cell_of_the_matrix() {
        use Action::{Add, Nothing, Remove, Replace, ReplaceAndSave};
        use Change::{Added, Changed, Removed};
        let stay = |why| Action::Stay(why, false);
        let offer = |why| Action::Stay(why, true);
        let (own, deleted, modified) = (offer(Why::Own), offer(Why::Deleted), offer(Why::Modified));
        let (conflict, protected) = (offer(Why::Conflict), stay(Why::Protected));
        for (change, found, expected) in [
            (Added, Found::Nothing, [Add, Add, modified, Add]),
            (Added, Found::AsNew, [Nothing; 4]),
            (Added, Found::Other, [own; 4]),
            (Added, Found::Directory, [conflict; 4]),
            (Changed, Found::Nothing, [deleted; 4]),
            (Changed, Found::AsOld, [Replace, Replace, modified, protected]),
            (Changed, Found::AsNew, [Nothing; 4]),
            (Changed, Found::Other, [ReplaceAndSave, modified, modified, protected]),
            (Changed, Found::Directory, [conflict, conflict, conflict, protected]),
            (Removed, Found::Nothing, [Nothing; 4]),
            (Removed, Found::AsOld, [Remove, Remove, stay(Why::Modified), protected]),
            (
                Removed,
                Found::Other,
                [stay(Why::Modified), stay(Why::Modified), stay(Why::Modified), protected],
            ),
            (
                Removed,
                Found::Directory,
                [stay(Why::Conflict), stay(Why::Conflict), stay(Why::Conflict), protected],
            ),
        ] {
            let rules = [Rule::Default, Rule::Keep, Rule::Held, Rule::Protect];
            assert_eq!(rules.map(|rule| decide(change, found, rule)), expected, "{change:?} {found:?}");
        }
    }
}
