"""The step `prepare`: from sources to token shards, with a manifest that says what happened on the way.

What each stage makes of each shard stays in RUN/stages/, so that a stopped or changed run does again only what it must.
RUN/data/ holds the result alone, and is replaced only once the new one is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.console import Bar, say, size
from groundup.data.execute.executor import choose, cores, executor
from groundup.data.execute.task import Done, Task, drop_damaged, sweep, versions
from groundup.data.explain import look
from groundup.data.inputs import check_length
from groundup.data.read.slices import Slice, slice_files
from groundup.data.read.sources import SourceFile, named
from groundup.data.stages import decide, filter, leaks, passages, read, recall, tokenize
from groundup.data.stages.decide import SPLITS
from groundup.data.stages.judge import judge
from groundup.data.stages.read import MALFORMED
from groundup.data.stages.run import Stages, share_out, table
from groundup.data.tokens.shards import check_room, token_dtype
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.errors import UserError
from groundup.recipe.language import Data, LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.rundir import RunDir, fingerprint, read_json, write_atomically

PROCESS_BYTES = 600 << 20  # what a process of this step takes, with its libraries
# What a range of hashes may take that a task looks at; the same for any number of processes, so that another number
# makes the same files.
PARTITION_BYTES = 256 << 20


def _recipe(loaded: LoadedRecipe) -> LanguageRecipe:
    assert isinstance(loaded.recipe, LanguageRecipe)
    return loaded.recipe


def prepare(
    loaded: LoadedRecipe, run: RunDir, files: list[list[SourceFile]], inputs: str, kind: str = "auto"
) -> dict[str, Any]:
    """Do what is to be done of all stages, on the executor named. Returns the manifest."""
    data = _recipe(loaded).data
    root = run.stages
    root.mkdir(exist_ok=True)
    if (read_json(run.data / "manifest.json") or {}).get("inputs") == inputs:
        drop_damaged(root)  # what is made again although it is there is so because something of it is damaged
    # This process is one too.
    workers = max(1, min(data.workers or cores(), data.memory.bytes // PROCESS_BYTES - 1))
    states = [[file.state() for file in group] for group in files]
    kind = choose(kind, workers, sum(size for group in states for size, _ in group))
    with executor(kind, root, workers) as execute:
        slices = _sliced(data, files, states, root)
        stages = Stages(execute, root, 1 if kind == "process" else workers)
        made = _stages(loaded, stages, slices, root)
    manifest = _manifest(loaded, files, stages, made)
    manifest["inputs"] = inputs
    check_length(_recipe(loaded).train.sequence_length, manifest)
    sweep(root, stages.tasks)
    _put_into_place(run, manifest, made)
    say(table(list(stages.by_name.values())))
    if manifest["peak_memory_mb"] > data.memory.bytes / (1 << 20):
        say(
            f"this took {manifest['peak_memory_mb']:,.0f} MB of memory at the most, more than data.memory allows "
            f"({data.memory}); fewer data.workers or a smaller data.slice_size take less"
        )
    return manifest


def _sliced(
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


def _stages(loaded: LoadedRecipe, stages: Stages, slices: Sequence[tuple[int, Slice]], root: Path) -> Made:
    """All stages in their order."""
    recipe = _recipe(loaded)
    data = recipe.data
    memory = min(data.memory.bytes, PARTITION_BYTES)
    if filter.wanted(data):
        filter.check_tags(data, loaded.base)
    for name in ("read", "clean"):
        _ = stages[name]
    done = stages.run(read.tasks(data, slices), "read")
    share_out(stages, "read", "clean", done)
    taken = read.account(stages, done)
    read.check_malformed(data, root, done)
    judged = judge(stages, data, loaded.base, recipe.seed, done, memory)
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
    if tokens[0].result["fallback"]:
        say(f"encoded by the slower tokenizers: {tokens[0].result['fallback']}")
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


def _put_into_place(run: RunDir, manifest: dict[str, Any], made: Made) -> None:
    """Make `data/` anew beside the old one, and put it in its place."""
    root = run.stages
    partial, old = run.path / "data.partial", run.path / "data.old"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    manifest["files"] = tokenize.gather(made.tokens, partial / "tokens")
    # What the batch stream depends on, not which versions of libraries made it.
    tokens_made = [[file[key] for key in ("name", "tokens", "xxh3_128")] for file in manifest["files"]]
    manifest["fingerprint"] = fingerprint([tokens_made, manifest["tokenizer"]["sha256"], manifest["dtype"]])
    Tokenizer(made.tokenizer.folder).save(partial / "tokenizer")
    if (root / MALFORMED).exists():
        shutil.copyfile(root / MALFORMED, partial / MALFORMED)
    write_atomically(partial / "look.json", json.dumps(made.looked))
    write_atomically(partial / "manifest.json", json.dumps(manifest, indent=1))
    shutil.rmtree(old, ignore_errors=True)
    if run.data.exists():
        run.data.rename(old)
    partial.rename(run.data)
    shutil.rmtree(old, ignore_errors=True)


def _manifest(
    loaded: LoadedRecipe,
    files: list[list[SourceFile]],
    stages: Stages,
    made: Made,
) -> dict[str, Any]:
    recipe = _recipe(loaded)
    tokenizer = made.tokenizer.result

    def total(key: str, part: str | None = None, source: int | None = None) -> int:
        entries = [task.result for task in made.tokens]
        return sum(e[key] for e in entries if part in (None, e["split"]) and source in (None, e["source"]))

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
            **{key: made.tokens[0].result[key] for key in ("encoder", "fallback", "unicode")},
            "path": recipe.tokenizer.path,
            "bytes_per_token": round(total("bytes") / total("tokens"), 4),
        },
        "versions": versions(),
        **made.told,
        "stages": [stage.as_dict() for stage in stages.by_name.values()],
        "peak_memory_mb": stages.peak_memory_mb(),
    }


def summary(manifest: dict[str, Any]) -> str:
    splits, tokenizer = manifest["splits"], manifest["tokenizer"]
    return (
        f"prepared: {size(splits['train']['tokens'])} training tokens, "
        f"{size(splits['validation']['tokens'])} for validation, "
        f"{tokenizer['bytes_per_token']:.2f} bytes per token, vocabulary {tokenizer['vocab_size']:,}"
    )
