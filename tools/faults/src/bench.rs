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
/// A run that takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// One sweep's.
pub(crate) struct Bench {
    /// volseed.
    pub(crate) program: PathBuf,
    /// A directory in memory with `tree`, `tar.gz` and `volume`.
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
pub(crate) struct Mounted<'a> {
    at: &'a Path,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        umount2(self.at, MntFlags::empty()).or_else(|_| umount2(self.at, MntFlags::MNT_DETACH)).ok();
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
        fs::create_dir(root.join("volume")).unwrap();
        Self {
            program: program.to_owned(),
            seed: Snapshot::of(&tree),
            root,
            filter: Filter::new(),
            watchdog: Watchdog::start(),
        }
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
    pub(crate) fn mount<'a>(
        &self,
        kind: FileSystem,
        disk: &Disk,
        at: &'a Path,
    ) -> Result<Mounted<'a>, String> {
        if kind == FileSystem::Btrfs {
            // It remembers the devices that had the same file system before.
            run(Command::new("btrfs").args(["device", "scan", "--forget"])).ok();
        }
        let options = Some(kind.mount_options());
        mount(Some(disk.device()), at, Some(kind.name()), MsFlags::empty(), options)
            .map(|()| Mounted { at })
            .map_err(|error| format!("{} does not mount: {error}", kind.name()))
    }

    /// A command with its placeholders filled in.
    pub(crate) fn filled(&self, command: &str) -> Vec<String> {
        let root = self.root.display().to_string();
        let own = std::env::current_exe().unwrap().display().to_string();
        let text = command
            .replace("{volseed}", &self.program.display().to_string())
            .replace("{app}", &format!("{own} app {root}/volume {root}/list"))
            .replace("{volume}", &format!("{root}/volume"))
            .replace("{tree}", &format!("{root}/tree"))
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

/// Prints results, and appends them to a file.
pub(crate) fn report(text: &str, file: Option<&Path>) {
    print!("{text}");
    if let Some(path) = file {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}
