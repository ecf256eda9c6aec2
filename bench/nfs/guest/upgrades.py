#!/usr/bin/env python3
"""Kills upgrades at random moments, starts an image again, and judges the volume on the server after each.

upgrades.py KILLS SEED HOST=PID...    prints WRONG and RESULT lines; the hosts have all of /export at /mnt/efs

A volume is seeded once and copied for each round; then a user edits it. What it has to be after a kill or a start: as
before; or complete at the second image, with the edits where docs/upgrades.md says; or, after a kill only, without a
record, and each file the old or the new one. In the end it is at the second image, and nothing is left behind.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Iterator, NamedTuple

sys.dont_write_bytecode = True
sys.path.insert(0, "/lab")

from edits import SENTINEL, Edits, Images, Tree, edit, make_images, scan, without_directory_times

from kit import tree

SERVER, MOUNT, OWNER = "/export", "/mnt/efs", "33:33"
OPTIONS = {"old": ["--seed-version", "1.0"], "new": ["--seed-version", "2.0", "--upgrade", "*"]}
# What stays in the state directory of a volume that was upgraded once.
RECORDS = {"lock", "manifest-2", "record.json", "state.json", "old", "new"}
# The share of the kills that comes while an upgrade only prepares.
BEFORE = 0.4
# A second name that a killed upgrade left: the next start removes it.
CANDIDATE = re.compile(rb"\.volseed-[0-9]+-[A-Za-z0-9+_]{22}")
MOST_KILLS, MAX_SHOWN, SETTLE_SECONDS, LIMIT_SECONDS = 3, 5, 1, 600


class Pace(NamedTuple):
    """When an upgrade that is not killed ends, and retires the record: seconds from its start."""

    ends: float
    retires: float


def main(kills: str, seed: str, *hosts: str) -> None:
    # Or it would come to its turn seconds late beside 64 writers; not so what it starts.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    draw = random.Random(int(seed))
    trial = Trial(make_images("/tmp/images", random.Random(1)), dict(host.split("=") for host in hosts), draw)
    counts, wrong, broken = Counter(), [], 0
    for number in itertools.count():
        if counts["kills"] >= int(kills):
            break
        found = trial.round(f"round-{number}", counts)
        broken += bool(found)
        wrong += (f"round {number} of {seed}: {line}" for line in found)
        print(f"round {number}: {dict(counts)}", *(f"\nWRONG: {line}" for line in found), flush=True)
    fact("an upgrade that is not killed, s", f"{trial.pace.ends:.2f}, without a record from {trial.pace.retires:.2f}")
    for name, count in sorted(counts.items()):
        fact(name, str(count))
    print("RESULT", json.dumps({"fact": "broken rounds", "value": str(broken), "wrong": wrong}))


def fact(name: str, value: str) -> None:
    print("RESULT", json.dumps({"fact": name, "value": value}))


class Trial:
    def __init__(self, images: Images, hosts: dict[str, str], draw: random.Random):
        self.images, self.hosts, self.draw = images, hosts, draw
        os.mkdir(f"{SERVER}/seeded")
        if problems := self.end(self.start("seeded", "old", self.some_host())):
            sys.exit(f"error: the first seed: {problems}")
        self.pace = self.undisturbed("undisturbed")

    def some_host(self) -> str:
        return self.draw.choice(list(self.hosts))

    def prepare(self, name: str) -> Edits:
        subprocess.run(["cp", "-a", f"{SERVER}/seeded", f"{SERVER}/{name}"], check=True)
        return edit(self.images, f"{SERVER}/{name}", self.draw)

    def undisturbed(self, name: str) -> Pace:
        """Once is enough: virtual time repeats."""
        edits, began = self.prepare(name), time.monotonic()
        process = self.start(name, "new", self.some_host())
        if not retired(process, name):
            sys.exit(f"error: the upgrade never retires the record: {self.end(process)}")
        retires = time.monotonic() - began
        problems = self.end(process)
        ends = time.monotonic() - began
        if problems := [*problems, *judged(name, edits, "new"), *left(name)]:
            sys.exit(f"error: an upgrade that is not killed: {problems}")
        shutil.rmtree(f"{SERVER}/{name}")
        return Pace(ends, retires)

    def round(self, name: str, counts: Counter) -> list[str]:
        """Up to MOST_KILLS kills, a start of either image, and one of the second; says what is wrong."""
        edits = self.prepare(name)
        problems = list(self.steps(name, edits, counts))
        counts["rounds"] += 1
        shutil.rmtree(f"{SERVER}/{name}")
        return problems

    def steps(self, name: str, edits: Edits, counts: Counter) -> Iterator[str]:
        image, host = "new", self.some_host()
        for _ in range(self.draw.randint(1, MOST_KILLS)):
            code = self.kill(name, image, host)
            if code != -signal.SIGKILL:
                counts["too late"] += 1
                yield from [f"exit code {code}"] if code else []
                break
            phase = phase_of(name)
            counts["kills"] += 1
            counts[f"killed: {phase}"] += 1
            yield from (f"killed: {problem}" for problem in judged(name, edits, phase))
            image, last, host = self.draw.choice(list(OPTIONS)), host, self.some_host()
            counts[f"then started on {'the same host' if host == last else 'the other host'}"] += 1
        before = phase_of(name)
        yield from (f"{image} image: {problem}" for problem in self.end(self.start(name, image, host)))
        wanted = {"amid": "new", "new": "new", "old": image}[before]
        counts[f"start of the {image} image: {before} to {phase_of(name)}"] += 1
        yield from (f"{image} image: {problem}" for problem in judged(name, edits, wanted))
        if image == "old":
            yield from self.end(self.start(name, "new", self.some_host()))
            yield from judged(name, edits, "new")
        yield from left(name)

    def start(self, name: str, image: str, host: str) -> subprocess.Popen:
        there = ["nsenter", "-t", self.hosts[host], "--mount", "--uts", "--net"]
        seed = ["volseed", "seed", "--from", getattr(self.images, image), "--to", f"{MOUNT}/{name}", "--chown", OWNER]
        with open("/tmp/said", "w") as said:
            return subprocess.Popen([*there, *seed, "--sentinel", SENTINEL, *OPTIONS[image]], stdout=said, stderr=subprocess.STDOUT)

    def end(self, process: subprocess.Popen) -> list[str]:
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = f"none after {LIMIT_SECONDS} s"
        return [] if code == 0 else [f"exit code {code}: {open('/tmp/said').read()[-600:]}"]

    def kill(self, name: str, image: str, host: str) -> int:
        """Starts an image and kills it, or comes too late: its exit code."""
        began, pace = time.monotonic(), self.pace
        process = self.start(name, image, host)
        # The later part, from the first change of the tree on, differs more from moment to moment.
        if self.draw.random() < BEFORE and image == "new":
            moment = began + self.draw.random() * pace.retires
        else:
            retired(process, name)
            moment = time.monotonic() + self.draw.random() * (pace.ends - pace.retires)
        time.sleep(max(0, moment - time.monotonic()))
        process.kill()
        code = process.wait()
        # What it had sent arrives, and is done.
        time.sleep(SETTLE_SECONDS)
        return code


def retired(process: subprocess.Popen, name: str) -> bool:
    """Waits until there is no record, or the process has ended; whether it runs then."""
    while os.path.exists(f"{SERVER}/{name}/.volseed/state.json"):
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return process.poll() is None


def phase_of(name: str) -> str:
    try:
        with open(f"{SERVER}/{name}/.volseed/state.json") as file:
            record = json.load(file)
    except FileNotFoundError:
        return "amid"
    return {1: "old", 2: "new"}.get(record["generation"], f"generation {record['generation']}")


def judged(name: str, edits: Edits, phase: str) -> list[str]:
    """The first few things that are not as they have to be in this phase."""
    if phase != phase_of(name):
        return [f"the volume is '{phase_of(name)}', not '{phase}'"]
    found = scan(f"{SERVER}/{name}")
    if phase == "old":
        wrong = tree.differences(edits.old, found)
    elif phase == "new":
        wrong = itertools.chain(tree.differences(edits.new, without_directory_times(found)), displaced(name, edits))
    else:
        wrong = of_neither(*map(comparable, (found, edits.old, edits.new)))
    return list(itertools.islice(itertools.chain(lost(name, edits), wrong), MAX_SHOWN))


def comparable(one: Tree) -> Tree:
    """Names of one file are moved one after the other."""
    return {path: entry._replace(first_name=b"") for path, entry in without_directory_times(one).items()}


def of_neither(found: Tree, old: Tree, new: Tree) -> Iterator[str]:
    for path in sorted(found.keys() | old.keys() | new.keys()):
        here, one, other = found.get(path), old.get(path), new.get(path)
        # On its way to the place of another.
        if here not in (one, other) and not (here.kind == "file" and CANDIDATE.fullmatch(path.rsplit(b"/", 1)[-1])):
            yield f"{tree.shown(path)} is neither the old nor the new one: {here}"


def lost(name: str, edits: Edits) -> Iterator[str]:
    """What the user wrote and is nowhere."""
    there = set(texts(f"{SERVER}/{name}").values())
    for path, text in edits.texts.items():
        if text not in there:
            yield f"the user's {path} is lost"


def displaced(name: str, edits: Edits) -> Iterator[str]:
    for kind, wanted in (("old", edits.saved), ("new", edits.offered)):
        found: dict[str, bytes] = {}
        runs = f"{SERVER}/{name}/.volseed/{kind}"
        for run in os.listdir(runs) if os.path.exists(runs) else []:
            found |= texts(f"{runs}/{run}")
        for path in sorted(found.keys() | wanted.keys()):
            if found.get(path) != wanted.get(path):
                yield f".volseed/{kind}: {path}: {found.get(path)!r:.60}, not {wanted.get(path)!r:.60}"


def texts(root: str) -> dict[str, bytes]:
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return {os.path.relpath(path, root): open(path, "rb").read() for path in paths if not os.path.islink(path)}


def left(name: str) -> list[str]:
    return [f"left behind: {entry}" for entry in os.listdir(f"{SERVER}/{name}/.volseed") if entry not in RECORDS]


main(*sys.argv[1:])
