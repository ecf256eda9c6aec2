"""The folders of examples/ that need no app but a small web server."""

import os
import time

from suite.kit import EXAMPLES, Container, Setting, docker, eventually, expect, run, volume


def three_replicas_of_compose_share_a_volume(setting: Setting) -> str:
    folder = os.path.join(EXAMPLES, "compose-web")
    compose = ("docker-compose", "-p", f"volseed{os.getpid()}", "-f", os.path.join(folder, "docker-compose.yml"))
    try:
        run(*compose, "up", "-d", "--scale", "web=3")
        ids = run(*compose, "ps", "-q", "web").stdout.split()
        expect(len(ids) == 3, f"{len(ids)} containers")
        logs = [eventually("served", lambda: "handing over" in (log := docker("logs", each)) and log) for each in ids]
        seeders = sum(" seeding " in log for log in logs)
        expect(seeders == 1, f"{seeders} of them seeded")
        began = time.monotonic()
        run(*compose, "restart", "web")
        for each in ids:
            eventually("served again", lambda: docker("logs", each).count("handing over") == 2)
        return f"1 of 3 seeded; restarted in {time.monotonic() - began:.1f} s"
    finally:
        run(*compose, "down", "-v", "-t", "1", check=False)


def an_app_waits_for_a_container_that_seeds(setting: Setting) -> str:
    compose = ("docker-compose", "-p", f"volseed{os.getpid()}", "-f", os.path.join(EXAMPLES, "init-container", "docker-compose.yml"))
    try:
        run(*compose, "up", "-d")
        app = run(*compose, "ps", "-q", "app").stdout.strip()
        eventually("plain nginx serves", lambda: "open" in docker("exec", app, "cat", "/srv/www/index.html", check=False))
        expect(docker("exec", app, "cat", "/proc/1/comm") == "nginx", "something stands in front of nginx")
        return "service_completed_successfully, then plain nginx on a read-only volume"
    finally:
        run(*compose, "down", "-v", "-t", "1", check=False)


def an_entry_point_of_the_image_s_own_runs_behind_us(setting: Setting) -> str:
    with volume() as site:
        with Container("blog", "-v", f"{site}:/var/www/html", "-e", "SHOP_DATABASE=db") as web:
            web.serves()
            expect("db" in web.get("/config.json")[1], "its configuration is not there")
            eventually("healthy", lambda: web.state()["Health"]["Status"] == "healthy")
            docker("stop", web.id)
            expect(web.state()["ExitCode"] == 0 and "app ended" in web.logs(), f"exit {web.state()['ExitCode']}: {web.logs()[-300:]}")
        # Another command, with its own volume left alone.
        with volume() as other, Container("blog", "-v", f"{other}:/var/www/html", "--entrypoint", "volseed", command=("--", "ls", "-A", "/var/www/html")) as one:
            expect(one.ends() == 0 and "version.php" not in one.logs(), one.logs())
    return "adopts, supervises, SIGTERM as SIGQUIT, --only-for"


def beside_the_stock_entry_point(setting: Setting) -> str:
    """Both on the same slow volume, restarted as an orchestrator would: after three failed checks."""
    told = []
    for image in ("stock", "ours"):
        with setting.slow() as slow, Container(image, "-v", f"{slow}:/srv/www") as web:
            began, history, kills, status = time.monotonic(), [], 0, ""
            while time.monotonic() - began < 60 and "open" not in web.get()[1]:
                state = web.state()
                if state["Health"]["Status"] != status:
                    status = state["Health"]["Status"]
                    history.append(f"{time.monotonic() - began:.0f} s {status}")
                if status == "unhealthy":
                    docker("kill", web.id)
                    kills += 1
                    history.append("killed")
                    if kills == 2:
                        break
                    web.start()
                time.sleep(0.1)
            else:
                history.append(f"{time.monotonic() - began:.0f} s serves" if "open" in web.get()[1] else "60 s, still copying")
            if image == "ours":
                expect(not kills and "serves" in history[-1], f"ours: {history}")
            else:
                expect(kills > 0, f"stock: {history}")
            told.append(f"{image}: {', '.join(history)}")
    return "; ".join(told)


TESTS = [
    three_replicas_of_compose_share_a_volume,
    an_app_waits_for_a_container_that_seeds,
    an_entry_point_of_the_image_s_own_runs_behind_us,
    beside_the_stock_entry_point,
]
