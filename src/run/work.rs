//! What a replica does to a real volume, step by step.
//!
//! In which order, and what follows when another replica takes over, is [`super::protocol`]'s.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::floors::{Began, Requests};
use super::gate::Next;
use super::repair::Repairs;
use super::steps::{Event, Whole, Work};
use super::upgrade::UpgradeDone;
use super::{emptied, events, report, settings};
use crate::cancel::Cancel;
use crate::claims::Me;
use crate::claims::beat::{Beat, Holder};
use crate::claims::disk::{BootClock, Disk, boot_time};
use crate::claims::heartbeat::{self, Pulse};
use crate::claims::io::block_on;
use crate::claims::store::{CLAIMS, Claim, PUBLISHING, REMAINS, STAGE};
use crate::cli::config::VolumeConfig;
use crate::cli::values::Existing;
use crate::error::{Context, Error, Result, lowercase_first};
use crate::exit::Exit;
use crate::progress::{Phase, Progress, seconds};
use crate::seed::source::Source;
use crate::seed::stage::durable::Synced;
use crate::seed::{self, Published, RootLook, StageJob, Staging};
use crate::system::nfs;
use crate::volume::records::{Complete, DIRECTORY, Name, Public, Sealed};
use crate::volume::user::spelled;
use crate::volume::{
    Ourselves, Volume, beside, check_renames, make_private, openat, refuses_names, remove_directory,
};

/// How often a holder whose heart does not beat looks whether it does again.
const STANDSTILL: Duration = Duration::from_millis(100);

/// The heartbeat of a claim, on a thread of its own.
pub(super) struct Heartbeat {
    pulse: Arc<Pulse>,
    /// Ends it.
    enough: Arc<Cancel>,
    /// Set once the claim is lost, or all is to end: what is staged from then on is for nobody.
    stop: Arc<Cancel>,
    thread: std::thread::JoinHandle<()>,
}

/// A tree that is staged, and what the mount's counters said before.
pub(super) struct StagedTree {
    /// The directory that it is in, whatever that is called.
    pub(super) stage: OwnedFd,
    pub(super) staging: Staging,
    pub(super) began: Option<Began>,
    /// What it puts back, where it is no seed.
    pub(super) repairs: Option<Repairs>,
}

/// What was done, for the report.
#[derive(Debug)]
pub(super) struct Done {
    /// What was published.
    pub(super) sealed: Sealed,
    /// How it was staged, where that was in this run.
    pub(super) staging: Option<Staging>,
    /// How it was published.
    pub(super) published: Published,
    /// What that took.
    pub(super) publish_time: Duration,
    /// What the mount's counters counted of it all.
    pub(super) requests: Option<Requests>,
    /// What was put back, where it is no seed.
    pub(super) repairs: Option<Repairs>,
    /// What was done, where it is an upgrade.
    pub(super) upgrade: Option<UpgradeDone>,
}

/// The source, or standard input that was read under a claim that was lost.
pub(super) struct Input {
    pub(super) source: Source,
    is_used: bool,
}

/// A replica's work on one volume.
pub(super) struct VolumeWork<'a> {
    /// Whether the volume is left to other replicas.
    pub(super) only_waits: bool,
    pub(super) config: &'a VolumeConfig,
    pub(super) volume: &'a Volume,
    ourselves: Arc<Ourselves>,
    me: Me,
    pub(super) progress: &'a Arc<Progress>,
    cancel: &'a Arc<Cancel>,
    /// What the mount's counters said before the first look.
    before: Option<nfs::Counters>,
    /// The record that was looked at last, and what is next for its volume.
    pub(super) judged: Mutex<Option<(Public, Next)>>,
}

impl Heartbeat {
    /// Set once the claim is lost, or all is to end.
    pub(super) fn stop(&self) -> &Arc<Cancel> {
        &self.stop
    }

    /// Whether another replica has taken over.
    pub(super) fn is_lost(&self) -> bool {
        self.pulse.is_lost()
    }
}

impl Work<Disk> for VolumeWork<'_> {
    type Heartbeat = Heartbeat;
    type Source = Input;
    type Staged = StagedTree;
    type Synced = StagedTree;
    type Published = Done;

    async fn is_emptied(&self, record: &Public) -> Result<bool> {
        emptied::is_emptied(self.volume, record)
    }

    async fn is_gone(&self, record: &Complete) -> Result<bool> {
        emptied::is_gone(self.volume, record)
    }

    async fn has_sentinel(&self) -> Result<bool> {
        self.config.sentinel.as_ref().map_or(Ok(false), |path| Ok(self.volume.find(path)?.is_some()))
    }

    async fn refuses_state(&self) -> Option<String> {
        let cause = refuses_names(self.volume.state().parent.as_fd())?;
        Some(format!("nothing may be written there: {}", lowercase_first(&cause.to_string())))
    }

    fn holder(&self, locked: bool) -> Holder {
        self.me.holder(locked)
    }

    fn same_mount(&self, holder: &Holder) -> bool {
        self.me.shares_mount_with(holder)
    }

    fn start_heartbeat(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<Heartbeat> {
        let pulse = Pulse::new(boot_time());
        let enough = Arc::new(Cancel::default());
        let stop = Arc::new(Cancel::child_of(self.cancel));
        let thread = {
            let (dir, progress) = (Arc::clone(&claim.dir), Arc::clone(self.progress));
            let (pulse, enough, stop) = (Arc::clone(&pulse), Arc::clone(&enough), Arc::clone(&stop));
            let ourselves = Arc::clone(&self.ourselves);
            // Signals are blocked in the seeding thread, and so in every thread that it starts.
            let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
                let (disk, clock) =
                    (Disk::new(ourselves, false, Arc::clone(&progress)), BootClock { cancel: &enough });
                let now = || Beat { counts: progress.snapshot().counts, ..Beat::default() };
                block_on(heartbeat::beat(&disk, &clock, &dir, &pulse, now));
                if pulse.is_lost() {
                    stop.set();
                }
            });
            thread.context("start", "heartbeat").map_err(|error| error.exit(Exit::System))?
        };
        Ok(Heartbeat { pulse, enough, stop, thread })
    }

    async fn stop(&self, heartbeat: Heartbeat) {
        heartbeat.enough.set();
        let _ = heartbeat.thread.join();
    }

    async fn open_source(&self, again: bool) -> Result<Input> {
        self.check_owner()?;
        let source = self.progress.reading(|| Source::open(self.config, self.volume))?;
        Ok(Input { source, is_used: again && self.config.from.as_os_str() == "-" })
    }

    fn fingerprint(&self, input: &Input) -> String {
        input.source.fingerprint().to_owned()
    }

    async fn stage(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        input: Input,
        after: Option<&Public>,
        heartbeat: &Heartbeat,
    ) -> Result<StagedTree> {
        self.check(claim, &input)?;
        if let Some(slow) = nfs::slow_mount(self.volume.root()) {
            tracing::warn!(volume = %self.config.to.display(), "this seed is slow: {slow}");
        }
        let mut began = Began::now(self.volume.root(), self.before.as_ref());
        let path = self.stage_path(claim, STAGE);
        let (stage, look) = beside(
            || make_private(claim.dir.as_fd(), STAGE.as_bytes()).context("create directory", path.as_path()),
            || RootLook::at(self.volume, self.config),
        );
        let (stage, look) = (stage?.fd, look?);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let remains = match claim.inherited {
            true => openat(claim.dir.as_fd(), REMAINS.as_bytes(), flags, Mode::empty()).ok(),
            false => None,
        };
        let site = self.site(claim, STAGE, &stage, &heartbeat.stop);
        let stage_all = || site.stage(input.source, look, after, remains.as_ref().map(AsFd::as_fd));
        let mut staging = match &mut began {
            Some(began) => began.while_looking(self.volume.root(), stage_all)?,
            None => stage_all()?,
        };
        if remains.is_some() {
            // What cannot be removed now goes with the claim.
            let _ = remove_directory(claim.dir.as_fd(), REMAINS.as_bytes(), staging.writers, &|| {
                self.progress.touch()
            });
        }
        staging.sealed.settings = settings::of(self.config);
        staging.sealed.source = Some(Name::from(self.config.from.as_os_str().as_bytes()));
        Ok(StagedTree { stage, staging, began, repairs: None })
    }

    async fn next(&self, record: &Public) -> Result<Next> {
        VolumeWork::next(self, record)
    }

    async fn ask_before_upgrade(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        self.call_before_upgrade(claim, record, heartbeat)
    }

    async fn run_hook(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        record: &Public,
        again: bool,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        self.call_owed(claim, record, again, heartbeat)
    }

    async fn stage_upgrade(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        input: Input,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<Option<StagedTree>> {
        self.stage_difference(claim, input, record, heartbeat)
    }

    async fn stage_repair(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        input: Input,
        record: &Public,
        heartbeat: &Heartbeat,
    ) -> Result<Option<StagedTree>> {
        self.stage_what_differs(claim, input, record, heartbeat)
    }

    async fn sync(&self, claim: &Claim<Arc<OwnedFd>>, mut tree: StagedTree) -> Result<StagedTree> {
        self.progress.enter(Phase::Syncing);
        let began = Instant::now();
        let (staging, stage, path) = (&mut tree.staging, &tree.stage, self.stage_path(claim, STAGE));
        // In one call for the whole file system: on ext4, xfs and btrfs a record may otherwise outlive its
        // data. On NFS every close has done so already, and this finds nothing to do. The descriptor is from
        // before the first look at what is staged: an error since then is told through it (syncfs(2)).
        if staging.is_kept_by_sync() {
            staging.mark_syncing(stage.as_fd(), &path)?;
        }
        let synced = staging.sync(self.volume.root(), stage.as_fd(), self.volume.path())?;
        staging.sync_time = began.elapsed();
        let seconds = seconds(staging.sync_time);
        match synced {
            Synced::AtOnce => tracing::info!(seconds, "synced"),
            Synced::OneByOne(count) => {
                sync_above(claim.dir.as_fd()).context("sync directory", path.as_path())?;
                tracing::info!(
                    seconds,
                    count,
                    "synced file by file, since syncfs is refused: that is slower"
                );
            }
        }
        staging.note(stage.as_fd(), &path)?;
        Ok(tree)
    }

    async fn publish(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        whole: Whole<StagedTree>,
        heartbeat: &Heartbeat,
    ) -> Result<Done> {
        let began = Instant::now();
        let (stage, sealed, mut staging, counted, mut repairs) = match whole {
            Whole::Ours(StagedTree { stage, staging, began, repairs }) => {
                // A claim that is gone cannot have retired the record, and does not say so.
                let stage = match staging.sealed.upgrade {
                    Some(_) => self.open_published(claim)?,
                    None => stage,
                };
                (stage, staging.sealed.clone(), Some(staging), began, repairs)
            }
            Whole::Earlier(staged) => {
                let sealed = staged.sealed.expect("without it nothing is left over");
                (self.open_published(claim)?, sealed, None, None, None)
            }
        };
        if let Some(seal) = &sealed.upgrade {
            let upgraded = self.publish_difference(claim, &stage, &sealed, seal, heartbeat)?;
            let publish_time = began.elapsed();
            let requests = counted.and_then(|began| began.until_now(self.volume.root()));
            let upgrade = Some(UpgradeDone { upgraded, from: seal.from.clone() });
            let published = Published::default();
            return Ok(Done { sealed, staging, published, publish_time, requests, repairs, upgrade });
        }
        if let Some(repairs) = &mut repairs {
            repairs.make_place(claim.state.as_fd(), &self.volume.state().path)?;
        }
        let repair = repairs.as_ref().map(Repairs::job);
        let site = StageJob { repair, ..self.site(claim, PUBLISHING, &stage, self.cancel) };
        let published = site.publish(&sealed, staging.as_mut(), &|| self.may_move(heartbeat))?;
        let publish_time = began.elapsed();
        let (entries, kept) = (published.moved, published.kept);
        tracing::info!(entries, kept, seconds = seconds(publish_time), "published");
        let requests = counted.and_then(|began| began.until_now(self.volume.root()));
        Ok(Done { sealed, staging, published, publish_time, requests, repairs, upgrade: None })
    }

    fn report(&self, record: &Complete, done: &Done) {
        report::report(self.config, record, done);
    }

    fn record(&self, epoch: u64, done: &Done) -> Complete {
        let Sealed { generation, version, totals, top, settings, source, manifest, .. } = done.sealed.clone();
        let hook = done.sealed.owes();
        let before = done.sealed.upgrade.as_ref().map(|upgrade| upgrade.before.clone()).unwrap_or_default();
        let seeded = Complete::seeded(epoch, generation, version, totals);
        Complete { source, settings, manifest, before, hook, ..seeded.holding(self.listed(top)) }
    }

    async fn stage_adoption(
        &self,
        claim: &Claim<Arc<OwnedFd>>,
        heartbeat: &Heartbeat,
    ) -> Result<(Complete, Option<StagedTree>)> {
        self.stage_what_is_missing(claim, heartbeat)
    }

    async fn adopt(&self, record: Complete) -> Result<Complete> {
        seed::publish::root::own_adopted_root(self.volume, self.config)?;
        let names = self.volume.names()?.iter().map(|name| Name::from(&**name)).collect();
        Ok(record.holding(self.listed(names)))
    }

    fn tell(&self, event: Event<'_>) {
        events::tell(&event, &self.config.to, self.progress);
    }
}

impl<'a> VolumeWork<'a> {
    /// Work on `volume` as this process.
    ///
    /// # Errors
    /// When the volume cannot be asked.
    pub(super) fn new(
        config: &'a VolumeConfig,
        volume: &'a Volume,
        ourselves: Arc<Ourselves>,
        progress: &'a Arc<Progress>,
        cancel: &'a Arc<Cancel>,
    ) -> Result<VolumeWork<'a>> {
        let device = rustix::fs::fstat(volume.root()).context("stat", volume.path())?.st_dev;
        let before = nfs::Counters::read(volume.root());
        Ok(VolumeWork {
            only_waits: false,
            config,
            volume,
            ourselves,
            me: Me::at(device),
            progress,
            cancel,
            before,
            judged: Mutex::default(),
        })
    }

    /// Where root works as the volume's owner it can give nothing to anybody else.
    pub(super) fn check_owner(&self) -> Result<()> {
        let (Some(user), Some(asked)) = (self.volume.user(), self.config.owner) else { return Ok(()) };
        if user.0 == asked.0 {
            return Ok(());
        }
        let (user, asked) = (spelled(user), spelled(asked));
        let cause =
            format!("only its owner {user} may write here, not root: nothing can be given to {asked}");
        let help =
            format!("--chown {user}, or none, seeds it as that user; or export it with no_root_squash");
        Err(Error::new(Exit::Permission, "seed volume", cause).on(self.volume.path()).help(help))
    }

    /// What has to hold before anything is staged.
    fn check(&self, claim: &Claim<Arc<OwnedFd>>, input: &Input) -> Result<()> {
        let volume = self.volume;
        let refused = |exit, cause: String, help: &'static str| {
            Err(Error::new(exit, "seed volume", cause).on(volume.path()).help(help))
        };
        if input.is_used {
            let cause = "standard input was read under a claim that was lost";
            return refused(Exit::Held, cause.into(), "start again");
        }
        if self.config.existing == Existing::Fail
            && let Some(name) = volume.first_content(&volume.names()?)?
        {
            let cause = format!("it is not empty: it holds '{}'", crate::error::printable(name));
            return refused(Exit::Refused, cause, "empty it, or choose --existing keep or overwrite");
        }
        self.check_place(claim)
    }

    /// Whether what is staged in a state directory beside the root can be moved to that.
    pub(super) fn check_place(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<()> {
        let (volume, state) = (self.volume, &self.volume.state().path);
        if *state == volume.path().join(DIRECTORY) {
            return Ok(());
        }
        check_renames(claim.dir.as_fd(), volume.root(), state)
    }

    /// Before each move: whether the claim is still ours. Waits while our heart stands still.
    pub(super) fn may_move(&self, heartbeat: &Heartbeat) -> Result<()> {
        loop {
            if self.cancel.is_set() {
                return Err(Error::cancelled());
            }
            if heartbeat.pulse.is_lost() {
                return Err(Error::new(Exit::Held, "publish", "another replica has taken over"));
            }
            if heartbeat.pulse.is_fresh(boot_time()) {
                self.progress.touch();
                return Ok(());
            }
            self.cancel.sleep(STANDSTILL);
        }
    }

    /// What a record lists of top-level names: the sentinel's before all others, since an app that has it was not
    /// emptied.
    fn listed(&self, mut names: Vec<Name>) -> Vec<Name> {
        let sentinel = self.config.sentinel.as_ref().and_then(|path| path.iter().next());
        if let Some(sentinel) = sentinel
            && let Some(place) = names.iter().position(|name| name.as_bytes() == sentinel.as_bytes())
        {
            names[..=place].rotate_right(1);
        }
        emptied::content_first(self.volume, names)
    }

    /// The stage of a claim, made where it is not there, and its path.
    pub(super) fn make_stage(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<(OwnedFd, PathBuf)> {
        let path = self.stage_path(claim, STAGE);
        let stage = make_private(claim.dir.as_fd(), STAGE.as_bytes());
        Ok((stage.context("create directory", path.as_path())?.fd, path))
    }

    fn open_published(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let stage = openat(claim.dir.as_fd(), PUBLISHING.as_bytes(), flags, Mode::empty());
        stage.context("open directory", || self.stage_path(claim, PUBLISHING))
    }

    pub(super) fn site<'s>(
        &'s self,
        claim: &Claim<Arc<OwnedFd>>,
        name: &str,
        stage: &'s OwnedFd,
        cancel: &Arc<Cancel>,
    ) -> StageJob<'s> {
        StageJob {
            volume: self.volume,
            stage: stage.as_fd(),
            stage_path: self.stage_path(claim, name),
            below: Vec::new(),
            only: None,
            is_part: false,
            repair: None,
            begun: claim.inherited,
            epoch: claim.epoch,
            config: self.config,
            progress: self.progress,
            cancel: Arc::clone(cancel),
        }
    }

    pub(super) fn stage_path(&self, claim: &Claim<Arc<OwnedFd>>, name: &str) -> PathBuf {
        self.volume.state().path.join(CLAIMS).join(claim.epoch.to_string()).join(name)
    }
}

/// Makes the directories durable that lead to a claim: the claim, all claims, the state directory, and what that is in.
fn sync_above(claim: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut directory = openat(claim, b".", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    for _ in 0..3 {
        rustix::fs::fsync(&directory)?;
        directory = openat(directory.as_fd(), b"..", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    }
    rustix::fs::fsync(directory)
}
