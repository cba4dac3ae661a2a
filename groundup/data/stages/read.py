"""Stages read and clean: from an input slice to a document shard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groundup.data.clean.lines import LINE_RULES
from groundup.data.clean.personal import mask
from groundup.data.clean.text import C4, clean_texts
from groundup.data.dedup.hashes import content_hashes
from groundup.data.execute.task import Done, Task
from groundup.data.read.malformed import KEPT_MESSAGES, Malformed
from groundup.data.read.slices import DOCUMENTS, Slice, read_slice
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import name
from groundup.recipe.language import Data, Source

MALFORMED = "malformed.jsonl"
DROPPED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("beginning", pa.string())])
BEGINNING = 240  # characters kept of a document that is dropped here


def tasks(data: Data, slices: Sequence[tuple[int, Slice]]) -> list[Task]:
    """`slices`: with the number of each one's source, in the order of shards."""
    cleaning = {
        "repair": data.repair,
        "lines": [*(sorted(LINE_RULES) if data.drop_boilerplate else []), *([C4] if C4 in data.filters else [])],
        "mask": data.personal == "mask",
        "shortest": data.min_document_chars,
    }
    return [
        Task(
            "read",
            name(shard),
            f"{__name__}:read",
            {"piece": piece.as_dict(), "source": data.sources[source].model_dump(), "cleaning": cleaning},
            size=piece.bytes,
        )
        for shard, (source, piece) in enumerate(slices)
    ]


def read(
    out: Path, root: Path, piece: dict[str, Any], source: dict[str, Any], cleaning: dict[str, Any]
) -> dict[str, Any]:
    """Write documents.parquet, hashes.npy (uint64 [N, 2]), bytes.npy (int64 [N]) and cleaning.parquet, what was taken
    out of each document; dropped.parquet for the rest."""
    counts: dict[str, Any] = {"read": _counts(), "clean": _counts(), "dropped": {}}
    hashes, sizes = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
    clock = _Clock()
    dropped: list[pa.RecordBatch] = []
    taken: list[pa.Table] = []
    with (
        Malformed(out / MALFORMED) as malformed,
        # Each stage reads it again: lz4 takes a quarter more room than zstd, and a third of the time. No text is looked
        # for in a dictionary.
        pq.ParquetWriter(
            out / "documents.parquet",
            DOCUMENTS,
            compression="lz4",
            write_statistics=False,
            use_dictionary=["source", "file"],
        ) as writer,
    ):
        batches = read_slice(Slice.from_dict(piece), Source(**source), malformed)
        while (batch := clock.time("read", lambda: next(batches, None))) is not None:
            _count(counts["read"], batch.column("text"))
            kept, lost, out_of_it = clock.time("clean", lambda batch=batch: _clean(batch, cleaning))
            taken.append(out_of_it)
            dropped.append(lost)
            _count(counts["clean"], kept.column("text"))
            writer.write_batch(kept)
            hashes.append(content_hashes(kept.column("text")))
            sizes.append(pc.binary_length(kept.column("text")).to_numpy().astype(np.int64))
    np.save(out / "hashes.npy", np.concatenate(hashes))
    np.save(out / "bytes.npy", np.concatenate(sizes))
    lost = pa.Table.from_batches(dropped, DROPPED)
    if len(lost):
        pq.write_table(lost, out / "dropped.parquet", compression="zstd")
    if taken:
        table = pa.concat_tables(taken)
        pq.write_table(table, out / "cleaning.parquet", compression="zstd")
        counts["taken"] = {column: pc.sum(table[column]).as_py() or 0 for column in table.column_names}
    counts["dropped"] = {entry["values"]: entry["counts"] for entry in lost["reason"].value_counts().to_pylist()}
    counts["malformed"], counts["records"] = malformed.count, malformed.total
    counts["first_malformed"] = malformed.first
    return {**counts, "seconds": clock.seconds}


def _clean(batch: pa.RecordBatch, cleaning: dict[str, Any]) -> tuple[pa.RecordBatch, pa.RecordBatch, pa.Table]:
    """The documents that are left, with their text mended; the others, of which nothing is left with the beginning
    that they had; and how much was taken out of those left, a column for each kind."""
    cleaned = clean_texts(batch.column("text"), frozenset(cleaning["lines"]), cleaning["repair"])
    text, taken = cleaned.texts, {"lines": pa.array(cleaned.dropped)}
    if cleaning["mask"]:
        text, counts = mask(text)
        taken |= {name: counts[name] for name in counts.column_names}
    length = pc.utf8_length(text)
    good = pc.greater_equal(length, max(1, cleaning["shortest"]))
    empty = pc.equal(length, 0)
    nothing_left = pc.if_else(pc.greater(taken["lines"], 0), "no_line_left", "empty")
    reasons = pc.if_else(empty, nothing_left, "too_short")
    bad = pc.invert(good)
    shown = pc.if_else(empty, batch.column("text"), text).filter(bad)
    shown = pc.utf8_slice_codeunits(mask(shown)[0] if cleaning["mask"] else shown, 0, BEGINNING)
    columns = [batch.column("id").filter(bad), reasons.filter(bad), shown.cast(pa.string())]
    lost = pa.RecordBatch.from_arrays(columns, schema=DROPPED)
    kept = batch.set_column(batch.schema.get_field_index("text"), "text", text).filter(good)
    return kept.select(DOCUMENTS.names).cast(DOCUMENTS), lost, pa.table(taken).filter(good)


def _counts() -> dict[str, int]:
    return {"documents": 0, "bytes": 0}


def _count(counts: dict[str, int], texts: pa.Array) -> None:
    counts["documents"] += len(texts)
    counts["bytes"] += pc.sum(pc.binary_length(texts)).as_py() or 0


class _Clock:
    """Wall and CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, part: str, work: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        spent = self.seconds.setdefault(part, [0.0, 0.0])
        spent[0] += time.perf_counter() - wall
        spent[1] += time.process_time() - cpu
        return found


def clean_bytes(done: Done) -> int:
    """Bytes of text that a document shard holds."""
    size: int = done.result["clean"]["bytes"]
    return size


def account(stages: Stages, done: Sequence[Done]) -> dict[str, int]:
    """Enter what was read and cleaned; how much cleaning took out of the documents that it left, by kind."""
    taken = Counter[str]()
    for task in done:
        found = task.result
        records = {**found["read"], "documents": found["records"]}
        malformed = {"malformed": found["malformed"]} if found["malformed"] else {}
        stages["read"].count(records, found["read"], malformed)
        stages["clean"].count(found["read"], found["clean"], found["dropped"])
        taken.update(found.get("taken", {}))
    return dict(taken)


def check_malformed(data: Data, root: Path, done: Sequence[Done]) -> None:
    """Raise UserError where more of the records than the recipe allows can't be read."""
    log = root / MALFORMED
    malformed = Malformed(log)
    malformed.total = sum(task.result["records"] for task in done)
    malformed.count = sum(task.result["malformed"] for task in done)
    malformed.first = [message for task in done for message in task.result["first_malformed"]][:KEPT_MESSAGES]
    gather_malformed(done, log)
    malformed.check(data.max_malformed_fraction)


def gather_malformed(done: Sequence[Done], log: Path) -> None:
    """All shards' malformed records in one file, if there are any."""
    log.unlink(missing_ok=True)
    for task in done:
        path = task.folder / MALFORMED
        if path.exists():
            with log.open("ab") as out:
                out.write(path.read_bytes())
