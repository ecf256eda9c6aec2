"""Two images of one app, what a user does to a volume of the first, and what the volume has to be then.

Owns what docs/upgrades.md promises of each kind of file, without asking volseed.
"""

import os
import random
import shutil
import zlib
from typing import NamedTuple

from kit import tree

Tree = tree.Tree
OWNER, USER = (33, 33), (1000, 1000)
DIRECTORIES, FILES = 8, 17
CHANGED, OTHER_MODES, REMOVED, ADDED = 58, 2, 8, 8
# Changed files that keep their size and time, as in images that are built with SOURCE_DATE_EPOCH.
OF_SAME_SIZE = 3
MADE, REMADE, EDITED = 1_400_000_000, 1_500_000_000, 1_650_000_000
SENTINEL = "version.php"


class Images(NamedTuple):
    old: str
    new: str
    # Paths by what the second image does to them.
    same: list[str]
    changed: list[str]
    removed: list[str]
    added: list[str]
    # Changed in content or mode, but of the same size and second.
    alike: list[str]


class Edits(NamedTuple):
    # The volume before its upgrade, and after it but for the times of directories.
    old: Tree
    new: Tree
    # All that the user wrote.
    texts: dict[str, bytes]
    # Of it what the second image replaces; and of the second image what is left out.
    saved: dict[str, bytes]
    offered: dict[str, bytes]


def checksum(path: bytes) -> bytes:
    """As account.py's."""
    with open(path, "rb", buffering=0) as file:
        return zlib.crc32(file.read()).to_bytes(4, "little")


tree.digest = checksum


def scan(root: str) -> Tree:
    return tree.scan(root, xattrs=False)


def without_directory_times(one: Tree) -> Tree:
    return {path: entry._replace(mtime_ns=0) if entry.kind == "directory" else entry for path, entry in one.items()}


def write(path: str, text: bytes, when: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(text)
    os.utime(path, (when, when))


def make_images(folder: str, draw: random.Random) -> Images:
    old, new = f"{folder}/old", f"{folder}/new"
    paths = [f"d{directory}/sub/f{number}" for directory in range(DIRECTORIES) for number in range(FILES)]
    gone = ["gone/a", "gone/sub/b"]
    for path in [*paths, *gone, SENTINEL]:
        write(f"{old}/{path}", draw.randbytes(draw.randint(1, 9000)), MADE)
    os.link(f"{old}/{paths[0]}", f"{old}/hard")
    os.symlink("old", f"{old}/link")
    shutil.copytree(old, new, symlinks=True)
    os.remove(f"{new}/hard")
    os.link(f"{new}/{paths[0]}", f"{new}/hard")
    shutil.rmtree(f"{new}/gone")
    os.remove(f"{new}/link")
    os.symlink("new", f"{new}/link")
    for image, when in ((old, MADE), (new, REMADE)):
        os.utime(f"{image}/link", (when, when), follow_symlinks=False)
    # A file with two names stays as it is, and is not edited.
    one_name = paths[1:]
    draw.shuffle(one_name)
    changed, removed, same = (one_name[start:end] for start, end in ((0, CHANGED), (CHANGED, CHANGED + REMOVED), (CHANGED + REMOVED, None)))
    for number, path in enumerate([*changed, SENTINEL]):
        before = os.stat(f"{new}/{path}").st_size
        alike = number < OF_SAME_SIZE
        text = draw.randbytes(before if alike else before % 9000 + 1)
        write(f"{new}/{path}", text, MADE if alike else REMADE)
    for path in same[-OTHER_MODES:]:
        os.chmod(f"{new}/{path}", 0o700)
    for path in removed:
        os.remove(f"{new}/{path}")
    added = [*(f"d{number}/sub/added" for number in range(ADDED)), "fresh/deep/er/file"]
    for path in added:
        write(f"{new}/{path}", draw.randbytes(400), REMADE)
    return Images(old, new, same[:-OTHER_MODES], changed, [*gone, *removed], added, [*changed[:OF_SAME_SIZE], *same[-OTHER_MODES:]])


class User:
    """Edits the volume, and keeps what follows."""

    def __init__(self, images: Images, volume: str):
        self.images, self.volume = images, volume
        self.texts: dict[str, bytes] = {}
        self.saved: dict[str, bytes] = {}
        self.offered: dict[str, bytes] = {}
        self.stays: list[str] = []
        self.deleted: list[str] = []

    def write(self, path: str, stays: bool) -> None:
        text = f"the user's {path}\n".encode()
        is_new = not os.path.lexists(f"{self.volume}/{path}")
        write(f"{self.volume}/{path}", text, EDITED)
        if is_new:
            os.chown(f"{self.volume}/{path}", *USER)
        self.texts[path] = text
        if stays:
            self.stays.append(path)
        else:
            self.saved[path] = text

    def delete(self, path: str) -> None:
        os.remove(f"{self.volume}/{path}")
        self.deleted.append(path)

    def offer(self, path: str) -> None:
        with open(f"{self.images.new}/{path}", "rb") as file:
            self.offered[path] = file.read()

    def new_tree(self, before: Tree) -> Tree:
        """The second image as the owner's, and over it what stays."""
        new = {path: entry._replace(owner=OWNER) for path, entry in scan(self.images.new).items()}
        for path in (path.encode() for path in self.images.alike if path not in self.texts):
            new[path] = new[path]._replace(mtime_ns=new[path].mtime_ns + 10**9)
        for path in self.deleted:
            new.pop(path.encode(), None)
        for path in map(str.encode, self.stays):
            new[path] = before[path]
            # A directory of the first image stays for what is in it, and one that the user made as it is.
            while path := os.path.dirname(path):
                if path not in new or not os.path.exists(os.path.join(self.images.old.encode(), path)):
                    new[path] = before[path]
        return without_directory_times({**new, b".": before[b"."]})


def edit(images: Images, volume: str, draw: random.Random) -> Edits:
    """Edits of every kind, a few of each."""
    user = User(images, volume)
    same, changed, removed, added = (draw.sample(paths, len(paths)) for paths in (images.same, images.changed, images.removed, images.added))
    for path in [*same[: draw.randint(1, 3)], *removed[: draw.randint(0, 2)]]:
        user.write(path, stays=True)
    for path in changed[: draw.randint(1, 4)]:
        user.write(path, stays=False)
    for path in added[: draw.randint(0, 2)]:
        user.write(path, stays=True)
        user.offer(path)
    for path in changed[4 : 4 + draw.randint(0, 2)]:
        user.delete(path)
        user.offer(path)
    for path in [*same[3 : 3 + draw.randint(0, 2)], *removed[2 : 2 + draw.randint(0, 1)]]:
        user.delete(path)
    for number in range(draw.randint(1, 3)):
        user.write(f"{draw.choice(['d0', 'd1/sub', 'gone', 'gone/sub', 'uploads'])}/mine-{number}", stays=True)
    old = scan(volume)
    return Edits(old, user.new_tree(old), user.texts, user.saved, user.offered)
