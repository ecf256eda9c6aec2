//! An archive in each of the packings that volseed knows.

use std::io::Write;
use std::process::{Command, Stdio};

use super::needs;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    pub(crate) const ALL: [Self; 5] = [Self::Plain, Self::Gzip, Self::Zstd, Self::Xz, Self::Bzip2];
    pub(crate) const COMPRESSED: [Self; 4] = [Self::Gzip, Self::Zstd, Self::Xz, Self::Bzip2];

    /// The archive in this packing; nothing where the tool for it is missing.
    #[track_caller]
    pub(crate) fn pack(self, archive: &[u8]) -> Option<Vec<u8>> {
        let tool = match self {
            Self::Plain => return Some(archive.to_vec()),
            Self::Gzip => return Some(gzip(archive)),
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        };
        needs::tools(&[tool]).then(|| pipe(Command::new(tool).args(["-q", "-c"]), archive))
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What a command makes of the bytes.
#[track_caller]
pub(crate) fn pipe(command: &mut Command, bytes: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    output.stdout
}
