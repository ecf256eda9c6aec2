//! The kinds of system calls that are swept, and how each of them can fail: its manual page, what NFS adds, and
//! `ENOSYS` or `EPERM` from the seccomp profiles of container runtimes.
//!
//! `after` are the errors of a call that nevertheless took effect: the reply of a server was lost, and the call was
//! sent again (`EEXIST`, `ENOENT`), or a signal or a timeout ended the wait for it (`EINTR`, `EIO`). An error in
//! `before` that cannot come from a call that did nothing (`close`) is not there.

use nix::errno::Errno;
use nix::libc::{self, c_long};

/// One kind of call.
pub(crate) struct Kind {
    /// Its name, as in section 2 of the manual.
    pub(crate) name: &'static str,
    /// Its number.
    pub(crate) number: c_long,
    /// Errors of a call that does nothing.
    pub(crate) before: &'static [Errno],
    /// Errors of a call that takes effect.
    pub(crate) after: &'static [Errno],
    /// The values of its second argument with which it can fail.
    pub(crate) commands: Option<&'static [u64]>,
    /// The argument that can be smaller than asked for, and the smallest value that it can have.
    pub(crate) short: Option<(usize, u64)>,
}

use Errno::*;

macro_rules! kinds {
    ($($name:ident [$($before:ident)*] [$($after:ident)*] $(short $argument:literal from $least:literal)? $(with $commands:ident)?;)*) => {
        &[$(Kind {
            name: stringify!($name),
            number: kinds!(@number $name),
            before: &[$($before),*],
            after: &[$($after),*],
            short: kinds!(@short $($argument $least)?),
            commands: kinds!(@commands $($commands)?),
        }),*]
    };
    (@short) => { None };
    (@short $argument:literal $least:literal) => { Some(($argument, $least)) };
    (@commands) => { None };
    (@commands $commands:ident) => { Some(&$commands) };
    (@number $name:ident) => { numbers::$name };
}

/// The numbers under the names of the calls.
#[allow(non_upper_case_globals, reason = "the names of the calls")]
mod numbers {
    use super::{c_long, libc};

    macro_rules! numbers {
        ($($name:ident = $number:ident;)*) => { $(pub(super) const $name: c_long = libc::$number;)* };
    }
    numbers! {
        open = SYS_open; openat = SYS_openat; openat2 = SYS_openat2; creat = SYS_creat;
        close = SYS_close; read = SYS_read; pread64 = SYS_pread64; readv = SYS_readv;
        write = SYS_write; pwrite64 = SYS_pwrite64; writev = SYS_writev;
        stat = SYS_stat; lstat = SYS_lstat; fstat = SYS_fstat; newfstatat = SYS_newfstatat; statx = SYS_statx;
        statfs = SYS_statfs; fstatfs = SYS_fstatfs; access = SYS_access; faccessat = SYS_faccessat;
        faccessat2 = SYS_faccessat2; readlink = SYS_readlink; readlinkat = SYS_readlinkat;
        getdents64 = SYS_getdents64; lseek = SYS_lseek; ioctl = SYS_ioctl; fcntl = SYS_fcntl; flock = SYS_flock;
        rename = SYS_rename; renameat = SYS_renameat; renameat2 = SYS_renameat2; linkat = SYS_linkat;
        symlinkat = SYS_symlinkat; symlink = SYS_symlink; mkdir = SYS_mkdir; mkdirat = SYS_mkdirat;
        mknodat = SYS_mknodat; unlink = SYS_unlink; rmdir = SYS_rmdir; unlinkat = SYS_unlinkat;
        utimensat = SYS_utimensat; chmod = SYS_chmod; fchmod = SYS_fchmod; fchmodat = SYS_fchmodat;
        chown = SYS_chown; lchown = SYS_lchown; fchown = SYS_fchown; fchownat = SYS_fchownat;
        getxattr = SYS_getxattr; lgetxattr = SYS_lgetxattr; fgetxattr = SYS_fgetxattr;
        listxattr = SYS_listxattr; llistxattr = SYS_llistxattr; flistxattr = SYS_flistxattr;
        setxattr = SYS_setxattr; lsetxattr = SYS_lsetxattr; fsetxattr = SYS_fsetxattr;
        removexattr = SYS_removexattr; lremovexattr = SYS_lremovexattr; fremovexattr = SYS_fremovexattr;
        fsync = SYS_fsync; fdatasync = SYS_fdatasync; syncfs = SYS_syncfs; ftruncate = SYS_ftruncate;
        fallocate = SYS_fallocate; fadvise64 = SYS_fadvise64; copy_file_range = SYS_copy_file_range;
        sendfile = SYS_sendfile; mmap = SYS_mmap; mprotect = SYS_mprotect; munmap = SYS_munmap;
        madvise = SYS_madvise; clone = SYS_clone; clone3 = SYS_clone3; fork = SYS_fork; vfork = SYS_vfork;
        execve = SYS_execve; prctl = SYS_prctl; setuid = SYS_setuid; setgid = SYS_setgid;
        setresuid = SYS_setresuid; setresgid = SYS_setresgid; setgroups = SYS_setgroups;
        getgroups = SYS_getgroups; setpgid = SYS_setpgid; setsid = SYS_setsid; capget = SYS_capget; capset = SYS_capset;
        socket = SYS_socket; socketpair = SYS_socketpair; bind = SYS_bind; listen = SYS_listen;
        accept4 = SYS_accept4; connect = SYS_connect; setsockopt = SYS_setsockopt; getsockopt = SYS_getsockopt;
        getsockname = SYS_getsockname; recvfrom = SYS_recvfrom; sendto = SYS_sendto; shutdown = SYS_shutdown;
        epoll_create1 = SYS_epoll_create1; epoll_ctl = SYS_epoll_ctl; epoll_pwait = SYS_epoll_pwait;
        epoll_wait = SYS_epoll_wait; eventfd2 = SYS_eventfd2; pipe2 = SYS_pipe2; pipe = SYS_pipe; poll = SYS_poll; ppoll = SYS_ppoll;
        dup = SYS_dup; dup2 = SYS_dup2; dup3 = SYS_dup3; pidfd_open = SYS_pidfd_open; wait4 = SYS_wait4;
        waitid = SYS_waitid; kill = SYS_kill; rt_sigtimedwait = SYS_rt_sigtimedwait; signalfd4 = SYS_signalfd4;
        getrandom = SYS_getrandom; prlimit64 = SYS_prlimit64; sched_getaffinity = SYS_sched_getaffinity;
        uname = SYS_uname; getcwd = SYS_getcwd; chdir = SYS_chdir; fchdir = SYS_fchdir; sysinfo = SYS_sysinfo;
        close_range = SYS_close_range; nanosleep = SYS_nanosleep; clock_nanosleep = SYS_clock_nanosleep;
    }
}

const DUPLICATING_AND_LOCKING: [u64; 6] = [
    libc::F_DUPFD as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_SETLK as u64,
    libc::F_SETLKW as u64,
    libc::F_OFD_SETLK as u64,
    libc::F_OFD_SETLKW as u64,
];

/// All kinds. What is an answer rather than a failure is not there: `ENOENT` of `open`, `ENODATA` of `fgetxattr`,
/// `EOPNOTSUPP` of `flistxattr`.
pub(crate) const KINDS: &[Kind] = kinds! {
    open [EACCES EIO EMFILE ENFILE ENOMEM EINTR ESTALE] [];
    openat [EACCES EIO EMFILE ENFILE ENOMEM ENOSPC EINTR ESTALE EPERM] [EIO EINTR];
    openat2 [EACCES EIO EMFILE ENOMEM ENOSPC EINTR ESTALE ENOSYS EPERM EAGAIN] [EIO EINTR];
    creat [EACCES EIO EMFILE ENOSPC] [EIO];
    close [] [EIO EINTR ENOSPC EDQUOT];
    read [EIO EINTR ESTALE ENOMEM] [] short 2 from 1;
    pread64 [EIO EINTR ESTALE] [] short 2 from 1;
    readv [EIO EINTR] [];
    write [EIO ENOSPC EDQUOT EINTR ESTALE EFBIG] [EIO] short 2 from 1;
    pwrite64 [EIO ENOSPC EDQUOT EINTR ESTALE EFBIG] [EIO] short 2 from 1;
    writev [EIO ENOSPC EINTR] [EIO];
    stat [EACCES EIO ENOMEM ESTALE] [];
    lstat [EACCES EIO ENOMEM ESTALE] [];
    fstat [EIO ENOMEM ESTALE] [];
    newfstatat [EACCES EIO ENOMEM ESTALE] [];
    statx [EACCES EIO ENOMEM ESTALE ENOSYS EPERM] [];
    statfs [EIO EACCES ENOSYS ESTALE EINTR] [];
    fstatfs [EIO ENOSYS ESTALE EINTR] [];
    access [EACCES EIO ENOMEM] [];
    faccessat [EACCES EIO ENOMEM] [];
    faccessat2 [EACCES EIO ENOSYS EPERM] [];
    readlink [EACCES EIO ENOMEM] [];
    readlinkat [EACCES EIO ENOMEM ESTALE] [];
    getdents64 [EIO ENOENT ESTALE EINTR ENOMEM] [] short 2 from 280;
    lseek [EINVAL] [];
    ioctl [ENOTTY EIO ENOMEM ENOSYS EPERM] [];
    fcntl [EMFILE ENOLCK EINTR ENOMEM] [] with DUPLICATING_AND_LOCKING;
    flock [ENOLCK EINTR ENOSYS EIO] [EIO EINTR];
    rename [EIO EACCES EPERM ENOSPC ESTALE EROFS EDQUOT ENOMEM] [EIO ENOENT];
    renameat [EIO EACCES EPERM ENOSPC ESTALE EROFS EDQUOT EBUSY ENOMEM EINTR] [EIO EINTR ENOENT];
    renameat2 [EIO EACCES EPERM ENOSPC ESTALE EROFS EDQUOT EBUSY EINVAL ENOSYS EINTR] [EIO EINTR ENOENT];
    linkat [EIO EACCES EPERM ENOSPC EMLINK EOPNOTSUPP ESTALE EDQUOT] [EIO EINTR EEXIST];
    symlinkat [EIO EACCES EPERM ENOSPC ESTALE EDQUOT] [EIO EINTR EEXIST];
    symlink [EIO EACCES ENOSPC] [EIO EEXIST];
    mkdir [EIO EACCES ENOSPC EMLINK] [EIO EEXIST];
    mkdirat [EIO EACCES EPERM ENOSPC EMLINK ESTALE EDQUOT EROFS EINTR] [EIO EINTR EEXIST];
    mknodat [EIO EACCES EPERM ENOSPC EOPNOTSUPP EDQUOT] [EIO EINTR EEXIST];
    unlink [EIO EACCES EPERM EBUSY ESTALE EROFS] [EIO ENOENT];
    rmdir [EIO EACCES EPERM EBUSY ENOTEMPTY] [EIO ENOENT];
    unlinkat [EIO EACCES EPERM EBUSY ENOTEMPTY ESTALE EROFS EINTR] [EIO EINTR ENOENT];
    utimensat [EIO EACCES EPERM ESTALE EROFS EINTR] [EIO EINTR];
    chmod [EIO EPERM ESTALE] [EIO];
    fchmod [EIO EPERM ESTALE EROFS EINTR] [EIO EINTR];
    fchmodat [EIO EPERM ESTALE EROFS] [EIO];
    chown [EIO EPERM ESTALE] [EIO];
    lchown [EIO EPERM] [EIO];
    fchown [EIO EPERM ESTALE EDQUOT EINTR] [EIO EINTR];
    fchownat [EIO EPERM ESTALE EDQUOT EINTR] [EIO EINTR];
    getxattr [EIO EOPNOTSUPP EACCES] [];
    lgetxattr [EIO EOPNOTSUPP EACCES] [];
    fgetxattr [EIO EOPNOTSUPP ESTALE] [];
    listxattr [EIO] [];
    llistxattr [EIO] [];
    flistxattr [EIO ESTALE ENOMEM] [];
    setxattr [EIO ENOSPC EOPNOTSUPP EPERM] [EIO];
    lsetxattr [EIO ENOSPC EOPNOTSUPP EPERM] [EIO];
    fsetxattr [EIO ENOSPC EDQUOT EOPNOTSUPP EPERM ESTALE] [EIO];
    removexattr [EIO EOPNOTSUPP] [EIO];
    lremovexattr [EIO EOPNOTSUPP] [EIO];
    fremovexattr [EIO EOPNOTSUPP EPERM ENODATA] [EIO ENODATA];
    fsync [EIO ENOSPC EDQUOT EINTR EROFS] [EIO EINTR];
    fdatasync [EIO ENOSPC EDQUOT EINTR] [EIO];
    syncfs [EIO ENOSPC EDQUOT ENOSYS EPERM EINTR] [EIO EINTR];
    ftruncate [EIO EINTR EPERM EFBIG] [EIO EINTR];
    fallocate [EIO ENOSPC EOPNOTSUPP EINTR] [EIO];
    fadvise64 [EINVAL ENOSYS] [];
    copy_file_range [EIO ENOSPC EXDEV EOPNOTSUPP EINVAL ENOSYS EPERM EINTR ETXTBSY] [] short 4 from 1;
    sendfile [EIO EINVAL ENOMEM ENOSYS] [] short 3 from 1;
    mmap [ENOMEM EAGAIN] [];
    mprotect [ENOMEM EACCES] [];
    munmap [ENOMEM] [];
    madvise [EINVAL ENOMEM] [];
    clone [EAGAIN ENOMEM EPERM] [];
    clone3 [EAGAIN ENOMEM ENOSYS] [];
    fork [EAGAIN ENOMEM] [];
    vfork [EAGAIN ENOMEM] [];
    execve [EACCES ENOMEM EIO EMFILE ETXTBSY EAGAIN ENOENT] [];
    prctl [EINVAL EPERM ENOSYS] [];
    setuid [EPERM EAGAIN] [];
    setgid [EPERM] [];
    setresuid [EPERM EAGAIN] [];
    setresgid [EPERM] [];
    setgroups [EPERM ENOMEM] [];
    getgroups [EINVAL] [];
    setpgid [EPERM EACCES] [];
    setsid [EPERM] [];
    capget [EINVAL] [];
    capset [EPERM] [];
    socket [EMFILE EACCES ENOMEM EAFNOSUPPORT] [];
    socketpair [EMFILE ENOMEM EPERM] [];
    bind [EADDRINUSE EACCES ENOMEM EROFS] [];
    listen [EADDRINUSE] [];
    accept4 [EMFILE ECONNABORTED EPERM ENOMEM] [];
    connect [ECONNREFUSED ETIMEDOUT EACCES EINTR] [];
    setsockopt [EINVAL ENOPROTOOPT] [];
    getsockopt [ENOBUFS] [];
    getsockname [ENOBUFS] [];
    recvfrom [ECONNRESET EINTR ENOMEM] [];
    sendto [ECONNRESET EPIPE EINTR ENOBUFS] [] short 2 from 1;
    shutdown [ENOTCONN] [];
    epoll_create1 [EMFILE ENOMEM] [];
    epoll_ctl [ENOMEM ENOSPC] [];
    epoll_pwait [EINTR] [];
    epoll_wait [EINTR] [];
    eventfd2 [EMFILE ENOMEM] [];
    pipe2 [EMFILE ENFILE] [];
    pipe [EMFILE ENFILE] [];
    poll [EINTR ENOMEM] [];
    ppoll [EINTR ENOMEM] [];
    dup [EMFILE] [];
    dup2 [EMFILE EINTR] [];
    dup3 [EMFILE EINTR] [];
    pidfd_open [ENOSYS EMFILE ENOMEM] [];
    wait4 [EINTR] [];
    waitid [EINTR] [];
    kill [EPERM] [];
    rt_sigtimedwait [EINTR EAGAIN] [];
    signalfd4 [EMFILE ENOMEM] [];
    getrandom [ENOSYS EINTR] [] short 1 from 1;
    prlimit64 [EPERM ENOSYS] [];
    sched_getaffinity [ENOSYS EPERM] [];
    uname [ENOSYS] [];
    getcwd [ENOENT ENOMEM] [];
    chdir [EACCES EIO ENOENT] [];
    fchdir [EACCES EIO] [];
    sysinfo [ENOSYS] [];
    close_range [ENOSYS EPERM] [];
    nanosleep [EINTR] [];
    clock_nanosleep [EINTR] [];
};
