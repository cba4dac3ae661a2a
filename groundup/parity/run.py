"""The matrix, row by row, in a pool of processes: what `groundup parity` does."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from groundup.console import Bar, say, span
from groundup.errors import UserError
from groundup.parity.case import MODELS, Case, recipe_of
from groundup.parity.compare import compare
from groundup.parity.matrix import all_rows, quick_rows
from groundup.parity.pool import Pool, WorkFailed
from groundup.parity.reference import make_references, steps_needed
from groundup.parity.table import line
from groundup.parity.verdict import broken, judge
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.parallel_checks import parallel_problems
from groundup.recipe.sections import Recipe


def choose(recipe: Recipe, processes: int, quick: bool, models: Iterable[str]) -> tuple[LanguageRecipe, list[Case]]:
    """The rows to run. Raises UserError where the recipe's model can't be cut in their layouts."""
    if not isinstance(recipe, LanguageRecipe):
        raise UserError(
            "a classifier's recipe has no decoder to compare",
            where="task",
            expected='"language-model"',
            advice="The matrix brings a classifier of its own",
        )
    known = [model for names in MODELS.values() for model in names]
    if unknown := [model for model in models if model not in known]:
        raise UserError(f"there is no model {unknown[0]!r}", where="--model", expected=f"one of {', '.join(known)}")
    rows = quick_rows(processes, models) if quick else all_rows(processes, models)
    for case in rows:
        for problem in parallel_problems(recipe_of(case, recipe)):
            raise UserError(
                f"the model is too small or too uneven for the matrix: {case.degrees.name} ({case.model}): "
                f"{problem.what}",
                where=".".join(map(str, problem.path)),
                expected=problem.expected,
                advice="It takes 8 layers, 4 key-value heads, and a feed-forward width and a sequence length that 16 "
                "divides; see examples/tiny.toml",
            )
    return recipe, rows


def parity(recipe: Recipe, processes: int, quick: bool, models: Iterable[str] = ()) -> dict[str, Any]:
    """Run the matrix, or a selection of it: {"rows", "passed"} and what it was run with. See docs/parity.md."""
    own, cases = choose(recipe, processes, quick, models)
    started = time.monotonic()
    rows = run_rows(own, cases, processes)
    failed = sum(not row["passed"] for row in rows)
    took = time.monotonic() - started
    say(f"{len(rows) - failed} of {len(rows)} rows passed in {span(took)}")
    return {
        "rows": rows,
        "passed": not failed,
        "processes": processes,
        "quick": quick,
        "recipe": own.name,
        "torch": torch.__version__,
        "seconds": round(took, 1),
    }


def run_rows(recipe: LanguageRecipe, cases: list[Case], processes: int) -> list[dict[str, Any]]:
    """The rows of the cases, in order, each told as soon as it is known. A row that fails does not end the run."""
    rows = []
    with TemporaryDirectory(prefix="groundup-parity-") as folder, Pool(processes) as pool:
        root = Path(folder)
        steps = steps_needed(cases)
        say(f"training {len(steps)} references in a single process each")
        pool.run(min(processes, len(steps)), make_references, recipe, steps, root)
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
