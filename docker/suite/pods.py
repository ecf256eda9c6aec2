"""Pods of podman, from the manifests of examples/kubernetes: the images, the claim, what a kubelet does and podman not.

Podman runs pods, config maps, init containers and security contexts. This module does the rest as Kubernetes documents
it: the claim's volume gets the group of fsGroup, probes are requests to the pod's address, a Job is its pod, and a
native sidecar is a pod of its own before the app's.
"""

import contextlib
import copy
import functools
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from typing import Iterator

import yaml

from suite.kit import EXAMPLES, REPOSITORY, eventually, expect, run
from suite.lab import archive, binary_path, fill

MANIFESTS = os.path.join(EXAMPLES, "kubernetes")
# Podman raises the limits of processes and open files to the kernel's, which a container that this runs in may not.
RUNTIME = """#!/usr/bin/env python3
import json, os, sys
if "--bundle" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    with open(path) as file:
        spec = json.load(file)
    spec["process"].pop("rlimits", None)
    with open(path, "w") as file:
        json.dump(spec, file)
os.execvp("%s", ["runtime", *sys.argv[1:]])
"""

class Pod:
    """A pod that runs."""

    def __init__(self, podman: "Podman", name: str, spec: dict):
        self.podman, self.name, self.spec = podman, name, spec

    def container(self, name: str) -> str:
        return f"{self.name}-{name}"

    def inspect(self, name: str) -> dict:
        return json.loads(self.podman("inspect", self.container(name)))[0]

    def logs(self, name: str) -> str:
        return self.podman("logs", self.container(name))

    def ends(self, name: str) -> int:
        eventually(f"the end of {name}", lambda: self.inspect(name)["State"]["Status"] == "exited")
        return self.inspect(name)["State"]["ExitCode"]

    @functools.cached_property
    def address(self) -> str:
        infra = json.loads(self.podman("pod", "inspect", self.name))["InfraContainerID"]
        networks = json.loads(self.podman("inspect", infra))[0]["NetworkSettings"]["Networks"]
        return next(iter(networks.values()))["IPAddress"]

    def get(self, port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def probe(self, name: str, kind: str) -> int:
        """What the probe of a container is answered, as a kubelet asks it."""
        [container] = [each for each in self.spec["containers"] if each["name"] == name]
        request = container[kind]["httpGet"]
        return self.get(request["port"], request["path"])[0]

    def serves(self) -> None:
        eventually(lambda: f"{self.name} serves: {self.logs('web')[-500:]}", lambda: "open" in self.get(8080, "/")[1])

    def expect_restricted(self, name: str) -> None:
        """Everything that the security context asks for is so."""
        state = self.inspect(name)
        with open(f"/proc/{state['State']['Pid']}/status") as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        expected = {"Uid": "1000\t1000\t1000\t1000", "Gid": "1000\t1000\t1000\t1000", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
        found = {key: status[key].strip() for key in expected}
        expect(found == expected, f"{self.container(name)}: {found}")
        expect(state["HostConfig"]["ReadonlyRootfs"], f"{self.container(name)}: its root file system can be written")


class Podman:
    """Podman with storage of its own, and the images that the manifests name."""

    def __init__(self, scratch: str):
        self.scratch = scratch
        runtime = os.path.join(scratch, "runtime")
        with open(runtime, "w") as file:
            file.write(RUNTIME % (shutil.which("runc") or "crun"))
        os.chmod(runtime, 0o755)
        config = os.path.join(scratch, "containers.conf")
        with open(config, "w") as file:
            file.write(f'[engine]\nruntime = "as-is"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n[engine.runtimes]\nas-is = ["{runtime}"]\n')
        self.environment = os.environ | {"CONTAINERS_CONF": config}
        self.flags = tuple(f"--{name}={os.path.join(scratch, name)}" for name in ("root", "runroot", "tmpdir"))

    def __call__(self, *command: str, check: bool = True) -> str:
        done = run("podman", *self.flags, *command, check=check, env=self.environment)
        return done.stdout if command[0] in ("inspect", "pod") else (done.stdout + done.stderr)

    def images(self) -> None:
        self("import", "-c", "CMD bash", archive("base"), "base")
        context = os.path.join(self.scratch, "context")
        shutil.copytree(os.path.join(EXAMPLES, "nginx"), context)
        fill(os.path.join(context, "site"), 3000)
        shutil.copy(binary_path(), os.path.join(context, "volseed"))
        self("build", "-q", "-t", "volseed", "-f", os.path.join(REPOSITORY, "docker", "binary.Dockerfile"), context)
        self("build", "-q", "--format", "docker", "-t", "shop:1", "--build-arg", "BASE=localhost/base", "--build-arg", "VOLSEED=localhost/volseed", context)
        # A stand-in for nginxinc/nginx-unprivileged: port 8080, any user, nothing written outside /tmp.
        [config] = [each["data"]["nginx.conf"] for each in documents("entrypoint.yaml") if each["kind"] == "ConfigMap"]
        with open(os.path.join(context, "nginx.conf"), "w") as file:
            file.write(config.replace("/srv/www", "/usr/share/nginx/html"))
        with open(os.path.join(context, "unprivileged.Dockerfile"), "w") as file:
            file.write('FROM localhost/base\nCOPY nginx.conf /etc/nginx/nginx.conf\nCMD ["nginx"]\n')
        self("build", "-q", "-t", "nginxinc/nginx-unprivileged:1.27", "-f", os.path.join(context, "unprivileged.Dockerfile"), context)

    def remove(self) -> None:
        """Removes everything, so that the scratch folder can be."""
        self("system", "reset", "--force", check=False)

    @contextlib.contextmanager
    def claim(self, directory: str | None = None) -> Iterator[str]:
        """The volume of the manifests' claim, as a kubelet hands it to pods with `fsGroup: 1000`; where it is."""
        at = directory or tempfile.mkdtemp(dir=self.scratch)
        os.chown(at, 0, 1000)
        os.chmod(at, 0o2775)
        self("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", f"device={at}", "site")
        try:
            yield at
        finally:
            self("pod", "rm", "-af", "-t", "1", check=False)
            self("volume", "rm", "-af", check=False)

    @contextlib.contextmanager
    def play(self, manifest: str, only: str | None = None, **environment: str) -> Iterator[list[Pod]]:
        """`podman kube play`: the pods of a manifest, or of one of its containers alone, with variables added."""
        played, names, spec = [], [], {}
        for document in documents(manifest):
            if document["kind"] == "PersistentVolumeClaim":
                continue
            if document["kind"] in ("Deployment", "Job"):
                spec = document["spec"]["template"]["spec"]
                adapt(spec, only, environment)
                name = document["metadata"]["name"]
                replicas = document["spec"].get("replicas", 1) if only is None else 1
                names = [f"{name}-{only or ''}{number}" for number in range(replicas)]
                # Otherwise podman removes an init container that has ended, and with it what it said.
                annotations = {"io.podman.annotations.init.container.type": "always"}
                played += [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": each, "annotations": annotations}, "spec": copy.deepcopy(spec)} for each in names]
            else:
                played.append(document)
        path = os.path.join(self.scratch, f"{only or 'all'}-{manifest}")
        with open(path, "w") as file:
            yaml.safe_dump_all(played, file)
        try:
            self("kube", "play", path)
            yield [Pod(self, each, spec) for each in names]
        finally:
            self("pod", "rm", "-f", "-t", "1", *names, check=False)


def documents(manifest: str) -> list[dict]:
    with open(os.path.join(MANIFESTS, manifest)) as file:
        return list(yaml.safe_load_all(file))


def adapt(spec: dict, only: str | None, environment: dict[str, str]) -> None:
    """What podman has no word for: ports would be the host's, a sidecar is not awaited, and an init container that has
    ended is restarted like any other."""
    if "initContainers" in spec:
        spec["restartPolicy"] = "OnFailure"
    if only is not None:
        spec["containers"] = [each for each in spec.pop("initContainers", []) + spec["containers"] if each["name"] == only]
        spec["containers"][0].pop("restartPolicy", None)
    for container in spec.get("initContainers", []) + spec["containers"]:
        container.pop("ports", None)
        container.setdefault("env", []).extend({"name": name, "value": value} for name, value in environment.items())
