//! What differs from the source by the user's options: owner, mode, time.
//!
//! Applied to what a source says of an entry before anything else looks at it: a run that resumes compares
//! with it, too.

use rustix::fs::FileType;

use super::entry::Meta;
use super::owner::Owner;
use crate::config::VolumeConfig;
use crate::options::ModeChange;

/// What differs.
#[derive(Debug, Clone, Copy)]
pub struct Overrides<'a> {
    /// Owner and group of everything.
    pub owner: Option<Owner>,
    /// What modes become.
    pub chmod: Option<&'a ModeChange>,
    /// Whether times are kept.
    pub times: bool,
}

impl<'a> Overrides<'a> {
    /// Those of these options.
    pub fn of(config: &'a VolumeConfig) -> Overrides<'a> {
        Overrides { owner: config.owner, chmod: config.chmod.as_ref(), times: config.times }
    }

    /// Applies them to what an entry of this type carries.
    pub fn apply(&self, meta: &mut Meta, file_type: FileType) {
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        // A symbolic link has no mode of its own.
        if file_type != FileType::Symlink {
            meta.mode = self.mode(meta.mode, file_type == FileType::Directory);
        }
        if !self.times {
            meta.mtime = None;
        }
    }

    /// What becomes of a mode.
    pub fn mode(&self, mode: u32, is_directory: bool) -> u32 {
        self.chmod.map_or(mode, |chmod| chmod.apply(mode, is_directory, 0))
    }
}
