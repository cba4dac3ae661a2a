"""The recall check: what share of planted copies, near-copies, contaminations and personal data do the stages find?

Documents of the corpus with such things planted in them go through the same stages in a folder of their own, which is
removed; nothing of them comes into the data.
"""

from __future__ import annotations

import glob
import json
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groundup.console import into_file
from groundup.data.decontaminate.index import run_keys
from groundup.data.dedup.bands import MARGIN
from groundup.data.dedup.shingles import tokenize
from groundup.data.execute.task import Done, Task, perform
from groundup.data.read.slices import slice_files
from groundup.data.read.sources import SourceFile
from groundup.data.stages import read
from groundup.data.stages.judge import judge
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard
from groundup.recipe.language import Data, Decontamination, NearDuplicates, Source

PLANTED = 24  # of each kind at most
_SHARDS = 4  # looked at for documents
_CHARACTERS = (400, 20_000)  # of a document that something is planted in
_WHOLE = 1 << 30
# A character of a script without spaces, a word, or what is between.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNITS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[\W_]+")
_PERSONAL = (
    *("ada.lovelace@mail.example.com", "8.8.8.8", "+1 212 555 0123", "4111 1111 1111 1111", "123-45-6789"),
    *("11010519491231002X", "DE89370400440532013000"),
)


@dataclass(frozen=True)
class _Plant:
    """A document to be found. `mark`: what must not be left in its text, where masking is a way of finding it. `twin`:
    the number of the document that it copies, of which one must go."""

    kind: str
    text: str
    mark: str | None = None
    twin: int | None = None


def task(data: Data, seed: int, done: Sequence[Done]) -> Task:
    step = max(1, len(done) // _SHARDS)
    chosen = list(range(0, len(done), step))[:_SHARDS]
    keys = ("repair", "drop_boilerplate", "personal", "min_document_chars", "deduplicate", "near_duplicates")
    arguments = {"shards": chosen, "data": data.model_dump(include={*keys, "decontaminate"}), "seed": seed}
    return Task("recall", "all", f"{__name__}:check", arguments, tuple(done[shard].output for shard in chosen))


def check(out: Path, root: Path, shards: list[int], data: dict[str, Any], seed: int) -> dict[str, Any]:
    """By kind how many were planted and how many found."""
    dice = random.Random(seed)
    recipe = _recipe(data, out)
    texts = _sample(root, shards, dice)
    question, plants, others = _plant(texts, recipe, dice)
    beside = out / "beside"
    beside.mkdir()
    (out / "sample.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [*others, *(plant.text for plant in plants)])
    )
    (out / "exam.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in question))
    with into_file(out / "said.txt"):
        outcomes = _outcomes(recipe, beside, seed)
    found: dict[str, dict[str, int]] = {}
    for number, plant in enumerate(plants, len(others)):
        entry = found.setdefault(plant.kind, {"planted": 0, "found": 0})
        entry["planted"] += 1
        entry["found"] += _is_found(plant, [outcomes[n] for n in (number, plant.twin) if n in outcomes])
    for path in list(out.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def _recipe(data: dict[str, Any], folder: Path) -> Data:
    """The recipe's stages over the planted documents. Filters stay out: they would drop some before they are found."""
    near, section = data["near_duplicates"], data["decontaminate"]
    if near is not None:
        kept = near["keep"] if near["keep"] in ("first", "longest") else "longest"
        near = NearDuplicates(**{**near, "keep": kept})
    if section is not None:
        files = [glob.escape(str(folder / "exam.jsonl"))]
        section = Decontamination(**{**section, "files": files, "fields": ["text"]})
    return Data(**{**data, "near_duplicates": near, "decontaminate": section})


def _sample(root: Path, shards: list[int], dice: random.Random) -> list[str]:
    """Documents of the corpus, each of another text."""
    found: dict[str, None] = {}
    for shard in shards:
        for batch in Shard(root, shard).batches(["text"]):
            some = batch.column("text").slice(0, 400).to_pylist()
            found.update(dict.fromkeys(text for text in some if _CHARACTERS[0] <= len(text) <= _CHARACTERS[1]))
            break
    texts = list(found)
    dice.shuffle(texts)
    return texts[: 4 * PLANTED]


def _plant(texts: list[str], data: Data, dice: random.Random) -> tuple[list[str], list[_Plant], list[str]]:
    """Evaluation items, what is to be found, and the documents that it copies."""
    words = [unit for text in texts for unit in _UNITS.findall(text) if _is_word(unit)]
    portions = [texts[start::4] for start in range(4)]
    exam: list[str] = []
    plants: list[_Plant] = []
    others: list[str] = []
    if data.deduplicate:
        plants += [_Plant("exact_duplicate", f" \r\n{text}\n\n", twin=n) for n, text in enumerate(portions[0])]
        others += portions[0]
    if data.near_duplicates is not None:
        for text in portions[1]:
            near = _near_copy(text, words, data.near_duplicates, dice)
            if near is not None:
                plants.append(_Plant("near_duplicate", near, twin=len(others)))
                others.append(text)
    if data.decontaminate is not None:
        for text in portions[2]:
            exam.append(" ".join(dice.choices(words, k=2 * data.decontaminate.ngram)))
            plants.append(_Plant("contaminated", f"{text}\n{exam[-1].upper().replace(' ', ', ')}!"))
    if data.personal != "keep":
        for text, mark in zip(portions[3], _PERSONAL * PLANTED, strict=False):
            plants.append(_Plant("personal_data", f"{text}\nWrite to: {mark} .", mark))
    return exam or ["nothing"], plants, others


def _is_word(unit: str) -> bool:
    return unit[0].isalnum()


def _near_copy(text: str, words: list[str], near: NearDuplicates, dice: random.Random) -> str | None:
    """The text with words replaced, so that it is above the threshold by the margin at which pairs are to be found, and
    not by much more; None where chance has it otherwise."""
    wanted = near.threshold + min(MARGIN, (1 - near.threshold) / 2)
    aim = (wanted + 1) / 2
    # An n-gram stays where all its words do.
    replaced = 1 - (2 * aim / (1 + aim)) ** (1 / near.ngram)
    units = _UNITS.findall(text)
    changed = [dice.choice(words) if _is_word(unit) and dice.random() < replaced else unit for unit in units]
    near_copy = "".join(changed)
    tokens = tokenize(pa.array([text, near_copy], pa.large_string()))
    parts = [tokens.hashes[tokens.offsets[n] : tokens.offsets[n + 1]] for n in range(2)]
    if min(map(len, parts)) < near.ngram:
        return None
    first, second = (np.unique(run_keys(part, near.ngram)) for part in parts)
    common = len(np.intersect1d(first, second))
    similarity = common / (len(first) + len(second) - common)
    return near_copy if wanted <= similarity < 1 else None


def _outcomes(data: Data, root: Path, seed: int) -> dict[int | None, tuple[str | None, str]]:
    """Of each planted document why it was dropped, and its text after cleaning; those that cleaning drops are left
    out."""
    path = root.parent / "sample.jsonl"
    source = Source(path=str(path))
    file = SourceFile(path, path.name, "planted")
    stages = Stages(lambda tasks: (perform(one, root) for one in tasks), root, 1)
    data = data.model_copy(update={"sources": [source]})
    pieces = [(0, piece) for piece in slice_files([file], source, _WHOLE)]
    done = stages.run(read.tasks(data, pieces), "read")
    judge(stages, data, root, seed, done, _WHOLE)
    here = Shard(root, 0)
    texts = here.table("read", "documents.parquet", ["record", "text"])
    reasons = here.table("draw", "decisions.parquet", ["reason"])["reason"].to_pylist()
    rows = zip(texts["record"].to_pylist(), reasons, texts["text"].to_pylist(), strict=True)
    return {record: (reason, text) for record, reason, text in rows}


def _is_found(plant: _Plant, outcomes: list[tuple[str | None, str]]) -> bool:
    """`outcomes`: those of the document, and of the one that it copies."""
    if plant.mark is not None:
        return any(r == "personal_data" or (r is None and plant.mark not in text) for r, text in outcomes)
    return any(reason is not None and reason.partition(":")[0] == plant.kind for reason, _ in outcomes)
