"""Manifests for compose, Kubernetes and ECS: what they name exists, and they fit their schemas."""

import json
import os
import re
import shutil

from suite.kit import EXAMPLES, REPOSITORY, Setting, Skipped, expect, run


def manifests_name_what_exists(setting: Setting) -> str:
    """Every VOLSEED_ variable of a manifest is an option, every JSON file is JSON, every key of ECS' is one of its API."""
    known = set(re.findall(r"`(VOLSEED_[A-Z_]+)`", open(os.path.join(REPOSITORY, "docs", "options.md")).read()))
    files = 0
    for folder, _, names in os.walk(EXAMPLES):
        for path in (os.path.join(folder, name) for name in names if name.endswith((".json", ".yaml", ".yml", "Dockerfile"))):
            with open(path) as file:
                text = file.read()
            unknown = set(re.findall(r"VOLSEED_[A-Z_]+", text)) - known
            expect(not unknown, f"{path}: {unknown}")
            if path.endswith(".json"):
                check_keys(json.loads(text), "task", path)
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


# The keys that our task definitions use, as Amazon ECS' API reference names them (RegisterTaskDefinition).
ECS_KEYS = {
    "task": "family networkMode requiresCompatibilities cpu memory executionRoleArn taskRoleArn containerDefinitions volumes",
    "containerDefinitions": "name image essential entryPoint command environment mountPoints portMappings healthCheck dependsOn stopTimeout logConfiguration",
    "environment": "name value",
    "mountPoints": "sourceVolume containerPath readOnly",
    "portMappings": "containerPort protocol",
    "healthCheck": "command interval timeout retries startPeriod",
    "dependsOn": "containerName condition",
    "logConfiguration": "logDriver options",
    "volumes": "name efsVolumeConfiguration",
    "efsVolumeConfiguration": "fileSystemId transitEncryption authorizationConfig",
    "authorizationConfig": "accessPointId iam",
}


def check_keys(value: object, place: str, path: str) -> None:
    if isinstance(value, list):
        for item in value:
            check_keys(item, place, path)
    elif isinstance(value, dict) and place in ECS_KEYS:
        unknown = set(value) - set(ECS_KEYS[place].split())
        expect(not unknown, f"{path}: {place} has no {unknown}")
        for key, below in value.items():
            check_keys(below, key, path)


TESTS = [
    manifests_name_what_exists,
    manifests_fit_their_published_schemas,
]
