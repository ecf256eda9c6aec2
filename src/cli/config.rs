//! `Config`: what this run has to do, resolved once, valid by construction.
//!
//! Flags beat environment variables (the command line's parser has merged those two), both beat the
//! file, and the file beats the defaults. Touches no volume and no source.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::values::{
    Address, Adopt, AppCheck, Commands, Exclude, Existing, LockMode, ModeChange, Size, VersionPattern,
    Workers,
};
use super::{
    AppArgs, AppCheckArgs, CopyArgs, DoctorArgs, HealthArgs, RepairArgs, ServerArgs, UpgradeArgs,
    VersionArgs, VolumeArgs, WaitArgs, only_for, usage,
};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::system::commands;
use crate::system::users::{Database, Identity, Spec};
use crate::volume::records::DIRECTORY;

/// Minimum of `--memory`: four buffers of 1 MiB keep two processors busy.
const MIN_MEMORY: Size = Size(4 << 20);
/// The first word of a supervisor's command line, by which others know it. Not for people.
pub(crate) const SUPERVISOR: &str = "supervise";

/// What all volumes of a run have in common, and the volumes.
#[derive(Debug)]
pub(crate) struct Config {
    /// In the order in which they are seeded; at least one.
    pub volumes: Vec<VolumeConfig>,
    /// The health server, where one is wanted.
    pub server: Option<ServerConfig>,
}

/// What a repair does; a seed takes no notice of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RepairOptions {
    /// Also replaces what differs.
    pub replaces: bool,
    /// Reads all data to find that.
    pub reads_all: bool,
}

/// What an upgrade does.
#[derive(Debug, Clone, Default)]
pub(crate) struct UpgradeOptions {
    /// The versions that are upgraded.
    pub from: Vec<VersionPattern>,
    /// What stays where a user has changed it.
    pub keep: Vec<Exclude>,
    /// What an upgrade only adds to.
    pub protect: Vec<Exclude>,
    /// The most of the old seed's files that it removes, in percent.
    pub max_delete: u8,
    /// The version that is taken back.
    pub rollback_from: Option<String>,
}

impl UpgradeOptions {
    /// Whether a volume at another version may become one at the image's.
    pub(crate) fn is_asked(&self) -> bool {
        !self.from.is_empty() || self.rollback_from.is_some()
    }
}

/// What is called after a seed, and before and after an upgrade.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    /// From the root of the file system.
    pub program: PathBuf,
    /// Who it runs as, where that is not us.
    pub user: Option<Identity>,
}

/// One volume and its seed.
#[derive(Debug, Clone)]
pub(crate) struct VolumeConfig {
    /// The volume's root.
    pub to: PathBuf,
    /// What a repair does.
    pub repair: RepairOptions,
    /// What an upgrade does.
    pub upgrade: UpgradeOptions,
    /// What is called around it.
    pub hook: Option<Hook>,
    /// The seed. `-` is standard input.
    pub from: PathBuf,
    /// Where the state is, in place of `.volseed` in the root.
    pub state_dir: Option<PathBuf>,
    /// Relative to the root, plain components only.
    pub sentinel: Option<PathBuf>,
    /// What of the source is left out.
    pub exclude: Vec<Exclude>,
    /// What happens to files that are already there.
    pub existing: Existing,
    /// What happens to a volume that was seeded before volseed, and lacks something of the seed.
    pub adopt: Adopt,
    /// Owner and group of everything seeded.
    pub owner: Option<(u32, u32)>,
    /// What the modes of everything seeded become.
    pub chmod: Option<ModeChange>,
    /// Whether modification times are set.
    pub times: bool,
    /// Whether what cannot be kept is an error.
    pub strict: bool,
    /// Parallel writers.
    pub workers: Workers,
    /// Ceiling for file data in flight, in bytes.
    pub memory: u64,
    /// Maximum number of entries of a seed.
    pub max_entries: u64,
    /// The version of the seed.
    pub seed_version: Option<String>,
    /// How replicas agree.
    pub lock: LockMode,
    /// Longest wait for another replica.
    pub wait_timeout: Option<Duration>,
}

impl VolumeConfig {
    /// The directory that the state is in as a rule: a `.volseed` in the root is used before another.
    fn state_path(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| self.to.join(DIRECTORY))
    }
}

/// The health server.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    /// As they were given; `/healthz` is a live path in any case.
    pub args: ServerArgs,
    /// User and group of its Unix sockets' files, where those are not to be our own.
    pub owner: Option<(u32, u32)>,
    /// Where it listens for the app's whole life.
    pub admin: Vec<Address>,
}

#[cfg(any(fuzzing, test))]
impl ServerConfig {
    /// With these options, and the defaults of all others.
    pub(crate) fn with(options: &[&str]) -> ServerConfig {
        use clap::{Args, FromArgMatches};
        let command = ServerArgs::augment_args(clap::Command::new("server").no_binary_name(true));
        let matches = command.try_get_matches_from(options).expect("the options are right");
        let args = ServerArgs::from_arg_matches(&matches).expect("they were parsed");
        ServerConfig { args, owner: None, admin: Vec::new() }
    }
}

/// The app to become.
#[derive(Debug)]
pub(crate) struct AppConfig {
    /// As they were given; the command is not empty.
    pub args: AppArgs,
    /// How it is asked whether it is ready, and where that is told for its whole life.
    pub check: AppCheckArgs,
    /// Who it runs as.
    pub user: Option<Identity>,
    /// Whether this command wants the volumes seeded.
    pub seeds: bool,
    /// Whether it is volseed itself.
    pub is_own: bool,
    /// What it starts in the end, as far as that can be told: what `--only-for` was compared with.
    pub programs: Vec<OsString>,
}

/// The question of `volseed health`.
#[derive(Debug)]
pub(crate) struct HealthConfig {
    /// Where the server would be.
    pub listen: Option<Address>,
    /// The path to ask.
    pub path: String,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// How to ask the app after the hand-over.
    pub app_check: AppCheck,
}

/// Volumes that do not get into each other's way.
///
/// # Errors
/// Exit 64 where two have one root or one state, or more than one reads standard input.
pub(crate) fn distinct(volumes: Vec<VolumeConfig>) -> Result<Vec<VolumeConfig>> {
    for (number, volume) in volumes.iter().enumerate() {
        let others = || volumes[..number].iter();
        if others().any(|other| other.to == volume.to) {
            return Err(usage(format!("two volumes have the root {}", volume.to.display())));
        }
        let state = volume.state_path();
        if others().any(|other| other.state_path() == state) {
            return Err(usage(format!("two volumes have their state in {}", state.display())));
        }
        if volume.from.as_os_str() == "-" && others().any(|other| other.from == volume.from) {
            return Err(usage("standard input can seed one volume only"));
        }
    }
    Ok(volumes)
}

/// The health server, where `--listen` or `--admin` asks for one.
///
/// # Errors
/// Exit 64 when the sockets' owner is not known.
pub(crate) fn server(args: &ServerArgs, admin: &[Address]) -> Result<Option<ServerConfig>> {
    if args.listen.is_empty() && admin.is_empty() {
        return Ok(None);
    }
    let wrong = |cause| Error::new(Exit::Usage, "option --listen-owner", cause);
    let owner = args.listen_owner.as_ref().map(|owner| Database::default().identity(owner).map_err(wrong));
    let owner = owner.transpose()?.map(|owner| (owner.uid, owner.gid));
    Ok(Some(ServerConfig {
        args: ServerArgs { live_path: live_paths(args), ..args.clone() },
        owner,
        admin: admin.to_vec(),
    }))
}

/// `/healthz` is always one.
fn live_paths(args: &ServerArgs) -> Vec<String> {
    let mut live = args.live_path.clone();
    if !live.iter().any(|path| path == "/healthz") {
        live.push("/healthz".to_owned());
    }
    live
}

/// The app to become.
///
/// # Errors
/// Exit 64 when no command is given or the user is not known.
pub(crate) fn app(args: &AppArgs, check: &AppCheckArgs) -> Result<AppConfig> {
    if args.command.is_empty() {
        return Err(usage("no command to become").help(
            "an image's ENTRYPOINT empties the CMD that it inherits: say CMD again after it, or give it behind --; volseed seed only seeds",
        ));
    }
    let user = args.user.as_ref().map(user).transpose()?;
    let programs = only_for::programs(&args.command);
    let seeds = |commands: &Commands| programs.iter().any(|program| commands.matches(program));
    if !args.supervise && !check.admin.is_empty() {
        return Err(usage("--admin needs --supervise: without it, only the app is left")
            .help("leave it out, or let volseed stay with --supervise"));
    }
    let seeds = !only_for::is_own(&args.command, &programs) && args.only_for.as_ref().is_none_or(seeds);
    let is_own = programs.iter().any(|program| Path::new(program).file_name() == Some("volseed".as_ref()));
    Ok(AppConfig { args: args.clone(), check: check.clone(), user, seeds, is_own, programs })
}

fn user(spec: &Spec) -> Result<Identity> {
    let wrong = |cause| Error::new(Exit::Usage, "option --user", cause);
    Database::default().identity(spec).map_err(wrong)
}

/// The program of `--hook`: found now, since it runs in the volume's root.
fn hook(program: &Path, as_user: Option<&Spec>) -> Result<Hook> {
    let wrong = |cause: &str| {
        Error::new(Exit::Usage, format!("option --hook {}", program.display()), cause)
            .help("name a program that is in the image, and can be executed")
    };
    let found = commands::find(program.as_os_str()).ok_or_else(|| wrong("there is no such program"))?;
    let program = std::path::absolute(&found).map_err(|_| wrong("this directory is gone"))?;
    Ok(Hook { program, user: as_user.map(user).transpose()? })
}

/// The question of `volseed health`, put to the server that these options ask for: its own, or those of the
/// volseed at work.
pub(crate) fn health(
    question: &HealthArgs,
    server: &ServerArgs,
    admin: &[Address],
    check: &AppCheck,
) -> HealthConfig {
    let path = match (question.started, question.ready) {
        (true, _) => server.started_path.clone(),
        (_, true) => server.ready_path.clone(),
        _ => live_paths(server),
    };
    HealthConfig {
        // The one that is right for longest.
        listen: admin.iter().chain(&server.listen).next().cloned(),
        path: path.into_iter().next().unwrap_or_default(),
        timeout: question.timeout,
        app_check: check.clone(),
    }
}

/// A volume to seed, or, for `wait` and `status`, to look at: that needs no source.
///
/// # Errors
/// Exit 64: what is missing or contradicts itself.
pub(crate) fn volume(args: &VolumeArgs, copy: Option<&CopyArgs>) -> Result<VolumeConfig> {
    let to = args.to.clone().ok_or_else(|| missing("--to DIR", "VOLSEED_TO"))?;
    args.sentinel.as_deref().map_or(Ok(()), check_sentinel)?;
    args.state_dir.as_deref().map_or(Ok(()), |dir| check_state_dir(dir, &to))?;
    let from = copy.map(|copy| source(copy, args.sentinel.as_deref())).transpose()?;
    let copy = copy.cloned().unwrap_or_default();
    let wrong = |cause| Error::new(Exit::Usage, "option --chown", cause);
    let owner = copy.chown.as_ref().map(|spec| Database::default().owner(spec).map_err(wrong)).transpose()?;
    Ok(VolumeConfig {
        to,
        from: from.unwrap_or_default(),
        state_dir: args.state_dir.clone(),
        sentinel: args.sentinel.clone(),
        exclude: copy.exclude,
        existing: copy.existing,
        adopt: copy.adopt,
        owner,
        chmod: copy.chmod,
        times: !copy.no_times,
        strict: copy.strict,
        workers: copy.workers,
        memory: copy.memory.0,
        max_entries: copy.max_entries,
        seed_version: args.seed_version.clone(),
        lock: args.lock,
        wait_timeout: args.wait_timeout,
        repair: RepairOptions::default(),
        upgrade: UpgradeOptions::default(),
        hook: None,
    })
}

/// A volume to seed or to upgrade.
///
/// # Errors
/// As [`volume`]; exit 64 where there is no such hook, or an upgrade has no version to lead to, or reads a source that cannot be read twice.
pub(crate) fn seeded(
    args: &VolumeArgs,
    copy: &CopyArgs,
    upgrade: &UpgradeArgs,
    as_user: Option<&Spec>,
) -> Result<VolumeConfig> {
    let hook = upgrade.hook.as_deref().map(|program| hook(program, as_user)).transpose()?;
    let volume = VolumeConfig { hook, ..volume(args, Some(copy))? };
    let Some((option, versions)) = versions(&upgrade.versions, &volume)? else { return Ok(volume) };
    if volume.from.as_os_str() == "-" {
        return Err(usage(format!("{option} cannot read standard input: it reads the source twice"))
            .help("give --from a directory or an archive"));
    }
    Ok(VolumeConfig {
        upgrade: UpgradeOptions {
            keep: upgrade.keep.clone(),
            protect: upgrade.protect.clone(),
            max_delete: upgrade.max_delete,
            ..versions
        },
        ..volume
    })
}

/// The volume that is waited for.
///
/// # Errors
/// As [`volume`]; exit 64 where a version is asked for, and not which.
pub(crate) fn awaited(args: &WaitArgs) -> Result<VolumeConfig> {
    let volume = volume(&args.volume, None)?;
    let upgrade = versions(&args.versions, &volume)?.map(|(_, upgrade)| upgrade).unwrap_or_default();
    Ok(VolumeConfig { upgrade, ..volume })
}

/// Which volumes become ones at the version of `volume`, and the option that says so.
fn versions(args: &VersionArgs, volume: &VolumeConfig) -> Result<Option<(&'static str, UpgradeOptions)>> {
    let option = match (args.upgrade.is_empty(), &args.rollback_from) {
        (false, _) => "--upgrade",
        (true, Some(_)) => "--rollback-from",
        (true, None) => return Ok(None),
    };
    if volume.seed_version.is_none() {
        return Err(usage(format!("{option} needs --seed-version")).help(
            "give --seed-version TEXT or set VOLSEED_SEED_VERSION: the version that a volume is brought to",
        ));
    }
    let (from, rollback_from) = (args.upgrade.clone(), args.rollback_from.clone());
    Ok(Some((option, UpgradeOptions { from, rollback_from, ..UpgradeOptions::default() })))
}

/// The volume that is repaired.
///
/// # Errors
/// As [`volume`].
pub(crate) fn repair(args: &RepairArgs) -> Result<VolumeConfig> {
    let repair = RepairOptions { replaces: args.modified, reads_all: args.digest };
    let existing = if args.modified { Existing::Overwrite } else { Existing::Keep };
    Ok(VolumeConfig { repair, existing, ..volume(&args.volume, Some(&args.copy))? })
}

/// The volume that a doctor looks at; it needs no source.
///
/// # Errors
/// As [`volume`].
pub(crate) fn examined(args: &DoctorArgs) -> Result<VolumeConfig> {
    volume(&args.volume, args.copy.from.is_some().then_some(&args.copy))
}

fn missing(flag: &str, env: &str) -> Error {
    usage(format!("{flag} is missing")).help(format!("give {flag} or set {env}"))
}

fn check_sentinel(sentinel: &Path) -> Result<()> {
    let plain = sentinel.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !sentinel.as_os_str().is_empty() && !sentinel.starts_with(DIRECTORY) {
        return Ok(());
    }
    Err(usage(format!(
        "--sentinel {} must be a path below the volume's root, without '..', and not volseed's own",
        sentinel.display()
    )))
}

fn check_state_dir(dir: &Path, to: &Path) -> Result<()> {
    let cause = if dir.file_name().and_then(OsStr::to_str).is_none() {
        "must end in the name of a directory"
    } else if dir.starts_with(to) {
        "is inside of --to: without it, the state is in .volseed there"
    } else if to.starts_with(dir) {
        "is around --to: it holds volseed's state alone"
    } else {
        return Ok(());
    };
    Err(usage(format!("--state-dir {} {cause}", dir.display())))
}

/// The source of a seed, where what is said of that can be.
fn source(copy: &CopyArgs, sentinel: Option<&Path>) -> Result<PathBuf> {
    let from = copy.from.clone().ok_or_else(|| missing("--from PATH", "VOLSEED_FROM"))?;
    let leaves_out = |exclude: &&Exclude| sentinel.is_some_and(|sentinel| exclude.leaves_out(sentinel));
    if let Some(exclude) = copy.exclude.iter().find(leaves_out) {
        return Err(usage(format!("--exclude {} leaves out the file of --sentinel", exclude.as_str())));
    }
    if copy.adopt != Adopt::AsIs && from.as_os_str() == "-" {
        return Err(usage("--adopt cannot read standard input: it would have to be read twice")
            .help("give --from a directory or an archive, or leave out --adopt"));
    }
    if copy.memory.0 < MIN_MEMORY.0 {
        return Err(usage(format!("--memory {} is less than {MIN_MEMORY}", copy.memory)));
    }
    Ok(from)
}
