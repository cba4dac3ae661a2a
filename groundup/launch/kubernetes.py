"""Manifests that run a recipe on a Kubernetes cluster: a TrainJob of Kubeflow Trainer, or a JobSet.

Both come with the recipe as a ConfigMap. Pods share a volume, which holds the data and the run folder.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

PORT = 29400
SHARED = "/mnt/groundup"
RECIPE = "/groundup/recipe.toml"
# The rendezvous never ends by itself.
_POLICIES = {
    "successPolicy": {"operator": "All", "targetReplicatedJobs": ["node"]},
    "failurePolicy": {"maxRestarts": 3},
}


@dataclass(frozen=True)
class KubernetesJob:
    """What goes into the manifest. `words`: the verb and its options that are the same on every node."""

    name: str
    summary: str
    recipe: str
    words: list[str]
    image: str
    nodes: int
    gpus: int
    claim: str


def job_name(name: str) -> str:
    """A recipe's name as a DNS label that leaves room for what is appended to it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "groundup"


def manifest(job: KubernetesJob, kind: str) -> str:
    """The YAML documents. `kind`: trainjob or jobset."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{job.name}-recipe"},
        "data": {"recipe.toml": job.recipe},
    }
    documents = [config, *(_train_job(job) if kind == "trainjob" else [_job_set(job)])]
    head = f"# {job.summary}\n# Written by `groundup launch kubernetes`. Start it with: kubectl create -f FILE\n"
    return head + "---\n".join(to_yaml(document) for document in documents)


def _job_set(job: KubernetesJob) -> dict[str, Any]:
    """Training pods, and one for the rendezvous."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": job.name},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": job.name},
            **_POLICIES,
            "replicatedJobs": [
                {"name": "rendezvous", "replicas": 1, "template": {"spec": _indexed(1, _store(job))}},
                {"name": "node", "replicas": 1, "template": {"spec": _indexed(job.nodes, _training_pod(job))}},
            ],
        },
    }


def _train_job(job: KubernetesJob) -> list[dict[str, Any]]:
    """A runtime of its own, so that the cluster needs none, with a pod for the rendezvous; and the TrainJob."""
    version = "trainer.kubeflow.org/v1alpha1"
    store = {"name": "rendezvous", "replicas": 1, "template": {"spec": _indexed(1, _store(job))}}
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"backoffLimit": 0, "template": {"spec": _training_pod(job)}},
        },
    }
    runtime = {
        "apiVersion": version,
        "kind": "TrainingRuntime",
        "metadata": {"name": job.name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": job.nodes, "torch": {}},
            "template": {"spec": {**_POLICIES, "replicatedJobs": [store, node]}},
        },
    }
    train_job = {
        "apiVersion": version,
        "kind": "TrainJob",
        "metadata": {"name": job.name},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": job.name},
            "trainer": {"image": job.image, "numNodes": job.nodes},
        },
    }
    return [runtime, train_job]


def _indexed(pods: int, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "parallelism": pods,
        "completions": pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": spec},
    }


def _pod(name: str, image: str, command: list[str], **container: Any) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "containers": [{"name": name, "image": image, "command": command, **container}],
    }


def _store(job: KubernetesJob) -> dict[str, Any]:
    """The rendezvous, in a pod of its own, so that no training pod is special."""
    return _pod("rendezvous", job.image, ["groundup", "rendezvous", "--host", "any", "--port", str(PORT)])


def _training_pod(job: KubernetesJob) -> dict[str, Any]:
    """A pod with one agent. Kubernetes numbers the pods of an indexed job in JOB_COMPLETION_INDEX."""
    place = f"{job.name}-rendezvous-0-0.{job.name}:{PORT}"
    words = shlex.join(["groundup", *job.words, "--nodes", str(job.nodes), "--rendezvous", place])
    mounts = [
        {"name": "recipe", "mountPath": "/groundup"},
        {"name": "shared", "mountPath": SHARED},
        {"name": "memory", "mountPath": "/dev/shm"},
    ]
    spec = _pod(
        "node",
        job.image,
        ["/bin/sh", "-c", f'exec {words} --node-rank "$JOB_COMPLETION_INDEX"\n'],
        **({"resources": {"limits": {"nvidia.com/gpu": job.gpus}}} if job.gpus else {}),
        volumeMounts=mounts,
    )
    # Time to finish a step and save, once a pod is asked to go.
    spec["terminationGracePeriodSeconds"] = 120
    spec["volumes"] = [
        {"name": "recipe", "configMap": {"name": f"{job.name}-recipe"}},
        {"name": "shared", "persistentVolumeClaim": {"claimName": job.claim}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]
    return spec


def to_yaml(value: Any, indent: int = 0) -> str:
    """Block YAML of mappings, lists, strings, numbers and truth values. Strings of several lines stay readable."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{key}:{_after(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        lines = []
        for item in value:
            text = to_yaml(item, indent + 2)
            nested = isinstance(item, dict | list) and item
            lines.append(f"{pad}- {text[indent + 2 :] if nested else _scalar(item, indent)}")
        return "".join(lines)
    return _scalar(value, indent)


def _after(item: Any, indent: int) -> str:
    """What follows a key's colon."""
    if isinstance(item, dict | list) and item:
        return "\n" + to_yaml(item, indent + 2)
    return " " + _scalar(item, indent)


def _scalar(value: Any, indent: int) -> str:
    """A value on the rest of the line, or as a literal block below it. Every JSON string is a YAML string."""
    if isinstance(value, str) and "\n" in value and value.endswith("\n") and not value.startswith((" ", "\n")):
        pad = " " * (indent + 2)
        return "|\n" + "".join(pad + line if line.strip() else line for line in value.splitlines(keepends=True))
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z/][A-Za-z0-9/._-]*", value) and value.lower() not in _WORDS:
        return value + "\n"
    return json.dumps(value, ensure_ascii=False) + "\n"


_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
