//! A slow volume: `slowfs`, which counts what it is asked for and fails on demand.

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
