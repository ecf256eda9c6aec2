//! What is in an archive, for `fuzz/`: each function takes any bytes, and panics where something holds
//! that must not.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decompress;
use super::headers::{Extension, Records};
use super::names::{LONGEST_PATH, NameFilter, components, is_reserved};
use crate::cancel::Cancel;
use crate::cli::config::VolumeConfig;
use crate::cli::values::{Existing, LockMode, Workers};
use crate::error::Result;
use crate::exit::Exit;
use crate::progress::Progress;
use crate::seed::{RootLook, Source, StageJob};
use crate::volume::Volume;

/// The most that is read of what a decoder gives, in bytes.
const MAX_DECODED: u64 = 4 << 20;

/// Stages an archive below `directory`, an empty directory of a memory file system, once from a file and
/// once as from a pipe. Checksums of its headers are made right first, or no mutation would pass them;
/// an odd length spares them.
pub fn archive(data: &[u8], directory: &Path) {
    let mut data = data.to_vec();
    if data.len().is_multiple_of(2) {
        for block in data.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    let path = directory.join("seed.tar");
    fs::write(&path, data).expect("write the archive");
    let [file, pipe] = [("file", false), ("pipe", true)].map(|(name, into_pipe)| {
        let volume = directory.join(name);
        let staged = stage(&path, &volume, into_pipe);
        let found = staged.map(|()| listing(&volume.join("stage/tree")));
        fs::remove_dir_all(&volume).expect("remove the volume");
        found
    });
    match (file, pipe) {
        (Ok(file), Ok(pipe)) => assert_eq!(file, pipe),
        (Err(file), Err(pipe)) => {
            for error in [&file, &pipe] {
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
            assert_eq!(file.exit_code(), pipe.exit_code(), "{file} / {pipe}");
            assert_ne!(file.exit_code(), Exit::Bug, "{file}");
        }
        (Ok(_), Err(error)) => panic!("only from a file, not from a pipe: {error}"),
        (Err(error), Ok(_)) => panic!("only from a pipe, not from a file: {error}"),
    }
    let names: Vec<_> =
        fs::read_dir(directory).expect("list").filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    assert_eq!(names, ["seed.tar"], "something is outside the volume");
}

fn stage(archive: &Path, volume: &Path, into_pipe: bool) -> Result<()> {
    fs::create_dir_all(volume.join("stage")).expect("create the volume");
    let stage = File::open(volume.join("stage")).expect("open the stage");
    let config = VolumeConfig {
        to: volume.to_owned(),
        repair: crate::cli::config::RepairOptions::default(),
        upgrade: crate::cli::config::UpgradeOptions::default(),
        hook: None,
        from: archive.to_owned(),
        state_dir: None,
        sentinel: None,
        exclude: Vec::new(),
        adopt: crate::cli::values::Adopt::AsIs,
        existing: Existing::Keep,
        owner: None,
        chmod: None,
        times: true,
        strict: false,
        workers: Workers::Count(2),
        memory: 4 << 20,
        max_entries: 1000,
        seed_version: None,
        lock: LockMode::None,
        wait_timeout: None,
    };
    let volume = Volume::open(volume, None)?;
    let source = Source::open(&config, &volume)?;
    let site = StageJob {
        volume: &volume,
        stage: stage.as_fd(),
        stage_path: config.to.join("stage"),
        below: Vec::new(),
        only: None,
        is_part: false,
        repair: None,
        begun: false,
        epoch: 1,
        config: &config,
        progress: &Arc::new(Progress::default()),
        cancel: Arc::new(Cancel::default()),
    };
    let look = RootLook::at(&volume, &config)?;
    site.stage(if into_pipe { source.into_pipe() } else { source }, look, None, None).map(drop)
}

/// Every path with its type, mode, length, links and the beginning of its data.
fn listing(root: &Path) -> Vec<(PathBuf, u32, u64, u64, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("list").map(|entry| entry.expect("read an entry")) {
            let (path, meta) = (entry.path(), entry.metadata().expect("stat"));
            let mut data = Vec::new();
            if meta.is_file() {
                let file = File::open(&path).expect("open");
                file.take(4096).read_to_end(&mut data).expect("read");
            } else if meta.is_symlink() {
                data = fs::read_link(&path).expect("read a link").into_os_string().into_encoded_bytes();
            } else if meta.is_dir() {
                open.push(path.clone());
            }
            assert!(meta.is_file() || meta.is_symlink() || meta.is_dir() || meta.file_type().is_fifo());
            let length = if meta.is_dir() { 0 } else { meta.len() };
            found.push((
                path.strip_prefix(root).expect("below").to_owned(),
                meta.mode(),
                length,
                meta.nlink(),
                data,
            ));
        }
    }
    found.sort();
    found
}

/// Extension headers: the first byte says of which type.
pub fn extension(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let mut extension = Extension::default();
    for part in data.split(|byte| *byte == 0xff) {
        let _ = extension.add(*kind, part.to_vec());
    }
    if let Ok(Records { sparse: Some(sparse), .. }) = Records::parse(data) {
        for segment in sparse.segments.iter().flatten() {
            assert!(segment.length > 0 && segment.offset + segment.length <= sparse.size);
        }
    }
}

/// Names, one after the other.
pub fn names(data: &[u8]) {
    let mut names = NameFilter::new(64 << 10);
    for path in data.split(|byte| *byte == b'\n') {
        if let Ok(parts) = components(path) {
            assert!(!path.starts_with(b"/") && path.len() <= LONGEST_PATH);
            for part in &parts {
                assert!(!part.is_empty() && !part.contains(&b'/') && part.len() <= 255);
                assert!(*part != b"." && *part != b"..");
            }
            assert!(parts.first().is_none_or(|first| !is_reserved(first)));
        }
        names.add(path);
        assert!(names.is_known(path));
    }
}

/// Every decoder, by the first bytes.
pub fn decompress(data: &[u8]) {
    let source = Box::new(Cursor::new(data.to_vec()));
    if let Ok(decoded) = decompress::open(source, Arc::new(Progress::default())) {
        let _ = std::io::copy(&mut decoded.take(MAX_DECODED), &mut std::io::sink());
    }
}
