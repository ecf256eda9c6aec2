"""Whole trees: reads one into memory and says how two differ.

Owns what "identical" means in every bench and slow check. Knows nothing of volseed but the name of its state
directory. A tree read once can be compared with many, which is what makes hundreds of full compares cheap.
"""

import hashlib
import os
import stat
from typing import Iterator, NamedTuple

# What the volume has in its root that no source has.
NOT_OF_THE_SEED = (b".volseed", b"lost+found")

# Names, types and symlink targets are always compared; these can be left out. "sparse" is asked for by name: a
# file system may allocate as it likes.
ASPECTS = ("bytes", "mode", "owner", "times", "links", "xattrs")

CHUNK = 1 << 20


class Entry(NamedTuple):
    kind: str
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    holes: bool
    target: bytes
    digest: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    # The first name of the same inode in this tree: equal where the same names are one file.
    first_name: bytes


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

Tree = dict[bytes, Entry]


def scan(root: str | bytes, *, contents: bool = True, xattrs: bool = True) -> Tree:
    """Reads the tree below root, the root itself as `.`."""
    root = os.fsencode(root)
    tree: Tree = {}
    inodes: dict[tuple[int, int], bytes] = {}
    folders = [b""]
    tree[b"."] = entry(root, os.lstat(root), b".", inodes, contents, xattrs)
    while folders:
        folder = folders.pop()
        names = sorted(os.listdir(os.path.join(root, folder)))
        for name in names:
            if not folder and name in NOT_OF_THE_SEED:
                continue
            relative = os.path.join(folder, name)
            path = os.path.join(root, relative)
            status = os.lstat(path)
            tree[relative] = entry(path, status, relative, inodes, contents, xattrs)
            if stat.S_ISDIR(status.st_mode):
                folders.append(relative)
    return with_first_names(tree, inodes)


def entry(path: bytes, status: os.stat_result, relative: bytes, inodes: dict, contents: bool, xattrs: bool) -> Entry:
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    first_name = b""
    if kind != "directory" and status.st_nlink > 1:
        key = (status.st_dev, status.st_ino)
        inodes[key] = min(relative, inodes.get(key, relative))
        # Replaced by the name once every name is known.
        first_name = repr(key).encode()
    is_file = kind == "file"
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if is_file else 0,
        holes=is_file and status.st_blocks * 512 + 4096 <= status.st_size,
        target=os.readlink(path) if kind == "symlink" else b"",
        digest=digest(path) if is_file and contents else b"",
        xattrs=kept_xattrs(path) if xattrs else (),
        first_name=first_name,
    )


def with_first_names(tree: Tree, inodes: dict) -> Tree:
    names = {repr(key).encode(): name for key, name in inodes.items()}
    for path, found in tree.items():
        if found.first_name:
            tree[path] = found._replace(first_name=names[found.first_name])
    return tree


def digest(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:
        hash = hashlib.sha256()
        while chunk := file.read(CHUNK):
            hash.update(chunk)
            if len(chunk) < CHUNK:
                break
        return hash.digest()


def kept_xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ()
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(names)
        if name.startswith("user.") or name == "security.capability"
    )


def differences(left: Tree, right: Tree, aspects: tuple[str, ...] = ASPECTS) -> Iterator[str]:
    """Says in one line each how right differs from left."""
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path), right.get(path)
        if one is None or other is None:
            yield f"{'only in the second' if one is None else 'missing in the second'}: {shown(path)}"
        elif one != other:
            for aspect, a, b in unequal(path, one, other, aspects):
                yield f"{aspect} of {shown(path)}: {a} and {b}"


def unequal(path: bytes, one: Entry, other: Entry, aspects: tuple[str, ...]) -> Iterator[tuple[str, object, object]]:
    if one.kind != other.kind:
        yield "type", one.kind, other.kind
        return
    if one.target != other.target:
        yield "target", shown(one.target), shown(other.target)
    if "bytes" in aspects:
        if one.size != other.size:
            yield "size", one.size, other.size
        elif one.digest and other.digest and one.digest != other.digest:
            yield "bytes", one.digest.hex()[:12], other.digest.hex()[:12]
    if "mode" in aspects and one.mode != other.mode:
        yield "mode", f"{one.mode:04o}", f"{other.mode:04o}"
    if "owner" in aspects and one.owner != other.owner:
        yield "owner", "%d:%d" % one.owner, "%d:%d" % other.owner
    # The state directory changes the time of the root it stands in.
    if "times" in aspects and one.mtime_ns != other.mtime_ns and path != b".":
        yield "time", one.mtime_ns, other.mtime_ns
    if "links" in aspects and one.first_name != other.first_name:
        yield "hard link", shown(one.first_name or b"(alone)"), shown(other.first_name or b"(alone)")
    if "xattrs" in aspects and one.xattrs != other.xattrs:
        yield "xattrs", short(one.xattrs), short(other.xattrs)
    if "sparse" in aspects and one.holes != other.holes:
        yield "holes", one.holes, other.holes


def lost(left: Tree, right: Tree) -> dict[str, str]:
    """The aspects that right did not keep, each with what of it is lost, in words."""
    found = {}
    for aspect in ASPECTS:
        changed = [path for path in left.keys() & right.keys() if any(unequal(path, left[path], right[path], (aspect,)))]
        if not changed:
            continue
        kinds = {left[path].kind for path in changed}
        if aspect == "times" and all(left[path].mtime_ns // 10**9 == right[path].mtime_ns // 10**9 for path in changed):
            found[aspect] = "nanoseconds"
        elif "file" not in kinds:
            found[aspect] = f"{aspect} of directories" if "directory" in kinds else f"{aspect} of links"
        else:
            found[aspect] = "hard links" if aspect == "links" else aspect
    return found


def shown(path: bytes) -> str:
    """A name as one printable word, whatever bytes are in it."""
    return "'" + path.decode("utf-8", "backslashreplace").encode("unicode_escape").decode() + "'"


def short(xattrs: tuple[tuple[str, bytes], ...]) -> str:
    return ", ".join(f"{name}={value[:24].hex()}" for name, value in xattrs) or "none"
