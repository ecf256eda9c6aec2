//! A directory of a test's own that is gone after it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Where the fast sandboxes live: the suite is about rules, and a tmpfs keeps the disk out of its time.
const MEMORY: &str = "/dev/shm";
/// Docker gives containers 64 MiB there, which the larger trees fill.
const ROOM_NEEDED: u64 = 512 << 20;

/// A user that no machine has, for tests that give root up.
pub(crate) const PROBE_ID: u32 = 12345;

pub(crate) struct Sandbox {
    directory: TempDir,
}

impl Sandbox {
    /// In memory where there is room for it, otherwise on disk.
    pub(crate) fn new() -> Self {
        match rustix::fs::statvfs(MEMORY) {
            Ok(space) if space.f_bavail * space.f_frsize >= ROOM_NEEDED => Self::below(Path::new(MEMORY)),
            _ => Self::on_disk(),
        }
    }

    /// Where programs may be executed, whatever `/dev/shm` is mounted with.
    pub(crate) fn on_disk() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(parent: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("volseed-").tempdir_in(parent).unwrap();
        // Some tests run volseed as another user, who has to get in.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    /// A name in the sandbox; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory in the sandbox, made.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// An empty volume.
    pub(crate) fn volume(&self) -> PathBuf {
        self.directory("volume")
    }

    /// An empty volume that belongs to this user. Needs root.
    pub(crate) fn volume_of(&self, user: u32) -> PathBuf {
        let volume = self.volume();
        chown(&volume, Some(user), Some(user)).unwrap();
        volume
    }

    /// A file in the sandbox.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A file in the sandbox that may be executed.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}
