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
use crate::seed::{Part, Repair, RootLook, Source, StageJob};
use crate::volume::is_type;
use crate::volume::records::{Complete, ManifestRef, OLD, Public, read_whole};

/// How many entries a log names one by one.
const MAX_NAMED: usize = 20;

/// What is put back, and the directory for what it replaces.
#[derive(Debug)]
pub(super) struct Repairs {
    pub(super) plan: RepairPlan,
    /// Of the seed that is repaired.
    generation: u64,
    saved: Option<Saved>,
}

impl Repairs {
    /// What is put back on a volume that was seeded as this generation.
    pub(super) fn new(plan: RepairPlan, generation: u64) -> Repairs {
        Repairs { plan, generation, saved: None }
    }

    /// Makes the directory for what is replaced, where anything is: as late as that, so that a run which fails before
    /// leaves none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn make_place(&mut self, state: BorrowedFd<'_>, path: &Path) -> Result<()> {
        if !self.plan.replaced.is_empty() {
            self.saved = Some(Saved::create(state, path, OLD, self.generation)?);
        }
        Ok(())
    }

    /// As a job on the volume wants it.
    pub(super) fn job(&self) -> Repair<'_> {
        Repair { plan: &self.plan, saved: self.saved.as_ref() }
    }

    /// Names the first entries, each in a line.
    pub(super) fn name_first(&self) {
        let RepairPlan { missing, replaced, .. } = &self.plan;
        let put_back = missing.iter().map(|path| ("put back", path));
        let all = put_back.chain(replaced.iter().map(|path| ("replaced", path)));
        for (act, path) in all.take(MAX_NAMED) {
            tracing::info!(path = printable(path), "{act}");
        }
    }

    /// Says what was done: each of the first entries in a line, and all of them in one.
    pub(super) fn report(&self, volume: &Path) {
        self.name_first();
        let RepairPlan { missing, replaced, .. } = &self.plan;
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
        input: Input,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<Option<StagedTree>> {
        let refused =
            |cause: String| Error::new(Exit::Refused, "repair volume", cause).on(self.volume.path());
        let complete = self.complete_record(claim, record)?;
        let manifest = Manifest::open(claim.state.as_fd(), &complete).map_err(refused)?;
        let writers = workers::crew(self.config.workers, self.volume.kind()?, 1).writers;
        let verification = Verification::new(self.volume, &manifest, self.config.repair.reads_all);
        let verification = verification.telling(self.progress);
        let plan = RepairPlan::new(&manifest, verification.run(writers)?, |path| self.may_replace(path))?;
        self.tell_of_left(&plan);
        if plan.is_empty() {
            return Ok(None);
        }
        let repairs = Repairs::new(plan, complete.generation);
        let (tree, staged) =
            self.stage_repairs(claim, (input.source, "repair, "), &repairs, Some(record), heartbeat)?;
        repairs.plan.check(&manifest, &staged).map_err(|error| error.on(self.volume.path()))?;
        Ok(Some(StagedTree { repairs: Some(repairs), ..tree }))
    }

    /// Stages what is put back of a source: the tree, and what lists it. `purpose` keeps a seed from taking it for a
    /// part of its own.
    pub(super) fn stage_repairs(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        (mut source, purpose): (Source, &str),
        repairs: &Repairs,
        after: Option<&Public>,
        heartbeat: &Heartbeat,
    ) -> Result<(StagedTree, Manifest)> {
        let began = Began::now(self.volume.root(), None);
        let (stage, _) = self.make_stage(claim)?;
        let wanted = |path: &[u8]| Ok(repairs.plan.wants.of(path));
        let site = self.site(claim, STAGE, &stage, heartbeat.stop());
        let only = Some(Part { names: &wanted, has_ways: false });
        let site = StageJob { is_part: true, only, repair: Some(repairs.job()), ..site };
        source.fingerprint.insert_str(0, purpose);
        let look = RootLook::at(self.volume, self.config)?;
        let staging = site.stage(source, look, after, None)?;
        let named = staging.sealed.manifest.as_ref().expect("what is no part of a mount is listed");
        let staged = Manifest::read(stage.as_fd(), ManifestRef::PART, named)
            .map_err(|cause| Error::new(Exit::Io, "read", cause).on(self.volume.path()))?;
        Ok((StagedTree { stage, staging, began, repairs: None }, staged))
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

    /// Says what differs and stays.
    pub(super) fn tell_of_left(&self, plan: &RepairPlan) {
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
                tracing::warn!(%volume, left, "entries differ from the seed and were left: volseed repair --modified replaces them")
            }
        }
    }
}
