"""A recipe's job on a cluster: its layout is checked for the nodes that are asked for, then the script is written."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from groundup.launch.kubernetes import RECIPE, SHARED, KubernetesJob, job_name, manifest
from groundup.launch.processes import endpoint, layout_of
from groundup.launch.slurm import SlurmJob, script
from groundup.recipe.layout import Layout
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.show import to_toml


def _summary(loaded: LoadedRecipe, nodes: int, nproc: int) -> tuple[str, Layout]:
    """One line on the job, and its layout. Raises UserError where the recipe's layout doesn't fit the processes."""
    layout = layout_of(loaded, nodes * nproc)
    return f"{loaded.recipe.name} on {nodes} nodes with {nproc} processes each: {layout.name}", layout


def slurm_script(
    loaded: LoadedRecipe,
    folder: Path,
    settings: tuple[str, ...],
    nodes: int,
    gpus: int,
    nproc: int,
    cpus: int | None,
    rendezvous: str | None,
    options: dict[str, str],
) -> tuple[str, Layout]:
    """The sbatch script for the recipe's file as it is where this runs, with the same Python, and the layout."""
    summary, layout = _summary(loaded, nodes, nproc)
    if rendezvous is not None:
        endpoint(rendezvous)
    words = ["run", str(loaded.file.absolute()), "--run-dir", str(folder.absolute())]
    for setting in settings:
        words += ["--set", setting]
    command = [f"{shlex.quote(sys.executable)} -m groundup", *words, "--nproc", str(nproc)]
    return script(SlurmJob(loaded.recipe.name, summary, command, nodes, gpus, cpus, rendezvous, options)), layout


def kubernetes_manifest(
    loaded: LoadedRecipe, folder: Path | None, nodes: int, gpus: int, nproc: int, image: str, kind: str, claim: str
) -> tuple[str, Layout]:
    """The manifest, with the recipe in it, and the layout. `folder`: of the run, in the pods; None: on the claim."""
    summary, layout = _summary(loaded, nodes, nproc)
    run = folder or Path(SHARED) / "runs" / loaded.recipe.name
    words = ["run", RECIPE, "--run-dir", str(run), "--nproc", str(nproc)]
    job = KubernetesJob(job_name(loaded.recipe.name), summary, to_toml(loaded.recipe), words, image, nodes, gpus, claim)
    return manifest(job, kind), layout
