//! Seeding one volume: the source goes to the stage, the stage is made durable and sealed, and what
//! is sealed is published.
//!
//! Works below descriptors that it is handed; who may do so, and when, is decided elsewhere. Nothing
//! outside the stage is touched before the seal.

pub(crate) mod engine;
pub(crate) mod publish;
pub(crate) mod source;
pub(crate) mod stage;

use crate::seed::engine::pipeline;
use crate::seed::engine::workers;
use crate::seed::publish::root;
use crate::seed::source::archive;
use crate::seed::source::decompress;
use crate::seed::source::directory;
use crate::seed::source::slab;
use crate::seed::stage::case;
use crate::seed::stage::durable;
use crate::seed::stage::owner;
use crate::seed::stage::sentinel;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::cli::config::VolumeConfig;
use crate::error::{Context, Result, printable};
use crate::progress::{Phase, Progress, seconds};
use crate::volume;
use crate::volume::records;
use crate::volume::records::{Durability, Name, Public, Sealed, Staged, TREE};
use crate::volume::{FileSystem, PrivateDirectory, Storage, Volume, openat, remove_tree};
use engine::pipeline::Budget;
use engine::workers::Parallelism;
pub(crate) use publish::Published;
use publish::mounts::Mounts;
pub(crate) use source::Source;
pub(crate) use source::directory::Wanted;
use source::entry::{Meta, Naming};
use source::exclude::Excluding;
use source::links::Links;
pub(crate) use source::lookup::archived_file;
use source::members::Stream;
use source::{SourceContent, Stdin, stdin_is_silent};
use stage::common::{Purpose, WalkRules};
pub(crate) use stage::durable::Synced;
use stage::inheritance::Inheritance;
use stage::losses::Losses;
pub(crate) use stage::losses::Lost;
use stage::metadata::Fidelity;
use stage::overrides::Overrides;
use stage::space::Space;
use stage::tree::{Tree, TreeOptions};
use stage::writer::Shared;

/// How many calls are in flight while a stage is removed that cannot be used.
const REMOVERS: usize = 16;

/// When a file that is staged on such a file system, and has its time, is sure to be kept.
fn kept(kind: FileSystem) -> Durability {
    match (kind.place, kind.name) {
        // Their clients write a file back before `close` returns (nfs(5), mount.cifs(8)).
        (_, "nfs" | "cifs") => Durability::ByServer,
        // FUSE: its daemon took the data when the file was closed, and may not have written it further.
        (Storage::Memory, _) | (_, "fuse") => Durability::WhileUp,
        _ => Durability::BySync,
    }
}

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
    pub only: Option<Wanted<'a>>,
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

/// What staging did, for the report.
#[derive(Debug)]
pub(crate) struct Staging {
    /// What was staged.
    pub sealed: Sealed,
    /// The record of its stage, not sealed yet.
    staged: Staged,
    /// When what is staged is sure to be kept.
    kept: Durability,
    /// Files that an earlier run had finished.
    pub reused: u64,
    /// Writers at work.
    pub writers: usize,
    /// What the writers took together.
    pub busy: Duration,
    /// The part of it that files took.
    pub busy_with_files: Duration,
    /// Creations that could only happen one after the other: the longest chain of them.
    pub longest_chain: u64,
    /// Sockets and devices of the source, which are not copied.
    pub skipped: u64,
    /// Entries of the source that `--exclude` left out.
    pub excluded: u64,
    /// What the volume did not keep.
    pub lost: Lost,
    /// What is staged at mounts below the volume.
    mounts: Mounts,
    /// From the first look at the source to the last close.
    pub stage_time: Duration,
    /// The sync.
    pub sync_time: Duration,
}

impl Staging {
    /// Whether nothing but a sync says that what is staged is kept.
    pub(crate) fn is_kept_by_sync(&self) -> bool {
        self.kept == Durability::BySync
    }

    /// Makes what is staged durable. `root` is from before the first look at it.
    ///
    /// # Errors
    /// What the file system reports as lost.
    pub(crate) fn sync(&self, root: BorrowedFd<'_>, stage: BorrowedFd<'_>, path: &Path) -> Result<Synced> {
        durable::sync(root, stage, path, self.kept, self.writers)
    }

    /// Says in its stage that a sync is asked for, whose answer is not known; durable on return.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn mark_syncing(&self, stage: BorrowedFd<'_>, path: &Path) -> Result<()> {
        Staged { syncing: true, ..self.staged.clone() }.write(stage, path)
    }

    /// Writes down in its stage what it will be once it is sealed; durable on return.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub(crate) fn note(&self, stage: BorrowedFd<'_>, path: &Path) -> Result<()> {
        Staged { sealed: Some(self.sealed.clone()), ..self.staged.clone() }.write(stage, path)
    }
}

/// What a source says besides its entries.
struct Produced {
    root: Option<Meta>,
    skipped: u64,
    excluded: u64,
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
        after: Option<&Public>,
        remains: Option<BorrowedFd<'_>>,
    ) -> Result<Staging> {
        let began = Instant::now();
        let (kind, mut found) = self.volume.look()?;
        let _umask = Umask::cleared();
        let there = self.volume.names()?;
        let is_empty = self.volume.first_content(&there)?.is_none();
        let mut inherited = self.inherited(self.volume)?;
        let (staged, tree) = self.prepare(kind, &source.fingerprint, after, is_empty, &mut inherited)?;
        let overrides = Overrides::of(self.config, &inherited);
        let remains = remains.and_then(|remains| self.trusted_tree(remains, &staged, kind, &inherited));
        let naming = self.naming(kind);
        let fidelity = Fidelity::new(Losses::new(self.config.strict, naming.clone()));
        let names = || volume::names(tree.fd.as_fd()).context("read directory", self.tree_path().as_path());
        let resumed = !tree.is_new && !names()?.is_empty();
        let is_copied = matches!(source.content, SourceContent::Directory(_));
        let uses = 1 + u64::from(is_copied) + u64::from(remains.is_some());
        let crew = workers::crew(self.config.workers, kind, uses);
        let writers = crew.writers;
        self.progress.enter(Phase::Seeding);
        tracing::info!(
            volume = %self.volume.path().display(),
            source = %self.config.from.display(),
            filesystem = %kind,
            writers,
            resumed = resumed || remains.is_some(),
            epoch = self.epoch,
            "seeding"
        );
        if self.begun {
            // More is free now where an earlier stage was removed.
            found = self.volume.look()?.1;
        }
        let mut space = match resumed || remains.is_some() {
            true => Space::unknown(),
            false => Space::new(self.volume.path().to_owned(), kind, &found),
        };
        let tree = self.tree(tree.fd, naming, resumed, crew, &source.content)?.taking_from(remains);
        let work = self.run(&tree, source.content, overrides, &fidelity, crew, &mut space);
        if space.is_exceeded() {
            // The next run could not tell what of it is needed still.
            let _ = volume::remove_directory(self.stage, TREE.as_bytes(), REMOVERS);
        }
        let (produced, work, reused) = work?;
        tree.finish_root()?;
        let staged_root = tree.root_fd().as_fd();
        sentinel::ensure(staged_root, &self.tree_path(), self.config, overrides)?;
        // Before the seal: a later image that is without the conflict is then staged in its place.
        let mounts = match there.is_empty() {
            true => Mounts::default(),
            false => self.check(staged_root, fidelity.losses())?,
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
        let mut top = volume::names(staged_root).context("read directory", self.tree_path().as_path())?;
        top.sort();
        let sealed = Sealed {
            generation: staged.generation,
            version: self.config.seed_version.clone(),
            totals: work.totals,
            settings: records::Settings::default(),
            source: None,
            // All of them would make the record too large to be read.
            top: top.iter().take(records::TOP_LISTED).map(|name| Name::from(&**name)).collect(),
            root: self.root(produced.root, staged.empty, &inherited),
        };
        if let (true, Some(root)) = (self.config.strict, &sealed.root) {
            fidelity.check_root(self.volume.root(), root)?;
        }
        Ok(Staging {
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
        let tree = match open_directory(self.stage, TREE) {
            Ok(tree) => tree,
            // All of it was published and removed before the run before this one was killed.
            Err(Errno::NOENT) => return Ok(Published::default()),
            Err(error) => return Err(error).context("open directory", self.tree_path().as_path()),
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
            losses: staging.is_none().then_some(&losses),
        };
        let mounts = staging.map(|staging| std::mem::take(&mut staging.mounts)).unwrap_or_default();
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
            let fidelity = Fidelity::new(Losses::new(self.config.strict, naming));
            root::finish_root(self.volume, root, &fidelity)?;
            published.lost += fidelity.lost();
        }
        drop(tree);
        // As a rule it is empty now.
        if fs::unlinkat(self.stage, TREE, AtFlags::REMOVEDIR).is_err() {
            remove_tree(self.stage, TREE.as_bytes()).context("remove", self.tree_path().as_path())?;
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
            volume::remove_directory(self.stage, TREE.as_bytes(), REMOVERS)
                .context("remove", self.tree_path().as_path())?;
        }
        new.write(self.stage, &self.stage_path)?;
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
        let stage = fs::fstat(self.stage).context("stat", self.stage_path.as_path())?;
        // Where our own stage is not ours, a server decides about owners, and not by who creates.
        let ours = stage.st_uid == rustix::process::geteuid().as_raw();
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

    fn run(
        &self,
        tree: &Tree,
        source: SourceContent,
        overrides: Overrides<'_>,
        fidelity: &Fidelity,
        crew: Parallelism,
        space: &mut Space,
    ) -> Result<(Produced, pipeline::WorkDone, u64)> {
        let config = self.config;
        let budget = slab::MemoryShares::new(config.memory);
        let memory = if matches!(source, SourceContent::Directory(_)) { config.memory } else { budget.data };
        let limits = Budget { crew, memory, entries: config.max_entries };
        let ignores_case =
            case::ignores_case(self.stage, TREE.as_bytes()).context("stat", self.tree_path().as_path())?;
        let shared = Shared {
            tree,
            source: match &source {
                SourceContent::Directory(root) => Some(root.as_fd()),
                SourceContent::File(file, _) => Some(file.as_fd()),
                SourceContent::Stdin => None,
            },
            source_path: config.from.clone(),
            fidelity,
            progress: self.progress,
            cancel: &self.cancel,
            reused: AtomicU64::new(0),
            direct: crew.direct,
            // Without it a name would open what has another spelling of it.
            exclusive: crew.exclusive || ignores_case,
            flush: crew.flush,
            times: config.times,
            stage: self.stage,
            ignores_case,
        };
        let mut produced = Produced { root: None, skipped: 0, excluded: 0 };
        let mut excluding = Excluding::new(&config.exclude);
        let work = pipeline::run(&shared, limits, space, |feed| {
            let pool = slab::Pool::new(budget);
            let excluding = &mut excluding;
            let mut archive =
                |tar: io::Result<Stream>, idle: &dyn Fn() -> bool, feed: &mut pipeline::Feed<'_>| {
                    let tar = tar.map_err(|error| archive::unreadable(&config.from, &error))?;
                    let links = Links::new(self.stage, self.stage_path.clone());
                    archive::produce(
                        tar,
                        &config.from,
                        (overrides, excluding),
                        (&pool, budget),
                        links,
                        idle,
                        feed,
                    )
                };
            let flowing = |bytes: Box<dyn Read>| {
                decompress::open(bytes, Arc::clone(self.progress)).map(Stream::Flowing)
            };
            match &source {
                SourceContent::Directory(root) => {
                    let volume = fs::fstat(self.volume.root()).context("stat", self.volume.path())?;
                    let stage = fs::fstat(self.stage).context("stat", self.stage_path.as_path())?;
                    let walked = directory::produce(
                        root,
                        &config.from,
                        &[volume, stage],
                        overrides,
                        excluding,
                        self.only,
                        feed,
                    )?;
                    (produced.root, produced.skipped) = (Some(walked.root), walked.skipped);
                }
                SourceContent::File(file, look) => {
                    let copy = file.try_clone().context("open source", config.from.as_path())?;
                    let tar = match look {
                        Some(look) => decompress::open_file(copy, look.size, Arc::clone(self.progress)),
                        None => flowing(Box::new(copy)),
                    };
                    produced.root = archive(tar, &|| false, feed)?;
                }
                SourceContent::Stdin => {
                    let tar = flowing(Box::new(Stdin { cancel: Arc::clone(&self.cancel) }));
                    produced.root = archive(tar, &stdin_is_silent, feed)?;
                }
            }
            Ok(())
        })?;
        if let SourceContent::File(file, Some(look)) = &source {
            look.check(file, &config.from)?;
        }
        if let SourceContent::Directory(root) = &source {
            // Kubelet replaces the directory of a ConfigMap, and what was gone before it was listed is not missed.
            if fs::fstat(root).context("stat", config.from.as_path())?.st_nlink == 0 {
                return Err(directory::removed(&config.from));
            }
        }
        produced.excluded = excluding.count;
        for pattern in excluding.without_effect() {
            tracing::warn!(
                pattern = printable(pattern.as_bytes()),
                "an --exclude that matches nothing in the source"
            );
        }
        Ok((produced, work, shared.reused.into_inner()))
    }

    fn naming(&self, kind: FileSystem) -> Naming {
        Naming::new(self.volume.path(), kind).below(&self.below)
    }

    fn tree_path(&self) -> PathBuf {
        self.stage_path.join(TREE)
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(parent, name.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// The process's file mode creation mask, cleared while files are made with the modes that they
/// has to have, and put back for the app.
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
