//! What `volseed repair` stages on a complete volume: what is missing, and what differs if that is asked for.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use super::floors::Began;
use super::work::{Heartbeat, Input, StagedTree, VolumeWork};
use crate::claims::store::{Claim, STAGE};
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::seed::engine::workers;
use crate::seed::manifest::read::Manifest;
use crate::seed::manifest::repair::RepairPlan;
use crate::seed::manifest::verify::Verification;
use crate::seed::publish::saved::Saved;
use crate::seed::{Repair, RootLook, StageJob};
use crate::volume::records::{Complete, ManifestRef, OLD, Public, read_whole};
use crate::volume::{is_type, make_private};

/// How many entries a log names one by one.
const MAX_NAMED: usize = 20;

/// What is put back, and the directory for what it replaces.
#[derive(Debug)]
pub(super) struct Repairs {
    plan: RepairPlan,
    saved: Option<Saved>,
}

impl Repairs {
    /// As a job on the volume wants it.
    pub(super) fn job(&self) -> Repair<'_> {
        Repair { plan: &self.plan, saved: self.saved.as_ref() }
    }

    /// Says what was done: each of the first entries in a line, and all of them in one.
    pub(super) fn report(&self, volume: &Path) {
        let RepairPlan { missing, replaced, .. } = &self.plan;
        let put_back = missing.iter().map(|path| ("put back", path));
        let all = put_back.chain(replaced.iter().map(|path| ("replaced", path)));
        for (act, path) in all.take(MAX_NAMED) {
            tracing::info!(path = printable(path), "{act}");
        }
        let saved = self.saved.as_ref().map(|saved| saved.path.display().to_string());
        let (put_back, replaced) = (missing.len(), replaced.len());
        tracing::info!(volume = %volume.display(), put_back, replaced, saved, "repaired");
    }
}

impl VolumeWork<'_> {
    /// Stages what is put back on the complete volume of `record`; nothing where nothing is.
    ///
    /// # Errors
    /// Exit 78 where there is no manifest, or the source is not the one that was seeded.
    pub(super) fn stage_what_differs(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        mut input: Input,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<Option<StagedTree>> {
        let refused =
            |cause: String| Error::new(Exit::Refused, "repair volume", cause).on(self.volume.path());
        let complete = self.complete_record(claim, record)?;
        let manifest = Manifest::open(claim.state.as_fd(), &complete).map_err(refused)?;
        let writers = workers::crew(self.config.workers, self.volume.kind()?, 1).writers;
        let verification = Verification::new(self.volume, &manifest, self.config.repair.reads_all);
        let plan = RepairPlan::new(&manifest, verification.run(writers)?, |path| self.may_replace(path))?;
        self.tell_of_left(&plan);
        if plan.is_empty() {
            return Ok(None);
        }
        let state = (claim.state.as_fd(), self.volume.state().path.as_path());
        let saved = match plan.replaced.is_empty() {
            true => None,
            false => Some(Saved::create(state.0, state.1, OLD, complete.generation)?),
        };
        let repairs = Repairs { plan, saved };
        let began = Began::now(self.volume.root(), None);
        let path = self.stage_path(claim, STAGE);
        let stage = make_private(claim.dir.as_fd(), STAGE.as_bytes());
        let stage = stage.context("create directory", path.as_path())?.fd;
        let wanted = |path: &[u8]| Ok(repairs.plan.wants.of(path));
        let site = self.site(claim, STAGE, &stage, heartbeat.stop());
        let site = StageJob { is_part: true, only: Some(&wanted), repair: Some(repairs.job()), ..site };
        // A seed must not take it for a part of its own.
        input.source.fingerprint.insert_str(0, "repair, ");
        let look = RootLook::at(self.volume, self.config)?;
        let staging = site.stage(input.source, look, Some(record), None)?;
        let named = staging.sealed.manifest.as_ref().expect("what is no part of a mount is listed");
        let staged = Manifest::read(stage.as_fd(), ManifestRef::PART, named).map_err(refused)?;
        repairs.plan.check(&manifest, &staged).map_err(|error| error.on(self.volume.path()))?;
        Ok(Some(StagedTree { stage, staging, began, repairs: Some(repairs) }))
    }

    /// Whether what is there is to be replaced: no directory ever is.
    fn may_replace(&self, path: &[u8]) -> Result<bool> {
        let there = match self.config.repair.replaces {
            true => self.volume.find(Path::new(OsStr::from_bytes(path)))?,
            false => None,
        };
        Ok(there.is_some_and(|there| !is_type(&there, FileType::Directory)))
    }

    pub(super) fn complete_record(&self, claim: &Claim<Arc<OwnedFd>>, record: &Public) -> Result<Complete> {
        self.read_record(claim.state.as_fd(), record)
    }

    /// The private record that `record` belongs to, in the state directory.
    ///
    /// # Errors
    /// Exit 77 where this user may not read it, 78 where it is another one's.
    pub(super) fn read_record(&self, state: BorrowedFd<'_>, record: &Public) -> Result<Complete> {
        let path = self.volume.state().path.join(Complete::FILE);
        let bytes = read_whole(state, Complete::FILE).context("read record", path.as_path())?;
        if !record.is_of(&bytes) {
            let cause = "it is not the one that the public record names";
            return Err(Error::new(Exit::Refused, "read record", cause).on(path.as_path()));
        }
        Complete::parse(&bytes, &path)
    }

    fn tell_of_left(&self, plan: &RepairPlan) {
        for (path, difference) in plan.left.iter().take(MAX_NAMED) {
            tracing::info!(path = printable(path), difference = difference.word(), "left as it is");
        }
        let left = plan.left.len();
        if left == 0 {
            return;
        }
        let volume = self.volume.path().display();
        match self.config.repair.replaces {
            true => {
                tracing::warn!(%volume, left, "something else is in the place of entries of the seed, or a directory has another mode or owner: left")
            }
            false => {
                tracing::warn!(%volume, left, "entries differ from the seed and were left: --modified replaces them")
            }
        }
    }
}
