"""What the recipes for real apps have in common: their images, replicas that are throttled and killed, steps with times."""

import contextlib
import functools
import os
import signal
import time
from typing import Iterator

from suite.kit import EXAMPLES, REPOSITORY, Running, Wrong, eventually, expect, run
from suite.lab import build, debian

STAND_INS = os.path.join(REPOSITORY, "docker", "stand-ins")


class Steps:
    """The steps of a story, and how long each took."""

    def __init__(self):
        self.done: list[str] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except Wrong as wrong:
            raise Wrong(f"{name}: {wrong}") from wrong
        self.done.append(f"{name} {time.monotonic() - began:.1f} s")

    def __str__(self) -> str:
        return ", ".join(self.done)


@functools.cache
def stand_in(name: str, folder: str, dockerfile: str = "Dockerfile", **arguments: str) -> str:
    """An image laid out as the official one of this name."""
    at = os.path.join(STAND_INS, folder)
    options = (option for key, value in arguments.items() for option in ("--build-arg", f"{key}={value}"))
    build(name, at, "-f", os.path.join(at, dockerfile), "--build-arg", f"BASE={debian('apps')}", *options)
    return name


def recipe(name: str, example: str, **arguments: str) -> str:
    """The image of an example."""
    options = (option for key, value in arguments.items() for option in ("--build-arg", f"{key}={value}"))
    build(name, os.path.join(EXAMPLES, example), *options)
    return name


def throttle(containers: list[Running], share: float) -> None:
    """Gives each so much of a processor that there is time to disturb it; 0 for all of one."""
    quota = int(share * 100000) or -1
    for each in containers:
        command = ("docker", "update", "--cpu-period", "100000", "--cpu-quota", str(quota), each.id)
        # It is refused between a kill and the restart.
        eventually(lambda: f"{' '.join(command)}: {run(*command, check=False).stderr}", lambda: run(*command, check=False).returncode == 0)


def kill_the_one_that(says: str, containers: list[Running]) -> Running:
    """From outside, as the machine's memory killer would: `docker kill` counts as wanted."""
    found = eventually(f"{says!r} in a log", lambda: next((each for each in containers if says in each.logs()), None))
    os.kill(found.state()["Pid"], signal.SIGKILL)
    return found


def all_serve(containers: list[Running], text: str, path: str = "/", host: str | None = None, seconds: float = 120) -> None:
    for each in containers:
        eventually(
            lambda: f"{text!r} at {path} of {each.id[:12]}: {each.get(path, host)}; it said: {each.logs()[-700:]}",
            lambda: (answer := each.get(path, host))[0] == 200 and text in answer[1],
            seconds,
        )


def none_serves(containers: list[Running], path: str = "/", host: str | None = None) -> None:
    """They refuse connections, or say that the site is not ready: no app has been started."""
    for each in containers:
        answer = each.get(path, host)
        expect(answer[0] in (0, 503) and "handing over" not in each.logs(), f"it serves: {answer}, {each.logs()[-500:]}")
