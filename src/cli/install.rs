//! `volseed install DIR`: puts this binary where another container finds it, so that an unmodified image
//! can be started through it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// The name that it gets there.
const NAME: &str = "volseed";
/// Executable by everybody: the app may run as another user.
const MODE: u32 = 0o755;

/// Copies the running binary into `directory`, whole or not at all, and returns its path there. A volseed
/// that is there already, and may be running, is replaced by rename.
///
/// # Errors
/// When the directory is not there or cannot be written to.
pub(crate) fn install(directory: &Path) -> Result<PathBuf> {
    let to = directory.join(NAME);
    let temporary = directory.join(format!(".{NAME}.{}", std::process::id()));
    let copied = copy(&temporary).and_then(|()| fs::rename(&temporary, &to));
    if copied.is_err() {
        // It may not be there at all.
        let _ = fs::remove_file(&temporary);
    }
    copied.context("install", to.as_path())?;
    Ok(to)
}

fn copy(to: &Path) -> io::Result<()> {
    let mut binary = File::open("/proc/self/exe")?;
    let mut file = File::options().write(true).create(true).truncate(true).mode(MODE).open(to)?;
    io::copy(&mut binary, &mut file)?;
    // The mode again: creating it went through the umask.
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(MODE))?;
    file.sync_all()
}
