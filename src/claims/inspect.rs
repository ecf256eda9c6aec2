//! A look at who holds a volume, and at its records, for those who only want to know. Changes nothing.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::beat::{Beat, Holder};
use super::disk::Disk;
use super::io::block_on;
use super::store::{ClaimStore, HEARTBEAT, PUBLISHING, SEALED, STAGE};
use crate::error::Result;
use crate::exit::Exit;
use crate::volume::records::{self, Complete, Public};
use crate::volume::{Ourselves, Volume, stat_entry};

/// The newest claim on a volume.
#[derive(Debug)]
pub(crate) struct NewestClaim {
    /// Its number.
    pub epoch: u64,
    /// Whose it is, where that can be read.
    pub holder: Option<Holder>,
    /// Its heartbeat as it is, to be compared with a later one.
    pub pulse: Vec<u8>,
    /// When the heartbeat was written by the file system's clock, since 1970.
    pub written: Option<Duration>,
    /// How far it is.
    pub phase: &'static str,
}

/// What a look may find.
#[derive(Debug)]
pub(crate) enum Inspected {
    /// No claim.
    Nothing,
    /// Claims, if there are any, are another user's and not for us to see.
    Hidden,
    /// The newest claim.
    Claim(NewestClaim),
}

impl Inspected {
    /// The newest claim, where it may be seen.
    pub(crate) fn claim(self) -> Option<NewestClaim> {
        match self {
            Inspected::Claim(look) => Some(look),
            Inspected::Nothing | Inspected::Hidden => None,
        }
    }
}

impl NewestClaim {
    /// What the heartbeat says, where it can be read.
    pub(crate) fn beat(&self) -> Option<Beat> {
        Beat::parse(&self.pulse)
    }
}

/// The public record, where there is one. Blocks for as long as the file system does.
///
/// # Errors
/// Exit 77 when it may not be read, 78 when what is there cannot be a record of ours.
pub(crate) fn public(volume: &Volume) -> Result<Option<Public>> {
    let disk = Disk::new(Ourselves::onlooker(), false, Arc::default());
    let store = ClaimStore::on(volume, &disk);
    block_on(async {
        match store.state_dir().await? {
            Some(state) => store.record(&state).await,
            None => Ok(None),
        }
    })
}

/// The private record that `public` belongs to, where this user may read it. It decides nothing.
pub(crate) fn private(volume: &Volume, public: &Public) -> Option<Complete> {
    let disk = Disk::new(Ourselves::onlooker(), false, Arc::default());
    let state = block_on(ClaimStore::on(volume, &disk).state_dir()).ok()??;
    let bytes = records::read_whole(state.as_fd(), Complete::FILE).ok()?;
    public.is_of(&bytes).then(|| Complete::parse(&bytes, Path::new(Complete::FILE)).ok())?
}

/// Looks for the newest claim. Blocks for as long as the file system does.
///
/// # Errors
/// Exit 78 when what is there is no claim of ours.
pub(crate) fn look(volume: &Volume) -> Result<Inspected> {
    let disk = Disk::new(Ourselves::onlooker(), false, Arc::default());
    let store = ClaimStore::on(volume, &disk);
    block_on(async {
        let Some(state) = store.state().await? else { return Ok(Inspected::Nothing) };
        let found = match store.newest(&state.dir).await {
            // Another user's claims are its own business.
            Err(error) if error.exit_code() == Exit::Permission => return Ok(Inspected::Hidden),
            found => found?,
        };
        let Some(found) = found else { return Ok(Inspected::Nothing) };
        let has = |name: &str| stat_entry(found.dir.as_fd(), name.as_bytes()).ok().flatten();
        let phase = if has(PUBLISHING).is_some() || has(SEALED).is_some() {
            "publishing"
        } else if has(STAGE).is_some() {
            "seeding"
        } else {
            "claimed"
        };
        let written = has(HEARTBEAT).map(|stat| {
            // A server may say any number of nanoseconds.
            let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999);
            Duration::new(u64::try_from(stat.st_mtime).unwrap_or(0), nanoseconds)
        });
        Ok(Inspected::Claim(NewestClaim {
            epoch: found.epoch,
            holder: found.holder,
            pulse: found.beat,
            written,
            phase,
        }))
    })
}
