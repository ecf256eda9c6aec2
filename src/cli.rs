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
    Address, AppCheck, Commands, Exclude, Existing, LockMode, LogFormat, Mapping, ModeChange, PassSocket,
    ShowProgress, SignalScope, Size, Workers,
};

/// Seeds a container's persistent volume before its app starts: in parallel, once, and answering health
/// checks meanwhile.
#[derive(Debug, Parser)]
#[command(name = "volseed", version, disable_help_subcommand = true, args_override_self = true)]
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
    Seed(SeedArgs),
    /// Never seed: exit once the volume is seeded
    Wait(WaitArgs),
    /// Check the health of this container: exit 0 or 1
    Health(HealthArgs),
    /// Print what is recorded of the volume
    Status(StatusArgs),
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
    pub server: ServerArgs,
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
    /// The directory that the volume is mounted on. It must exist, and must not be `/`. A directory of the
    /// container's own layer is a warning: it is lost with the container.
    #[arg(long, env = "VOLSEED_TO", value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Where volseed keeps its state
    ///
    /// In place of `.volseed` in the volume's root: a directory on the same mount and outside of `--to`, for
    /// a volume whose web root is a directory below (`--to /data/html --state-dir /data/.volseed`). Its
    /// parent must exist. All replicas, `wait` and `status` need the same.
    #[arg(long, env = "VOLSEED_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// File that marks it as seeded
    ///
    /// Relative to the volume's root. Where it is present without volseed's own state, the volume was
    /// seeded before volseed came, and is adopted as it is. In the seed it is published last; where
    /// the seed has none it is created.
    #[arg(long, env = "VOLSEED_SENTINEL", value_name = "PATH")]
    pub sentinel: Option<PathBuf>,
    /// Version of the seed
    ///
    /// Recorded on the volume. A volume that is complete for another version is left as it is, with a
    /// warning that names both; what a replica of another version had begun to stage is not resumed.
    #[arg(long, env = "VOLSEED_SEED_VERSION", value_name = "TEXT", value_parser = values::seed_version)]
    pub seed_version: Option<String>,
    /// auto, lease or none
    ///
    /// How replicas agree who seeds: by the file system's lock where all of them see it, and by
    /// heartbeats (`auto`), by heartbeats alone (`lease`), or not at all, where there is only one (`none`).
    #[arg(long, env = "VOLSEED_LOCK", value_name = "HOW", default_value = "auto")]
    pub lock: LockMode,
    /// Maximum wait for a replica
    ///
    /// Then volseed exits with 75. Without it volseed waits for as long as the other replica works;
    /// `run` and `seed` wait 15 minutes for what only another user can complete.
    #[arg(long, env = "VOLSEED_WAIT_TIMEOUT", value_name = "DUR", value_parser = values::span)]
    pub wait_timeout: Option<Duration>,
    /// TOML file [/etc/volseed.toml]
    ///
    /// Several volumes, one `[[volume]]` table each, with the names of the options as keys. Flags
    /// beat environment variables, and those beat the file. The default is read only if it is there.
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
    /// The seed: a directory or an archive. Archives are known by their content, not by their name: tar, plain
    /// or in gzip, zstd, bzip2 or xz. `-` reads an archive from standard input.
    #[arg(long, env = "VOLSEED_FROM", value_name = "PATH")]
    pub from: Option<PathBuf>,
    /// What to leave out of it
    ///
    /// Shell patterns on paths below the source's root: `*` and `?` stay within a name, `**` is any number
    /// of directories (`**/*.log`), and what is below a directory goes with it. With a `/` at the end,
    /// only directories match. Repeatable, or with commas.
    #[arg(long, env = "VOLSEED_EXCLUDE", value_name = "GLOB", value_delimiter = ',')]
    pub exclude: Vec<Exclude>,
    /// keep, overwrite or fail
    ///
    /// What happens to files that are already on an unseeded volume: they stay and the seed's are
    /// left out (`keep`), the seed's replace them (`overwrite`), or a volume that is not empty is
    /// refused with exit code 78 (`fail`).
    #[arg(long, env = "VOLSEED_EXISTING", value_name = "WHAT", default_value = "keep")]
    pub existing: Existing,
    /// Owner of everything seeded
    ///
    /// `USER` or `USER:GROUP`, by name or number, spelled like Docker's `COPY --chown`. A user alone
    /// gives its number to the group too. Without it everything keeps the source's owner.
    #[arg(long, env = "VOLSEED_CHOWN", value_name = "USER[:GROUP]")]
    pub chown: Option<Spec>,
    /// Mode of everything seeded
    ///
    /// Octal (`0644`) or as chmod(1) has it (`u=rwX,go=rX`), like Docker's `COPY --chmod`: files, FIFOs and
    /// directories get the same octal mode, so that `X` is what most want. `g=u` gives the group what the
    /// owner has, for OpenShift's arbitrary UIDs. The umask plays no part.
    #[arg(long, env = "VOLSEED_CHMOD", value_name = "MODE")]
    pub chmod: Option<ModeChange>,
    /// Leave modification times alone
    ///
    /// Saves a round trip a file on a network volume. An interrupted seed then starts again from the beginning.
    #[arg(long, env = "VOLSEED_NO_TIMES", value_name = SWITCH, action = ArgAction::Set, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_times: bool,
    /// Fail where something is not kept
    ///
    /// Owners, modes and extended attributes that the volume refuses to keep end the seed with exit
    /// code 77. Without it they are counted in one warning.
    #[arg(long, env = "VOLSEED_STRICT", value_name = SWITCH, action = ArgAction::Set, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub strict: bool,
    /// Writers, or auto
    ///
    /// 1 to 1024. `auto` goes by the kind of the volume's file system: on NFS the session's slots; and it stays within the container's limits of processes, memory and open files.
    /// 64 open files are enough for any seed, 32 for a small one.
    #[arg(long, env = "VOLSEED_WORKERS", value_name = "N", default_value = "auto")]
    pub workers: Workers,
    /// Memory in flight
    ///
    /// For file data and metadata; from 4 MiB. What volseed needs besides is under 32 MiB, and an archive's decompression window (docs/sources.md).
    #[arg(long, env = "VOLSEED_MEMORY", value_name = "SIZE", default_value = "64MiB")]
    pub memory: Size,
    /// Maximum number of entries
    ///
    /// A seed with more is refused with exit code 65: an archive of a few kilobytes may have any number.
    #[arg(long, env = "VOLSEED_MAX_ENTRIES", value_name = "N", default_value = "2000000")]
    pub max_entries: u64,
}

/// The health server.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Health")]
pub(crate) struct ServerArgs {
    /// Health server, such as :80
    ///
    /// Answers from before the volume is first touched until the hand-over. Usually the app's own
    /// port: it is closed before the app starts, or handed to it by `--pass-socket`. `:80` is every
    /// address, of IPv6 where the system has it, `0.0.0.0:80` every IPv4 and `[::]:80` every IPv6 one,
    /// and what begins with `/` a Unix socket. `volseed health` asks the first. Repeatable, or with commas.
    #[arg(long, env = "VOLSEED_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<Address>,
    /// Unix sockets' mode
    ///
    /// In octal. The default lets every user of the container ask, a proxy's for instance. Where the
    /// socket is handed to the app, it is what php-fpm's `listen.mode` would be: 0660, with `--listen-owner`.
    #[arg(long, env = "VOLSEED_LISTEN_MODE", value_name = "MODE", default_value = "0666", value_parser = values::socket_mode)]
    pub listen_mode: u32,
    /// Unix sockets' owner
    ///
    /// By name or number; a user alone brings its group. Without it, who volseed runs as.
    #[arg(long, env = "VOLSEED_LISTEN_OWNER", value_name = "USER[:GROUP]")]
    pub listen_owner: Option<Spec>,
    /// Live paths
    ///
    /// 200 while the work moves, 503 once it stalls. `/healthz` is always one. Repeatable, or with
    /// commas.
    #[arg(long, env = "VOLSEED_LIVE_PATH", value_name = "PATH", value_delimiter = ',', default_values = ["/livez", "/healthz"], value_parser = values::probe_path)]
    pub live_path: Vec<String>,
    /// Readiness paths
    ///
    /// 503 until the app answers in volseed's place. Repeatable, or with commas.
    #[arg(long, env = "VOLSEED_READY_PATH", value_name = "PATH", value_delimiter = ',', default_values = ["/readyz"], value_parser = values::probe_path)]
    pub ready_path: Vec<String>,
    /// Startup paths
    ///
    /// 503 until the app answers in volseed's place. Repeatable, or with commas.
    #[arg(long, env = "VOLSEED_STARTED_PATH", value_name = "PATH", value_delimiter = ',', default_values = ["/startupz"], value_parser = values::probe_path)]
    pub started_path: Vec<String>,
    /// Answer on other paths
    ///
    /// 200 to 599: what every path answers that is no probe's while the volume is seeded.
    #[arg(long, env = "VOLSEED_SEEDING_STATUS", value_name = "CODE", default_value = "503", value_parser = values::http_status)]
    pub seeding_status: u16,
    /// Metrics path
    ///
    /// OpenMetrics text, for Prometheus.
    #[arg(long, env = "VOLSEED_METRICS_PATH", value_name = "PATH", default_value = "/metrics", value_parser = values::probe_path)]
    pub metrics_path: String,
    /// HTML for browsers
    ///
    /// Shown on every path that is no probe's in place of the page that volseed brings. `{{percent}}`,
    /// `{{phase}}`, `{{files}}`, `{{files_total}}`, `{{bytes}}`, `{{bytes_total}}` and `{{seconds_left}}`
    /// are replaced. At most 1 MiB.
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
    /// How `volseed health` asks the app after the hand-over: by a URL, which has to answer with a status
    /// below 400, or by a port (`tcp:9000`, `tcp:HOST:9000`), which has to accept a connection. A port
    /// alone and `localhost` are 127.0.0.1 and ::1. With `none`, which is the default, the container is
    /// healthy once its main process is another program. Best set with `ENV`: `volseed health` has to
    /// know it when no volseed is there any more.
    #[arg(long, env = "VOLSEED_APP_CHECK", value_name = "HOW", default_value = "none")]
    pub app_check: AppCheck,
    /// Health for the app's life
    ///
    /// With `--supervise`: an address of its own that answers the probes' paths and the metrics for the
    /// app's whole life, ready and started by `--app-check`. `volseed health` asks there first.
    #[arg(long, env = "VOLSEED_ADMIN", value_name = "ADDR", value_delimiter = ',')]
    pub admin: Vec<Address>,
}

/// The app.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "App")]
pub(crate) struct AppArgs {
    /// User that the app runs as
    ///
    /// By name or number, from the image's `/etc/passwd` and `/etc/group`. A user alone brings all
    /// its groups. `HOME` is set. Replaces gosu and su-exec.
    #[arg(long, env = "VOLSEED_USER", value_name = "USER[:GROUP]")]
    pub user: Option<Spec>,
    /// Seed only if CMD matches
    ///
    /// Shell patterns on the command's path or last component. Any other command is started at once
    /// and one line names the words that were looked at: `docker run image bash`. Those are the command and what it
    /// is seen to start: behind scripts, `env`, inits such as tini, gosu, su-exec, setpriv, nice, nohup, stdbuf and
    /// timeout the command that they are given, and behind a shell's `-c` every command of its text.
    #[arg(long, env = "VOLSEED_ONLY_FOR", value_name = "GLOB,…")]
    pub only_for: Option<Commands>,
    /// listen-fds, nginx, php-fpm
    ///
    /// The app gets the sockets of `--listen`, open and listening: no connection is refused, those that
    /// come meanwhile wait for it. `listen-fds` is what systemd does (gunicorn, uWSGI and many others know
    /// it), `nginx` and `php-fpm` what those two do when they replace themselves; their configuration has
    /// to name the same address.
    #[arg(long, env = "VOLSEED_PASS_SOCKET", value_name = "HOW")]
    pub pass_socket: Option<PassSocket>,
    /// Stay as the app's init
    ///
    /// volseed stays as the container's main process: it passes signals on, reaps, ends what the app
    /// leaves behind, and exits as the app did. Without it, the app itself becomes the main process.
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
    /// With `--supervise`: how long after a SIGTERM the app may take. Then every process that is left
    /// gets SIGTERM, a second, and SIGKILL. With `0` nothing but that second is waited, and a second
    /// SIGTERM cuts that short. The default stays within the 10 s of `docker stop`.
    #[arg(long, env = "VOLSEED_GRACE", value_name = "DUR", default_value = "8s", value_parser = values::amounts::time)]
    pub grace: Duration,
    /// Stops the app, as SIGTERM does
    ///
    /// With `--supervise`: what the image has as STOPSIGNAL, such as WINCH for apache or QUIT for nginx and
    /// php-fpm. It is passed on like any other signal, and starts the grace.
    #[arg(long, env = "VOLSEED_STOP_SIGNAL", value_name = "SIGNAL", value_parser = values::stop_signal)]
    pub stop_signal: Option<u8>,
    /// group or child
    ///
    /// With `--supervise`: who gets a signal that is passed on, the app's process group or its main
    /// process alone.
    #[arg(long, env = "VOLSEED_SIGNAL_SCOPE", value_name = "WHO", default_value = "group")]
    pub signal_scope: SignalScope,
    /// Pass a signal on as another
    ///
    /// With `--supervise`: `TERM:QUIT` for nginx and php-fpm, which end gracefully on SIGQUIT. 0 drops
    /// the signal. Repeatable, or with commas.
    #[arg(long, env = "VOLSEED_REWRITE", value_name = "FROM:TO", value_delimiter = ',', value_parser = values::rewrite)]
    pub rewrite: Vec<Mapping>,
    /// Exit with another code
    ///
    /// With `--supervise`: `143:0` for an app that ends by SIGTERM and is fine. volseed's own codes stay
    /// as they are. Repeatable, or with commas.
    #[arg(long, env = "VOLSEED_EXIT_MAP", value_name = "FROM:TO", value_delimiter = ',', value_parser = values::exit_map)]
    pub exit_map: Vec<Mapping>,
}

/// What is logged.
#[derive(Debug, Args, Clone, Copy)]
#[command(next_help_heading = "Log, on standard error")]
pub(crate) struct LogArgs {
    /// text or json
    ///
    /// `json` writes one object a line.
    #[arg(long = "log", env = "VOLSEED_LOG", value_name = "FORMAT", default_value = "text")]
    pub format: LogFormat,
    /// error, warn, info, debug
    #[arg(long = "log-level", env = "VOLSEED_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = values::log_levels())]
    pub level: tracing::Level,
    /// auto or none
    ///
    /// `auto` draws a bar where standard error is a terminal and the log is text. `none` writes the log's
    /// progress lines there, too.
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
        env!("CARGO_PKG_VERSION"),
        "Seeds a container's persistent volume before its app starts: in parallel, once,\nand answering health checks meanwhile.",
    );
    for verb in root.get_subcommands() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!("  {:<9}{about}\n", verb.get_name()));
    }
    page.push_str(
        "
volseed COMMAND --help shows a command's options. Each has an environment
variable, best set with ENV in the image, so that `docker exec` agrees.

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
            assert!(page.lines().count() <= 60, "{page}");
        }
    }
}
