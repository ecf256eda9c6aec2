//! `volseed verify`: whether a volume is as it was seeded, for people or as JSON. Changes nothing.

use std::fmt::Write;
use std::os::fd::AsFd;

use serde::Serialize;

use crate::claims::inspect;
use crate::cli::config::VolumeConfig;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::seed::engine::workers;
use crate::seed::manifest::compare::Difference;
use crate::seed::manifest::read::Manifest;
use crate::seed::manifest::verify::{Comparison, Verification};
use crate::text::{json_of, one_line, printable};
use crate::volume::records::{Complete, Name};
use crate::volume::{Volume, user};

/// How a volume compares with what was put on it.
pub(crate) struct Verified {
    volume: String,
    version: Option<String>,
    comparison: Comparison,
}

/// A difference, for machines.
#[derive(Serialize)]
struct OneDifference<'a> {
    volume: &'a str,
    path: Name,
    difference: Difference,
}

/// All of a volume, for machines.
#[derive(Serialize)]
struct Summary<'a> {
    volume: &'a str,
    version: Option<&'a str>,
    compared: u64,
    modified: u64,
    missing: u64,
    #[serde(rename = "type")]
    other_type: u64,
    meta: u64,
    extra: u64,
}

/// Compares a volume with its manifest. With `digest` the data of every file is read. Blocks for as long as its file
/// system does.
///
/// # Errors
/// Exit 78 where there is no manifest to compare it with, 77 where this user may not read it.
pub(crate) fn verify(config: &VolumeConfig, digest: bool) -> Result<Verified> {
    let volume = Volume::open(&config.to, config.state_dir.as_deref())?;
    user::work_as(volume.user(), || {
        let record = private_record(&volume)?;
        let manifest = manifest(&volume, &record)?;
        let writers = workers::crew(config.workers, volume.kind()?, 1).writers;
        let comparison = Verification::new(&volume, &manifest, digest).run(writers)?;
        let version = record.version.as_ref().map(ToString::to_string);
        Ok(Verified { volume: config.to.display().to_string(), version, comparison })
    })
}

/// The private record of a complete volume.
fn private_record(volume: &Volume) -> Result<Complete> {
    let refused = |exit, cause: &str, help: &'static str| {
        Err(Error::new(exit, "verify volume", cause).on(volume.path()).help(help))
    };
    match inspect::public(volume)? {
        None => refused(Exit::Refused, "it is not seeded", "volseed status shows what is known of it"),
        Some(public) => match inspect::private(volume, &public) {
            Some(record) => Ok(record),
            None => refused(
                Exit::Permission,
                "its private record cannot be read",
                "run volseed as the owner of .volseed (often root)",
            ),
        },
    }
}

fn manifest(volume: &Volume, record: &Complete) -> Result<Manifest> {
    let directory = volume.open_state()?;
    Manifest::open(directory.as_fd(), record).map_err(|cause| {
        Error::new(Exit::Refused, "verify volume", cause)
            .on(volume.path())
            .help("a volume can be compared if volseed seeded it, and nothing changed .volseed since")
    })
}

impl Verified {
    /// Whether all that was seeded is there, unchanged.
    pub(crate) fn is_as_seeded(&self) -> bool {
        self.comparison.differences.is_empty()
    }

    /// For people: a line for each difference, and one for all.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let Comparison { compared, extra, differences } = &self.comparison;
        for (path, difference) in differences {
            let _ = writeln!(text, "{:<9} {}", difference.word(), printable(shown(path)));
        }
        let counts = Difference::ALL.map(|kind| (self.count(kind), kind.word()));
        let counts =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let version =
            self.version.as_ref().map(|version| format!(" (version {version})")).unwrap_or_default();
        let verdict = if differences.is_empty() { "as seeded".to_owned() } else { counts };
        let extra = match extra {
            0 => String::new(),
            1 => "; 1 entry is not from the seed".to_owned(),
            _ => format!("; {extra} entries are not from the seed"),
        };
        let volume = one_line(&self.volume);
        let _ = writeln!(text, "{volume}: {compared} entries compared{version}: {verdict}{extra}");
        text
    }

    /// The same for machines: a JSON object on each line.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        let volume = self.volume.as_str();
        for (path, difference) in &self.comparison.differences {
            let line = OneDifference { volume, path: Name::from(shown(path)), difference: *difference };
            let _ = writeln!(text, "{}", json_of(&line));
        }
        let Comparison { compared, extra, .. } = self.comparison;
        let [modified, missing, other_type, meta] = Difference::ALL.map(|kind| self.count(kind));
        let version = self.version.as_deref();
        let summary = Summary { volume, version, compared, modified, missing, other_type, meta, extra };
        let _ = writeln!(text, "{}", json_of(&summary));
        text
    }

    fn count(&self, kind: Difference) -> u64 {
        self.comparison.differences.iter().filter(|(_, difference)| *difference == kind).count() as u64
    }
}

/// A path as it is shown: the volume's root has no name.
pub(super) fn shown(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}
