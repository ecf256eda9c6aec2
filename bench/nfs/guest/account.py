#!/usr/bin/env python3
"""What a run on the lab's volume came to: its RPCs by operation, and whether the tree is the source's.

account.py row FOLDER TOOL STARTED ENDED CODE EXPECTED ACTUAL OWNER LOST    with FOLDER/{before,after,said}: prints a RESULT line
account.py lost EXPECTED ACTUAL OWNER                                       prints what ACTUAL lacks of EXPECTED, by aspect
account.py ops BEFORE AFTER                                                 says the RPCs between two mountstats, by operation
account.py sequence TRACE                                                   says the most RPCs of a trace that followed each other
"""

import itertools
import json
import os
import pickle
import re
import sys
import zlib

sys.dont_write_bytecode = True
sys.path.insert(0, "/lab")

from kit import tree

MOUNT_POINT = "/mnt/efs"
# A line of the kernel's trace: what a client's request was, when it ended, and its microseconds from the start of its task.
CALL = re.compile(r" (?P<ended>[0-9.]+): rpc_stats_latency: .* nfsv4 (?P<name>\w+) .*execute=(?P<took>[0-9]+)")


def checksum(path: bytes) -> bytes:
    """Tells a wrong byte as well as a cryptographic digest would, in a tenth of the emulated processor's time."""
    with open(path, "rb", buffering=0) as file:
        return zlib.crc32(file.read()).to_bytes(4, "little")


tree.digest = checksum


def main(verb: str, *args: str) -> None:
    {"row": row, "lost": lost, "ops": ops, "sequence": sequence}[verb](*args)


def row(folder: str, tool: str, started: str, ended: str, code: str, expected: str, actual: str, owner: str, known: str) -> None:
    calls = between(f"{folder}/before", f"{folder}/after")
    lines = open(f"{folder}/said", errors="replace").read().splitlines()
    found = tree.scan(actual, xattrs=False)
    aspects = tuple(aspect for aspect in tree.ASPECTS if aspect == "bytes" or aspect not in json.loads(known))
    wrong = list(itertools.islice(tree.differences(owned(expected, owner), found, aspects), 5))
    if code != "0":
        wrong.insert(0, f"exit code {code}")
    for line in wrong:
        print(f"WRONG: {tool}: {line}")
    if wrong:
        print("\n".join(lines[-5:]))
    result = {
        "tool": tool,
        "keeps": "no " + ", ".join(json.loads(known).values()) if json.loads(known) else "all",
        "workers": workers(lines),
        "files": sum(entry.kind == "file" for entry in found.values()),
        "seconds": round(float(ended) - float(started), 3),
        "rpcs": sum(calls.values()),
        "ops": calls,
        "wrong": wrong,
    }
    print("RESULT", json.dumps(result))


def lost(expected: str, actual: str, owner: str) -> None:
    source, copy = owned(expected, owner), tree.scan(actual, xattrs=False)
    found = tree.lost(source, copy)
    missing = len(source.keys() - copy.keys())
    if missing:
        found["bytes"] = f"{missing} of {len(source)} names"
    print(json.dumps(found))


def ops(before: str, after: str) -> None:
    calls = between(before, after)
    print(f"{sum(calls.values())} RPCs:", ", ".join(f"{name} {count}" for name, count in calls.items()))


def sequence(trace: str) -> None:
    """Of requests that begin and end (rpc_stats_latency), the longest chain in which each begins after the one before ended:
    whichever ends first is the best to go on from."""
    calls = []
    for line in open(trace):
        if found := CALL.search(line):
            ended = round(float(found["ended"]) * 1e6)
            calls.append((ended, ended - int(found["took"]), found["name"]))
    chain, last = [], 0
    for ended, began, name in sorted(calls):
        if began >= last:
            chain.append(name)
            last = ended
    print(f"{len(chain)} of {len(calls)}:", ", ".join(chain))


def workers(lines: list[str]) -> int | None:
    """The number of writers that volseed says it used."""
    for line in lines:
        if line.startswith("{") and '"writers"' in line:
            return json.loads(line)["writers"]
    return None


def owned(root: str, owner: str) -> tree.Tree:
    """The tree below root as it must be on the volume; read once a guest."""
    kept = "/tmp/expected" + root.replace("/", "-")
    if not os.path.exists(kept):
        with open(kept, "wb") as file:
            pickle.dump(tree.scan(root, xattrs=False), file)
    ids = tuple(map(int, owner.split(":")))
    with open(kept, "rb") as file:
        return {path: entry._replace(owner=ids) for path, entry in pickle.load(file).items()}


def between(before: str, after: str) -> dict[str, int]:
    first, second = counted(before), counted(after)
    calls = {name: count - first.get(name, 0) for name, count in second.items()}
    return {name: count for name, count in sorted(calls.items(), key=lambda call: -call[1]) if count}


def counted(path: str) -> dict[str, int]:
    """RPCs by operation of the volume's mount, from a copy of /proc/self/mountstats."""
    calls: dict[str, int] = {}
    ours = per_op = False
    for line in open(path):
        words = line.split()
        if words[:1] == ["device"]:
            ours, per_op = MOUNT_POINT in words, False
        elif ours and words[:1] == ["per-op"]:
            per_op = True
        elif ours and per_op and words and words[0].endswith(":"):
            calls[words[0][:-1]] = int(words[1])
    return calls


main(*sys.argv[1:])
