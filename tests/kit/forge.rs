//! State that is not what it seems: real states of real runs, in other hands and with other contents.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat};
use serde_json::Value;

use super::scene::{APP, Image, STRANGER, Scene, remove};
use super::{Sandbox, eventually, seed};

/// Real states of one image, to be copied.
pub(crate) struct States {
    /// `.volseed` of a seed that was told to end in the middle of staging.
    pub staged: PathBuf,
    /// A whole volume that is complete.
    pub complete: PathBuf,
}

impl States {
    pub(crate) fn of(image: &Image, sandbox: &Sandbox) -> States {
        let (begun, complete) = (sandbox.directory("begun"), sandbox.directory("complete"));
        let running = seed("-", &begun).fed().start();
        running.feed(image.tree.members().unfinished());
        let tree = begun.join(".volseed/claims/1/stage/tree");
        let is_written = |name: &&str| fs::metadata(tree.join(name)).is_ok_and(|file| file.len() > 0);
        eventually("all of it is staged", || FALSIFIED.iter().map(|(name, _)| name).all(is_written));
        running.stopped_by(Signal::SIGTERM).0.exits(143);
        image.seed(&complete).ends().exits(0);
        States { staged: begun.join(".volseed"), complete }
    }
}

/// Whose `.volseed` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hands {
    /// The app's user's.
    App,
    /// Another user's.
    Stranger,
    /// Ours, opened to the app's group, as kubelet does it for `fsGroup`.
    Opened,
    /// Ours, and nobody else can enter.
    Ours,
}

impl Hands {
    pub(crate) fn user(self) -> u32 {
        match self {
            Hands::App | Hands::Opened => APP,
            Hands::Stranger => STRANGER,
            Hands::Ours => 0,
        }
    }

    /// What may come of a claim that nobody beats for: one of ours is waited for, longer than the tests
    /// do.
    pub(crate) fn silent_claim(self) -> &'static [i32] {
        match self {
            Hands::Ours | Hands::Opened => &[0, 75, 78],
            Hands::App | Hands::Stranger => &[0, 78],
        }
    }

    /// Everything there is in these hands from now on.
    pub(crate) fn take(self, path: &Path) {
        match self {
            Hands::Opened => open_to_group(path, APP),
            Hands::Ours => {}
            Hands::App | Hands::Stranger => chown_all(path, self.user()),
        }
    }
}

/// What kubelet does to a volume for `fsGroup`.
pub(crate) fn open_to_group(path: &Path, group: u32) {
    done(Command::new("chgrp").arg("-hR").arg(group.to_string()).arg(path));
    done(Command::new("chmod").args(["-R", "g+rwX"]).arg(path));
    done(Command::new("find").arg(path).args(["-type", "d", "-exec", "chmod", "g+s", "{}", "+"]));
}

/// `chown -R`, as stock entry points do it at every start.
pub(crate) fn chown_all(path: &Path, user: u32) {
    done(Command::new("chown").arg("-hR").arg(format!("{user}:{user}")).arg(path));
}

/// `cp -a`.
pub(crate) fn copy(from: &Path, to: &Path) {
    done(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// What can be in a file's or directory's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fifo,
    Socket,
    Device,
    LinkToFile,
    LinkToDirectory,
    LinkToNothing,
    HardLink,
    /// A file of root's that was moved there, as who may write its directory can.
    OfRoot,
    Directory,
    LockedDirectory,
    Garbage,
    Large,
}

impl Kind {
    pub(crate) const ALL: [Kind; 12] = [
        Kind::Fifo,
        Kind::Socket,
        Kind::Device,
        Kind::LinkToFile,
        Kind::LinkToDirectory,
        Kind::LinkToNothing,
        Kind::HardLink,
        Kind::OfRoot,
        Kind::Directory,
        Kind::LockedDirectory,
        Kind::Garbage,
        Kind::Large,
    ];

    /// Puts it at a place in `.volseed`, whatever was there.
    pub(crate) fn plant(self, scene: &Scene, place: &Path, user: u32) {
        remove(place);
        make_parents(place, &scene.volume, user);
        let node = |kind, device| mknodat(CWD, place, kind, Mode::from_raw_mode(0o666), device).unwrap();
        let link = |target: &str| symlink(scene.outside.join(target), place).unwrap();
        match self {
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::Socket => node(FileType::Socket, 0),
            // /dev/zero: never at its end.
            Kind::Device => node(FileType::CharacterDevice, makedev(1, 5)),
            Kind::LinkToFile => link("closed/key"),
            Kind::LinkToDirectory => link("closed"),
            Kind::LinkToNothing => link("new"),
            Kind::HardLink => return fs::hard_link(scene.root_only(), place).unwrap(),
            Kind::OfRoot => return copy(&scene.root_only(), place),
            Kind::Directory | Kind::LockedDirectory => {
                fs::create_dir(place).unwrap();
                fs::write(place.join("file"), "x").unwrap();
                lchown(place.join("file"), Some(user), Some(user)).unwrap();
            }
            Kind::Garbage => fs::write(place, "\u{1b}[31mnot of volseed\n").unwrap(),
            Kind::Large => fs::File::create(place).unwrap().set_len(8 << 20).unwrap(),
        }
        lchown(place, Some(user), Some(user)).unwrap();
        if self == Kind::LockedDirectory {
            fs::set_permissions(place, fs::Permissions::from_mode(0o000)).unwrap();
        }
    }
}

/// The directories on the way to a place, this user's where they have to be made.
pub(crate) fn make_parents(place: &Path, volume: &Path, user: u32) {
    let parent = place.parent().unwrap();
    if parent != volume && !parent.exists() {
        make_parents(parent, volume, user);
        fs::create_dir(parent).unwrap();
        lchown(parent, Some(user), Some(user)).unwrap();
    }
}

/// Directories in directories, this user's, below a directory that is there.
pub(crate) fn nest(below: &Path, depth: usize, user: u32) {
    let mut directory = openat(CWD, below, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&directory, "d", Mode::RWXU).unwrap();
        directory = openat(&directory, "d", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        nix::unistd::fchown(&directory, Some(user.into()), Some(user.into())).unwrap();
    }
}

/// Changes a record, and makes its checksum right again. With `state.json` both records of a complete volume are
/// changed, as if the private one had said so from the beginning.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    if path.file_name() == Some(OsStr::new("state.json")) {
        let private = path.with_file_name("record.json");
        edit(&private, change);
        let bytes = fs::read(&private).unwrap();
        let record = super::records::public(&serde_json::from_slice(&bytes).unwrap(), &bytes);
        return fs::write(path, with_checksum(record)).unwrap();
    }
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("checksum");
    change(&mut value);
    if path.file_name() == Some(OsStr::new("heartbeat")) {
        return fs::write(path, value.to_string()).unwrap();
    }
    fs::write(path, with_checksum(value)).unwrap();
}

/// A record as volseed writes it: the checksum is that of all other fields without white space.
pub(crate) fn with_checksum(mut value: Value) -> String {
    let mut sum = flate2::Crc::new();
    sum.update(value.to_string().as_bytes());
    value["checksum"] = format!("crc32:{:08x}", sum.sum()).into();
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}

/// What is staged in a claim passes for whole and durable: as `sealed`, `publishing` or `remains`.
pub(crate) fn rename_stage(claim: &Path, name: &str) {
    let part = claim.join(name);
    fs::rename(claim.join("stage"), &part).unwrap();
    if name != "remains" {
        edit(&part.join("stage.json"), |record| record["sealed"] = sealed());
    }
}

fn sealed() -> Value {
    serde_json::json!({
        "generation": 1,
        "version": null,
        "totals": { "files": 4, "directories": 3, "links": 2, "bytes": 70_033 },
        "top": ["bin", "conf", "current", "index.php", "uploads"],
        "root": null,
    })
}

/// The files of the image that are falsified, and their modes.
const FALSIFIED: [(&str, u32); 3] = [("index.php", 0o644), ("bin/tool", 0o755), ("conf/app.ini", 0o644)];

/// Files of the image's sizes and times, and of other bytes.
pub(crate) fn falsify(tree: &Path) {
    for (name, mode) in FALSIFIED {
        let path = tree.join(name);
        let metadata = fs::metadata(&path).unwrap();
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all(&vec![b'#'; metadata.len() as usize]).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        file.set_modified(metadata.modified().unwrap()).unwrap();
    }
}
