//! Extended attributes, where the file system has them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, ReplyXattr};
use nix::libc;

use crate::node::{Caller, Node, Result};
use crate::quirks::Xattrs;
use crate::tree::Tree;

/// As ext4 has it, of a name with all its bytes.
const NAMESPACES: [&str; 3] = ["user.", "trusted.", "security."];

impl Tree {
    pub(crate) fn set_xattr(
        &mut self,
        caller: Caller,
        number: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let node = self.changeable(caller, number, name)?;
        match node.xattrs.contains_key(name) {
            true if flags & libc::XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            false if flags & libc::XATTR_REPLACE != 0 => return Err(Errno::NO_XATTR),
            _ => {}
        }
        node.xattrs.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    pub(crate) fn remove_xattr(&mut self, caller: Caller, number: u64, name: &OsStr) -> Result<()> {
        let node = self.changeable(caller, number, name)?;
        node.xattrs.remove(name).map(|_| ()).ok_or(Errno::NO_XATTR)
    }

    pub(crate) fn xattr(&self, number: u64, name: &OsStr) -> Result<Vec<u8>> {
        self.allow_xattrs()?;
        self.node(number)?.xattrs.get(name).cloned().ok_or(Errno::NO_XATTR)
    }

    /// The names, each with a zero byte after it.
    pub(crate) fn list_xattrs(&self, number: u64) -> Result<Vec<u8>> {
        self.allow_xattrs()?;
        let names = self.node(number)?.xattrs.keys();
        Ok(names.flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect())
    }

    fn changeable(&mut self, caller: Caller, number: u64, name: &OsStr) -> Result<&mut Node> {
        self.allow_xattrs()?;
        if !NAMESPACES.iter().any(|it| name.as_bytes().starts_with(it.as_bytes())) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.node_mut(number)?;
        node.owned_by(caller)?;
        Ok(node)
    }

    fn allow_xattrs(&self) -> Result<()> {
        match self.quirks.xattrs {
            Xattrs::Unknown => Err(Errno::ENOSYS),
            Xattrs::Refused(errno) => Err(errno),
            Xattrs::Kept => Ok(()),
        }
    }
}

/// Answers with bytes, or with their number where there is no room for any.
pub(crate) fn send(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        Err(errno) => reply.error(errno),
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
    }
}
