//! Hard links of an archive, which wait until what they name is written: a few in memory, the rest in
//! a file in the stage's directory, beside the tree. The file has no name; it ends with its descriptor.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, unlinkat};

use crate::error::{Context, Result};
use crate::seed::stage::owner::Owner;
use crate::volume::{openat, remove_tree};

/// The file's name for the moment that it has one.
const NAME: &[u8] = b"links";
/// The most bytes in memory: the links of any image that we know.
const MAX_BUFFER: usize = 256 << 10;

/// A hard link.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// The path of what it names.
    pub target: Vec<u8>,
    /// Who creates it.
    pub owner: Owner,
    /// Whether it may name another link, which must be made first.
    pub waits: bool,
}

/// The links that wait, in the order of the archive.
pub(crate) struct Links<'a> {
    stage: BorrowedFd<'a>,
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl<'a> Links<'a> {
    /// None yet. `path` is that of the directory `stage`, for messages.
    pub(crate) fn new(stage: BorrowedFd<'a>, path: PathBuf) -> Links<'a> {
        Links { stage, path, file: None, buffer: Vec::new() }
    }

    /// Adds one, whose paths have less than 64 KiB each.
    ///
    /// # Errors
    /// When it cannot be written to the file.
    pub(crate) fn add(&mut self, link: &Link) -> Result<()> {
        let Link { path, target, owner: (uid, gid), waits } = link;
        self.buffer.push((*waits).into());
        for number in [*uid, *gid] {
            self.buffer.extend(number.to_ne_bytes());
        }
        for path in [path, target] {
            self.buffer.extend((path.len() as u16).to_ne_bytes());
            self.buffer.extend(path);
        }
        if self.buffer.len() < MAX_BUFFER {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(self.create().context("create file", || self.path.join("links"))?);
        }
        let file = self.file.as_mut().expect("it was just created");
        file.write_all(&self.buffer).context("write", || self.path.join("links"))?;
        self.buffer.clear();
        Ok(())
    }

    /// Takes all of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn take(&mut self) -> Result<Taken> {
        let mut file = self.file.take();
        if let Some(file) = &mut file {
            file.rewind().context("read", || self.path.join("links"))?;
        }
        let file: Box<dyn Read> = file.map_or_else(|| Box::new(io::empty()) as _, |file| Box::new(file) as _);
        let taken = BufReader::new(file.chain(io::Cursor::new(std::mem::take(&mut self.buffer))));
        Ok(Taken { taken: Box::new(taken), path: self.path.clone() })
    }

    fn create(&self) -> rustix::io::Result<File> {
        // One that an earlier run had no time to remove.
        remove_tree(self.stage, NAME)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = openat(self.stage, NAME, flags, Mode::RUSR | Mode::WUSR)?;
        unlinkat(self.stage, NAME, AtFlags::empty())?;
        Ok(file.into())
    }
}

/// The links that were taken.
pub(crate) struct Taken {
    taken: Box<dyn Read>,
    path: PathBuf,
}

impl Taken {
    /// The next one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<Link>> {
        self.read().context("read", || self.path.join("links"))
    }

    fn read(&mut self) -> io::Result<Option<Link>> {
        let (mut waits, mut link) = ([0], Link::default());
        if self.taken.read(&mut waits)? == 0 {
            return Ok(None);
        }
        let mut number = || {
            let mut bytes = [0; 4];
            self.taken.read_exact(&mut bytes).map(|()| u32::from_ne_bytes(bytes))
        };
        (link.waits, link.owner) = (waits[0] != 0, (number()?, number()?));
        for path in [&mut link.path, &mut link.target] {
            let mut length = [0; 2];
            self.taken.read_exact(&mut length)?;
            path.resize(u16::from_ne_bytes(length).into(), 0);
            self.taken.read_exact(path)?;
        }
        Ok(Some(link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn links_come_back_in_order_from_memory_and_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let stage = File::open(directory.path()).unwrap();
        let mut links = Links::new(stage.as_fd(), directory.path().to_owned());
        for count in [0u32, 3, 20_000, 5] {
            let link = |number: u32| Link {
                path: format!("d/{number}").into(),
                target: vec![b'x'; 100],
                owner: (number, 7),
                waits: number.is_multiple_of(3),
            };
            (0..count).for_each(|number| links.add(&link(number)).unwrap());
            let mut taken = links.take().unwrap();
            (0..count).for_each(|number| assert_eq!(taken.next().unwrap(), Some(link(number))));
            assert_eq!(taken.next().unwrap(), None);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
