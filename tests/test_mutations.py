"""Each of the mutations turns rows of the matrix red that are green without it: so the matrix sees such faults."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groundup.parity.case import Case
from groundup.parity.compare import compare
from groundup.parity.pool import Pool
from groundup.parity.reference import make_references, steps_needed
from groundup.parity.run import choose
from groundup.parity.verdict import judge
from groundup.recipe.load import load
from groundup.recipe.sections import Recipe
from tests.mutations import MUTATIONS, compare_mutated

SEED, COMPARED = 4, 2
FAST = (
    "norm layers' gradients doubled",
    "gradients of shared inputs not summed",
    "dropout mask by local row",
    "mean of means",
)


def drawn(name: str, recipe: Recipe) -> Case:
    """A row of the matrix that must show the mutation: of two processes where it shall be fast, of up to four
    elsewhere."""
    rows, _ = choose(recipe, 2 if name in FAST else 4, False)
    shown = [row for row in rows if MUTATIONS[name].shows(row)]
    return replace(random.Random(f"{SEED} {name}").choice(shown), free=False)


class Bench:
    """Runs rows, with a mutation or without; each row without one once."""

    def __init__(self, pool: Pool, recipe: Recipe, root: Path) -> None:
        self.pool, self.recipe, self.root = pool, recipe, root
        self._made: set[tuple[str, str]] = set()
        self._sound: dict[str, dict[str, Any]] = {}

    def _refer(self, case: Case) -> None:
        for key, steps in steps_needed([case]).items():
            if key not in self._made:
                self._made.add(key)
                self.pool.run(1, make_references, self.recipe, {key: steps}, self.root, COMPARED)

    def sound(self, case: Case) -> dict[str, Any]:
        if repr(case) not in self._sound:
            self._sound[repr(case)] = self._run(case, compare)
        return self._sound[repr(case)]

    def mutated(self, name: str, case: Case) -> dict[str, Any]:
        return self._run(case, compare_mutated, name)

    def _run(self, case: Case, work: Any, *first: str) -> dict[str, Any]:
        self._refer(case)
        return judge(case, self.pool.run(case.degrees.world, work, *first, case, self.recipe, self.root))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    recipe = load(Path("examples/tiny.toml"), ("train.sequence_length=16", "train.batch_tokens=256")).recipe
    with Pool(4) as pool:
        yield Bench(pool, recipe, tmp_path_factory.mktemp("references"))


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MUTATIONS]
)
def test_a_mutation_turns_a_row_red(bench: Bench, name: str) -> None:
    row = drawn(name, bench.recipe)
    sound = bench.sound(row)
    assert sound["passed"], sound
    mutated = bench.mutated(name, row)
    assert not mutated["passed"], mutated
    assert set(MUTATIONS[name].figures) <= set(mutated["failed"]), mutated


def test_a_global_norm_would_not_notice_doubled_norm_layers(bench: Bench) -> None:
    row = Case("untied", {"tensor": 2})
    mutated = bench.mutated("norm layers' gradients doubled", row)
    assert mutated["failed"] == ["worst_gradient_difference"]
    assert mutated["worst_gradient_difference"] == pytest.approx(1.0, rel=1e-3)
    assert mutated["worst_gradient_difference_in"].endswith("query_norm.weight")
    assert mutated["grad_norm_difference"] < 1e-5
