"""The lab's machine: its disks, its life, and what a scenario says in it.

A guest never outlives this process, never runs longer than its limit, and never writes to its disks' files.
"""

import glob
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from typing import IO, Iterable, Iterator, NamedTuple

from kit import measure, setting

HERE = os.path.dirname(os.path.abspath(__file__))
# Raised whenever the disk with the corpus is laid out otherwise.
CORPUS_LAYOUT = 1
# What every scenario can be given: the guest's memory, its limit in real seconds on a machine that may be busy, and the
# requests in flight that the server allows a mount: 64 as its client asks, or 30 as Linux before 6.14. The clock is real
# where nothing is timed, and the guest then as fast as this machine. What the export does with users, the version of the
# protocol, and more options of the mount.
COMMON = {
    **{"memory": "4g", "limit": "1800", "slots": "64", "clock": "virtual"},
    **{"export": "no_root_squash", "version": "4.1", "mount": ""},
}
# What every mount has besides.
MOUNT = "proto=tcp,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
# A guest that fails says why in its last lines.
LAST_LINES = 20
# How often it is said that a guest is still at work.
PROGRESS_SECONDS = 60


class Scenario(NamedTuple):
    name: str
    path: str
    about: str
    # What can be set, with the value it has otherwise.
    settings: dict[str, str]


def scenarios() -> dict[str, Scenario]:
    """Each begins with a line that says what it shows and one with its settings."""
    found = {}
    for path in sorted(glob.glob(os.path.join(HERE, "scenarios", "*"))):
        with open(path) as file:
            _, about, settings = (next(file).strip() for _ in range(3))
        pairs = (pair.split("=", 1) for pair in settings.removeprefix("# settings:").split())
        name = os.path.basename(path)
        found[name] = Scenario(name, path, about.removeprefix("# "), {**COMMON, **dict(pairs)})
    return found


class Failed(Exception):
    """A guest ended otherwise than by powering off after its scenario."""


class Lab:
    def __init__(self, binary: str, console: bool):
        self.binary = binary
        with open(binary, "rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        self.console = console
        self.root = os.environ.get("VOLSEED_NFS") or os.path.join(
            os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "volseed-nfs"
        )
        subprocess.run([os.path.join(HERE, "build")], stdout=subprocess.DEVNULL, check=True)
        corpus = setting.Corpus()
        self.corpus = corpus_disk(self.root, corpus, os.environ.get("VOLSEED_TREE"))
        # Where bench/local has it from. It is linked to the Debian of this machine, which is the guest's too.
        self.xcp = os.path.join(os.environ.get("VOLSEED_PEERS") or os.path.join(corpus.root, "peers", "bin"), "xcp")

    def versions(self, tool: str) -> list[str]:
        """What a row was measured with: volseed, or the packages that a peer is made of."""
        if tool.startswith("volseed"):
            return [setting.first_line(self.binary, "--version") + ", " + commit()]
        with open(os.path.join(self.root, "packages")) as file:
            packages = dict(line.split() for line in file)
        found = [f"{name} {version}" for name, version in packages.items() if name in tool.split() or name in PARTS.get(tool.split()[0], "")]
        if "cp -a" in tool or "chown" in tool:
            found.append(f"coreutils {packages['coreutils']}")
        return found + ([setting.first_line(self.xcp, "--version")] if "xcp" in tool else [])

    def kernel(self) -> str:
        with open(os.path.join(self.root, "version")) as file:
            return file.read().strip()

    def run(self, scenario: Scenario, kept: Iterable[str] = ()) -> Iterator[dict]:
        """What the scenario found out, one result after the other, without the rows of the tools that are kept."""
        last: list[str] = []
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(prefix="volseed-nfs-", suffix=".tar") as inputs:
            self.pack(inputs, scenario, kept)
            # Or the guest would wait for this machine's disk, and its clock leap meanwhile.
            measure.warm(self.corpus)
            measure.warm(os.path.join(self.root, "root.img"))
            with self.guest(scenario, inputs.name) as guest:
                deadline = threading.Timer(float(scenario.settings["limit"]), guest.kill)
                deadline.start()
                ended = threading.Event()
                threading.Thread(target=tell, args=(scenario, ended), daemon=True).start()
                try:
                    for line in map(str.rstrip, guest.stdout):
                        last = [*last, line][-LAST_LINES:]
                        if self.console or line.startswith("WRONG"):
                            print(line, file=sys.stderr, flush=True)
                        if line.startswith("RESULT "):
                            # What it took here, with the making of what was measured and the check of it.
                            now = time.monotonic()
                            yield {**json.loads(line.removeprefix("RESULT ")), "host_seconds": round(now - began, 1)}
                            began = now
                finally:
                    ended.set()
                    deadline.cancel()
                    guest.kill()
        if "LAB exit 0" not in last:
            raise Failed("\n".join([f"scenario '{scenario.name}' did not come to its end; its last lines:", *last]))

    def guest(self, scenario: Scenario, inputs: str) -> subprocess.Popen:
        disks = [os.path.join(self.root, "root.img"), self.corpus, inputs]
        # One nanosecond an instruction, idle time skipped: figures do not depend on what else this machine does.
        machine = ["-M", "q35", "-cpu", "max", "-smp", "1", "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
        if scenario.settings["clock"] == "real":
            # Not KVM: where this machine is a guest itself, it may not even boot.
            machine = ["-M", "q35", "-cpu", "max", "-smp", "2", "-accel", "tcg,thread=multi"]
        return subprocess.Popen(
            [
                *("nice", "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *machine),
                *("-m", scenario.settings["memory"]),
                *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
                *("-kernel", os.path.join(self.root, "vmlinuz"), "-initrd", os.path.join(self.root, "initrd.gz")),
                *("-append", "console=ttyS0 quiet oops=panic panic=-1 mitigations=off tsc=reliable no_timer_check"),
                *(word for path in disks for word in ("-drive", f"file={path},format=raw,if=virtio,snapshot=on")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def pack(self, into: IO[bytes], scenario: Scenario, kept: Iterable[str]) -> None:
        """The disk that is new with every run: a tar as it is."""
        files = {os.path.basename(path): path for path in glob.glob(os.path.join(HERE, "guest", "*"))}
        bench = os.path.join(setting.REPOSITORY, "bench")
        files |= {"kit/tree.py": os.path.join(bench, "kit", "tree.py"), "scenario": scenario.path, "volseed": self.binary}
        files |= {"bench/kit": os.path.join(bench, "kit"), "bench/volumes": os.path.join(bench, "volumes")}
        if os.path.exists(self.xcp):
            files["xcp"] = self.xcp
        if before := os.environ.get("VOLSEED_BEFORE"):
            files["before"] = before
        settings = {**scenario.settings, "usual_mount": MOUNT}
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
        with tarfile.open(fileobj=into, mode="w") as tar:
            for name, path in files.items():
                tar.add(path, name)
            for name, text in (("settings", exports), ("kept", "".join(f"{tool}\n" for tool in kept))):
                added = tarfile.TarInfo(name)
                added.size = len(text.encode())
                tar.addfile(added, io.BytesIO(text.encode()))
        into.flush()


def tell(scenario: Scenario, ended: threading.Event) -> None:
    """One line a minute, so that nobody takes a long scenario for one that hangs."""
    began = time.monotonic()
    while not ended.wait(PROGRESS_SECONDS):
        print(f"{scenario.name}: at work for {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


# Packages of what is not named like its package.
PARTS = {"fpsync": ("fpart", "rsync")}


def commit() -> str:
    return setting.first_line("git", "-C", setting.REPOSITORY, "describe", "--always", "--dirty")


def corpus_disk(root: str, corpus: setting.Corpus, other: str | None) -> str:
    """A disk with the corpus, or another tree in its place, made once: as a directory, as archives, and the metadata
    that is hard to keep."""
    summary, source = (summary_of(other), other) if other else (corpus.summary, corpus.plain)
    name = hashlib.sha256(f"{CORPUS_LAYOUT}\n{summary}".encode()).hexdigest()[:12]
    kind = "tree" if other else "corpus"
    made = os.path.join(root, f"{kind}-{name}.img")
    if os.path.exists(made):
        return made
    print(f"making {made}", file=sys.stderr)
    archive = ["tar", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--sort=name", "--numeric-owner", "--sparse"]
    # A FIFO stops some peers, and NFSv4.1 has no extended attributes.
    hard = ["--exclude=./special", "--exclude=./xattrs", "-C", os.path.join(corpus.tree, "volseed-edge")]
    with tempfile.TemporaryDirectory(dir=root) as folder, tempfile.NamedTemporaryFile(dir=root, delete=False) as disk:
        plain, tar = os.path.join(folder, "plain"), os.path.join(folder, "corpus.tar")
        subprocess.run(["cp", "-a", "--reflink=auto", source, plain], check=True)
        # mke2fs keeps whole seconds, and the archives must say the same as the directory.
        to_whole_seconds(plain)
        subprocess.run([*archive, "-C", plain, "-cf", tar, "."], check=True)
        subprocess.run(["gzip", "--keep", "--no-name", tar], check=True)
        subprocess.run([*archive, *hard, "-cf", os.path.join(folder, "edge.tar"), "."], check=True)
        paths = [os.path.join(below, name) for below, folders, names in os.walk(folder) for name in folders + names]
        # Blocks of 4 KiB, and room for what a file system keeps of its own.
        disk.truncate((64 << 20) + 2 * sum(4096 + os.lstat(path).st_size for path in paths))
        make = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-N", str(len(paths) + 1000), "-d", folder, disk.name]
        subprocess.run(make, check=True)
    for older in glob.glob(os.path.join(root, f"{kind}-*.img")):
        os.remove(older)
    os.rename(disk.name, made)
    return made


def summary_of(tree: str) -> str:
    """What tells one state of a tree from another."""
    stats = [os.lstat(os.path.join(folder, name)) for folder, folders, names in os.walk(tree) for name in folders + names]
    return f"{os.path.abspath(tree)} {len(stats)} {sum(stat.st_size for stat in stats)} {max((stat.st_mtime_ns for stat in stats), default=0)}"


def to_whole_seconds(root: str) -> None:
    for folder, folders, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in folders + files)]:
            seconds = int(os.lstat(path).st_mtime)
            os.utime(path, (seconds, seconds), follow_symlinks=False)
