"""Stage split, its check: do documents of the validation part stand in the training part too?

Near duplicates are found by similarity, and not all of them; a text that is a part of a longer one is not found at all.
So a few n-grams of each validation document are looked up in all training documents. A document is taken for leaked
where most of those n-grams stand in the training part, in one document or in several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.decontaminate.index import Array, load_index, ngram_index, run_keys, save_index
from groundup.data.decontaminate.match import matches
from groundup.data.dedup.arrays import ROW_MASK, document_numbers, open_array, save, shard_slice
from groundup.data.dedup.shingles import tokenize
from groundup.data.execute.task import Done, Task
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard
from groundup.rundir import fingerprint

REASON = "validation_overlap"
NGRAM = 13  # words, or characters of Chinese, as for evaluations (Brown et al. 2020, appendix C)
SAMPLES = 16  # n-grams looked up of each document: those with the smallest hashes
SHARE = 0.5  # of them, from which a document is leaked
MOST = 1 << 18  # documents looked up; of a larger validation part those with the smallest draws
_INDEX, _FOUND = "held_out_index", "leaks"


def run(stages: Stages, limit: float, read: Sequence[Done], drawn: Sequence[Done]) -> Done:
    """Do the check; its result is the manifest's account of it. `limit`: the draw below which a document is for
    validation."""
    expected = limit * sum(done.result["left"]["documents"] for done in drawn)
    shown = limit * min(1.0, MOST / max(1.0, expected))

    def by_shard(stage: str, work: str, inputs: Sequence[str], **arguments: Any) -> list[Done]:
        tasks = [
            Task(
                stage,
                done.name,
                f"{__name__}:{work}",
                {"shard": shard, **arguments},
                (*inputs, done.output, drawn[shard].output),
                clean_bytes(done),
            )
            for shard, done in enumerate(read)
        ]
        return stages.run(tasks, "split")

    held = by_shard("held_out", "sample", (), limit=shown)
    outputs = (fingerprint([done.output for done in held]),)
    task = Task(_INDEX, "all", f"{__name__}:index", {"shards": len(read)}, outputs)
    known = stages.run([task], "split")[0]
    found = by_shard("overlap", "look_up", (known.output,), limit=limit)
    inputs = (known.output, fingerprint([done.output for done in found]))
    task = Task(_FOUND, "all", f"{__name__}:judge", {"shards": len(read)}, inputs)
    return stages.run([task], "split")[0]


def sample(out: Path, root: Path, shard: int, limit: float) -> dict[str, Any]:
    """Write ngrams.npy, uint64 [M, 2]: n-grams and the documents for validation that they are of, by document."""
    here = Shard(root, shard)
    chosen = _left(here) & (_draws(here) < limit)
    found = [np.empty((0, 2), np.uint64)]
    for rows, batch in here.chosen(["text"], chosen):
        tokens = tokenize(batch.column("text"))
        for row, begin, end in zip(rows, tokens.offsets, tokens.offsets[1:], strict=False):
            if end - begin >= NGRAM:
                keys = np.unique(run_keys(tokens.hashes[begin:end], NGRAM))[:SAMPLES]
                number = document_numbers(shard, 1)[0] + np.uint64(row)
                found.append(np.stack([keys, np.full(len(keys), number)], axis=1))
    save(out / "ngrams.npy", np.concatenate(found))
    return {"documents": int(chosen.sum())}


def index(out: Path, root: Path, shards: int) -> dict[str, Any]:
    """Write the index of all those n-grams, an item for each document, and documents.npy, the items' documents."""
    files = [Shard(root, shard).array("held_out", "ngrams.npy") for shard in range(shards)]
    ngrams = np.concatenate([np.empty((0, 2), np.uint64), *files])
    documents, items = np.unique(ngrams[:, 1], return_inverse=True)
    save_index(ngram_index(ngrams[:, 0], items, len(documents), NGRAM), out)
    save(out / "documents.npy", documents)
    return {"documents": len(documents)}


def look_up(out: Path, root: Path, shard: int, limit: float) -> dict[str, Any]:
    """Write found.npy: which n-grams of the index stand in the shard's training documents, int64, sorted."""
    here, known = Shard(root, shard), load_index(root / _INDEX / "all")
    chosen = _left(here) & (_draws(here) >= limit)
    found = [np.empty(0, np.int64)]
    for _, batch in here.chosen(["text"], chosen) if len(known.keys) else ():
        found.append(np.unique(matches(batch.column("text"), known)["ngram"].to_numpy()))
    save(out / "found.npy", np.unique(np.concatenate(found)))
    return {}


def judge(out: Path, root: Path, shards: int) -> dict[str, Any]:
    """Write leaked.npy: the documents that stand in the training part, uint64, sorted."""
    known = load_index(root / _INDEX / "all")
    documents = open_array(root / _INDEX / "all" / "documents.npy")
    there = np.zeros(len(known.keys), bool)
    for shard in range(shards):
        there[Shard(root, shard).array("overlap", "found.npy")] = True
    hit: Array = np.bincount(known.postings[np.repeat(there, np.diff(known.offsets))], minlength=len(documents))
    chosen = hit >= SHARE * known.item_ngrams()
    save(out / "leaked.npy", documents[chosen])
    return {"checked": len(documents), "found": int(chosen.sum())}


def leaked(here: Shard) -> NDArray[np.int64]:
    """Rows of a shard's leaked documents."""
    documents = open_array(here.root / _FOUND / "all" / "leaked.npy")
    return (documents[shard_slice(documents, here.number)] & ROW_MASK).astype(np.int64)


def _left(here: Shard) -> NDArray[np.bool_]:
    return np.asarray(here.table("draw", "decisions.parquet", ["reason"])["reason"].is_null())


def _draws(here: Shard) -> NDArray[np.float64]:
    return np.asarray(here.array("draw", "draws.npy"))
