"""Stages train_tokenizer and tokenize: from the documents that are kept to token files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groundup.data.execute.task import Done, Task
from groundup.data.stages import passages
from groundup.data.stages.decide import SPLITS
from groundup.data.stages.passages import Cut
from groundup.data.stages.shard import Shard, name
from groundup.data.tokens.encode import encode_shard
from groundup.data.tokens.encoder import Engine, encoder_of
from groundup.data.tokens.sample import TrainingSample
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.data.tokens.train import train_tokenizer
from groundup.recipe.language import Tokenizer as Section
from groundup.rundir import fingerprint


@dataclass(frozen=True)
class Texts:
    """The texts that are left. `parts`: of each shard what it has of each part; `cut`: which passages are left out;
    `found`: the fingerprint of that."""

    parts: Sequence[Done]
    cut: Cut | None = None
    found: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        return {"cut": asdict(self.cut) if self.cut else None}

    def size(self, shard: int, part: str) -> int:
        """Bytes."""
        size: int = self.parts[shard].result["splits"][part]["bytes"]
        return size


def tokenizer_task(section: Section, seed: int, left: Texts) -> Task:
    """Train one, or take the recipe's."""
    if section.path is not None:
        sha256 = Tokenizer(Path(section.path)).sha256
        return Task("train_tokenizer", "all", f"{__name__}:take", {"path": section.path}, (sha256,))
    sizes = [left.size(shard, "train") for shard in range(len(left.parts))]
    sample = TrainingSample(sum(sizes), section.max_training_bytes, seed)
    shards = [shard for shard, size in enumerate(sizes) if size and sample.has_shard(shard)]
    arguments = {
        "shards": shards,
        "total": sum(sizes),
        "seed": seed,
        "vocab_size": section.vocab_size,
        "max_bytes": section.max_training_bytes,
        "split": section.split,
        **left.arguments,
    }
    inputs = (fingerprint([left.found, *(left.parts[shard].output for shard in shards)]),)
    size = min(section.max_training_bytes, sum(sizes))
    return Task("train_tokenizer", "all", f"{__name__}:train", arguments, inputs, size)


def train(
    out: Path,
    root: Path,
    shards: list[int],
    total: int,
    seed: int,
    vocab_size: int,
    max_bytes: int,
    split: str,
    cut: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write tokenizer.json and tokenizer_config.json."""
    sample = TrainingSample(total, max_bytes, seed)

    def chosen() -> Iterator[str]:
        for shard in shards:
            start = 0
            for batch in texts(Shard(root, shard), "train", ["text"], _cut(cut)):
                rows = sample.rows(shard, start, start + len(batch))
                start += len(batch)
                yield from batch.column("text").filter(pa.array(rows)).to_pylist()

    return _told(train_tokenizer(chosen(), vocab_size, max_bytes, out, split))


def texts(here: Shard, part: str, columns: list[str], cut: Cut | None) -> Iterator[pa.RecordBatch]:
    """The documents of a part, a batch at a time. `cut`: which passages are left out."""
    stage = "split" if cut is None else passages.stage_of(cut.unit)
    parts = here.table(stage, "decisions.parquet", ["split"])["split"].cast(pa.string()).combine_chunks()
    chosen = np.asarray(pc.fill_null(pc.equal(parts, part), False))
    left = None if cut is None else passages.Passages(here, cut, chosen)
    start = 0
    for batch in here.batches(columns):
        stop = start + len(batch)
        found = batch.filter(pa.array(chosen[start:stop]))
        if len(found):
            yield found if left is None else left.cut_out(found, start, stop)
        start = stop


def _cut(arguments: dict[str, Any] | None) -> Cut | None:
    return None if arguments is None else Cut(**arguments)


def take(out: Path, root: Path, path: str) -> dict[str, Any]:
    """Copy an existing tokenizer's files."""
    Tokenizer(Path(path)).save(out)
    return _told(Tokenizer(out))


def _told(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "start_id": tokenizer.start_id,
        "end_id": tokenizer.end_id,
    }


def tasks(encoder: str, tokenizer: Done, sources: Sequence[int], left: Texts) -> list[Task]:
    """One per document shard and part that has documents. `sources`: number of each shard's source."""
    arguments = {"encoder": encoder, "sha256": tokenizer.result["sha256"], **left.arguments}
    last = {(s, part): shard for shard, s in enumerate(sources) for part in SPLITS if left.size(shard, part)}
    return [
        Task(
            "tokenize",
            f"{part}-{name(shard)}",
            f"{__name__}:tokenize",
            {"shard": shard, "part": part, "source": s, "closes": last[s, part] == shard, **arguments},
            (tokenizer.output, left.parts[shard].output, left.found),
            left.size(shard, part),
        )
        for part in SPLITS
        for shard, s in enumerate(sources)
        if left.size(shard, part)
    ]


def tokenize(
    out: Path,
    root: Path,
    shard: int,
    part: str,
    source: int,
    closes: bool,
    sha256: str,
    encoder: Engine,
    cut: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write the part's token file and its index; its entry in the manifest."""
    documents = texts(Shard(root, shard), part, ["id", "file", "offset", "text"], _cut(cut))
    entry = encode_shard(
        documents, encoder_of(root / "train_tokenizer" / "all", sha256, encoder), out, part, source, shard, closes
    )
    assert entry is not None
    return entry


def gather(done: Sequence[Done], folder: Path) -> list[dict[str, Any]]:
    """Put all token files into one folder, by links where the file system has them; their entries, in the
    order of the tasks."""
    folder.mkdir()
    for task in done:
        for file in task.folder.glob(f"{task.result['name']}.*"):
            try:
                (folder / file.name).hardlink_to(file)
            except OSError:
                shutil.copyfile(file, folder / file.name)
    return [task.result for task in done]
