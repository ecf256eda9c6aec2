//! An upgrade of one volume: whether there is one, what it stages, and what is done after the seal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, PoisonError};

use super::floors::Began;
use super::gate::{ImageVersion, Next, Sentinel, Verdict, VolumeVersion, gate};
use super::work::{Heartbeat, Input, StagedTree, VolumeWork};
use super::{adoption, settings};
use crate::claims::store::{Claim, STAGE};
use crate::cli::config::VolumeConfig;
use crate::error::{Context, Error, Quoted, Result, printable};
use crate::exit::Exit;
use crate::seed::engine::workers;
use crate::seed::manifest::read::{Lookup, Manifest, PART};
use crate::seed::manifest::verify::{has_file, unreadable};
use crate::seed::manifest::wants::Wants;
use crate::seed::manifest::write::leave_out;
use crate::seed::upgrade::apply::{self, Upgraded};
use crate::seed::upgrade::check::{Plan, Step};
use crate::seed::upgrade::matrix::Why;
use crate::seed::upgrade::{Rules, Upgrade};
use crate::seed::{Part, RootLook, Source, SourceListing, StageJob};
use crate::text::Untrusted;
use crate::volume::records::{
    ASIDE, Complete, ManifestRef, Name, Public, Sealed, TOP_LISTED, TREE, UpgradeSeal,
};
use crate::volume::{Storage, Volume, make_private, remove_directory, stat_entry, user};

/// How many entries a log names one by one.
const MAX_NAMED: usize = 20;
/// How many earlier versions a record lists.
const MAX_BEFORE: usize = 16;

/// All that is known before anything is staged.
pub(super) struct Prepared {
    pub(super) old: Option<Manifest>,
    pub(super) new: Manifest,
    pub(super) listing: SourceListing,
    pub(super) rules: Rules,
    pub(super) plan: Plan,
}

/// What an upgrade was, for the report.
#[derive(Debug)]
pub(super) struct UpgradeDone {
    pub(super) upgraded: Upgraded,
    pub(super) from: Option<Untrusted>,
}

/// What the image does with a volume of this record, by the versions of both.
///
/// # Errors
/// When the sentinel has to be read and cannot be.
pub(super) fn verdict(
    config: &VolumeConfig,
    volume: &Volume,
    state: BorrowedFd<'_>,
    (public, record): (&Public, &Complete),
) -> Result<Verdict> {
    let before: Vec<&str> = record.before.iter().map(Untrusted::raw).collect();
    let version = record.version.as_ref().map(Untrusted::raw);
    let there = VolumeVersion { version, before: &before, pending: !public.is_complete() };
    let image = ImageVersion {
        version: config.seed_version.as_deref(),
        upgrades: &config.upgrade.from,
        rollback_from: config.upgrade.rollback_from.as_deref(),
    };
    gate(there, image, || sentinel(config, volume, state, record))
}

/// Whose the volume's sentinel is: an app that updates itself changes the file that names its version.
fn sentinel(
    config: &VolumeConfig,
    volume: &Volume,
    state: BorrowedFd<'_>,
    record: &Complete,
) -> Result<Sentinel> {
    let Some(path) = &config.sentinel else { return Ok(Sentinel::Unknown) };
    let Ok(old) = Manifest::open(state, record) else { return Ok(Sentinel::Unknown) };
    let Some(is_old) = has_file(volume, &old, path)? else { return Ok(Sentinel::Unknown) };
    let is_known = is_old || adoption::has_same_sentinel(config, volume);
    Ok(if is_known { Sentinel::OfASeed } else { Sentinel::Changed })
}

/// Lists the source in the directory of `site`, and looks at what follows on the volume of `record`. Changes nothing
/// on it.
///
/// # Errors
/// When something cannot be read.
pub(super) fn prepare(
    config: &VolumeConfig,
    site: &StageJob<'_>,
    source: Source,
    state: BorrowedFd<'_>,
    record: &Complete,
) -> Result<Prepared> {
    let refused = |cause: String| Error::new(Exit::Refused, "upgrade volume", cause).on(site.volume.path());
    let listing = site.list(source)?;
    // After that, which takes memory of its own.
    let open = || Manifest::open(state, record);
    // Without it nothing is removed: not for an error of one moment.
    let old = match open().or_else(|_| open()) {
        Ok(old) => Some(old),
        Err(cause) => {
            tracing::warn!(volume = %site.volume.path().display(), cause, "what was seeded is not known: whatever differs from the image counts as changed by the user, and nothing is removed");
            None
        }
    };
    let new = Manifest::read(site.stage, ManifestRef::STAGED, &listing.manifest).map_err(refused)?;
    let threads = workers::crew(config.workers, site.volume.kind()?, 1).writers;
    let mut rules = Rules {
        keep: config.upgrade.keep.clone(),
        protect: config.upgrade.protect.clone(),
        held: Vec::new(),
        sentinel: config.sentinel.as_ref().map(|path| path.as_os_str().as_bytes().into()),
    };
    rules.hold(site.volume, old.as_ref(), &new, threads)?;
    let upgrade = Upgrade { volume: site.volume, old: old.as_ref(), new: &new, rules: &rules };
    let plan = upgrade.check(threads)?;
    Ok(Prepared { old, new, listing, rules, plan })
}

impl Prepared {
    /// Whether it may be done.
    ///
    /// # Errors
    /// Exit 78 where it would remove too much, or `--strict` meets a conflict.
    pub(super) fn check(&self, config: &VolumeConfig) -> Result<()> {
        let refused =
            |cause: String| Error::new(Exit::Refused, "upgrade volume", cause).on(config.to.as_path());
        let removed = self.plan.count(|step| step == Step::Remove);
        let files = self.old.as_ref().map_or(Ok(0), |old| old.count(b""));
        let files = files.map_err(|error| Error::os("read", "manifest", error))?;
        let most = u64::from(config.upgrade.max_delete);
        if removed * 100 > files * most {
            let cause = format!(
                "it would remove {removed} of {files} files of the old seed, more than --max-delete {most} percent"
            );
            return Err(refused(cause).help(
                "look at volseed plan: the image may hold half a seed; if it is right, allow a higher --max-delete",
            ));
        }
        let is_conflict = |step: &Step| matches!(step, Step::Stay(Why::Conflict, true));
        let conflict = self.plan.steps.iter().find(|(_, step)| is_conflict(step));
        match conflict.filter(|_| config.strict) {
            Some((path, _)) => {
                let cause = format!("{} is of another type on the volume than in the seed", path.quoted());
                Err(refused(cause).help("move it away, or leave out --strict: then it stays as it is"))
            }
            None => Ok(()),
        }
    }

    /// What has to be staged.
    fn wants(&self) -> Result<Wants> {
        let mut wants = Wants::default();
        for (path, step) in &self.plan.steps {
            match step {
                Step::Add | Step::AddTree | Step::Replace | Step::ReplaceAndSave | Step::Stay(_, true) => {
                    match self.new.directory(path) {
                        Some(_) => wants.add_whole(path),
                        None => wants.add(path),
                    }
                }
                Step::Remove
                | Step::RemoveDirectory
                | Step::SetAttrs
                | Step::Stay(_, false)
                | Step::LeftOut(_) => {}
            }
        }
        wants.add_first_names(&self.new)?;
        Ok(wants)
    }

    /// The additions that a user's own stand in the place of: a later upgrade must not take those for the seed's.
    fn left_out(&self) -> Result<Vec<&[u8]>> {
        let mut old = self.old.as_ref().map(Lookup::of);
        let mut left_out = Vec::new();
        for (path, _) in self.plan.steps.iter().filter(|(_, step)| matches!(step, Step::Stay(..))) {
            let seeded = old.as_mut().map(|old| old.entry(path)).transpose();
            if seeded.map_err(|error| Error::os("read", "manifest", error))?.flatten().is_none() {
                left_out.push(&**path);
            }
        }
        Ok(left_out)
    }

    /// The names in the new seed's root.
    fn top(&self) -> Result<Vec<Name>> {
        // The first names, if there are several ranges: more than are listed.
        let range = &self.new.ranges(b"", PART)[0];
        let entries = self.new.entries(b"", range).map_err(unreadable)?;
        let directories = self.new.directory(b"").map(|root| &root.directories[..]).unwrap_or_default();
        let mut top: Vec<&[u8]> = entries.keys().chain(directories).map(|name| &**name).collect();
        top.sort_unstable();
        Ok(top.into_iter().take(TOP_LISTED).map(Name::from).collect())
    }
}

impl VolumeWork<'_> {
    /// What is next for the volume of `record`. Asked again for the same record it remembers.
    ///
    /// # Errors
    /// Exit 78 where the volume is at a version that the image does not upgrade.
    pub(super) fn next(&self, record: &Public) -> Result<Next> {
        let (options, version) = (&self.config.upgrade, self.config.seed_version.as_deref());
        if record.is_at(version) && !record.is_complete() {
            return Ok(if self.config.hook.is_some() { Next::Hook } else { Next::Wait });
        }
        if !options.is_asked() || record.is_at(version) {
            return Ok(if record.is_complete() { Next::Start } else { Next::Wait });
        }
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, next)) = &*judged
            && known.renews(record)
            && known.state == record.state
        {
            return Ok(*next);
        }
        let next = self.judge(record)?;
        *judged = Some((record.clone(), next));
        Ok(next)
    }

    fn judge(&self, record: &Public) -> Result<Next> {
        let volume = self.volume.path().display();
        let directory = self.volume.open_state()?;
        let complete = match self.read_record(directory.as_fd(), record) {
            Err(error) if error.exit_code() == Exit::Permission && !user::is_root() => {
                return Ok(match (record.is_complete(), self.only_waits) {
                    (false, _) => Next::Wait,
                    (true, true) => Next::Change,
                    (true, false) => {
                        tracing::warn!(%volume, "not upgraded: only the owner of .volseed can (often root)");
                        Next::Start
                    }
                });
            }
            complete => complete?,
        };
        match verdict(self.config, self.volume, directory.as_fd(), (record, &complete))? {
            Verdict::Upgrade | Verdict::Rollback => Ok(Next::Change),
            Verdict::Same | Verdict::Newer | Verdict::NotAsked => Ok(Next::Start),
            Verdict::Hook | Verdict::WaitForHook => Ok(Next::Wait),
            Verdict::SelfUpdated => {
                tracing::warn!(%volume, "not upgraded: the app has updated itself, since its sentinel is neither the old seed's nor the image's");
                Ok(Next::Start)
            }
            Verdict::NotFrom => Err(not_from(self.config, &complete)),
        }
    }

    /// Stages what an upgrade of the complete volume of `record` needs; nothing where there is none any more.
    ///
    /// # Errors
    /// Exit 78 where it is refused; what staging says.
    pub(super) fn stage_difference(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        input: Input,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<Option<StagedTree>> {
        if self.next(record)? != Next::Change {
            return Ok(None);
        }
        let complete = self.complete_record(claim, record)?;
        let began = Began::now(self.volume.root(), None);
        let (stage, path) = self.make_stage(claim)?;
        make_private(stage.as_fd(), ASIDE.as_bytes()).context("create directory", path.as_path())?;
        let site = self.site(claim, STAGE, &stage, heartbeat.stop());
        let first = input.source;
        let mut second = self.progress.reading(|| Source::open(self.config, self.volume))?;
        if first.fingerprint() != second.fingerprint() {
            return Err(Error::new(Exit::Io, "upgrade volume", "the source changed meanwhile")
                .on(self.config.from.as_path())
                .help("nothing was changed; start again"));
        }
        let prepared =
            self.progress.reading(|| prepare(self.config, &site, first, claim.state.as_fd(), &complete))?;
        prepared.check(self.config)?;
        let wants = prepared.wants()?;
        let wanted = |path: &[u8]| Ok(wants.of(path));
        // A difference is worth nothing against another seed, nor to who would seed.
        second.fingerprint.insert_str(0, &format!("upgrade of {}, ", complete.generation));
        let part = StageJob {
            is_part: true,
            only: Some(Part { names: &wanted, has_ways: true }),
            ..self.site(claim, STAGE, &stage, heartbeat.stop())
        };
        let look = RootLook::at(self.volume, self.config)?;
        let mut staging = part.stage(second, look, Some(record), None)?;
        let refused = |cause: String| Error::new(Exit::Io, "upgrade volume", cause).on(self.volume.path());
        let named = staging.sealed.manifest.take().expect("a part is listed");
        let staged = Manifest::read(stage.as_fd(), ManifestRef::PART, &named).map_err(refused)?;
        check_unchanged(wants.first_other(&prepared.new, &staged)?, self.volume)?;
        let unkept = prepared.old.as_ref().map_or(named.unkept, |old| old.unkept);
        let manifest = ManifestRef { unkept, ..prepared.listing.manifest.clone() };
        let at = (stage.as_fd(), path.as_path());
        let left_out = prepared.left_out()?;
        let manifest = leave_out(at, ManifestRef::STAGED, &manifest, left_out.into_iter())?;
        staging.sealed = Sealed {
            settings: settings::of(self.config),
            source: Some(Name::from(self.config.from.as_os_str().as_bytes())),
            manifest: Some(manifest),
            totals: prepared.listing.totals,
            top: prepared.top()?,
            upgrade: Some(self.seal(&complete, &prepared.rules).into()),
            ..staging.sealed
        };
        Ok(Some(StagedTree { stage, staging, began, repairs: None }))
    }

    /// What the replica that finishes it has to know.
    fn seal(&self, complete: &Complete, rules: &Rules) -> UpgradeSeal {
        let ours = self.config.seed_version.as_deref();
        let before = complete.version.iter().chain(&complete.before);
        // Taken back, the volume was never at what came after.
        let before: Vec<Untrusted> = match complete.before.iter().position(|it| Some(it.raw()) == ours) {
            Some(at) => complete.before[at + 1..].to_vec(),
            None => before.take(MAX_BEFORE).cloned().collect(),
        };
        let texts = |patterns: &[crate::cli::values::Exclude]| {
            patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
        };
        UpgradeSeal {
            generation: complete.generation,
            manifest: complete.manifest.clone(),
            from: complete.version.clone(),
            before,
            top: complete.top.clone(),
            keep: texts(&rules.keep),
            protect: texts(&rules.protect),
            held: rules.held.iter().map(|path| Name::from(&**path)).collect(),
            sentinel: rules.sentinel.as_ref().map(|path| Name::from(&**path)),
        }
    }

    /// Carries out what is sealed, by this replica or by another.
    ///
    /// # Errors
    /// That of the heartbeat, and what the file system says.
    pub(super) fn publish_difference(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        stage: &OwnedFd,
        sealed: &Sealed,
        seal: &UpgradeSeal,
        heartbeat: &Heartbeat,
    ) -> Result<Upgraded> {
        self.progress.enter(crate::progress::Phase::Publishing);
        // All of it was carried out by a run that was killed before its record.
        if stat_entry(stage.as_fd(), TREE.as_bytes()).context("stat", TREE)?.is_none() {
            return Ok(Upgraded::default());
        }
        let refused =
            |cause: String| Error::new(Exit::Refused, "upgrade volume", cause).on(self.volume.path());
        let state = claim.state.as_fd();
        let old = seal.manifest.as_ref().and_then(|named| {
            let read = || Manifest::read(state, &ManifestRef::name(seal.generation), named);
            read().or_else(|_| read()).inspect_err(|cause| {
                tracing::warn!(volume = %self.volume.path().display(), cause, "the old seed is not known any more: whatever differs from the new one is kept, and nothing is removed");
            })
            .ok()
        });
        let named = sealed.manifest.as_ref().ok_or_else(|| refused("its seal names no manifest".into()))?;
        // A holder that was fenced, and believed that all was done, may have given it its place.
        let staged = Manifest::read(stage.as_fd(), ManifestRef::STAGED, named);
        let placed = || Manifest::read(state, &ManifestRef::name(sealed.generation), named);
        let new = staged.or_else(|_| placed()).map_err(refused)?.of_all();
        let patterns = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let rules = Rules {
            keep: patterns(&seal.keep),
            protect: patterns(&seal.protect),
            held: seal.held.iter().map(|path| path.as_bytes().into()).collect(),
            sentinel: seal.sentinel.as_ref().map(|path| path.as_bytes().into()),
        };
        let kind = self.volume.kind()?;
        let threads = workers::crew(self.config.workers, kind, 1).writers;
        let upgrade = Upgrade { volume: self.volume, old: old.as_ref(), new: &new, rules: &rules };
        let go_on = || self.may_move(heartbeat);
        let site = apply::Site {
            stage: stage.as_fd(),
            state: (state, self.volume.state().path.as_path()),
            generation: sealed.generation,
            epoch: claim.epoch,
            is_remote: matches!(kind.place, Storage::Network | Storage::Unknown),
            go_on: &go_on,
        };
        let upgraded = apply::apply(upgrade, &site, threads)?;
        let touch = || self.progress.touch();
        remove_directory(stage.as_fd(), TREE.as_bytes(), threads, &touch).context("remove", TREE)?;
        Ok(upgraded)
    }
}

impl UpgradeDone {
    /// Says what was done: what matters to somebody in a line each, and all of it in one.
    pub(super) fn report(&self, config: &VolumeConfig, record: &Complete) {
        let Upgraded { added, replaced, removed, saved, offered, stayed, left_out, old, new } =
            &self.upgraded;
        for path in saved.iter().take(MAX_NAMED) {
            tracing::info!(path = printable(path), "replaced what the user had changed, and kept that");
        }
        for (path, why) in offered.iter().take(MAX_NAMED) {
            tracing::info!(
                path = printable(path),
                why = why.text(),
                "left as it is, and the image's laid beside"
            );
        }
        for (path, why) in left_out.iter().take(MAX_NAMED) {
            tracing::warn!(
                path = printable(path),
                why = why.text(),
                "left out of the upgrade, with all below it"
            );
        }
        let shown = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        tracing::info!(
            volume = %config.to.display(),
            from = self.from.as_ref().map(ToString::to_string),
            to = record.version.as_ref().map(ToString::to_string),
            generation = record.generation,
            added,
            replaced,
            removed,
            saved = saved.len(),
            offered = offered.len(),
            stayed,
            left_out = left_out.len(),
            old = shown(old),
            new = shown(new),
            "upgraded"
        );
    }
}

/// What was staged is as the source was listed before, unless there is a `first_other`.
///
/// # Errors
/// Exit 74 where it is not.
pub(super) fn check_unchanged(first_other: Option<Vec<u8>>, volume: &Volume) -> Result<()> {
    let Some(path) = first_other else { return Ok(()) };
    let cause = format!("the source changed while it was read: {}", path.as_slice().quoted());
    let error = Error::new(Exit::Io, "stage", cause).on(volume.path());
    Err(error.help("nothing was changed; start again"))
}

/// The error for a volume at a version that this image does not upgrade.
pub(super) fn not_from(config: &VolumeConfig, record: &Complete) -> Error {
    let there = record.version.as_ref().map_or_else(|| "an unknown version".to_owned(), ToString::to_string);
    let from: Vec<String> = config.upgrade.from.iter().map(ToString::to_string).collect();
    let version = config.seed_version.as_deref().unwrap_or_default();
    let cause = format!("it is at {there}, and {version} upgrades only {}", from.join(", "));
    let help = match &record.version {
        Some(_) => "upgrade it to one of these with an image of that version first",
        None => {
            "add none to --upgrade: it stands for a volume that was adopted, or seeded without --seed-version"
        }
    };
    Error::new(Exit::Refused, "upgrade volume", cause).on(config.to.as_path()).help(help)
}
