"""What every test has: commands, patience, containers, volumes.

A test is a function that takes the Setting, raises Wrong or Skipped, and may return a figure for the table.
"""

import contextlib
import http.client
import json
import os
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from typing import Callable, Iterator

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXAMPLES = os.path.join(REPOSITORY, "examples")
PATIENCE = 60.0
# The slow volume: every operation takes a round trip of this long.
RTT = "3ms"


class Wrong(Exception):
    """A promise was broken; says which."""


class Skipped(Exception):
    """Cannot be tested here; says why."""


def run(*command: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise Wrong(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done


def docker(*command: str, check: bool = True) -> str:
    done = run("docker", *command, check=check)
    return (done.stdout + done.stderr).strip()


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Wrong(what)


def eventually(what: str | Callable[[], str], condition: Callable[[], object], seconds: float = PATIENCE):
    """The condition's value, once it holds. A message that is called says how things are at the deadline."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise Wrong(f"not within {seconds:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.02)
    return value


class Running:
    """A container that somebody else creates and removes."""

    def __init__(self, id: str):
        self.id = id

    def start(self) -> None:
        docker("start", self.id)

    def state(self) -> dict:
        return json.loads(docker("inspect", "-f", "{{json .State}}", self.id))

    def logs(self) -> str:
        return docker("logs", self.id)

    def says(self, text: str) -> str:
        return eventually(lambda: f"{text!r} in the log of {self.id[:12]}: {self.logs()[-500:]}", lambda: text in (log := self.logs()) and log)

    def ends(self) -> int:
        eventually("the end", lambda: self.state()["Status"] == "exited")
        return self.state()["ExitCode"]

    def address(self) -> str:
        return docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.id)

    def run(self, *command: str, user: str = "root") -> str:
        """Runs a command in it; what it prints."""
        return run("docker", "exec", "-u", user, self.id, *command).stdout

    def get(self, path: str = "/", host: str | None = None, port: str = "") -> tuple[int, str]:
        request = urllib.request.Request(f"http://{self.address()}{port}{path}", headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return 0, ""

    def serves(self) -> None:
        eventually(lambda: f"the app answers; it said: {self.logs()[-500:]}", lambda: "open" in self.get()[1])


class Container(Running):
    """A container that is gone after its test."""

    def __init__(self, image: str, *options: str, command: tuple[str, ...] = ()):
        super().__init__(docker("create", *options, image, *command).splitlines()[-1])

    def __enter__(self) -> "Container":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "-f", "-v", self.id, check=False)


class Compose:
    """The services of an example's compose file, which are gone after the test, with their volumes."""

    def __init__(self, example: str, **variables: str):
        self.project = f"volseed{os.getpid()}"
        self.file = os.path.join(EXAMPLES, example, "docker-compose.yml")
        self.variables = variables

    def __enter__(self) -> "Compose":
        return self

    def __exit__(self, *_: object) -> None:
        self("down", "-v", "-t", "1", check=False)

    def __call__(self, *command: str, check: bool = True) -> str:
        whole = ("docker-compose", "-p", self.project, "-f", self.file, *command)
        return run(*whole, check=check, env=os.environ | self.variables).stdout

    def containers(self, service: str) -> list[Running]:
        return [Running(each) for each in self("ps", "-q", service).split()]

    def volume(self, name: str) -> str:
        """Where the volume is on this machine."""
        return docker("volume", "inspect", "-f", "{{.Mountpoint}}", f"{self.project}_{name}")


@contextlib.contextmanager
def volume() -> Iterator[str]:
    name = docker("volume", "create")
    try:
        yield name
    finally:
        docker("volume", "rm", "-f", name, check=False)


class Setting:
    """What the tests have: images and a slow volume."""

    def __init__(self, scratch: str, slowfs: str | None):
        self.scratch, self.slowfs = scratch, slowfs

    @contextlib.contextmanager
    def slow(self) -> Iterator[str]:
        """A directory on a file system that is far away."""
        if not self.slowfs:
            raise Skipped("slowfs is not built")
        at = tempfile.mkdtemp(dir=self.scratch)
        server = subprocess.Popen([self.slowfs, "--rtt", RTT, at], stdout=subprocess.PIPE, text=True)
        try:
            expect("ready" in server.stdout.readline(), "slowfs does not mount")
            yield at
        finally:
            server.terminate()
            server.wait()


class Reader:
    """Reads a pipe on a thread of its own."""

    def __init__(self, pipe):
        self.said = ""
        threading.Thread(target=self.read, args=(pipe,), daemon=True).start()

    def read(self, pipe) -> None:
        while piece := os.read(pipe.fileno(), 4096):
            self.said += piece.decode("utf-8", "replace")

    def hears(self, text: str) -> None:
        eventually(lambda: f"{text!r} on the terminal: {self.said[-300:]!r}", lambda: text in self.said, 20)
