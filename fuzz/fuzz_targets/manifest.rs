#![no_main]

use std::cell::LazyCell;

thread_local! {
    /// In memory: a manifest is never written to a disk.
    static DIRECTORY: LazyCell<tempfile::TempDir> =
        LazyCell::new(|| tempfile::tempdir_in("/dev/shm").expect("a memory file system at /dev/shm"));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    DIRECTORY.with(|directory| volseed::fuzzing::manifest(data, directory.path()));
});
