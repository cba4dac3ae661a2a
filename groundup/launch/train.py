"""The step `train` on more than one process: what the agent's side does, and what each worker does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from groundup.console import say
from groundup.errors import UserError
from groundup.launch import meeting
from groundup.launch.generations import Generations
from groundup.launch.processes import Processes, endpoint
from groundup.launch.rendezvous import connect
from groundup.recipe.load import LoadedRecipe, load
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, load_manifest
from groundup.train.manifest import checkpoints_of


def work(arguments: dict[str, Any]) -> dict[str, Any]:
    """What every worker does: train the run folder's recipe in the process group that is there."""
    from groundup.train.train import train as train_step

    run = RunDir(Path(arguments["run"]))
    return train_step(load(run.recipe_file).recipe, run, allow=arguments.get("allow", ()), began=arguments.get("began"))


def train(
    recipe: Recipe, run: RunDir, processes: Processes, allow: Sequence[str] = (), began: float | None = None
) -> dict[str, Any]:
    """Train on all processes, as node 0 or as any node of an elastic run. The result is that of rank 0. `allow`,
    `began`: see groundup.train.train.

    Raises what `groundup.launch.agent.launch` raises.
    """
    if processes.elastic:
        return _launch(recipe, run, processes, recipe.name, allow, began)
    run_id = uuid.uuid4().hex
    if processes.nodes > 1:
        answer = {
            "run_id": run_id,
            "local": processes.local,
            "recipe": LoadedRecipe(recipe, run.recipe_file, {}).fingerprint(),
            "data": load_manifest(run)["fingerprint"],
            "allow": list(allow),
        }
        meeting.tell(connect(*endpoint(processes.rendezvous)), processes.nodes, answer)
    return _launch(recipe, run, processes, run_id, allow, began)


def _terms(recipe: Recipe, run: RunDir, processes: Processes) -> dict[str, Any]:
    """What nodes of an elastic run must have in common."""
    return {
        "--nodes": f"{processes.least}:{processes.nodes}",
        "--nproc": processes.local,
        "recipe": LoadedRecipe(recipe, run.recipe_file, {}).fingerprint(),
        "data": load_manifest(run)["fingerprint"],
    }


def refuse_misfit(loaded: LoadedRecipe, run: RunDir, processes: Processes) -> None:
    """Raise UserError where a node of an elastic run doesn't fit those that train; before it writes anything."""
    store = connect(*endpoint(processes.rendezvous))
    Generations(store, loaded.recipe.name).agree(_terms(loaded.recipe, run, processes), join=False)


def skip(processes: Processes) -> None:
    """As node 0: tell the other nodes that there is nothing to train."""
    if processes.nodes > 1 and not processes.elastic:
        meeting.tell(connect(*endpoint(processes.rendezvous)), processes.nodes, {})


def give_up(processes: Processes, error: BaseException) -> None:
    """As node 0 that can't go on: tell the nodes that wait for it."""
    if processes.nodes > 1 and processes.node_rank == 0 and not processes.elastic:
        with suppress(Exception):  # the error that is told is the one before
            store = connect(*endpoint(processes.rendezvous), patience=0)
            meeting.dismiss(store, processes.nodes, str(error) or type(error).__name__)


def take_part(loaded: LoadedRecipe, run: RunDir, processes: Processes) -> dict[str, Any] | None:
    """As any node but 0: train once node 0 has prepared the data. None where there is nothing to train.

    Raises UserError where this node has another recipe, other data or another number of processes than node 0.
    """

    def agree(answer: dict[str, Any]) -> None:
        if not answer:
            return
        if answer["local"] != processes.local:
            raise UserError(f"it has {processes.local} processes, node 0 has {answer['local']}", where="--nproc")
        if answer["recipe"] != loaded.fingerprint():
            raise UserError("its recipe is not that of node 0", where=str(loaded.file))
        if load_manifest(run)["fingerprint"] != answer["data"]:
            raise UserError(
                "its run folder holds other data than that of node 0",
                where=str(run.path),
                advice="All nodes need the same run folder, on storage that they share",
            )

    say(f"node {processes.node_rank} of {processes.nodes}")
    answer = meeting.hear(connect(*endpoint(processes.rendezvous)), processes.node_rank, agree)
    if not answer:
        say("nothing to train: up to date")
        return None
    return _launch(loaded.recipe, run, processes, answer["run_id"], answer["allow"], time.time())


def _launch(
    recipe: Recipe, run: RunDir, processes: Processes, run_id: str, allow: Sequence[str], began: float | None
) -> dict[str, Any]:
    from groundup.launch.agent import Job, launch

    first = processes.node_rank * processes.local
    last = first + processes.local - 1
    ranks = f"rank {first}" if first == last else f"ranks {first} to {last}"
    if last and not processes.elastic:
        say(f"starting {ranks} of {processes.world}; what those above 0 print is in {run.path / 'logs'}/rank-N.log")
    job = Job(
        "groundup.launch.train:work",
        {"run": str(run.path.absolute()), "allow": list(allow), "began": began},
        run.path.absolute() / "logs",
        threads=recipe.train.threads,
        device=recipe.train.device,
        hang_timeout=recipe.parallel.hang_timeout,
        max_restarts=recipe.parallel.max_restarts,
        progress=lambda: str(checkpoints_of(recipe, run).complete()[-1:]),
        terms=_terms(recipe, run, processes) if processes.elastic else {},
    )
    result: dict[str, Any] = launch(job, processes, run_id)
    return result
