"""How many processes train, and on which nodes: what the command line says, checked against the recipe's layout."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.console import say
from groundup.errors import UserError
from groundup.recipe.layout import Layout, resolve
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.parallel_checks import legal_layout
from groundup.recipe.pipeline_checks import idle_stages
from groundup.recipe.problem import Problem


@dataclass(frozen=True)
class Processes:
    """The training processes as one node sees them. `local`: processes on each node; `rendezvous`: HOST:PORT or "".

    `least`: of an elastic run the fewest nodes that train, and `nodes` the most; None: always all of them.
    """

    local: int = 1
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str = ""
    least: int | None = None

    @property
    def world(self) -> int:
        return self.local * self.nodes

    @property
    def elastic(self) -> bool:
        return self.least is not None


SINGLE_PROCESS = Processes()


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`. Raises UserError for anything else."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{text!r} is no address", where="--rendezvous", expected="HOST:PORT, such as node-0:29400")
    return host, int(port)


def processes(
    loaded: LoadedRecipe,
    local: int | None,
    nodes: int,
    node_rank: int | None,
    rendezvous: str,
    least: int | None = None,
) -> Processes:
    """The processes of a run. `local` None: the product of the layout's given degrees, spread over the nodes; in an
    elastic run 1.

    Raises UserError where the layout doesn't fit them, or where nodes can't find each other.
    """
    if (nodes > 1 or least is not None) and not rendezvous:
        raise UserError(
            f"{nodes} nodes need a place to meet",
            where="--rendezvous",
            expected="HOST:PORT, the same on every node",
            advice="`groundup rendezvous --host ADDRESS --port 29400` on any host makes one",
        )
    if least is not None:
        return _elastic(loaded, local or 1, least, nodes, node_rank, rendezvous)
    node_rank = node_rank or 0
    if node_rank >= nodes:
        raise UserError(
            f"there is no node {node_rank} among {nodes}", where="--node-rank", expected=f"0 to {nodes - 1}"
        )
    if rendezvous:
        endpoint(rendezvous)
    if local is None:
        world = resolve(loaded.recipe.parallel, None).world
        if world > 1 and world % nodes:
            raise UserError(
                f"{world} processes can't be spread over {nodes} nodes",
                where="parallel",
                expected=f"a product of degrees that {nodes} divides",
                advice="Or give --nproc, the processes on each node",
            )
        local = max(1, world // nodes)
    if remark := idle_stages(loaded.recipe, layout_of(loaded, local * nodes)):
        say(remark)
    return Processes(local, nodes, node_rank, rendezvous)


def _elastic(
    loaded: LoadedRecipe, local: int, least: int, most: int, node_rank: int | None, rendezvous: str
) -> Processes:
    """The processes of an elastic run, whose layout must be possible on every number of nodes."""
    if node_rank is not None:
        raise UserError(
            "nodes that come and go have no numbers",
            where="--node-rank",
            advice="Leave it out, or give --nodes as one number",
        )
    endpoint(rendezvous)
    for nodes in range(least, most + 1):
        try:
            layout_of(loaded, local * nodes)
        except UserError as error:
            raise UserError(
                f"the layout must be possible on every number of nodes from {least} to {most}, and is not on {nodes}: "
                f"{error}",
                where="--nodes",
                advice='Leave parallel.replicate or parallel.shard at "auto": only copies and shards come and go',
            ) from None
    return Processes(local, most, 0, rendezvous, least)


def layout_of(loaded: LoadedRecipe, world: int) -> Layout:
    """The layout of so many processes. Raises UserError where the recipe can't run in it."""

    def told(problem: Problem) -> UserError:
        key, origin = ".".join(map(str, problem.path)), loaded.origin(problem.path)
        where = f"{world} processes" if origin == "default" else origin
        return UserError(f"{key}: {problem.what}", where=where, expected=problem.expected)

    return legal_layout(loaded.recipe, world, told)
