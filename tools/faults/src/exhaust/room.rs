//! One exhaustion: a volume with a user's file, a cause, a run that has to bear it, and the cause removed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::MsFlags;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::cases::{Case, Cause, Change, On};
use crate::bench::{Bench, FileSystem, Mounted};
use crate::disk::{Disk, Image, run};
use crate::kit::Tree;
use crate::tracer::Ran;

/// The user where root has no limit.
pub(crate) const USER: u32 = 4242;
/// A user's file that is there from the begin.
pub(crate) const MINE: &str = "mine";
/// Users' files that take all but a little.
const FILLER: &str = "filler";
/// The largest file of the seed.
const LARGEST: &str = "b/c/large";
const TMPFS: &str = "size=16m,nr_inodes=400,mode=0755";

/// A volume and what is wrong with it.
pub(crate) struct Room<'a> {
    bench: &'a Bench,
    case: Case,
    /// The source of this case, which may change.
    source: PathBuf,
    mounted: Option<Mounted>,
    disk: Option<Disk>,
}

impl<'a> Room<'a> {
    /// A volume with a user's file, and the cause that is there before the run.
    pub(crate) fn new(
        bench: &'a Bench,
        seed: &Tree,
        base: Option<Image>,
        case: Case,
    ) -> Result<Self, String> {
        let source = bench.root.join("source");
        fs::remove_dir_all(&source).or_else(|_| fs::remove_file(&source)).ok();
        let disk = base.map(|image| bench.disk(image));
        let mut room = Self { bench, case, source, mounted: None, disk };
        room.mount("")?;
        if let Cause::Quota(_) = case.cause {
            let volume = bench.volume();
            run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(volume.join("part")))
                .map_err(text)?;
            run(Command::new("btrfs").args(["quota", "enable"]).arg(&volume)).map_err(text)?;
            room.mount(",subvol=part")?;
        }
        room.make_source(seed);
        fs::write(bench.volume().join(MINE), "a user's").map_err(text)?;
        if room.user().is_some() {
            std::os::unix::fs::chown(bench.volume(), room.user(), room.user()).map_err(text)?;
        }
        bench.sync();
        room.exhaust().map_err(text)?;
        Ok(room)
    }

    fn mount(&mut self, options: &str) -> Result<(), String> {
        self.mounted = None;
        self.mounted = Some(match (self.case.on, &self.disk) {
            (On::Disk(kind), Some(disk)) => self.bench.mount(kind, disk, options)?,
            _ => self.bench.mount_tmpfs(TMPFS),
        });
        Ok(())
    }

    fn make_source(&self, seed: &Tree) {
        match self.case.source {
            "tar" => fs::write(&self.source, seed.archive()).unwrap(),
            _ => drop(seed.write_to(&self.source)),
        }
    }

    /// The user who runs it, if that is not root.
    pub(crate) fn user(&self) -> Option<u32> {
        matches!(self.case.cause, Cause::Limit("nproc", _)).then_some(USER)
    }

    fn exhaust(&self) -> std::io::Result<()> {
        let filler = self.bench.volume().join(FILLER);
        match self.case.cause {
            Cause::Space(left) => fill(&filler, left << 10),
            Cause::Inodes(left) => {
                fs::create_dir(&filler)?;
                let free = statvfs(&filler)?.f_ffree;
                (left..free).try_for_each(|number| fs::write(filler.join(number.to_string()), ""))
            }
            Cause::Quota(kib) => self.limit_quota(&format!("{kib}K")),
            Cause::DiskDies(writes) => {
                self.disk.iter().for_each(|disk| disk.dies_after(Some(writes)));
                Ok(())
            }
            Cause::ReadOnly(0) => {
                self.become_read_only();
                Ok(())
            }
            Cause::Limit(..) | Cause::ReadOnly(_) | Cause::Source(..) => Ok(()),
        }
    }

    fn limit_quota(&self, limit: &str) -> std::io::Result<()> {
        run(Command::new("btrfs").args(["qgroup", "limit", limit]).arg(self.bench.volume())).map(drop)
    }

    /// The run that has to bear it.
    pub(crate) fn first(&self) -> Ran {
        let limit = match self.case.cause {
            Cause::Limit(limit, value) => format!("/usr/bin/prlimit --{limit}={value} "),
            _ => String::new(),
        };
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| match self.case.cause {
                Cause::ReadOnly(staged @ 1..) => {
                    self.wait_until_staged(staged, &ended);
                    self.become_read_only();
                }
                Cause::Source(change, staged) => {
                    self.wait_until_staged(staged, &ended);
                    self.change_source(change).ok();
                }
                _ => {}
            });
            let ran = self.seed(&limit);
            ended.store(true, Ordering::Relaxed);
            ran
        })
    }

    fn wait_until_staged(&self, entries: u64, ended: &AtomicBool) {
        let tree = self.bench.volume().join(".volseed/claims/1/stage/tree");
        while !ended.load(Ordering::Relaxed) && count(&tree) < entries {}
    }

    fn seed(&self, before: &str) -> Ran {
        let source = self.source.display();
        let command = format!(
            "{before}{{volseed}} run --from {source} --to {{volume}} --sentinel index.php --workers 3 -- {{app}}"
        );
        self.bench.plain(&command, self.user())
    }

    fn become_read_only(&self) {
        let Some(mounted) = &self.mounted else { return };
        match self.case.on {
            // As after an error of its journal.
            On::Disk(_) => mounted.remount(MsFlags::empty(), Some("abort")),
            On::Memory => mounted.remount(MsFlags::MS_RDONLY, None),
        }
        .expect("it becomes read-only");
    }

    fn change_source(&self, change: Change) -> std::io::Result<()> {
        let is_archive = self.case.source == "tar";
        let largest = if is_archive { self.source.clone() } else { self.source.join(LARGEST) };
        match change {
            Change::Vanishes => fs::rename(&self.source, self.source.with_extension("elsewhere")),
            Change::Shrinks => fs::File::options().write(true).open(&largest)?.set_len(100_000),
            Change::Grows => fs::File::options().append(true).open(&largest)?.write_all(b"more"),
            Change::LosesFiles => (100..120).try_for_each(|number| {
                fs::remove_file(self.source.join(format!("many/{}/{number}", number % 8)))
            }),
        }
    }

    /// Removes the cause, after which all is as if it had never been.
    ///
    /// # Errors
    /// Users' files are not as they were, or the volume cannot be mounted again.
    pub(crate) fn relieve(&mut self, seed: &Tree) -> Result<(), String> {
        let filler = self.bench.volume().join(FILLER);
        match self.case.cause {
            Cause::Space(_) => fs::remove_file(filler).map_err(text)?,
            Cause::Inodes(_) => fs::remove_dir_all(filler).map_err(text)?,
            Cause::Quota(_) => self.limit_quota("none").map_err(text)?,
            Cause::ReadOnly(_) if self.case.on == On::Memory => {
                let mounted = self.mounted.as_ref().expect("it is mounted");
                mounted.remount(MsFlags::empty(), None).map_err(text)?;
            }
            Cause::DiskDies(_) | Cause::ReadOnly(_) => {
                self.mounted = None;
                self.disk.iter().for_each(|disk| disk.dies_after(None));
                self.mount("")?;
            }
            Cause::Source(..) => {
                fs::remove_dir_all(self.source.with_extension("elsewhere"))
                    .or_else(|_| fs::remove_file(self.source.with_extension("elsewhere")))
                    .ok();
                fs::remove_dir_all(&self.source).or_else(|_| fs::remove_file(&self.source)).ok();
                self.make_source(seed);
            }
            Cause::Limit(..) => {}
        }
        Ok(())
    }

    /// The next run.
    pub(crate) fn next(&self) -> Ran {
        self.seed("")
    }
}

/// The base of a case's disk: with as few inodes as the case needs.
pub(crate) fn base(bench: &Bench, kind: FileSystem) -> Image {
    let options: &[&str] = if kind == FileSystem::Ext4 { &["-m", "0", "-N", "400"] } else { &[] };
    bench.formatted(kind, options)
}

/// Takes all room but so many bytes.
fn fill(path: &Path, left: u64) -> std::io::Result<()> {
    let file = fs::File::create(path)?;
    let room = statvfs(path)?;
    let mut size = (room.f_bavail * room.f_frsize).saturating_sub(left);
    while size > 0 {
        match fallocate(&file, FallocateFlags::empty(), 0, size) {
            Ok(()) => break,
            Err(rustix::io::Errno::NOSPC) => size = size.saturating_sub(1 << 20),
            Err(error) => return Err(error.into()),
        }
    }
    // What is free now may be more than what was asked to be left.
    let mut end = size;
    for step in [1 << 20, 64 << 10, 4 << 10] {
        loop {
            let room = statvfs(path)?;
            let is_enough = room.f_bavail * room.f_frsize < left + step;
            if is_enough || fallocate(&file, FallocateFlags::empty(), end, step).is_err() {
                break;
            }
            end += step;
        }
    }
    file.sync_all()
}

/// Entries below a directory that changes.
fn count(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(
            |entry| {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) { 1 + count(&entry.path()) } else { 1 }
            },
        )
        .sum()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
