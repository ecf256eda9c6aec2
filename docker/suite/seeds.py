"""Seeds that are watched, stopped, killed and out of space, and the app after them."""

import os
import re
import signal
import tempfile
import time

from suite.kit import PATIENCE, Container, Setting, docker, eventually, expect, run, volume


def an_empty_volume_is_seeded_and_served(setting: Setting) -> str:
    with volume() as site:
        with Container("shop", "-v", f"{site}:/srv/www") as web:
            web.serves()
            expect("seeded" in web.logs(), "nothing was seeded")
        began = time.monotonic()
        with Container("shop", "-v", f"{site}:/srv/www") as web:
            web.serves()
            expect("already seeded" in web.logs(), "it was seeded again")
            return f"again: serving {time.monotonic() - began:.1f} s after docker create"


def it_is_healthy_all_the_way_on_a_slow_volume(setting: Setting) -> str:
    with setting.slow() as slow, Container("bigshop", "-v", f"{slow}:/srv/www", "-e", "VOLSEED_WORKERS=2") as web:
        seen, began = [], time.monotonic()
        while "open" not in (answer := web.get())[1]:
            health = web.state()["Health"]["Status"]
            seen += [health] if seen[-1:] != [health] else []
            expect(answer[0] in (0, 503, 200), f"answered {answer}")
            expect(time.monotonic() - began < 120, f"never served: {web.logs()[-500:]}")
            time.sleep(0.05)
        took = time.monotonic() - began
        eventually("healthy after the hand-over", lambda: web.state()["Health"]["Status"] == "healthy")
        expect(set(seen) <= {"starting", "healthy"} and "healthy" in seen, f"health went {seen}")
        line = web.state()["Health"]["Log"][-1]["Output"].strip()
        return f"{took:.0f} s of seeding: {' → '.join(seen)} → healthy; last check: {line}"


def a_migration_takes_its_time_and_stays_healthy(setting: Setting) -> str:
    """HOOK_SECONDS says how long it takes."""
    seconds = int(os.environ.get("HOOK_SECONDS", "20"))
    hook = os.path.join(setting.scratch, "hook")
    with open(hook, "w") as file:
        file.write(f"#!/bin/sh\necho in the hook of $1\nsleep {seconds}\n")
    os.chmod(hook, 0o755)
    options = ("-v", f"{hook}:/hook:ro", "-e", "VOLSEED_HOOK=/hook")
    with volume() as site, Container("shop", "-v", f"{site}:/srv/www", *options) as web:
        web.says("in the hook of post-seed")
        began, seen, asked = time.monotonic(), [], 0
        while "open" not in (answer := web.get())[1]:
            health = web.state()["Health"]["Status"]
            seen += [health] if seen[-1:] != [health] else []
            expect(answer[0] in (0, 503), f"answered {answer}")
            if answer[0] == 503:
                expect('"phase":"migrating"' in answer[1], answer[1])
                probe = run("docker", "exec", web.id, "volseed", "health", check=False)
                expect(probe.returncode == 0 or web.get()[0] != 503, f"volseed health: {probe.stdout}{probe.stderr}")
                asked += 1
            expect(time.monotonic() - began < seconds + PATIENCE, f"never served: {web.logs()[-500:]}")
            time.sleep(0.5)
        took = time.monotonic() - began
        expect(set(seen) <= {"starting", "healthy"} and "healthy" in seen, f"health went {seen}")
        expect(took >= seconds - 1, f"the app came after {took:.1f} s")
    return f"{took:.0f} s in the hook: {' → '.join(seen)}, asked {asked} times"


def docker_stop_ends_a_seed_and_the_next_start_goes_on(setting: Setting) -> str:
    with setting.slow() as slow, Container("bigshop", "-v", f"{slow}:/srv/www", "-e", "VOLSEED_WORKERS=2") as web:
        web.says("seeding")
        time.sleep(1)
        began = time.monotonic()
        docker("stop", web.id)
        took = time.monotonic() - began
        expect(web.state()["ExitCode"] == 143, f"exit {web.state()['ExitCode']}")
        expect(took < 3, f"docker stop took {took:.1f} s")
        web.start()
        web.serves()
        reused = int(re.findall(r"reused=(\d+)", web.logs())[-1])
        expect(reused > 0, "nothing of the first seed was kept")
        return f"stopped in {took:.1f} s, {reused} files not copied again"


def docker_stop_ends_the_app(setting: Setting) -> str:
    took = []
    for supervise in ("", "1"):
        with volume() as site, Container("shop", "-v", f"{site}:/srv/www", "-e", f"VOLSEED_SUPERVISE={supervise}") as web:
            web.serves()
            began = time.monotonic()
            docker("stop", web.id)
            took.append(time.monotonic() - began)
            expect(web.state()["ExitCode"] == 0 and took[-1] < 5, f"exit {web.state()['ExitCode']} after {took[-1]:.1f} s")
    return f"exec {took[0]:.1f} s, --supervise {took[1]:.1f} s, exit 0 both"


def a_killed_container_is_restarted_and_goes_on(setting: Setting) -> str:
    options = ("--restart", "on-failure", "-e", "VOLSEED_WORKERS=2")
    with setting.slow() as slow, Container("bigshop", "-v", f"{slow}:/srv/www", *options) as web:
        web.says("seeding")
        time.sleep(1)
        # From outside, as the machine's memory killer would: `docker kill` counts as wanted.
        os.kill(web.state()["Pid"], signal.SIGKILL)
        web.serves()
        expect(docker("inspect", "-f", "{{.RestartCount}}", web.id) == "1", "it was not restarted once")
        return f"{re.findall(r'reused=([0-9]+)', web.logs())[-1]} files not copied again"


def a_full_volume_says_so_and_goes_on_once_it_is_larger(setting: Setting) -> str:
    at = tempfile.mkdtemp(dir=setting.scratch)
    run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", at)
    try:
        with Container("bigshop", "-v", f"{at}:/srv/www", "--entrypoint", "volseed", command=("seed",)) as one:
            code = one.ends()
            expect(code == 73 and ("is full" in one.logs() or "no space left" in one.logs()), f"exit {code}: {one.logs()[-400:]}")
            run("mount", "-o", "remount,size=64m", at)
            one.start()
            expect(one.ends() == 0, f"enlarged: {one.logs()[-400:]}")
            return f"exit 73, then {re.findall(r'reused=([0-9]+)', one.logs())[-1]} files not copied again"
    finally:
        run("umount", at)


TESTS = [
    an_empty_volume_is_seeded_and_served,
    it_is_healthy_all_the_way_on_a_slow_volume,
    a_migration_takes_its_time_and_stays_healthy,
    docker_stop_ends_a_seed_and_the_next_start_goes_on,
    docker_stop_ends_the_app,
    a_killed_container_is_restarted_and_goes_on,
    a_full_volume_says_so_and_goes_on_once_it_is_larger,
]
