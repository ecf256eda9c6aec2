//! What differs from the source by the user's options and by what the volume's root passes on: owner, mode, time.
//!
//! Applied to what a source says of an entry before anything else looks at it: a run that resumes compares
//! with it, too.

use rustix::fs::FileType;

use super::inheritance::Inheritance;
use super::owner::Owner;
use crate::cli::config::VolumeConfig;
use crate::cli::values::ModeChange;
use crate::seed::source::entry::Meta;
use crate::volume::user;

/// Of a directory, it passes its group on.
const SET_GROUP_ID: u32 = 0o2000;

/// What differs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overrides<'a> {
    /// Owner and group of everything.
    pub owner: Option<Owner>,
    /// The group of everything, which the volume's root passes on.
    pub group: Option<u32>,
    /// The permissions that its default ACL lets things be made with.
    pub limit: u32,
    /// What modes become.
    pub chmod: Option<&'a ModeChange>,
    /// Whether times are kept.
    pub times: bool,
}

impl<'a> Overrides<'a> {
    /// Those of these options, on a volume that passes this on.
    pub(crate) fn of(config: &'a VolumeConfig, inherited: &Inheritance) -> Overrides<'a> {
        Overrides {
            owner: config.owner,
            group: inherited.group(),
            limit: inherited.limit(),
            chmod: config.chmod.as_ref(),
            times: config.times,
        }
    }

    /// Applies them to what an entry of this type carries.
    pub(crate) fn apply(&self, meta: &mut Meta, file_type: FileType) {
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(group) = self.group {
            if file_type != FileType::Directory && meta.gid != group {
                // It was meant for another group.
                meta.mode &= !SET_GROUP_ID;
            }
            meta.gid = group;
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
    pub(crate) fn mode(&self, mode: u32, is_directory: bool) -> u32 {
        let passed_on = if is_directory && self.group.is_some() { SET_GROUP_ID } else { 0 };
        let mode = mode & (self.limit | 0o7000);
        self.chmod.map_or(mode | passed_on, |chmod| chmod.apply(mode, is_directory, passed_on))
    }

    /// What a directory has of which the source says nothing but its name.
    pub(crate) fn implied(&self) -> Meta {
        let ours = user::current();
        let (uid, gid) = self.owner.unwrap_or((ours.0, self.group.unwrap_or(ours.1)));
        Meta { mode: self.mode(0o755, true), uid, gid, ..Meta::default() }
    }
}
