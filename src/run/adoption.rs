//! What is known of a volume that was seeded before volseed: the image says what should be on it, and where it has the
//! image's sentinel it is of the image's version.
//!
//! Something else has put it there, at other times and as other users: before it is adopted only names, types and sizes
//! are compared.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::repair::Repairs;
use super::upgrade::check_unchanged;
use super::work::{Heartbeat, StagedTree, VolumeWork};
use crate::claims::store::{Claim, STAGE};
use crate::cli::config::VolumeConfig;
use crate::cli::values::Adopt;
use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;
use crate::seed::engine::workers;
use crate::seed::manifest::read::Manifest;
use crate::seed::manifest::repair::RepairPlan;
use crate::seed::manifest::verify::{Verification, has_file, unreadable};
use crate::seed::stage::durable::sync_there;
use crate::seed::upgrade::check::Step;
use crate::seed::{Source, StageJob, archived_file};
use crate::volume::records::{Complete, ManifestRef, Unkept};
use crate::volume::{Volume, open_beneath};

/// How many missing entries a message names.
const MAX_NAMED: usize = 5;

/// The largest sentinel that is compared without a manifest, in bytes: it names a version, and is not the app.
const MAX_BYTES: u64 = 1 << 20;

/// What a look at a volume found that was seeded before volseed.
pub(super) struct Look {
    /// Lists the image.
    manifest: Manifest,
    named: ManifestRef,
    /// Whether the volume has the image's sentinel.
    pub(super) is_of_image: bool,
    /// What of the image is not there.
    pub(super) plan: RepairPlan,
    /// How many entries these are.
    pub(super) missing: u64,
}

/// The image's version, where the volume's sentinel is byte for byte the image's. What cannot be read has no
/// known version, which is no failure.
fn version(config: &VolumeConfig, volume: &Volume) -> Option<String> {
    let version = config.seed_version.clone()?;
    has_same_sentinel(config, volume).then_some(version)
}

/// Whether the volume's sentinel is byte for byte the image's.
pub(crate) fn has_same_sentinel(config: &VolumeConfig, volume: &Volume) -> bool {
    compare(config, volume).unwrap_or(false)
}

/// Whether there is an image to compare a volume with. What comes through a pipe cannot be read twice.
///
/// # Errors
/// Exit 64 where `--adopt` needs one.
pub(super) fn can_look(config: &VolumeConfig) -> Result<bool> {
    let is_pipe = |found: std::fs::Metadata| !found.is_dir() && !found.is_file();
    if config.from.as_os_str() != "-" && !config.from.metadata().is_ok_and(is_pipe) {
        return Ok(true);
    }
    match config.adopt {
        Adopt::AsIs => Ok(false),
        _ => Err(Error::new(Exit::Usage, "adopt volume", "a pipe cannot be read twice, as --adopt needs")
            .on(config.from.as_path())),
    }
}

impl Look {
    /// Lists the image in the stage of `site`, and compares the volume with that.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(super) fn of(site: &StageJob<'_>) -> Result<Look> {
        let source = site.progress.reading(|| Source::open(site.config, site.volume))?;
        let named = site.progress.reading(|| site.list(source))?.manifest;
        let unkept = Unkept { owners: true, modes: true, times: true };
        let manifest =
            Manifest::read(site.stage, ManifestRef::STAGED, &ManifestRef { unkept, ..named.clone() })
                .map_err(|cause| Error::new(Exit::Io, "read manifest", cause))?;
        let threads = workers::crew(site.config.workers, site.volume.kind()?, 1).writers;
        let found = Verification::new(site.volume, &manifest, false).telling(site.progress).run(threads)?;
        let plan = RepairPlan::new(&manifest, found, |_| Ok(false))?;
        let missing = plan.missing.iter().try_fold(0, |count, path| {
            let directories = manifest.below(path).count() as u64;
            let is_directory = manifest.directory(path).is_some();
            Ok(count + if is_directory { directories + manifest.count(path)? } else { 1 })
        });
        let is_of_image = match &site.config.sentinel {
            Some(sentinel) => has_file(site.volume, &manifest, sentinel)?.unwrap_or(false),
            None => false,
        };
        Ok(Look { missing: missing.map_err(unreadable)?, manifest, named, is_of_image, plan })
    }

    /// Whether what was found may be adopted.
    ///
    /// # Errors
    /// Exit 78 where something is missing, and `--adopt` says that nothing may.
    pub(super) fn check(&self, config: &VolumeConfig) -> Result<()> {
        let help = match (config.adopt, self.is_of_image) {
            _ if self.missing == 0 => return Ok(()),
            (Adopt::AsIs, _) | (Adopt::Complete, true) => return Ok(()),
            (Adopt::Refuse, true) => {
                "--adopt complete adds what is missing; if it was removed on purpose, start once with --adopt as-is"
            }
            (Adopt::Complete | Adopt::Refuse, false) => {
                "what is missing may belong to another version: start the image of the volume's version first, or once with --adopt as-is"
            }
        };
        Err(Error::new(Exit::Refused, "adopt volume", self.lacks()).on(config.to.as_path()).help(help))
    }

    /// What is missing, as steps of a plan.
    pub(super) fn steps(&self) -> Vec<(Box<[u8]>, Step)> {
        let step =
            |path: &[u8]| if self.manifest.directory(path).is_some() { Step::AddTree } else { Step::Add };
        self.plan.missing.iter().map(|path| (path.clone(), step(path))).collect()
    }

    /// What is recorded, but for the names.
    fn record(&self, config: &VolumeConfig, epoch: u64) -> Complete {
        let version = config.seed_version.clone().filter(|_| self.is_of_image);
        let manifest = Some(self.named.clone()).filter(|_| self.is_of_image);
        Complete { manifest, ..Complete::adopted(epoch, version) }
    }

    /// Says what is missing on a volume that is adopted as it is.
    fn tell(&self, config: &VolumeConfig) {
        let (volume, missing, differ) = (config.to.display(), self.missing, self.plan.left.len());
        match (missing, self.is_of_image) {
            (0, true) if differ > 0 => {
                tracing::info!(%volume, differ, "entries differ from the image's in size or type: volseed verify lists them")
            }
            (0, _) => {}
            (_, true) => {
                tracing::warn!(%volume, missing, differ, "adopted as it is: {} (volseed repair adds them)", self.lacks())
            }
            (_, false) => {
                tracing::warn!(%volume, missing, differ, "adopted as it is, and its version is not known: {}", self.lacks())
            }
        }
    }

    /// What is missing, with the first names.
    pub(super) fn lacks(&self) -> String {
        let sentinel = match self.is_of_image {
            true => "it has the image's sentinel",
            false => "its sentinel is not the image's",
        };
        let names = self.plan.missing.iter().take(MAX_NAMED).map(|path| path.quoted());
        let more = if self.plan.missing.len() > MAX_NAMED { ", …" } else { "" };
        let names = names.collect::<Vec<_>>().join(", ");
        format!("{sentinel}, and it lacks {} of the image's entries: {names}{more}", self.missing)
    }
}

impl VolumeWork<'_> {
    /// Looks at a volume that was seeded before volseed: its record, but for the names in it, and where that is wanted,
    /// what of the image is missing, staged.
    ///
    /// # Errors
    /// Exit 78 where something is missing that may not; what staging says.
    pub(super) fn stage_what_is_missing(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        heartbeat: &Heartbeat,
    ) -> Result<(Complete, Option<StagedTree>)> {
        let (config, volume) = (self.config, self.volume);
        let unknown = || Ok((Complete::adopted(claim.epoch, version(config, volume)), None));
        if !can_look(config)? {
            return unknown();
        }
        let (stage, _) = self.make_stage(claim)?;
        let look = match Look::of(&self.site(claim, STAGE, &stage, heartbeat.stop())) {
            Err(error) if config.adopt == Adopt::AsIs && !heartbeat.stop().is_set() => {
                tracing::warn!(volume = %volume.path().display(), %error, "adopted without a look at what the image has");
                return unknown();
            }
            looked => looked?,
        };
        look.check(config)?;
        // What a run before this one moved there, or something else copied, must not be gone again once it is recorded.
        sync_there(volume, &look.manifest, workers::crew(config.workers, volume.kind()?, 1).writers)?;
        if look.missing > 0 && config.adopt == Adopt::Complete {
            return self.stage_the_rest(claim, look, heartbeat);
        }
        look.tell(config);
        Ok((look.record(config, claim.epoch), None))
    }

    fn stage_the_rest(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        mut look: Look,
        heartbeat: &Heartbeat,
    ) -> Result<(Complete, Option<StagedTree>)> {
        self.check_owner()?;
        self.check_place(claim)?;
        let source = self.progress.reading(|| Source::open(self.config, self.volume))?;
        let repairs = Repairs::new(std::mem::take(&mut look.plan), 1);
        let (tree, staged) =
            self.stage_repairs(claim, (source, "completion, "), &repairs, None, heartbeat)?;
        check_unchanged(repairs.plan.wants.first_other(&look.manifest, &staged)?, self.volume)?;
        // What the volume did not keep of a part it does not keep of the rest.
        look.named.unkept = staged.unkept;
        self.tell_of_left(&repairs.plan);
        Ok((look.record(self.config, claim.epoch), Some(StagedTree { repairs: Some(repairs), ..tree })))
    }
}

fn compare(config: &VolumeConfig, volume: &Volume) -> Option<bool> {
    let sentinel = config.sentinel.as_deref()?;
    let there = regular(open(volume.root(), sentinel)?)?;
    let is_same = if config.from.is_dir() {
        let source = File::open(&config.from).ok()?;
        let shipped = regular(open(source.as_fd(), sentinel)?)?;
        is_same(shipped, there)
    } else if config.from.is_file() {
        archived_file(&config.from, sentinel, MAX_BYTES).is_some_and(|shipped| is_same(&shipped[..], there))
    } else {
        false
    };
    Some(is_same)
}

fn open(directory: std::os::fd::BorrowedFd<'_>, path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_beneath(directory, path.as_os_str().as_bytes(), flags, Mode::empty()).ok().map(File::from)
}

fn regular(file: File) -> Option<File> {
    let found = file.metadata().ok()?;
    (found.is_file() && found.len() <= MAX_BYTES).then_some(file)
}

fn is_same(one: impl Read, other: impl Read) -> bool {
    read(one).is_some_and(|one| read(other) == Some(one))
}

fn read(file: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
