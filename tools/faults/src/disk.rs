//! A disk that remembers every write and every flush, and that can die: one file of a FUSE file system under a loop
//! device.
//!
//! The kernel passes a write on at once, as the file is open for direct I/O, and the loop driver's flush arrives as an
//! fsync. The device of FUSE is open only in the threads that serve it, which have a descriptor table of their own: so
//! the kernel ends the mount when this process is killed, also while another thread waits for the disk.

mod image;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, Session, SessionACL,
    WriteFlags,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

pub(crate) use image::Image;

/// What came to a disk, in this order.
#[derive(Clone)]
pub(crate) enum Event {
    /// Bytes, from an offset.
    Write(u64, Arc<[u8]>),
    /// All writes before it are durable once it is answered.
    Flush,
    /// Something has happened outside.
    Mark,
}

/// What the disk has been through.
struct State {
    image: Image,
    log: Vec<Event>,
    /// How many more writes succeed.
    lives: Option<usize>,
}

/// A loop device. Its end detaches it, whatever uses it still.
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    file: PathBuf,
    device: PathBuf,
    session: Option<JoinHandle<()>>,
}

impl Disk {
    /// Makes a disk with this content; `file` becomes the file under it.
    pub(crate) fn new(image: Image, file: &Path) -> io::Result<Self> {
        fs::write(file, "")?;
        let state = Arc::new(Mutex::new(State { image, log: Vec::new(), lives: None }));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (served, place) = (Served(Arc::clone(&state)), file.to_owned());
        let session = std::thread::spawn(move || match begin(served, &place) {
            Ok(session) => {
                tell.send(Ok(())).ok();
                // The error at the end is that of the device after the mount is gone.
                session.run().ok();
            }
            Err(error) => drop(tell.send(Err(error))),
        });
        told.recv().map_err(io::Error::other)??;
        let mut disk = Self { state, file: file.to_owned(), device: PathBuf::new(), session: Some(session) };
        disk.device = attach(file)?;
        Ok(disk)
    }

    /// The block device.
    pub(crate) fn device(&self) -> &Path {
        &self.device
    }

    /// Notes in the log that something has happened.
    pub(crate) fn mark(&self) {
        self.state.lock().unwrap().log.push(Event::Mark);
    }

    /// What has come since the last look.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// What is on it now.
    pub(crate) fn image(&self) -> Image {
        self.state.lock().unwrap().image.clone()
    }

    /// After so many more writes, every write and flush fails; with `None`, none does.
    pub(crate) fn dies_after(&self, writes: Option<usize>) {
        self.state.lock().unwrap().lives = writes;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still uses it, such as a mount of a process that is just ending, keeps it until it ends itself.
        run(Command::new("losetup").arg("--detach").arg(&self.device)).ok();
        let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        if let (Ok(()), Some(session)) = (umount2(&self.file, flags), self.session.take()) {
            session.join().ok();
        }
    }
}

fn begin(served: Served, at: &Path) -> io::Result<Session<Served>> {
    unshare(CloneFlags::CLONE_FILES)?;
    let open = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let numbers: Vec<i32> = fs::read_dir("/proc/thread-self/fd")?.filter_map(open).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The one that listed them is closed already.
        nix::unistd::close(number).ok();
    }
    let fuse = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/fuse")?);
    // The root of the file system is a file.
    let data = format!("fd={},rootmode=100000,user_id=0,group_id=0", fuse.as_raw_fd());
    mount(Some("disk"), at, Some("fuse.disk"), MsFlags::MS_NOSUID, Some(data.as_str()))?;
    Session::from_fd(served, fuse, SessionACL::All, Config::default())
        .inspect_err(|_| umount2(at, MntFlags::MNT_DETACH).unwrap_or_default())
}

/// Another process may take the device that was free a moment ago.
fn attach(file: &Path) -> io::Result<PathBuf> {
    let mut failed = None;
    for _ in 0..20 {
        match run(Command::new("losetup").args(["--find", "--show"]).arg(file)) {
            Ok(device) => return Ok(device.trim().into()),
            Err(error) => failed = Some(error),
        }
        make_nodes()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(failed.expect("it was tried"))
}

/// A container may have fewer nodes than the kernel has devices.
fn make_nodes() -> io::Result<()> {
    for number in 0..64 {
        let path = format!("/dev/loop{number}");
        if !Path::new(&path).exists() {
            run(Command::new("mknod").args([&path, "b", "7", &number.to_string()]))?;
        }
    }
    Ok(())
}

/// Runs a command, and gives its output.
///
/// # Errors
/// It failed; with what it said.
pub(crate) fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// What serves the file.
struct Served(Arc<Mutex<State>>);

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.set_max_write(1 << 20).map(drop).map_err(|_| io::Error::other("max_write"))
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let size = self.0.lock().unwrap().image.bytes();
        let attr = FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attr);
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&self.0.lock().unwrap().image.read(offset, size as usize));
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.0.lock().unwrap();
        if state.lives == Some(0) {
            return reply.error(Errno::EIO);
        }
        state.lives = state.lives.map(|lives| lives - 1);
        state.image.write(offset, data);
        state.log.push(Event::Write(offset, data.into()));
        reply.written(data.len() as u32);
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = self.0.lock().unwrap();
        if state.lives == Some(0) {
            return reply.error(Errno::EIO);
        }
        state.log.push(Event::Flush);
        reply.ok();
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
