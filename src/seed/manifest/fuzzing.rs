//! Manifests that the owner of a state directory may have made up, for `fuzz/`: takes any bytes, and panics where
//! something holds that must not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use super::compare::Difference;
use super::digest::DataDigest;
use super::line::{HEADER, Line, Listed};
use super::read::{Lookup, MAX_UNLISTED, Manifest, join};
use super::repair::RepairPlan;
use super::verify::Verification;
use crate::volume::Volume;
use crate::volume::records::{ManifestRef, Unkept};

/// Reads a manifest below `directory`, an empty directory of a memory file system, and compares an empty volume with it.
/// What does not begin as a manifest does is taken for its lines.
pub fn manifest(data: &[u8], directory: &Path) {
    lines(data);
    let text = if data.starts_with(b"volseed") { data.to_vec() } else { [HEADER, b"\n", data].concat() };
    fs::write(directory.join("manifest"), &text).expect("write the manifest");
    let unkept = Unkept::default();
    let digest = DataDigest::of(&text).to_string().into();
    let named = ManifestRef { digest, bytes: text.len() as u64, unkept };
    let opened = File::open(directory).expect("open the directory");
    match Manifest::read(opened.as_fd(), "manifest", &named) {
        Err(cause) => assert!(!cause.contains(char::is_control), "{cause}"),
        Ok(manifest) => {
            directories(&manifest, text.len());
            let has_entries = entries(&manifest);
            compare(&manifest, &directory.join("volume"), has_entries);
        }
    }
}

/// What is a line is written as one that says the same.
fn lines(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Some(line) = Line::parse(line) {
            let text = line.text();
            assert_eq!(Line::parse(text.trim_end_matches('\n').as_bytes()), Some(line), "{text}");
        }
    }
}

/// Every directory but the root is named once in the one that it is in, and none is outside the volume. What is kept of
/// them is in proportion to a manifest of so many bytes.
fn directories(manifest: &Manifest, bytes: usize) {
    let kept: usize = manifest.below(b"").map(<[u8]>::len).sum();
    assert!(kept <= bytes + MAX_UNLISTED, "{kept} bytes of directories");
    let mut named = BTreeSet::from([Vec::new()]);
    for path in manifest.below(b"") {
        is_below_root(path);
        for name in &manifest.directory(path).expect("it is listed").directories {
            is_name(name);
            assert!(named.insert(join(path, name)), "named twice: {path:?}, {name:?}");
        }
    }
    assert!(named.iter().map(|path| &**path).eq(manifest.below(b"")));
}

/// Looks at all entries: whether they could be read.
fn entries(manifest: &Manifest) -> bool {
    let mut lookup = Lookup::of(manifest);
    for path in manifest.below(b"") {
        let (mut entries, mut last) = (Vec::new(), None);
        // So few lines that even a short manifest has several ranges.
        for range in manifest.ranges(path, 1) {
            let Ok(part) = manifest.entries(path, &range) else { return false };
            entries.extend(part);
        }
        for (name, entry) in entries {
            assert!(last.as_ref() < Some(&name), "ranges that are not apart");
            last = Some(name.clone());
            is_name(&name);
            if let Listed::Link(first) = &entry.listed {
                is_below_root(first);
            }
            match lookup.first_name(entry) {
                Ok(first) => assert!(!first.is_some_and(|it| matches!(it.listed, Listed::Link(_)))),
                Err(_) => return false,
            }
        }
    }
    true
}

/// On an empty volume all is missing, and can be put back.
fn compare(manifest: &Manifest, volume: &Path, has_entries: bool) {
    fs::create_dir_all(volume).expect("create the volume");
    let volume = Volume::open(volume, None).expect("open the volume");
    let found = match Verification::new(&volume, manifest, true).run(2) {
        Ok(found) => found,
        // The root's lines are damaged: no others are read.
        Err(error) => return assert!(!has_entries, "{error}"),
    };
    assert_eq!(found.extra, 0);
    let is_expected = |(path, difference): &(Box<[u8]>, Difference)| {
        *difference == if path.is_empty() { Difference::Meta } else { Difference::Missing }
    };
    assert!(found.differences.iter().all(is_expected), "{found:?}");
    if has_entries {
        let plan = RepairPlan::new(manifest, found, |_| Ok(true)).expect("its entries could be read");
        let same = plan.wants.first_other(manifest, manifest).expect("its entries could be read");
        same.into_iter().for_each(|path| {
            // A further name of what is not listed is like nothing.
            let mut lookup = Lookup::of(manifest);
            let entry = lookup.entry(&path).expect("it could be read");
            assert!(entry.is_none_or(|it| matches!(it.listed, Listed::Link(_))), "{path:?}");
        });
    }
}

fn is_name(name: &[u8]) {
    assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..");
}

fn is_below_root(path: &[u8]) {
    path.split(|byte| *byte == b'/').filter(|_| !path.is_empty()).for_each(is_name);
}
