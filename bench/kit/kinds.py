"""The kinds of volume that bench/volumes measures, and how each is made.

Every kind is mounted for as long as its context lasts. Those of the NFS lab's guest expect the servers that
bench/nfs/scenarios/volumes starts there.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from typing import Callable, ContextManager, Iterator, NamedTuple

from kit import setting, volumes

# Sparse; with room for a file of more than 4 GiB.
MEGABYTES = 6144
EXPORTS = "/export"


class Place(NamedTuple):
    """Where a volume is mounted, and where what is on it can be read and made: on the server, if need be."""

    path: str
    look: str
    # Mounts it again, so that it says what it has and not what it was told.
    remount: Callable[[], None] = lambda: None


class Kind(NamedTuple):
    name: str
    title: str
    mount: Callable[[str], ContextManager[Place]]
    # In front of volseed: as another user.
    caller: tuple[str, ...] = ()
    # Features that are not measured: the file system would write out 4 GiB of nothing.
    without: tuple[bytes, ...] = ()
    # The exit code where nothing can be seeded.
    refuses: int = 0
    # It may end by itself: each feature is tried alone, more than once, and on a new one after a refusal.
    fragile: bool = False


AS_USER = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--")


@contextlib.contextmanager
def directory(scratch: str) -> Iterator[str]:
    path = tempfile.mkdtemp(dir=scratch, prefix="mount-")
    try:
        yield path
    finally:
        volumes.libc.umount2(path.encode(), volumes.MNT_DETACH)
        with contextlib.suppress(OSError):
            os.rmdir(path)


def run(*argv: str) -> None:
    """Makes something; where that fails, this machine has no such volume."""
    if not shutil.which(argv[0]):
        raise volumes.Missing(f"{argv[0]} is not installed")
    made = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made.returncode:
        said = made.stdout.strip().splitlines()
        raise volumes.Missing(f"{' '.join(argv)}: {said[-1] if said else made.returncode}")


@contextlib.contextmanager
def device(scratch: str, *make: str) -> Iterator[str]:
    loop, path = volumes.attach_loop(MEGABYTES, scratch, sparse=True)
    try:
        run(*make, path)
        yield path
    finally:
        os.close(loop)


def block(kind: str, make: str, options: str = "", then: Callable[[str], str] = lambda path: path) -> Callable[[str], ContextManager[Place]]:
    """A file system of the kernel's on a loop device."""

    @contextlib.contextmanager
    def mounted(scratch: str) -> Iterator[Place]:
        with device(scratch, *make.split()) as path, directory(scratch) as at:
            volumes.mount(path, at, kind, options)
            root = then(at)

            def again() -> None:
                run("umount", at)
                volumes.mount(path, at, kind, options)

            yield Place(root, root, again)

    return mounted


def by_command(make: str, command: str) -> Callable[[str], ContextManager[Place]]:
    """A file system in user space on a loop device."""

    @contextlib.contextmanager
    def mounted(scratch: str) -> Iterator[Place]:
        with device(scratch, *make.split()) as path, directory(scratch) as at:
            run(*command.split(), path, at)

            def again() -> None:
                run("umount", at)
                run(*command.split(), path, at)

            yield Place(at, at, again)

    return mounted


@contextlib.contextmanager
def tmpfs(scratch: str) -> Iterator[Place]:
    with directory(scratch) as at:
        volumes.mount("tmpfs", at, "tmpfs", f"size={MEGABYTES}m,mode=755")
        yield Place(at, at)


@contextlib.contextmanager
def overlay(scratch: str) -> Iterator[Place]:
    with block("ext4", EXT4)(scratch) as upper, directory(scratch) as at:
        below = {name: os.path.join(upper.path, name) for name in ("lowerdir", "upperdir", "workdir")}
        for path in below.values():
            os.mkdir(path)
        volumes.mount("overlay", at, "overlay", ",".join(f"{name}={path}" for name, path in below.items()))
        yield Place(at, at)


def quirky(*quirks: str) -> Callable[[str], ContextManager[Place]]:
    """slowfs, in memory, with what another file system cannot do."""

    @contextlib.contextmanager
    def mounted(scratch: str) -> Iterator[Place]:
        with directory(scratch) as at:
            argv = [slowfs_binary(), "--rtt", "0ms", *(word for quirk in quirks for word in ("--quirk", quirk)), at]
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, preexec_fn=volumes.die_with_parent)
            try:
                if process.stdout.readline() != "ready\n":
                    raise volumes.Missing("slowfs cannot be mounted")
                yield Place(at, at)
            finally:
                process.terminate()
                process.communicate()

    return mounted


def slowfs_binary() -> str:
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(setting.REPOSITORY, "target"))
    named = os.environ.get("SLOWFS_BIN")
    for path in [named] if named else [os.path.join(target, profile, "slowfs") for profile in ("release", "debug")]:
        if os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise volumes.Missing("no slowfs: cargo build --release -p slowfs, or set SLOWFS_BIN")


def served(export: str, command: str, on_server: bool) -> Callable[[str], ContextManager[Place]]:
    """A mount from the guest's own servers."""

    @contextlib.contextmanager
    def mounted(scratch: str) -> Iterator[Place]:
        share = os.path.join(EXPORTS, export)
        with directory(scratch) as at:
            run("mount", *command.split(), at)
            yield Place(at, share if on_server else at)

    return mounted


EXT4 = "mkfs.ext4 -q -F -I 256 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1"
NTFS = "mkntfs --quick --quiet --force"


def casefold(path: str) -> str:
    # Only an empty directory can be told to ignore case; what is made in it ignores it too.
    folded = os.path.join(path, "folded")
    os.mkdir(folded)
    run("chattr", "+F", folded)
    return folded


def of_user(path: str) -> str:
    os.chown(path, 1000, 1000)
    return path


LOCAL = (
    Kind("ext4", "ext4", block("ext4", EXT4)),
    Kind("xfs", "XFS", block("xfs", "mkfs.xfs -q -f -K")),
    Kind("btrfs", "Btrfs", block("btrfs", "mkfs.btrfs -q -f -K")),
    Kind("tmpfs", "tmpfs", tmpfs),
    Kind("overlay", "overlay", overlay),
    Kind("rootless", "ext4, rootless container", block("ext4", EXT4), ("unshare", "--user", "--map-root-user", "--")),
    Kind("user", "ext4, as UID 1000", block("ext4", EXT4, then=of_user), AS_USER),
    Kind("ntfs-3g", "ntfs-3g", by_command(NTFS, "ntfs-3g")),
    Kind("ntfs-3g-permissions", "ntfs-3g, `permissions`", by_command(NTFS, "ntfs-3g -o permissions")),
    Kind("exfat-fuse", "exfat-fuse", by_command("mkfs.exfat", "mount.exfat-fuse"), without=(b"large",), fragile=True),
    Kind(
        "fuse-smb",
        "slowfs as a Windows share: no links, names of Windows, `uid=`",
        quirky(
            *("symlinks=ENOTSUP", "hard-links=ENOTSUP", "special-files=EPERM", "modes=ignored", "owners=ignored", "xattrs=ENOTSUP"),
            *("ignores-case", r'forbidden=\:?*"<>|', "not-utf8=EINVAL"),
        ),
        without=(b"large",),
    ),
    Kind(
        "fuse-refuses",
        "slowfs that refuses what it can",
        quirky(*(f"{name}=EPERM" for name in ("symlinks", "hard-links", "special-files", "modes", "owners", "times", "xattrs"))),
        without=(b"large",),
    ),
    Kind(
        "fuse-unsupported",
        "the same with ENOSYS, like many FUSE programs",
        quirky(*(f"{name}=ENOSYS" for name in ("symlinks", "hard-links", "special-files", "modes", "owners", "times"))),
        without=(b"large",),
    ),
    Kind("fuse-ecryptfs", "slowfs with names of 143 bytes, as eCryptfs", quirky("max-name=143", "xattrs=kept"), without=(b"large",)),
    Kind("fuse-links", "slowfs with 2 links a file, none to links", quirky("max-links=2", "links-to-symlinks=EIO", "xattrs=kept"), without=(b"large",)),
)

# A client that makes up inode numbers shows two names of one file as two files.
LINKS = (b"hard-links", b"linked-symlinks")
CIFS = "-t cifs -o username=root,password=volseed,vers=3.1.1"
NFS = ("3", "4.0", "4.1", "4.2")

GUEST = (
    Kind("ext4-casefold", "ext4, casefold", block("ext4", f"{EXT4},encoding=utf8 -O casefold", then=casefold)),
    Kind("vfat", "vfat", block("vfat", "mkfs.vfat -F 32"), without=()),
    Kind("exfat", "exfat", block("exfat", "mkfs.exfat"), without=(b"large",)),
    Kind("ntfs3", "ntfs3", block("ntfs3", NTFS), without=(b"large",)),
    Kind("cifs", "CIFS, Samba", served("share", f"{CIFS} //127.0.0.1/share", False), without=LINKS),
    Kind("cifs-mfsymlinks", "CIFS, `mfsymlinks`", served("share", f"{CIFS},mfsymlinks //127.0.0.1/share", False), without=LINKS),
    Kind("cifs-uid", "CIFS, `mfsymlinks,uid=33,gid=33,noperm`", served("share", f"{CIFS},mfsymlinks,uid=33,gid=33,noperm //127.0.0.1/share", False), without=LINKS),
    Kind("cifs-idsfromsid", "CIFS, `mfsymlinks,idsfromsid,modefromsid`", served("share", f"{CIFS},mfsymlinks,idsfromsid,modefromsid //127.0.0.1/share", False), without=LINKS, refuses=75),
    *(
        Kind(f"nfs{version}-{export.replace('_', '-')}{suffix}", f"NFS {version}, {export}{words}", mount, caller, refuses=refuses)
        for export, suffix, words, caller, refuses in (
            ("no_root_squash", "", "", (), 0),
            ("root_squash", "", ", as root", (), 0),
            ("root_squash", "-user", ", as the directory's UID", AS_USER, 0),
            ("all_squash", "", ", as root", (), 0),
        )
        for version in NFS
        for mount in [served(export, f"-t nfs -o vers={version},proto=tcp 127.0.0.1:{EXPORTS}/{export}", export != "no_root_squash")]
    ),
)

ALL = {kind.name: kind for kind in (*LOCAL, *GUEST)}
