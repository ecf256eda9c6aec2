"""Where things are: the binary under test, the corpus, room for backing files, and what machine this is."""

import os
import platform
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STATIC_TARGET = "x86_64-unknown-linux-musl"

# In the corpus, deep in its largest top-level directory: what an image of WordPress would name.
SENTINEL = "usr/share/wordpress/wp-includes/version.php"

ARCHIVES = ("tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2")


def binary() -> str:
    """The static release binary, or the one that VOLSEED_BIN names."""
    named = os.environ.get("VOLSEED_BIN")
    if named:
        path = named
    else:
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(REPOSITORY, "target"))
        path = os.path.join(target, STATIC_TARGET, "release", "volseed")
    if not os.access(path, os.X_OK):
        sys.exit(
            f"error: no binary at '{path}'\n"
            f"help: cargo build --release --locked --target {STATIC_TARGET}, or set VOLSEED_BIN"
        )
    return os.path.abspath(path)


class Corpus:
    """The cache folder that bench/corpus.sh fills; made on first use."""

    def __init__(self) -> None:
        made = subprocess.run([os.path.join(REPOSITORY, "bench", "corpus.sh")], stdout=subprocess.PIPE, text=True, check=False)
        if made.returncode:
            sys.exit(made.returncode)
        self.summary = made.stdout
        self.root = made.stdout.split("\n", 1)[0].split(None, 1)[1]
        # The packages alone, for programs that stop at a FIFO; and with the metadata that packages do not have.
        self.plain = os.path.join(self.root, "plain")
        self.tree = os.path.join(self.root, "tree")

    def archive(self, kind: str) -> str:
        return os.path.join(self.root, f"corpus.{kind}")


def first_line(*argv: str) -> str:
    try:
        said = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    except OSError:
        return "not installed"
    return said.strip().splitlines()[0] if said.strip() else "?"


def machine() -> str:
    """One line that says what the figures were measured on."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) / (1 << 20)
    return f"{model}, {os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}"


def available_gib() -> float:
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable")) / (1 << 20)
