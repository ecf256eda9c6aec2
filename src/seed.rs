//! Seeding one volume: the source goes to the stage, the stage is made durable and sealed, and what
//! is sealed is published.
//!
//! Works below descriptors that it is handed; who may do so, and when, is decided elsewhere. Nothing
//! outside the stage is touched before the seal.

pub(crate) mod engine;
pub(crate) mod manifest;
mod produce;
pub(crate) mod publish;
pub(crate) mod source;
pub(crate) mod stage;
mod staging;
pub(crate) mod upgrade;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::cli::config::VolumeConfig;
use crate::cli::values::Workers;
use crate::error::{Context, Result};
use crate::progress::{Phase, Progress, seconds};
use crate::volume;
use crate::volume::records;
use crate::volume::records::{ManifestRef, Name, Public, Sealed, Staged, TREE, Unkept};
use crate::volume::scratch::Scratch;
use crate::volume::{FileSystem, PrivateDirectory, Storage, Volume, beside, openat, short_stat, user};
use engine::workers::{self, Parallelism};
use manifest::repair::RepairPlan;
use manifest::write::ManifestWriter;
pub(crate) use publish::Published;
use publish::mounts::Mounts;
use publish::root;
use publish::saved::Saved;
pub(crate) use source::Source;
use source::SourceContent;
pub(crate) use source::directory::Part;
use source::entry::Naming;
pub(crate) use source::lookup::archived_file;
use stage::common::{Purpose, WalkRules};
use stage::inheritance::Inheritance;
use stage::losses::{Loss, Losses, Lost};
use stage::metadata::Fidelity;
use stage::overrides::Overrides;
use stage::owner::{Owner, spelled};
use stage::space::Space;
use stage::tree::{Tree, TreeOptions};
use stage::{owner, sentinel};
pub(crate) use staging::Staging;
use staging::kept;

/// How many calls are in flight while a stage is removed that cannot be used.
const REMOVERS: usize = 16;

/// Where a seed is made, and from what.
pub(crate) struct StageJob<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// The private stage on it.
    pub stage: BorrowedFd<'a>,
    /// The stage's path, for messages.
    pub stage_path: PathBuf,
    /// The part of the seed that it is made of, by its path; empty for the whole.
    pub below: Vec<u8>,
    /// What of a directory's source is wanted; everything without it.
    pub only: Option<Part<'a>>,
    /// Whether it is a part of a seed, for a volume that is complete.
    pub is_part: bool,
    /// What is put back on a complete volume, where that is done.
    pub repair: Option<Repair<'a>>,
    /// Whether an earlier run may have left something in the stage.
    pub begun: bool,
    /// The claim that it is made under.
    pub epoch: u64,
    /// What is wanted.
    pub config: &'a VolumeConfig,
    /// Hears how far it is.
    pub progress: &'a Arc<Progress>,
    /// Stops it.
    pub cancel: Arc<Cancel>,
}

/// What a source holds.
pub(crate) struct SourceListing {
    /// What lists every entry of it, in the stage.
    pub manifest: ManifestRef,
    /// How much it is.
    pub totals: records::Totals,
}

/// What a repair puts back, and where it keeps what it replaces.
#[derive(Clone, Copy)]
pub(crate) struct Repair<'a> {
    /// Which entries.
    pub plan: &'a RepairPlan,
    /// The private directory for what they replace.
    pub saved: Option<&'a Saved>,
}

/// What a volume's root is before it is seeded.
pub(crate) struct RootLook {
    kind: FileSystem,
    found: fs::StatFs,
    names: Vec<Box<[u8]>>,
    inherited: Inheritance,
}

impl RootLook {
    /// Looks at the root of `volume`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn at(volume: &Volume, config: &VolumeConfig) -> Result<RootLook> {
        let inside = || Ok((root::inherited(volume, config)?, volume.names()?));
        let (looked, inside) = beside(|| volume.look(), inside);
        let ((kind, found), (inherited, names)) = (looked?, inside?);
        Ok(RootLook { kind, found, names, inherited })
    }
}

impl<'a> StageJob<'a> {
    /// In a directory beside the volume: to list a source, and to stage nothing.
    pub(crate) fn in_scratch(
        config: &'a VolumeConfig,
        volume: &'a Volume,
        scratch: &'a Scratch,
        progress: &'a Arc<Progress>,
        cancel: Arc<Cancel>,
    ) -> StageJob<'a> {
        StageJob {
            volume,
            stage: scratch.directory.as_fd(),
            stage_path: scratch.path.clone(),
            below: Vec::new(),
            only: None,
            is_part: true,
            repair: None,
            begun: false,
            epoch: 0,
            config,
            progress,
            cancel,
        }
    }
}

impl StageJob<'_> {
    /// Stages the whole seed. Blocks until then; a stage that was left by an earlier run is resumed,
    /// as far as it can be trusted, and whole files are taken out of `remains`, a stage that somebody may
    /// still hold open. `after` is the record that the seed's will follow.
    ///
    /// # Errors
    /// The first thing that went wrong. The stage stays for the next run.
    pub(crate) fn stage(
        &self,
        source: Source,
        look: RootLook,
        after: Option<&Public>,
        remains: Option<BorrowedFd<'_>>,
    ) -> Result<Staging> {
        let began = Instant::now();
        let _umask = Umask::cleared();
        let RootLook { kind, mut found, names: there, mut inherited } = look;
        let is_empty = self.volume.first_content(&there)?.is_none();
        let (staged, tree) = self.prepare(kind, &source.fingerprint, after, is_empty, &mut inherited)?;
        let overrides = Overrides::of(self.config, &inherited);
        let remains = remains.and_then(|remains| self.trusted_tree(remains, &staged, kind, &inherited));
        let naming = self.naming(kind);
        let one_user = owner::of_everything(self.stage, self.config.owner);
        let fidelity = Fidelity::new(Losses::new(self.config.strict, naming.clone()), one_user);
        let names = || volume::names(tree.fd.as_fd()).context("read directory", self.tree_path().as_path());
        let resumed = !tree.is_new && !names()?.is_empty();
        let is_copied = matches!(source.content, SourceContent::Directory(_));
        let uses = 1 + u64::from(is_copied) + u64::from(remains.is_some());
        let crew = workers::crew(self.config.workers, kind, uses);
        let writers = crew.writers;
        let is_upgrade = self.is_part && self.repair.is_none();
        self.progress.enter(if is_upgrade { Phase::Upgrading } else { Phase::Seeding });
        tracing::info!(
            volume = %self.volume.path().display(),
            source = %self.config.from.display(),
            filesystem = %kind,
            writers,
            resumed = resumed || remains.is_some(),
            epoch = self.epoch,
            as_user = self.volume.user().map(spelled),
            owner_of_everything = one_user.map(spelled),
            "{}",
            if self.is_part { "staging what differs" } else { "seeding" }
        );
        if self.begun {
            // More is free now where an earlier stage was removed.
            found = self.volume.look()?.1;
        }
        let space = match resumed || remains.is_some() {
            true => Space::unknown(),
            false => Space::new(self.volume.path().to_owned(), kind, &found),
        };
        let mut tree = self.tree(tree.fd, naming, resumed, crew, &source.content)?.taking_from(remains);
        // A part of the seed is listed where the whole of it is.
        if self.below.is_empty() {
            let name = if self.is_part { ManifestRef::PART } else { ManifestRef::STAGED };
            tree = tree.listed_in(ManifestWriter::create(self.stage, name, &self.stage_path)?);
        }
        // A stage without its record is not resumed: nothing in it is trusted. So where that is a round trip the record
        // of a new one is written while it is filled.
        let note = || if self.begun { Ok(()) } else { staged.write(self.stage, &self.stage_path) };
        let run = || self.run(&tree, source.content, overrides, &fidelity, crew, &space);
        let (work, noted) = match kind.place {
            Storage::Network | Storage::Unknown => beside(run, note),
            Storage::Memory | Storage::Local => (note().and_then(|()| run()), Ok(())),
        };
        if space.is_exceeded() {
            // The next run could not tell what of it is needed still.
            let _ = fs::unlinkat(self.stage, ManifestRef::STAGED, AtFlags::empty());
            let _ =
                volume::remove_directory(self.stage, TREE.as_bytes(), REMOVERS, &|| self.progress.touch());
        }
        let (produced, work, reused) = work?;
        noted?;
        tree.finish_root()?;
        let manifest = tree.take_manifest(produced.root.as_ref().filter(|_| staged.empty))?;
        let staged_tree = Arc::clone(tree.root_fd());
        let staged_root = staged_tree.as_fd();
        if !self.is_part {
            sentinel::ensure(staged_root, &self.tree_path(), self.config, overrides, manifest.as_ref())?;
        }
        // Before the seal: a later image that is without the conflict is then staged in its place.
        let mounts = match there.is_empty() || self.is_part && self.repair.is_none() {
            true => Mounts::default(),
            false => {
                let manifest = manifest.as_ref().filter(|_| !self.is_part);
                self.check(staged_root, fidelity.losses(), manifest)?
            }
        };
        let stage_time = began.elapsed();
        tracing::info!(
            files = work.totals.files,
            bytes = work.totals.bytes,
            reused,
            seconds = seconds(stage_time),
            "staged"
        );
        let mut lost = fidelity.lost();
        lost += mounts.lost.clone();
        let root = self.root(produced.root, staged.empty, &inherited).filter(|_| !self.is_part);
        let manifest = manifest.map(|manifest| manifest.close(unkept(&lost, self.config, one_user)));
        let sealed = self.sealed(staged_root, &staged, work.totals, (root, manifest.transpose()?))?;
        if let (true, Some(root)) = (self.config.strict, &sealed.root) {
            fidelity.check_root(self.volume.root(), root)?;
        }
        Ok(Staging {
            tree: staged_tree,
            sealed,
            staged,
            kept: kept(kind),
            reused,
            writers,
            busy: work.busy,
            busy_with_files: work.busy_with_files,
            longest_chain: work.longest_chain,
            skipped: produced.skipped,
            excluded: produced.excluded,
            lost,
            mounts,
            stage_time,
            sync_time: Duration::ZERO,
        })
    }

    /// Lists the whole source in a manifest in the stage, and stages nothing of it. Blocks until then.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub(crate) fn list(&self, source: Source) -> Result<SourceListing> {
        let kind = self.volume.kind()?;
        let mut inherited = root::inherited(self.volume, self.config)?;
        // Names are compared as the volume compares them.
        let root = inherited
            .make((self.stage, TREE.as_bytes()), self.volume.root())
            .context("create directory", self.tree_path().as_path())?;
        let overrides = Overrides::of(self.config, &inherited);
        let naming = self.naming(kind);
        let one_user = owner::of_everything(self.stage, self.config.owner);
        let fidelity = Fidelity::new(Losses::new(false, naming.clone()), one_user);
        let crew = workers::crew(Workers::Auto, kind, 1);
        let is_archive = !matches!(source.content, SourceContent::Directory(_));
        let manifest = ManifestWriter::create(self.stage, ManifestRef::STAGED, &self.stage_path)?;
        let tree = self.tree(root.fd, naming, false, crew, &source.content)?;
        let mut tree = tree.unstaged(is_archive)?.listed_in(manifest);
        let (produced, work, _) =
            self.run(&tree, source.content, overrides, &fidelity, crew, &Space::unknown())?;
        let manifest = tree.take_manifest(produced.root.as_ref())?.expect("it was given one");
        let manifest = manifest.close(unkept(&fidelity.lost(), self.config, one_user))?;
        Ok(SourceListing { manifest, totals: work.totals })
    }

    /// What the staged tree will be once it is sealed.
    fn sealed(
        &self,
        tree: BorrowedFd<'_>,
        staged: &Staged,
        totals: records::Totals,
        (root, manifest): (Option<records::Root>, Option<ManifestRef>),
    ) -> Result<Sealed> {
        let mut top = volume::names(tree).context("read directory", self.tree_path().as_path())?;
        top.sort();
        Ok(Sealed {
            hook: self.config.hook.is_some() && self.repair.is_none(),
            generation: staged.generation,
            version: self.config.seed_version.clone(),
            totals,
            settings: records::Settings::default(),
            source: None,
            manifest,
            repairs: self.repair.is_some(),
            upgrade: None,
            // All of them would make the record too large to be read.
            top: top.iter().take(records::TOP_LISTED).map(|name| Name::from(&**name)).collect(),
            root,
        })
    }

    /// Moves what is sealed to its place. Blocks until then; run again after a kill it moves what is
    /// left. Before each move `go_on` says whether it may.
    ///
    /// # Errors
    /// Exit 78 on a conflict with what is on the volume; that of `go_on`; else what the file system says.
    pub(crate) fn publish(
        &self,
        sealed: &Sealed,
        staging: Option<&mut Staging>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Published> {
        self.progress.enter(Phase::Publishing);
        let is_earlier = staging.is_none();
        let (tree, mounts) = match staging {
            Some(Staging { tree, mounts, .. }) => (Arc::clone(tree), std::mem::take(mounts)),
            None => match open_directory(self.stage, TREE) {
                Ok(tree) => (Arc::new(tree), Mounts::default()),
                // All of it was published and recorded before the run before this one was killed.
                Err(Errno::NOENT) => return Ok(Published::default()),
                Err(error) => return Err(error).context("open directory", self.tree_path().as_path()),
            },
        };
        let naming = self.naming(self.volume.kind()?);
        // The seal is made: not even `--strict` refuses any more.
        let losses = Losses::new(false, naming.clone());
        let rules = WalkRules {
            path: self.volume.path(),
            existing: self.config.existing,
            below: &self.below,
            is_mount: false,
            purpose: Purpose::Publish,
            losses: is_earlier.then_some(&losses),
            progress: self.progress,
            repair: self.repair,
        };
        let mut published = publish::publish(
            tree.as_fd(),
            self.volume.root(),
            rules,
            self.config.sentinel.as_deref(),
            go_on,
            |crossings, published| self.fill_mounts(mounts, crossings, &losses, published, go_on),
        )?;
        published.lost += losses.lost();
        if let Some(root) = &sealed.root {
            go_on()?;
            let one_user = owner::of_everything(self.stage, self.config.owner);
            let fidelity = Fidelity::new(Losses::new(self.config.strict, naming), one_user);
            root::finish_root(self.volume, root, &fidelity)?;
            published.lost += fidelity.lost();
        }
        Ok(published)
    }

    /// Makes the stage ready: keeps what an earlier run left where that can be trusted, and begins
    /// again where it cannot.
    fn prepare(
        &self,
        kind: FileSystem,
        fingerprint: &str,
        after: Option<&Public>,
        is_empty: bool,
        inherited: &mut Inheritance,
    ) -> Result<(Staged, PrivateDirectory)> {
        // A record that cannot be read says nothing that could be trusted.
        let earlier = if self.begun { Staged::read(self.stage) } else { None };
        let generation = after.map(|record| record.generation.saturating_add(1));
        let generation = generation.or(earlier.as_ref().map(|earlier| earlier.generation)).unwrap_or(1);
        let new = Staged::new(generation, fingerprint.to_owned(), is_empty, self.volume.mount());
        let distrusted = match &earlier {
            _ if !self.config.times => Some("without times a whole file cannot be told"),
            Some(earlier) => earlier.distrusted_by(&new, kept(kind)),
            None => Some("it does not say what it is"),
        };
        let distrusted = distrusted
            .or_else(|| earlier.as_ref().and_then(|_| self.inherited_otherwise(self.stage, inherited)));
        if let (Some(reason), true) = (distrusted, self.begun) {
            if earlier.is_some() {
                tracing::info!(reason, "not resuming what an earlier run staged");
            }
            volume::remove_directory(self.stage, TREE.as_bytes(), REMOVERS, &|| self.progress.touch())
                .context("remove", self.tree_path().as_path())?;
        }
        if self.begun {
            new.write(self.stage, &self.stage_path)?;
        }
        let tree = inherited
            .make((self.stage, TREE.as_bytes()), self.volume.root())
            .context("create directory", self.tree_path().as_path())?;
        Ok((new, tree))
    }

    /// The tree of an earlier holder's stage, where its files can be trusted.
    fn trusted_tree(
        &self,
        remains: BorrowedFd<'_>,
        new: &Staged,
        kind: FileSystem,
        inherited: &Inheritance,
    ) -> Option<OwnedFd> {
        let earlier = Staged::read(remains)?;
        let trusted = self.config.times
            && earlier.distrusted_by(new, kept(kind)).is_none()
            && self.inherited_otherwise(remains, inherited).is_none();
        if trusted { open_directory(remains, TREE).ok() } else { None }
    }

    fn tree(
        &self,
        root: OwnedFd,
        naming: Naming,
        resumed: bool,
        crew: Parallelism,
        source: &SourceContent,
    ) -> Result<Tree> {
        let stage = short_stat(self.stage).context("stat", self.stage_path.as_path())?;
        // Where our own stage is not ours, a server decides about owners, and not by who creates.
        let ours = stage.uid == user::uid();
        let owners = crew.as_owner && ours && owner::is_possible();
        let means = TreeOptions { resumed, owners, open_directories: crew.open_directories };
        let owner = match (self.config.owner, source) {
            (Some(owner), _) => Some(owner),
            (None, SourceContent::Directory(root)) => {
                let root = fs::fstat(root).context("stat", self.config.from.as_path())?;
                Some((root.st_uid, root.st_gid))
            }
            (None, SourceContent::File(..) | SourceContent::Stdin) => None,
        };
        Tree::new(root, naming, means, owner)
    }

    fn naming(&self, kind: FileSystem) -> Naming {
        Naming::new(self.volume.path(), kind).below(&self.below)
    }

    fn tree_path(&self) -> PathBuf {
        self.stage_path.join(TREE)
    }
}

/// What of a manifest the volume does not have.
fn unkept(lost: &Lost, config: &VolumeConfig, one_user: Option<Owner>) -> Unkept {
    let is_lost = |loss| lost.count(loss) > 0;
    Unkept {
        owners: one_user.is_some() || is_lost(Loss::Owner),
        modes: is_lost(Loss::Mode),
        times: !config.times || is_lost(Loss::Time),
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(parent, name.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// The process's file mode creation mask, cleared while files are made with the modes that they
/// need, and put back for the app.
struct Umask(Mode);

impl Umask {
    fn cleared() -> Umask {
        Umask(rustix::process::umask(Mode::empty()))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}
