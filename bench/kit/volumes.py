"""Volumes to measure on: ext4, xfs and btrfs on loop devices, and tmpfs; each can be made empty again.

Nothing is left behind however the script ends: mounts stand in a mount namespace of our own, loop devices clear
themselves when their last user is gone, and their backing files have no name.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from typing import Iterator

LOOP_MAJOR = 7
LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

MNT_DETACH = 2
PR_SET_PDEATHSIG = 1

# No lazy initialisation: it would write in the background of whatever is measured first.
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-I", "256", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"],
}
PACKAGE = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}

libc = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """This machine cannot make such a volume; says what it would take."""


def enter_own_mounts() -> None:
    """Starts the script again in a mount namespace of its own, where every mount ends with it."""
    if os.environ.pop("VOLSEED_BENCH_OWN_MOUNTS", None):
        # So that a stopped script also removes its empty mount points.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return
    if os.geteuid() != 0:
        sys.exit("error: mounting a volume needs root\nhelp: run it with sudo")
    os.environ["VOLSEED_BENCH_OWN_MOUNTS"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--", sys.executable, *sys.argv])


class Volume:
    """A mounted file system at `path` that `refresh()` makes empty again."""

    def __init__(self, kind: str, megabytes: int, backing: str):
        self.kind = kind
        self.megabytes = megabytes
        self.path = tempfile.mkdtemp(prefix=f"volseed-{kind}-")
        self.loop = None
        self.mounted = False
        try:
            if kind != "tmpfs":
                check_tool(kind)
                self.loop, self.device = attach_loop(megabytes, backing)
            self.refresh()
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """An empty file system, nothing of it waiting to be written."""
        self.unmount()
        if self.kind == "tmpfs":
            mount("tmpfs", self.path, "tmpfs", f"size={self.megabytes}m,mode=755")
        else:
            subprocess.run([*MAKE[self.kind], self.device], check=True, stdout=subprocess.DEVNULL)
            mount(self.device, self.path, self.kind, "")
            os.sync()
        self.mounted = True

    def unmount(self) -> None:
        if self.mounted and libc.umount2(self.path.encode(), 0) != 0:
            raise OSError(ctypes.get_errno(), "a process that was measured is still on the volume", self.path)
        self.mounted = False

    def close(self) -> None:
        if self.mounted:
            libc.umount2(self.path.encode(), MNT_DETACH)
        if self.loop is not None:
            os.close(self.loop)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


@contextlib.contextmanager
def volume(kind: str, megabytes: int, backing: str) -> Iterator[Volume]:
    made = Volume(kind, megabytes, backing)
    try:
        yield made
    finally:
        made.close()


def check_tool(kind: str) -> None:
    if not shutil.which(MAKE[kind][0]):
        raise Missing(f"{MAKE[kind][0]} is missing: apt-get install {PACKAGE[kind]}")


def attach_loop(megabytes: int, backing: str, sparse: bool = False) -> tuple[int, str]:
    """A loop device on a nameless file in `backing`; it is gone when the returned descriptor and its mounts are."""
    if not os.path.exists("/dev/loop-control"):
        subprocess.run(["modprobe", "-q", "loop"], stderr=subprocess.DEVNULL, check=False)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR)
    except OSError as error:
        raise Missing(f"no loop devices here: {error}") from error
    file = tempfile.TemporaryFile(dir=backing)
    try:
        if sparse:
            file.truncate(megabytes << 20)
        else:
            os.posix_fallocate(file.fileno(), 0, megabytes << 20)
        for direct in (LO_FLAGS_DIRECT_IO, 0):
            for _ in range(8):
                number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
                device = f"/dev/loop{number}"
                if not os.path.exists(device):
                    # A container's /dev does not follow the kernel's.
                    os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(LOOP_MAJOR, number))
                loop = os.open(device, os.O_RDWR)
                try:
                    configure(loop, file.fileno(), LO_FLAGS_AUTOCLEAR | direct)
                    return loop, device
                except OSError as error:
                    os.close(loop)
                    # Someone else took the free one: ask for another.
                    if error.errno != errno.EBUSY:
                        break
        raise Missing("no free loop device")
    finally:
        file.close()
        os.close(control)


def configure(loop: int, file: int, flags: int) -> None:
    # struct loop_config { u32 fd, block_size; struct loop_info64 info; u64 reserved[8] }
    config = bytearray(304)
    struct.pack_into("<II", config, 0, file, 0)
    # loop_info64.lo_flags, after five u64 and three u32.
    struct.pack_into("<I", config, 8 + 5 * 8 + 3 * 4, flags)
    fcntl.ioctl(loop, LOOP_CONFIGURE, config)


def mount(source: str, target: str, kind: str, options: str) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()) != 0:
        number = ctypes.get_errno()
        raise Missing(f"mount {kind} at {target}: {os.strerror(number)}")


@contextlib.contextmanager
def bindfs(source: str, scratch: str, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Another mount of a directory, through FUSE, and the process that serves it."""
    if not shutil.which("bindfs"):
        raise Missing("bindfs is missing: apt-get install bindfs")
    path = tempfile.mkdtemp(dir=scratch, prefix="mount-")
    with open("/proc/self/mountinfo") as mounts:
        # Becomes readable, so to speak, with every change of a mount (proc(5)).
        changes = select.poll()
        changes.register(mounts, select.POLLPRI)
        process = subprocess.Popen(["bindfs", "-f", *options, source, path], preexec_fn=die_with_parent)
        try:
            deadline = time.monotonic() + 10
            while not os.path.ismount(path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Missing(f"bindfs cannot mount {source}")
                changes.poll(1000)
            yield path, process
        finally:
            libc.umount2(path.encode(), MNT_DETACH)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.rmdir(path)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """For `preexec_fn`: the process ends with the thread that started it."""
    libc.prctl(PR_SET_PDEATHSIG, number)
