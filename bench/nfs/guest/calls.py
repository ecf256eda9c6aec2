#!/usr/bin/env python3
"""calls.py DIRECTORY: the requests of each call that a file and a directory of a seed cost in DIRECTORY, by operation.

The last of three counts: by then the client has asked what it remembers of the directory that they are in.
"""

import os
import sys
import time
from typing import Callable

sys.dont_write_bytecode = True

OWNER = 33
DATA = b"x" * 4000
TIMES = (1_500_000_000, 1_500_000_000)
WRITE = os.O_WRONLY | os.O_CREAT
Counts = dict[str, int]
# Another user may not open it.
STATS = open("/proc/self/mountstats")


def counts() -> Counts:
    """Of all NFS mounts, of which this host has one."""
    # What is sent in the background, too.
    time.sleep(0.1)
    STATS.seek(0)
    rows = STATS.read().partition("per-op statistics")[2].split("\n")
    return {name: int(row.split()[0]) for name, _, row in (line.strip().partition(":") for line in rows) if row}


def asked(call: Callable[[], object]) -> tuple[str, object]:
    before = counts()
    result = call()
    after = counts()
    found = {name: after[name] - before.get(name, 0) for name in after}
    return ", ".join(f"{name} {count}" for name, count in found.items() if count) or "none", result


class Told(dict[str, str]):
    """The requests of each step."""

    def __call__(self, step: str, call: Callable[[], object]) -> object:
        self[step], result = asked(call)
        return result


def file(directory: int, name: str, direct: int, time_by: str) -> Told:
    tell = Told()
    fd = tell("create", lambda: os.open(name, WRITE | direct, 0o644, dir_fd=directory))
    tell("write", lambda: os.pwrite(fd, DATA, 0))
    if time_by == "descriptor":
        tell("time by descriptor", lambda: os.utime(fd, TIMES))
        tell("close", lambda: os.close(fd))
    elif time_by == "name":
        tell("close", lambda: os.close(fd))
        tell("time by name", lambda: os.utime(name, TIMES, dir_fd=directory, follow_symlinks=False))
    else:
        path = tell("open O_PATH", lambda: os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory))
        tell("close", lambda: os.close(fd))
        tell("time by O_PATH", lambda: os.utime(f"/proc/self/fd/{path}", TIMES))
        tell("close O_PATH", lambda: os.close(path))
    return tell


def folder(directory: int, name: str) -> Told:
    tell = Told()
    tell("make", lambda: os.mkdir(name, 0o755, dir_fd=directory))
    fd = tell("open", lambda: os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory))
    tell("stat", lambda: os.fstat(fd))
    tell("first file in it", lambda: os.close(os.open("file", WRITE, 0o644, dir_fd=fd)))
    tell("time by descriptor", lambda: os.utime(fd, TIMES))
    tell("time by name", lambda: os.utime(name, TIMES, dir_fd=directory, follow_symlinks=False))
    tell("time by empty path", lambda: os.utime(f"/proc/self/fd/{fd}", TIMES))
    tell("close", lambda: os.close(fd))
    return tell


def main(directory: str) -> None:
    os.mkdir(f"{directory}/calls")
    os.chown(f"{directory}/calls", OWNER, OWNER)
    at = os.open(f"{directory}/calls", os.O_DIRECTORY)
    os.seteuid(OWNER)
    for direct, how in ((os.O_DIRECT, "O_DIRECT"), (0, "page cache")):
        for time_by in ("descriptor", "name", "O_PATH"):
            for number in range(3):
                told = file(at, f"{how} {time_by} {number}", direct, time_by)
            for step, requests in told.items():
                print(f"file, {how}, time by {time_by}: {step}\t{requests}")
    for number in range(3):
        told = folder(at, f"folder {number}")
    for step, requests in told.items():
        print(f"directory: {step}\t{requests}")


main(*sys.argv[1:])
