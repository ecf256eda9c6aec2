//! Settings that a complete volume ignores: what it was seeded with, beside what this image asks for.

use std::os::unix::fs::MetadataExt;

use crate::claims::inspect;
use crate::cli::config::VolumeConfig;
use crate::cli::values::Exclude;
use crate::text::Untrusted;
use crate::volume::Volume;
use crate::volume::records::{Complete, Origin, Public, Settings};

/// What this image asks for.
pub(crate) fn of(config: &VolumeConfig) -> Settings {
    let archive = std::fs::metadata(&config.from).ok().filter(std::fs::Metadata::is_file);
    let look = |file: std::fs::Metadata| {
        format!("{} bytes of {}.{:09}", file.size(), file.mtime(), file.mtime_nsec())
    };
    Settings::default()
        .with("chown", config.owner.map(|(user, group)| format!("{user}:{group}")))
        .with("chmod", config.chmod.as_ref().map(ToString::to_string))
        .with("exclude", excluded(config))
        .with("source", Some(config.from.to_string_lossy().into_owned()))
        .with("archive", archive.map(look))
}

/// All patterns, in an order of their own: theirs says nothing.
fn excluded(config: &VolumeConfig) -> Option<String> {
    let mut patterns: Vec<&str> = config.exclude.iter().map(Exclude::as_str).collect();
    patterns.sort_unstable();
    patterns.dedup();
    (!patterns.is_empty()).then(|| patterns.join(","))
}

/// Warns where the volume is complete for other settings than this image's: once, naming all of them where this
/// user may know them. Nothing is read where everything is the same.
pub(crate) fn compare(config: &VolumeConfig, volume: &Volume, record: &Public) {
    let asked = of(config);
    let is_seeded = record.origin == Origin::Seeded;
    // Who only waits asks for nothing of a seed but its version.
    let asks = is_seeded && !config.from.as_os_str().is_empty();
    let was_given = |name: &str| record.settings.contains_key(name);
    let is_same = |name: &str, value: Option<&Untrusted>| !asks || record.has_setting(name, value);
    let names = others(&asked, was_given, is_same);
    // Of a volume that was there before volseed the version may be unknown.
    let is_known = is_seeded || record.version.is_some();
    let version = config.seed_version.as_deref().filter(|ours| is_known && !record.has_version(ours));
    if version.is_some() || !names.is_empty() {
        warn(config, version, &names, &asked, inspect::private(volume, record).as_ref());
    }
}

/// The same after a seed that was another image's, of which everything is known.
pub(crate) fn compare_private(config: &VolumeConfig, record: &Complete) {
    let (asked, was) = (of(config), &record.settings);
    let names = others(&asked, |name| was.value(name).is_some(), |name, value| was.value(name) == value);
    let was = record.version.as_ref().map(Untrusted::raw);
    let version = config.seed_version.as_deref().filter(|ours| was != Some(ours));
    if version.is_some() || !names.is_empty() {
        warn(config, version, &names, &asked, Some(record));
    }
}

/// The names of those that are `asked` for and were others.
fn others(
    asked: &Settings,
    was_given: impl Fn(&str) -> bool,
    is_same: impl Fn(&str, Option<&Untrusted>) -> bool,
) -> Vec<&'static str> {
    let is_other = |name: &&str| {
        let value = asked.value(name);
        let is_known = !Settings::is_optional(name) || value.is_some() && was_given(name);
        is_known && !is_same(name, value)
    };
    Settings::NAMES.into_iter().filter(is_other).collect()
}

fn warn(
    config: &VolumeConfig,
    version: Option<&str>,
    names: &[&str],
    asked: &Settings,
    was: Option<&Complete>,
) {
    let none = || "none".to_owned();
    let shown = |value: Option<&Untrusted>| value.map_or_else(none, Untrusted::to_string);
    let pair = |name: &str, old: Option<&Untrusted>, new: String| match was {
        Some(_) => format!("{name} {} (asked: {new})", shown(old)),
        None => format!("another {name} than {new}"),
    };
    let old_version = was.and_then(|was| was.version.as_ref());
    let version =
        version.map(|ours| pair("version", old_version, Untrusted::from(ours.to_owned()).to_string()));
    let others = names.iter().map(|name| {
        let old = was.and_then(|was| was.settings.value(name));
        pair(label(name), old, shown(asked.value(name)))
    });
    let all: Vec<String> = version.into_iter().chain(others).collect();
    let help = match asked.value("chown") {
        Some(owner) if names.contains(&"chown") => {
            format!("; chown -R {owner} what is to be changed, or seed an empty volume")
        }
        _ => String::new(),
    };
    tracing::warn!(
        volume = %config.to.display(),
        "complete for other settings than this image's, and left as it is: {}{help}",
        all.join(", ")
    );
}

/// As a person calls it.
fn label(name: &str) -> &str {
    match name {
        "chown" => "owner",
        "chmod" => "mode",
        name => name,
    }
}
