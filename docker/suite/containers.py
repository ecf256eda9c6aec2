"""The image, and containers with the usual restrictions: on privileges, memory, processes, terminals."""

import os
import shutil
import subprocess
import tempfile

from suite.kit import REPOSITORY, Container, Reader, Setting, Skipped, docker, eventually, expect, run, volume
from suite.lab import binary_path


def the_image_is_the_binary(setting: Setting) -> str:
    size = int(docker("inspect", "-f", "{{.Size}}", "volseed"))
    binary = os.path.getsize(binary_path())
    expect(size == binary, f"the image has {size} bytes, the binary {binary}")
    return f"{size / 1e6:.2f} MB"


def the_arm64_binary_seeds_too(setting: Setting) -> str:
    """Under qemu-user; the same tree, with all that tree-diff looks at."""
    binary = binary_path().replace("x86_64", "aarch64")
    if not os.path.exists(binary) or not shutil.which("qemu-aarch64"):
        raise Skipped("rustup target add aarch64-unknown-linux-musl, cargo build for it, apt-get install qemu-user")
    source, target = os.path.join(setting.scratch, "bigshop", "site"), tempfile.mkdtemp(dir=setting.scratch)
    run("qemu-aarch64", binary, "seed", "--from", source, "--to", target)
    shutil.rmtree(os.path.join(target, ".volseed"))
    run(os.path.join(REPOSITORY, "bench", "tree-diff"), source, target)
    return f"{os.path.getsize(binary) / 1e6:.2f} MB, 3,001 files identical"


def a_container_may_be_restricted(setting: Setting) -> str:
    """One container for each restriction, each on an empty volume."""
    seed = ("seed",)
    for name, options in {
        "read-only": ("--read-only",),
        "cap-drop ALL": ("--cap-drop", "ALL"),
        "no-new-privileges": ("--security-opt", "no-new-privileges"),
        "memory 64m": ("--memory", "64m"),
        "pids-limit 32": ("--pids-limit", "32"),
        "init": ("--init",),
        "no network": ("--network", "none"),
    }.items():
        with volume() as site, Container("bigshop", "-v", f"{site}:/srv/www", "--entrypoint", "volseed", *options, command=seed) as one:
            code = one.ends()
            expect(code == 0 and "seeded" in one.logs(), f"{name}: exit {code}: {one.logs()[-400:]}")
    own = tempfile.mkdtemp(dir=setting.scratch)
    os.chown(own, 1000, 1000)
    with Container("bigshop", "-v", f"{own}:/srv/www", "--user", "1000", "--entrypoint", "volseed", command=seed) as one:
        expect(one.ends() == 0, f"user 1000: {one.logs()[-400:]}")
        expect(os.stat(os.path.join(own, "index.html")).st_uid == 1000, "user 1000: another owner")
    return "read-only, cap-drop ALL, no-new-privileges, 64 MB, 32 processes, --init, no network, --user 1000"


def init_in_front_of_us_changes_nothing(setting: Setting) -> str:
    with volume() as site, Container("shop", "--init", "-v", f"{site}:/srv/www") as web:
        web.serves()
        eventually("healthy", lambda: web.state()["Health"]["Status"] == "healthy")
        docker("stop", web.id)
        expect(web.state()["ExitCode"] == 0, f"exit {web.state()['ExitCode']}")
    return ""


def a_shell_is_a_shell(setting: Setting) -> str:
    with volume() as site:
        for supervise in ("", "1"):
            command = f"docker run --rm -it -v {site}:/srv/www -e VOLSEED_SUPERVISE={supervise} -e VOLSEED_LISTEN= shop bash --norc"
            shell = subprocess.Popen(["script", "-qec", command, "/dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            reader = Reader(shell.stdout)
            reader.hears("bash-")
            for line, answer in (("echo sum $((40+2))", "sum 42"), ("sh -c 'echo by $((3+4)); exec sleep 100'", "by 7"), ("\x1a", "Stopped"), ("kill %1; echo two $((1+1))", "two 2")):
                shell.stdin.write(line.encode() + (b"" if line == "\x1a" else b"\n"))
                shell.stdin.flush()
                reader.hears(answer)
            # A shell that does not know yet that its stopped job is gone leaves only when it is told again.
            shell.stdin.write(b"exit 9\nexit 9\n")
            shell.stdin.flush()
            expect(shell.wait(20) == 9, f"exit {shell.returncode}: {reader.said[-300:]!r}")
            expect("job control" not in reader.said, "no job control")
    return "with and without --supervise: job control, Ctrl-Z, exit code"


def an_unmodified_image_starts_through_an_installed_volseed(setting: Setting) -> str:
    with volume() as tools, volume() as site:
        with Container("volseed", "-v", f"{tools}:/tools", command=("install", "/tools")) as one:
            expect(one.ends() == 0, one.logs())
        options = ("-v", f"{tools}:/tools:ro", "-v", f"{site}:/data", "--entrypoint", "/tools/volseed")
        with Container("base", *options, command=("--from", "/etc", "--to", "/data", "--", "cat", "/data/debian_version")) as app:
            expect(app.ends() == 0 and "12" in app.logs(), app.logs())
    return ""


TESTS = [
    the_image_is_the_binary,
    the_arm64_binary_seeds_too,
    a_container_may_be_restricted,
    init_in_front_of_us_changes_nothing,
    a_shell_is_a_shell,
    an_unmodified_image_starts_through_an_installed_volseed,
]
