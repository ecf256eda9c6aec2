//! Mounts and loop devices that end with the test, whatever happens to it.
//!
//! Each test runs in a thread of its own, and a thread can have a mount namespace of its own: what
//! is mounted here is seen by that thread and the programs it starts, by nobody else.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

pub(crate) struct Mount {
    at: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).ok();
    }
}

/// A tmpfs with options like `size=8m`.
pub(crate) fn tmpfs(at: &Path, options: &str) -> Mount {
    mounted("tmpfs", at, options)
}

/// A file system without extended attributes.
pub(crate) fn ramfs(at: &Path) -> Mount {
    mounted("ramfs", at, "mode=0755")
}

fn mounted(kind: &str, at: &Path, options: &str) -> Mount {
    private();
    fs::create_dir_all(at).unwrap();
    mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(options)).unwrap();
    Mount { at: at.to_owned() }
}

/// The same directory or file in a second place.
pub(crate) fn bind(from: &Path, at: &Path) -> Mount {
    private();
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    Mount { at: at.to_owned() }
}

/// A FUSE file system whose server is gone: every call answers `ENOTCONN`.
pub(crate) fn dead(at: &Path) -> Mount {
    private();
    fs::create_dir_all(at).unwrap();
    let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    mount(Some("dead"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
    Mount { at: at.to_owned() }
}

/// The same directory in a second place, through FUSE.
#[track_caller]
pub(crate) fn bindfs(flags: &[&str], from: &Path, at: &Path) -> Mount {
    private();
    succeed(Command::new("bindfs").args(flags).arg(from).arg(at));
    Mount { at: at.to_owned() }
}

/// A new file system on a loop device over an image that has no name once it is mounted.
pub(crate) fn loop_device(kind: &str, images: &Path, at: &Path) -> Mount {
    private();
    fs::create_dir_all(at).unwrap();
    let image = images.join(format!("{kind}.img"));
    // Sparse; room for the largest tree that is seeded.
    File::create(&image).unwrap().set_len(1 << 30).unwrap();
    succeed(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
    succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
    fs::remove_file(&image).unwrap();
    Mount { at: at.to_owned() }
}

impl Mount {
    /// Something that a program has mounted in this thread's namespace.
    pub(crate) fn over(at: &Path) -> Mount {
        Mount { at: at.to_owned() }
    }

    pub(crate) fn remount(&self, flags: MsFlags, options: &str) {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(None::<&str>, &self.at, None::<&str>, flags, Some(options)).unwrap();
    }
}

/// From now on, what this thread mounts is seen by it and what it starts.
pub(crate) fn private() {
    thread_local!(static PRIVATE: Cell<bool> = const { Cell::new(false) });
    if !PRIVATE.replace(true) {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, all, None::<&str>).unwrap();
    }
}

#[track_caller]
fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
