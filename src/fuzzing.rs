//! What `fuzz/` drives: each function takes any bytes, and panics where something holds that must not.
//! Here only under `cfg(fuzzing)`, and in the tests, which replay every input that is kept.

use std::path::Path;
use std::sync::Arc;

use crate::claims::beat::Beat;
use crate::cli::config::ServerConfig;
use crate::health::page::Page;
use crate::health::server::{ProgressProbe, answer_to};
use crate::progress::Progress;
pub use crate::seed::manifest::fuzzing::manifest;
pub use crate::seed::source::fuzzing::{archive, decompress, extension, names};
use crate::volume::records::{Complete, Public, Staged};

/// The records on a volume.
pub fn records(data: &[u8]) {
    let public = Public::parse(data, Path::new("state.json")).map(drop);
    let private = Complete::parse(data, Path::new("record.json")).map(drop);
    for error in [public, private].into_iter().filter_map(Result::err) {
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
    let _ = Staged::parse(data);
    let _ = Beat::parse(data);
}

/// A request to the health server.
pub fn http(data: &[u8]) {
    let config = ServerConfig::with(&[]);
    let page = Page::read(None).expect("our own page is whole");
    let site = Arc::new(ProgressProbe { config, page, progress: Arc::new(Progress::default()) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let answer = runtime.expect("a runtime starts").block_on(answer_to(data, site));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every input that is kept for a target, those that found something among them.
    fn replay(target: &str, run: impl Fn(&[u8])) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            // Shown where one fails.
            println!("{}", path.display());
            run(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no inputs in {}", directory.display());
    }

    #[test]
    fn inputs_of_the_fuzzers_are_handled() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        replay("archive", |data| archive(data, directory.path()));
        replay("extension", extension);
        replay("names", names);
        replay("decompress", decompress);
        replay("records", records);
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        replay("manifest", |data| manifest(data, directory.path()));
        replay("http", http);
    }
}
