"""What happened to one document, and by which rule or which twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groundup.data.documents import shards
from groundup.data.filters.rules import explain
from groundup.data.stages import filter, leaks, passages
from groundup.data.stages.shard import Shard, place
from groundup.errors import UserError
from groundup.recipe.language import LanguageRecipe
from groundup.rundir import RunDir

_SHOWN_CHARACTERS = 300


def stages_of(run: RunDir) -> Path:
    """The folder of all stages. Raises UserError where nothing was prepared."""
    root = run.stages
    if not (run.data / "manifest.json").exists() or not (root / "split").is_dir():
        raise UserError("no text is prepared here", where=str(run.path), advice=f"Run: groundup prepare {run.path}")
    return root


def why(run: RunDir, recipe: LanguageRecipe, name: str) -> dict[str, Any]:
    """All that is known of a document: where it is from, what was measured, how each rule judged it, what became of it.

    Raises UserError where no document has this id.
    """
    root = stages_of(run)
    for shard in shards(root):
        row = _row(shard.file("read", "documents.parquet"), name)
        if row is not None:
            return _told(shard, row, recipe)
        row = _row(shard.file("read", "dropped.parquet"), name)
        if row is not None:
            dropped = shard.table("read", "dropped.parquet").slice(row, 1).to_pylist()[0]
            return {"kept": False, "stage": "clean", **dropped}
    raise UserError(
        f"no document is called {name!r}",
        where=str(run.path),
        expected=f"an id such as {_example(root)}",
        advice="Records that can't be read have no id; they are in data/malformed.jsonl",
    )


def _row(path: Path, name: str) -> int | None:
    if not path.exists():
        return None
    found = pc.index(pq.read_table(path, columns=["id"])["id"], pa.scalar(name)).as_py()
    return None if found < 0 else int(found)


def _example(root: Path) -> str:
    for shard in shards(root):
        if shard.rows:
            return str(shard.table("read", "documents.parquet", ["id"])["id"][0].as_py())
    return "SOURCE/FILE#RECORD"


def _document(shard: Shard, row: int) -> dict[str, Any]:
    with pq.ParquetFile(shard.file("read", "documents.parquet")) as file:
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                return dict(file.read_row_group(group).slice(row, 1).to_pylist()[0])
            row -= rows
    raise IndexError(row)


def _told(shard: Shard, row: int, recipe: LanguageRecipe) -> dict[str, Any]:
    document = _document(shard, row)
    decision = shard.decisions().slice(row, 1).to_pylist()[0]
    text = document.pop("text")
    found: dict[str, Any] = {
        **document,
        "bytes": len(text.encode()),
        "beginning": text[:_SHOWN_CHARACTERS],
        "kept": decision["reason"] is None,
        "split": decision["split"],
        "stage": _stage(decision["reason"], shard),
        "reason": decision["reason"],
        **{key: value for key, value in decision.items() if key.endswith("_cut")},
    }
    taken = shard.table("read", "cleaning.parquet").slice(row, 1).to_pylist()[0]
    found["taken_out"] = {kind: number for kind, number in taken.items() if number}
    twins = _twins(shard.root, decision)
    if twins:
        found["twin"] = twins[-1]
        found["twins"] = twins
    if shard.file("tag", "tags.parquet").exists():
        tags = shard.table("tag", "tags.parquet").slice(row, 1).to_pylist()[0]
        found["tags"] = tags
        found["rules"] = [verdict._asdict() for verdict in explain(filter.rules(recipe.data), tags)]
    if shard.file("contaminated", "hits.parquet").exists():
        found["evaluations"] = shard.table("contaminated", "hits.parquet").slice(row, 1).to_pylist()[0]
    return found


def _twins(root: Path, decision: dict[str, Any]) -> list[dict[str, Any]]:
    """The document for which this one went, the one for which that went, and so on to the last, with what became of
    each. A twin goes only in a later stage, so the chain ends."""
    found: list[dict[str, Any]] = []
    while decision["twin"] is not None:
        other, there = place(decision["twin"])
        shard = Shard(root, other)
        twin, decision = _document(shard, there), shard.decisions().slice(there, 1).to_pylist()[0]
        told = {key: twin[key] for key in ("id", "source", "file", "record", "offset")}
        beginning = twin["text"][:_SHOWN_CHARACTERS]
        found.append({**told, "beginning": beginning, "kept": decision["reason"] is None, "reason": decision["reason"]})
    return found


def _stage(reason: str | None, shard: Shard) -> str | None:
    if reason is None:
        return None
    if reason == "exact_duplicate":
        return "exact_dedup"
    if reason == "near_duplicate":
        return "near_dedup"
    if reason == leaks.REASON:
        return "split"
    for unit in passages.UNITS:
        if reason == passages.reason_of(unit):
            return passages.stage_of(unit)
    return "decontaminate" if reason.startswith("contaminated:") else "filter"


def as_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [found["id"]]
    if "file" in found:
        lines.append(f"  from {found['source']}, {found['file']}, record {found['record']}, offset {found['offset']}")
    if found["kept"]:
        lines.append(f"  kept, in the {found['split']} part")
    else:
        lines.append(f"  dropped in the stage {found['stage']}: {found['reason']}")
    for twin in found.get("twins", ()):
        end = "which stays" if twin["kept"] else f"which is dropped too: {twin['reason']}"
        lines.append(f"  for {twin['id']}, {end}")
    if found.get("taken_out"):
        lines.append("  taken out in cleaning: " + ", ".join(f"{n} {kind}" for kind, n in found["taken_out"].items()))
    for unit in passages.UNITS:
        if number := found.get(passages.cut_column(unit)):
            lines.append(f"  {number} {unit}s seen before are cut out, {found['bytes_cut']} bytes")
    for rule in found.get("rules", ()):
        if not rule["passed"]:
            lines.append(f"  {rule['rule']}: {rule['tag']} is {rule['value']}, wanted {rule['threshold']}")
    return "\n".join(lines)
