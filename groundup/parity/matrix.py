"""The rows of the matrix: which layouts, and with which schedules, models, micro-batches, checkpointing, optimizers.

All rows: every supported layout that the processes can take under every schedule, once, with plain settings; and rows
with variations, until for each kind of model any two settings that can meet have met. The quick selection: rows in
which any two settings that can meet do, whatever the kind (pairwise testing). Both are chosen greedily, without chance:
the same rows on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import combinations, product

from groundup.parity.case import MODELS, SAMPLES, Case, in_layout, models_of, variant
from groundup.recipe.layout import SUPPORTED, Kind, Layout
from groundup.recipe.parallel_checks import parallel_problems
from groundup.recipe.sections import Recipe

SCHEDULES = ("1f1b", "gpipe", "interleaved-1f1b", "zero-bubble", "zbv")
CHECKPOINTING = ("none", "selective", "full")
OPTIMIZERS = ("adamw", "adam", "muon")
# Micro-batches of a data rank, the plain number first.
MICROBATCHES, PIPELINE_MICROBATCHES = (1, 2, 4), (4, 2, 1)

Pair = tuple[str, str]
Pairs = frozenset[Pair]


def layouts(kind: Kind, processes: int) -> Iterator[Layout]:
    """Supported layouts that take at most so many processes, their degrees divisors of that number."""
    divisors = [n for n in range(2, processes + 1) if processes % n == 0]
    for names in SUPPORTED[kind]:
        for degrees in product(divisors, repeat=len(names)):
            layout = Layout(**dict(zip(names, degrees, strict=True)))
            if layout.world <= processes and layout.shard * layout.context % layout.expert == 0:
                yield layout


def legal_rows(recipe: Recipe, processes: int, models: Collection[str] = ()) -> tuple[list[Case], list[str]]:
    """Every row that the recipe's models can take, plain settings first, or those of some models only; and a note on
    each layout that none of a kind's models can."""
    rows, notes = [], []
    for kind, of_kind in MODELS.items():
        chosen = [m for m in of_kind if m in models_of(recipe) and (not models or m in models)]
        bases = [(model, variant(recipe, model, OPTIMIZERS[0])) for model in chosen]
        for layout in layouts(kind, processes) if chosen else ():
            problems: list[str] = []
            found = []
            for model, base in bases:
                for case in _cases(model, layout):
                    problem = _unfit(case, base, recipe)
                    found += [replace(case, optimizer=name) for name in OPTIMIZERS] if problem is None else []
                    problems += [problem] if problem else []
            rows += found
            if not found:
                notes.append(f"{layout.name} ({kind}): {problems[0]}")
    return rows, notes


def _cases(model: str, layout: Layout) -> Iterator[Case]:
    degrees = {name: layout.degrees[name] for name in layout.used}
    piped = layout.pipeline > 1
    counts = PIPELINE_MICROBATCHES if piped else MICROBATCHES
    rings = (False, True) if layout.context > 1 else (False,)
    schedules = SCHEDULES if piped else SCHEDULES[:1]
    for ring, schedule, count, checkpointing in product(rings, schedules, counts, CHECKPOINTING):
        yield Case(model, degrees, schedule, count, checkpointing, ring=ring)


def _unfit(case: Case, base: Recipe, recipe: Recipe) -> str | None:
    """Why a row can't be, or None where it can."""
    data = case.degrees.data
    if case.accumulation * data > SAMPLES or (case.kind == "experts" and SAMPLES % data):
        return f"{data} data ranks can't share {SAMPLES} samples in {case.accumulation} micro-batches"
    problem = next(iter(parallel_problems(in_layout(base, case, recipe.parallel))), None)
    return None if problem is None else problem.what


def all_rows(legal: list[Case]) -> list[Case]:
    """The whole matrix, of all legal rows."""
    rows = []
    for models in MODELS.values():
        of_kind = [row for row in legal if row.model in models]
        plain = list({(row.degrees, row.ring, row.schedule): row for row in reversed(of_kind)}.values())[::-1]
        rows += [*plain, *_cover(of_kind, met=set().union(*map(pairs, plain)))]
    return _with_free_runs(rows, lambda row: {(row.kind, row.as_dict()["layout"]), (row.model, _schedule(row))})


def quick_rows(legal: list[Case]) -> list[Case]:
    """Few of all legal rows, in which any two settings meet that meet in any."""
    return _with_free_runs(_cover(legal), lambda row: {(row.model, None)})


def settings(row: Case) -> list[str]:
    """All that may matter of a row, each as NAME VALUE; every dimension of its mesh is one."""
    found = [f"model {row.model}", *(f"{name} {degree}" for name, degree in row.layout.items())]
    if (schedule := _schedule(row)) is not None:
        found.append(f"schedule {schedule}")
    if "context" in row.layout:
        found.append(f"ring {row.ring}")
    return [
        *found,
        f"accumulation {row.accumulation}",
        f"checkpointing {row.checkpointing}",
        f"optimizer {row.optimizer}",
    ]


def pairs(row: Case) -> Pairs:
    """Pairs of settings that meet in a row."""
    return frozenset(combinations(settings(row), 2))


def _schedule(row: Case) -> str | None:
    return row.schedule if "pipeline" in row.layout else None


def _cover(candidates: list[Case], met: Iterable[Pair] = ()) -> list[Case]:
    """Rows in which all pairs meet that any candidate has and that have not met yet. Always the one with the most new
    pairs next; of equals the first."""
    left = [(row, set(pairs(row)).difference(met)) for row in candidates]
    rows: list[Case] = []
    while left:
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
