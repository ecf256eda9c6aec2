//! `volseed status`: what the volume's state records, for people or as JSON. Changes nothing.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Serialize;

use crate::claims::beat::{Beat, Holder};
use crate::claims::inspect::{self, Inspected, NewestClaim, look};
use crate::cli::config::VolumeConfig;
use crate::error::Result;
use crate::seed::publish::saved::{Displaced, displaced};
use crate::text::{Untrusted, byte_size, one_line, rfc3339};
use crate::volume::records::{Complete, NEW, Name, OLD, Origin, Owed, Public, Settings, Totals};
use crate::volume::{Volume, user};

/// How long a heartbeat is watched: two beats' time.
const WATCHED: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const LOOKED_AT: Duration = Duration::from_millis(100);

/// The state of a volume that is complete but for a hook.
const PENDING: &str = "pending";

/// The state of one volume.
#[derive(Debug, Serialize)]
pub(crate) struct VolumeStatus {
    /// The volume's root.
    pub volume: String,
    /// `complete`, `pending`, `claimed`, `seeding`, `publishing` or `unseeded`; `incomplete` where only another
    /// user may see more.
    pub state: &'static str,
    /// Where the sentinel is configured: whether it is there.
    pub sentinel: Option<bool>,
    /// What is recorded.
    pub complete: Option<RecordStatus>,
    /// Who claimed the volume last without completing it, alive or not.
    pub claim: Option<ClaimStatus>,
    /// The state directory.
    #[serde(skip)]
    pub place: PathBuf,
    /// What upgrades and repairs replaced, and keep in `.volseed/old`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<Displaced>,
    /// What upgrades left out for a user's file, and keep in `.volseed/new`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<Displaced>,
}

/// What is recorded of a volume, as far as this user may read it: what is not known is left out.
#[derive(Debug, Serialize)]
pub(crate) struct RecordStatus {
    /// How it came to be complete.
    pub origin: Origin,
    /// The claim that completed it.
    pub epoch: u64,
    /// How often this volume was seeded or upgraded.
    pub generation: u64,
    /// What the seed held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
    /// All else.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// What only the record's owner may know.
#[derive(Debug, Serialize)]
pub(crate) struct Details {
    /// The version of the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Untrusted>,
    /// The hook that follows it: owed where the state is `pending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<Owed>,
    /// Where the seed came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// The options that it was made with.
    pub settings: Settings,
    /// Top-level names.
    pub top: Vec<Name>,
    /// When it was completed, in seconds since 1970.
    pub finished: u64,
    /// The volseed that recorded it.
    pub volseed: Untrusted,
}

impl RecordStatus {
    fn new(public: &Public, private: Option<Complete>) -> RecordStatus {
        let details = private.map(|record| Details {
            version: record.version,
            hook: record.hook,
            source: record.source,
            settings: record.settings,
            top: record.top,
            finished: record.finished,
            volseed: record.volseed,
        });
        let Public { origin, epoch, generation, totals, .. } = *public;
        RecordStatus { origin, epoch, generation, totals, details }
    }
}

/// A claim that is not over.
#[derive(Debug, Serialize)]
pub(crate) struct ClaimStatus {
    /// Its number.
    pub epoch: u64,
    /// Whose it is, where that can be read.
    pub holder: Option<Holder>,
    /// The last heartbeat.
    pub heartbeat: Option<Beat>,
    /// How long ago it was written, in seconds, by this machine's clock, which may differ from that of the
    /// machine that wrote it.
    pub heartbeat_age: Option<u64>,
    /// Whether it changed while it was watched for two seconds: the holder lives.
    pub alive: bool,
}

/// Looks at a volume. Blocks for as long as its file system does.
///
/// # Errors
/// Exit 73 when the volume cannot be opened, 78 when what is there is no state of ours.
pub(crate) fn status(config: &VolumeConfig) -> Result<VolumeStatus> {
    let volume = Volume::open(&config.to, config.state_dir.as_deref())?;
    user::work_as(volume.user(), || status_of(&volume, config))
}

fn status_of(volume: &Volume, config: &VolumeConfig) -> Result<VolumeStatus> {
    let record = inspect::public(volume)?;
    let seen = look(volume)?;
    let name = match (&record, &seen) {
        (Some(record), _) if record.is_complete() => "complete",
        (Some(_), _) => PENDING,
        (None, Inspected::Claim(claim)) => claim.phase,
        (None, Inspected::Hidden) => "incomplete",
        (None, Inspected::Nothing) => "unseeded",
    };
    let complete = record.as_ref().map(|record| RecordStatus::new(record, inspect::private(volume, record)));
    let sentinel =
        config.sentinel.as_ref().map(|path| volume.find(path)).transpose()?.map(|found| found.is_some());
    let state = record.is_some().then(|| volume.open_state().ok()).flatten();
    let kept = |kind| displaced(state.as_ref()?.as_fd(), kind).filter(|kept| kept.files > 0);
    Ok(VolumeStatus {
        volume: config.to.display().to_string(),
        state: name,
        sentinel,
        complete,
        claim: seen.claim().map(|claim| watched(claim, volume)).transpose()?,
        place: volume.state().path.clone(),
        saved: kept(OLD),
        offered: kept(NEW),
    })
}

/// Watches the heartbeat of a claim.
fn watched(claim: NewestClaim, volume: &Volume) -> Result<ClaimStatus> {
    let began = Instant::now();
    let mut alive = false;
    while !alive && began.elapsed() < WATCHED {
        std::thread::sleep(LOOKED_AT);
        match look(volume)?.claim() {
            Some(now) if now.epoch == claim.epoch => alive = now.pulse != claim.pulse,
            // It is over, or another's.
            _ => break,
        }
    }
    let age = claim.written.and_then(|written| UNIX_EPOCH.checked_add(written)?.elapsed().ok());
    Ok(ClaimStatus {
        epoch: claim.epoch,
        heartbeat: claim.beat(),
        heartbeat_age: age.map(|age| age.as_secs()),
        holder: claim.holder,
        alive,
    })
}

/// For people: a few lines a volume.
pub(crate) fn text(statuses: &[VolumeStatus]) -> String {
    let mut text = String::new();
    for status in statuses {
        let _ = writeln!(text, "{}: {}", one_line(&status.volume), status.state);
        if let Some(record) = &status.complete {
            let _ = text.write_str(&recorded(record));
            let hook = record.details.as_ref().and_then(|details| details.hook.as_ref());
            if let Some(owed) = hook.filter(|_| status.state == PENDING) {
                let from = owed.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
                let _ = writeln!(
                    text,
                    "  owes       hook {}{from}: no app starts before it has succeeded",
                    owed.event.word()
                );
            }
        }
        if let Some(claim) = &status.claim {
            let _ = writeln!(text, "  claimed    {}", claimed(claim));
            let _ = writeln!(text, "  heartbeat  {}", heartbeat(claim));
        }
        for (what, kept, place) in [("saved", status.saved, OLD), ("offered", status.offered, NEW)] {
            if let Some(Displaced { files, bytes }) = kept {
                let place = status.place.join(place).display().to_string();
                let (bytes, place) = (byte_size(bytes), one_line(&place).to_string());
                let _ = writeln!(text, "  {what:<9}  {files} files, {bytes}, in {place}");
            }
        }
        if let Some(sentinel) = status.sentinel {
            let _ = writeln!(text, "  sentinel   {}", if sentinel { "there" } else { "not there" });
        }
    }
    text
}

fn recorded(record: &RecordStatus) -> String {
    let mut text = String::new();
    let origin = format!("{:?}", record.origin).to_lowercase();
    let mut version = String::new();
    if let Some(details) = &record.details {
        let source = details.source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
        let _ = writeln!(text, "  {origin:<9}  {}{source}", rfc3339(details.finished));
        version = details.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
    } else {
        let _ = writeln!(text, "  {origin}");
    }
    if let Some(Totals { files, directories, links, bytes }) = record.totals {
        let counted =
            |count: u64, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
        let files = counted(files, "file", "files");
        let directories = counted(directories, "directory", "directories");
        let (links, bytes) = (counted(links, "link", "links"), byte_size(bytes));
        let _ = writeln!(text, "  holds      {files}, {directories}, {links}, {bytes}");
    }
    let _ = writeln!(text, "  epoch      {}, generation {}{version}", record.epoch, record.generation);
    text
}

fn claimed(claim: &ClaimStatus) -> String {
    let Some(holder) = &claim.holder else { return format!("epoch {}, by an unknown holder", claim.epoch) };
    let since = rfc3339(holder.since);
    let container = holder.container.as_ref().map(|id| format!(", container {id}")).unwrap_or_default();
    format!(
        "epoch {}, by process {} on host {}{container} since {since}",
        claim.epoch, holder.pid, holder.host
    )
}

fn heartbeat(claim: &ClaimStatus) -> String {
    let state = match (&claim.heartbeat, claim.alive) {
        (_, true) => "beats",
        (Some(beat), false) if beat.released => "released cleanly",
        _ => "silent",
    };
    let age = claim.heartbeat_age.map(|age| format!(", last {age} s ago by this machine's clock"));
    let files = claim.heartbeat.as_ref().map(|beat| match beat.counts.files_total {
        Some(total) => format!(", {} of {total} files", beat.counts.files),
        None => format!(", {} files", beat.counts.files),
    });
    format!("{state}{}{}", age.unwrap_or_default(), files.unwrap_or_default())
}
