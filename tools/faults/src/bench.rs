//! What the sweeps over volumes share: volseed, the seed, one directory where volumes are mounted, and runs on them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::disk::{Disk, Image, run};
use crate::filter::Filter;
use crate::kit::{Snapshot, Tree};
use crate::launch::Launch;
use crate::room::names;
use crate::scenarios;
use crate::tracer::{self, At, Fault, Ran};
use crate::watchdog::Watchdog;

/// Later than all times in the seed, and in the past.
const NOT_OF_A_SEED: i64 = 1_700_000_000;
/// What volseed leaves in its directory, beside manifests.
const STATE: [&str; 4] = ["claims", "lock", "record.json", "state.json"];
/// A run that takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// One sweep's.
pub(crate) struct Bench {
    /// A directory in memory with `volseed`, `tree`, `older`, `tar` and `volume`.
    pub(crate) root: PathBuf,
    /// The seed.
    pub(crate) seed: Snapshot,
    filter: Filter,
    watchdog: Watchdog,
}

/// A file system on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// As mkfs and mount call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// The least that mkfs takes, or a little more.
    fn bytes(self) -> u64 {
        match self {
            FileSystem::Ext4 => 64 << 20,
            FileSystem::Xfs => 300 << 20,
            FileSystem::Btrfs => 512 << 20,
        }
    }

    /// A commit each second, where it can be had: the control needs one soon.
    fn mount_options(self) -> &'static str {
        match self {
            FileSystem::Ext4 | FileSystem::Btrfs => "nodiscard,commit=1",
            FileSystem::Xfs => "nodiscard,nouuid",
        }
    }
}

/// A mounted volume. Its end unmounts it.
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts it again, in place.
    pub(crate) fn remount(&self, flags: MsFlags, options: Option<&str>) -> nix::Result<()> {
        mount(None::<&str>, &self.at, None::<&str>, MsFlags::MS_REMOUNT | flags, options)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::empty()).or_else(|_| umount2(&self.at, MntFlags::MNT_DETACH)).ok();
    }
}

impl Bench {
    /// Makes the seed in a file system in memory, in mounts of this process' own.
    pub(crate) fn new(program: &Path, seed: &Tree) -> Self {
        let root = PathBuf::from("/dev/shm");
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("faults"), &root, Some("tmpfs"), MsFlags::empty(), Some("size=60%,mode=1777")).unwrap();
        let tree = seed.write_to(&root.join("tree"));
        fs::write(root.join("list"), names(&tree).join("\n")).unwrap();
        fs::write(root.join("tar"), seed.archive()).unwrap();
        scenarios::write_older(seed, &root.join("older"));
        fs::create_dir(root.join("volume")).unwrap();
        // Where every user may execute them.
        fs::copy(program, root.join("volseed")).unwrap();
        fs::copy(std::env::current_exe().unwrap(), root.join("faults")).unwrap();
        Self { seed: Snapshot::of(&tree), root, filter: Filter::of(|_| true), watchdog: Watchdog::start() }
    }

    /// Where volumes are mounted.
    pub(crate) fn volume(&self) -> PathBuf {
        self.root.join("volume")
    }

    /// A new file system, as it is on a disk.
    pub(crate) fn formatted(&self, kind: FileSystem, options: &[&str]) -> Image {
        let file = self.root.join("formatted");
        fs::File::create(&file).unwrap().set_len(kind.bytes()).unwrap();
        let mut mkfs = Command::new(format!("mkfs.{}", kind.name()));
        match kind {
            FileSystem::Ext4 => mkfs.args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=0"]),
            FileSystem::Xfs => mkfs.args(["-q", "-K"]),
            FileSystem::Btrfs => mkfs.args(["-q", "-K"]),
        };
        run(mkfs.args(options).arg(&file)).unwrap();
        let image = Image::of_file(&file).unwrap();
        fs::remove_file(file).unwrap();
        image
    }

    /// A disk with this content.
    pub(crate) fn disk(&self, image: Image) -> Disk {
        Disk::new(image, &self.root.join("disk")).unwrap()
    }

    /// Mounts a disk's file system, which recovers first.
    ///
    /// # Errors
    /// It does not recover.
    pub(crate) fn mount(&self, kind: FileSystem, disk: &Disk, options: &str) -> Result<Mounted, String> {
        if kind == FileSystem::Btrfs {
            // It remembers the devices that had the same file system before.
            run(Command::new("btrfs").args(["device", "scan", "--forget"])).ok();
        }
        let options = format!("{}{options}", kind.mount_options());
        let at = self.volume();
        mount(Some(disk.device()), &at, Some(kind.name()), MsFlags::empty(), Some(options.as_str()))
            .map(|()| Mounted { at })
            .map_err(|error| format!("{} does not mount: {error}", kind.name()))
    }

    /// Mounts a volume in memory.
    pub(crate) fn mount_tmpfs(&self, options: &str) -> Mounted {
        let at = self.volume();
        mount(Some("volume"), &at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Mounted { at }
    }

    /// A command with its placeholders filled in.
    pub(crate) fn filled(&self, command: &str) -> Vec<String> {
        let root = self.root.display().to_string();
        let text = command
            .replace("{volseed}", &format!("{root}/volseed"))
            .replace("{app}", &format!("{root}/faults app {root}/volume {root}/list"))
            .replace("{volume}", &format!("{root}/volume"))
            .replace("{tree}", &format!("{root}/tree"))
            .replace("{older}", &format!("{root}/older"))
            .replace("{tar}", &format!("{root}/tar"));
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Runs a command in a PID namespace of its own.
    pub(crate) fn plain(&self, command: &str, user: Option<u32>) -> Ran {
        let launch = Launch { words: self.filled(command), user, ..Launch::default() };
        tracer::plain(&launch, &self.watchdog, PATIENCE).unwrap()
    }

    /// The same with a fault.
    pub(crate) fn traced(&self, command: &str, at: At, fault: Fault) -> Ran {
        let launch = Launch { words: self.filled(command), ..Launch::default() };
        tracer::traced(&launch, Some((at, fault)), &self.filter, &self.watchdog, PATIENCE).unwrap()
    }

    /// The tree that is on the volume.
    pub(crate) fn found(&self) -> Snapshot {
        Snapshot::of(&self.volume()).without_times_since(NOT_OF_A_SEED)
    }

    /// What volseed has on the volume and should not once it is complete.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let is_left = |name: &String| !STATE.contains(&name.as_str()) && !name.starts_with("manifest-");
        names(&self.volume().join(".volseed")).into_iter().filter(is_left).collect()
    }

    /// `volseed status` has the volume complete.
    ///
    /// # Errors
    /// It says something else.
    pub(crate) fn check_status(&self) -> Result<(), String> {
        let status = self.plain("{volseed} status --to {volume}", None);
        match status.code == 0 && status.stdout.contains(": complete\n") {
            true => Ok(()),
            false => Err(format!("status: exit code {}: {}", status.code, status.stdout.trim())),
        }
    }

    /// Makes durable what is on the volume, and nothing of others.
    pub(crate) fn sync(&self) {
        rustix::fs::syncfs(fs::File::open(self.volume()).unwrap()).unwrap();
    }

    /// Whether the volume has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.volume().join(name).symlink_metadata().is_ok()
    }
}

/// About 150 entries, of each sort.
pub(crate) fn seed() -> Tree {
    (0..120).fold(scenarios::seed(), |tree, number| {
        let body = format!("{number:08}").repeat(20 * (number % 40));
        tree.file(format!("many/{}/{number}", number % 8), body)
    })
}

/// The volseed that is meant.
pub(crate) fn program(named: Option<&Path>) -> PathBuf {
    let named = named.map(Path::to_owned).or_else(|| std::env::var_os("VOLSEED_BIN").map(PathBuf::from));
    let path = named.unwrap_or_else(|| std::env::current_exe().unwrap().with_file_name("volseed"));
    fs::canonicalize(path).expect("volseed is built")
}

/// No differences.
///
/// # Errors
/// The first few.
pub(crate) fn same(differences: &[String], what: &str) -> Result<(), String> {
    match differences {
        [] => Ok(()),
        some => Err(format!("{what}, {} differences: {}", some.len(), some[..some.len().min(3)].join("; "))),
    }
}

/// Prints results, and appends them to a file.
pub(crate) fn report(text: &str, file: Option<&Path>) {
    print!("{text}");
    if let Some(path) = file {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}
