//! What the source of a seed has: how much it is, and what of it a volume may not keep.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::cli::config::VolumeConfig;
use crate::error::{Error, Result, printable};
use crate::exit::Exit;
use crate::seed::manifest::line::Listed;
use crate::seed::manifest::read::{ListedEntries, Manifest, PART, join, split};
use crate::seed::stage::case::Spellings;
use crate::seed::{Source, StageJob};
use crate::volume::Volume;
use crate::volume::records::ManifestRef;
use crate::volume::scratch::Scratch;

/// What names on Windows, FAT and SMB cannot have, and a newline with the other controls.
const FORBIDDEN: &[u8] = b":?\"*<>|\\";

/// It.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) symlinks: u64,
    pub(super) links: u64,
    pub(super) fifos: u64,
    pub(super) bytes: u64,
    /// The data of each file, for the space that it takes.
    pub(super) sizes: Vec<u64>,
    /// The most creations that have to wait for each other.
    pub(super) longest_chain: u64,
    /// Owners of entries, with their number.
    pub(super) owners: Vec<((u32, u32), u64)>,
    pub(super) longest_name: usize,
    pub(super) not_utf8: u64,
    pub(super) forbidden: u64,
    pub(super) dotted: u64,
    /// Two paths that differ in case only.
    pub(super) alike: Option<(String, String)>,
}

impl Needs {
    /// Lists the source beside the volume; nothing where none is given.
    ///
    /// # Errors
    /// As a seed's, when the source cannot be read or is refused.
    pub(super) fn of(config: &VolumeConfig, volume: &Volume, cancel: &Arc<Cancel>) -> Result<Option<Needs>> {
        if config.from.as_os_str().is_empty() {
            return Ok(None);
        }
        let scratch = Scratch::create()?;
        let progress = Arc::default();
        let job = StageJob::in_scratch(config, volume, &scratch, &progress, Arc::clone(cancel));
        let listing = job.list(Source::open(config, volume)?)?;
        let unread = |cause: String| Error::new(Exit::Io, "list source", cause).on(config.from.as_path());
        let manifest = Manifest::read(scratch.directory.as_fd(), ManifestRef::STAGED, &listing.manifest);
        let manifest = manifest.map_err(unread)?;
        let mut needs = Needs { bytes: listing.totals.bytes, ..Needs::default() };
        // A directory comes before what is in it.
        let paths: Vec<&[u8]> = manifest.below(b"").collect();
        let mut chains: Vec<(&[u8], u64)> = Vec::new();
        let mut spellings = Spellings::default();
        for path in paths.iter().rev() {
            let directory = manifest.directory(path);
            let inside = directory.map(|found| &found.directories[..]).unwrap_or_default();
            let mut chain = inside.len() as u64;
            for range in manifest.ranges(path, PART) {
                let entries = manifest.entries(path, &range).map_err(|error| unread(error.to_string()))?;
                chain += entries.len() as u64;
                needs.add(&entries);
                needs.look_at_names(path, entries.keys().map(|name| &**name), &mut spellings);
            }
            // They are the last that were added, but for names like `a-b` beside `a`.
            let (mut at, mut left) = (chains.len(), inside.len());
            while left > 0 && at > 0 {
                at -= 1;
                if split(chains[at].0).0 == *path {
                    chain = chain.max(chains.remove(at).1 + 1);
                    left -= 1;
                }
            }
            chains.push((path, chain));
            needs.directories += inside.len() as u64;
            if let Some(attrs) = directory.and_then(|found| found.attrs) {
                needs.count_owner((attrs.uid, attrs.gid));
            }
            needs.look_at_names(path, inside.iter().map(|name| &**name), &mut spellings);
        }
        needs.longest_chain = chains.last().map_or(0, |(_, chain)| *chain);
        Ok(Some(needs))
    }

    fn add(&mut self, entries: &ListedEntries) {
        for entry in entries.values() {
            match &entry.listed {
                Listed::File { size, .. } => {
                    self.files += 1;
                    self.sizes.push(*size);
                }
                Listed::Symlink(_) => self.symlinks += 1,
                Listed::Link(_) => self.links += 1,
                Listed::Fifo => self.fifos += 1,
            }
            if let Some(attrs) = entry.attrs {
                self.count_owner((attrs.uid, attrs.gid));
            }
        }
    }

    fn count_owner(&mut self, owner: (u32, u32)) {
        match self.owners.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, count)) => *count += 1,
            None => self.owners.push((owner, 1)),
        }
    }

    /// What a volume may not keep of the names in one directory.
    fn look_at_names<'n>(
        &mut self,
        path: &[u8],
        names: impl Iterator<Item = &'n [u8]>,
        spellings: &mut Spellings,
    ) {
        for name in names {
            self.longest_name = self.longest_name.max(name.len());
            self.not_utf8 += u64::from(str::from_utf8(name).is_err());
            let is_forbidden = |byte: &u8| FORBIDDEN.contains(byte) || byte.is_ascii_control();
            self.forbidden += u64::from(name.iter().any(is_forbidden));
            self.dotted += u64::from(name.ends_with(b".") || name.ends_with(b" "));
            let path = join(path, name);
            if let Some(other) = spellings.note(&path) {
                self.alike.get_or_insert_with(|| (printable(&other), printable(&path)));
            }
        }
    }

    /// All entries but the root.
    pub(super) fn entries(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.links + self.fifos
    }
}
