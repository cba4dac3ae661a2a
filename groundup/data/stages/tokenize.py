"""Stages train_tokenizer and tokenize: from the documents that are kept to token files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from groundup.data.execute.task import Done, Task
from groundup.data.stages import passages
from groundup.data.stages.decide import SPLITS
from groundup.data.stages.shard import Shard, name
from groundup.data.tokens.encode import encode_shard
from groundup.data.tokens.encoder import Engine, encoder_of
from groundup.data.tokens.sample import TrainingSample
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.data.tokens.train import train_tokenizer
from groundup.recipe.language import Tokenizer as Section


@dataclass(frozen=True)
class Repeats:
    """Which repeated paragraphs are left out: the fingerprint of what was found, their least length in characters."""

    found: str = ""
    shortest: int | None = None


def tokenizer_task(section: Section, seed: int, split: Sequence[Done], repeats: Repeats) -> Task:
    """Train one, or take the recipe's."""
    if section.path is not None:
        sha256 = Tokenizer(Path(section.path)).sha256
        return Task("train_tokenizer", "all", f"{__name__}:take", {"path": section.path}, (sha256,))
    sizes = [done.result["splits"]["train"]["bytes"] for done in split]
    sample = TrainingSample(sum(sizes), section.max_training_bytes, seed)
    shards = [shard for shard, size in enumerate(sizes) if size and sample.has_shard(shard)]
    arguments = {
        "shards": shards,
        "total": sum(sizes),
        "seed": seed,
        "vocab_size": section.vocab_size,
        "max_bytes": section.max_training_bytes,
        "split": section.split,
        "shortest": repeats.shortest,
    }
    inputs = (repeats.found, *(split[shard].output for shard in shards))
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
    shortest: int | None,
) -> dict[str, Any]:
    """Write tokenizer.json and tokenizer_config.json."""
    sample = TrainingSample(total, max_bytes, seed)

    def chosen() -> Iterator[str]:
        for shard in shards:
            start = 0
            for batch in texts(Shard(root, shard), "train", ["text"], shortest):
                rows = sample.rows(shard, start, start + len(batch))
                start += len(batch)
                yield from batch.column("text").filter(pa.array(rows)).to_pylist()

    return _told(train_tokenizer(chosen(), vocab_size, max_bytes, out, split))


def texts(here: Shard, part: str, columns: list[str], shortest: int | None) -> Iterator[pa.RecordBatch]:
    """The documents of a part, a batch at a time. `shortest`: where repeated paragraphs are left out, their length."""
    parts = here.table("split", "decisions.parquet", ["split"])["split"].cast(pa.string()).combine_chunks()
    chosen = pc.fill_null(pc.equal(parts, part), False)
    batches = here.batches(columns)
    start = 0
    for batch in batches if shortest is None else passages.without(here, shortest, batches):
        found = batch.filter(chosen.slice(start, len(batch)))
        start += len(batch)
        if len(found):
            yield found


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


def tasks(encoder: str, tokenizer: Done, sources: Sequence[int], split: Sequence[Done], repeats: Repeats) -> list[Task]:
    """One per document shard and part that has documents. `sources`: number of each shard's source."""
    arguments = {"encoder": encoder, "sha256": tokenizer.result["sha256"], "shortest": repeats.shortest}
    last = {(s, part): shard for shard, s in enumerate(sources) for part in SPLITS if _size(split[shard], part)}
    return [
        Task(
            "tokenize",
            f"{part}-{name(shard)}",
            f"{__name__}:tokenize",
            {"shard": shard, "part": part, "source": s, "closes": last[s, part] == shard, **arguments},
            (tokenizer.output, split[shard].output, repeats.found),
            _size(split[shard], part),
        )
        for part in SPLITS
        for shard, s in enumerate(sources)
        if _size(split[shard], part)
    ]


def _size(done: Done, part: str) -> int:
    size: int = done.result["splits"][part]["bytes"]
    return size


def tokenize(
    out: Path,
    root: Path,
    shard: int,
    part: str,
    source: int,
    closes: bool,
    sha256: str,
    encoder: Engine,
    shortest: int | None,
) -> dict[str, Any]:
    """Write the part's token file and its index; its entry in the manifest."""
    documents = texts(Shard(root, shard), part, ["id", "file", "offset", "text"], shortest)
    entry = encode_shard(
        documents, encoder_of(root / "train_tokenizer" / "all", sha256, encoder), out, part, source, shard, closes
    )
    assert entry is not None
    return entry


def gather(done: Sequence[Done], folder: Path) -> list[dict[str, Any]]:
    """Put all token files into one folder, by links where the file system has them; their entries."""
    folder.mkdir()
    for task in done:
        for file in task.folder.glob(f"{task.result['name']}.*"):
            try:
                (folder / file.name).hardlink_to(file)
            except OSError:
                shutil.copyfile(file, folder / file.name)
    return sorted((task.result for task in done), key=lambda entry: str(entry["name"]))
