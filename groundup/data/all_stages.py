"""All stages in their order: from slices of files to what the run folder's data is put together from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.console import Bar, say
from groundup.data.execute.task import Done, Task, versions
from groundup.data.explain import look
from groundup.data.read.slices import Slice, slice_files
from groundup.data.read.sources import SourceFile, named
from groundup.data.stages import decide, filter, leaks, passages, read, recall, tokenize
from groundup.data.stages.decide import SPLITS
from groundup.data.stages.judge import judge
from groundup.data.stages.run import Stages, share_out
from groundup.data.tokens.shards import check_room, token_dtype
from groundup.errors import UserError
from groundup.recipe.language import Data, LanguageRecipe
from groundup.rundir import fingerprint, read_json, write_atomically

# What a range of hashes may take that a task looks at; the same for any number of processes, so that another number
# makes the same files.
PARTITION_BYTES = 256 << 20


def sliced(
    data: Data, files: list[list[SourceFile]], states: list[list[tuple[int, str]]], root: Path
) -> list[tuple[int, Slice]]:
    """The slices of all sources, each with its source's number. Kept, since large files are read to find them."""
    path = root / "slices.json"
    kept = read_json(path) or {}
    found: dict[str, list[Slice]] = {}
    keys = []
    with Bar("slice", sum(size for group in states for size, _ in group)) as bar:
        for source, group, known in zip(data.sources, files, states, strict=True):
            state = [[f.name, f.source, str(f.place), *seen] for f, seen in zip(group, known, strict=True)]
            keys.append(fingerprint([versions(), state, source.model_dump(), data.slice_size.bytes]))
            if keys[-1] in kept:
                found[keys[-1]] = [Slice.from_dict(piece) for piece in kept[keys[-1]]]
            else:
                found[keys[-1]] = slice_files(group, source, data.slice_size.bytes, bar.advance)
    if found.keys() != kept.keys():
        write_atomically(path, json.dumps({key: [piece.as_dict() for piece in found[key]] for key in found}))
    return [(number, piece) for number, key in enumerate(keys) for piece in found[key]]


@dataclass(frozen=True)
class Made:
    """What the stages made: the tokenizer, token files, of each shard the parts that are left, what else the manifest
    tells of them, and what the report shows."""

    tokenizer: Done
    tokens: list[Done]
    left: list[Done]
    told: dict[str, Any]
    looked: dict[str, Any]


def run(recipe: LanguageRecipe, base: Path, stages: Stages, slices: Sequence[tuple[int, Slice]]) -> Made:
    """All stages in their order. `base`: the recipe's folder."""
    data, root = recipe.data, stages.root
    memory = min(data.memory.bytes, PARTITION_BYTES)
    if filter.wanted(data):
        filter.check_tags(data, base)
    for name in ("read", "clean"):
        _ = stages[name]
    done = stages.run(read.tasks(data, slices), "read")
    share_out(stages, "read", "clean", done)
    taken = read.account(stages, done)
    read.check_malformed(data, root, done)
    judged = judge(stages, data, base, recipe.seed, done, memory)
    told: dict[str, Any] = {"taken_out": taken}
    if judged.evaluations is not None:
        told["evaluations"] = judged.evaluations
    drawn = judged.drawn
    limit = decide.threshold(data.validation_fraction, drawn)
    leaked = leaks.run(stages, limit, done, drawn)
    told["validation_overlap"] = {**leaked.result, "rule": data.validation_overlap}
    split = stages.run(decide.split_tasks(limit, leaked.output, data.validation_overlap, done, drawn), "split")
    decide.account(stages, judged.dropping, drawn, split)
    left = tokenize.Texts(split)
    for unit, shortest in (("line", data.duplicate_lines), ("paragraph", data.duplicate_paragraphs)):
        if shortest is not None:
            left = tokenize.Texts(*passages.run(stages, unit, shortest, done, split, memory))
            passages.account(stages, unit, split, left.parts)
    _check_parts(stages, left.parts)
    # One process trains; the others, and this one, have time for what else is to be told.
    alone: dict[str, Sequence[Task]] = {
        "train_tokenizer": [tokenize.tokenizer_task(recipe.tokenizer, recipe.seed, left)],
        **({"recall": [recall.task(data, recipe.seed, done)]} if data.recall_check else {}),
    }
    with ThreadPoolExecutor(1) as thread:
        looked = thread.submit(look.look, root, recipe, left.parts)
        made = stages.run_together(alone)
    tokenizer = made["train_tokenizer"][0]
    if data.recall_check:
        told["recall"] = made["recall"][0].result
        del stages.by_name["recall"]
    if recipe.tokenizer.path is not None:
        del stages.by_name["train_tokenizer"]
    vocabulary = tokenizer.result["vocab_size"]
    _check_vocabulary(recipe, vocabulary)
    totals = [decide.total(part) for part in left.parts]
    total = {key: sum(part[key] for part in totals) for key in ("documents", "bytes")}
    # At least one byte of text makes a token, and each document has up to two more.
    check_room(root, (total["bytes"] + 2 * total["documents"]) * token_dtype(vocabulary).itemsize)
    sources = [number for number, _ in slices]
    tokens = stages.run(tokenize.tasks(recipe.tokenizer.encoder, tokenizer, sources, left), "tokenize")
    stages["tokenize"].count(total, total, {})
    fallback = tokenize.files_of(tokens)[0]["fallback"]
    if fallback:
        say(f"encoded by the slower tokenizers: {fallback}")
    return Made(tokenizer, tokens, list(left.parts), told, looked.result())


def _check_vocabulary(recipe: LanguageRecipe, entries: int) -> None:
    rows = recipe.model.vocab_size
    if rows is not None and rows < entries:
        raise UserError(
            f"the tokenizer has {entries} entries, the model's embedding only {rows} rows",
            where="model.vocab_size",
            expected=f"at least {entries}, or nothing",
        )


def _check_parts(stages: Stages, left: Sequence[Done]) -> None:
    """Raise UserError where nothing is left, or a part is empty."""
    if not stages["split"].documents_out:
        dropped = {reason: n for stage in stages.by_name.values() for reason, n in stage.dropped.items()}
        raise UserError(
            "no document is left to train on",
            where="data.sources",
            advice=f"The sources are empty, or every document was dropped: {dropped}",
        )
    for part in SPLITS:
        if not any(task.result["splits"][part]["documents"] for task in left):
            raise UserError(
                f"the {part} part is empty: {stages['split'].documents_out} document(s) were split by hash",
                where="data.validation_fraction",
                expected="at least one document on either side",
                advice="Change data.validation_fraction or seed, or cut long files into documents "
                'with split_on = "\\n\\n"',
            )


def account(recipe: LanguageRecipe, files: list[list[SourceFile]], stages: Stages, made: Made) -> dict[str, Any]:
    """What the manifest tells of all of it."""
    tokenizer, token_files = made.tokenizer.result, tokenize.files_of(made.tokens)

    def total(key: str, part: str | None = None, source: int | None = None) -> int:
        return sum(e[key] for e in token_files if part in (None, e["split"]) and source in (None, e["source"]))

    splits = {
        part: {
            "documents": sum(task.result["splits"][part]["documents"] for task in made.left),
            "bytes": total("bytes", part=part),
            "tokens": total("tokens", part=part),
        }
        for part in SPLITS
    }
    sources = [
        {
            "name": source.name,
            "path": source.path,
            "sha256": source.sha256,
            "files": len(files[n]),
            "documents": total("documents", source=n),
            "bytes": total("bytes", source=n),
            "tokens": total("tokens", source=n),
            "weight": source.weight,
            "epochs": source.epochs,
        }
        for n, source in enumerate(named(recipe.data.sources))
    ]
    return {
        "groundup": __version__,
        "tokens": total("tokens"),
        "dtype": token_dtype(tokenizer["vocab_size"]).str,
        "splits": splits,
        "sources": sources,
        "tokenizer": {
            **tokenizer,
            **{key: token_files[0][key] for key in ("encoder", "fallback", "unicode")},
            "path": recipe.tokenizer.path,
            "bytes_per_token": round(total("bytes") / total("tokens"), 4),
        },
        "versions": versions(),
        **made.told,
        "stages": [stage.as_dict() for stage in stages.by_name.values()],
        "peak_memory_mb": stages.peak_memory_mb(),
    }
