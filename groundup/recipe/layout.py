"""A layout: the degrees of parallelism of one run, which of them work together, and the processes they add up to.

Nothing here needs torch, so that a recipe's layout can be judged before anything is imported or started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from groundup.errors import UserError

if TYPE_CHECKING:
    from groundup.recipe.parallel import Parallel

# Dimensions of the mesh, outermost first; a global rank is row-major over them. Their product is the world.
MESH = ("pipeline", "replicate", "shard", "context", "tensor")
DEGREES = (*MESH, "expert")

Kind = Literal["decoder", "experts", "classifier"]

_DECODER: tuple[tuple[str, ...], ...] = (
    ("replicate",),
    ("shard",),
    ("replicate", "shard"),
    ("tensor",),
    ("shard", "tensor"),
    ("replicate", "tensor"),
    ("pipeline",),
    ("pipeline", "shard"),
    ("pipeline", "replicate"),
    ("pipeline", "tensor"),
    ("pipeline", "shard", "tensor"),
    ("context",),
    ("shard", "context"),
    ("context", "tensor"),
    ("shard", "context", "tensor"),
    ("replicate", "shard", "tensor"),
)

# By kind of model: which degrees may be above 1 together, in the order of the mesh. Alone, a process needs none.
SUPPORTED: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "decoder": _DECODER,
    "experts": (
        *_DECODER,
        ("shard", "expert"),
        ("shard", "tensor", "expert"),
        ("pipeline", "shard", "expert"),
        ("context", "expert"),
        ("shard", "context", "expert"),
        ("replicate", "shard", "expert"),
    ),
    "classifier": (
        ("replicate",),
        ("shard",),
        ("tensor",),
        ("pipeline",),
        ("replicate", "shard"),
        ("replicate", "tensor"),
        ("pipeline", "replicate"),
        ("shard", "tensor"),
        ("pipeline", "shard"),
        ("pipeline", "tensor"),
    ),
}


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism. `expert` is no factor of the processes: it divides shard x context."""

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.replicate * self.shard * self.tensor * self.pipeline * self.context

    @property
    def data(self) -> int:
        """Data ranks: parts that a global batch is cut into."""
        return self.replicate * self.shard

    @property
    def degrees(self) -> dict[str, int]:
        """Every degree by name, in the order of the mesh, `expert` last."""
        return {name: getattr(self, name) for name in DEGREES}

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the degrees above 1, in the order of the mesh."""
        return tuple(name for name, degree in self.degrees.items() if degree > 1)

    @property
    def name(self) -> str:
        """Such as "shard 4 x tensor 2", "shard 4, expert 2" (no factor of the processes) or "single process"."""
        text = " x ".join(f"{name} {self.degrees[name]}" for name in self.used if name != "expert") or "single process"
        return text if self.expert == 1 else f"{text}, expert {self.expert}"


def resolve(parallel: Parallel, world: int | None) -> Layout:
    """The layout of `world` processes, with every "auto" filled in.

    `shard` takes what the other degrees leave; where it is given, `replicate` does. Without a `world` both are 1, and
    `shard` what `expert` needs. Raises UserError where the degrees don't multiply to the world.
    """
    replicate, shard = parallel.replicate, parallel.shard
    given = Layout(
        replicate=1 if replicate == "auto" else replicate,
        shard=1 if shard == "auto" else shard,
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        context=parallel.context,
        expert=parallel.expert,
    )
    if world is None:
        needed = parallel.expert // math.gcd(parallel.expert, parallel.context)
        return replace(given, shard=needed) if shard == "auto" else given
    open_end = "auto" in (replicate, shard)
    if world % given.world or (world != given.world and not open_end):
        raise _wrong_world(given, world, open_end)
    rest = world // given.world
    if shard == "auto":
        return replace(given, shard=rest)
    return replace(given, replicate=rest) if replicate == "auto" else given


def _wrong_world(given: Layout, world: int, open_end: bool) -> UserError:
    """What to say where `world` processes can't be cut into the degrees given; `open_end`: one of them is auto."""

    def fits(product: int) -> bool:
        return world % product == 0 if open_end else world == product

    need = given.world
    legal = max(1, round(world / need)) * need if open_end else need
    changes = [
        (abs(value - given.degrees[name]), name, value)
        for name in given.used
        if name != "expert"
        for value in range(1, world + 1)
        if fits(need // given.degrees[name] * value)
    ]
    advice = f"Start {legal} processes"
    if changes:
        _, name, value = min(changes)
        advice += f", or set parallel.{name} = {value}"
    return UserError(
        f"{replace(given, expert=1).name} takes {'a multiple of ' if open_end else ''}{need} processes, "
        f"and there are {world}",
        where="parallel",
        expected=f"{legal} processes",
        advice=advice,
    )


def supported(kind: Kind, layout: Layout) -> bool:
    """Whether the matrix has this combination of degrees for such a model."""
    return not layout.used or layout.used in SUPPORTED[kind]


def nearest_supported(kind: Kind, layout: Layout) -> Layout:
    """The supported layout of the same world that keeps the most of the degrees asked for, those of the model rather
    than those of the batch. What it can't keep goes to `shard`, or else to `replicate`."""

    def loss(found: Layout) -> tuple[int, int, int]:
        lost = [name for name in layout.used if found.degrees[name] != layout.degrees[name]]
        return len(lost), sum(name not in ("replicate", "shard") for name in lost), len(found.used)

    candidates = []
    for combination in SUPPORTED[kind]:
        kept = Layout(**{name: degree for name, degree in layout.degrees.items() if name in combination})
        rest = layout.world // kept.world
        for found in (replace(kept, shard=kept.shard * rest), replace(kept, replicate=kept.replicate * rest)):
            if supported(kind, found) and found.shard * found.context % found.expert == 0:
                candidates.append(found)
    return min(candidates, key=loss)
