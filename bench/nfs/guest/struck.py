#!/usr/bin/env python3
"""What became of a volume and of a run that a fault has struck.

struck.py judge CASE RUN SEED USERS VOLUME OWNER CODES  with CASE/RUN.{said,ended,app}: one line more in CASE/runs
struck.py row CASE FAULT PHASE STRUCK                   prints the RESULT line of CASE/runs

What is promised of every run: a documented exit code and one line of error, or an app that starts on a complete volume;
what users have there stays. And of the next one when the fault is over, that nothing of ours is left.
"""

import itertools
import json
import os
import re
import sys
import zlib

sys.dont_write_bytecode = True
sys.path.insert(0, "/lab")

from kit import tree

# docs/exit-codes.md, but for those that can only be a bug, or of an app.
DOCUMENTED = (71, 73, 74, 75, 77, 78)
STATE = re.compile(r"lock|record\.json|state\.json|manifest-[0-9]+")
# The directories that users and the seed have.
COMMON = (b".", b"shared")
MAX_SHOWN = 5


def checksum(path: bytes) -> bytes:
    """As account.py's."""
    with open(path, "rb", buffering=0) as file:
        return zlib.crc32(file.read()).to_bytes(4, "little")


tree.digest = checksum


def main(verb: str, case: str, *args: str) -> None:
    {"judge": judge, "row": row}[verb](case, *args)


def judge(case: str, name: str, seed: str, users: str, volume: str, owner: str, codes: str) -> None:
    code, ended, seconds = open(f"{case}/{name}.ended").read().split()
    lines = open(f"{case}/{name}.said", errors="replace").read().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    theirs, whole = expected(seed, users, tuple(map(int, owner.split(":"))))
    found = {path: timeless(path, entry) for path, entry in tree.scan(volume, xattrs=False).items()}
    wrong = list(wrong_end(int(code), errors, os.path.exists(f"{case}/{name}.app"), codes))
    if code == "0":
        wrong += itertools.islice(tree.differences(whole, found), MAX_SHOWN)
    else:
        kept = {path: found[path] for path in theirs if path in found}
        wrong += itertools.islice(tree.differences(theirs, kept), MAX_SHOWN)
    if name == "next":
        wrong += (f"left behind: {path}" for path in left(volume))
    print("\n".join(f"{name}: {line}" for line in lines[-20:]))
    said = errors[0] if errors else next((line for line in lines if "WARN" in line), "")
    with open(f"{case}/runs", "a") as runs:
        run = {"run": name, "code": int(code), "ended": float(ended), "seconds": float(seconds), "said": said, "wrong": wrong}
        runs.write(json.dumps(run) + "\n")


def wrong_end(code: int, errors: list[str], started: bool, codes: str) -> list[str]:
    allowed = (0, *DOCUMENTED) if codes == "any" else tuple(map(int, codes.split()))
    if code not in allowed:
        yield f"exit code {code}"
    if len(errors) != (code != 0):
        yield f"{len(errors)} lines of error with exit code {code}"
    if started != (code == 0):
        yield "the app was started" if started else "the app was not started"


def expected(seed: str, users: str, owner: tuple[int, int]) -> tuple[tree.Tree, tree.Tree]:
    """What users have, and the seed as its owner's with that in its way."""
    seeded = {path: entry._replace(owner=owner) for path, entry in tree.scan(seed, xattrs=False).items()}
    theirs = {path: timeless(path, entry) for path, entry in tree.scan(users, xattrs=False).items()}
    theirs |= {path: theirs[path]._replace(owner=owner) for path in COMMON}
    return theirs, {**seeded, **theirs}


def timeless(path: bytes, entry: tree.Entry) -> tree.Entry:
    """What is moved into a directory that was there changes its time."""
    return entry._replace(mtime_ns=0) if path in COMMON else entry


def left(volume: str) -> list[str]:
    """All that a completed seed does not leave."""
    state = [f".volseed/{name}" for name in os.listdir(f"{volume}/.volseed") if not STATE.fullmatch(name)]
    empty = [path for path in state if path == ".volseed/claims" and not os.listdir(f"{volume}/{path}")]
    return [path for path in state if path not in empty]


def row(case: str, fault: str, phase: str, struck: str) -> None:
    runs = [json.loads(line) for line in open(f"{case}/runs")]
    by_name = {run["run"]: run for run in runs}
    first, following = by_name["struck"], by_name["next"]
    wrong = [f"{run['run']}: {line}" for run in runs for line in run["wrong"]]
    for name in ("missed", "status", "differs"):
        if os.path.exists(f"{case}/{name}"):
            wrong.append(f"{name}: {open(f'{case}/{name}').read()}")
    for line in wrong:
        print(f"WRONG: {fault}, {phase}: {line}")
    lasting = [run["code"] for run in runs if run["run"] == "lasting"]
    result = {
        **{"fault": fault, "phase": phase, "code": first["code"], "said": first["said"]},
        "ended": round(first["ended"] - float(struck), 2),
        "lasting": lasting[0] if lasting else None,
        **{"next": following["seconds"], "wrong": wrong},
    }
    print("RESULT", json.dumps(result))


main(*sys.argv[1:])
