//! Members that `--exclude` leaves out, as far as a hard link that stays may need them: the first such link
//! takes the place of what it names.
//!
//! Data of a file that is left out can only be had where the archive is a plain tar in a file, in which it is read
//! where it is. In a stream it has gone by: such a link refuses the archive.

use std::collections::HashMap;

use super::{MemberContent, Reading, size_of_xattrs};
use crate::error::{Error, Quoted, Result};
use crate::seed::source::exclude::Excluding;
use crate::seed::source::headers::Segment;
use crate::seed::source::members::MemberKind;
use crate::seed::source::names::split;

/// The most that members that are left out take in memory, in bytes. A link to one beyond them is refused.
const MAX_BYTES: usize = 1 << 20;
/// What one takes besides its name and attributes, in bytes.
const COST: usize = 256;

/// The most links from one name that is left out to the next.
const MAX_LINKS: usize = 40;

/// What was left out so far.
pub(crate) struct LeftOut<'a> {
    excluding: &'a mut Excluding,
    members: HashMap<Vec<u8>, Instead>,
    bytes: usize,
}

/// What a hard link to a name that is left out becomes.
pub(crate) enum Instead {
    /// What the name stands for.
    Content(MemberContent),
    /// A hard link to this name of the same.
    Kept(Vec<u8>),
}

impl<'a> LeftOut<'a> {
    pub(crate) fn new(excluding: &'a mut Excluding) -> LeftOut<'a> {
        LeftOut { excluding, members: HashMap::new(), bytes: 0 }
    }

    /// Whether a member is left out; counts it then.
    pub(crate) fn leaves_out(&mut self, parts: &[&[u8]], kind: MemberKind) -> bool {
        let Some((name, parents)) = parts.split_last() else { return false };
        self.excluding.enter(&parents.join(&b'/'));
        self.excluding.leaves_out(name, kind == MemberKind::Directory)
    }

    /// Whether a file of this name is left out.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        self.excluding.covers_file(path)
    }

    /// Another member has this name from now on: it is no name of what was left out any more.
    pub(crate) fn is_replaced(&mut self, path: &[u8]) {
        self.members.retain(|_, instead| !matches!(instead, Instead::Kept(kept) if kept == path));
    }

    /// What a name that is left out stands for is kept under another.
    pub(crate) fn is_kept_as(&mut self, target: &[u8], path: Vec<u8>) {
        self.add(target, Instead::Kept(path));
    }

    fn add(&mut self, path: &[u8], instead: Instead) {
        let size = COST + path.len() + instead.size();
        self.members.remove(path);
        if self.bytes + size <= MAX_BYTES {
            self.bytes += size;
            self.members.insert(path.to_vec(), instead);
        }
    }
}

impl Instead {
    fn size(&self) -> usize {
        match self {
            Instead::Kept(path) => path.len(),
            Instead::Content(MemberContent { link, meta, sparse, .. }) => {
                let segments = sparse.as_ref().map_or(0, |(segments, _)| segments.len());
                link.len() + size_of_xattrs(meta) + segments * size_of::<Segment>()
            }
        }
    }
}

impl Reading<'_, '_> {
    /// A member that is left out, and may be named by a link that is not.
    pub(crate) fn leave_out(&mut self, path: &[u8], content: MemberContent) -> Result<()> {
        if self.feed.shared().cancel.is_set() {
            return Err(Error::cancelled());
        }
        let in_stream = content.data > 0 && !self.tar.is_file();
        let instead = match content.kind {
            MemberKind::Directory | MemberKind::Device => None,
            MemberKind::File if in_stream => None,
            MemberKind::File | MemberKind::Symlink | MemberKind::Fifo => Some(Instead::Content(content)),
            MemberKind::Link => {
                let parts = split(&content.link).map_err(|cause| self.refused(cause))?;
                Some(Instead::Kept(parts.join(&b'/')))
            }
        };
        match instead {
            Some(instead) => self.left_out.add(path, instead),
            None => drop(self.left_out.members.remove(path)),
        }
        Ok(())
    }

    /// What a link to `target`, a name that is left out, becomes.
    pub(crate) fn instead_of(&mut self, target: &[u8]) -> Result<Instead> {
        let mut name = target.to_vec();
        for _ in 0..MAX_LINKS {
            match self.left_out.members.get(&name) {
                Some(Instead::Kept(next)) if self.left_out.covers(next) => name = next.clone(),
                Some(Instead::Kept(next)) => return Ok(Instead::Kept(next.clone())),
                Some(Instead::Content(_)) => {
                    let content = self.left_out.members.remove(&name);
                    return Ok(content.expect("it was just looked at"));
                }
                None => break,
            }
        }
        let cause = format!("a hard link to {}, which --exclude leaves out", target.quoted());
        Err(self
            .refused(cause)
            .help("leave out both names or neither; of a plain tar in a file, one can stay"))
    }
}
