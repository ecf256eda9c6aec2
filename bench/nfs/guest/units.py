#!/usr/bin/env python3
"""Divides a tree into units of up to 64 entries, whole directories wherever they are as small.

units.py lists FROM TO LISTS    by which parallel tools share the work evenly: cp.N and own.N are scripts that copy one
                                unit, own.N with its owner; rsync.N lists a 64th of the units; folders is a script that
                                makes the directories which are split
units.py share FROM TO COUNT    copies the first unit of every COUNT to TO, in the order of their names: a smaller tree
                                with the same kinds of directories
"""

import os
import shlex
import subprocess
import sys
from typing import NamedTuple

UNIT, SHARES = int(os.environ.get("UNIT", 64)), 64


class Unit(NamedTuple):
    folder: str
    # Each path with all that is below it.
    trees: list[list[str]]

    @property
    def roots(self) -> list[str]:
        return [tree[0] for tree in self.trees]


def main(verb: str, source: str, target: str, argument: str) -> None:
    split, units = divide(source)
    if verb == "share":
        share(source, target, split, units[:: int(argument)])
    else:
        lists(source, target, argument, split, units)


def divide(top: str) -> tuple[list[str], list[Unit]]:
    """The directories that are split, each before those in it, and the units."""
    split, units, waiting = [], [], [top]
    while waiting:
        folder = waiting.pop(0)
        split.append(folder)
        trees: list[list[str]] = []
        larger = []
        for tree in (below(os.path.join(folder, name)) for name in sorted(os.listdir(folder))):
            if len(tree) > UNIT:
                larger.append(tree[0])
                continue
            if sum(map(len, trees)) + len(tree) > UNIT:
                units.append(Unit(folder, trees))
                trees = []
            trees.append(tree)
        if trees:
            units.append(Unit(folder, trees))
        waiting = larger + waiting
    return split, units


def below(path: str) -> list[str]:
    found = [path]
    if os.path.isdir(path) and not os.path.islink(path):
        for name in sorted(os.listdir(path)):
            found += below(os.path.join(path, name))
    return found


def share(source: str, target: str, split: list[str], units: list[Unit]) -> None:
    """With the owners, modes and times of the directories that lead to the units."""
    inside = {unit.folder for unit in units}
    led = [folder for folder in split if any(path == folder or path.startswith(folder + "/") for path in inside)]
    names = [path for unit in units for tree in unit.trees for path in tree] + led
    listed = "".join(os.path.relpath(path, source) + "\0" for path in sorted(names))
    os.makedirs(target)
    archive = subprocess.Popen(["tar", "-C", source, "--no-recursion", "--null", "-T", "-", "-cf", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    copy = subprocess.Popen(["tar", "-C", target, "-xpf", "-"], stdin=archive.stdout)
    archive.stdin.write(os.fsencode(listed))
    archive.stdin.close()
    if archive.wait() or copy.wait():
        sys.exit("error: tar did not copy the share")


def lists(source: str, target: str, into: str, split: list[str], units: list[Unit]) -> None:
    def there(path: str) -> str:
        return os.path.join(target, os.path.relpath(path, source))

    def write(name: str, text: str) -> None:
        with open(os.path.join(into, name), "w", errors="surrogateescape") as out:
            out.write(text)

    os.makedirs(into, exist_ok=True)
    made = shlex.join(map(there, split[1:]))
    write("folders", (f"mkdir {made} && " if made else "") + f"chown 33:33 {shlex.join(map(there, split))}\n")
    for number, unit in enumerate(units):
        copy = f"cp -a -t {shlex.join([there(unit.folder), *unit.roots])}"
        write(f"cp.{number}", f"exec {copy}\n")
        write(f"own.{number}", f"{copy} && exec chown -hR 33:33 {shlex.join(map(there, unit.roots))}\n")
    for number in range(SHARES):
        mine = [path for unit in units[number::SHARES] for tree in unit.trees for path in tree]
        write(f"rsync.{number}", "".join(os.path.relpath(path, source) + "\0" for path in mine))


main(*sys.argv[1:])
