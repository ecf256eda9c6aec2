"""The engine and the images: an engine of our own where none answers, base images from debootstrap, nothing pulled."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from typing import Iterator

from suite.kit import EXAMPLES, REPOSITORY, docker, eventually, run

TARGET = "x86_64-unknown-linux-musl"
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "volseed-docker")


def binary_path() -> str:
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(REPOSITORY, "target"))
    return os.environ.get("VOLSEED_BIN") or os.path.join(target, TARGET, "release", "volseed")


@contextlib.contextmanager
def engine(scratch: str) -> Iterator[None]:
    """An engine that answers, or one of our own that ends with us."""
    if run("docker", "version", check=False).returncode == 0:
        yield
        return
    if not shutil.which("dockerd"):
        sys.exit("error: no Docker engine\nhelp: apt-get install docker.io docker-compose")
    socket = f"unix://{scratch}/docker.sock"
    log = open(os.path.join(scratch, "dockerd.log"), "wb")
    flags = ("--data-root", f"{scratch}/data", "--exec-root", f"{scratch}/exec", "--pidfile", f"{scratch}/pid", "-H", socket)
    daemon = subprocess.Popen(["dockerd", *flags], stdout=log, stderr=log)
    os.environ["DOCKER_HOST"] = socket
    try:
        eventually("an engine", lambda: run("docker", "version", check=False).returncode == 0 or daemon.poll())
        yield
    finally:
        daemon.terminate()
        daemon.wait()
        log.close()


# What the images are made of: a web server, and the real apps with all that they need.
PACKAGES = {
    "base": "nginx-light",
    "rust": "ca-certificates,gcc,libc6-dev",
    "apps": "apache2,libapache2-mod-php8.2,php8.2-fpm,php8.2-cli,php8.2-mysql,php8.2-gd,php8.2-xml,php8.2-mbstring,php8.2-curl,php8.2-zip,php8.2-intl,"
    "nginx-light,mariadb-server,wordpress,wordpress-theme-twentytwentythree,dokuwiki,python3-django,gunicorn",
}


def version(image: str) -> str:
    return f"{zlib.crc32(PACKAGES[image].encode()):08x}"


def archive(image: str) -> str:
    """An archive of Debian with some packages, which is made once."""
    archive = os.path.join(CACHE, f"{image}-{version(image)}.tar")
    if not os.path.exists(archive):
        os.makedirs(CACHE, exist_ok=True)
        print(f"making the image '{image}' with debootstrap, once", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as root:
            run("debootstrap", "--variant=minbase", f"--include={PACKAGES[image]}", "bookworm", root)
            run("tar", "-C", root, "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*", "-cf", f"{archive}.part", ".")
            os.rename(f"{archive}.part", archive)
    return archive


@functools.cache
def debian(image: str) -> str:
    """An image of Debian with some packages."""
    name = f"{image}:{version(image)}"
    # An engine that is there for longer has it, and what was built of it.
    if run("docker", "image", "inspect", name, check=False).returncode:
        docker("import", "-c", "CMD bash", archive(image), name)
    docker("tag", name, image)
    return image


def build(image: str, folder: str, *options: str) -> None:
    docker("build", "-q", "-t", image, *options, folder)


def volseed_image(scratch: str) -> None:
    context = os.path.join(scratch, "volseed")
    os.mkdir(context)
    shutil.copy(binary_path(), os.path.join(context, "volseed"))
    build("volseed", context, "-f", os.path.join(REPOSITORY, "docker", "binary.Dockerfile"))


def shops(scratch: str) -> None:
    """Images with a small web server, which the tests without a real app use."""
    debian("base")
    build("shop", os.path.join(EXAMPLES, "nginx"), "--build-arg", "BASE=base")
    # The same with so many files that a seed can be disturbed.
    big = os.path.join(scratch, "bigshop")
    shutil.copytree(os.path.join(EXAMPLES, "nginx"), big)
    fill(os.path.join(big, "site"), 3000)
    build("bigshop", big, "--build-arg", "BASE=base")
    pair = os.path.join(scratch, "owncloud-like")
    shutil.copytree(os.path.join(EXAMPLES, "owncloud-like"), pair)
    os.mkdir(app := os.path.join(pair, "app"))
    shutil.copy(os.path.join(EXAMPLES, "nginx", "site", "index.html"), app)
    fill(app, 5000)
    with open(os.path.join(app, "version.php"), "w") as file:
        file.write("<?php $version = 1;\n")
    build("stock", pair, "-f", os.path.join(pair, "before.Dockerfile"), "--build-arg", "BASE=base")
    build("ours", pair, "--build-arg", "BASE=base")


def fill(folder: str, files: int) -> None:
    for number in range(files):
        directory = os.path.join(folder, "assets", f"{number % 40:02}")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"{number}.txt"), "w") as file:
            file.write(f"{number}\n" * 100)


def docker_version() -> str:
    return run("dockerd", "--version", check=False).stdout.strip() or "Docker"
