"""The documents of a prepared run, read back from what the stages left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundup.data.stages.shard import Shard, place
from groundup.data.stages.tokenize import texts
from groundup.rundir import RunDir


def shards(root: Path) -> Iterator[Shard]:
    """The document shards under the root of all stages, in order."""
    # Other folders are what killed tasks left half-made.
    for number in sorted(int(folder.name) for folder in (root / "read").glob("[0-9]*")):
        yield Shard(root, number)


def iterate_texts(run: RunDir, split: str) -> Iterator[tuple[str, str]]:
    """(id, text) of the documents of a part, in order, before lines or paragraphs that repeat are left out."""
    for shard in shards(run.stages):
        for batch in texts(shard, split, ["id", "text"], None):
            yield from zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True)


def outcomes(run: RunDir) -> Iterator[dict[str, Any]]:
    """Of every document that was read: id, reason (None: it is kept), split, and the id of the twin for which it went.
    For small runs: twins are looked up one by one."""
    for shard in shards(run.stages):
        ids = shard.table("read", "documents.parquet", ["id"])["id"].to_pylist()
        for name, decision in zip(ids, shard.decisions().to_pylist(), strict=True):
            twin = None if decision["twin"] is None else _name(shard.root, decision["twin"])
            yield {"id": name, "reason": decision["reason"], "split": decision["split"], "twin": twin}
        if shard.file("read", "dropped.parquet").exists():
            for row in shard.table("read", "dropped.parquet").to_pylist():
                yield {"id": row["id"], "reason": row["reason"], "split": None, "twin": None}


def _name(root: Path, number: int) -> str:
    shard, row = place(number)
    return str(Shard(root, shard).table("read", "documents.parquet", ["id"])["id"][row].as_py())
