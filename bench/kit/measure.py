"""Runs commands and says how long they took, and what a series of such times amounts to.

Times start before the process is made and end when it is reaped. Programs are spawned directly, without a shell in
between, and the pieces of a pipeline at once.
"""

import math
import os
import statistics
import tempfile
import time
from typing import NamedTuple, Sequence

# A pipeline is a list of argument vectors; one command is a pipeline of one.
Pipeline = list[list[str]]


class Failed(Exception):
    """A measured command ended otherwise than it should; says how, and its last line."""


def environment() -> dict[str, str]:
    """Ours without what would configure volseed or change how a peer speaks."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("VOLSEED_")}, "LC_ALL": "C"}


def seconds_of(pipeline: Pipeline, stdin: str = os.devnull) -> float:
    """Runs a pipeline to its end; raises Failed where any part of it fails."""
    return run(pipeline, stdin).seconds


class Ran(NamedTuple):
    seconds: float
    # Processor time of all parts together, by the time that passed.
    processors: float
    # The lines on standard error.
    said: list[str]


def run(pipeline: Pipeline, stdin: str = os.devnull) -> Ran:
    """The same, with all that was seen of it."""
    with tempfile.TemporaryFile() as errors, open(stdin, "rb") as first, open(os.devnull, "wb") as last:
        pipes = [os.pipe() for _ in pipeline[1:]]
        inputs = [first.fileno(), *(read for read, _ in pipes)]
        outputs = [*(write for _, write in pipes), last.fileno()]
        env = environment()
        start = time.perf_counter()
        try:
            pids = [
                os.posix_spawnp(
                    argv[0],
                    argv,
                    env,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, inputs[index], 0),
                        (os.POSIX_SPAWN_DUP2, outputs[index], 1),
                        (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
                    ],
                )
                for index, argv in enumerate(pipeline)
            ]
        finally:
            for pair in pipes:
                for end in pair:
                    os.close(end)
        ended = [os.wait4(pid, 0) for pid in pids]
        seconds = time.perf_counter() - start
        codes = [os.waitstatus_to_exitcode(status) for _, status, _ in ended]
        processor = sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended)
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").splitlines()
        if any(codes):
            raise Failed(f"{shown(pipeline)}: exit {codes}: {said[-1] if said else 'no message'}")
        return Ran(seconds, processor / seconds, said)


def shown(pipeline: Pipeline) -> str:
    return " | ".join(" ".join(argv) for argv in pipeline)


class Summary(NamedTuple):
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        return cls(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose columns also line up as text."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def warm(path: str) -> None:
    """Reads a file, or every file below a directory, so that no measured run waits for the disk."""
    if not os.path.isdir(path):
        return read_through(path)
    for folder, _, names in os.walk(path):
        for name in names:
            read_through(os.path.join(folder, name))


def read_through(path: str) -> None:
    buffer = bytearray(1 << 20)
    # A FIFO would keep us waiting, a dangling link is nothing to read.
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
