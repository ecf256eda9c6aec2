//! The simulated volume: directories, files, what is durable of them, what each host has cached, and the
//! lock. Knows nothing of the protocol but which names are public.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rustix::io::{Errno, Result};

use crate::claims::expiry::Sharing;
use crate::seed::upgrade::candidate::claim_of;
use crate::volume::records::{Complete, Public};

/// A directory or a file, whatever becomes of its names.
pub(crate) type Ino = usize;
/// The volume's root.
pub(crate) const ROOT: Ino = 0;
/// The user's own file in a directory that the seed has, too.
pub(crate) const USERS: &str = "a/users";

#[derive(Debug, Clone)]
pub(crate) enum Node {
    Directory { entries: BTreeMap<Box<[u8]>, Ino>, removed: bool, changes: u64, public: bool, owner: u32 },
    File { data: Vec<u8>, time: u32, links: u32, synced: bool },
}

/// Something that is not durable: how to take it back, and the public directory that it moved something
/// into, which keeps it until that directory is synced on a file system without one journal for all.
#[derive(Debug)]
struct Change {
    undo: Vec<Undo>,
    published_in: Option<Ino>,
}

/// How to take back what is not durable.
#[derive(Debug)]
enum Undo {
    Enter(Ino, Box<[u8]>, Ino),
    Leave(Ino, Box<[u8]>),
}

/// A directory's names as a host knows them, and how often it had changed by then.
type Cached = (u64, HashMap<Box<[u8]>, Option<Ino>>);

/// What kind of volume it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One kernel, one lock, power cuts.
    Local,
    /// NFSv4: the server keeps locks until a lease is over.
    Server,
    /// The same, but the server gives the lock to everybody.
    ServerTwice,
    /// No lock.
    Unshared,
}

impl Kind {
    pub(crate) fn sharing(self) -> Sharing {
        match self {
            Kind::Local => Sharing::Local,
            Kind::Server | Kind::ServerTwice => Sharing::Server,
            Kind::Unshared => Sharing::None("simulated"),
        }
    }

    pub(crate) fn is_remote(self) -> bool {
        self != Kind::Local
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub kind: Kind,
    /// The highest generation whose public record was retired.
    pub retired: Option<u64>,
    nodes: Vec<Node>,
    journal: Vec<Change>,
    /// Whether one journal makes all names durable at once (ext4), or a directory's sync only its own (btrfs).
    pub one_journal: bool,
    /// Of each host: a name in a directory, and what it was when it was looked up.
    cached: HashMap<(usize, Ino), Cached>,
    /// The replica that has the lock.
    pub lock: Option<usize>,
    /// What the kernel of each host has given.
    pub local_locks: BTreeMap<usize, usize>,
    /// No claim below this may change what is public: the number that fenced last, while its claim is there.
    fenced: u64,
    /// The holders that have begun, and whether they were fenced.
    holders: Vec<(Actor, bool)>,
    /// The state directory and the claim of the holder that fenced last.
    fenced_by: (Ino, Ino),
    /// The highest claim that found no candidate of an earlier one in a directory.
    pub swept: HashMap<Ino, u64>,
    /// The first promise that was broken.
    pub broken: Option<String>,
}

impl World {
    pub(crate) fn new(kind: Kind) -> World {
        let root =
            Node::Directory { entries: BTreeMap::new(), removed: false, changes: 0, public: true, owner: 0 };
        World {
            kind,
            retired: None,
            nodes: vec![root],
            journal: Vec::new(),
            one_journal: true,
            cached: HashMap::new(),
            lock: None,
            local_locks: BTreeMap::new(),
            fenced: 0,
            holders: Vec::new(),
            fenced_by: (ROOT, ROOT),
            swept: HashMap::new(),
            broken: None,
        }
    }

    fn entries(&mut self, dir: Ino) -> Result<&mut BTreeMap<Box<[u8]>, Ino>> {
        let gone = if self.kind.is_remote() { Errno::STALE } else { Errno::NOENT };
        match &mut self.nodes[dir] {
            Node::Directory { removed: true, .. } => Err(gone),
            Node::Directory { entries, .. } => Ok(entries),
            Node::File { .. } => Err(Errno::NOTDIR),
        }
    }

    fn changed(&mut self, dir: Ino, undo: Vec<Undo>) {
        if let Node::Directory { changes, .. } = &mut self.nodes[dir] {
            *changes += 1;
        }
        self.journal.push(Change { undo, published_in: None });
    }

    fn changes(&self, dir: Ino) -> u64 {
        match &self.nodes[dir] {
            Node::Directory { changes, .. } => *changes,
            Node::File { .. } => 0,
        }
    }

    /// Looks a name up as `host` does. `believes` says whether it believes what it has cached.
    pub(crate) fn look_up(&mut self, host: usize, dir: Ino, name: &[u8], believes: bool) -> Result<Ino> {
        if self.kind.is_remote()
            && believes
            && let Some((_, names)) = self.cached.get(&(host, dir))
            && let Some(found) = names.get(name)
        {
            return found.ok_or(Errno::NOENT);
        }
        let found = self.entries(dir)?.get(name).copied();
        if self.kind.is_remote() {
            let changes = self.changes(dir);
            let (_, names) = self.cached.entry((host, dir)).or_insert_with(|| (changes, HashMap::new()));
            names.insert(name.into(), found);
        }
        found.ok_or(Errno::NOENT)
    }

    /// Who changes a name knows it.
    pub(crate) fn forget(&mut self, host: usize, dir: Ino, name: &[u8]) {
        if let Some((_, names)) = self.cached.get_mut(&(host, dir)) {
            names.remove(name);
        }
    }

    /// Opens a directory: what is cached of its names is dropped if it has changed since.
    pub(crate) fn open(&mut self, host: usize, dir: Ino, name: &[u8], believes: bool) -> Result<Ino> {
        let found = self.look_up(host, dir, name, believes)?;
        match &self.nodes[found] {
            Node::File { .. } => return Err(Errno::NOTDIR),
            // Opening asks the server, which does not know it any more: then the name is looked up again.
            Node::Directory { removed: true, .. } => {
                if let Some((_, names)) = self.cached.get_mut(&(host, dir)) {
                    names.remove(name);
                }
                let found = self.look_up(host, dir, name, false)?;
                return if self.is_directory(found) { Ok(found) } else { Err(Errno::NOTDIR) };
            }
            Node::Directory { .. } => {}
        }
        self.revalidate(host, found);
        Ok(found)
    }

    /// What opening a directory does to what is cached of it.
    pub(crate) fn revalidate(&mut self, host: usize, dir: Ino) {
        let changes = self.changes(dir);
        if self.cached.get(&(host, dir)).is_some_and(|(then, _)| *then != changes) {
            self.cached.remove(&(host, dir));
        }
    }

    pub(crate) fn is_directory(&self, node: Ino) -> bool {
        matches!(self.nodes[node], Node::Directory { .. })
    }

    fn is_public(&self, dir: Ino) -> bool {
        matches!(self.nodes[dir], Node::Directory { public: true, .. })
    }

    /// Whether a user may do anything in a directory: what is public is for all, the rest for its owner.
    pub(crate) fn enter(&self, user: u32, dir: Ino) -> Result<()> {
        match &self.nodes[dir] {
            Node::Directory { public: false, owner, .. } if user != 0 && user != *owner => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    /// Whether a user may look into a directory: the state directory is for all to see, and no more than that.
    pub(crate) fn look_into(&self, user: u32, dir: Ino) -> Result<()> {
        if self.is_state(dir) { Ok(()) } else { self.enter(user, dir) }
    }

    /// Whose a directory is. Of one that is gone a server, and a FUSE daemon, say nothing any more.
    pub(crate) fn owner(&self, dir: Ino) -> Result<u32> {
        match &self.nodes[dir] {
            Node::Directory { removed: true, .. } if self.kind.is_remote() => Err(Errno::STALE),
            Node::Directory { owner, .. } => Ok(*owner),
            Node::File { .. } => Err(Errno::NOTDIR),
        }
    }

    /// Gives a directory alone to a user.
    pub(crate) fn seize(&mut self, dir: Ino, user: u32) {
        if let Node::Directory { owner, .. } = &mut self.nodes[dir] {
            *owner = user;
        }
    }

    /// Gives a directory and all that is below it to a user (`chown -R`).
    pub(crate) fn give(&mut self, dir: Ino, user: u32) {
        let Node::Directory { owner, entries, .. } = &mut self.nodes[dir] else { return };
        *owner = user;
        for child in entries.values().copied().collect::<Vec<_>>() {
            self.give(child, user);
        }
    }

    pub(crate) fn make(&mut self, dir: Ino, name: &[u8], owner: u32) -> Result<Ino> {
        let new = self.nodes.len();
        let entries = self.entries(dir)?;
        if entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        entries.insert(name.into(), new);
        self.nodes.push(Node::Directory {
            entries: BTreeMap::new(),
            removed: false,
            changes: 0,
            public: false,
            owner,
        });
        self.changed(dir, vec![Undo::Leave(dir, name.into())]);
        Ok(new)
    }

    pub(crate) fn names(&mut self, dir: Ino) -> Result<Vec<Box<[u8]>>> {
        Ok(self.entries(dir)?.keys().cloned().collect())
    }

    pub(crate) fn data(&self, file: Ino) -> Result<&[u8]> {
        match &self.nodes[file] {
            Node::File { data, .. } => Ok(data),
            Node::Directory { .. } => Err(Errno::ISDIR),
        }
    }

    /// Data, time and number of links.
    pub(crate) fn stat(&self, file: Ino) -> Option<(&[u8], u32, u32)> {
        match &self.nodes[file] {
            Node::File { data, time, links, .. } => Some((data, *time, *links)),
            Node::Directory { .. } => None,
        }
    }

    /// Creates a file, or opens the one that is there.
    pub(crate) fn create(&mut self, dir: Ino, name: &[u8]) -> Result<Ino> {
        let new = self.nodes.len();
        let entries = self.entries(dir)?;
        if let Some(there) = entries.get(name) {
            let there = *there;
            return if self.is_directory(there) { Err(Errno::ISDIR) } else { Ok(there) };
        }
        entries.insert(name.into(), new);
        let synced = self.kind.is_remote();
        self.nodes.push(Node::File { data: Vec::new(), time: 0, links: 1, synced });
        self.changed(dir, vec![Undo::Leave(dir, name.into())]);
        Ok(new)
    }

    pub(crate) fn fill(&mut self, file: Ino, bytes: &[u8], new_time: u32) {
        let remote = self.kind.is_remote();
        if let Node::File { data, time, synced, .. } = &mut self.nodes[file] {
            (*data, *time, *synced) = (bytes.to_vec(), new_time, remote);
        }
    }

    pub(crate) fn set_time(&mut self, file: Ino, new_time: u32) {
        if let Node::File { time, .. } = &mut self.nodes[file] {
            *time = new_time;
        }
    }

    /// A file's data is lost, though its size is right, and nothing will try to write it again.
    pub(crate) fn lose(&mut self, file: Ino) {
        if let Node::File { data, synced, .. } = &mut self.nodes[file] {
            data.fill(0);
            *synced = true;
        }
    }

    /// What is not durable below a directory cannot be made durable, and is marked clean: the kernel says so
    /// once. (Of what others have staged only their own sync would say it; that a third party's hides it is
    /// documented.)
    pub(crate) fn lose_unsynced(&mut self, dir: Ino) {
        let Node::Directory { entries, .. } = &self.nodes[dir] else { return };
        for node in entries.values().copied().collect::<Vec<_>>() {
            match &self.nodes[node] {
                Node::File { synced: false, .. } => self.lose(node),
                Node::File { .. } => {}
                Node::Directory { .. } => self.lose_unsynced(node),
            }
        }
    }

    pub(crate) fn link(&mut self, file: Ino, dir: Ino, name: &[u8]) -> Result<()> {
        let entries = self.entries(dir)?;
        if entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        entries.insert(name.into(), file);
        if let Node::File { links, .. } = &mut self.nodes[file] {
            *links += 1;
        }
        self.changed(dir, vec![Undo::Leave(dir, name.into())]);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let file = *self.entries(dir)?.get(name).ok_or(Errno::NOENT)?;
        let Node::File { links, .. } = &mut self.nodes[file] else { return Err(Errno::ISDIR) };
        *links -= 1;
        self.entries(dir)?.remove(name);
        self.changed(dir, vec![Undo::Enter(dir, name.into(), file)]);
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let below = *self.entries(dir)?.get(name).ok_or(Errno::NOENT)?;
        match &mut self.nodes[below] {
            Node::File { .. } => return Err(Errno::NOTDIR),
            Node::Directory { entries, .. } if !entries.is_empty() => return Err(Errno::NOTEMPTY),
            Node::Directory { removed, .. } => *removed = true,
        }
        self.entries(dir)?.remove(name);
        self.changed(dir, vec![Undo::Enter(dir, name.into(), below)]);
        self.claim_removed(below);
        Ok(())
    }

    /// Claims are counted from the record on, or in a new state directory: the number of one that is gone may be
    /// had again.
    fn claim_removed(&mut self, dir: Ino) {
        if dir == self.fenced_by.1 {
            self.fenced = 0;
        }
    }

    pub(crate) fn rename(
        &mut self,
        from: Ino,
        name: &[u8],
        to: Ino,
        new: &[u8],
        actor: &Actor,
    ) -> Result<()> {
        let moved = *self.entries(from)?.get(name).ok_or(Errno::NOENT)?;
        let replaced = self.entries(to)?.get(new).copied();
        let mut undo = vec![Undo::Leave(to, new.into()), Undo::Enter(from, name.into(), moved)];
        if replaced == Some(moved) {
            // Two names of one file: nothing is done (rename(2)).
            return Ok(());
        }
        if let Some(there) = replaced {
            match (self.is_directory(moved), &mut self.nodes[there]) {
                (true, Node::File { .. }) => return Err(Errno::NOTDIR),
                (false, Node::Directory { .. }) => return Err(Errno::ISDIR),
                (true, Node::Directory { entries, .. }) if !entries.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                (true, Node::Directory { removed, .. }) => *removed = true,
                (false, Node::File { links, .. }) => *links -= 1,
            }
            undo.insert(1, Undo::Enter(to, new.into(), there));
            self.claim_removed(there);
        }
        let records = [Public::FILE.as_bytes(), Complete::FILE.as_bytes()];
        let of_record = |dir, name: &[u8]| records.contains(&name) && self.is_state(dir);
        let touches_record = of_record(to, new) || of_record(from, name);
        let of_public = name == Public::FILE.as_bytes() && self.is_state(from);
        let touches_tree = self.is_public(to) || self.is_public(from);
        if from == to && claim_of(name).is_some() {
            self.candidate_placed(to, new, actor);
        } else if touches_tree || touches_record {
            self.changed_in_public(new, actor);
        }
        if touches_tree && !actor.repairs && self.is_vouched_for() {
            self.broken.get_or_insert("the tree changes while a record says that it is complete".to_owned());
        }
        self.entries(from)?.remove(name);
        self.entries(to)?.insert(new.into(), moved);
        if self.is_public(to) {
            self.publish(moved);
        } else if self.is_public(from) {
            self.withdraw(moved);
        }
        for dir in [from, to] {
            if let Node::Directory { changes, .. } = &mut self.nodes[dir] {
                *changes += 1;
            }
        }
        let published_in = (self.is_public(to) && !self.one_journal).then_some(to);
        self.journal.push(Change { undo, published_in });
        if touches_record {
            self.check_records();
        }
        if of_public {
            let record = self.data(moved).ok();
            let record =
                record.and_then(|bytes| Public::parse(bytes, std::path::Path::new(Public::FILE)).ok());
            self.retired = self.retired.max(record.map(|record| record.generation));
        }
        Ok(())
    }

    /// Who reads a public record finds the private one that it is of, at every moment.
    pub(crate) fn check_records(&mut self) {
        let Some(Node::Directory { entries, .. }) = self.state().map(|state| &self.nodes[state]) else {
            return;
        };
        let read = |name: &str| self.data(*entries.get(name.as_bytes())?).ok();
        let Some(public) = read(Public::FILE) else { return };
        let Ok(public) = Public::parse(public, std::path::Path::new(Public::FILE)) else { return };
        if !read(Complete::FILE).is_some_and(|private| public.is_of(private)) {
            self.broken.get_or_insert("a public record without the private one that it is of".to_owned());
        }
    }

    /// A replica holds a claim from here on.
    pub(crate) fn begun(&mut self, holder: Actor) {
        self.holders.push((holder, false));
    }

    /// No other holder of a lower claim, or of one in a state directory that was replaced, may change what is
    /// public any more.
    pub(crate) fn fenced(&mut self, by: &Actor) {
        // Who was fenced meanwhile hears late that it was not: its claim is gone.
        let is_late = matches!(self.nodes[by.claim], Node::Directory { removed: true, .. });
        if !self.is_state(by.state) || is_late {
            return;
        }
        if self.fenced_by.0 != by.state || self.fenced <= by.epoch {
            (self.fenced_by, self.fenced) = ((by.state, by.claim), by.epoch);
        }
        for (holder, fenced) in &mut self.holders {
            *fenced |= holder.claim != by.claim && (holder.epoch <= by.epoch || holder.state != by.state);
        }
    }

    /// Somebody changes what others see.
    pub(crate) fn changed_in_public(&mut self, name: &[u8], actor: &Actor) {
        let fenced = self.holders.iter().any(|(holder, fenced)| *fenced && holder.claim == actor.claim);
        let is_low = actor.state == self.fenced_by.0 && actor.epoch < self.fenced;
        if (fenced || is_low) && self.broken.is_none() {
            let name = String::from_utf8_lossy(name);
            let epoch = actor.epoch;
            self.broken =
                Some(format!("a holder of claim {epoch} changed '{name}' after it had been fenced"));
        }
    }

    /// A candidate gets its place. A holder that was fenced may still do that, for it does what is sealed; but not where
    /// a later holder has decided on what it found.
    fn candidate_placed(&mut self, dir: Ino, name: &[u8], actor: &Actor) {
        if self.swept.get(&dir).is_some_and(|epoch| *epoch > actor.epoch) {
            let (name, epoch) = (String::from_utf8_lossy(name), actor.epoch);
            let broken = format!(
                "a candidate of claim {epoch} took the place of '{name}' after a later claim had looked"
            );
            self.broken.get_or_insert(broken);
        }
    }

    /// The candidates of claims before this one. Where there is none this claim has looked.
    pub(crate) fn sweep(&mut self, dir: Ino, epoch: u64) -> Result<Vec<Box<[u8]>>> {
        let mut names = self.names(dir)?;
        names.retain(|name| claim_of(name).is_some_and(|of| of < epoch));
        if names.is_empty() {
            let swept = self.swept.entry(dir).or_default();
            *swept = epoch.max(*swept);
        }
        Ok(names)
    }

    /// The claims of all candidates below a directory.
    pub(crate) fn candidates(&self, dir: Ino, found: &mut BTreeSet<u64>) {
        let Node::Directory { public: true, entries, .. } = &self.nodes[dir] else { return };
        for (name, node) in entries {
            found.extend(claim_of(name));
            self.candidates(*node, found);
        }
    }

    /// The state directory that has the name now.
    pub(crate) fn state(&self) -> Option<Ino> {
        let Node::Directory { entries, .. } = &self.nodes[ROOT] else { return None };
        entries.get(crate::volume::records::DIRECTORY.as_bytes()).copied()
    }

    fn is_state(&self, dir: Ino) -> bool {
        self.state() == Some(dir)
    }

    /// Whether there is a public record.
    pub(crate) fn is_vouched_for(&self) -> bool {
        let Some(Node::Directory { entries, .. }) = self.state().map(|state| &self.nodes[state]) else {
            return false;
        };
        entries.contains_key(Public::FILE.as_bytes())
    }

    /// What was on the volume is in a claim.
    fn withdraw(&mut self, node: Ino) {
        let Node::Directory { public, entries, .. } = &mut self.nodes[node] else { return };
        *public = false;
        let below: Vec<Ino> = entries.values().copied().collect();
        below.into_iter().for_each(|node| self.withdraw(node));
    }

    fn publish(&mut self, node: Ino) {
        let Node::Directory { public, entries, .. } = &mut self.nodes[node] else { return };
        *public = true;
        for child in entries.values().copied().collect::<Vec<_>>() {
            self.publish(child);
        }
    }

    /// Everything so far is durable.
    pub(crate) fn sync(&mut self) {
        self.journal.clear();
        for node in &mut self.nodes {
            if let Node::File { synced, .. } = node {
                *synced = true;
            }
        }
    }

    /// A file's data and all names are durable, but for what was moved into a public directory where the file
    /// system does not have one journal for all.
    pub(crate) fn sync_file(&mut self, file: Ino) {
        self.journal.retain(|change| change.published_in.is_some());
        if let Node::File { synced, .. } = &mut self.nodes[file] {
            *synced = true;
        }
    }

    /// The same, and what was moved into this directory.
    pub(crate) fn sync_directory(&mut self, dir: Ino) {
        self.journal.retain(|change| change.published_in.is_some_and(|other| other != dir));
    }

    /// The power fails: the last of what is not durable is taken back, and data that was not synced may
    /// be lost though its file is there.
    pub(crate) fn power_cut(&mut self, mut random: impl FnMut(u64) -> u64) {
        let keep = random(self.journal.len() as u64 + 1) as usize;
        let mut lost = Vec::new();
        for (number, change) in std::mem::take(&mut self.journal).into_iter().enumerate() {
            // What waits for its own directory's sync is not in the order of the rest.
            if number >= keep || change.published_in.is_some() && random(2) == 0 {
                lost.push(change.undo);
            }
        }
        for undo in lost.into_iter().rev().flatten() {
            match undo {
                Undo::Leave(dir, name) => {
                    if let Node::Directory { entries, .. } = &mut self.nodes[dir] {
                        entries.remove(&name);
                    }
                }
                Undo::Enter(dir, name, node) => {
                    if let Node::Directory { entries, .. } = &mut self.nodes[dir] {
                        entries.insert(name, node);
                    }
                    if let Node::Directory { removed, .. } = &mut self.nodes[node] {
                        *removed = false;
                    }
                }
            }
        }
        self.count_links();
        for node in &mut self.nodes {
            if let Node::File { data, synced, .. } = node {
                match if *synced { 0 } else { random(3) } {
                    0 => {}
                    1 => data.clear(),
                    // Its size outlived its data.
                    _ => data.fill(0),
                }
                *synced = true;
            }
        }
        self.lock = None;
        self.local_locks.clear();
    }

    fn count_links(&mut self) {
        let mut count = vec![0; self.nodes.len()];
        for node in &self.nodes {
            if let Node::Directory { entries, .. } = node {
                entries.values().for_each(|file| count[*file] += 1);
            }
        }
        for (node, count) in self.nodes.iter_mut().zip(count) {
            if let Node::File { links, .. } = node {
                *links = count;
            }
        }
    }

    /// A user's `rm -rf *`.
    pub(crate) fn empty(&mut self) {
        let Node::Directory { entries, changes, .. } = &mut self.nodes[ROOT] else { return };
        *changes += 1;
        let state = entries.remove_entry(crate::volume::records::DIRECTORY.as_bytes());
        let gone = std::mem::replace(entries, state.into_iter().collect());
        gone.into_values().for_each(|node| self.remove_all(node));
        self.sync();
    }

    fn remove_all(&mut self, node: Ino) {
        let Node::Directory { entries, removed, .. } = &mut self.nodes[node] else { return };
        *removed = true;
        std::mem::take(entries).into_values().for_each(|node| self.remove_all(node));
    }

    /// A user deletes a file.
    pub(crate) fn delete(&mut self, path: &str) {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            let Ok(below) = self.open(0, dir, part.as_bytes(), false) else { return };
            dir = below;
        }
        let _ = self.unlink(dir, name.as_bytes());
        self.sync();
    }

    /// A user changes a file, as editors do: another one takes its place.
    pub(crate) fn edit(&mut self, path: &str, bytes: &[u8]) -> bool {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            let Ok(below) = self.open(0, dir, part.as_bytes(), false) else { return false };
            dir = below;
        }
        if self.unlink(dir, name.as_bytes()).is_err() {
            return false;
        }
        let Ok(file) = self.create(dir, name.as_bytes()) else { return false };
        self.fill(file, bytes, 1);
        self.sync();
        true
    }

    /// Whether any file has this content, ours included.
    pub(crate) fn has_content(&self, dir: Ino, bytes: &[u8]) -> bool {
        let Node::Directory { entries, .. } = &self.nodes[dir] else { return false };
        entries.values().any(|node| match &self.nodes[*node] {
            Node::File { data, .. } => data == bytes,
            Node::Directory { .. } => self.has_content(*node, bytes),
        })
    }

    /// Puts a file on the volume, before anything is seeded.
    pub(crate) fn put(&mut self, path: &str, bytes: &[u8]) {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            dir = match self.make(dir, part.as_bytes(), 0) {
                Ok(made) => made,
                Err(_) => self.entries(dir).expect("it is there")[part.as_bytes()],
            };
            self.publish(dir);
        }
        if let Ok(file) = self.create(dir, name.as_bytes()) {
            self.fill(file, bytes, 1);
        }
        self.sync();
    }

    /// All files below a directory by their paths, without ours and without candidates.
    pub(crate) fn files(&self, dir: Ino, path: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        let Node::Directory { entries, .. } = &self.nodes[dir] else { return };
        for (name, node) in entries {
            // A mutant leaves more of ours.
            if dir == ROOT
                && (**name == *crate::volume::records::DIRECTORY.as_bytes() || name.starts_with(b"aside-"))
            {
                continue;
            }
            if claim_of(name).is_some() {
                continue;
            }
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            match &self.nodes[*node] {
                Node::File { data, .. } => drop(found.insert(path, data.clone())),
                Node::Directory { .. } => self.files(*node, &path, found),
            }
        }
    }
}

/// Who changes something.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Actor {
    /// The number of the claim that it believes to hold.
    pub epoch: u64,
    /// Its directory, which no two claims have in common.
    pub claim: Ino,
    /// The state directory that it was made in.
    pub state: Ino,
    /// Whether it only puts back what is missing, on a volume that stays complete.
    pub repairs: bool,
}
