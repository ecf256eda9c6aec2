"""What a volume may keep or not: a small tree of each, and how a copy of it is judged.

Each feature has a directory of its own in the seed's root, named after it, so that a path in a message tells which one
it is about. Knows nothing of file systems, nor how a seed is made.
"""

import contextlib
import os
import struct
import subprocess
from typing import Callable, NamedTuple

from kit import tree

SECOND = 10**9
# The day before 1970 that 32 bits reach, and one that they do not.
YEAR_1901, YEAR_2040 = -(1 << 31) + 10**6, 2_216_246_400
LARGE = (4 << 30) + 1
# permitted and effective: cap_net_bind_service; see capabilities(7) for the format.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

KEPT, COPIED, LOST, REFUSED = "kept", "copied", "lost", "refused"


class Feature(NamedTuple):
    # Its directory.
    key: bytes
    # Its column.
    title: str
    make: Callable[[bytes], None]
    # What the warning calls it where it is lost; empty where nothing but reading it again would tell.
    word: str = ""
    # Says of two trees below the directory what the second has of the first.
    judge: Callable[[tree.Tree, tree.Tree], str] | None = None


def file(folder: bytes, name: bytes, content: bytes = b"content\n", mode: int = 0o644) -> bytes:
    path = os.path.join(folder, name)
    with open(path, "wb") as made:
        made.write(content)
    os.chmod(path, mode)
    return path


def plain(folder: bytes) -> None:
    file(folder, b"file")
    file(folder, b"empty", b"")
    os.makedirs(os.path.join(folder, b"one/two"))
    file(folder, b"one/two/large", bytes(range(256)) * (3 << 12))


def modes(folder: bytes) -> None:
    for mode in (0o755, 0o600, 0o444, 0o4755, 0o2755, 0o666):
        file(folder, b"%04o" % mode, mode=mode)
    for mode in (0o1777, 0o700, 0o555):
        made = os.path.join(folder, b"directory-%04o" % mode)
        os.mkdir(made)
        file(made, b"file")
        os.chmod(made, mode)


def owners(folder: bytes) -> None:
    for number in (0, 33, 1000):
        os.chown(file(folder, b"file-%d" % number), number, number)
        made = os.path.join(folder, b"directory-%d" % number)
        os.mkdir(made)
        os.chown(made, number, number)


def times(folder: bytes) -> None:
    moments = {b"now": 1_700_000_001 * SECOND + 123_456_789, b"1901": YEAR_1901 * SECOND, b"1970": SECOND, b"2040": YEAR_2040 * SECOND}
    for name, moment in moments.items():
        os.utime(file(folder, name), ns=(moment, moment))
    os.mkdir(os.path.join(folder, b"directory"))
    os.utime(os.path.join(folder, b"directory"), ns=(moments[b"now"],) * 2)


def hard_links(folder: bytes) -> None:
    first = file(folder, b"a")
    os.mkdir(os.path.join(folder, b"sub"))
    for name in (b"b", b"sub/c"):
        os.link(first, os.path.join(folder, name))


def symlinks(folder: bytes) -> None:
    targets = {b"near": b"file", b"dangling": b"../no/such", b"absolute": b"/etc/hosts", b"long": b"d/" * 300 + b"file"}
    file(folder, b"file")
    for name, target in targets.items():
        os.symlink(target, os.path.join(folder, name))


def linked_symlinks(folder: bytes) -> None:
    os.symlink(b"target", os.path.join(folder, b"s"))
    os.link(os.path.join(folder, b"s"), os.path.join(folder, b"t"), follow_symlinks=False)


def fifo(folder: bytes) -> None:
    os.mkfifo(os.path.join(folder, b"fifo"), 0o644)


def xattrs(folder: bytes) -> None:
    os.setxattr(file(folder, b"file"), "user.color", b"blue\0\xff")
    os.mkdir(os.path.join(folder, b"directory"))
    os.setxattr(os.path.join(folder, b"directory"), "user.size", b"1" * 200)


def capability(folder: bytes) -> None:
    os.setxattr(file(folder, b"program", mode=0o755), "security.capability", CAPABILITY)


def holes(folder: bytes) -> None:
    with open(os.path.join(folder, b"file"), "wb") as made:
        made.seek(8 << 20)
        made.write(b"after the hole" * 1000)


def large(folder: bytes) -> None:
    with open(os.path.join(folder, b"file"), "wb") as made:
        made.seek(LARGE - 1)
        made.write(b"!")


def long_name(folder: bytes) -> None:
    file(folder, b"n" * 255)


def characters(folder: bytes) -> None:
    for name in (b"a:b", b"what?", b"line\nfeed", b'"quoted"'):
        file(folder, name)


def backslash(folder: bytes) -> None:
    file(folder, b"back\\slash")


def final_dot(folder: bytes) -> None:
    file(folder, b"etc.")
    file(folder, b"blank ")


def not_utf8(folder: bytes) -> None:
    file(folder, b"caf\xe9")


def case(folder: bytes) -> None:
    file(folder, b"README", b"one\n")
    file(folder, b"readme", b"another\n")
    for name, inside in ((b"Lib", b"x"), (b"lib", b"y")):
        os.mkdir(os.path.join(folder, name))
        file(os.path.join(folder, name), inside)


def judge_links(source: tree.Tree, found: tree.Tree) -> str:
    if source.keys() != found.keys() or any(tree.differences(source, found, ("bytes",))):
        return LOST
    return COPIED if any(tree.differences(source, found, ("links",))) else KEPT


def judge_holes(source: tree.Tree, found: tree.Tree) -> str:
    if any(tree.differences(source, found, ("bytes",))):
        return LOST
    return "filled" if any(tree.differences(source, found, ("sparse",))) else KEPT


def judge_times(source: tree.Tree, found: tree.Tree) -> str:
    """To which step times are kept, and which of them are not at all."""
    if source.keys() != found.keys():
        return LOST
    pairs = {path: (source[path].mtime_ns, found[path].mtime_ns) for path in source if path != b"."}
    steps = {1: KEPT, 100: "100 ns", 1000: "1 µs", 10**7: "10 ms", SECOND: "1 s", 2 * SECOND: "2 s"}
    for step, words in steps.items():
        wrong = {path for path, (wanted, there) in pairs.items() if wanted // step * step != there}
        if not any(path.endswith((b"now", b"directory")) for path in wrong):
            without = ", ".join(sorted(os.path.basename(path).decode() for path in wrong))
            return f"{words}{', not ' * bool(without)}{without}".replace("kept, not", "not")
    return LOST


def is_loss(verdict: str) -> bool:
    """Whether the warning has to tell of it: of a time that is missing, but not of its last digits."""
    return verdict in (LOST, COPIED) or verdict.startswith("not ") or ", not " in verdict


FEATURES = (
    Feature(b"plain", "files", plain),
    Feature(b"modes", "modes", modes, "mode"),
    Feature(b"owners", "owners", owners, "owner"),
    Feature(b"times", "times", times, "time", judge_times),
    Feature(b"hard-links", "hard links", hard_links, "hard link", judge_links),
    Feature(b"linked-symlinks", "linked symlinks", linked_symlinks, "hard link", judge_links),
    Feature(b"symlinks", "symlinks", symlinks),
    Feature(b"fifo", "FIFOs", fifo, "FIFO"),
    Feature(b"xattrs", "`user.*`", xattrs, "attribute"),
    Feature(b"capability", "capability", capability, "capabilit"),
    Feature(b"holes", "holes", holes, "", judge_holes),
    Feature(b"large", "over 4 GiB", large),
    Feature(b"long-name", "255 bytes", long_name),
    Feature(b"characters", '`: ? "`, newline', characters),
    Feature(b"backslash", "`\\`", backslash),
    Feature(b"final-dot", "final dot, blank", final_dot),
    Feature(b"not-utf8", "not UTF-8", not_utf8),
    Feature(b"case", "`A` and `a`", case),
)


def source(root: str, chosen: list[Feature], reader: int) -> None:
    """A seed with these features, in a new directory, that this user can read."""
    os.mkdir(root, 0o755)
    for feature in chosen:
        folder = os.path.join(os.fsencode(root), feature.key)
        os.mkdir(folder, 0o755)
        feature.make(folder)
        if reader and feature.key == b"modes":
            give(folder, reader)


def give(folder: bytes, owner: int) -> None:
    for path in [folder, *(os.path.join(at, name) for at, folders, files in os.walk(folder) for name in folders + files)]:
        mode = os.lstat(path).st_mode & 0o7777
        os.chown(path, owner, owner)
        os.chmod(path, mode)


def archive(root: str, path: str) -> None:
    """The same as a pax archive."""
    pax = ["--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "--sort=name", "--sparse"]
    names = ["--xattrs", "--xattrs-include=*", "-C", root, "-cf", path, "."]
    subprocess.run(["tar", *pax, *names], check=True)


def scan(root: str, feature: Feature) -> tree.Tree | None:
    """What is there of a feature; nothing where its directory is missing."""
    folder = os.path.join(os.fsencode(root), feature.key)
    if not os.path.isdir(folder):
        return None
    # Reading 4 GiB of nothing takes seconds, and what is to be seen is the size and the last byte.
    found = tree.scan(folder, contents=feature.key != b"large")
    if feature.key == b"large" and b"file" in found:
        with open(os.path.join(folder, b"file"), "rb") as last:
            last.seek(-1, os.SEEK_END)
            found[b"file"] = found[b"file"]._replace(digest=last.read(1), holes=False)
    if feature.judge is judge_links:
        found = with_links(folder, found)
    if feature.key == b"capability" and b"program" in found:
        # Not every file system lists what the kernel asks for by its name.
        with contextlib.suppress(OSError):
            value = os.getxattr(os.path.join(folder, b"program"), "security.capability")
            found[b"program"] = found[b"program"]._replace(xattrs=(("security.capability", value),))
    return found


def with_links(folder: bytes, found: tree.Tree) -> tree.Tree:
    """Links by their inodes alone: what a CIFS client was told by a listing has no number of links."""
    names: dict[tuple[int, int], list[bytes]] = {}
    for path in found:
        status = os.lstat(os.path.join(folder, path))
        names.setdefault((status.st_dev, status.st_ino), []).append(path)
    first = {path: min(together) if len(together) > 1 else b"" for together in names.values() for path in together}
    return {path: entry._replace(first_name=first[path]) for path, entry in found.items()}


def verdict(feature: Feature, source: tree.Tree, found: tree.Tree | None) -> str:
    if found is None:
        return LOST
    if feature.judge:
        return feature.judge(source, found)
    aspects = {b"modes": ("bytes", "mode"), b"owners": ("bytes", "owner"), b"xattrs": ("xattrs",), b"capability": ("xattrs",)}
    differences = tree.differences(source, found, aspects.get(feature.key, ("bytes", "links")))
    return LOST if any(differences) else KEPT
