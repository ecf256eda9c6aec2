//! What runs out, how much of it is left, on which volume, and from which source: with a text by which a case can be
//! repeated.

use std::fmt;

use crate::bench::FileSystem;

/// What is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// So many KiB are free.
    Space(u64),
    /// So many inodes are free.
    Inodes(u64),
    /// The btrfs qgroup may have so many KiB.
    Quota(u64),
    /// A limit of the process: prlimit's flag, and its value.
    Limit(&'static str, u64),
    /// The volume becomes read-only once so many entries are staged.
    ReadOnly(u64),
    /// The disk answers EIO after so many writes.
    DiskDies(usize),
    /// Something happens to the source once so many entries are staged.
    Source(Change, u64),
}

/// What happens to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It gets another name.
    Vanishes,
    /// Its largest file, or the archive, is cut.
    Shrinks,
    /// Its largest file grows.
    Grows,
    /// Some files go.
    LosesFiles,
}

/// Where the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Memory,
    Disk(FileSystem),
}

/// One exhaustion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) cause: Cause,
    pub(crate) on: On,
    /// `tree` or `tar`.
    pub(crate) source: &'static str,
}

const SOURCES: [&str; 2] = ["tree", "tar"];
const DISKS: [FileSystem; 3] = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];
/// The seed takes about 1 MiB.
const FREE: [u64; 8] = [0, 16, 64, 200, 400, 600, 800, 1200];
/// The seed has about 150 entries.
const INODES: [u64; 8] = [0, 2, 8, 20, 60, 120, 150, 200];
const QUOTAS: [u64; 6] = [64, 128, 256, 512, 768, 1024];
const STAGED: [u64; 7] = [0, 1, 10, 30, 60, 100, 140];
const WRITES: [usize; 8] = [0, 2, 5, 12, 30, 60, 100, 150];
const LIMITS: [(&str, &[u64]); 4] = [
    ("nofile", &[3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32]),
    ("nproc", &[1, 2, 3, 4, 5, 6, 8, 10]),
    ("as", &[6 << 20, 7 << 20, 8 << 20, 9 << 20, 10 << 20, 11 << 20, 12 << 20, 16 << 20, 24 << 20, 48 << 20]),
    ("fsize", &[0, 512, 1024, 4096, 16384, 65536, 200_000]),
];

impl Case {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        let disks = || DISKS.into_iter().map(On::Disk);
        for source in SOURCES {
            let mut add = |cause, on| cases.push(Case { cause, on, source });
            for on in disks().chain([On::Memory]) {
                FREE.into_iter().for_each(|free| add(Cause::Space(free), on));
            }
            for on in [On::Disk(FileSystem::Ext4), On::Memory] {
                INODES.into_iter().for_each(|free| add(Cause::Inodes(free), on));
            }
            // While a file is open for writing, only ext4 becomes read-only.
            STAGED.into_iter().for_each(|staged| add(Cause::ReadOnly(staged), On::Disk(FileSystem::Ext4)));
            add(Cause::ReadOnly(0), On::Memory);
            QUOTAS.into_iter().for_each(|quota| add(Cause::Quota(quota), On::Disk(FileSystem::Btrfs)));
            for (limit, values) in LIMITS {
                // An unprivileged user may not read all of the tree, and root has no limit of processes.
                if limit != "nproc" || source == "tar" {
                    values.iter().for_each(|&value| add(Cause::Limit(limit, value), On::Memory));
                }
            }
            for on in disks() {
                WRITES.into_iter().for_each(|writes| add(Cause::DiskDies(writes), on));
            }
            for change in [Change::Vanishes, Change::Shrinks, Change::Grows, Change::LosesFiles] {
                if source == "tree" || matches!(change, Change::Vanishes | Change::Shrinks) {
                    STAGED.into_iter().for_each(|staged| add(Cause::Source(change, staged), On::Memory));
                }
            }
        }
        cases
    }
}

impl Cause {
    /// What it is called in the table and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cause::Space(_) => "space",
            Cause::Inodes(_) => "inodes",
            Cause::Quota(_) => "quota",
            Cause::Limit(limit, _) => limit,
            Cause::ReadOnly(_) => "read-only",
            Cause::DiskDies(_) => "disk-dies",
            Cause::Source(Change::Vanishes, _) => "source-vanishes",
            Cause::Source(Change::Shrinks, _) => "source-shrinks",
            Cause::Source(Change::Grows, _) => "source-grows",
            Cause::Source(Change::LosesFiles, _) => "source-loses-files",
        }
    }

    fn amount(self) -> u64 {
        match self {
            Cause::DiskDies(writes) => writes as u64,
            Cause::Space(amount)
            | Cause::Inodes(amount)
            | Cause::Quota(amount)
            | Cause::Limit(_, amount)
            | Cause::ReadOnly(amount)
            | Cause::Source(_, amount) => amount,
        }
    }
}

impl On {
    /// As in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            On::Memory => "tmpfs",
            On::Disk(kind) => kind.name(),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let (cause, amount) = (self.cause.name(), self.cause.amount());
        write!(formatter, "{cause}:{amount}:{}:{}", self.on.name(), self.source)
    }
}
