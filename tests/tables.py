"""Small tables, prepared: what the tests of tables share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.table.inputs import find_files, inputs
from groundup.data.table.prepare import prepare
from groundup.data.table.preprocess import Preprocessor
from groundup.data.table.stream import TableSplit
from groundup.recipe.load import load
from groundup.rundir import RunDir

PARTS = ("train", "validation", "test")


@dataclass
class Prepared:
    """A run folder with prepared data."""

    run: RunDir
    manifest: dict[str, Any]

    @property
    def preprocessor(self) -> Preprocessor:
        return Preprocessor.load(self.run.data / "preprocess.json")

    @property
    def cleaned(self) -> list[str]:
        return (self.run.data / "cleaned.csv").read_text().splitlines()

    def part(self, name: str) -> TableSplit:
        return TableSplit(self.run.data / name)

    def parts_of_rows(self) -> dict[int, str]:
        """Source row -> part."""
        return {int(row): name for name in PARTS for row in self.part(name).source_rows}

    def dropped(self) -> dict[str, int]:
        return {reason: n for stage in self.manifest["stages"] for reason, n in stage["dropped"].items()}

    def column(self, name: str) -> dict[str, Any]:
        (entry,) = [entry for entry in self.manifest["columns"] if entry["name"] == name]
        return dict(entry)


def prepare_file(path: Path, folder: Path, *, target: str = "y", seed: int = 42, **settings: Any) -> Prepared:
    """`settings` are keys of [data]."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"path": str(path), "target": target, **settings}
    lines = ["[data]", *(f"{key} = {json.dumps(value)}" for key, value in data.items())]
    if settings.get("validation_fraction") == 0:
        lines += ["[evaluate]", 'checkpoint = "last"']
    recipe = folder / "recipe-of-test.toml"
    recipe.write_text(f'name = "t"\ntask = "classification"\nseed = {seed}\n' + "\n".join(lines))
    loaded = load(recipe)
    run = RunDir(folder / "run")
    run.path.mkdir(exist_ok=True)
    files = find_files(loaded)
    return Prepared(run, prepare(loaded, run, files, inputs(loaded, files)))


def prepare_text(text: str | bytes, folder: Path, *, name: str = "table.csv", **settings: Any) -> Prepared:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return prepare_file(path, folder, **settings)


def csv_rows(rows: int, classes: int = 2, seed: int = 0) -> list[str]:
    """Rows of the columns a (around 1e9), b and y."""
    rng = np.random.default_rng(seed)
    a, b = 1e9 + rng.standard_normal(rows), rng.standard_normal(rows)
    return [f"{x!r},{z!r},{n % classes}" for n, (x, z) in enumerate(zip(a.tolist(), b.tolist(), strict=True))]


def table(rows: list[str], header: str = "a,b,y") -> str:
    return "\n".join([header, *rows]) + "\n"
