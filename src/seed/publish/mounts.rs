//! Mounts below the volume's root. They belong to the user: what the seed has below one and is missing there is
//! copied, through a stage of its own on that mount, and what may not be written is left out and told.
//!
//! The copy is made and synced before the seal, so that whatever that mount's file system refuses is refused while
//! another image can still take over; after the seal there are only renames. A run that resumes publishing makes the
//! copy again, of what is not there yet. From the seal on nothing here ends a seed: it is left out instead.

mod same;

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Published;
use super::root::{inherited, of_seed};
use crate::cli::config::VolumeConfig;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::seed::engine::job::WantedNames;
use crate::seed::engine::workers;
use crate::seed::manifest::write::ManifestWriter;
use crate::seed::publish;
use crate::seed::source::SourceContent;
use crate::seed::source::directory::Part;
use crate::seed::source::entry::{Meta, Time};
use crate::seed::stage::common::{
    CommonWalk, Crossing, Next, Pair, Purpose, WalkRules, full_path, join, look,
};
use crate::seed::stage::durable;
use crate::seed::stage::inheritance::Inheritance;
use crate::seed::stage::losses::{Loss, Losses, Lost};
use crate::seed::stage::metadata::Fidelity;
use crate::seed::stage::overrides::Overrides;
use crate::seed::stage::owner;
use crate::seed::stage::space::Space;
use crate::seed::{StageJob, TREE, kept, open_directory};
use crate::volume;
use crate::volume::records::Root;
use crate::volume::{
    NESTED, Ourselves, Privacy, Volume, Wall, is_nested, is_refusal, open_beneath, open_in_mount, openat,
    refuses_names, remove_tree,
};

/// Names that are kept of what is missing at a mount.
const MAX_NAMES: usize = 3;

/// What was found of the mounts below a volume, and staged for them.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    /// The mounts that were looked at: path, device and inode.
    looked_at: Vec<(Vec<u8>, u64, u64)>,
    prepared: Vec<Prepared>,
    /// Entries that stay as they are there.
    kept: u64,
    /// What was not kept there.
    pub(crate) lost: Lost,
}

/// What is ready to be published at one mount.
#[derive(Debug)]
struct Prepared {
    /// The mount's path in the seed.
    path: Vec<u8>,
    mounted: Volume,
    stage: Option<(OwnedFd, String)>,
    /// What its root becomes, where it was empty.
    root: Option<Root>,
    missing: Missing,
}

/// What the seed has for a mount and is not there.
#[derive(Debug, Default)]
struct Missing {
    count: u64,
    first: Vec<Vec<u8>>,
}

impl Missing {
    fn add(&mut self, path: Vec<u8>) {
        self.count += 1;
        if self.first.len() < MAX_NAMES {
            self.first.push(path);
        }
    }

    /// Counts all of it as left out.
    fn tell(&self, losses: &Losses) {
        for (number, path) in self.first.iter().enumerate() {
            let count = if number == 0 { self.count - (self.first.len() as u64 - 1) } else { 1 };
            losses.tell(Loss::LeftOut, path, count);
        }
    }
}

/// One mount that was looked through.
struct Surveyed {
    crossing: Crossing,
    mounted: Volume,
    is_empty: bool,
    missing: Missing,
}

impl StageJob<'_> {
    /// Looks at everything that the stage and the volume have in common, and stages what mounts lack. Nothing else
    /// is changed.
    ///
    /// # Errors
    /// Exit 78 on a conflict, 77 where this user may not write, and what staging at a mount says.
    /// What the volume keeps instead, and all at mounts, is said to be left out of the manifest.
    pub(crate) fn check(
        &self,
        staged: BorrowedFd<'_>,
        losses: &Losses,
        manifest: Option<&ManifestWriter>,
    ) -> Result<Mounts> {
        let leave_out = |path: &[u8]| manifest.map_or(Ok(()), |manifest| manifest.leave_out(path));
        let rules = WalkRules {
            path: self.volume.path(),
            existing: self.config.existing,
            below: &self.below,
            is_mount: false,
            purpose: Purpose::Check,
            losses: Some(losses),
            progress: self.progress,
            repair: self.repair,
        };
        let mut walk = CommonWalk::new(staged, self.volume.root(), rules)?;
        let mut crossings = Vec::new();
        while let Some(next) = walk.next()? {
            match next {
                Next::Directory(directory) => {
                    let kept = walk.look(&directory)?.kept;
                    kept.iter().try_for_each(|name| leave_out(&join(&directory.path, name)))?;
                }
                Next::Crossing(crossing) => {
                    leave_out(&crossing.path)?;
                    crossings.push(crossing);
                }
            }
        }
        self.stage_mounts(crossings, losses, Purpose::Check)
    }

    /// Stages what is missing at these mounts and those below them. After the seal an error leaves a mount out.
    fn stage_mounts(&self, crossings: Vec<Crossing>, losses: &Losses, purpose: Purpose) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        let (mut left, mut surveyed) = (crossings, Vec::new());
        while let Some(crossing) = left.pop() {
            let path = crossing.path.clone();
            let at = full_path(self.volume.path(), &path);
            let survey = || self.survey(crossing, &mut mounts, &mut left, losses, purpose);
            match self.progress.at(&at, survey) {
                Ok(found) => surveyed.push(found),
                Err(error) => self.leave_out(&path, &Missing::default(), error, losses, purpose)?,
            }
        }
        for found in surveyed {
            let (path, missing) = (found.crossing.path.clone(), &found.missing);
            let stage = || self.stage_mount(&found, losses, purpose, &mut mounts.lost);
            match self.progress.at(found.mounted.path(), stage) {
                Ok(None) => {}
                Ok(Some((stage, root))) => mounts.prepared.push(Prepared {
                    path,
                    mounted: found.mounted,
                    stage,
                    root,
                    missing: found.missing,
                }),
                Err(error) => {
                    if let Err(error) = self.leave_out(&path, missing, error, losses, purpose) {
                        mounts.discard();
                        return Err(error);
                    }
                }
            }
        }
        Ok(mounts)
    }

    /// Before the seal an error is one, unless it only says that this user may not write there.
    fn leave_out(
        &self,
        path: &[u8],
        missing: &Missing,
        error: Error,
        losses: &Losses,
        purpose: Purpose,
    ) -> Result<()> {
        let is_refused = error.errno().is_some_and(is_refusal) && !self.config.strict;
        if self.cancel.is_set() || purpose == Purpose::Check && !is_refused {
            return Err(error);
        }
        tracing::debug!(%error, "left out at a mount");
        if purpose == Purpose::Publish && !is_refused {
            let mount = full_path(self.volume.path(), path);
            tracing::warn!(mount = %mount.display(), %error, "left out what the seed has for a mount on the volume");
        }
        losses.tell(Loss::Mount, &join(&self.below, path), 1);
        missing.tell(losses);
        Ok(())
    }

    /// Looks through one mount; those in it come next.
    fn survey(
        &self,
        crossing: Crossing,
        mounts: &mut Mounts,
        left: &mut Vec<Crossing>,
        losses: &Losses,
        purpose: Purpose,
    ) -> Result<Surveyed> {
        let path = full_path(self.volume.path(), &crossing.path);
        let mounted =
            Volume::adopt(&path, crossing.mounted.try_clone().context("open volume", path.as_path())?);
        let found = fs::fstat(mounted.root()).context("stat", path.as_path())?;
        mounts.looked_at.push((crossing.path.clone(), found.st_dev, found.st_ino));
        remove_left_over(&mounted);
        let resumes = purpose == Purpose::Publish;
        let mut names = mounted.names()?;
        if resumes {
            names.retain(|name| !same::has_same_attrs(crossing.staged.as_fd(), mounted.root(), name));
        }
        let is_empty = mounted.first_content(&names)?.is_none();
        let below = join(&self.below, &crossing.path);
        let rules = WalkRules {
            path: &path,
            existing: self.config.existing,
            below: &below,
            is_mount: true,
            purpose,
            losses: Some(losses),
            progress: self.progress,
            repair: None,
        };
        let before = losses.lost().count(Loss::LeftOut);
        let mut walk = CommonWalk::new(crossing.staged.as_fd(), mounted.root(), rules)?;
        let mut missing = Missing::default();
        while let Some(next) = walk.next()? {
            match next {
                Next::Directory(directory) => {
                    let mut looked = walk.look(&directory)?;
                    mounts.kept += looked.kept.len() as u64;
                    if resumes {
                        same::drop_published(&directory.pair, &mut looked.moves);
                        publish::sync(&directory.pair, &path, &directory.path)?;
                    }
                    for (name, _) in looked.moves {
                        missing.add(join(&below, &join(&directory.path, &name)));
                    }
                }
                Next::Crossing(below) => {
                    left.push(Crossing { path: join(&crossing.path, &below.path), ..below });
                }
            }
        }
        if losses.lost().count(Loss::LeftOut) > before {
            losses.tell(Loss::Mount, &below, 1);
        }
        Ok(Surveyed { crossing, mounted, is_empty, missing })
    }

    /// Copies what is missing at a mount to a stage of its own there, durably. `None` where there is nothing to do.
    #[allow(clippy::type_complexity)]
    fn stage_mount(
        &self,
        found: &Surveyed,
        losses: &Losses,
        purpose: Purpose,
        lost: &mut Lost,
    ) -> Result<Option<(Option<(OwnedFd, String)>, Option<Root>)>> {
        let Surveyed { crossing, mounted, is_empty, missing } = found;
        let stat = fs::fstat(&crossing.staged).context("stat staged", mounted.path())?;
        let mut inherited = inherited(mounted, self.config)?;
        let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        let mtime = self.config.times.then(|| Time::of(&stat));
        let staged = Meta { mode, uid, gid, mtime, xattrs: None };
        let root = if *is_empty { of_seed(staged, &inherited) } else { None };
        if missing.count == 0 {
            let changes = root.is_some() && refuses_names(mounted.root()).is_none();
            return Ok(changes.then_some((None, root)));
        }
        let (stage, name) = match nested_stage(mounted) {
            Err(error) if self.config.strict && purpose == Purpose::Check => {
                let cause = error.errno().filter(|cause| is_refusal(*cause));
                let (Some(cause), Some(first)) = (cause, missing.first.first()) else { return Err(error) };
                losses.note(Loss::LeftOut, first, cause)?;
                return Err(error);
            }
            made => made?,
        };
        let copied = self.copy(found, (&stage, &name), &mut inherited, purpose);
        match copied {
            Ok(kept_out) => {
                *lost += kept_out;
                Ok(Some((Some((stage, name)), root)))
            }
            Err(error) => {
                let _ = remove_nested(mounted.root(), name.as_bytes(), stage.as_fd());
                Err(error)
            }
        }
    }

    /// It is a seed of its own, from the stage to the stage on that mount.
    fn copy(
        &self,
        found: &Surveyed,
        (stage, name): (&OwnedFd, &str),
        inherited: &mut Inheritance,
        purpose: Purpose,
    ) -> Result<Lost> {
        let Surveyed { crossing, mounted, .. } = found;
        let path = mounted.path();
        let stage_path = path.join(name);
        tracing::info!(mount = %path.display(), "copying to a mount point on the volume");
        let _umask = crate::seed::Umask::cleared();
        let config = VolumeConfig {
            to: path.to_owned(),
            owner: None,
            chmod: None,
            exclude: Vec::new(),
            sentinel: None,
            times: true,
            strict: self.config.strict && purpose == Purpose::Check,
            ..self.config.clone()
        };
        let below = join(&self.below, &crossing.path);
        let rules = WalkRules {
            path,
            existing: config.existing,
            below: &below,
            is_mount: true,
            purpose: Purpose::Copy,
            losses: None,
            progress: self.progress,
            repair: None,
        };
        let resumes = purpose == Purpose::Publish;
        let wanted = |path: &[u8]| wanted(&rules, crossing, path, resumes);
        let nested = StageJob {
            volume: mounted,
            stage: stage.as_fd(),
            stage_path,
            below: below.clone(),
            only: Some(Part { names: &wanted, has_ways: false }),
            is_part: false,
            repair: None,
            begun: false,
            epoch: self.epoch,
            config: &config,
            progress: self.progress,
            cancel: Arc::clone(&self.cancel),
        };
        let tree = inherited
            .make((stage.as_fd(), TREE.as_bytes()), mounted.root())
            .context("create directory", nested.stage_path.as_path())?
            .fd;
        let (kind, found) = mounted.look()?;
        let crew = workers::crew(config.workers, kind, 2);
        let source = SourceContent::Directory(crossing.staged.try_clone().context("open staged", path)?);
        let naming = nested.naming(kind);
        let tree = nested.tree(tree, naming.clone(), false, crew, &source)?;
        let one_user = owner::of_everything(stage.as_fd(), self.config.owner);
        let fidelity = Fidelity::new(Losses::new(config.strict, naming), one_user);
        let space = Space::new(path.to_owned(), kind, &found);
        let overrides = Overrides::of(&config, inherited);
        nested.run(&tree, source, overrides, &fidelity, crew, &space)?;
        drop(tree);
        durable::sync(mounted.root(), stage.as_fd(), path, kept(kind), crew.writers)?;
        Ok(fidelity.lost())
    }

    /// Moves what is staged for the mounts to its place. `crossings` are those that were met now: what was not
    /// looked at before the seal, or by a run that was killed, is staged first.
    ///
    /// # Errors
    /// Those of `go_on`; everything else leaves a mount out.
    pub(crate) fn fill_mounts(
        &self,
        mounts: Mounts,
        crossings: Vec<Crossing>,
        losses: &Losses,
        published: &mut Published,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let new = crossings.into_iter().filter(|crossing| !mounts.has(crossing)).collect();
        let later = self.stage_mounts(new, losses, Purpose::Publish)?;
        published.kept += mounts.kept + later.kept;
        published.lost += later.lost;
        for prepared in mounts.prepared.into_iter().chain(later.prepared) {
            go_on()?;
            let stopped = Cell::new(false);
            let go_on = || go_on().inspect_err(|_| stopped.set(true));
            let fill = || self.fill_mount(&prepared, losses, &go_on);
            match self.progress.at(prepared.mounted.path(), fill) {
                Ok(filled) => published.add(&prepared.path, filled),
                Err(error) if stopped.get() => return Err(error),
                Err(error) => {
                    self.leave_out(&prepared.path, &prepared.missing, error, losses, Purpose::Publish)?;
                }
            }
            prepared.discard();
        }
        Ok(())
    }

    fn fill_mount(
        &self,
        prepared: &Prepared,
        losses: &Losses,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Published> {
        let Prepared { path, mounted, stage, root, .. } = prepared;
        let below = join(&self.below, path);
        let mut published = Published::default();
        if let Some((stage, name)) = stage {
            let stage_path = mounted.path().join(name);
            let tree = open_directory(stage.as_fd(), TREE).context("open directory", stage_path.as_path())?;
            let rules = WalkRules {
                path: mounted.path(),
                existing: self.config.existing,
                below: &below,
                is_mount: true,
                purpose: Purpose::Publish,
                losses: Some(losses),
                progress: self.progress,
                repair: None,
            };
            published = publish::publish(tree.as_fd(), mounted.root(), rules, None, go_on, |_, _| Ok(()))?;
        }
        if let Some(root) = root {
            go_on()?;
            let naming = self.naming(mounted.kind()?).below(&below);
            let one_user = |(stage, _): &(OwnedFd, _)| owner::of_everything(stage.as_fd(), self.config.owner);
            let fidelity = Fidelity::new(Losses::new(false, naming), stage.as_ref().and_then(one_user));
            fidelity.finish_root(mounted.root(), root)?;
            published.lost += fidelity.lost();
        }
        Ok(published)
    }
}

impl Mounts {
    fn has(&self, crossing: &Crossing) -> bool {
        let Ok(found) = fs::fstat(&crossing.mounted) else { return false };
        self.looked_at.iter().any(|(path, device, inode)| {
            (path, device, inode) == (&crossing.path, &found.st_dev, &found.st_ino)
        })
    }

    fn discard(&self) {
        self.prepared.iter().for_each(Prepared::discard);
    }
}

impl Prepared {
    /// What cannot be removed now is removed by the next run that has something for this mount.
    fn discard(&self) {
        if let Some((stage, name)) = &self.stage
            && let Err(cause) = remove_nested(self.mounted.root(), name.as_bytes(), stage.as_fd())
        {
            tracing::warn!(path = %self.mounted.path().join(name).display(), %cause, "left a stage on a mount");
        }
    }
}

/// The names in the staged directory at `path` that are missing at a mount, and the directories that both have.
fn wanted(
    rules: &WalkRules<'_>,
    crossing: &Crossing,
    path: &[u8],
    resumes: bool,
) -> Result<Option<WantedNames>> {
    let here = if path.is_empty() { &b"."[..] } else { path };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let to = match open_in_mount(crossing.mounted.as_fd(), here, flags) {
        Ok(to) => to,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        // Another mount, or a directory that lets us in nowhere.
        Err(_) => return Ok(Some(WantedNames::default())),
    };
    let from = open_beneath(crossing.staged.as_fd(), here, flags, Mode::empty())
        .context("open staged", || full_path(rules.path, path))?;
    let pair = Pair { from, to };
    let mut looked = look(rules, path, &pair)?;
    if resumes {
        same::drop_published(&pair, &mut looked.moves);
    }
    let names: HashSet<_> = looked.moves.into_iter().map(|(name, _)| name).chain(looked.common).collect();
    Ok(Some(names.into()))
}

/// Removes what killed runs left in the root of a mount.
fn remove_left_over(mounted: &Volume) {
    let (root, ourselves) = (mounted.root(), Ourselves::new());
    let Ok(names) = volume::names(root) else { return };
    for name in names.iter().filter(|name| is_nested(name)) {
        let Ok(left) = openat(root, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()) else {
            continue;
        };
        if ourselves.privacy(left.as_fd(), Wall::Closed) == Ok(Privacy::Private)
            && let Err(cause) = remove_nested(root, name, left.as_fd())
        {
            tracing::debug!(mount = %mounted.path().display(), %cause, "left a stage of an earlier run");
        }
    }
}

/// A stage of our own in the root of a mount below the volume, which may be another user's and have a `.volseed`
/// of its own.
fn nested_stage(mounted: &Volume) -> Result<(OwnedFd, String)> {
    let (root, path, ourselves) = (mounted.root(), mounted.path(), Ourselves::new());
    let name = format!("{NESTED}{:016x}", volume::random());
    let made = volume::make_private(root, name.as_bytes()).context("create directory in", path)?;
    let fd = made.fd.as_fd();
    let closed = ourselves.close(fd, Wall::Closed).and_then(|_| ourselves.privacy(fd, Wall::Closed));
    match closed.context("stat", path.join(&name).as_path())? {
        Privacy::Private if made.is_new => Ok((made.fd, name)),
        _ => Err(Error::new(Exit::Refused, "create stage", "another user has put something in its place")
            .on(path.join(&name).as_path())
            .help("start again; who may write in this mount must let it be")),
    }
}

/// Through its descriptor: by its name somebody may have put another directory there.
fn remove_nested(root: BorrowedFd<'_>, name: &[u8], stage: BorrowedFd<'_>) -> rustix::io::Result<()> {
    remove_tree(stage, TREE.as_bytes())?;
    match fs::unlinkat(root, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(error),
    }
}
