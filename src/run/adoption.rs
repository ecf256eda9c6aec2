//! What is known of a volume that was seeded before volseed: where it has the image's sentinel it is of the image's
//! version, and the image says what should be on it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::work::VolumeWork;
use crate::claims::store::{Claim, STAGE};
use crate::cli::config::VolumeConfig;
use crate::cli::values::Adopt;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::seed::engine::workers;
use crate::seed::manifest::compare::Difference;
use crate::seed::manifest::read::Manifest;
use crate::seed::manifest::verify::Verification;
use crate::seed::{Source, archived_file};
use crate::volume::records::ManifestRef;
use crate::volume::{Volume, make_private, open_beneath};

/// How many missing entries a message names.
const MAX_NAMED: usize = 5;

/// The largest sentinel that is compared, in bytes: it names a version, and is not the app.
const MAX_BYTES: u64 = 1 << 20;

/// The image's version, where the volume's sentinel is byte for byte the image's. What cannot be read has no
/// known version, which is no failure.
pub(crate) fn version(config: &VolumeConfig, volume: &Volume) -> Option<String> {
    let version = config.seed_version.clone()?;
    has_same_sentinel(config, volume).then_some(version)
}

/// Whether the volume's sentinel is byte for byte the image's.
pub(crate) fn has_same_sentinel(config: &VolumeConfig, volume: &Volume) -> bool {
    compare(config, volume).unwrap_or(false)
}

impl VolumeWork<'_> {
    /// Lists the image in the claim's stage, where the volume has its sentinel, and says what is missing: an entry point
    /// that was killed may have copied the sentinel before the rest.
    ///
    /// # Errors
    /// Exit 78 where something is missing and `--adopt refuse` is given.
    pub(super) fn compare_with_image(&self, claim: &Claim<Arc<OwnedFd>>) -> Result<Option<ManifestRef>> {
        if !has_same_sentinel(self.config, self.volume) {
            return Ok(None);
        }
        let path = self.stage_path(claim, STAGE);
        let stage = make_private(claim.dir.as_fd(), STAGE.as_bytes());
        let stage = stage.context("create directory", path.as_path())?.fd;
        let site = self.site(claim, STAGE, &stage, self.cancel);
        let compare = || -> Result<_> {
            let listing = site.list(Source::open(self.config, self.volume)?)?;
            let read = Manifest::read(stage.as_fd(), ManifestRef::STAGED, &listing.manifest);
            let manifest = read.map_err(|cause| Error::new(Exit::Io, "read manifest", cause))?;
            let threads = workers::crew(self.config.workers, self.volume.kind()?, 1).writers;
            Ok((listing.manifest, Verification::new(self.volume, &manifest, false).run(threads)?))
        };
        let (manifest, found) = match self.progress.reading(compare) {
            Err(error) if !self.cancel.is_set() && self.config.adopt == Adopt::AsIs => {
                let volume = self.volume.path().display();
                tracing::warn!(%volume, %error, "adopted without a look at what the image has");
                return Ok(None);
            }
            compared => compared?,
        };
        let is_missing = |(path, difference): &(Box<[u8]>, Difference)| {
            (*difference == Difference::Missing).then(|| printable(path).to_string())
        };
        let missing: Vec<String> = found.differences.iter().filter_map(is_missing).collect();
        if missing.is_empty() {
            return Ok(Some(manifest));
        }
        let more = if missing.len() > MAX_NAMED { ", …" } else { "" };
        let first = format!("{}{more}", missing[..missing.len().min(MAX_NAMED)].join(", "));
        if self.config.adopt == Adopt::Refuse {
            let cause =
                format!("it has the image's sentinel and lacks {} of its entries: {first}", missing.len());
            return Err(Error::new(Exit::Refused, "adopt volume", cause).on(self.volume.path()).help(
                "if they were removed on purpose, start with --adopt as-is; else do so, and run volseed repair, which puts them back",
            ));
        }
        tracing::warn!(
            volume = %self.volume.path().display(),
            missing = missing.len(),
            "adopted although entries of the image are missing: {first} (volseed repair puts them back)"
        );
        Ok(Some(manifest))
    }
}

fn compare(config: &VolumeConfig, volume: &Volume) -> Option<bool> {
    let sentinel = config.sentinel.as_deref()?;
    let there = regular(open(volume.root(), sentinel)?)?;
    let is_same = if config.from.is_dir() {
        let source = File::open(&config.from).ok()?;
        let shipped = regular(open(source.as_fd(), sentinel)?)?;
        is_same(shipped, there)
    } else if config.from.is_file() {
        archived_file(&config.from, sentinel, MAX_BYTES).is_some_and(|shipped| is_same(&shipped[..], there))
    } else {
        false
    };
    Some(is_same)
}

fn open(directory: std::os::fd::BorrowedFd<'_>, path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_beneath(directory, path.as_os_str().as_bytes(), flags, Mode::empty()).ok().map(File::from)
}

fn regular(file: File) -> Option<File> {
    let found = file.metadata().ok()?;
    (found.is_file() && found.len() <= MAX_BYTES).then_some(file)
}

fn is_same(one: impl Read, other: impl Read) -> bool {
    read(one).is_some_and(|one| read(other) == Some(one))
}

fn read(file: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
