"""Stages train_tokenizer and tokenize: from the documents that are kept to token files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundup.data.execute.task import Done, Task
from groundup.data.stages import passages
from groundup.data.stages.decide import SPLITS, codes_of
from groundup.data.stages.passages import Cut
from groundup.data.stages.shard import Shard, name
from groundup.data.tokens.encode import ShardWriter
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
            here = Shard(root, shard)
            for batch in texts(here, "train", ["text"], _cut(cut), sample.rows(shard, 0, here.rows)):
                yield from batch.column("text").to_pylist()

    return _told(train_tokenizer(chosen(), vocab_size, max_bytes, out, split))


def texts(
    here: Shard, part: str, columns: list[str], cut: Cut | None, among: NDArray[np.bool_] | None = None
) -> Iterator[pa.RecordBatch]:
    """The documents of a part, a batch at a time. `cut`: which passages are left out; `among`: bool [N], which of the
    shard's documents are wanted."""
    chosen = _parts(here, cut) == SPLITS.index(part)
    return (batch for _, batch in _texts(here, chosen if among is None else chosen & among, columns, cut))


def _parts(here: Shard, cut: Cut | None) -> NDArray[np.int16]:
    """The part of each document, a number of SPLITS, or -1 for one that is dropped."""
    stage = "split" if cut is None else passages.stage_of(cut.unit)
    return codes_of(here.table(stage, "decisions.parquet", ["split"])["split"], list(SPLITS))[0]


def _texts(
    here: Shard, chosen: NDArray[np.bool_], columns: list[str], cut: Cut | None
) -> Iterator[tuple[NDArray[Any], pa.RecordBatch]]:
    """As `Shard.chosen`, of documents that are kept, without the passages that are left out."""
    left = None if cut is None else passages.Passages(here, cut, chosen)
    for rows, batch in here.chosen(columns, chosen):
        yield rows, batch if left is None else left.cut_out(batch, rows[0], rows[-1] + 1)


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
    """One per document shard that has documents left. `sources`: number of each shard's source."""
    arguments = {"encoder": encoder, "sha256": tokenizer.result["sha256"], **left.arguments}
    sizes = [{part: left.size(shard, part) for part in SPLITS} for shard in range(len(sources))]
    last = {(s, part): shard for shard, s in enumerate(sources) for part in SPLITS if sizes[shard][part]}
    return [
        Task(
            "tokenize",
            name(shard),
            f"{__name__}:tokenize",
            {
                "shard": shard,
                "source": s,
                "closes": {part: last[s, part] == shard for part in SPLITS if sizes[shard][part]},
                **arguments,
            },
            (tokenizer.output, left.parts[shard].output, left.found),
            sum(sizes[shard].values()),
        )
        for shard, s in enumerate(sources)
        if any(sizes[shard].values())
    ]


def tokenize(
    out: Path,
    root: Path,
    shard: int,
    source: int,
    closes: dict[str, bool],
    sha256: str,
    encoder: Engine,
    cut: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write a token file and its index for each part that has documents here; their entries in the manifest. `closes`:
    of each such part whether these are its last documents of the source."""
    here = Shard(root, shard)
    parts = _parts(here, _cut(cut))
    engine = encoder_of(root / "train_tokenizer" / "all", sha256, encoder)
    with ExitStack() as stack:
        writers = {part: stack.enter_context(ShardWriter(out, engine, part, source, shard)) for part in closes}
        for rows, batch in _texts(here, parts >= 0, ["id", "file", "offset", "text"], _cut(cut)):
            for part, writer in writers.items():
                writer.add(batch.filter(pa.array(parts[rows] == SPLITS.index(part))))
        return {"files": [writer.finish(closes[part]) for part, writer in writers.items()]}


def files_of(done: Sequence[Done]) -> list[dict[str, Any]]:
    """The manifest's entries of all token files, by part and shard."""
    return [entry for part in SPLITS for task in done for entry in task.result["files"] if entry["split"] == part]


def gather(done: Sequence[Done], folder: Path) -> None:
    """Put all token files into one folder, by links where the file system has them."""
    folder.mkdir()
    for task in done:
        for file in [path for entry in task.result["files"] for path in task.folder.glob(f"{entry['name']}.*")]:
            try:
                (folder / file.name).hardlink_to(file)
            except OSError:
                shutil.copyfile(file, folder / file.name)
