//! slowfs as programs see it, on a real mount. Needs root and `/dev/fuse`.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use slowfs::{Change, Counts, Fault, Locks, Mount, Op, Options, Quirks, Room, Squash, Xattrs};
use tempfile::TempDir;

/// A mount on a directory of its own, which only this test's thread and its children see.
struct Volume {
    // Fields end in this order.
    mount: Mount,
    directory: TempDir,
    /// Programs that another test starts would hold our files, and their closes would be counted.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Volume {
    fn new(options: Options) -> Option<Volume> {
        let there = Path::new("/dev/fuse").exists() && nix::unistd::geteuid().is_root();
        if !there {
            assert!(std::env::var_os("CI").is_none(), "CI has to have root and /dev/fuse");
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, all, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.path().join("volume")).unwrap();
        let mount = Mount::new(options, &directory.path().join("volume")).unwrap();
        Some(Volume { mount, directory, _alone: alone })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    /// What these calls are charged.
    fn cost(&self, calls: impl FnOnce()) -> Counts {
        let before = self.mount.counts();
        calls();
        self.mount.counts() - &before
    }

    /// A directory beside the volume for a second client.
    fn beside(&self) -> Mount {
        let at = self.directory.path().join("beside");
        fs::create_dir(&at).unwrap();
        self.mount.beside(&at).unwrap()
    }
}

fn with_rtt(milliseconds: u64, slots: usize) -> Options {
    Options { rtt: Duration::from_millis(milliseconds), slots, ..Options::default() }
}

/// These and no others.
#[track_caller]
fn assert_counts(counts: &Counts, expected: &[(Op, u64)]) {
    for op in Op::ALL.iter().filter(|op| op.is_charged()) {
        let wanted = expected.iter().find(|(it, _)| it == op).map_or(0, |(_, count)| *count);
        assert_eq!(counts[*op], wanted, "{}: {counts}", op.name());
    }
    assert_eq!(counts.rpcs(), expected.iter().map(|(_, count)| count).sum::<u64>());
}

fn close(file: File) -> nix::Result<()> {
    nix::unistd::close(file)
}

fn set_time(file: &File) {
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

#[track_caller]
fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_small_file_costs_what_it_costs_on_nfs() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let counts = volume.cost(|| {
        let mut file = File::create(volume.path("a")).unwrap();
        file.write_all(b"12").unwrap();
        file.write_all(b"34").unwrap();
        set_time(&file);
        close(file).unwrap();
    });
    assert_counts(&counts, &[(Op::Create, 1), (Op::Write, 1), (Op::Setattr, 1), (Op::Close, 1)]);
    let counts = volume.cost(|| close(File::create(volume.path("empty")).unwrap()).unwrap());
    assert_counts(&counts, &[(Op::Create, 1), (Op::Close, 1)]);
}

#[test]
fn a_large_file_is_sent_in_pieces_of_a_mebibyte_however_it_is_written() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let counts = volume.cost(|| {
        let mut file = File::create(volume.path("a")).unwrap();
        for _ in 0..80 {
            file.write_all(&[b'x'; 32 << 10]).unwrap();
        }
        close(file).unwrap();
    });
    assert_counts(&counts, &[(Op::Create, 1), (Op::Write, 3), (Op::Close, 1)]);
    assert_eq!(volume.mount.used(), 80 * (32 << 10));
}

#[test]
fn every_other_new_entry_is_one_round_trip() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    close(File::create(volume.path("a")).unwrap()).unwrap();
    let counts = volume.cost(|| {
        fs::create_dir(volume.path("d")).unwrap();
        symlink("a", volume.path("s")).unwrap();
        fs::hard_link(volume.path("a"), volume.path("l")).unwrap();
        nix::unistd::mkfifo(&volume.path("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::rename(volume.path("a"), volume.path("d/b")).unwrap();
        fs::remove_file(volume.path("l")).unwrap();
        fs::remove_file(volume.path("s")).unwrap();
        fs::remove_file(volume.path("d/b")).unwrap();
        fs::remove_dir(volume.path("d")).unwrap();
    });
    let made = [(Op::Mkdir, 1), (Op::Symlink, 1), (Op::Link, 1), (Op::Mknod, 1), (Op::Rename, 1)];
    let removed = [(Op::Unlink, 3), (Op::Rmdir, 1)];
    assert_counts(&counts, &[made.as_slice(), &removed].concat());
}

#[test]
fn a_lookup_that_finds_nothing_is_charged_unless_it_was_for_a_creation() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let counts = volume.cost(|| {
        assert!(!volume.path("a").exists());
        assert!(!volume.path("a").exists());
        close(File::create(volume.path("a")).unwrap()).unwrap();
    });
    assert_counts(&counts, &[(Op::LookupMissed, 2), (Op::Create, 1), (Op::Close, 1)]);
}

#[test]
fn what_the_kernel_was_told_it_does_not_ask_again() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    close(File::create(volume.path("a")).unwrap()).unwrap();
    let counts = volume.cost(|| {
        for _ in 0..3 {
            fs::metadata(volume.path("a")).unwrap();
        }
    });
    assert_counts(&counts, &[]);
}

#[test]
fn another_client_reads_a_directory_with_attributes_in_one_round_trip() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    for number in 0..500 {
        close(File::create(volume.path(&format!("{number}"))).unwrap()).unwrap();
    }
    let beside = volume.beside();
    fs::metadata(beside.path()).unwrap();
    let before = beside.counts();
    let entries = fs::read_dir(beside.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    assert_eq!(entries.filter(|it| it.is_file()).count(), 500);
    assert_counts(&(beside.counts() - &before), &[(Op::Readdir, 1)]);
}

/// Four threads that each create a file; the most round trips at once, and how long it took.
fn create_in(volume: &Volume, directory: impl Fn(usize) -> String + Sync) -> (u64, Duration) {
    for thread in 0..4 {
        fs::create_dir_all(volume.path(&directory(thread))).unwrap();
    }
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = volume.path(&directory(thread)).join(format!("{thread}"));
            scope.spawn(move || close(File::create(path).unwrap()).unwrap());
        }
    });
    (volume.mount.counts().most_in_flight, began.elapsed())
}

#[test]
fn no_more_are_under_way_than_there_are_slots() {
    let Some(volume) = Volume::new(with_rtt(30, 2)) else { return };
    let (most, took) = create_in(&volume, |thread| format!("d{thread}"));
    assert_eq!(most, 2);
    assert!(took >= Duration::from_millis(4 * 30), "8 round trips, two at a time: {took:?}");
}

#[test]
fn files_in_several_directories_are_created_at_once() {
    let Some(volume) = Volume::new(with_rtt(100, 64)) else { return };
    assert_eq!(create_in(&volume, |thread| format!("d{thread}")).0, 4);
}

#[test]
fn files_in_one_directory_are_created_one_after_the_other() {
    let Some(volume) = Volume::new(with_rtt(30, 64)) else { return };
    let (_, took) = create_in(&volume, |_| "d".to_owned());
    assert!(took >= Duration::from_millis(5 * 30), "four creations and the last close: {took:?}");
}

#[test]
fn a_full_volume_is_told_by_the_close() {
    let Some(volume) = Volume::new(Options { capacity: Some(10), ..Options::default() }) else { return };
    let mut file = File::create(volume.path("a")).unwrap();
    file.write_all(b"0123456789a").unwrap();
    assert_eq!(close(file), Err(Errno::ENOSPC));
    volume.mount.faults().set_capacity(None);
    fs::write(volume.path("a"), b"0123456789a").unwrap();
    assert_eq!(fs::read(volume.path("a")).unwrap(), b"0123456789a");
}

#[test]
fn an_operation_fails_as_often_as_it_is_to() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let faults = volume.mount.faults();
    faults.fail(Fault::new(Op::Close, slowfs::Errno::EDQUOT).named("a").times(1));
    let closes = |name: &str| close(File::create(volume.path(name)).unwrap());
    assert_eq!([closes("b"), closes("a"), closes("a")], [Ok(()), Err(Errno::EDQUOT), Ok(())]);
    faults.fail(Fault::new(Op::Write, slowfs::Errno::EIO));
    let mut file = File::create(volume.path("c")).unwrap();
    file.write_all(b"x").unwrap();
    set_time(&file);
    assert_eq!(close(file), Err(Errno::EIO), "told by the close, though the change of times had sent it");
    faults.clear();
    assert_eq!(closes("c"), Ok(()));
}

#[test]
fn a_forgotten_handle_is_stale_for_who_has_it_and_a_path_finds_a_new_one() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    fs::create_dir_all(volume.path("d/e")).unwrap();
    let directory = File::open(volume.path("d")).unwrap();
    let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    assert!(volume.mount.faults().forget_handle("d"));
    assert_eq!(fs::create_dir(through.join("f")).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    let anew = File::open(volume.path("d")).unwrap();
    fs::create_dir(format!("/proc/self/fd/{}/f", anew.as_raw_fd())).unwrap();
    assert!(volume.path("d/e").is_dir());
    assert!(!volume.mount.faults().forget_handle("nothing"));
}

#[test]
fn what_hangs_goes_on_once_the_server_answers() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let faults = volume.mount.faults();
    fs::create_dir(volume.path("other")).unwrap();
    faults.hang(Some(Op::Mkdir));
    std::thread::scope(|scope| {
        let made = scope.spawn(|| fs::create_dir(volume.path("d")));
        eventually(|| faults.waiting() == 1);
        fs::write(volume.path("other/a"), "x").unwrap();
        faults.release();
        made.join().unwrap().unwrap();
    });
}

#[test]
fn what_hangs_ends_with_its_caller() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    volume.mount.faults().hang(None);
    let mut child = Command::new("mkdir").arg(volume.path("d")).spawn().unwrap();
    eventually(|| volume.mount.faults().waiting() == 1);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_process_that_ends_does_not_wait_for_a_close_that_hangs() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let file = File::create(volume.path("a")).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "read line; exit 0"])
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .unwrap();
    volume.mount.faults().hang(None);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_mount_ends_though_operations_hang() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    volume.mount.faults().hang(None);
    let mut child = Command::new("mkdir").arg(volume.path("d")).stderr(Stdio::null()).spawn().unwrap();
    eventually(|| volume.mount.faults().waiting() == 1);
    let at = volume.mount.path().to_owned();
    drop(volume.mount);
    assert!(!child.wait().unwrap().success());
    assert_eq!(fs::read_dir(at).unwrap().count(), 0);
}

#[test]
fn a_delay_is_added_to_one_kind() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    volume.mount.faults().delay(Op::Mkdir, Duration::from_millis(80));
    let began = Instant::now();
    fs::create_dir(volume.path("d")).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(80));
}

/// As this user, in a process of its own; says whether it went well.
fn as_user(user: u32, program: &str, arguments: &[&str], path: &Path) -> bool {
    let id = user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]).args(arguments).arg(path);
    command.stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn others_may_do_what_modes_and_owners_allow() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    assert!(!as_user(1000, "mkdir", &[], &volume.path("d")));
    fs::create_dir(volume.path("open")).unwrap();
    fs::set_permissions(volume.path("open"), fs::Permissions::from_mode(0o2777)).unwrap();
    assert!(as_user(1000, "mkdir", &[], &volume.path("open/d")));
    let made = fs::metadata(volume.path("open/d")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 0, 0o2755));
    assert!(as_user(1000, "chmod", &["700"], &volume.path("open/d")));
    assert!(!as_user(1001, "chmod", &["777"], &volume.path("open/d")));
    assert!(!as_user(1001, "mkdir", &[], &volume.path("open/d/e")));
    assert!(!as_user(1000, "chown", &["1001"], &volume.path("open/d")));
}

#[test]
fn root_is_nobody_where_it_is_squashed() {
    let options = Options { squash: Squash::Root, mode: 0o777, ..Options::default() };
    let Some(volume) = Volume::new(options) else { return };
    fs::write(volume.path("a"), "x").unwrap();
    assert_eq!(fs::metadata(volume.path("a")).unwrap().uid(), 65534);
    assert_eq!(chown(volume.path("a"), Some(33), None).unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert!(as_user(1000, "touch", &[], &volume.path("b")));
    assert_eq!(fs::metadata(volume.path("b")).unwrap().uid(), 1000);
}

#[test]
fn everybody_is_one_user_at_an_access_point() {
    let options = Options { squash: Squash::All(33, 34), owner: (33, 34), ..Options::default() };
    let Some(volume) = Volume::new(options) else { return };
    fs::write(volume.path("a"), "x").unwrap();
    assert!(as_user(1000, "touch", &[], &volume.path("b")));
    for name in ["a", "b"] {
        let found = fs::metadata(volume.path(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (33, 34));
        assert!(chown(volume.path(name), Some(0), Some(0)).is_err());
    }
}

fn try_lock(path: PathBuf) -> Result<File, Errno> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let whole = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).map(|_| file)
}

#[test]
fn a_lock_is_held_against_other_clients_until_its_file_is_closed() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let beside = volume.beside();
    let held = try_lock(volume.path("lock")).unwrap();
    assert_eq!(try_lock(beside.path().join("lock")).unwrap_err(), Errno::EAGAIN);
    drop(held);
    eventually(|| try_lock(beside.path().join("lock")).is_ok());
}

#[test]
fn locks_are_refused_or_local_where_it_is_asked_for() {
    let refused = Options { locks: Locks::Refused(slowfs::Errno::ENOLCK), ..Options::default() };
    let Some(volume) = Volume::new(refused) else { return };
    assert_eq!(try_lock(volume.path("lock")).unwrap_err(), Errno::ENOLCK);
    drop(volume);
    let Some(volume) = Volume::new(Options { locks: Locks::Local, ..Options::default() }) else { return };
    let beside = volume.beside();
    let both = (try_lock(volume.path("lock")), try_lock(beside.path().join("lock")));
    assert!(both.0.is_ok() && both.1.is_ok());
}

#[test]
fn neither_exclusive_renames_nor_attributes_are_to_be_had() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    fs::write(volume.path("a"), "x").unwrap();
    let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
    let here = nix::fcntl::AT_FDCWD;
    let renamed = nix::fcntl::renameat2(here, &volume.path("a"), here, &volume.path("b"), flags);
    assert_eq!(renamed, Err(Errno::EINVAL));
    let status = Command::new("cp").arg("-a").arg(volume.path("a")).arg(volume.path("c")).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new("cp").arg("-a").arg(source).arg(volume.path("copy")).status().unwrap();
    assert!(status.success());
    let listed = |root: &Path| {
        let format = ["-printf", "%P %m %U %G %T@ %y\n"];
        let found = Command::new("find").arg(root).args(format).output().unwrap();
        let mut lines: Vec<_> = String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(listed(source), listed(&volume.path("copy")));
    let status = Command::new("diff").arg("-r").arg(source).arg(volume.path("copy")).status().unwrap();
    assert!(status.success());
    fs::remove_dir_all(volume.path("copy")).unwrap();
    assert_eq!(volume.mount.used(), 0);
}

#[test]
fn what_has_no_name_is_there_until_it_is_closed() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(volume.path("a"))
        .unwrap();
    file.write_all(b"x").unwrap();
    fs::remove_file(volume.path("a")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(volume.mount.used(), 1);
    drop(file);
    eventually(|| volume.mount.used() == 0);
}

#[test]
fn a_write_that_fails_leaves_a_hole_and_is_told_by_close() {
    let Some(volume) = Volume::new(Options::default()) else { return };
    let faults = volume.mount.faults();
    faults.fail(Fault::new(Op::Write, slowfs::Errno::ENOSPC).named("a").times(1));
    let mut file = File::create(volume.path("a")).unwrap();
    file.write_all(&vec![b'x'; 3 << 20]).unwrap();
    // The time is set all the same, and nothing is said yet.
    set_time(&file);
    assert_eq!(close(file), Err(Errno::ENOSPC));
    // The kernel that wrote it may show what it has cached.
    let beside = volume.beside();
    let bytes = fs::read(beside.path().join("a")).unwrap();
    assert_eq!(bytes.len(), 3 << 20);
    assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1 << 20);
    let time = fs::metadata(beside.path().join("a")).unwrap().modified().unwrap();
    assert_eq!(time, SystemTime::UNIX_EPOCH);
    let file = OpenOptions::new().append(true).open(volume.path("a")).unwrap();
    close(file).unwrap();
}

#[test]
fn two_names_change_places_where_that_is_allowed() {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    for allowed in [false, true] {
        let Some(volume) = Volume::new(Options { exchange: allowed, ..Options::default() }) else { return };
        fs::create_dir_all(volume.path("d/below")).unwrap();
        fs::create_dir(volume.path("other")).unwrap();
        fs::write(volume.path("other/file"), "x").unwrap();
        let exchange = |one, other| {
            let (one, other) = (volume.path(one), volume.path(other));
            renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok()
        };
        assert_eq!(exchange("d", "other/file"), allowed);
        if allowed {
            assert_eq!(fs::read_to_string(volume.path("d")).unwrap(), "x");
            assert!(volume.path("other/file/below").is_dir());
            let links = |name| fs::metadata(volume.path(name)).unwrap().nlink();
            assert_eq!([links("."), links("other"), links("other/file")], [3, 3, 3]);
            assert!(!exchange("other", "other/file"));
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.unwrap_err().raw_os_error().unwrap())
}

fn with(quirks: Quirks) -> Options {
    Options { quirks, ..Options::default() }
}

fn fifo(path: &Path) -> std::io::Result<()> {
    Ok(nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)?)
}

#[test]
fn what_a_file_system_cannot_make_is_refused_with_the_error_of_choice() {
    let quirks = Quirks {
        symlinks: Some(slowfs::Errno::EOPNOTSUPP),
        hard_links: Some(slowfs::Errno::EPERM),
        special_files: Some(slowfs::Errno::EIO),
        ..Quirks::default()
    };
    let Some(volume) = Volume::new(with(quirks)) else { return };
    fs::write(volume.path("a"), "x").unwrap();
    assert_eq!(refused(symlink("a", volume.path("s"))), Errno::EOPNOTSUPP);
    assert_eq!(refused(fs::hard_link(volume.path("a"), volume.path("h"))), Errno::EPERM);
    assert_eq!(refused(fifo(&volume.path("f"))), Errno::EIO);
    assert_eq!(fs::read_dir(volume.mount.path()).unwrap().count(), 1);
}

#[test]
fn links_are_refused_to_links_and_above_their_number() {
    let links_to_symlinks = Some(slowfs::Errno::EIO);
    let quirks = Quirks { links_to_symlinks, max_links: Some(2), ..Quirks::default() };
    let Some(volume) = Volume::new(with(quirks)) else { return };
    fs::write(volume.path("a"), "x").unwrap();
    symlink("a", volume.path("s")).unwrap();
    assert_eq!(refused(fs::hard_link(volume.path("s"), volume.path("t"))), Errno::EIO);
    fs::hard_link(volume.path("a"), volume.path("b")).unwrap();
    assert_eq!(refused(fs::hard_link(volume.path("a"), volume.path("c"))), Errno::EMLINK);
    fs::remove_file(volume.path("b")).unwrap();
    fs::hard_link(volume.path("a"), volume.path("c")).unwrap();
}

#[test]
fn changes_are_refused_with_the_error_of_choice() {
    let quirks = Quirks {
        modes: Change::Refused(slowfs::Errno::EPERM),
        owners: Change::Refused(slowfs::Errno::EINVAL),
        times: Change::Refused(slowfs::Errno::EACCES),
        ..Quirks::default()
    };
    let Some(volume) = Volume::new(with(quirks)) else { return };
    let file = File::create(volume.path("a")).unwrap();
    assert_eq!(refused(file.set_permissions(fs::Permissions::from_mode(0o600))), Errno::EPERM);
    assert_eq!(refused(chown(volume.path("a"), Some(1), Some(1))), Errno::EINVAL);
    assert_eq!(refused(file.set_modified(SystemTime::UNIX_EPOCH)), Errno::EACCES);
    file.set_len(5).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
}

#[test]
fn changes_that_are_ignored_leave_what_the_root_has() {
    let quirks = Quirks {
        modes: Change::Ignored,
        owners: Change::Ignored,
        times: Change::Ignored,
        ..Quirks::default()
    };
    let Some(volume) = Volume::new(Options { owner: (7, 8), mode: 0o770, ..with(quirks) }) else { return };
    let file = File::create(volume.path("a")).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    chown(volume.path("a"), Some(1), Some(1)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (7, 8, 0o770));
    assert!(found.modified().unwrap() > SystemTime::UNIX_EPOCH);
}

#[test]
fn names_that_the_volume_cannot_have_are_refused() {
    let quirks = Quirks { max_name: Some(5), forbidden: ":".to_owned(), ..Quirks::default() };
    let Some(volume) = Volume::new(with(quirks)) else { return };
    fs::write(volume.path("12345"), "x").unwrap();
    assert_eq!(refused(fs::write(volume.path("123456"), "x")), Errno::ENAMETOOLONG);
    assert_eq!(refused(fs::create_dir(volume.path("a:b"))), Errno::EINVAL);
    assert_eq!(refused(fs::rename(volume.path("12345"), volume.path("a:b"))), Errno::EINVAL);
    assert_eq!(refused(fs::metadata(volume.path("123456"))), Errno::ENAMETOOLONG);
}

#[test]
fn names_that_differ_in_case_are_one_where_case_is_ignored() {
    let quirks = Quirks { ignores_case: true, ..Quirks::default() };
    let Some(volume) = Volume::new(with(quirks)) else { return };
    fs::create_dir(volume.path("Lib")).unwrap();
    assert_eq!(refused(fs::create_dir(volume.path("lib"))), Errno::EEXIST);
    fs::write(volume.path("Lib/a"), "1").unwrap();
    assert_eq!(refused(File::create_new(volume.path("LIB/A"))), Errno::EEXIST);
    fs::write(volume.path("lib/A"), "22").unwrap();
    assert_eq!(fs::read(volume.path("Lib/a")).unwrap(), b"22");
    let names = |name| -> Vec<_> {
        fs::read_dir(volume.path(name)).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!((names("."), names("lib")), (vec!["Lib".into()], vec!["a".into()]));
    fs::rename(volume.path("lib/A"), volume.path("b")).unwrap();
    fs::write(volume.path("B.new"), "3").unwrap();
    fs::rename(volume.path("b.NEW"), volume.path("B")).unwrap();
    assert_eq!(fs::read(volume.path("b")).unwrap(), b"3");
    fs::remove_dir(volume.path("LIB")).unwrap();
    assert!(!volume.path("Lib").exists());
    fs::remove_file(volume.path("B")).unwrap();
    assert_eq!(fs::read_dir(volume.mount.path()).unwrap().count(), 0);
}

#[test]
fn a_quota_is_told_by_the_write_that_exceeds_it() {
    let quirks = Quirks { quota: Some(10), ..Quirks::default() };
    let Some(volume) = Volume::new(with(quirks)) else { return };
    fs::write(volume.path("a"), "0123456789").unwrap();
    assert_eq!(refused(fs::write(volume.path("b"), "x")), Errno::EDQUOT);
    fs::remove_file(volume.path("a")).unwrap();
    fs::write(volume.path("b"), "x").unwrap();
}

#[test]
fn statfs_says_what_it_is_told_to() {
    let room = Room { free_blocks: Some(3), free_inodes: Some(2), inodes: Some(0), max_name: Some(143) };
    let Some(volume) = Volume::new(with(Quirks { room, ..Quirks::default() })) else { return };
    let found = nix::sys::statvfs::statvfs(volume.mount.path()).unwrap();
    assert_eq!((found.blocks_available(), found.files_available(), found.files()), (3, 2, 0));
    assert_eq!(found.name_max(), 143);
}

/// The last line that this Python says of a path `p`.
fn attribute(path: &Path, script: &str) -> String {
    let script = format!("import os, sys; p = sys.argv[1]; {script}");
    let output = Command::new("python3").args(["-c", &script]).arg(path).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    String::from_utf8(text).unwrap().lines().last().unwrap_or("").to_owned()
}

#[test]
fn extended_attributes_are_kept_or_refused_where_that_is_asked_for() {
    let Some(volume) = Volume::new(with(Quirks { xattrs: Xattrs::Kept, ..Quirks::default() })) else {
        return;
    };
    let path = volume.path("a");
    fs::write(&path, "x").unwrap();
    assert_eq!(attribute(&path, "os.setxattr(p, 'user.a', b'1'); print(os.getxattr(p, 'user.a'))"), "b'1'");
    assert_eq!(attribute(&path, "print(os.listxattr(p))"), "['user.a']");
    assert!(attribute(&path, "os.setxattr(p, 'user.a', b'2', os.XATTR_CREATE)").contains("File exists"));
    assert_eq!(attribute(&path, "os.removexattr(p, 'user.a'); print(os.listxattr(p))"), "[]");
    drop(volume);
    let refused = Xattrs::Refused(slowfs::Errno::EPERM);
    let Some(volume) = Volume::new(with(Quirks { xattrs: refused, ..Quirks::default() })) else { return };
    let path = volume.path("a");
    fs::write(&path, "x").unwrap();
    assert!(attribute(&path, "os.setxattr(p, 'user.a', b'1')").contains("Operation not permitted"));
}
