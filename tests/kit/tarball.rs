//! Archives written header by header, so that they can also be wrong in exactly one place.

use tar::{EntryType, Header};

const BLOCK: usize = 512;

#[derive(Debug, Clone, Default)]
pub(crate) struct Tarball {
    bytes: Vec<u8>,
    /// Where the header of the last member starts.
    last: usize,
}

impl Tarball {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        self.member(EntryType::Regular, name, "", body)
    }

    pub(crate) fn directory(self, name: impl AsRef<[u8]>) -> Self {
        let wide = |header: &mut Header| header.set_mode(0o755);
        self.member(EntryType::Directory, name, "", "").edit(wide)
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(EntryType::Symlink, name, target, "")
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(EntryType::Link, name, target, "")
    }

    /// A member of any type; owner, mode and time as the test's user would have them.
    pub(crate) fn member(
        mut self,
        kind: EntryType,
        name: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        body: impl AsRef<[u8]>,
    ) -> Self {
        let body = body.as_ref();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_mtime(1_500_000_000);
        header.set_size(body.len() as u64);
        put(&mut header.as_old_mut().name, name.as_ref());
        put(&mut header.as_old_mut().linkname, link.as_ref());
        header.set_cksum();
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(body);
        self.pad()
    }

    /// Extended records for the member that follows. A value may hold any byte.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.member(EntryType::XHeader, "pax", "", pax_records(records))
    }

    /// Extended records for every member that follows.
    pub(crate) fn pax_global(self, records: &[(&str, &[u8])]) -> Self {
        self.member(EntryType::XGlobalHeader, "pax", "", pax_records(records))
    }

    /// Changes the last header; its checksum is made right again.
    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&self.bytes[self.last..][..BLOCK]);
        change(&mut header);
        header.set_cksum();
        self.bytes[self.last..][..BLOCK].copy_from_slice(header.as_bytes());
        self
    }

    /// Changes the bytes of the last member, the checksum of its header included.
    pub(crate) fn damage(mut self, change: impl FnOnce(&mut [u8])) -> Self {
        change(&mut self.bytes[self.last..]);
        self
    }

    /// The archive with its end marker, filled up to a record as tar does.
    pub(crate) fn build(mut self) -> Vec<u8> {
        self.bytes.resize((self.bytes.len() + 2 * BLOCK).next_multiple_of(20 * BLOCK), 0);
        self.bytes
    }

    /// Only what was written so far: no end marker.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    fn pad(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }
}

fn put(field: &mut [u8; 100], value: &[u8]) {
    assert!(value.len() <= field.len(), "use pax for a long name");
    field[..value.len()].copy_from_slice(value);
}

fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let length =
            (1..).map(|digits| rest + digits).find(|&length| length.to_string().len() + rest == length);
        bytes.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}
