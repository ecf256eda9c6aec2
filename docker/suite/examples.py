"""The folders of examples/ that need no app but a small web server."""

import re
import time

from suite.kit import Compose, Container, Running, Setting, docker, eventually, expect
from suite.recipe import throttle


def three_replicas_of_compose_share_a_volume(setting: Setting) -> str:
    with Compose("compose-web") as compose:
        compose("up", "-d", "--scale", "web=3")
        replicas = compose.containers("web")
        expect(len(replicas) == 3, f"{len(replicas)} containers")
        seeders = sum(" seeding " in each.says("handing over") for each in replicas)
        expect(seeders == 1, f"{seeders} of them seeded")
        began = time.monotonic()
        compose("restart", "web")
        for each in replicas:
            eventually("served again", lambda: each.logs().count("handing over") == 2)
        return f"1 of 3 seeded; restarted in {time.monotonic() - began:.1f} s"


def an_app_waits_for_a_container_that_seeds(setting: Setting) -> str:
    with Compose("init-container") as compose:
        compose("up", "-d")
        [app] = compose.containers("app")
        eventually("plain nginx serves", lambda: "open" in docker("exec", app.id, "cat", "/srv/www/index.html", check=False))
        expect(app.run("cat", "/proc/1/comm").strip() == "nginx", "something stands in front of nginx")
        return "service_completed_successfully, then plain nginx on a read-only volume"


def a_service_waits_until_the_app_of_another_answers(setting: Setting) -> str:
    with Compose("depends-on", SHOP_IMAGE="bigshop") as compose:
        compose("up", "--no-start")
        # So slow that it is asked for its health in the seed.
        throttle([Running(each) for each in compose("ps", "-a", "-q", "web").split()], 0.03)
        compose("up", "-d")
        [web], [worker] = compose.containers("web"), compose.containers("worker")
        worker.says("the shop is open")
        started = worker.state()["StartedAt"]
        handed = re.findall(r"(\S+)Z +INFO handing over", web.logs())
        expect(bool(handed) and handed[0] < started, f"it started at {started}, and the app at {handed}")
    return f"service_healthy: the app at {handed[0][11:19]}, the service at {started[11:19]}"


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
    a_service_waits_until_the_app_of_another_answers,
    beside_the_stock_entry_point,
]
