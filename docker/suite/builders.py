"""docker/Dockerfile with the legacy builder and with BuildKit, from a base image under the name that it uses.

The base image is Debian with a C compiler (for build scripts), this machine's Rust and the crates that it has fetched,
laid out as in Docker's official image of Rust. Nothing is pulled, and the builds need no network.
"""

import functools
import hashlib
import os
import re
import subprocess
import tarfile
import tempfile

from suite.kit import REPOSITORY, Skipped, docker, expect, run
from suite.lab import debian

DOCKERFILE = os.path.join(REPOSITORY, "docker", "Dockerfile")
RUSTUP = os.environ.get("RUSTUP_HOME") or os.path.expanduser("~/.rustup")
CARGO = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")


@functools.cache
def rust_image() -> str:
    """Makes the image that the Dockerfile builds from; its name."""
    with open(DOCKERFILE) as file:
        version = re.search(r"^ARG RUST=(.+)$", file.read(), re.M)[1]
    toolchain = f"{version}-x86_64-unknown-linux-gnu"
    installed = os.path.realpath(os.path.join(RUSTUP, "toolchains", toolchain))
    targets = [f"{machine}-unknown-linux-musl" for machine in ("x86_64", "aarch64")]
    if not all(os.path.isdir(os.path.join(installed, "lib/rustlib", target)) for target in targets):
        raise Skipped(f"rustup toolchain install {version} --target {','.join(targets)}")
    for target in (*targets, "x86_64-unknown-linux-gnu"):
        run("cargo", "fetch", "--locked", "--target", target, cwd=REPOSITORY)
    folders = {
        f"rustup/toolchains/{toolchain}": installed,
        "rustup/settings.toml": os.path.join(RUSTUP, "settings.toml"),
        "cargo/bin": os.path.join(CARGO, "bin"),
        "cargo/registry/cache": os.path.join(CARGO, "registry/cache"),
        "cargo/registry/index": os.path.join(CARGO, "registry/index"),
    }
    container = docker("create", debian("rust")).splitlines()[-1]
    with subprocess.Popen(["docker", "cp", "-", f"{container}:/usr/local"], stdin=subprocess.PIPE) as copy:
        with tarfile.open(fileobj=copy.stdin, mode="w|") as tar:
            for place, folder in folders.items():
                tar.add(folder, place, filter=lambda member: None if "/share/doc" in member.name else member)
        copy.stdin.close()
        expect(copy.wait() == 0, "docker cp failed")
    environment = f"ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true RUSTUP_TOOLCHAIN={toolchain} PATH=/usr/local/cargo/bin:/usr/local/bin:/usr/bin:/bin"
    name = f"rust:{version}-slim-bookworm"
    docker("commit", "--change", environment, container, name)
    docker("rm", container)
    return name


@functools.cache
def commit() -> str:
    return run("git", "-C", REPOSITORY, "rev-parse", "--short=12", "HEAD").stdout.strip()


@functools.cache
def buildkit_client() -> str:
    """A client that can use BuildKit: since Docker 23 that takes buildx, and Debian 12 has the one before."""
    for client in ("docker", "/usr/bin/docker"):
        done = run(client, "build", "-q", "-", check=False, input="FROM scratch\nLABEL of=nothing\n", env=os.environ | {"DOCKER_BUILDKIT": "1"})
        if done.returncode == 0:
            return client
    raise Skipped(f"BuildKit cannot be used: {done.stderr.strip()[-200:]}")


@functools.cache
def digest(buildkit: bool, platform: str) -> str:
    """Builds the image; the digest of the binary in it."""
    rust_image()
    image = f"volseed:{'buildkit' if buildkit else 'legacy'}-{platform.split('/')[1]}"
    options = ("--platform", platform) if buildkit else ()
    command = (buildkit_client() if buildkit else "docker", "build", "-q", "-f", DOCKERFILE, "--build-arg", f"COMMIT={commit()}", "-t", image, *options, REPOSITORY)
    run(*command, env=os.environ | {"DOCKER_BUILDKIT": str(int(buildkit))})
    # Only its ID: for another platform there is a warning, too.
    container = run("docker", "create", image).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        docker("cp", f"{container}:/volseed", f"{folder}/volseed")
        docker("rm", container)
        with open(f"{folder}/volseed", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()


def the_legacy_builder_builds_the_image() -> str:
    found = digest(False, "linux/amd64")
    said = docker("run", "--rm", "volseed:legacy-amd64", "--version")
    expect(f"({commit()})" in said, said)
    return f"{said}, sha256 {found[:16]}…"


def buildkit_builds_the_same_binary() -> str:
    expect(digest(True, "linux/amd64") == digest(False, "linux/amd64"), "the builders build different binaries")
    said = docker("run", "--rm", "volseed:buildkit-amd64", "--version")
    expect(f"({commit()})" in said, said)
    return "the same digest"


def buildkit_builds_for_arm64() -> str:
    found = digest(True, "linux/arm64")
    architecture = docker("inspect", "-f", "{{.Architecture}}", "volseed:buildkit-arm64")
    expect(architecture == "arm64", f"the image is for {architecture}")
    return f"sha256 {found[:16]}…"


def the_images_have_the_binaries_of_the_release() -> str:
    """Those in dist/, which .ci/release has built here from the same commit."""
    dist = os.path.join(REPOSITORY, "dist")
    release = {name: os.path.join(dist, f"volseed-{name}") for name in ("x86_64", "aarch64")}
    if not all(map(os.path.exists, release.values())):
        raise Skipped("run .ci/release first")
    said = run(release["x86_64"], "--version").stdout
    if f"({commit()})" not in said:
        raise Skipped(f"dist/ has {said.strip()}: run .ci/release first, in a tree without changes")
    for name, platform in (("x86_64", "linux/amd64"), ("aarch64", "linux/arm64")):
        with open(release[name], "rb") as file:
            expect(hashlib.sha256(file.read()).hexdigest() == digest(True, platform), f"{name}: dist/ has another binary")
    return "x86_64 and aarch64, byte for byte"


TESTS = [
    the_legacy_builder_builds_the_image,
    buildkit_builds_the_same_binary,
    buildkit_builds_for_arm64,
    the_images_have_the_binaries_of_the_release,
]
