//! The story: what happens to each volume, from the first look to the complete record.
//!
//! Blocking, on a thread of its own: a volume may hang, and whoever answers for us meanwhile must not
//! wait for it. In which order a replica does what, and what follows when another takes over, is
//! [`turn`]'s; here is what each step does on a real volume. Knows nothing of health, signals or the
//! hand-over.

use crate::run::adoption;
use crate::run::emptied;
use crate::run::settings;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::protocol::{Ended, Event, Replica, Rules, Work};
use super::report::report;
use crate::cancel::Cancel;
use crate::claims::beat::{Beat, Holder};
use crate::claims::disk::{BootClock, Disk, boot_time};
use crate::claims::expiry::{Sharing, Watch};
use crate::claims::heartbeat;
use crate::claims::heartbeat::Pulse;
use crate::claims::inspect::{Look, look};
use crate::claims::io::block_on;
use crate::claims::locking::sharing;
use crate::claims::store::{CLAIMS, Claim, Ground, PUBLISHING, REMAINS, STAGE};
use crate::claims::{Me, beat_of};
use crate::cli::config::VolumeConfig;
use crate::cli::values::{Existing, LockMode};
use crate::error::{Context, Error, Result, lowercase_first};
use crate::exit::Exit;
use crate::progress::{Followed, Phase, Progress, seconds};
use crate::seed;
use crate::seed::{Published, Site, Source, Staging, Synced};
use crate::system::nfs;
use crate::system::signals;
use crate::system::text::{Untrusted, rfc3339};
use crate::volume::records::{Complete, DIRECTORY, Name, Public, Sealed, StateDir};
use crate::volume::{
    Ourselves, Place, Volume, check_renames, make_private, openat, refuses_names, remove_directory,
    stat_entry,
};

/// How often `wait` looks, at first and at most: it costs a few round trips each time.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often a holder whose heart does not beat looks whether it does again.
const STANDSTILL: Duration = Duration::from_millis(100);

/// Makes sure that every volume is complete, one after the other. Blocks until they are.
///
/// # Errors
/// The first thing that went wrong; what was done until then stays, for the next run to go on with.
pub fn seed(volumes: &[VolumeConfig], progress: &Arc<Progress>, cancel: &Arc<Cancel>) -> Result<()> {
    for config in volumes {
        Preparation { config, progress, cancel }.run()?;
    }
    progress.enter(Phase::Complete);
    Ok(())
}

/// Waits until every volume is complete. Never changes one.
///
/// # Errors
/// Exit 75 after `--wait-timeout`.
pub fn wait(volumes: &[VolumeConfig], progress: &Arc<Progress>, cancel: &Arc<Cancel>) -> Result<()> {
    for config in volumes {
        Preparation { config, progress, cancel }.wait()?;
    }
    progress.enter(Phase::Complete);
    Ok(())
}

struct Preparation<'a> {
    config: &'a VolumeConfig,
    progress: &'a Arc<Progress>,
    cancel: &'a Arc<Cancel>,
}

impl Preparation<'_> {
    fn run(&self) -> Result<()> {
        self.progress.set_volume(self.config.to.display().to_string());
        self.progress.enter(Phase::Checking);
        let volume = self.open()?;
        self.warn_of_state(&volume);
        if volume.is_container_layer() {
            let volume = self.config.to.display();
            tracing::warn!(%volume, "it is on the container's own layer: its data will be lost with the container; mount a volume there");
        }
        let state = StateDir::open(&volume)?;
        if let Some(record) = self.complete(&volume, state.as_ref())? {
            if state.is_some_and(|state| is_untidy(state.fd())) {
                // Of a holder that was killed after the record, or that is at it: what fails is in nobody's way.
                let disk = Disk::new(Ourselves::new(), false);
                block_on(Ground::on(&volume, &disk).tidy(record.epoch));
            }
            self.already_seeded(&volume, &record);
            return Ok(());
        }
        // What is wrong with the source is said before the volume is touched.
        let source = match &state {
            Some(_) => None,
            None if !self.sentinel(&volume)? => Some(Source::open(self.config, &volume)?),
            // It is as complete without a record, which another replica may make.
            None => match refuses_names(volume.state().parent.as_fd()) {
                Some(cause) => {
                    self.seeded_before(&volume, Some(cause));
                    return Ok(());
                }
                None => None,
            },
        };
        let rules = self.rules(&volume)?;
        let ourselves = Ourselves::new();
        let disk = Disk::new(Arc::clone(&ourselves), rules.sharing == Sharing::Server);
        let device = rustix::fs::fstat(volume.root()).context("stat", volume.path())?.st_dev;
        let seeding = Seeding {
            preparation: self,
            volume: &volume,
            ourselves,
            me: Me::at(device),
            source: RefCell::new(source),
            reads_stdin: Cell::new(self.config.from.as_os_str() == "-"),
            work: RefCell::default(),
            traffic: Cell::new(None),
            recorded: RefCell::default(),
        };
        let ground = Ground::on(&volume, &disk);
        let clock = BootClock { cancel: self.cancel };
        let replica = Replica { ground, clock: &clock, work: &seeding, rules };
        match block_on(replica.complete())? {
            Ended::Found(record) => self.already_seeded(&volume, &record),
            Ended::Adopted => {
                let sentinel = self.config.sentinel.as_ref().map(|path| path.display().to_string());
                tracing::info!(volume = %volume.path().display(), sentinel, "adopted");
            }
            Ended::Completed(epoch) => {
                seeding.report(epoch);
                if let Some(record) = seeding.recorded.take() {
                    settings::compare_private(self.config, &record);
                }
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<Volume> {
        Volume::open(&self.config.to, self.config.state_dir.as_deref())
    }

    fn warn_of_state(&self, volume: &Volume) {
        let used = &volume.state().path;
        if let Some(state_dir) = self.config.state_dir.as_deref().filter(|dir| dir != used) {
            tracing::warn!(state_dir = %state_dir.display(), used = %used.display(), "--state-dir is not used: the volume has its state in its root");
        }
    }

    fn rules(&self, volume: &Volume) -> Result<Rules> {
        let kind = volume.kind()?;
        let sharing = match self.config.lock {
            LockMode::Auto => sharing(kind, nfs::mount_options(volume.root()).as_deref()),
            LockMode::Lease => Sharing::None("--lock lease"),
            LockMode::None => Sharing::None("--lock none"),
        };
        Ok(Rules {
            sharing,
            alone: self.config.lock == LockMode::None,
            remote: !matches!(kind.place, Place::Local | Place::Memory),
            timeout: self.config.wait_timeout,
        })
    }

    fn wait(&self) -> Result<()> {
        self.progress.set_volume(self.config.to.display().to_string());
        let (began, mut pause) = (Instant::now(), LOOK.0);
        let mut watch = Watch::default();
        let mut told = false;
        let mut failed: Option<(u64, String)> = None;
        loop {
            let volume = self.open()?;
            if !told {
                self.warn_of_state(&volume);
            }
            let state = StateDir::open(&volume)?;
            if let Some(record) = self.complete(&volume, state.as_ref())? {
                if told {
                    self.tell(&Event::WaitEnded(began.elapsed()));
                }
                self.already_seeded(&volume, &record);
                return Ok(());
            }
            // Without any state of ours, a sentinel says that it was seeded before volseed.
            if state.is_none() && self.sentinel(&volume)? {
                self.seeded_before(&volume, None);
                return Ok(());
            }
            let claim = look(&volume)?.claim();
            let moved =
                watch.see(boot_time(), claim.as_ref().map(|claim| (claim.epoch, claim.pulse.clone())));
            let beat = claim.as_ref().and_then(Look::beat);
            // It released the volume, and there is no record: a holder that has completed it leaves one.
            let released = claim.as_ref().filter(|_| beat.as_ref().is_some_and(|beat| beat.left));
            if released.is_some_and(|claim| failed.as_ref().is_none_or(|(epoch, _)| *epoch < claim.epoch)) {
                failed = released.map(|claim| self.holder_failed(claim));
            }
            if !std::mem::replace(&mut told, true) {
                let at_work = claim.as_ref().filter(|_| released.is_none());
                let holder = at_work.and_then(|claim| claim.holder.as_ref());
                self.tell(&Event::WaitBegan(holder, beat.as_ref().filter(|beat| !beat.left)));
            } else if claim.is_none() {
                // Nobody is there to stall: whoever will seed may come any time.
                self.progress.touch();
            } else if moved {
                self.tell(&Event::WaitGoes(beat.as_ref()));
            }
            if self.config.wait_timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                let cause = match &failed {
                    Some((_, host)) => format!(
                        "not seeded within --wait-timeout: the replica on host {host} ended without completing it"
                    ),
                    None => "not seeded within --wait-timeout".to_owned(),
                };
                return Err(Error::new(Exit::Held, "wait for volume", cause).on(volume.path()).help(
                    "is another container with `volseed run` or `volseed seed` on this volume at work?",
                ));
            }
            if self.cancel.sleep(pause) {
                return Err(Error::cancelled());
            }
            pause = (pause * 3 / 2).min(LOOK.1);
        }
    }

    /// The claim's number and its holder's host.
    fn holder_failed(&self, claim: &Look) -> (u64, String) {
        let (volume, epoch) = (self.config.to.display(), claim.epoch);
        let host = claim.holder.as_ref().map_or("?".into(), |holder| holder.host.to_string());
        tracing::warn!(%volume, host, epoch, "the last replica that held it ended without completing it: waiting for another");
        self.progress.wait_for(None);
        (epoch, host)
    }

    /// What happens between replicas, for the log and for health.
    fn tell(&self, event: &Event<'_>) {
        let volume = self.config.to.display();
        match event {
            Event::WaitBegan(holder, beat) => {
                self.progress.wait_for(holder.map(|holder| holder.host.to_string()));
                self.progress.enter(Phase::Waiting);
                if let Some(beat) = beat {
                    self.progress.follow(&followed(beat));
                }
                let since = holder.map(|holder| rfc3339(holder.since));
                tracing::info!(
                    %volume,
                    host = holder.map(|holder| holder.host.to_string()),
                    container = holder.and_then(|holder| holder.container.as_ref()).map(Untrusted::to_string),
                    pid = holder.map(|holder| holder.pid),
                    epoch = holder.map(|holder| holder.epoch),
                    since,
                    files = beat.map(|beat| beat.files),
                    "waiting for another replica"
                );
            }
            Event::WaitGoes(Some(beat)) => {
                self.progress.follow(&followed(beat));
            }
            Event::WaitGoes(None) => {}
            Event::WaitEnded(time) => {
                self.progress.enter(Phase::Checking);
                tracing::info!(seconds = seconds(*time), "waited");
            }
            Event::NotShared(reason) => {
                tracing::warn!(%volume, reason, "the lock does not keep other replicas out: going by heartbeats alone");
            }
            Event::TookOver(epoch, holder) => {
                self.progress.took_over();
                tracing::info!(
                    %volume,
                    epoch,
                    host = holder.map(|holder| holder.host.to_string()),
                    container = holder.and_then(|holder| holder.container.as_ref()).map(Untrusted::to_string),
                    "taking over"
                );
            }
            Event::Fenced(epoch) => tracing::debug!(epoch, "claimed"),
            Event::Lost(epoch, cause) => {
                tracing::warn!(%volume, epoch, %cause, "lost the volume to another replica: waiting for it");
            }
            Event::Resumed { other: false } => {
                tracing::info!(%volume, "publishing what an earlier run staged");
            }
            Event::Resumed { other: true } => {
                tracing::warn!(%volume, "another image's seed is half published: it is completed, and this image's is not made");
            }
            Event::GivenUp => {
                tracing::warn!(%volume, "another image had staged its seed and published nothing of it: given up");
            }
            Event::Foreign(uid) => {
                tracing::warn!(%volume, uid, "its .volseed belonged to another user and recorded no complete seed: taken over, nothing staged in it is used");
            }
            Event::WaitsForOwner(uid) => {
                self.progress.enter(Phase::Waiting);
                tracing::warn!(%volume, uid, "its .volseed belongs to another user, which has yet to complete it: waiting");
            }
            Event::Opened(epoch, cause) => {
                tracing::warn!(%volume, epoch, %cause, "owner or mode of the stage was changed while it was filled: staging it again");
            }
            Event::OwnerAwaited => self.progress.touch(),
            Event::Pending => {
                tracing::warn!(%volume, "complete but for a hook: waiting for the replica that runs it");
                self.progress.enter(Phase::Waiting);
            }
            Event::Emptied => tracing::warn!(%volume, "it was seeded and then emptied; it is seeded again"),
        }
    }

    /// The complete record, unless the volume was emptied since.
    fn complete(&self, volume: &Volume, state: Option<&StateDir>) -> Result<Option<Public>> {
        let Some(record) = state.map(StateDir::public).transpose()?.flatten() else { return Ok(None) };
        if !record.is_complete() || emptied::emptied(volume, &record)? {
            return Ok(None);
        }
        // Opened anew, after the look: what is there may be the beginning of its next seed, which has
        // removed the record first.
        let now = StateDir::open(volume)?.as_ref().map(StateDir::public).transpose()?.flatten();
        Ok(now.filter(|now| now.epoch == record.epoch))
    }

    fn sentinel(&self, volume: &Volume) -> Result<bool> {
        self.config.sentinel.as_ref().map_or(Ok(false), |path| Ok(volume.find(path)?.is_some()))
    }

    /// The sentinel is there, and no state of ours; why none is made.
    fn seeded_before(&self, volume: &Volume, cause: Option<Errno>) {
        let cause = cause
            .map(|cause| format!("nothing may be written there: {}", lowercase_first(&cause.to_string())));
        tracing::info!(volume = %volume.path().display(), not_recorded = cause, "seeded before volseed");
    }

    fn already_seeded(&self, volume: &Volume, record: &Public) {
        settings::compare(self.config, volume, record);
        let files = record.totals.map(|totals| totals.files);
        tracing::info!(volume = %self.config.to.display(), epoch = record.epoch, files, "already seeded");
    }
}

fn followed(beat: &Beat) -> Followed {
    Followed {
        files: beat.files,
        files_total: beat.files_total,
        bytes: beat.bytes,
        bytes_total: beat.bytes_total,
        percent: beat.percent,
    }
}

/// What this replica does to its volume, step by step.
struct Seeding<'a> {
    preparation: &'a Preparation<'a>,
    volume: &'a Volume,
    ourselves: Arc<Ourselves>,
    me: Me,
    /// Opened before the volume was touched.
    source: RefCell<Option<Source>>,
    /// Standard input can be read once.
    reads_stdin: Cell<bool>,
    work: RefCell<Done>,
    /// What was recorded.
    recorded: RefCell<Option<Complete>>,
    /// What the mount's counters said before.
    traffic: Cell<Option<nfs::Counters>>,
}

/// What was done so far under the last claim.
#[derive(Default)]
struct Done {
    staging: Option<Staging>,
    published: Option<(Published, Duration)>,
    stop: Option<Arc<Cancel>>,
}

/// The heartbeat of a claim, on a thread of its own.
struct Beating {
    pulse: Arc<Pulse>,
    enough: Arc<Cancel>,
    thread: std::thread::JoinHandle<()>,
}

impl Work<Disk> for Seeding<'_> {
    type Beating = Beating;

    async fn emptied(&self, record: &Public) -> Result<bool> {
        emptied::emptied(self.volume, record)
    }

    async fn vanished(&self, record: &Complete) -> Result<bool> {
        emptied::vanished(self.volume, record)
    }

    async fn sentinel(&self) -> Result<bool> {
        self.preparation.sentinel(self.volume)
    }

    fn holder(&self, locked: bool) -> Holder {
        self.me.holder(locked)
    }

    fn same_mount(&self, holder: &Holder) -> bool {
        self.me.shares_mount_with(holder)
    }

    fn beat(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<Beating> {
        let pulse = Pulse::new(boot_time());
        let enough = Arc::new(Cancel::default());
        let stop = Arc::new(Cancel::part_of(self.preparation.cancel));
        *self.work.borrow_mut() = Done { stop: Some(Arc::clone(&stop)), ..Done::default() };
        let (dir, progress) = (Arc::clone(&claim.dir), Arc::clone(self.preparation.progress));
        let thread = {
            let (pulse, enough) = (Arc::clone(&pulse), Arc::clone(&enough));
            let ourselves = Arc::clone(&self.ourselves);
            let guard = signals::blocked();
            let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
                let (disk, clock) = (Disk::new(ourselves, false), BootClock { cancel: &enough });
                block_on(heartbeat::beat(&disk, &clock, &dir, &pulse, || beat_of(&progress.snapshot())));
                if pulse.is_lost() {
                    // What is staged from here on is for nobody.
                    stop.set();
                }
            });
            drop(guard);
            thread.context("start", "heartbeat").map_err(|error| error.exit(Exit::System))?
        };
        Ok(Beating { pulse, enough, thread })
    }

    async fn fingerprint(&self) -> Result<String> {
        let mut source = self.source.borrow_mut();
        if let Some(source) = &*source {
            return Ok(source.fingerprint().to_owned());
        }
        let opened = Source::open(self.preparation.config, self.volume)?;
        let fingerprint = opened.fingerprint().to_owned();
        // Standard input that was read once is not there any more.
        let is_fresh = self.preparation.config.from.as_os_str() != "-" || self.reads_stdin.get();
        *source = is_fresh.then_some(opened);
        Ok(fingerprint)
    }

    async fn stage(&self, claim: &Claim<Arc<OwnedFd>>, after: Option<&Public>) -> Result<Sealed> {
        let config = self.preparation.config;
        if config.existing == Existing::Fail
            && let Some(name) = self.volume.first_content(&self.volume.names()?)?
        {
            return Err(Error::new(
                Exit::Refused,
                "seed volume",
                format!("it is not empty: it holds '{}'", crate::error::printable(name)),
            )
            .on(self.volume.path())
            .help("empty it, or choose --existing keep or overwrite"));
        }
        if self.volume.state().path != self.volume.path().join(DIRECTORY) {
            check_renames(claim.dir.as_fd(), self.volume.root(), &self.volume.state().path)?;
        }
        let source = self.source()?;
        self.traffic.set(nfs::Counters::read(self.volume.root()));
        let path = self.stage_path(claim, STAGE);
        let stage =
            make_private(claim.dir.as_fd(), STAGE.as_bytes()).context("create directory", path.as_path())?.fd;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let remains = match claim.inherited {
            true => openat(claim.dir.as_fd(), REMAINS.as_bytes(), flags, Mode::empty()).ok(),
            false => None,
        };
        let mut staging =
            self.site(claim, STAGE, &stage).stage(source, after, remains.as_ref().map(AsFd::as_fd))?;
        if remains.is_some() {
            // What cannot be removed now goes with the claim.
            let _ = remove_directory(claim.dir.as_fd(), REMAINS.as_bytes(), staging.writers);
        }
        staging.sealed.settings = settings::of(config);
        staging.sealed.source = Some(Name::from(config.from.as_os_str().as_bytes()));
        let sealed = staging.sealed.clone();
        self.work.borrow_mut().staging = Some(staging);
        Ok(sealed)
    }

    async fn sync(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<()> {
        self.preparation.progress.enter(Phase::Syncing);
        let began = Instant::now();
        // In one call for the whole file system: on ext4, xfs and btrfs a record may otherwise outlive its
        // data. On NFS every close has done so already, and this finds nothing to do. The descriptor is from
        // before the first look at what is staged: an error since then is told through it (syncfs(2)).
        if let Some(staging) = &self.work.borrow().staging {
            let (stage, path) = self.open_stage(claim, STAGE)?;
            if staging.is_kept_by_sync() {
                staging.mark_syncing(stage.as_fd(), &path)?;
            }
            let synced = staging.sync(self.volume.root(), stage.as_fd(), self.volume.path())?;
            let seconds = seconds(began.elapsed());
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
        }
        if let Some(staging) = &mut self.work.borrow_mut().staging {
            staging.sync_time = began.elapsed();
        }
        Ok(())
    }

    async fn note(&self, claim: &Claim<Arc<OwnedFd>>, _: &Sealed) -> Result<()> {
        let (stage, path) = self.open_stage(claim, STAGE)?;
        match &self.work.borrow().staging {
            Some(staging) => staging.note(stage.as_fd(), &path),
            None => Ok(()),
        }
    }

    async fn publish(&self, claim: &Claim<Arc<OwnedFd>>, sealed: &Sealed, beating: &Beating) -> Result<()> {
        let began = Instant::now();
        let (stage, _) = self.open_stage(claim, PUBLISHING)?;
        let cancel = self.preparation.cancel;
        let go_on = || loop {
            if cancel.is_set() {
                return Err(Error::cancelled());
            }
            if beating.pulse.is_lost() {
                return Err(Error::new(Exit::Held, "publish", "another replica has taken over"));
            }
            if beating.pulse.is_fresh(boot_time()) {
                return Ok(());
            }
            cancel.sleep(STANDSTILL);
        };
        let site = self.site(claim, PUBLISHING, &stage);
        let published = site.publish(sealed, self.work.borrow_mut().staging.as_mut(), &go_on)?;
        let time = began.elapsed();
        tracing::info!(
            entries = published.moved,
            kept = published.kept,
            seconds = seconds(time),
            "published"
        );
        let mut work = self.work.borrow_mut();
        work.staging.get_or_insert_with(|| Staging::of_earlier_run(sealed.clone()));
        work.published = Some((published, time));
        Ok(())
    }

    fn record(&self, epoch: u64, sealed: &Sealed) -> Complete {
        let Sealed { generation, version, totals, top, settings, source, .. } = sealed.clone();
        let record = Complete {
            source,
            settings,
            ..Complete::seeded(epoch, generation, version, totals).holding(self.listed(top))
        };
        *self.recorded.borrow_mut() = Some(record.clone());
        record
    }

    async fn adopted(&self, epoch: u64) -> Result<Complete> {
        let config = self.preparation.config;
        seed::own_adopted_root(self.volume, config)?;
        let names = self.volume.names()?.iter().map(|name| Name::from(&**name)).collect();
        let version = adoption::version(config, self.volume);
        Ok(Complete::adopted(epoch, version).holding(self.listed(names)))
    }

    async fn still(&self, beating: Beating) {
        beating.enough.set();
        let _ = beating.thread.join();
    }

    fn tell(&self, event: Event<'_>) {
        self.preparation.tell(&event);
    }
}

impl Seeding<'_> {
    /// What a record lists of top-level names: the sentinel's before all others, since an app that has it was not
    /// emptied.
    fn listed(&self, mut names: Vec<Name>) -> Vec<Name> {
        let sentinel = self.preparation.config.sentinel.as_ref().and_then(|path| path.iter().next());
        if let Some(sentinel) = sentinel
            && let Some(place) = names.iter().position(|name| name.as_bytes() == sentinel.as_bytes())
        {
            names[..=place].rotate_right(1);
        }
        emptied::content_first(self.volume, names)
    }

    fn source(&self) -> Result<Source> {
        if let Some(source) = self.source.take() {
            self.reads_stdin.set(false);
            return Ok(source);
        }
        let config = self.preparation.config;
        if config.from.as_os_str() == "-" && !self.reads_stdin.replace(false) {
            return Err(Error::new(
                Exit::Held,
                "seed volume",
                "standard input was read under a claim that was lost",
            )
            .on(self.volume.path())
            .help("start again"));
        }
        Source::open(config, self.volume)
    }

    fn open_stage(&self, claim: &Claim<Arc<OwnedFd>>, name: &str) -> Result<(OwnedFd, PathBuf)> {
        let path = self.stage_path(claim, name);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let stage = openat(claim.dir.as_fd(), name.as_bytes(), flags, Mode::empty());
        Ok((stage.context("open directory", path.as_path())?, path))
    }

    fn site<'s>(&'s self, claim: &Claim<Arc<OwnedFd>>, name: &str, stage: &'s OwnedFd) -> Site<'s> {
        Site {
            volume: self.volume,
            stage: stage.as_fd(),
            stage_path: self.stage_path(claim, name),
            below: Vec::new(),
            only: None,
            begun: claim.inherited,
            epoch: claim.epoch,
            config: self.preparation.config,
            progress: self.preparation.progress,
            cancel: self.work.borrow().stop.clone().unwrap_or_else(|| Arc::clone(self.preparation.cancel)),
        }
    }

    fn stage_path(&self, claim: &Claim<Arc<OwnedFd>>, name: &str) -> PathBuf {
        self.volume.state().path.join(CLAIMS).join(claim.epoch.to_string()).join(name)
    }

    /// Says what was done.
    fn report(&self, epoch: u64) {
        let Done { staging: Some(staging), published: Some((published, publish_time)), .. } =
            self.work.take()
        else {
            return;
        };
        let after = nfs::Counters::read(self.volume.root());
        let traffic = after.zip(self.traffic.take()).map(|(after, before)| after.since(&before));
        let config = self.preparation.config;
        report(config, epoch, &staging, &published, publish_time, traffic.as_ref());
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

/// Whether a state directory has directories in it, which a user who walks the volume may not enter. Told by its
/// links, and by a look where the file system does not count them.
fn is_untidy(state: BorrowedFd<'_>) -> bool {
    match rustix::fs::fstat(state).map(|found| found.st_nlink) {
        Ok(0 | 1) => stat_entry(state, CLAIMS.as_bytes()).is_ok_and(|found| found.is_some()),
        Ok(links) => links > 2,
        Err(_) => false,
    }
}
