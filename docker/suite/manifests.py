"""Manifests for compose and Kubernetes: what they name exists, and they fit their schemas. Those for ECS have examples/ecs/check."""

import os
import re
import shutil

from suite.kit import EXAMPLES, REPOSITORY, Setting, Skipped, expect, run


def manifests_name_what_exists(setting: Setting) -> str:
    """Every VOLSEED_ variable of a manifest is an option."""
    known = set(re.findall(r"`(VOLSEED_[A-Z_]+)`", open(os.path.join(REPOSITORY, "docs", "options.md")).read()))
    files = 0
    for folder, _, names in os.walk(EXAMPLES):
        for path in (os.path.join(folder, name) for name in names if name.endswith((".json", ".yaml", ".yml", "Dockerfile"))):
            with open(path) as file:
                text = file.read()
            unknown = set(re.findall(r"VOLSEED_[A-Z_]+", text)) - known
            expect(not unknown, f"{path}: {unknown}")
            files += 1
    return f"{files} files"


def manifests_fit_their_published_schemas(setting: Setting) -> str:
    """Kubernetes' by kubernetes-validate, strictly; compose files by docker-compose itself."""
    if not shutil.which("kubernetes-validate"):
        raise Skipped("pip install kubernetes-validate")
    folder = os.path.join(EXAMPLES, "kubernetes")
    manifests = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".yaml")]
    run("kubernetes-validate", "--strict", "--quiet", *manifests)
    for example in ("compose-web", "init-container"):
        run("docker-compose", "-f", os.path.join(EXAMPLES, example, "docker-compose.yml"), "config", "-q")
    return run("kubernetes-validate", "--version").stdout.strip()


TESTS = [
    manifests_name_what_exists,
    manifests_fit_their_published_schemas,
]
