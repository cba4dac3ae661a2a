"""The step `prepare` of a table: from files to scaled arrays in three parts, with a manifest that says what happened.

Three passes, none of which holds more than a few blocks: clean (`clean.py`), learn from the training rows (`learn.py`),
encode (`encode.py`). What is held for every row is 16 bytes of hash while duplicates are looked for, and some 30 bytes
of class, key, row number and part while the rows are split.
"""

from __future__ import annotations

import errno
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup import __version__
from groundup.console import Bar, say, size
from groundup.data.read.sources import SourceFile
from groundup.data.stage import Stage
from groundup.data.table.clean import CleanPass
from groundup.data.table.encode import encode_parts
from groundup.data.table.kinds import first_types, profile
from groundup.data.table.layout import read_layout
from groundup.data.table.learn import Learnt, learn
from groundup.data.table.read import KindChanged
from groundup.data.table.split import PARTS, Split, split_rows
from groundup.data.tokens.shards import checksum
from groundup.errors import UserError
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.table import TableData, TableRecipe
from groundup.rundir import RunDir, fingerprint, write_atomically

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _recipe(loaded: LoadedRecipe) -> TableRecipe:
    assert isinstance(loaded.recipe, TableRecipe)
    return loaded.recipe


def prepare(loaded: LoadedRecipe, run: RunDir, files: list[SourceFile], inputs: str) -> dict[str, Any]:
    """Make `data/` anew; the old one is replaced only once the new one is whole. Returns the manifest.

    Raises UserError where the table can't be used as the recipe says, or the disk has no room.
    """
    partial = run.path / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with _room(partial):
        manifest = _prepare(_recipe(loaded), files, partial) | {"inputs": inputs}
        write_atomically(partial / "manifest.json", json.dumps(manifest, indent=1))
    old = run.path / "data.old"
    shutil.rmtree(old, ignore_errors=True)
    if run.data.exists():
        run.data.rename(old)
    partial.rename(run.data)
    shutil.rmtree(old, ignore_errors=True)
    return manifest


def _prepare(recipe: TableRecipe, files: list[SourceFile], folder: Path) -> dict[str, Any]:
    data = recipe.data
    total = sum(file.path.stat().st_size for file in files)
    _check_room(folder, total * (2 if data.cleaned == "csv" else 1))
    cleaned = _clean(recipe, files, folder, total)
    kept, stages = cleaned.kept, cleaned.stages
    stages.read.bytes_in = stages.read.bytes_out = total

    splitting, scaling = Stage("split"), Stage("scale")
    with splitting.timed():
        labels, place = cleaned.target.classes()
        classes = place[kept.codes]
        split = split_rows(classes, kept.keys, len(labels), data)
    parts = {name: _counts(classes[split.part == p], labels) for p, name in enumerate(PARTS)}
    _check_parts(parts, data)
    scratch = folder / "scratch.arrow"
    with scaling.timed():
        bytes_numbers = len(kept) * 8 * len(cleaned.plan.numeric)
        with Bar("statistics", bytes_numbers) as bar:
            learnt = learn(cleaned, split.part, labels, data, scratch, bar.advance)
        preprocessor = learnt.preprocessor
        _check_room(folder, len(kept) * (4 * preprocessor.width + 16))
        with Bar("scale", bytes_numbers) as bar:
            encode_parts(preprocessor, cleaned.plan, kept, classes, split.part, folder, bar.advance)
    scratch.unlink()
    write_atomically(folder / "preprocess.json", json.dumps(preprocessor.to_json(), indent=1))
    for stage in (splitting, scaling):
        stage.documents_in = stage.documents_out = len(kept)
    scaling.bytes_out = sum((folder / name / "features.npy").stat().st_size for name in PARTS)

    warnings = [*_scarce(split, labels, parts), *cleaned.slips.warnings(), *learnt.warnings]
    for warning in warnings:
        say(f"warning: {warning}")
    return _manifest(cleaned, learnt, labels, parts, warnings, folder) | {
        "stages": [s.as_dict() for s in (stages.read, stages.clean, stages.dedup, splitting, scaling)],
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _clean(recipe: TableRecipe, files: list[SourceFile], folder: Path, total: int) -> CleanPass:
    """The first pass, over again with types that fit where a value doesn't fit its column's type."""
    data = recipe.data
    layout = read_layout(files, data)
    types = first_types(layout, data)
    try:
        with Bar("clean", total) as bar:
            return _cleaned(CleanPass(layout, data, types, recipe.seed, folder), bar.advance)
    except KindChanged as change:
        say(f"a column changes its kind ({change}): looking at all values first")
    with Bar("profile", total) as bar:
        types = profile(layout, data, bar.advance)
    try:
        with Bar("clean", total) as bar:
            return _cleaned(CleanPass(layout, data, types, recipe.seed, folder, profiled=True), bar.advance)
    except KindChanged as change:
        raise UserError(
            f"a column's values don't agree: {change}",
            where=str(files[0].path),
            advice="Name the column in data.categories or data.ignore",
        ) from None


def _cleaned(cleaned: CleanPass, advance: Callable[[int], None]) -> CleanPass:
    cleaned.run(advance)
    stages = cleaned.stages
    dropped = stages.clean.dropped | stages.dedup.dropped
    say(
        f"rows: {stages.read.documents_in:,} read, {stages.dedup.documents_out:,} kept"
        + (f"; dropped {dropped}" if dropped else "")
    )
    return cleaned


def _counts(classes: NDArray[np.int32], labels: list[Any]) -> dict[str, Any]:
    counts = np.bincount(classes, minlength=len(labels)).tolist()
    return {"rows": len(classes), "classes": {str(label): n for label, n in zip(labels, counts, strict=True)}}


def _check_parts(parts: dict[str, Any], data: TableData) -> None:
    """UserError where a part that the recipe asks for has no rows."""
    fractions = {"train": 1.0, "validation": data.validation_fraction, "test": data.test_fraction}
    rows = sum(part["rows"] for part in parts.values())
    for name, fraction in fractions.items():
        if fraction > 0 and not parts[name]["rows"]:
            key = "test_fraction" if name == "train" else f"{name}_fraction"
            raise UserError(
                f"the {name} part is empty: there are {rows:,} rows",
                where=f"data.{key}",
                expected="at least one row in each part",
                advice="Give more rows, or other fractions" + (", or data.stratify = false" if data.stratify else ""),
            )


def _scarce(split: Split, labels: list[Any], parts: dict[str, Any]) -> list[str]:
    """What is to be said of classes that are not in every part."""
    counts = {str(label): parts["train"]["classes"][str(label)] for label in labels}
    scarce = set(split.scarce)
    found = []
    if split.scarce:
        named = ", ".join(f"{labels[c]!r} ({counts[str(labels[c])]})" for c in split.scarce[:10])
        more = f" and {len(split.scarce) - 10} more" if len(split.scarce) > 10 else ""
        found.append(f"classes with too few rows for every part, wholly in training: {named}{more}")
    if absent := [label for label in labels if not counts[str(label)]]:
        found.append(f"classes without a training row: {', '.join(map(repr, absent[:10]))}")
    for part in ("validation", "test"):
        gone = [label for c, label in enumerate(labels) if c not in scarce and not parts[part]["classes"][str(label)]]
        if gone and parts[part]["rows"]:
            more = f" and {len(gone) - 10:,} more" if len(gone) > 10 else ""
            found.append(f"classes without a {part} row: {', '.join(map(repr, gone[:10]))}{more}")
    return found


def _manifest(
    cleaned: CleanPass,
    learnt: Learnt,
    labels: list[Any],
    parts: dict[str, Any],
    warnings: list[str],
    folder: Path,
) -> dict[str, Any]:
    paths = [
        folder / "preprocess.json",
        *(folder / p / f"{n}.npy" for p in PARTS for n in ("features", "labels", "rows")),
    ]
    files = {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "xxh3": checksum(p)} for p in paths}
    print_of_data = fingerprint(files)
    if (table := folder / "cleaned.csv").exists():
        files["cleaned.csv"] = {"bytes": table.stat().st_size, "xxh3": checksum(table)}
        cleaned.stages.dedup.bytes_out = table.stat().st_size
    return {
        "groundup": __version__,
        "task": "classification",
        "fingerprint": print_of_data,
        "target": cleaned.layout.target,
        "rows": len(cleaned.kept),
        "splits": parts,
        "classes": labels,
        "features": learnt.preprocessor.width,
        "columns": learnt.columns,
        "warnings": warnings,
        "files": files,
    }


def _check_room(folder: Path, need: int) -> None:
    """Raise UserError if the disk has no room for `need` bytes."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise _full(folder, f"the disk has {free / 1e6:,.0f} MB free, preparing may take {need / 1e6:,.0f} MB")


def _full(folder: Path, what: str) -> UserError:
    return UserError(what, where=str(folder), advice='Make room, give another --run-dir, or set data.cleaned = "none"')


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Take away what was written where it can't be finished; a full disk is the user's error."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise _full(folder, f"the disk has no room left: {error.strerror}") from None
        raise


def summary(manifest: dict[str, Any]) -> str:
    splits = manifest["splits"]
    return (
        f"prepared: {size(splits['train']['rows'])} training rows, {size(splits['validation']['rows'])} for "
        f"validation, {size(splits['test']['rows'])} for the test; {manifest['features']:,} features, "
        f"{len(manifest['classes'])} classes"
    )
