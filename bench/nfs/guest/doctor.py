#!/usr/bin/env python3
"""Finds out by itself what `volseed doctor` says of a mount, and compares the two.

doctor.py look DIR          on a client: what the mount keeps, as JSON
doctor.py hold DIR          takes fcntl locks there, says `held`, and keeps them until its input ends
doctor.py try DIR           says whether another holds them
doctor.py compare NAME DOCTOR LOOKED SHARED    a line of the table, and whether both agree

Knows nothing of volseed but its JSON. Runs with Debian's smallest Python.
"""

import errno
import fcntl
import json
import os
import sys

# What the doctor's topics are called in `look`.
TOPICS = ("owners", "modes", "times", "xattrs", "hard links", "symlinks", "fifos", "long names", "names", "case", "private")
COLUMNS = ("a request", "in flight", "locks", "between two hosts: locks", "mmap", "not kept", "private", "SQLite: rollback", "flags")
CAPABILITY = bytes([1, 0, 0, 2, 0, 4]) + bytes(14)
INTRUDER = 4242


def works(act, *arguments) -> bool:
    try:
        act(*arguments)
    except OSError:
        return False
    return True


def look(at: str) -> dict[str, bool]:
    at = os.path.join(at, "looked")
    os.mkdir(at, 0o700)
    file = os.path.join(at, "file")
    with open(file, "w") as made:
        made.write("x")
    beside = lambda name: os.path.join(os.fsencode(at), name)

    def mode(wanted: int) -> bool:
        return works(os.chmod, file, wanted) and os.stat(file).st_mode & 0o7777 == wanted

    def time(nanoseconds: int) -> bool:
        return works(lambda: os.utime(file, ns=(nanoseconds, nanoseconds))) and os.stat(file).st_mtime_ns == nanoseconds

    def makes(name: bytes) -> bool:
        return works(lambda: open(beside(name), "w").close()) and name in os.listdir(os.fsencode(at))

    found = {
        "modes": mode(0o4711) and mode(0o640),
        "times": time(1_000_000_000_000_000_005) and time(0) and time(-2_146_000_000 * 10**9) and time(4_417_000_000 * 10**9),
        "xattrs": works(os.setxattr, file, "user.a", b"v") and works(os.setxattr, file, "security.capability", CAPABILITY),
        "hard links": works(os.link, file, file + "-link") and os.stat(file).st_nlink == 2,
        "symlinks": works(os.symlink, "to", file + "-symlink"),
        "fifos": works(os.mkfifo, file + "-fifo"),
        "long names": makes(b"l" * 255),
        "names": all([makes(name) for name in (b"n\xff", b"n:", b"n\\", b"n?", b"n.", b"n ", b"n\n")]),
        "case": makes(b"Case") and not os.path.exists(beside(b"cASE")),
        "owners": works(os.chown, file, 777, 778) and (os.stat(file).st_uid, os.stat(file).st_gid) == (777, 778),
    }
    if child := os.fork():
        found["private"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    else:
        os.setgroups([])
        os.setgid(INTRUDER)
        os.setuid(INTRUDER)
        os._exit(0 if works(lambda: open(beside(b"intruder"), "w").close()) else 1)
    return found


def lock(at: str) -> bool:
    file = os.open(os.path.join(at, "independent-lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def compare(name: str, doctor: str, looked: str, shared: str) -> None:
    with open(doctor) as file:
        *findings, summary = [json.loads(line) for line in file]
    found = {finding["topic"]: finding for finding in findings}
    with open(looked) as file:
        kept = json.load(file)
    is_ok = {topic: finding["level"] == "ok" for topic, finding in found.items()}
    # Root that works as another user keeps others out, and says what it does not keep out.
    is_ok["private"] = found["private"]["facts"]["entered"] != "entered"
    wrong = [topic for topic in TOPICS if is_ok[topic] != kept[topic]]
    wrong += [] if is_ok["peer locks"] == (shared == "shared") else ["peer locks"]
    wrong += [] if found["sqlite"]["facts"]["rollback"] == (shared == "shared") else ["sqlite"]
    lost = [topic for topic in TOPICS[:-1] if not is_ok[topic]]
    cells = (
        f"{found['pace']['facts']['round_trip_us'] / 1000:.1f} ms",
        found["pace"]["facts"]["in_flight"],
        found["locks"]["level"],
        "shared" if is_ok["peer locks"] else "not shared",
        "follows" if is_ok["peer mmap"] else "does not follow",
        ", ".join(lost) or "nothing",
        found["private"]["level"],
        "safe" if found["sqlite"]["facts"]["rollback"] else "not safe",
        " ".join(summary["flags"]),
    )
    told(name, " | ".join(map(str, cells)))
    told(f"{name}: found otherwise by another program", ", ".join(wrong) or f"nothing of {len(TOPICS) + 2}")


def told(fact: str, value: str) -> None:
    print("RESULT " + json.dumps({"fact": fact, "value": value}), flush=True)


match sys.argv[1:]:
    case ["columns"]:
        told("columns", " | ".join(COLUMNS))
    case ["look", at]:
        print(json.dumps(look(at)))
    case ["hold", at]:
        print("held" if lock(at) else "refused", flush=True)
        sys.stdin.read()
    case ["try", at]:
        print("not shared" if lock(at) else "shared")
    case ["compare", name, doctor, looked, shared]:
        compare(name, doctor, looked, shared)
