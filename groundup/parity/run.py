"""The matrix, row by row, in a pool of processes: what `groundup parity` does."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from groundup.console import Bar, say, span
from groundup.errors import UserError
from groundup.parity.case import Case, models_of
from groundup.parity.compare import compare
from groundup.parity.matrix import all_rows, legal_rows, quick_rows
from groundup.parity.pool import Pool, WorkFailed
from groundup.parity.reference import STEPS, make_references, steps_needed
from groundup.parity.table import line
from groundup.parity.verdict import broken, judge
from groundup.recipe.sections import Recipe


def choose(recipe: Recipe, processes: int, quick: bool, models: Collection[str] = ()) -> tuple[list[Case], list[str]]:
    """The rows to run, and a note on each layout that the recipe's model can't be cut in.

    Raises UserError where no row is left."""
    known = models_of(recipe)
    if unknown := [model for model in models if model not in known]:
        raise UserError(f"there is no model {unknown[0]!r}", where="--model", expected=f"one of {', '.join(known)}")
    legal, notes = legal_rows(recipe, processes, models)
    if not legal:
        raise UserError(
            f"the recipe's model fits no layout: {notes[0]}" if notes else f"no layout takes {processes} processes",
            where="model" if notes else "--processes",
            advice="examples/tiny.toml fits all layouts of four processes",
        )
    return (quick_rows if quick else all_rows)(legal), notes


def parity(recipe: Recipe, processes: int, quick: bool, models: Collection[str] = ()) -> dict[str, Any]:
    """Run the matrix, or a selection of it: {"rows", "passed", "left_out"} and what it was run with. See
    docs/parity.md."""
    cases, notes = choose(recipe, processes, quick, models)
    for note in notes:
        say(f"left out: {note}")
    started = time.monotonic()
    rows = run_rows(recipe, cases, processes)
    failed = sum(not row["passed"] for row in rows)
    took = time.monotonic() - started
    say(f"{len(rows) - failed} of {len(rows)} rows passed in {span(took)}")
    return {
        "rows": rows,
        "passed": not failed,
        "left_out": notes,
        "processes": processes,
        "quick": quick,
        "recipe": recipe.name,
        "torch": torch.__version__,
        "seconds": round(took, 1),
    }


def run_rows(recipe: Recipe, cases: list[Case], processes: int, compared: int = STEPS) -> list[dict[str, Any]]:
    """The rows of the cases, in order, each told as soon as it is known. A row that fails does not end the run.
    compared: steps that are compared one by one."""
    rows = []
    with TemporaryDirectory(prefix="groundup-parity-") as folder, Pool(processes) as pool:
        root = Path(folder)
        steps = steps_needed(cases)
        say(f"training {len(steps)} references in a single process each")
        pool.run(min(processes, len(steps)), make_references, recipe, steps, root, compared)
        with Bar("parity", len(cases), "rows") as bar:
            for case in cases:
                began = time.monotonic()
                try:
                    row = judge(case, pool.run(case.degrees.world, compare, case, recipe, root))
                except WorkFailed as failure:
                    row = broken(case, str(failure))
                row["seconds"] = round(time.monotonic() - began, 1)
                rows.append(row)
                bar.write(line(row))
                if "error" in row:
                    bar.write(row["error"])
                bar.advance(1)
    return rows
