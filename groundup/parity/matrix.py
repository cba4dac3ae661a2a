"""The rows of the matrix: which layouts, and with which schedules, models, micro-batches, checkpointing, optimizers.

All rows: every supported layout of the given number of processes under every schedule, once, with plain settings; and
rows with variations, so that each dimension of the mesh and each schedule meets each variation. The quick selection:
few rows in which as many pairs of settings as possible meet (pairwise testing). Both are chosen greedily, without
chance: the same rows on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations, product

from groundup.parity.case import MODELS, SAMPLES, Case
from groundup.recipe.layout import SUPPORTED, Kind, Layout

DEGREES = (2, 4)
HEADS = 4  # key-value heads that context and tensor ranks share
SCHEDULES = ("1f1b", "gpipe", "interleaved-1f1b", "zero-bubble", "zbv")
SPLIT_BACKWARD = ("zero-bubble", "zbv")  # these don't see the gradients of sharded weights
CHECKPOINTING = ("none", "selective", "full")
OPTIMIZERS = ("adamw", "adam", "muon")
QUICK_ROWS = 16

Pair = tuple[str, str]
Pairs = frozenset[Pair]


def layouts(kind: Kind, processes: int) -> Iterator[Layout]:
    """Supported layouts of degrees 2 and 4 that take at most so many processes."""
    for names in SUPPORTED[kind]:
        for degrees in product(DEGREES, repeat=len(names)):
            layout = Layout(**dict(zip(names, degrees, strict=True)))
            cut = layout.shard * layout.context % layout.expert == 0 and layout.context * layout.tensor <= HEADS
            if layout.world <= processes and cut:
                yield layout


def schedules(layout: Layout) -> tuple[str, ...]:
    """Pipeline schedules that a layout can have; without a pipeline the one that is not used."""
    if layout.pipeline == 1:
        return SCHEDULES[:1]
    sharded = layout.data * layout.context > 1
    return tuple(name for name in SCHEDULES if not (sharded and name in SPLIT_BACKWARD))


def checkpointings(row: Case) -> tuple[str, ...]:
    """Kinds of activation checkpointing that a row can have: torch computes selectively again once only, where a
    backward pass in two parts does it twice."""
    split = _schedule(row) in SPLIT_BACKWARD
    return tuple(name for name in CHECKPOINTING if not (split and name == "selective"))


def accumulations(layout: Layout) -> tuple[int, ...]:
    """Micro-batches of a data rank, the plain number first: a pipeline needs at least as many as it has processes."""
    counts = (1, 2, 4) if layout.pipeline == 1 else (4, 8)
    return tuple(count for count in counts if count * layout.data <= SAMPLES)


def plain_rows(kind: Kind, processes: int) -> list[Case]:
    """Every layout under every schedule."""
    return [
        Case(MODELS[kind][0], _above_one(layout), schedule, accumulations(layout)[0])
        for layout in layouts(kind, processes)
        for schedule in schedules(layout)
    ]


def possible_rows(kind: Kind, processes: int) -> Iterator[Case]:
    """Every layout under every schedule with every combination of variations."""
    for row in plain_rows(kind, processes):
        for model, count, checkpointing, optimizer in product(
            MODELS[kind], accumulations(row.degrees), checkpointings(row), OPTIMIZERS
        ):
            yield replace(row, model=model, accumulation=count, checkpointing=checkpointing, optimizer=optimizer)


def all_rows(processes: int, models: Iterable[str] = ()) -> list[Case]:
    """The whole matrix, or its rows of the given models."""
    rows = []
    for kind in SUPPORTED:
        rows += plain_rows(kind, processes)
        rows += _cover(list(possible_rows(kind, processes)), _varied_pairs)
    rows = _with_free_runs(rows, lambda row: {(row.kind, row.degrees.name), (row.model, _schedule(row))})
    chosen = set(models)
    return [row for row in rows if not chosen or row.model in chosen]


def quick_rows(processes: int, models: Iterable[str] = ()) -> list[Case]:
    """At most `QUICK_ROWS` rows; within that number, as many pairs of settings as a greedy choice gets in."""
    chosen = set(models)
    every = (row for kind in SUPPORTED for row in possible_rows(kind, processes))
    candidates = [row for row in every if not chosen or row.model in chosen]
    rows = _cover(candidates, pairs, QUICK_ROWS)
    return _with_free_runs(rows, lambda row: {(row.model, None)})


def settings(row: Case) -> list[str]:
    """All that may matter of a row, each as NAME VALUE; every dimension of its mesh is one."""
    found = [f"model {row.model}", *row.layout]
    if (schedule := _schedule(row)) is not None:
        found.append(f"schedule {schedule}")
    return [
        *found,
        f"accumulation {row.accumulation}",
        f"checkpointing {row.checkpointing}",
        f"optimizer {row.optimizer}",
    ]


def pairs(row: Case) -> Pairs:
    """Pairs of settings that meet in a row."""
    return frozenset(combinations(settings(row), 2))


def _varied_pairs(row: Case) -> Pairs:
    """Pairs of a dimension or schedule and a variation."""
    plain = {
        f"model {MODELS[row.kind][0]}",
        f"accumulation {accumulations(row.degrees)[0]}",
        f"checkpointing {CHECKPOINTING[0]}",
        f"optimizer {OPTIMIZERS[0]}",
    }
    found = settings(row)
    places = [name for name in found if name in row.layout or name.startswith("schedule ")]
    varied = [name for name in found if name not in places and name not in plain]
    return frozenset(product(places, varied))


def _above_one(layout: Layout) -> dict[str, int]:
    return {name: layout.degrees[name] for name in layout.used}


def _schedule(row: Case) -> str | None:
    return row.schedule if "pipeline" in row.layout else None


def _cover(candidates: list[Case], pairs_of: Callable[[Case], Pairs], most: int | None = None) -> list[Case]:
    """Rows in which all pairs meet that any candidate has, or at most so many rows. Always the one with the most new
    pairs next; of equals the first."""
    left = [(row, set(pairs_of(row))) for row in candidates]
    rows: list[Case] = []
    while most is None or len(rows) < most:
        best, new = max(left, key=lambda entry: len(entry[1]))
        if not new:
            break
        rows.append(best)
        covered = set(new)
        for _, pairs_left in left:
            pairs_left -= covered
    return rows


def _with_free_runs(rows: list[Case], keys: Callable[[Case], set[tuple[str, str | None]]]) -> list[Case]:
    """The rows, those of dense models that are the first with any of their keys also running free."""
    seen: set[tuple[str, str | None]] = set()
    found = []
    for row in rows:
        new = row.kind != "experts" and not keys(row) <= seen
        if new:
            seen |= keys(row)
        found.append(replace(row, free=new))
    return found
