//! What the container may use, as far as the number of writers and of connections depends on it.
//!
//! Owns the reading of control groups and resource limits, the rule that fits a requested number of
//! writers into them, and the budget of open files. Knows neither volume nor seed, and waits for neither.
//! Nothing here is an error: a limit that cannot be read does not bind, and the kernel has the last word
//! anyway.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};

use super::files::kernel_text;

/// The most that is read of one file, in bytes; `memory.stat`, the longest, has some 2 KiB.
const MAX_TEXT: u64 = 64 << 10;
/// Processes that are left to others. A health probe or a `docker exec` counts in the container too,
/// and runc, which starts it there, begins with half a dozen threads of its own: at the limit the
/// probe fails, and the container is stopped for it.
const RESERVED_PROCESSES: u64 = 8;
/// What open files are raised to at most: more than a seed has a use for. The hard limit may be a
/// thousand million, which is not a number to aim for.
const MAX_OPEN_FILES: u64 = 16 << 10;
/// Open files that are left for everything of which there are few: some 25 for standard files, signals,
/// the runtime, two addresses and their copies, the volume's root, the lock, a claim and its stage, then
/// the heartbeat, the source, and the levels of a tree that is removed.
const SPARE_FILES: u64 = 40;
/// What one writer may hold open: a source, a target, and two directories that are not kept: the one
/// that it works in, and the parent that this is opened again from.
const FILES_PER_WRITER: u64 = 4;
/// Connections at once. Each may hold a head's buffer and an answer, 12 KiB: 3 MiB.
const MAX_CONNECTIONS: u64 = 256;
/// Descriptors that the kernel's table has room for from the start: 8 bytes each.
const TABLE: u64 = 8192;
/// Directories that are kept open for one of their uses. More save nothing.
const MAX_DIRECTORIES: u64 = 4096;

/// What this process may use, as it was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Processors' worth of time: the quota (`docker run --cpus`), or the number that it may run on.
    /// Above 0, with a fraction where there is a quota.
    pub processors: f64,
    /// Processes and threads that may still be started; `None` without a limit. Where the limit is
    /// the user's (`ulimit -u`), it is an upper bound: what the user runs already is not counted.
    pub processes_left: Option<u64>,
    /// Bytes of memory that may still be used before something is killed for it, the page cache of
    /// files counted as free; `None` without a limit.
    pub memory_left: Option<u64>,
    /// How many files may be open (`ulimit -n`), those that are open already included.
    pub open_files: u64,
}

impl Limits {
    /// Reads them. Those of the control groups are the tightest from our own group up to the highest
    /// that can be seen, in either version (cgroups(7)).
    pub(crate) fn read() -> Limits {
        let memberships = kernel_text("/proc/self/cgroup", MAX_TEXT).unwrap_or_default();
        let groups = |controller| groups(Path::new("/sys/fs/cgroup"), &memberships, controller);
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Limits {
            // The number of threads has the quota in it, cut to a whole number. A quota beyond that
            // means that it is allowed fewer processors than that to begin with (sched_setaffinity).
            processors: quota(&groups("cpu")).filter(|quota| *quota < threads + 1.0).unwrap_or(threads),
            processes_left: least([processes_left(&groups("pids")), users_processes()]),
            memory_left: memory_left(&groups("memory")),
            open_files: open_files(),
        }
    }
}

/// Why there are fewer writers than requested, for one line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The tightest limit, as a person calls it.
    pub limit: &'static str,
    /// How many writers were requested.
    pub requested: usize,
    /// How many it leaves room for, at least 1.
    pub room: usize,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bound { limit, requested, room } = self;
        write!(f, "{requested} requested, the container's {limit} leaves room for {room}")
    }
}

/// How many of the writers that were requested there is room for, never less than 1, and what bounds
/// them. Some processes are left to others; memory is used up to half of what is left, as the page
/// cache and the sources need some too; open files as their budget says.
pub(crate) fn bound(requested: usize, limits: &Limits, bytes_per_writer: u64) -> (usize, Option<Bound>) {
    let processes = limits.processes_left.map(|left| left.saturating_sub(RESERVED_PROCESSES));
    let memory = limits.memory_left.and_then(|left| (left / 2).checked_div(bytes_per_writer));
    let open_files = Some(FileBudget::of(limits.open_files).writers());
    let rooms = [
        ("limit of processes (pids, nproc)", processes),
        ("memory limit", memory),
        ("limit of open files (nofile)", open_files),
    ];
    let tightest = rooms
        .into_iter()
        .filter_map(|(limit, room)| Some((limit, usize::try_from(room?).unwrap_or(usize::MAX).max(1))))
        .min_by_key(|(_, room)| *room);
    match tightest {
        Some((limit, room)) if room < requested => (room, Some(Bound { limit, requested, room })),
        _ => (requested.max(1), None),
    }
}

/// How the files that may be open are shared: first the spare ones, then an eighth of the rest for
/// connections, half of it for writers, and for directories what these two leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileBudget {
    /// What is left to share.
    shared: u64,
}

impl FileBudget {
    /// Of a limit of open files.
    pub(crate) fn of(open_files: u64) -> FileBudget {
        FileBudget { shared: open_files.saturating_sub(SPARE_FILES) }
    }

    /// Of this process, as its limit is now.
    pub(crate) fn read() -> FileBudget {
        FileBudget::of(open_files())
    }

    /// Connections of clients at once, on all addresses together, those included that wait for a place.
    pub(crate) fn connections(self) -> usize {
        usize::try_from((self.shared / 8).min(MAX_CONNECTIONS)).unwrap_or(usize::MAX)
    }

    /// How many writers it allows.
    fn writers(self) -> u64 {
        self.shared / 2 / FILES_PER_WRITER
    }

    /// Directories that may be kept open for each of so many uses beside so many writers. At least 1,
    /// where more writers were requested than there is room for.
    pub(crate) fn directories(self, writers: usize, uses: u64) -> usize {
        let for_writers = (writers as u64).saturating_mul(FILES_PER_WRITER);
        let taken = for_writers.saturating_add(self.connections() as u64);
        let each = self.shared.saturating_sub(taken) / uses.max(1);
        usize::try_from(each.clamp(1, MAX_DIRECTORIES)).unwrap_or(usize::MAX)
    }
}

/// A raised limit of open files. Dropping it restores the former one; drop it before the app is
/// started, by `exec` too, which drops nothing.
#[derive(Debug)]
#[must_use = "the limit is restored when this is dropped"]
pub(crate) struct Raised {
    former: Option<Rlimit>,
}

/// Raises the limit of open files to 16,384, or to as many of them as this process may grant itself.
/// A limit that is higher stays. The app starts with what it was given, commonly 1024: one that
/// calls select(2) breaks at a descriptor above.
///
/// Also makes room for them in the kernel's table, while there is one thread: with more, each doubling of it from 64 on
/// waits until every processor has passed a quiet point (Linux `fs/file.c`, `expand_fdtable`), 4 to 11 ms in which no
/// writer opens anything. Alone it takes 15 µs.
pub(crate) fn raise_open_files() -> Raised {
    let former = getrlimit(Resource::Nofile);
    let requested = former.maximum.unwrap_or(u64::MAX).min(MAX_OPEN_FILES);
    let raised = former.current.is_some_and(|current| current < requested)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(requested), ..former }).is_ok();
    let highest = open_files().min(TABLE).saturating_sub(1);
    // The copy is closed at once, and the room stays. Without a standard output the table grows as it is used.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), highest as i32);
    if raised {
        RAISED_FROM.store(former.current.unwrap_or(0), Ordering::Relaxed);
    }
    Raised { former: raised.then_some(former) }
}

/// What [`raise_open_files`] raised last, 0 without that.
static RAISED_FROM: AtomicU64 = AtomicU64::new(0);

/// Takes that back in a child that will execute another program. Allocates nothing.
pub(crate) fn lower_open_files() {
    let former = RAISED_FROM.load(Ordering::Relaxed);
    if former > 0 {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(former), ..getrlimit(Resource::Nofile) });
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(former) = self.former {
            // Lowering a soft limit needs no permission, and files above it stay open.
            let _ = setrlimit(Resource::Nofile, former);
        }
    }
}

fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The kernel does not hold root to it (setrlimit(2), `RLIMIT_NPROC`).
fn users_processes() -> Option<u64> {
    if getuid().is_root() { None } else { getrlimit(Resource::Nproc).current }
}

/// The directories of a controller below `root`, from our own group up to its highest. Inside a
/// container the path of our group is often the host's and not there: its highest is then ours.
fn groups(root: &Path, memberships: &str, controller: &str) -> Vec<PathBuf> {
    // `hierarchy:controllers:path`, without controllers in version 2.
    let lines = memberships.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let path_of = |wanted: &str| lines.clone().find(|(found, _)| found.split(',').any(|one| one == wanted));
    let (top, path) = match path_of(controller) {
        Some((_, path)) => (root.join(controller), path),
        None => (root.to_owned(), path_of("").unwrap_or_default().1),
    };
    let path = path.trim_start_matches('/');
    // `/../other`: a group that is outside of what this container sees (cgroup_namespaces(7)).
    let seen = Path::new(path).components().all(|component| matches!(component, Component::Normal(_)));
    Path::new(if seen { path } else { "" }).ancestors().map(|ancestor| top.join(ancestor)).collect()
}

/// In processors: `cpu.max` holds a quota and its period in microseconds, version 1 a file for each.
fn quota(groups: &[PathBuf]) -> Option<f64> {
    let of = |group: &PathBuf| {
        let max = kernel_text(group.join("cpu.max"), MAX_TEXT).unwrap_or_default();
        let (quota, period) = max.trim().split_once(' ').unwrap_or_default();
        let quota = quota.parse().ok().or_else(|| number(group, "cpu.cfs_quota_us"))?;
        let period = period.parse().ok().or_else(|| number(group, "cpu.cfs_period_us"))?;
        (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
    };
    groups.iter().filter_map(of).min_by(f64::total_cmp)
}

fn processes_left(groups: &[PathBuf]) -> Option<u64> {
    let of =
        |group: &PathBuf| Some(number(group, "pids.max")?.saturating_sub(number(group, "pids.current")?));
    least(groups.iter().map(of))
}

/// Above `memory.high` a process is slowed down as if it were out of memory.
fn memory_left(groups: &[PathBuf]) -> Option<u64> {
    least(groups.iter().map(|group| {
        // Version 1 writes "no limit" as the largest number of pages, in bytes.
        let first = number(group, "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62);
        let limit = least([number(group, "memory.max"), number(group, "memory.high"), first])?;
        let used = least([number(group, "memory.current"), number(group, "memory.usage_in_bytes")]);
        let cache = kernel_text(group.join("memory.stat"), MAX_TEXT).map_or(0, |stat| page_cache(&stat));
        Some(limit.saturating_sub(used.unwrap_or(0).saturating_sub(cache)))
    }))
}

/// Bytes of files that the kernel drops when it needs room; those on a tmpfs are not among them.
/// Version 1 counts the groups below us only in `total_…`.
fn page_cache(stat: &str) -> u64 {
    let lines = || stat.lines().filter_map(|line| line.split_once(' '));
    let of = |name: &str| lines().find(|(found, _)| *found == name)?.1.trim().parse::<u64>().ok();
    let either = |name: &str| of(&format!("total_{name}")).or_else(|| of(name)).unwrap_or(0);
    either("active_file").saturating_add(either("inactive_file"))
}

fn least(values: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    values.into_iter().flatten().min()
}

/// The number in a group's file; `max` and `-1`, no limit, are none.
fn number(group: &Path, name: &str) -> Option<u64> {
    kernel_text(group.join(name), MAX_TEXT)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quota, processes left and memory left in a hierarchy of these files.
    #[track_caller]
    fn check(memberships: &str, files: &[(&str, &str)], expected: (Option<f64>, Option<u64>, Option<u64>)) {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let groups = |controller| groups(dir.path(), memberships, controller);
        let found = (quota(&groups("cpu")), processes_left(&groups("pids")), memory_left(&groups("memory")));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_tightest_group_from_ours_to_the_highest_counts() {
        let time = [("cpu.max", "250000 100000\n"), ("pids.max", "100\n"), ("pids.current", "30\n")];
        // The page cache is free memory, a tmpfs is not.
        let stat = "file 70\nshmem 30\ninactive_file 25\nactive_file 15\n";
        let memory = [("memory.max", "1000\n"), ("memory.current", "180\n"), ("memory.stat", stat)];
        let container = [time, memory].concat();
        check("0::/\n", &container, (Some(2.5), Some(70), Some(860)));
        // The host's path, which a container without a group namespace does not see.
        check("0::/docker/ab12\n", &container, (Some(2.5), Some(70), Some(860)));
        check("0::/../other\n", &container, (Some(2.5), Some(70), Some(860)));
        let below = [("a/b/pids.max", "max\n"), ("a/b/cpu.max", "max 100000\n"), ("a/memory.high", "500\n")];
        let all = [&container[..], &below].concat();
        check("0::/a/b\n", &all, (Some(2.5), Some(70), Some(500)));
        check("", &[], (None, None, None));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let memberships = "9:name=systemd:/x\n4:memory:/a\n3:cpu,cpuacct:/a\n2:pids:/host/a\n0::/x\n";
        let files = [
            ("cpu/a/cpu.cfs_quota_us", "50000\n"),
            ("cpu/a/cpu.cfs_period_us", "100000\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("pids/pids.max", "20\n"),
            ("pids/pids.current", "25\n"),
            ("memory/a/memory.limit_in_bytes", "1000\n"),
            ("memory/a/memory.usage_in_bytes", "900\n"),
            ("memory/a/memory.stat", "active_file 1\ntotal_active_file 300\ntotal_inactive_file 200\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        check(memberships, &files, (Some(0.5), Some(0), Some(600)));
    }

    #[track_caller]
    fn check_bound(
        requested: usize,
        left: (Option<u64>, Option<u64>, u64),
        count: usize,
        reason: Option<&str>,
    ) {
        let (processes_left, memory_left, open_files) = left;
        let limits = Limits { processors: 1.0, processes_left, memory_left, open_files };
        let (found, bound) = bound(requested, &limits, 1 << 20);
        let expected = reason
            .map(|limit| format!("{requested} requested, the container's {limit} leaves room for {count}"));
        assert_eq!((found, bound.map(|bound| bound.to_string())), (count, expected));
    }

    #[test]
    fn writers_are_as_many_as_the_tightest_limit_leaves_room_for() {
        let (processes, files) = ("limit of processes (pids, nproc)", "limit of open files (nofile)");
        check_bound(64, (None, None, u64::MAX), 64, None);
        check_bound(64, (Some(72), Some(128 << 20), 1024), 64, None);
        check_bound(64, (Some(28), Some(128 << 20), 1024), 20, Some(processes));
        check_bound(64, (Some(72), Some(32 << 20), 1024), 16, Some("memory limit"));
        check_bound(64, (Some(72), Some(128 << 20), 256), 27, Some(files));
        check_bound(64, (Some(3), Some(0), 0), 1, Some(processes));
        check_bound(1, (Some(0), Some(0), 0), 1, None);
        check_bound(0, (None, None, 0), 1, None);
    }

    #[test]
    fn no_limit_of_open_files_is_exceeded() {
        for (open_files, connections, writers) in
            [(64, 3, 3), (128, 11, 11), (512, 59, 59), (1024, 123, 123), (16 << 10, 256, 2043)]
        {
            let budget = FileBudget::of(open_files);
            assert_eq!((budget.connections(), budget.writers()), (connections, writers), "{open_files}");
            for (writers, uses) in [(1, 1), (4, 3), (64, 2), (1024, 1)] {
                let writers = writers.min(budget.writers() as usize);
                let directories = budget.directories(writers, uses) as u64 * uses;
                let all = SPARE_FILES + connections as u64 + writers as u64 * FILES_PER_WRITER + directories;
                assert!(all <= open_files, "{all} of {open_files}: {writers} writers, {uses} uses");
            }
        }
        assert_eq!(FileBudget::of(0).directories(1024, 3), 1);
        assert_eq!(FileBudget::of(u64::MAX).directories(usize::MAX, 1), 1);
    }

    #[test]
    fn the_limit_of_open_files_is_restored() {
        let former = getrlimit(Resource::Nofile);
        let raised = raise_open_files();
        assert!(Limits::read().open_files >= MAX_OPEN_FILES.min(former.maximum.unwrap_or(u64::MAX)));
        drop(raised);
        assert_eq!(getrlimit(Resource::Nofile), former);
    }
}
