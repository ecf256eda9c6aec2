//! Who seeds: one replica at a time, and what it takes over from one that died.
//!
//! A claim is a directory `.volseed/claims/<epoch>` that holds the claim's record and the stage. It
//! is built whole elsewhere and renamed to its place, so that every epoch has one owner. Taking over
//! is one rename too: the old stage moves into the new claim, after which an old holder can reach it
//! by no path. The lock says *when* to try: an open file description's lock (fcntl(2)), which the
//! kernel drops with its holder. It is safe where all replicas share one kernel or the server keeps
//! locks.

mod lock;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::state::{self, Made, StateDir};
use crate::volume::{self, not_ours, remove_tree};

pub use lock::{Lock, Patience, Waiting};

const CLAIMS: &str = "claims";
const BUILDING: &str = "tmp";
const RECORD: &str = "claim.json";
const STAGE: &str = "stage";

/// `claim.json`: who claimed the volume, for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holder {
    /// Number of the claim, from 1.
    pub epoch: u64,
    /// Host name, in a container usually its id.
    pub host: String,
    /// Process number in its own namespace.
    pub pid: u32,
    /// Seconds since 1970.
    pub since: u64,
}

/// A claim found on the volume.
#[derive(Debug)]
pub struct Found {
    /// Its number.
    pub epoch: u64,
    /// The stage that it holds.
    pub stage: OwnedFd,
    /// Who made it, where that can be read.
    pub holder: Option<Holder>,
}

/// The right to change the volume, from taking over to [`Claim::finish`].
#[derive(Debug)]
pub struct Claim {
    epoch: u64,
    claims: OwnedFd,
    claim: OwnedFd,
    stage: OwnedFd,
    path: PathBuf,
    _lock: Lock,
}

/// The newest claim that holds a stage, whoever made it.
///
/// # Errors
/// When the claims cannot be read.
pub fn find(state: &StateDir) -> Result<Option<Found>> {
    let path = state.path().join(CLAIMS);
    let Some(claims) = open_directory(state.fd(), CLAIMS.as_bytes(), &path)? else { return Ok(None) };
    for epoch in epochs(claims.as_fd(), &path)?.into_iter().rev() {
        let (name, path) = (epoch.to_string(), path.join(epoch.to_string()));
        let Some(claim) = open_directory(claims.as_fd(), name.as_bytes(), &path)? else { continue };
        let Some(stage) = open_directory(claim.as_fd(), STAGE.as_bytes(), &path.join(STAGE))? else {
            continue;
        };
        let holder = state::read(claim.as_fd(), RECORD, &path).unwrap_or_default();
        return Ok(Some(Found { epoch, stage, holder }));
    }
    Ok(None)
}

impl Claim {
    /// Claims the volume under `lock`, which its caller holds, and takes over the stage of whoever
    /// held it before.
    ///
    /// # Errors
    /// When the claim cannot be made; the volume is then as it was.
    pub fn take(state: &StateDir, lock: Lock) -> Result<Claim> {
        let claims_path = state.path().join(CLAIMS);
        let made = private(state.fd(), CLAIMS, &claims_path)?;
        let claims = made.fd;
        let older = if made.is_new { Vec::new() } else { epochs(claims.as_fd(), &claims_path)? };
        let epoch = older.last().map_or(1, |last| last + 1);
        let path = claims_path.join(epoch.to_string());

        remove_tree(state.fd(), BUILDING.as_bytes())
            .context("remove directory", state.path().join(BUILDING).as_path())?;
        let claim = build(state, epoch)?;
        fs::renameat(state.fd(), BUILDING, claims.as_fd(), epoch.to_string())
            .context("rename claim to", path.as_path())?;
        for old in older.iter().rev() {
            let from = format!("{old}/{STAGE}");
            match fs::renameat(claims.as_fd(), from.as_str(), claim.as_fd(), STAGE) {
                // Only the newest stage is worth anything; a stage in place refuses the others.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error).context("take over stage", claims_path.join(from).as_path()),
            }
        }
        let stage = private(claim.as_fd(), STAGE, &path.join(STAGE))?.fd;
        for old in older {
            let name = old.to_string();
            remove_tree(claims.as_fd(), name.as_bytes())
                .context("remove directory", claims_path.join(name).as_path())?;
        }
        Ok(Claim { epoch, claims, claim, stage, path, _lock: lock })
    }

    /// Its number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The stage's descriptor.
    pub fn stage(&self) -> BorrowedFd<'_> {
        self.stage.as_fd()
    }

    /// The stage's path, for messages.
    pub fn stage_path(&self) -> PathBuf {
        self.path.join(STAGE)
    }

    /// Removes the claim and all that is left of its stage, then lets go of the lock.
    ///
    /// # Errors
    /// When something of it could not be removed.
    pub fn finish(self, state: &StateDir) -> Result<()> {
        if self.remove_known(state).is_ok() {
            return Ok(());
        }
        remove_tree(state.fd(), CLAIMS.as_bytes())
            .context("remove directory", state.path().join(CLAIMS).as_path())
    }

    /// Removes what is in a claim as a rule, without a look at what is there.
    fn remove_known(&self, state: &StateDir) -> rustix::io::Result<()> {
        let (file, directory) = (AtFlags::empty(), AtFlags::REMOVEDIR);
        fs::unlinkat(&self.stage, state::Staged::FILE, file)?;
        fs::unlinkat(&self.claim, STAGE, directory)?;
        fs::unlinkat(&self.claim, RECORD, file)?;
        fs::unlinkat(&self.claims, self.epoch.to_string(), directory)?;
        fs::unlinkat(state.fd(), CLAIMS, directory)
    }
}

/// Makes a directory of ours, or opens the one that is there.
fn private(parent: BorrowedFd<'_>, name: &str, path: &Path) -> Result<Made> {
    match state::make_private(parent, name.as_bytes()) {
        Err(Errno::NOTDIR | Errno::LOOP) => Err(not_ours(path, "not a directory")),
        made => made.context("create directory", path),
    }
}

fn build(state: &StateDir, epoch: u64) -> Result<OwnedFd> {
    let path = state.path().join(BUILDING);
    let claim = private(state.fd(), BUILDING, &path)?.fd;
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let holder = Holder { epoch, host, pid: std::process::id(), since: state::now() };
    state::write(claim.as_fd(), RECORD, &holder, &path)?;
    Ok(claim)
}

/// The numbers of the claims, ascending. Names that are no number are none of ours.
fn epochs(claims: BorrowedFd<'_>, path: &Path) -> Result<Vec<u64>> {
    let names = volume::names(claims).context("read directory", path)?;
    let mut epochs: Vec<u64> =
        names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse().ok()).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<Option<OwnedFd>> {
    match volume::openat(parent, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => Err(not_ours(path, "not a directory")),
        Err(error) => Err(error).context("open directory", path),
    }
}
