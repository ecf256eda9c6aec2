//! Every flag, its environment variable and its help text, and the pages that `--help` prints.
//!
//! Values are only parsed here; what follows from them is for `config`. The first paragraph of a
//! field's comment is its line in `--help`; all of it is its entry in `docs/options.md`.

pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod environment;
mod file;
pub(crate) mod install;
mod only_for;
pub(crate) mod values;
pub(crate) mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, Command, CommandFactory, Parser, Subcommand};

use crate::error::Error;
use crate::exit::Exit;
use crate::system::users::Spec;
use values::{
    Address, Adopt, AppCheck, Commands, Exclude, Existing, LockMode, LogFormat, Mapping, ModeChange,
    PassSocket, ShowProgress, SignalScope, Size, VersionPattern, Workers,
};

/// Seeds a container's persistent volume before its app starts: in parallel, once, and answering health
/// checks meanwhile.
#[derive(Debug, Parser)]
#[command(name = "volseed", version = env!("VOLSEED_VERSION"), disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Seed the volume if needed, then become CMD (the default)
    Run(Box<RunArgs>),
    /// Seed the volume if needed, then exit
    Seed(Box<SeedArgs>),
    /// Never seed: exit, or become CMD, once the volume is seeded
    Wait(Box<WaitArgs>),
    /// Check the health of this container: exit 0 or 1
    Health(HealthArgs),
    /// Print what is recorded about the volume
    Status(StatusArgs),
    /// Compare the volume with what was seeded: exit 0 or 1
    Verify(VerifyArgs),
    /// Put back what is missing on a seeded volume
    Repair(RepairArgs),
    /// Print what a start would do, and do nothing: exit 0, 1 or 78
    Plan(PlanArgs),
    /// Look at what the volume keeps and what a seed would cost: exit 0 or 1
    Doctor(DoctorArgs),
    /// Copy this binary to a directory that another container mounts
    Install(InstallArgs),
}

/// `volseed run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    #[command(flatten)]
    pub copy: CopyArgs,
    #[command(flatten)]
    pub upgrade: UpgradeArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub check: AppCheckArgs,
    #[command(flatten)]
    pub app: AppArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `volseed seed`.
#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    #[command(flatten)]
    pub copy: CopyArgs,
    #[command(flatten)]
    pub upgrade: UpgradeArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `volseed wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    #[command(flatten)]
    pub versions: VersionArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub check: AppCheckArgs,
    #[command(flatten)]
    pub app: AppArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `volseed health`.
#[derive(Debug, Args, Clone)]
pub(crate) struct HealthArgs {
    /// Is it alive? (the default)
    #[arg(long, group = "probe", help_heading = "Question")]
    pub live: bool,
    /// Is the app started?
    #[arg(long, group = "probe", help_heading = "Question")]
    pub started: bool,
    /// Is the app ready?
    #[arg(long, group = "probe", help_heading = "Question")]
    pub ready: bool,
    /// Timeout
    #[arg(long, value_name = "DUR", help_heading = "Question", default_value = "3s", value_parser = values::span)]
    pub timeout: Duration,
    #[command(flatten)]
    pub app: AppCheckArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    /// TOML file [/etc/volseed.toml]
    #[arg(long, env = "VOLSEED_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
}

/// `volseed status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// One JSON document, for machines
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `volseed verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// Read the data of every file, instead of only its size and time
    #[arg(long, help_heading = "Output")]
    pub digest: bool,
    /// One JSON object on each line, for machines
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `volseed repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    #[command(flatten)]
    pub copy: CopyArgs,
    /// Also replace what differs; what it replaces is kept in `.volseed/old`
    #[arg(long, help_heading = "Repair")]
    pub modified: bool,
    /// Read the data of every file to find what differs, instead of only its size and time
    #[arg(long, help_heading = "Repair")]
    pub digest: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `volseed plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    #[command(flatten)]
    pub copy: CopyArgs,
    #[command(flatten)]
    pub upgrade: UpgradeArgs,
    /// One JSON object per line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `volseed doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub volume: VolumeArgs,
    #[command(flatten)]
    pub copy: CopyArgs,
    /// Wait for a second doctor on this volume
    ///
    /// Run it in two containers at the same time. Each finds out what it sees of the other: locks, files that both
    /// create, mapped pages. It waits for `--wait-timeout`, one minute if not set.
    #[arg(long, help_heading = "Doctor")]
    pub peer: bool,
    /// One JSON object per line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `volseed install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The directory; the binary is `volseed` in it
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Which volume, and how its state is recognised.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Volume")]
pub(crate) struct VolumeArgs {
    /// Root of the volume
    ///
    /// The directory that the volume is mounted on. It must exist, and must not be `/`. If it is on the
    /// container's own layer, volseed logs a warning, because the data will be lost with the container.
    #[arg(long, env = "VOLSEED_TO", value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Where volseed keeps its state
    ///
    /// A directory that replaces `.volseed` in the volume's root. It must be on the same mount and outside
    /// `--to`. Use it if the web root is a subdirectory of the volume (`--to /data/html --state-dir
    /// /data/.volseed`). Its parent must exist. All replicas, `wait` and `status` need the same directory.
    #[arg(long, env = "VOLSEED_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// File that marks a seeded volume
    ///
    /// Relative to the volume's root. If this file exists and volseed's own state does not, the volume was
    /// seeded before volseed was used, and is adopted (see `--adopt`). The file is published last; if the seed
    /// does not contain it, volseed creates it.
    #[arg(long, env = "VOLSEED_SENTINEL", value_name = "PATH")]
    pub sentinel: Option<PathBuf>,
    /// Version of the seed
    ///
    /// Recorded on the volume. Without `--upgrade`, a volume that was seeded with a different version is left
    /// unchanged, with a warning that names both versions. A stage of another version is not resumed.
    #[arg(long, env = "VOLSEED_SEED_VERSION", value_name = "TEXT", value_parser = values::seed_version)]
    pub seed_version: Option<String>,
    /// auto, lease or none
    ///
    /// How replicas agree on the one that seeds. `auto` uses the file system's lock if all replicas share it,
    /// and heartbeats. `lease` uses only heartbeats. `none` uses neither, and is only for a single replica.
    #[arg(long, env = "VOLSEED_LOCK", value_name = "HOW", default_value = "auto")]
    pub lock: LockMode,
    /// Maximum wait for a replica
    ///
    /// After this time, volseed exits with 75. By default, it waits as long as the other replica works. If only
    /// another user can complete the volume, `run` and `seed` wait 15 minutes.
    #[arg(long, env = "VOLSEED_WAIT_TIMEOUT", value_name = "DUR", value_parser = values::span)]
    pub wait_timeout: Option<Duration>,
    /// TOML file [/etc/volseed.toml]
    ///
    /// Seeds several volumes, with one `[[volume]]` table each. The keys are the names of the options. Flags
    /// override environment variables, and environment variables override the file. The default file is read
    /// only if it exists.
    #[arg(long, env = "VOLSEED_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Name of a switch's value, which is seldom given: `--strict=false` turns off what the file turns on.
const SWITCH: &str = "true|false";

/// What is copied, and how.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Copying")]
pub(crate) struct CopyArgs {
    /// Directory, archive, - for stdin
    ///
    /// A directory or an archive. Archives are detected by their content, not by their name: tar, uncompressed
    /// or compressed with gzip, zstd, bzip2 or xz. `-` reads an archive from standard input.
    #[arg(long, env = "VOLSEED_FROM", value_name = "PATH")]
    pub from: Option<PathBuf>,
    /// Entries to exclude
    ///
    /// Shell patterns for paths below the source's root. `*` and `?` do not match `/`. `**` matches any number
    /// of directories (`**/*.log`). An excluded directory is excluded with everything below it. A pattern with
    /// a `/` at the end matches only directories. Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_EXCLUDE", value_name = "GLOB", value_delimiter = ',')]
    pub exclude: Vec<Exclude>,
    /// keep, overwrite or fail
    ///
    /// What happens to files that are already on an unseeded volume. `keep` keeps them and leaves out the
    /// seed's files. `overwrite` replaces them with the seed's files. `fail` refuses a volume that is not
    /// empty, with exit code 78.
    #[arg(long, env = "VOLSEED_EXISTING", value_name = "WHAT", default_value = "keep")]
    pub existing: Existing,
    /// as-is, complete or refuse
    ///
    /// What happens to a volume that was seeded before volseed was used, and lacks entries of the image: a copy that
    /// was interrupted, or an installer that was deleted on purpose. `as-is` adopts it with a warning that counts them
    /// and names the first. `complete` adds them, if the sentinel is the image's. `refuse` exits with 78 and changes
    /// nothing, and so does `complete` if the sentinel is another one.
    #[arg(long, env = "VOLSEED_ADOPT", value_name = "HOW", default_value = "as-is")]
    pub adopt: Adopt,
    /// Owner of everything seeded
    ///
    /// `USER` or `USER:GROUP`, by name or number, in the format of Docker's `COPY --chown`. If only a user is
    /// given, its number is also the group. Without this option, every entry keeps the source's owner.
    #[arg(long, env = "VOLSEED_CHOWN", value_name = "USER[:GROUP]")]
    pub chown: Option<Spec>,
    /// Mode of everything seeded
    ///
    /// Octal (`0644`) or symbolic as for chmod(1) (`u=rwX,go=rX`), like Docker's `COPY --chmod`. An octal mode
    /// applies to files, FIFOs and directories alike, so most uses need a symbolic mode with `X`. `g=u` gives
    /// the group the owner's permissions, for OpenShift's arbitrary UIDs. The umask has no effect.
    #[arg(long, env = "VOLSEED_CHMOD", value_name = "MODE")]
    pub chmod: Option<ModeChange>,
    /// Do not set modification times
    ///
    /// Saves one round trip for each file on a network volume. An interrupted seed then starts from scratch.
    #[arg(long, env = "VOLSEED_NO_TIMES", value_name = SWITCH, action = ArgAction::Set, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_times: bool,
    /// Fail if something is not kept
    ///
    /// If the volume does not keep an owner, a mode or an extended attribute, volseed exits with 77. Without
    /// this option, one warning counts them.
    #[arg(long, env = "VOLSEED_STRICT", value_name = SWITCH, action = ArgAction::Set, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub strict: bool,
    /// Writers, or auto
    ///
    /// 1 to 1024. `auto` depends on the volume's file system (on NFS, on the session's slots), and stays within
    /// the container's limits of processes, memory and open files. 64 open files are enough for any seed, 32
    /// for a small one.
    #[arg(long, env = "VOLSEED_WORKERS", value_name = "N", default_value = "auto")]
    pub workers: Workers,
    /// Memory in flight
    ///
    /// Limit for file data and metadata, at least 4 MiB. In addition, volseed needs up to 32 MiB and an
    /// archive's decompression window (docs/sources.md).
    #[arg(long, env = "VOLSEED_MEMORY", value_name = "SIZE", default_value = "64MiB")]
    pub memory: Size,
    /// Maximum number of entries
    ///
    /// A seed with more entries is refused with exit code 65, because an archive of a few kilobytes can contain
    /// any number.
    #[arg(long, env = "VOLSEED_MAX_ENTRIES", value_name = "N", default_value = "2000000")]
    pub max_entries: u64,
}

/// Which volumes a new image brings to its version.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Upgrades")]
pub(crate) struct VersionArgs {
    /// Versions to upgrade from
    ///
    /// Shell patterns for the version that the volume is at (`28.*,29.*`): such a volume is upgraded to
    /// `--seed-version`, which this option needs. `*` stands for every known version, `none` for an unknown one.
    /// A volume at another older version is refused with exit code 78. Without this option, no volume is upgraded.
    /// Repeatable, or separated by commas.
    /// `wait` with it waits until the volume is at `--seed-version`, or at a newer one.
    #[arg(long, env = "VOLSEED_UPGRADE", value_name = "GLOB", value_delimiter = ',')]
    pub upgrade: Vec<VersionPattern>,
    /// Version to take back
    ///
    /// A volume at exactly this version is taken back to `--seed-version`, by the rules of an upgrade. Stop every
    /// replica of the newer image first, because it would upgrade the volume again.
    #[arg(long, env = "VOLSEED_ROLLBACK_FROM", value_name = "FROM", value_parser = values::seed_version)]
    pub rollback_from: Option<String>,
}

/// What a new image does with a volume that an older one seeded.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Upgrades")]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub versions: VersionArgs,
    /// User's changes that stay
    ///
    /// Patterns as for `--exclude`. A file that the user and the image have both changed is replaced by an upgrade,
    /// and the user's is kept in `.volseed/old`. If it matches one of these patterns, the user's file stays, and
    /// the image's is put in `.volseed/new`. If a pattern matches a directory, one change in it keeps all of it.
    /// Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_KEEP", value_name = "GLOB", value_delimiter = ',')]
    pub keep: Vec<Exclude>,
    /// Paths not to upgrade
    ///
    /// Patterns as for `--exclude`. An upgrade adds files there, but replaces and removes none. Repeatable, or
    /// separated by commas.
    #[arg(long, env = "VOLSEED_PROTECT", value_name = "GLOB", value_delimiter = ',')]
    pub protect: Vec<Exclude>,
    /// Maximum removals, in percent
    ///
    /// 0 to 100. An upgrade that would remove more than this part of the old seed's files is refused with exit
    /// code 78: the image may contain half a seed.
    #[arg(long, env = "VOLSEED_MAX_DELETE", value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_delete: u8,
    /// Program called around seeds
    ///
    /// It is called with one word: `post-seed` after the first seed, `pre-upgrade` before an upgrade changes anything, which
    /// it refuses by failing, and `post-upgrade` after it. The last two are for migrations: no app starts before
    /// `post-seed` or `post-upgrade` has succeeded, and every start calls it again until then (docs/hooks.md).
    #[arg(long, env = "VOLSEED_HOOK", value_name = "PROGRAM")]
    pub hook: Option<PathBuf>,
}

/// The health server.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Health")]
pub(crate) struct ServerArgs {
    /// Health server, such as :80
    ///
    /// Answers from before the volume is first accessed until the hand-over. Usually this is the app's own
    /// port, which volseed closes before the app starts or hands over with `--pass-socket`. `:80` means every
    /// address, including IPv6 if the system has it; `0.0.0.0:80` every IPv4 address; `[::]:80` every IPv6
    /// address. A value that begins with `/` is a Unix socket. `volseed health` asks the first address.
    /// Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<Address>,
    /// Unix sockets' mode
    ///
    /// In octal. The default lets every user of the container connect, for example a proxy. If the socket is
    /// handed to php-fpm, use the mode that its `listen.mode` would have: 0660, with `--listen-owner`.
    #[arg(long, env = "VOLSEED_LISTEN_MODE", value_name = "MODE", default_value = "0666", value_parser = values::socket_mode)]
    pub listen_mode: u32,
    /// Unix sockets' owner
    ///
    /// By name or number. If only a user is given, its group is used. The default is the user that volseed runs
    /// as.
    #[arg(long, env = "VOLSEED_LISTEN_OWNER", value_name = "USER[:GROUP]")]
    pub listen_owner: Option<Spec>,
    /// Live paths
    ///
    /// 200 while the seed makes progress, 503 once it stalls. `/healthz` is always a live path. Repeatable, or
    /// separated by commas.
    #[arg(long, env = "VOLSEED_LIVE_PATH", value_name = "PATH", value_delimiter = ',', default_values = ["/livez", "/healthz"], value_parser = values::probe_path)]
    pub live_path: Vec<String>,
    /// Readiness paths
    ///
    /// 503 until the app answers instead of volseed. Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_READY_PATH", value_name = "PATH", value_delimiter = ',', default_values = ["/readyz"], value_parser = values::probe_path)]
    pub ready_path: Vec<String>,
    /// Startup paths
    ///
    /// 503 until the app answers instead of volseed. Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_STARTED_PATH", value_name = "PATH", value_delimiter = ',', default_values = ["/startupz"], value_parser = values::probe_path)]
    pub started_path: Vec<String>,
    /// Answer on other paths
    ///
    /// 200 to 599: the status on every path that is not a probe's while the volume is seeded.
    #[arg(long, env = "VOLSEED_SEEDING_STATUS", value_name = "CODE", default_value = "503", value_parser = values::http_status)]
    pub seeding_status: u16,
    /// Metrics path
    ///
    /// OpenMetrics text, for Prometheus.
    #[arg(long, env = "VOLSEED_METRICS_PATH", value_name = "PATH", default_value = "/metrics", value_parser = values::probe_path)]
    pub metrics_path: String,
    /// HTML for browsers
    ///
    /// Shown on every path that is not a probe's, instead of the built-in page. `{{percent}}`, `{{phase}}`,
    /// `{{files}}`, `{{files_total}}`, `{{bytes}}`, `{{bytes_total}}` and `{{seconds_left}}` are replaced. At
    /// most 1 MiB.
    #[arg(long, env = "VOLSEED_PAGE", value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Not live when stalled
    ///
    /// Live turns to 503 after this long without progress.
    #[arg(long, env = "VOLSEED_STALL", value_name = "DUR", default_value = "2m", value_parser = values::span)]
    pub stall: Duration,
}

/// How the app is asked, and who may ask for its whole life.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Health")]
pub(crate) struct AppCheckArgs {
    /// http://…, tcp:PORT, none
    ///
    /// How `volseed health` checks the app after the hand-over. A URL must answer with a status below 400. A
    /// port (`tcp:9000`, `tcp:HOST:9000`) must accept a connection. A port without a host and `localhost` mean
    /// 127.0.0.1 and ::1. With `none`, the container is healthy once its main process is another program. Set
    /// it with `ENV`, because `volseed health` must still find it when volseed no longer runs.
    #[arg(long, env = "VOLSEED_APP_CHECK", value_name = "HOW", default_value = "none")]
    pub app_check: AppCheck,
    /// Health for the app's life
    ///
    /// With `--supervise`: a separate address that answers the probes' paths and the metrics for the app's
    /// whole life. Ready and started follow `--app-check`. `volseed health` asks this address first.
    #[arg(long, env = "VOLSEED_ADMIN", value_name = "ADDR", value_delimiter = ',')]
    pub admin: Vec<Address>,
}

/// The app.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "App")]
pub(crate) struct AppArgs {
    /// User that the app runs as
    ///
    /// By name or number, from the image's `/etc/passwd` and `/etc/group`. If only a user is given, the app
    /// gets all its groups. `HOME` is set. Replaces gosu and su-exec.
    #[arg(long, env = "VOLSEED_USER", value_name = "USER[:GROUP]")]
    pub user: Option<Spec>,
    /// Seed only if CMD matches
    ///
    /// Shell patterns for the command's path or its last component. Any other command starts immediately
    /// (`docker run image bash`), and one line names the words that were compared. volseed compares the command
    /// and the commands that it starts: the command that is given to a script, `env`, an init such as tini,
    /// gosu, su-exec, setpriv, nice, nohup, stdbuf or timeout, and every command in the text of a shell's `-c`.
    #[arg(long, env = "VOLSEED_ONLY_FOR", value_name = "GLOB,…")]
    pub only_for: Option<Commands>,
    /// listen-fds, nginx, php-fpm
    ///
    /// The app gets the sockets of `--listen`, open and listening. No connection is refused; new connections
    /// wait for the app. `listen-fds` is systemd's protocol (supported by gunicorn, uWSGI and many others).
    /// `nginx` and `php-fpm` are the protocols that these two use when they replace themselves; their
    /// configuration must name the same address.
    #[arg(long, env = "VOLSEED_PASS_SOCKET", value_name = "HOW")]
    pub pass_socket: Option<PassSocket>,
    /// Stay as the app's init
    ///
    /// volseed stays as the container's main process. It forwards signals, reaps orphans, ends the processes
    /// that the app leaves behind, and exits with the app's code. Without this option, the app itself becomes
    /// the main process.
    #[arg(long, env = "VOLSEED_SUPERVISE", value_name = SWITCH, action = ArgAction::Set, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub supervise: bool,
    #[command(flatten)]
    pub supervision: SuperviseArgs,
    /// The command to become, with its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// How a supervisor treats the app.
#[derive(Debug, Args, Clone, Default)]
pub(crate) struct SuperviseArgs {
    /// Grace after SIGTERM
    ///
    /// With `--supervise`: how long the app may run after a SIGTERM. Then every remaining process gets SIGTERM
    /// and, a second later, SIGKILL. With `0`, volseed waits only for that second, and a second SIGTERM
    /// shortens it. The default stays within the 10 s of `docker stop`.
    #[arg(long, env = "VOLSEED_GRACE", value_name = "DUR", default_value = "8s", value_parser = values::amounts::time)]
    pub grace: Duration,
    /// Signal that stops the app
    ///
    /// With `--supervise`: the image's STOPSIGNAL, such as WINCH for apache or QUIT for nginx and php-fpm. It
    /// is forwarded like any other signal, and starts the grace.
    #[arg(long, env = "VOLSEED_STOP_SIGNAL", value_name = "SIGNAL", value_parser = values::stop_signal)]
    pub stop_signal: Option<u8>,
    /// group or child
    ///
    /// With `--supervise`: whether signals are forwarded to the app's process group or only to its main
    /// process.
    #[arg(long, env = "VOLSEED_SIGNAL_SCOPE", value_name = "WHO", default_value = "group")]
    pub signal_scope: SignalScope,
    /// Forward a signal as another
    ///
    /// With `--supervise`: for example `TERM:QUIT` for nginx and php-fpm, which end gracefully on SIGQUIT. `TO`
    /// 0 drops the signal. Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_REWRITE", value_name = "FROM:TO", value_delimiter = ',', value_parser = values::rewrite)]
    pub rewrite: Vec<Mapping>,
    /// Exit with another code
    ///
    /// With `--supervise`: for example `143:0` for an app that ends normally by SIGTERM. volseed's own codes
    /// are not mapped. Repeatable, or separated by commas.
    #[arg(long, env = "VOLSEED_EXIT_MAP", value_name = "FROM:TO", value_delimiter = ',', value_parser = values::exit_map)]
    pub exit_map: Vec<Mapping>,
}

/// What is logged.
#[derive(Debug, Args, Clone, Copy)]
#[command(next_help_heading = "Log, on standard error")]
pub(crate) struct LogArgs {
    /// text or json
    ///
    /// `json` writes one object per line.
    #[arg(long = "log", env = "VOLSEED_LOG", value_name = "FORMAT", default_value = "text")]
    pub format: LogFormat,
    /// error, warn, info, debug
    #[arg(long = "log-level", env = "VOLSEED_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = values::log_levels())]
    pub level: tracing::Level,
    /// auto or none
    ///
    /// `auto` draws a bar if standard error is a terminal and the log is text. `none` writes the log's progress
    /// lines there too.
    #[arg(long, env = "VOLSEED_PROGRESS", value_name = "WHEN", default_value = "auto")]
    pub progress: ShowProgress,
}

/// The name of every environment variable that volseed reads.
pub fn environment() -> Vec<String> {
    let mut names: Vec<String> = command()
        .get_subcommands()
        .flat_map(|verb| verb.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The commands and options as they are, with their pages.
pub fn command() -> Command {
    let root = Cli::command();
    let names: Vec<String> = root.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let page = root_page(&root);
    let root = names.into_iter().fold(root, |root, name| {
        root.mut_subcommand(name, |verb| {
            let page = verb_page(&verb);
            verb.override_help(page)
        })
    });
    root.override_help(page)
}

pub(crate) fn usage_error(error: &clap::Error) -> Error {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // clap's first paragraph is the message; its tips and usage follow.
    let message = text.split("\n\n").next().unwrap_or(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let help = tip.map_or_else(
        || "volseed --help shows the commands, volseed COMMAND --help their options".into(),
        str::to_owned,
    );
    usage(message).help(help)
}

/// An error in what the options say together.
fn usage(cause: impl Into<String>) -> Error {
    Error::new(Exit::Usage, "command line", cause)
}

fn root_page(root: &Command) -> String {
    let mut page = format!(
        "volseed {}\n{}\n\nUsage: volseed [run] [OPTIONS] -- CMD [ARG]...\n       volseed COMMAND [OPTIONS]\n\nCommands:\n",
        env!("VOLSEED_VERSION"),
        "Seeds a container's persistent volume before its app starts: in parallel, once,\nand answering health checks meanwhile.",
    );
    for verb in root.get_subcommands() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!("  {:<9}{about}\n", verb.get_name()));
    }
    page.push_str(
        "
volseed COMMAND --help shows a command's options. Each has an environment
variable. Set it with ENV in the image, so that `docker exec` uses it too.

Example, in a Dockerfile:
  ENV VOLSEED_FROM=/seed.tar.gz VOLSEED_TO=/var/www/html VOLSEED_LISTEN=:80
  HEALTHCHECK CMD [\"volseed\", \"health\"]
  ENTRYPOINT [\"volseed\", \"--\"]
  CMD [\"apache2-foreground\"]
",
    );
    page
}

const FLAG_WIDTH: usize = 23;
const ENV_WIDTH: usize = 24;
const PAGE_WIDTH: usize = 80;

fn verb_page(verb: &Command) -> String {
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let takes = |id: &str| verb.get_arguments().any(|arg| arg.get_id() == id);
    let usage = match (takes("command"), takes("directory")) {
        (true, _) if verb.get_name() == "wait" => "[OPTIONS] [-- CMD [ARG]...]",
        (true, _) => "[OPTIONS] -- CMD [ARG]...",
        (_, true) => "DIR",
        _ => "[OPTIONS]",
    };
    let mut page = format!("{about}\n\nUsage: volseed {} {usage}\n", verb.get_name());
    let options: Vec<&Arg> =
        verb.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help")).collect();
    let mut headings: Vec<&str> = options.iter().filter_map(|arg| arg.get_help_heading()).collect();
    headings.dedup();
    for heading in headings {
        page.push_str(&format!("\n{heading}:\n"));
        for arg in options.iter().filter(|arg| arg.get_help_heading() == Some(heading)) {
            page.push_str(&option_lines(arg));
        }
    }
    page
}

/// The flag of an option with its value's name: `--from PATH`.
pub fn flag(arg: &Arg) -> String {
    let takes_value = arg.get_action().takes_values() && !is_switch(arg);
    let value = value_name(arg).filter(|_| takes_value).map(|name| format!(" {name}"));
    format!("--{}{}", arg.get_long().unwrap_or_default(), value.unwrap_or_default())
}

/// What an option is where nothing says it; nothing for a switch.
pub fn default(arg: &Arg) -> Option<String> {
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    (!is_switch(arg) && !values.is_empty()).then(|| values.join(", "))
}

fn is_switch(arg: &Arg) -> bool {
    value_name(arg) == Some(SWITCH)
}

fn value_name(arg: &Arg) -> Option<&str> {
    Some(arg.get_value_names()?.first()?.as_str())
}

fn option_lines(arg: &Arg) -> String {
    let flag = flag(arg);
    let env = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if let Some(default) = default(arg) {
        help.push_str(&format!(" [{default}]"));
    }
    let mut lines = format!("  {:<FLAG_WIDTH$}{env:<ENV_WIDTH$}", flag + " ");
    let mut column = lines.chars().count();
    for word in help.split(' ') {
        if column + word.chars().count() > PAGE_WIDTH {
            lines = format!("{}\n{:indent$}", lines.trim_end(), "", indent = 2 + FLAG_WIDTH + ENV_WIDTH);
            column = 2 + FLAG_WIDTH + ENV_WIDTH;
        }
        lines.push_str(word);
        lines.push(' ');
        column += word.chars().count() + 1;
    }
    format!("{}\n", lines.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_but_a_question_has_an_environment_variable_of_its_name() {
        for verb in command().get_subcommands() {
            for arg in verb.get_arguments().filter(|arg| arg.get_env().is_some()) {
                let name = arg.get_long().unwrap().replace('-', "_").to_uppercase();
                assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("VOLSEED_{name}"));
            }
        }
    }

    #[test]
    fn every_page_fits_a_screen() {
        for verb in command().get_subcommands() {
            let page = verb_page(verb);
            assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
            assert!(page.lines().count() <= 66, "{page}");
        }
    }
}
