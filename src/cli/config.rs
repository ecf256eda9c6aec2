//! `Config`: what this run has to do, resolved once, valid by construction.
//!
//! Flags beat environment variables (the command line's parser has merged those two), both beat the
//! file, and the file beats the defaults. Touches no volume and no source.

pub(crate) mod file;

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::only_for;
use super::values::{
    Address, AppCheck, Commands, Exclude, Existing, ExitMap, HttpStatus, LockMode, LogFormat, LogLevel,
    ModeChange, PassSocket, ProbePath, Rewrite, ShowProgress, SignalScope, Size, SocketMode, Span, Workers,
};
use super::{AppArgs, AppCheckArgs, CopyArgs, HealthArgs, LogArgs, ServerArgs, VolumeArgs};
use crate::error::{Error, Quoted, Result};
use crate::exit::Exit;
use crate::system::users::{Database, Identity};

/// Default of `--memory`: what 64 writers need for one write of 1 MiB each, the largest that an NFS
/// mount sends at once.
const MEMORY: Size = Size(64 << 20);
/// Least `--memory`: four buffers of 1 MiB keep two processors busy.
const MEMORY_LEAST: Size = Size(4 << 20);
/// Default of `--max-entries`: fifty times the largest image that we know.
const MAX_ENTRIES: u64 = 2_000_000;
/// Default of `--stall`.
const STALL: Duration = Duration::from_secs(120);
/// Default of `--grace`: with the second that follows it is below the 10 s of `docker stop`.
const GRACE: Duration = Duration::from_secs(8);
/// Default of `--listen-mode`: a proxy of another user asks while it seeds, and nginx makes its own
/// sockets so. Who may reach the socket at all is up to the directory that it is in.
const SOCKET_MODE: SocketMode = SocketMode(0o666);
/// Default of `volseed health --timeout`: below Docker's 30 s and Kubernetes' habit of a few.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// The first word of a supervisor's command line, by which others know it. Not for people.
pub const SUPERVISOR: &str = "supervise";

/// What all volumes of a run have in common, and the volumes.
#[derive(Debug)]
pub struct Config {
    /// In the order in which they are seeded; at least one.
    pub volumes: Vec<VolumeConfig>,
    /// The health server, where one is wanted.
    pub server: Option<ServerConfig>,
}

/// One volume and its seed.
#[derive(Debug, Clone)]
pub struct VolumeConfig {
    /// The volume's root.
    pub to: PathBuf,
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
        self.state_dir.clone().unwrap_or_else(|| self.to.join(crate::volume::records::DIRECTORY))
    }
}

/// The health server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where it listens until the hand-over.
    pub listen: Vec<Address>,
    /// Who may connect to its Unix sockets.
    pub access: SocketAccess,
    /// Where it listens for the app's whole life.
    pub admin: Vec<Address>,
    /// Paths of the liveness probe.
    pub live: Vec<String>,
    /// Paths of the readiness probe.
    pub ready: Vec<String>,
    /// Paths of the startup probe.
    pub started: Vec<String>,
    /// Path of the metrics.
    pub metrics: String,
    /// A page for browsers in place of ours.
    pub page: Option<PathBuf>,
    /// What every other path answers while seeding.
    pub seeding_status: u16,
    /// Not live after this long without progress.
    pub stall: Duration,
}

/// Mode and owner of a Unix socket's file.
#[derive(Debug, Clone)]
pub struct SocketAccess {
    /// The permission bits.
    pub mode: u32,
    /// User and group, where it is not to be our own.
    pub owner: Option<(u32, u32)>,
}

/// The app to become.
#[derive(Debug)]
pub struct AppConfig {
    /// The command and its arguments; not empty.
    pub command: Vec<OsString>,
    /// Who it runs as.
    pub user: Option<Identity>,
    /// Whether this command wants the volumes seeded.
    pub seeds: bool,
    /// What it starts in the end, as far as that can be told: what `--only-for` was compared with.
    pub programs: Vec<OsString>,
    /// How it gets the sockets of the health server; not at all where they are closed.
    pub pass_socket: Option<PassSocket>,
    /// How it is asked whether it is ready.
    pub check: AppCheck,
    /// Where that is told for its whole life.
    pub admin: Vec<Address>,
    /// How it is supervised; by nobody where it becomes this process.
    pub supervise: Option<SuperviseConfig>,
}

/// How a supervisor treats the app.
#[derive(Debug, Clone, Default)]
pub struct SuperviseConfig {
    /// Who gets a signal that is passed on.
    pub scope: SignalScope,
    /// Signals that are passed on as others; the first that fits.
    pub rewrite: Vec<Rewrite>,
    /// Exit codes that become others; the first that fits.
    pub exit_map: Vec<ExitMap>,
    /// What the app may take to end after SIGTERM.
    pub grace: Duration,
    /// What starts that, beside SIGTERM.
    pub stop_signal: Option<u8>,
}

/// The question of `volseed health`.
#[derive(Debug)]
pub struct HealthConfig {
    /// Where the server would be.
    pub listen: Option<Address>,
    /// The path to ask.
    pub path: String,
    /// How long to wait for the answer.
    pub timeout: Duration,
    /// How to ask the app after the hand-over.
    pub app_check: AppCheck,
}

/// What is logged.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
    /// Whether there may be a bar.
    pub progress: ShowProgress,
}

/// The configuration file's content, each value as the type that its option has.
#[derive(Debug, Default)]
pub struct ConfigFile {
    path: PathBuf,
    volumes: Vec<(VolumeArgs, CopyArgs)>,
    server: ServerArgs,
    app_check: AppCheckArgs,
    app: AppArgs,
    log: LogArgs,
}

impl ConfigFile {
    /// Reads the file named, or `/etc/volseed.toml` where there is one.
    ///
    /// # Errors
    /// Exit 64 or 66, with table and key.
    pub fn read(named: Option<&Path>) -> Result<ConfigFile> {
        file::read(named)
    }
}

/// What is logged, by flags, environment and file.
pub fn log(args: &LogArgs, file: &ConfigFile) -> LogConfig {
    LogConfig {
        format: args.log.or(file.log.log).unwrap_or(LogFormat::Text),
        level: args.log_level.or(file.log.log_level).unwrap_or(LogLevel(tracing::Level::INFO)),
        progress: args.progress.or(file.log.progress).unwrap_or_default(),
    }
}

/// The volumes to seed, or, for `wait` and `status`, to look at: those need no source.
///
/// # Errors
/// Exit 64: what is missing or contradicts itself.
pub fn volumes(args: &VolumeArgs, copy: Option<&CopyArgs>, file: &ConfigFile) -> Result<Vec<VolumeConfig>> {
    let wants_source = copy.is_some();
    let copy = copy.cloned().unwrap_or_default();
    let several = file.volumes.len() > 1;
    for (flag, given) in [
        ("--to", args.to.is_some()),
        ("--from", copy.from.is_some()),
        ("--sentinel", args.sentinel.is_some()),
        ("--state-dir", args.state_dir.is_some()),
    ] {
        if several && given {
            return Err(usage(format!(
                "{flag} names one volume, but the configuration file has {}",
                file.volumes.len()
            )));
        }
    }
    let none = [(VolumeArgs::default(), CopyArgs::default())];
    let tables = if file.volumes.is_empty() { &none[..] } else { &file.volumes[..] };
    let in_file = |number: usize, error: Error| match file.volumes.len() {
        0 => error,
        _ => error.within(&format!("configuration {}, [[volume]] {number}", file.path.as_path().quoted())),
    };
    let mut volumes: Vec<VolumeConfig> = Vec::with_capacity(tables.len());
    for (number, (of_volume, of_copy)) in tables.iter().enumerate() {
        let volume = volume(&merge_volume(args, of_volume), &merge_copy(&copy, of_copy), wants_source)
            .map_err(|error| in_file(number + 1, error))?;
        if volumes.iter().any(|other| other.to == volume.to) {
            return Err(usage(format!("two volumes have the root {}", volume.to.display())));
        }
        if volumes.iter().any(|other| other.state_path() == volume.state_path()) {
            let path = volume.state_path();
            return Err(usage(format!("two volumes have their state in {}", path.display())));
        }
        volumes.push(volume);
    }
    if wants_source && volumes.iter().filter(|volume| volume.from.as_os_str() == "-").count() > 1 {
        return Err(usage("standard input can seed one volume only".into()));
    }
    Ok(volumes)
}

/// The health server, where `--listen` or `--admin` asks for one.
///
/// # Errors
/// Exit 64 when the sockets' owner is not known.
pub fn server(args: &ServerArgs, admin: &[Address], file: &ConfigFile) -> Result<Option<ServerConfig>> {
    let Some(server) = server_asked(args, admin, file) else { return Ok(None) };
    let owner = args.listen_owner.as_ref().or(file.server.listen_owner.as_ref());
    let wrong = |cause| Error::new(Exit::Usage, "option --listen-owner", cause);
    let owner = owner.map(|owner| Database::default().identity(owner).map_err(wrong)).transpose()?;
    let mode = args.listen_mode.or(file.server.listen_mode).unwrap_or(SOCKET_MODE);
    let access = SocketAccess { mode: mode.0, owner: owner.map(|owner| (owner.uid, owner.gid)) };
    Ok(Some(ServerConfig { access, ..server }))
}

fn server_asked(args: &ServerArgs, admin: &[Address], file: &ConfigFile) -> Option<ServerConfig> {
    let file = &file.server;
    let paths = |flags: &[ProbePath], file: &[ProbePath], default: &str| -> Vec<String> {
        match &given(flags, file)[..] {
            [] => vec![default.to_owned()],
            given => given.iter().map(|path| path.0.clone()).collect(),
        }
    };
    let mut live = paths(&args.live_path, &file.live_path, "/livez");
    if !live.iter().any(|path| path == "/healthz") {
        live.push("/healthz".to_owned());
    }
    let listen = given(&args.listen, &file.listen);
    if listen.is_empty() && admin.is_empty() {
        return None;
    }
    Some(ServerConfig {
        listen,
        access: SocketAccess { mode: SOCKET_MODE.0, owner: None },
        admin: admin.to_vec(),
        live,
        ready: paths(&args.ready_path, &file.ready_path, "/readyz"),
        started: paths(&args.started_path, &file.started_path, "/startupz"),
        metrics: args
            .metrics_path
            .clone()
            .or_else(|| file.metrics_path.clone())
            .map_or("/metrics".into(), |path| path.0),
        page: args.page.clone().or_else(|| file.page.clone()),
        seeding_status: args.seeding_status.or(file.seeding_status).unwrap_or(HttpStatus(503)).0,
        stall: args.stall.or(file.stall).map_or(STALL, |span| span.0),
    })
}

/// The app to become.
///
/// # Errors
/// Exit 64 when no command is given or the user is not known.
pub fn app(args: &AppArgs, check: &AppCheckArgs, file: &ConfigFile) -> Result<AppConfig> {
    if args.command.is_empty() {
        return Err(usage("no command to become".into()).help(
            "an image's ENTRYPOINT empties the CMD that it inherits: say CMD again after it, or give it behind --; volseed seed only seeds",
        ));
    }
    let user = args.user.as_ref().or(file.app.user.as_ref());
    let user = user
        .map(|spec| {
            Database::default()
                .identity(spec)
                .map_err(|cause| Error::new(Exit::Usage, "option --user", cause))
        })
        .transpose()?;
    let programs = only_for::programs(&args.command);
    let only_for: Option<&Commands> = args.only_for.as_ref().or(file.app.only_for.as_ref());
    let supervise = args.supervise.or(file.app.supervise).unwrap_or(false).then(|| SuperviseConfig {
        scope: args.signal_scope.or(file.app.signal_scope).unwrap_or_default(),
        rewrite: given(&args.rewrite, &file.app.rewrite),
        exit_map: given(&args.exit_map, &file.app.exit_map),
        grace: args.grace.or(file.app.grace).map_or(GRACE, |grace| grace.0),
        stop_signal: args.stop_signal.or(file.app.stop_signal).map(|signal| signal.0),
    });
    let admin = given(&check.admin, &file.app_check.admin);
    if supervise.is_none() && !admin.is_empty() {
        return Err(usage("--admin needs --supervise: without it, only the app is left".into())
            .help("leave it out, or let volseed stay with --supervise"));
    }
    Ok(AppConfig {
        check: app_check(check, file),
        admin,
        seeds: only_for.is_none_or(|commands| programs.iter().any(|program| commands.matches(program))),
        programs,
        command: args.command.clone(),
        user,
        pass_socket: args.pass_socket.or(file.app.pass_socket),
        supervise,
    })
}

fn app_check(args: &AppCheckArgs, file: &ConfigFile) -> AppCheck {
    args.app_check.clone().or_else(|| file.app_check.app_check.clone()).unwrap_or(AppCheck::None)
}

/// A list that is given as a whole or not at all.
fn given<T: Clone>(flags: &[T], file: &[T]) -> Vec<T> {
    if flags.is_empty() { file.to_vec() } else { flags.to_vec() }
}

/// The question of `volseed health`, put to the server that these options ask for: its own, or those of
/// the volseed at work.
pub fn health(
    question: &HealthArgs,
    server: &ServerArgs,
    check: &AppCheckArgs,
    file: &ConfigFile,
) -> HealthConfig {
    let admin = given(&check.admin, &file.app_check.admin);
    let server = server_asked(server, &admin, file);
    let path = server.as_ref().map(|server| {
        let paths = match (question.started, question.ready) {
            (true, _) => &server.started,
            (_, true) => &server.ready,
            _ => &server.live,
        };
        paths[0].clone()
    });
    HealthConfig {
        // The one that is right for longest.
        listen: server.and_then(|server| server.admin.into_iter().chain(server.listen).next()),
        path: path.unwrap_or_default(),
        timeout: question.timeout.map_or(HEALTH_TIMEOUT, |Span(timeout)| timeout),
        app_check: app_check(check, file),
    }
}

fn volume(args: &VolumeArgs, copy: &CopyArgs, wants_source: bool) -> Result<VolumeConfig> {
    let missing =
        |flag: &str, env: &str| usage(format!("{flag} is missing")).help(format!("give {flag} or set {env}"));
    let to = args.to.clone().ok_or_else(|| missing("--to DIR", "VOLSEED_TO"))?;
    let from = match &copy.from {
        Some(from) => from.clone(),
        None if wants_source => return Err(missing("--from PATH", "VOLSEED_FROM")),
        None => PathBuf::new(),
    };
    if let Some(sentinel) = &args.sentinel {
        let plain = sentinel.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain
            || sentinel.as_os_str().is_empty()
            || sentinel.starts_with(crate::volume::records::DIRECTORY)
        {
            return Err(usage(format!(
                "--sentinel {} must be a path below the volume's root, without '..', and not volseed's own",
                sentinel.display()
            )));
        }
    }
    if let Some(dir) = &args.state_dir {
        let wrong = |cause: &str| Err(usage(format!("--state-dir {} {cause}", dir.display())));
        if dir.file_name().and_then(OsStr::to_str).is_none() {
            return wrong("must end in the name of a directory");
        }
        if dir.starts_with(&to) {
            return wrong("is inside of --to: without it, the state is in .volseed there");
        }
        if to.starts_with(dir) {
            return wrong("is around --to: it holds volseed's state alone");
        }
    }
    let left_out = |sentinel: &PathBuf| copy.exclude.iter().find(|exclude| exclude.leaves_out(sentinel));
    if let Some(exclude) = args.sentinel.as_ref().and_then(left_out) {
        return Err(usage(format!("--exclude {} leaves out the file of --sentinel", exclude.as_str())));
    }
    let memory = copy.memory.unwrap_or(MEMORY);
    if memory.0 < MEMORY_LEAST.0 {
        return Err(usage(format!("--memory {memory} is less than {MEMORY_LEAST}")));
    }
    let owner = copy
        .chown
        .as_ref()
        .map(|spec| {
            Database::default().owner(spec).map_err(|cause| Error::new(Exit::Usage, "option --chown", cause))
        })
        .transpose()?;
    Ok(VolumeConfig {
        to,
        from,
        state_dir: args.state_dir.clone(),
        sentinel: args.sentinel.clone(),
        exclude: copy.exclude.clone(),
        existing: copy.existing.unwrap_or(Existing::Keep),
        owner,
        chmod: copy.chmod.clone(),
        times: !copy.no_times.unwrap_or(false),
        strict: copy.strict.unwrap_or(false),
        workers: copy.workers.unwrap_or(Workers::Auto),
        memory: memory.0,
        max_entries: copy.max_entries.unwrap_or(MAX_ENTRIES),
        seed_version: args.seed_version.clone().map(|version| version.0),
        lock: args.lock.unwrap_or(LockMode::Auto),
        wait_timeout: args.wait_timeout.map(|span| span.0),
    })
}

fn merge_volume(flags: &VolumeArgs, file: &VolumeArgs) -> VolumeArgs {
    VolumeArgs {
        to: flags.to.clone().or_else(|| file.to.clone()),
        state_dir: flags.state_dir.clone().or_else(|| file.state_dir.clone()),
        sentinel: flags.sentinel.clone().or_else(|| file.sentinel.clone()),
        seed_version: flags.seed_version.clone().or_else(|| file.seed_version.clone()),
        lock: flags.lock.or(file.lock),
        wait_timeout: flags.wait_timeout.or(file.wait_timeout),
        config: None,
    }
}

fn merge_copy(flags: &CopyArgs, file: &CopyArgs) -> CopyArgs {
    CopyArgs {
        from: flags.from.clone().or_else(|| file.from.clone()),
        exclude: given(&flags.exclude, &file.exclude),
        existing: flags.existing.or(file.existing),
        chown: flags.chown.clone().or_else(|| file.chown.clone()),
        chmod: flags.chmod.clone().or_else(|| file.chmod.clone()),
        no_times: flags.no_times.or(file.no_times),
        strict: flags.strict.or(file.strict),
        workers: flags.workers.or(file.workers),
        memory: flags.memory.or(file.memory),
        max_entries: flags.max_entries.or(file.max_entries),
    }
}

fn usage(cause: String) -> Error {
    Error::new(Exit::Usage, "command line", cause)
}
