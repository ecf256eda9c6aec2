//! Directories that the seed and the volume both have: what of the seed is missing in them, what is kept, and what
//! is in the way.
//!
//! One walk without recursion, the deepest first. It goes into no mount: one that both sides have is handed out as
//! a [`Crossing`]. The same rules decide before the seal, when a mount's part is copied, and when names are moved.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::case;
use super::losses::{Loss, Losses};
use crate::cli::values::Existing;
use crate::error::{Context, Error, Result, printable};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::seed::Repair;
use crate::volume::{
    FoundEntry, beside, is_type, look_at, names, open_beneath, open_in_mount, refuses_names, stat_entry,
};

/// Levels of which both directories stay open. Real trees are hardly deeper; what is below is opened from the
/// last of them.
const OPEN_LEVELS: usize = 16;

/// What a walk goes by.
#[derive(Clone, Copy)]
pub(crate) struct WalkRules<'a> {
    /// Where it begins, for messages.
    pub path: &'a Path,
    /// What becomes of files that are there.
    pub existing: Existing,
    /// What the seed calls the place where it begins; empty for its root.
    pub below: &'a [u8],
    /// Whether it begins in a mount below the volume, in which what may not be written is left out.
    pub is_mount: bool,
    /// What it is for.
    pub purpose: Purpose,
    /// Where losses are noted, unless an earlier walk has done so.
    pub losses: Option<&'a Losses>,
    /// Hears of every directory.
    pub progress: &'a Progress,
    /// What is put back, where it is not a seed.
    pub repair: Option<Repair<'a>>,
}

/// What a walk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To find, before the seal, what has to be refused.
    Check,
    /// To copy to a mount what is missing there.
    Copy,
    /// To move what is sealed. Nothing is refused any more: it could keep the volume from ever being complete.
    Publish,
}

impl WalkRules<'_> {
    fn note(&self, loss: Loss, path: &[u8], cause: Errno) -> Result<()> {
        let Some(losses) = self.losses else { return Ok(()) };
        let path = join(self.below, path);
        if self.purpose == Purpose::Check {
            return losses.note(loss, &path, cause);
        }
        losses.tell(loss, &path, 1);
        Ok(())
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        full_path(self.path, path)
    }
}

/// A directory of the stage, and the one of that name on the volume.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Staged.
    pub from: OwnedFd,
    /// On the volume.
    pub to: OwnedFd,
}

/// A directory that both have, opened.
pub(crate) struct Directory {
    /// Below the place where the walk began.
    pub path: Vec<u8>,
    /// Both.
    pub pair: Rc<Pair>,
    level: usize,
    /// What directories in it are opened from, and how much of their paths that stands for.
    near: (Rc<Pair>, usize),
}

/// A directory that is a mount point on the volume: its content has to be copied.
#[derive(Debug)]
pub(crate) struct Crossing {
    /// Below the place where the walk began.
    pub path: Vec<u8>,
    /// The staged directory.
    pub staged: OwnedFd,
    /// What is mounted there.
    pub mounted: OwnedFd,
}

/// What comes next in a walk.
pub(crate) enum Next {
    /// A directory to look through.
    Directory(Directory),
    /// A mount.
    Crossing(Crossing),
}

/// What is to be done in one directory.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Names of the seed that belong there, and whether they replace something.
    pub moves: Vec<(Box<[u8]>, bool)>,
    /// Names that stay as they are on the volume.
    pub kept: Vec<Box<[u8]>>,
    /// Directories that both have.
    pub common: Vec<Box<[u8]>>,
}

/// A directory that both have, still to be looked through.
struct Common {
    path: Vec<u8>,
    level: usize,
    near: (Rc<Pair>, usize),
}

/// Goes through the directories that stage and volume have in common, the deepest first.
pub(crate) struct CommonWalk<'a> {
    rules: WalkRules<'a>,
    left: Vec<Common>,
}

impl<'a> CommonWalk<'a> {
    /// Begins at these two.
    ///
    /// # Errors
    /// Without a descriptor for them.
    pub(crate) fn new(
        stage: BorrowedFd<'_>,
        volume: BorrowedFd<'_>,
        rules: WalkRules<'a>,
    ) -> Result<CommonWalk<'a>> {
        let from = stage.try_clone_to_owned().context("open stage of", rules.path)?;
        let to = volume.try_clone_to_owned().context("open volume", rules.path)?;
        let root = Common { path: Vec::new(), level: 0, near: (Rc::new(Pair { from, to }), 0) };
        Ok(CommonWalk { rules, left: vec![root] })
    }

    /// Opens the next directory.
    ///
    /// # Errors
    /// When one cannot be opened, but for those in a mount that may be left out.
    pub(crate) fn next(&mut self) -> Result<Option<Next>> {
        while let Some(common) = self.left.pop() {
            self.rules.progress.touch();
            if let Some(next) = self.open(common)? {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    fn open(&self, common: Common) -> Result<Option<Next>> {
        let Common { path, level, near } = common;
        if path.is_empty() {
            return Ok(Some(Next::Directory(Directory { path, level, pair: Rc::clone(&near.0), near })));
        }
        let full = || self.rules.full(&path);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let (above, rest) = (&near.0, &path[near.1..]);
        let open = |at: &OwnedFd| open_beneath(at.as_fd(), rest, flags, Mode::empty());
        let from = open(&above.from).context("open staged", full)?;
        let (to, crosses) = match open_in_mount(above.to.as_fd(), rest, flags) {
            Err(Errno::XDEV) => (open(&above.to), true),
            opened => (opened, false),
        };
        let to = match to {
            Ok(to) => to,
            // A mount that lets us in nowhere, or a directory in one.
            Err(error) if crosses || self.rules.is_mount => {
                self.rules.note(Loss::LeftOut, &path, error)?;
                return Ok(None);
            }
            Err(error) => return Err(error).context("open directory", full),
        };
        if crosses {
            return Ok(Some(Next::Crossing(Crossing { path, staged: from, mounted: to })));
        }
        let pair = Rc::new(Pair { from, to });
        let near = if level < OPEN_LEVELS { (Rc::clone(&pair), path.len() + 1) } else { near };
        Ok(Some(Next::Directory(Directory { path, level, pair, near })))
    }

    /// Decides about everything in a directory. Directories that both have come next.
    ///
    /// # Errors
    /// On a conflict, before the seal.
    pub(crate) fn look(&mut self, directory: &Directory) -> Result<Looked> {
        let looked = look(&self.rules, &directory.path, &directory.pair)?;
        for name in &looked.common {
            let path = join(&directory.path, name);
            self.left.push(Common { path, level: directory.level + 1, near: directory.near.clone() });
        }
        Ok(looked)
    }
}

/// Decides about everything in the directory at `path`.
///
/// # Errors
/// On a conflict, before the seal.
pub(crate) fn look(rules: &WalkRules<'_>, path: &[u8], pair: &Pair) -> Result<Looked> {
    let (from, to) = (pair.from.as_fd(), pair.to.as_fd());
    // One look at the whole directory instead of one at each name.
    let (there, staged) = beside(|| names(to), || names(from));
    let there = there.context("read directory", || rules.full(path))?;
    let mut there: HashSet<Box<[u8]>> = there.into_iter().collect();
    let folds = case::folds(to, &there);
    let mut spelled = HashMap::new();
    if folds {
        there = there.iter().map(|name| case::fold(name).into()).collect();
    }
    let mut looked = Looked::default();
    for name in staged.context("read stage of", rules.path)? {
        let child = join(path, &name);
        let full = || rules.full(&child);
        let compared = if folds { case::fold(&name).into() } else { name.clone() };
        let found = if there.contains(&compared) { look_at(to, &name) } else { Ok(None) };
        if folds && let Some(other) = spelled.insert(compared, name.clone()) {
            // The stage told them apart, and this directory of the volume does not.
            one_name(rules, path, (&name, &other))?;
            looked.kept.push(name);
            continue;
        }
        let Some(there) = found.context("stat", full)? else {
            looked.moves.push((name, false));
            continue;
        };
        let Some(staged) = stat_entry(from, &name).context("stat staged", full)? else {
            continue;
        };
        match decide(rules, &child, is_type(&staged, FileType::Directory), &there)? {
            Decided::Descend => looked.common.push(name),
            Decided::Replace => looked.moves.push((name, true)),
            Decided::Keep => looked.kept.push(name),
        }
    }
    // In the volume's own root our stage was made.
    if !looked.moves.is_empty() && (rules.is_mount || rules.purpose == Purpose::Check && !path.is_empty()) {
        leave_out(rules, path, to, &mut looked)?;
    }
    Ok(looked)
}

/// Two names of the seed that are one in a directory of the volume.
fn one_name(rules: &WalkRules<'_>, path: &[u8], (name, other): (&[u8], &[u8])) -> Result<()> {
    let (child, other) = (join(path, name), join(path, other));
    if rules.purpose == Purpose::Publish {
        tracing::warn!(
            path = printable(&child),
            other = printable(&other),
            "left out: the volume does not tell it apart"
        );
        return Ok(());
    }
    let cause = format!("the directory there ignores case, and the seed has '{}', too", printable(&other));
    Err(Error::new(Exit::Refused, "publish", cause)
        .on(rules.full(&child))
        .help("rename one of the two in the source, or make that directory case-sensitive"))
}

enum Decided {
    Descend,
    Replace,
    Keep,
}

/// What becomes of an entry at `path` that both have.
fn decide(
    rules: &WalkRules<'_>,
    path: &[u8],
    staged_is_directory: bool,
    there: &FoundEntry,
) -> Result<Decided> {
    if let Some(cause) = there.closed {
        rules.note(Loss::LeftOut, path, cause)?;
        return Ok(Decided::Keep);
    }
    let is_replaced = |repair: Repair<'_>| repair.plan.replaced.contains(path);
    let overwrites = rules.existing == Existing::Overwrite && rules.repair.is_none_or(is_replaced);
    match (staged_is_directory, there.is_directory()) {
        (true, true) => Ok(Decided::Descend),
        (false, false) if there.is_mount && overwrites => {
            rules.note(Loss::Mounted, path, Errno::BUSY)?;
            Ok(Decided::Keep)
        }
        (false, false) if overwrites && there.is_fixed => {
            let cause = "it is immutable or append-only on the volume";
            refuse_or_keep(
                rules,
                path,
                cause,
                "remove the attribute (chattr -i, chattr -a)",
                Exit::Permission,
            )
        }
        (false, false) if overwrites => Ok(Decided::Replace),
        (false, false) => {
            if there.is_mount
                && let Some(losses) = rules.losses
            {
                // As `keep` keeps any other file; told, since it is not the volume's.
                losses.tell(Loss::Mounted, &join(rules.below, path), 1);
            }
            tracing::debug!(path = printable(path), "kept what the volume has");
            Ok(Decided::Keep)
        }
        _ if there.is_mount => {
            rules.note(Loss::Mounted, path, Errno::BUSY)?;
            Ok(Decided::Keep)
        }
        _ if overwrites => {
            let (wanted, found) =
                if staged_is_directory { ("directory", "file") } else { ("file", "directory") };
            let cause = format!("the seed has a {wanted} where the volume has a {found}");
            let help = "move it away; --existing overwrite replaces only files by files";
            refuse_or_keep(rules, path, &cause, help, Exit::Refused)
        }
        _ => {
            // Once: of a mount nothing is kept in the stage that is published.
            if rules.purpose == Purpose::Publish || rules.is_mount && rules.purpose == Purpose::Check {
                warn_of_type(rules, path, staged_is_directory);
            }
            Ok(Decided::Keep)
        }
    }
}

/// Before the seal it is refused; what gets in the way after it must not keep the volume from ever being
/// complete.
fn refuse_or_keep(
    rules: &WalkRules<'_>,
    path: &[u8],
    cause: &str,
    help: &'static str,
    exit: Exit,
) -> Result<Decided> {
    let full = rules.full(path);
    if rules.purpose == Purpose::Check {
        return Err(Error::new(exit, "publish", cause).on(full).help(help));
    }
    if rules.purpose == Purpose::Publish {
        tracing::warn!(path = full.display().to_string(), cause, "kept what the volume has");
    }
    Ok(Decided::Keep)
}

fn warn_of_type(rules: &WalkRules<'_>, path: &[u8], staged_is_directory: bool) {
    tracing::warn!(
        path = rules.full(path).display().to_string(),
        seed = if staged_is_directory { "a directory" } else { "a file" },
        "kept what the volume has, of another type than the seed's"
    );
}

/// A directory in which nothing may be made: in a mount what is missing is left out, elsewhere it is refused.
fn leave_out(rules: &WalkRules<'_>, path: &[u8], to: BorrowedFd<'_>, looked: &mut Looked) -> Result<()> {
    let Some(cause) = refuses_names(to) else { return Ok(()) };
    if !rules.is_mount {
        let missing = printable(&looked.moves[0].0);
        let what = match rustix::process::geteuid().is_root() {
            true => {
                "root may not write in this directory of the volume: it may be immutable (lsattr), or closed by its server or a missing capability (CAP_DAC_OVERRIDE)"
            }
            false => "let this user write in this directory of the volume, or start as root",
        };
        return Err(Error::os("publish to", rules.full(path), cause)
            .help(format!("the seed has '{missing}' for it: {what}")));
    }
    for (name, _) in looked.moves.drain(..) {
        rules.note(Loss::LeftOut, &join(path, &name), cause)?;
    }
    Ok(())
}

/// `name` below `parent`, which may be empty.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A path below the volume's, for messages.
pub(crate) fn full_path(volume: &Path, path: &[u8]) -> PathBuf {
    volume.join(std::ffi::OsStr::from_bytes(path))
}
