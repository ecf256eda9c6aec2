//! The bytes of a disk, in blocks that copies share: a cut makes a copy, and there are hundreds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const BLOCK: usize = 4096;
type Block = [u8; BLOCK];

/// A disk's content. A block that was never written is zero.
#[derive(Clone)]
pub(crate) struct Image {
    bytes: u64,
    blocks: HashMap<u64, Arc<Block>>,
}

impl Image {
    /// What is in a file; its size is a multiple of 4 KiB.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut blocks = HashMap::new();
        let mut block = [0; BLOCK];
        for number in 0..bytes / BLOCK as u64 {
            file.read_exact(&mut block)?;
            if block.iter().any(|&byte| byte != 0) {
                blocks.insert(number, Arc::new(block));
            }
        }
        Ok(Self { bytes, blocks })
    }

    /// Writes it to a sparse file.
    pub(crate) fn write_to(&self, path: &Path) -> io::Result<()> {
        let file = fs::File::create(path)?;
        file.set_len(self.bytes)?;
        self.blocks
            .iter()
            .try_for_each(|(number, block)| file.write_all_at(&block[..], number * BLOCK as u64))
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads so much from an offset; less at the end of the disk.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let length = self.bytes.saturating_sub(offset).min(length as u64) as usize;
        let mut read = vec![0; length];
        each_block(offset, length, |number, within, range| {
            if let Some(block) = self.blocks.get(&number) {
                let count = range.len();
                read[range].copy_from_slice(&block[within..within + count]);
            }
        });
        read
    }

    /// Writes at an offset within the disk.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        each_block(offset, bytes.len(), |number, within, range| {
            let block = self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
    }
}

/// The blocks of a range: the number, where in the block it begins, and which bytes of the range are there.
fn each_block(offset: u64, length: usize, mut visit: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let within = (at % BLOCK as u64) as usize;
        let count = (BLOCK - within).min(length - done);
        visit(at / BLOCK as u64, within, done..done + count);
        done += count;
    }
}
