"""The manifests of examples/kubernetes, played by podman: nobody is root, and nothing can be written but volumes."""

import os
import time

from suite.kit import PATIENCE, Setting, eventually, expect
from suite.pods import Pod, Podman

# So slow that a seed can be watched on a volume with a round trip.
SLOWLY = {"VOLSEED_WORKERS": "2"}


def three_pods_share_a_claim(podman: Podman, setting: Setting) -> str:
    with podman.claim() as site:
        with podman.play("entrypoint.yaml") as pods:
            for pod in pods:
                pod.serves()
                pod.expect_restricted("web")
                answers = [pod.probe("web", kind) for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
                expect(answers == [200, 200, 200], f"probes: {answers}")
            logs = [pod.logs("web") for pod in pods]
            seeders = sum('"message":"seeding"' in log for log in logs)
            expect(seeders == 1, f"{seeders} of them seeded")
            expect(not any('"level":"WARN"' in log for log in logs), f"a warning: {[log for log in logs if 'WARN' in log]}")
        found = os.stat(os.path.join(site, "index.html"))
        expect((found.st_uid, found.st_gid) == (1000, 1000), f"index.html belongs to {found.st_uid}:{found.st_gid}")
        began = time.monotonic()
        with podman.play("entrypoint.yaml") as pods:
            for pod in pods:
                pod.serves()
                expect("already seeded" in pod.logs("web"), "a second pod does not find it complete")
        return f"1 of 3 seeded, all serve; three more find it complete ({time.monotonic() - began:.0f} s with podman)"


def probes_are_answered_while_a_pod_seeds(podman: Podman, setting: Setting) -> str:
    with setting.slow() as slow, podman.claim(slow), podman.play("entrypoint.yaml", only="web", **SLOWLY) as [pod]:
        eventually("the first answer", lambda: pod.get(8080, "/livez")[0])
        refused = refusals(pod, "web", "readinessProbe")
        pod.serves()
        return f"live all the way, not ready {refused} times, then ready"


def refusals(pod: Pod, name: str, kind: str) -> int:
    """Asks a probe until it passes, while the container is live; how often it was refused before."""
    refused, began = 0, time.monotonic()
    while (answer := pod.probe(name, kind)) != 200:
        expect(answer == 503, f"{kind}: {answer}: {pod.logs(name)[-500:]}")
        expect(pod.probe(name, "livenessProbe") == 200, "not live while it seeds")
        expect(time.monotonic() - began < 2 * PATIENCE, f"{kind} never passes: {pod.logs(name)[-500:]}")
        refused += 1
        time.sleep(0.2)
    expect(refused > 3, f"{kind} passed after {refused} refusals")
    return refused


def an_init_container_seeds_before_the_app(podman: Podman, setting: Setting) -> str:
    with podman.claim(), podman.play("init.yaml") as pods:
        for pod in pods:
            expect(pod.ends("seed") == 0, pod.logs("seed")[-500:])
            eventually("plain nginx serves", lambda: pod.probe("web", "readinessProbe") == 200)
            pod.expect_restricted("web")
            ended, started = pod.inspect("seed")["State"]["FinishedAt"], pod.inspect("web")["State"]["StartedAt"]
            expect(ended <= started, f"the app started at {started}, the seed ended at {ended}")
        seeders = sum('"message":"seeding"' in pod.logs("seed") for pod in pods)
        expect(seeders == 1, f"{seeders} of them seeded")
        return "1 of 3 seeded; plain nginx on a read-only mount"


def a_job_seeds_and_ends(podman: Podman, setting: Setting) -> str:
    told = []
    with podman.claim():
        for message in ("seeded", "already seeded"):
            with podman.play("job.yaml") as [pod]:
                code = pod.ends("seed")
                expect(code == 0 and f'"message":"{message}"' in pod.logs("seed"), f"exit {code}: {pod.logs('seed')[-500:]}")
                told.append(message)
    return ", then ".join(told)


def a_native_sidecar_delays_the_app(podman: Podman, setting: Setting) -> str:
    """A kubelet starts the app when the startup probe of the sidecar passes; podman does not know sidecars."""
    with setting.slow() as slow, podman.claim(slow):
        with podman.play("sidecar.yaml", only="seed", **SLOWLY) as [sidecar]:
            eventually("the first answer", lambda: sidecar.probe("seed", "livenessProbe") == 200)
            refused = refusals(sidecar, "seed", "startupProbe")
            with podman.play("sidecar.yaml", only="web") as [web]:
                eventually("plain nginx serves", lambda: web.probe("web", "readinessProbe") == 200)
                sidecar.expect_restricted("seed")
                expect(sidecar.probe("seed", "livenessProbe") == 200, "not live next to the app")
            podman("stop", "-t", "10", sidecar.container("seed"))
            expect(sidecar.ends("seed") == 0, f"exit {sidecar.ends('seed')}")
            return f"started after {refused} startup probes that were answered with 503; SIGTERM ends the sidecar with 0"


TESTS = [
    three_pods_share_a_claim,
    probes_are_answered_while_a_pod_seeds,
    an_init_container_seeds_before_the_app,
    a_job_seeds_and_ends,
    a_native_sidecar_delays_the_app,
]
