//! What a start does with a complete volume, from the versions of both. Pure: no input, no output.

use crate::cli::values::VersionPattern;

/// What is next for a volume that has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: an app may start.
    Start,
    /// It is changed: upgraded, taken back, or repaired.
    Change,
    /// The hook that it is complete but for has to run, and is ours.
    Hook,
    /// The same, and it is another image's.
    Wait,
}

/// What the volume's record says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VolumeVersion<'a> {
    /// The version that it is at, where that is known.
    pub version: Option<&'a str>,
    /// Those that it was upgraded from.
    pub before: &'a [&'a str],
    /// Whether it is complete but for a hook.
    pub pending: bool,
}

/// What the image asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageVersion<'a> {
    /// Its own, where it has one.
    pub version: Option<&'a str>,
    /// Of the versions that it upgrades; `none` is one that is not known.
    pub upgrades: &'a [VersionPattern],
    /// The version that it takes back to its own.
    pub rollback_from: Option<&'a str>,
}

/// Whose the volume's sentinel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sentinel {
    /// That of the seed that is recorded, or of the image: nobody has changed it.
    OfASeed,
    /// Nobody's: the app has changed it.
    Changed,
    /// There is none to compare.
    Unknown,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is at the image's version.
    Same,
    /// The same, but for a hook, which is run.
    Hook,
    /// It is complete but for the hook of another version: that is waited for.
    WaitForHook,
    /// It is at a newer one: left as it is.
    Newer,
    /// It is at an older one, and nobody asks for an upgrade: left as it is.
    NotAsked,
    /// It is at an older one, and none of `--upgrade` matches: refused.
    NotFrom,
    /// The app has updated itself: left as it is.
    SelfUpdated,
    /// It is upgraded.
    Upgrade,
    /// It is taken back to the image's version.
    Rollback,
}

/// The rules, first match wins. `sentinel` is asked where an upgrade depends on it.
///
/// # Errors
/// Those of `sentinel`.
pub(crate) fn gate<E>(
    volume: VolumeVersion<'_>,
    image: ImageVersion<'_>,
    sentinel: impl FnOnce() -> Result<Sentinel, E>,
) -> Result<Verdict, E> {
    if volume.version == image.version {
        return Ok(if volume.pending { Verdict::Hook } else { Verdict::Same });
    }
    // Before the hook: a migration that fails is when a version is taken back.
    if image.rollback_from.is_some() && image.rollback_from == volume.version {
        return Ok(Verdict::Rollback);
    }
    if volume.pending {
        return Ok(Verdict::WaitForHook);
    }
    if image.version.is_some_and(|image| is_newer(volume, image)) {
        return Ok(Verdict::Newer);
    }
    if image.upgrades.is_empty() {
        return Ok(Verdict::NotAsked);
    }
    if !image.upgrades.iter().any(|pattern| pattern.matches(volume.version)) {
        return Ok(Verdict::NotFrom);
    }
    Ok(match sentinel()? {
        Sentinel::Changed => Verdict::SelfUpdated,
        Sentinel::OfASeed | Sentinel::Unknown => Verdict::Upgrade,
    })
}

/// Whether the volume is at a version that follows the image's: it was at the image's before or, where both begin
/// with dotted numbers, it has the higher ones. Of other versions the image's is the newer one.
fn is_newer(volume: VolumeVersion<'_>, image: &str) -> bool {
    if volume.before.contains(&image) {
        return true;
    }
    match (volume.version.map(numbers), numbers(image)) {
        (Some(there), ours) if !there.is_empty() && !ours.is_empty() => {
            let length = there.len().max(ours.len());
            padded(there, length) > padded(ours, length)
        }
        _ => false,
    }
}

/// The dotted numbers that a version begins with; a `v` may be before them.
fn numbers(version: &str) -> Vec<u64> {
    let rest = version.strip_prefix(['v', 'V']).unwrap_or(version);
    let end = rest.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(rest.len());
    // What is too long for a number is none.
    rest[..end].split('.').map_while(|part| part.parse().ok()).collect()
}

fn padded(mut numbers: Vec<u64>, length: usize) -> Vec<u64> {
    numbers.resize(length, 0);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case<'a> {
        volume: Option<&'a str>,
        before: &'a [&'a str],
        image: Option<&'a str>,
        upgrades: &'a [&'a str],
        rollback_from: Option<&'a str>,
        sentinel: Sentinel,
        pending: bool,
    }

    fn verdict(case: &Case<'_>) -> Verdict {
        let upgrades: Vec<VersionPattern> =
            case.upgrades.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let volume = VolumeVersion { version: case.volume, before: case.before, pending: case.pending };
        let image =
            ImageVersion { version: case.image, upgrades: &upgrades, rollback_from: case.rollback_from };
        gate(volume, image, || Ok::<_, ()>(case.sentinel)).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use Sentinel::{Changed, OfASeed, Unknown};
        use Verdict::{Hook, Newer, NotAsked, NotFrom, Rollback, Same, SelfUpdated, Upgrade, WaitForHook};
        let base = |volume, image, upgrades| Case {
            volume,
            before: &[],
            image: Some(image),
            upgrades,
            rollback_from: None,
            sentinel: OfASeed,
            pending: false,
        };
        let owed = |case| Case { pending: true, ..case };
        let all: &[&str] = &["*"];
        for (case, expected) in [
            (base(Some("2"), "2", all), Same),
            (base(Some("2"), "2", &[]), Same),
            (base(Some("3"), "2", all), Newer),
            (base(Some("v1.10"), "v1.9", all), Newer),
            (base(Some("1.10"), "1.9.9", &[]), Newer),
            (base(Some("1.9"), "1.10", all), Upgrade),
            (base(Some("1.9"), "1.10", &[]), NotAsked),
            (base(Some("27.1"), "29.0", &["28.*"]), NotFrom),
            (base(Some("28.1"), "29.0", &["28.*", "none"]), Upgrade),
            (base(None, "29.0", all), NotFrom),
            (base(None, "29.0", &["none"]), Upgrade),
            (base(None, "29.0", &[]), NotAsked),
            (base(Some("blue"), "green", all), Upgrade),
            (base(Some("28.0.1"), "28.0.1+ours", all), Upgrade),
            (base(Some("1"), "1.0.0", all), Upgrade),
            (Case { before: &["green"], ..base(Some("blue"), "green", all) }, Newer),
            (Case { before: &["1.9"], ..base(Some("1.9+ours"), "1.9", all) }, Newer),
            (Case { sentinel: Changed, ..base(Some("1"), "2", all) }, SelfUpdated),
            (Case { sentinel: Unknown, ..base(Some("1"), "2", all) }, Upgrade),
            (Case { rollback_from: Some("3"), ..base(Some("3"), "2", &[]) }, Rollback),
            (Case { rollback_from: Some("3"), ..base(Some("2"), "2", &[]) }, Same),
            (Case { rollback_from: Some("3"), ..base(Some("4"), "2", all) }, Newer),
            (Case { rollback_from: Some("3"), before: &["2"], ..base(Some("3"), "2", &[]) }, Rollback),
            (Case { image: None, ..base(Some("1"), "", &[]) }, NotAsked),
            (owed(base(Some("2"), "2", all)), Hook),
            (owed(Case { image: None, ..base(None, "", &[]) }), Hook),
            (owed(Case { image: None, ..base(Some("2"), "", &[]) }), WaitForHook),
            (owed(base(None, "2", &["none"])), WaitForHook),
            (owed(base(Some("3"), "2", &[])), WaitForHook),
            (owed(base(Some("1"), "2", all)), WaitForHook),
            (owed(base(Some("27"), "29", &["28"])), WaitForHook),
            (owed(Case { rollback_from: Some("3"), ..base(Some("3"), "2", &[]) }), Rollback),
            (owed(Case { rollback_from: Some("3"), ..base(Some("2"), "2", &[]) }), Hook),
        ] {
            let Case { volume, image, upgrades, .. } = case;
            assert_eq!(verdict(&case), expected, "{volume:?} {image:?} {upgrades:?}");
        }
    }
}
