"""The options of verbs that train on several processes, and of those that write what does so on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from groundup.command import Target


def _nodes(_: click.Context, __: click.Parameter, text: str) -> tuple[int | None, int]:
    """Of N: (None, N). Of MIN:MAX, nodes that come and go: (MIN, MAX)."""
    least, colon, most = text.rpartition(":")
    if most.isdigit() and (least.isdigit() or not colon) and 0 < int(least or 1) <= int(most):
        return (int(least) if colon else None, int(most))
    raise click.BadParameter(f"{text!r} is neither a number of nodes above 0 nor MIN:MAX")


def launching(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a verb that trains; it gets them as `processes`. On nodes other than 0 only training happens, and
    its result is what the verb prints."""

    @wraps(function)
    def run(
        target: Target,
        nproc: int | None,
        nodes: tuple[int | None, int],
        node_rank: int | None,
        rendezvous: str,
        **options: Any,
    ) -> dict[str, Any]:
        from groundup.launch import train as launch
        from groundup.launch.processes import processes as count
        from groundup.rundir import RunDir

        loaded = target.load()
        processes = count(loaded, nproc, nodes[1], node_rank, rendezvous, nodes[0])
        if node_rank:
            return launch.take_part(loaded, RunDir(target.folder(loaded.recipe.name)), processes) or {}
        try:
            found: dict[str, Any] = function(target, processes, **options)
            return found
        except BaseException as error:
            launch.give_up(processes, error)
            raise

    command = click.option("--rendezvous", default="", metavar="HOST:PORT", help="Where several nodes meet.")(run)
    command = click.option("--node-rank", type=click.IntRange(0), help="Which node this is; default: 0.")(command)
    command = click.option(
        "--nodes",
        default="1",
        callback=_nodes,
        metavar="N|MIN:MAX",
        help="Nodes that train; MIN:MAX: they may come and go; default: 1.",
    )(command)
    return click.option(
        "--nproc", type=click.IntRange(1), help="Processes on each node; default: what the layout takes."
    )(command)


def clustered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a verb that writes what runs a recipe on a cluster."""
    options = [
        click.option("--nodes", type=click.IntRange(1), default=1, help="Nodes that train; default: 1."),
        click.option(
            "--gpus-per-node", "gpus", type=click.IntRange(0), default=8, help="Default: 8; 0: train on CPUs."
        ),
        click.option("--nproc", type=click.IntRange(1), help="Processes on each node; default: its GPUs."),
        click.option("-o", "output", type=click.Path(path_type=Path), help="Write to a file."),
    ]
    for option in reversed(options):
        function = option(function)
    return function
