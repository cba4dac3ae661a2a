"""What `groundup launch` writes: a script that Slurm's commands can run, and manifests that fit their schemas."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.conftest import groundup, groundup_json

EXAMPLE = Path(__file__).parents[1] / "examples" / "llama-3-8b.toml"

# Stand-ins for Slurm: one host runs a task per node, and a file lists what was asked of the scheduler.
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do
  SLURM_NODEID=$node "$@" &
  tasks+=("$!")
done
echo "${tasks[*]}" > tasks
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit "${code:-0}"
"""
SCONTROL = """\
#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> scheduler; fi
"""


def needed(found: object, what: str) -> None:
    """Skip without a checker, but not in CI."""
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not installed")


def slurm(*options: object) -> str:
    return str(groundup_json("launch", "slurm", EXAMPLE, "--nodes", 4, *options)["text"])


def test_the_script_asks_slurm_for_what_was_given(tmp_path: Path) -> None:
    text = slurm("--time", "4:00:00", "--partition", "big", "--set", "parallel.tensor=8")
    directives = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--exclusive"} <= set(directives)
    assert {"--time=4:00:00", "--partition=big", "--requeue", "--signal=TERM@120"} <= set(directives)
    assert "shard 4 x tensor 8" in text
    assert "--cpus-per-task=12" in slurm("--cpus-per-node", 12)
    done = groundup("launch", "slurm", EXAMPLE, "--nodes", 4, "-o", tmp_path / "job.sh")
    assert done.stdout == ""
    assert (tmp_path / "job.sh").read_text() == slurm()


def test_the_agents_meet_on_the_first_node_or_on_a_host_of_its_own() -> None:
    assert "groundup rendezvous --host any --port" in slurm()
    text = slurm("--rendezvous", "meet:29400")
    assert "groundup rendezvous" not in text
    assert "place=meet:29400\n" in text
    done = groundup("launch", "slurm", EXAMPLE, "--nodes", 4, "--rendezvous", "meet")
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


@pytest.mark.parametrize(
    "options", [(), ("--rendezvous", "meet:29400"), ("--cpus-per-node", 12, "--run-dir", "/a place/with 'quotes'")]
)
def test_the_script_is_clean(options: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(slurm(*options))
    assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).stderr == b""
    checker = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    needed(checker, "shellcheck")
    assert checker is not None
    done = subprocess.run([checker, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_layout_that_does_not_fit_the_cluster_is_refused() -> None:
    done = groundup("launch", "slurm", EXAMPLE, "--nodes", 3, "--set", "parallel.shard=16")
    assert done.returncode == 2
    assert "shard 16 takes a multiple of 16 processes, and there are 24" in done.stderr
    done = groundup("launch", "kubernetes", EXAMPLE, "--image", "me/groundup", "--set", "optim.lr=-1")
    assert done.returncode == 2
    assert "optim.lr" in done.stderr


@pytest.mark.slow
def test_the_script_trains_is_requeued_when_stopped_and_goes_on(recipe_file: Path, tmp_path: Path) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "host-[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    run = tmp_path / "run"

    def script(duration: str) -> list[str]:
        path = tmp_path / "job.sh"
        settings = ("--set", f'train.duration="{duration}"', "--set", "parallel.shard=2")
        options = ("--nodes", 2, "--gpus-per-node", 0, "--cpus-per-node", 1, "--run-dir", run)
        groundup_json("launch", "slurm", recipe_file, *options, *settings, "-o", path)
        return ["bash", str(path)]

    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(script("100000 steps"), cwd=tmp_path, env=environment, stderr=log)
        deadline = time.monotonic() + 200
        while not ((run / "metrics.jsonl").exists() and '"step": 3' in (run / "metrics.jsonl").read_text()):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        for task in map(int, (tmp_path / "tasks").read_text().split()):
            os.kill(task, signal.SIGTERM)
        assert job.wait(150) == 130, (tmp_path / "log").read_text()
    assert (tmp_path / "scheduler").read_text() == f"requeue {os.getpid()}\n"
    reached = groundup_json("status", run)["last_checkpoint_step"]
    again = subprocess.run(
        script(f"{reached + 2} steps"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {reached}" in again.stderr
    assert (run / "export" / "config.json").exists()


def documents(kind: str, *options: object) -> dict[str, dict[str, Any]]:
    """The manifest's documents by kind."""
    words = ("--nodes", 4, "--image", "ghcr.io/me/groundup:1", "--kind", kind)
    text = groundup_json("launch", "kubernetes", EXAMPLE, *words, *options)["text"]
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def training_pod(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    (node,) = (job for job in jobs if job["name"] == "node")
    pod: dict[str, Any] = node["template"]["spec"]["template"]["spec"]
    return pod


def rendezvous_pod(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    (store,) = (job for job in jobs if job["name"] == "rendezvous")
    pod: dict[str, Any] = store["template"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("kind", ["trainjob", "jobset"])
def test_the_manifest_holds_the_recipe_and_starts_one_agent_per_node(kind: str) -> None:
    found = documents(kind, "--set", "parallel.tensor=8", "--claim", "disk")
    recipe = tomllib.loads(found["ConfigMap"]["data"]["recipe.toml"])
    assert recipe["parallel"]["tensor"] == 8
    if kind == "trainjob":
        jobs = found["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
        assert found["TrainJob"]["spec"]["runtimeRef"]["name"] == found["TrainingRuntime"]["metadata"]["name"]
        runtime = found["TrainingRuntime"]["spec"]["template"]["spec"]
        assert runtime["successPolicy"]["targetReplicatedJobs"] == ["node"]
    else:
        jobs = found["JobSet"]["spec"]["replicatedJobs"]
        assert found["JobSet"]["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "llama-3-8b"}
        assert found["JobSet"]["spec"]["successPolicy"]["targetReplicatedJobs"] == ["node"]
    assert [job["name"] for job in jobs] == ["rendezvous", "node"]
    place = "llama-3-8b-rendezvous-0-0.llama-3-8b:29400"
    pod = training_pod(jobs)
    (container,) = pod["containers"]
    assert f'--nodes 4 --rendezvous {place} --node-rank "$JOB_COMPLETION_INDEX"' in container["command"][2]
    # A store that listened on its own pod alone would never be found.
    (store,) = rendezvous_pod(jobs)["containers"]
    assert "groundup rendezvous --host any --port 29400" in " ".join(store["command"])
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "disk"}} in pod["volumes"]
    syntax = subprocess.run(["sh", "-n", "-c", container["command"][2]], capture_output=True, check=False)
    assert syntax.stderr == b""


@pytest.mark.parametrize("kind", ["trainjob", "jobset"])
def test_the_manifest_fits_the_schema(kind: str) -> None:
    needed(importlib.util.find_spec("kubeflow_trainer_api"), "kubeflow-trainer-api")
    models = importlib.import_module("kubeflow_trainer_api.models")
    types = {
        "ConfigMap": None,
        "TrainJob": models.TrainerV1alpha1TrainJob,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
        "JobSet": models.JobsetV1alpha2JobSet,
    }
    for name, document in documents(kind).items():
        schema = types[name]
        if schema is not None:
            # A field that the schema doesn't know is lost on the way through it.
            assert _unknown(document, schema.from_dict(document).to_dict()) == []


def _unknown(given: Any, known: Any, path: str = "") -> list[str]:
    if isinstance(given, dict):
        lost = [f"{path}.{key}" for key in given if key not in known]
        return lost + [p for key in given if key in known for p in _unknown(given[key], known[key], f"{path}.{key}")]
    if isinstance(given, list):
        return [p for n, (a, b) in enumerate(zip(given, known, strict=True)) for p in _unknown(a, b, f"{path}[{n}]")]
    return [] if given == known else [path]


def test_strings_survive_yaml() -> None:
    from groundup.launch.kubernetes import to_yaml

    value = {
        "plain": "a/b.c", "word": "yes", "number": "29400", "colon": "a: b # c", "empty": "", "block": "a\n\n  b\n",
        "tail": "a\nb", "list": [{"a": [1, "2", True, {}]}, [], "x\ny\n"], "unicode": "é\u2028\t\"'",
    }  # fmt: skip
    assert yaml.safe_load(to_yaml(value)) == value
