//! A slow volume: `slowfs`, which counts what it is asked for and fails on demand.

use std::path::Path;
use std::time::Duration;

use slowfs::{Mount, Options, Quirks};

use super::{Sandbox, mount, needs};

/// An empty slowfs on the sandbox's volume, seen by this test and what it starts; nothing where the
/// machine has no FUSE. It has to end before the sandbox.
#[track_caller]
pub(crate) fn slow(sandbox: &Sandbox, options: Options) -> Option<Mount> {
    needs::fuse().then(|| {
        mount::private();
        Mount::new(options, &sandbox.volume()).unwrap()
    })
}

/// As far away as a server in the next data centre.
pub(crate) fn far() -> Options {
    Options { rtt: Duration::from_millis(1), ..Options::default() }
}

/// A file system that refuses something or does it in another way, answered at once.
pub(crate) fn quirky(quirks: Quirks) -> Options {
    Options { quirks, ..Options::default() }
}

/// What to start a program under so that the kernel's list of mounts tells it that a volume is NFS, mounted with these
/// options: what is said of the volume is made up, what it answers is real.
pub(crate) fn told_as_nfs(sandbox: &Sandbox, volume: &Path, options: &str) -> [String; 4] {
    let at = volume.display();
    let script = format!(
        "sed 's|\\( {at} .*\\) - .*|\\1 - nfs4 files.example:/site {options}|' /proc/$$/mountinfo >\"$0.$$\" \
         && mount --bind \"$0.$$\" /proc/$$/mountinfo && exec \"$@\""
    );
    ["sh".into(), "-c".into(), script, sandbox.path("mountinfo").display().to_string()]
}
