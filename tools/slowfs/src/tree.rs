//! The files of the server, all in memory, and what may be done with names.
//!
//! Knows nothing of time and faults. A number that is not there is a handle that the server has
//! forgotten: `ESTALE`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, RenameFlags};

use crate::locks::LockTable;
use crate::node::{Caller, Content, Data, Node, Result, SEARCH, WRITE};
use crate::options::Options;
use crate::quirks::{Change, Quirks};

pub(crate) const ROOT: u64 = 1;

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: HashMap<u64, Node>,
    last: u64,
    /// Handles that are not known any more, and what is known in their place.
    forgotten: HashMap<u64, u64>,
    /// Bytes of file data.
    pub(crate) used: u64,
    pub(crate) capacity: Option<u64>,
    pub(crate) locks: LockTable,
    pub(crate) quirks: Quirks,
}

impl Tree {
    pub(crate) fn new(options: &Options) -> Tree {
        let content = Content::Directory { entries: Default::default(), parent: ROOT };
        let root = Node::new(content, options.mode, options.owner, OsString::new());
        Tree {
            nodes: HashMap::from([(ROOT, root)]),
            last: ROOT,
            forgotten: HashMap::new(),
            used: 0,
            capacity: options.capacity,
            locks: LockTable::default(),
            quirks: options.quirks.clone(),
        }
    }

    pub(crate) fn node(&self, number: u64) -> Result<&Node> {
        self.nodes.get(&number).ok_or(Errno::ESTALE)
    }

    pub(crate) fn node_mut(&mut self, number: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&number).ok_or(Errno::ESTALE)
    }

    pub(crate) fn attr(&self, number: u64) -> Result<FileAttr> {
        Ok(self.node(number)?.attr(number))
    }

    pub(crate) fn lookup(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<FileAttr> {
        let Some(directory) = self.nodes.get(&parent) else { return Err(self.stale_lookup(parent, name)) };
        self.quirks.allow_name(name)?;
        let number = *directory.entries()?.get(self.spelling(parent, name)?).ok_or(Errno::ENOENT)?;
        directory.allow(caller, SEARCH)?;
        self.attr(number)
    }

    /// Nothing where a creation would be what an NFS client sends first: that then finds the handle
    /// stale, and only after that does the kernel take the path anew.
    fn stale_lookup(&self, parent: u64, name: &OsStr) -> Errno {
        let mut number = parent;
        while let Some(new) = self.forgotten.get(&number) {
            number = *new;
        }
        match self.nodes.get(&number).map(Node::entries) {
            Some(Ok(entries)) if !entries.contains_key(name) => Errno::ENOENT,
            _ => Errno::ESTALE,
        }
    }

    /// A new entry, which must not be there yet.
    pub(crate) fn make(
        &mut self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        content: Content,
    ) -> Result<FileAttr> {
        self.allow_content(&content)?;
        let directory = self.vacant(parent, name)?;
        directory.allow(caller, WRITE | SEARCH)?;
        let is_directory = matches!(content, Content::Directory { .. });
        let (mut mode, mut group) = (mode, caller.gid);
        if directory.mode & 0o2000 != 0 {
            group = directory.gid;
            mode |= if is_directory { 0o2000 } else { 0 };
        }
        let mut owner = (caller.uid, group);
        let root = self.node(ROOT)?;
        if self.quirks.modes == Change::Ignored {
            mode = root.mode;
        }
        if self.quirks.owners == Change::Ignored {
            owner = (root.uid, root.gid);
        }
        self.last += 1;
        let number = self.last;
        let name = self.quirks.kept(name).to_owned();
        self.nodes.insert(number, Node::new(content, mode, owner, name.clone()));
        let directory = self.node_mut(parent)?;
        directory.entries_mut()?.insert(name, number);
        directory.links += u32::from(is_directory);
        directory.touch();
        self.attr(number)
    }

    pub(crate) fn make_directory(
        &mut self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> Result<FileAttr> {
        self.make(caller, parent, name, mode, Content::Directory { entries: Default::default(), parent })
    }

    /// A file opened by a name that may be there.
    pub(crate) fn create(
        &mut self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        exclusive: bool,
    ) -> Result<FileAttr> {
        let found = self.node(parent)?.entries()?.get(self.spelling(parent, name)?).copied();
        let attr = match found {
            Some(number) if !exclusive => self.attr(number)?,
            _ => self.make(caller, parent, name, mode, Content::File(Data::default()))?,
        };
        self.node_mut(attr.ino.0)?.opens += 1;
        Ok(attr)
    }

    pub(crate) fn link(
        &mut self,
        caller: Caller,
        number: u64,
        parent: u64,
        name: &OsStr,
    ) -> Result<FileAttr> {
        self.allow_link(number)?;
        let directory = self.vacant(parent, name)?;
        directory.allow(caller, WRITE | SEARCH)?;
        let name = self.quirks.kept(name).to_owned();
        let node = self.node_mut(number)?;
        node.links += 1;
        node.changed = SystemTime::now();
        node.name.clone_from(&name);
        let directory = self.node_mut(parent)?;
        directory.entries_mut()?.insert(name, number);
        directory.touch();
        self.attr(number)
    }

    pub(crate) fn unlink(&mut self, caller: Caller, parent: u64, name: &OsStr) -> Result<()> {
        let number = self.removable(caller, parent, name)?;
        if self.node(number)?.entries().is_ok() {
            return Err(Errno::EISDIR);
        }
        self.detach(parent, name)
    }

    pub(crate) fn rmdir(&mut self, caller: Caller, parent: u64, name: &OsStr) -> Result<()> {
        let number = self.removable(caller, parent, name)?;
        if !self.node(number)?.entries()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.detach(parent, name)
    }

    pub(crate) fn rename(
        &mut self,
        caller: Caller,
        (from, name): (u64, &OsStr),
        (to, new): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        if !flags.is_empty() {
            // As NFS has it: the protocol knows neither an exclusive rename nor an exchange.
            return Err(Errno::EINVAL);
        }
        self.quirks.allow_name(new)?;
        let number = self.removable(caller, from, name)?;
        let moved_is_directory = self.node(number)?.entries().is_ok();
        self.node(to)?.allow(caller, WRITE | SEARCH)?;
        if moved_is_directory && self.is_below(to, number)? {
            return Err(Errno::EINVAL);
        }
        let [name, new] = [(from, name), (to, new)].map(|(parent, name)| self.spelling(parent, name));
        let (name, new) = (&name?.to_owned(), &new?.to_owned());
        if let Some(&other) = self.node(to)?.entries()?.get(new) {
            if other == number {
                return Ok(());
            }
            self.removable(caller, to, new)?;
            match (moved_is_directory, self.node(other)?.entries()) {
                (true, Ok(entries)) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Err(_)) => return Err(Errno::ENOTDIR),
                (false, Ok(_)) => return Err(Errno::EISDIR),
                (true, Ok(_)) | (false, Err(_)) => self.detach(to, new)?,
            }
        }
        let source = self.node_mut(from)?;
        source.entries_mut()?.remove(name);
        source.links -= u32::from(moved_is_directory);
        source.touch();
        let target = self.node_mut(to)?;
        target.entries_mut()?.insert(new.to_owned(), number);
        target.links += u32::from(moved_is_directory);
        target.touch();
        let node = self.node_mut(number)?;
        node.name = new.to_owned();
        node.changed = SystemTime::now();
        if let Content::Directory { parent, .. } = &mut node.content {
            *parent = to;
        }
        Ok(())
    }

    /// Two names change places.
    pub(crate) fn exchange(
        &mut self,
        caller: Caller,
        (one, name): (u64, &OsStr),
        (other, new): (u64, &OsStr),
    ) -> Result<()> {
        let numbers = [self.removable(caller, one, name)?, self.removable(caller, other, new)?];
        let directory = |tree: &Tree, number| tree.node(number).is_ok_and(|node| node.entries().is_ok());
        let are_directories = numbers.map(|number| directory(self, number));
        if are_directories[0] && self.is_below(other, numbers[0])?
            || are_directories[1] && self.is_below(one, numbers[1])?
        {
            return Err(Errno::EINVAL);
        }
        for (number, to, place) in [(numbers[0], other, new), (numbers[1], one, name)] {
            let place = self.spelling(to, place)?.to_owned();
            let parent = self.node_mut(to)?;
            parent.entries_mut()?.insert(place.clone(), number);
            parent.touch();
            let node = self.node_mut(number)?;
            node.name = place;
            node.changed = SystemTime::now();
            if let Content::Directory { parent, .. } = &mut node.content {
                *parent = to;
            }
        }
        if are_directories[0] != are_directories[1] {
            let (less, more) = if are_directories[0] { (one, other) } else { (other, one) };
            self.node_mut(more)?.links += 1;
            self.node_mut(less)?.links -= 1;
        }
        Ok(())
    }

    pub(crate) fn target(&self, number: u64) -> Result<PathBuf> {
        match &self.node(number)?.content {
            Content::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Names, numbers and kinds of a directory's entries, with `.` and `..`.
    pub(crate) fn list(&self, number: u64) -> Result<Vec<(OsString, u64)>> {
        let node = self.node(number)?;
        let Content::Directory { entries, parent } = &node.content else { return Err(Errno::ENOTDIR) };
        let own = [(OsString::from("."), number), (OsString::from(".."), *parent)];
        Ok(own.into_iter().chain(entries.iter().map(|(name, number)| (name.clone(), *number))).collect())
    }

    /// The number of what a path below the root names.
    pub(crate) fn find(&self, path: &Path) -> Option<u64> {
        path.components().try_fold(ROOT, |number, part| match part {
            Component::Normal(name) => self.nodes.get(&number)?.entries().ok()?.get(name).copied(),
            _ => Some(number),
        })
    }

    /// Gives what is there a new number: the handle that clients have is not known any more.
    pub(crate) fn forget(&mut self, number: u64) -> bool {
        if number == ROOT || !self.nodes.contains_key(&number) {
            return false;
        }
        self.last += 1;
        let new = self.last;
        let Some(node) = self.nodes.remove(&number) else { return false };
        self.nodes.insert(new, node);
        self.forgotten.insert(number, new);
        for node in self.nodes.values_mut() {
            if let Content::Directory { entries, parent } = &mut node.content {
                entries.values_mut().filter(|it| **it == number).for_each(|it| *it = new);
                if *parent == number {
                    *parent = new;
                }
            }
        }
        true
    }

    /// How the directory spells this name.
    fn spelling<'a>(&'a self, parent: u64, name: &'a OsStr) -> Result<&'a OsStr> {
        let directory = self.node(parent)?;
        Ok(self.quirks.spelling(&directory.name, directory.entries()?, name))
    }

    /// The directory, where it can have this name and does not.
    fn vacant(&self, parent: u64, name: &OsStr) -> Result<&Node> {
        self.quirks.allow_name(name)?;
        let directory = self.node(parent)?;
        let is_there = directory.entries()?.contains_key(self.spelling(parent, name)?);
        if is_there { Err(Errno::EEXIST) } else { Ok(directory) }
    }

    fn allow_content(&self, content: &Content) -> Result<()> {
        let refused = match content {
            Content::File(_) | Content::Directory { .. } => None,
            Content::Symlink(_) => self.quirks.symlinks,
            Content::Special(..) => self.quirks.special_files,
        };
        refused.map_or(Ok(()), Err)
    }

    fn allow_link(&self, number: u64) -> Result<()> {
        let node = self.node(number)?;
        if node.entries().is_ok() {
            return Err(Errno::EPERM);
        }
        let is_symlink = matches!(node.content, Content::Symlink(_));
        let to_symlink = self.quirks.links_to_symlinks.filter(|_| is_symlink);
        let too_many = self.quirks.max_links.filter(|most| node.links >= *most).map(|_| Errno::EMLINK);
        self.quirks.hard_links.or(to_symlink).or(too_many).map_or(Ok(()), Err)
    }

    /// The number of an entry that the caller may take away.
    fn removable(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<u64> {
        let directory = self.node(parent)?;
        let number = *directory.entries()?.get(self.spelling(parent, name)?).ok_or(Errno::ENOENT)?;
        directory.allow(caller, WRITE | SEARCH)?;
        if directory.mode & 0o1000 != 0 && directory.owned_by(caller).is_err() {
            self.node(number)?.owned_by(caller)?;
        }
        Ok(number)
    }

    fn detach(&mut self, parent: u64, name: &OsStr) -> Result<()> {
        let name = &self.spelling(parent, name)?.to_owned();
        let directory = self.node_mut(parent)?;
        let Some(number) = directory.entries_mut()?.remove(name) else { return Err(Errno::ENOENT) };
        directory.touch();
        let node = self.node_mut(number)?;
        node.changed = SystemTime::now();
        if node.entries().is_ok() {
            node.links = 0;
            self.node_mut(parent)?.links -= 1;
        } else {
            node.links -= 1;
        }
        self.drop_unreachable(number);
        Ok(())
    }

    /// Gives back the data of what has neither name nor user. The node stays: somebody may hold it.
    pub(crate) fn drop_unreachable(&mut self, number: u64) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        if node.links == 0
            && node.opens == 0
            && let Content::File(data) = &mut node.content
        {
            self.used -= data.bytes.len() as u64;
            *data = Data::default();
        }
    }

    fn is_below(&self, mut number: u64, ancestor: u64) -> Result<bool> {
        loop {
            if number == ancestor {
                return Ok(true);
            }
            let Content::Directory { parent, .. } = self.node(number)?.content else {
                return Err(Errno::ENOTDIR);
            };
            if number == parent {
                return Ok(false);
            }
            number = parent;
        }
    }
}
