"""What the report shows of documents: how each statistic that a rule looks at is spread, and examples of what fell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groundup.data.execute.task import Done
from groundup.data.stages.filter import rules
from groundup.data.stages.read import MALFORMED
from groundup.data.stages.shard import Shard
from groundup.recipe.language import LanguageRecipe

SHARDS = 8  # looked at, spread over all
BINS = 40
EXAMPLES = 3  # of each reason
_CHARACTERS = 240


def look(root: Path, recipe: LanguageRecipe, judged: Sequence[Done]) -> dict[str, Any]:
    """`histograms`: of each number that a rule has a limit for, its bins and the limits. `examples`: of each reason why
    documents were dropped, the beginnings of some. judged: of each shard the task that said the last word."""
    chosen = [Shard(root, number) for number in np.unique(np.linspace(0, len(judged) - 1, SHARDS).astype(int)).tolist()]
    return {"histograms": _histograms(chosen, recipe), "examples": _examples(chosen, judged[0].stage)}


def _histograms(chosen: list[Shard], recipe: LanguageRecipe) -> list[dict[str, Any]]:
    limits: dict[str, list[dict[str, Any]]] = {}
    for rule in rules(recipe.data):
        if rule.min is not None or rule.max is not None:
            limits.setdefault(rule.tag, []).append({"rule": rule.label, "min": rule.min, "max": rule.max})
    found = []
    for tag, those in limits.items():
        values = np.concatenate([np.empty(0), *(_values(shard, tag) for shard in chosen)])
        values = values[np.isfinite(values)]
        if len(values):
            counts, edges = np.histogram(values, BINS, _range(values, those))
            outside = len(values) - int(counts.sum())
            found.append(
                {"tag": tag, "edges": edges.tolist(), "counts": counts.tolist(), "beyond": outside, "limits": those}
            )
    return found


def _values(shard: Shard, tag: str) -> Any:
    path = shard.file("tag", "tags.parquet")
    if not path.exists() or tag not in pq.read_schema(path).names:
        return np.empty(0)
    return pq.read_table(path, columns=[tag])[tag].to_numpy().astype(float)


def _range(values: Any, limits: list[dict[str, Any]]) -> tuple[float, float]:
    """From the least to the 99th percentile, and all limits within."""
    ends = [limit[side] for limit in limits for side in ("min", "max") if limit[side] is not None]
    low, high = min(float(values.min()), *ends), max(float(np.percentile(values, 99)), *ends)
    return low, high if high > low else low + 1.0


def _examples(chosen: list[Shard], judge: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for shard in chosen:
        for entry in _unread(shard):
            examples = found.setdefault(entry.pop("reason"), [])
            examples += [entry] if len(examples) < EXAMPLES else []
        reasons = shard.table(judge, "decisions.parquet", ["reason"])["reason"].cast(pa.string())
        wanted: dict[int, str] = {}
        for reason in pc.unique(reasons.drop_null()).to_pylist():
            rows = np.flatnonzero(pc.fill_null(pc.equal(reasons, reason), False).to_numpy())
            for row in rows[: EXAMPLES - len(found.get(reason, ()))].tolist():
                wanted[row] = reason
        start = 0
        for batch in shard.batches(["id", "text"]) if wanted else ():
            for row in [row for row in wanted if start <= row < start + len(batch)]:
                entry = batch.slice(row - start, 1).to_pylist()[0]
                found.setdefault(wanted[row], []).append({"id": entry["id"], "beginning": entry["text"][:_CHARACTERS]})
            start += len(batch)
    return found


def _unread(shard: Shard) -> Iterator[dict[str, Any]]:
    """What can't be read, and what cleaning dropped."""
    malformed = shard.file("read", MALFORMED)
    if malformed.exists():
        with malformed.open(encoding="utf-8") as lines:
            for entry in map(json.loads, islice(lines, EXAMPLES)):
                place = f"{entry['source']}/{entry['file']}, line {entry['line']}: {entry['reason']}"
                yield {"reason": "malformed", "id": place, "beginning": entry["record"][:_CHARACTERS]}
    if shard.file("read", "dropped.parquet").exists():
        yield from shard.table("read", "dropped.parquet").to_pylist()
