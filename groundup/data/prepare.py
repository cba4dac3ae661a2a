"""The step `prepare`: from sources to token shards, with a manifest that says what happened on the way.

What each stage makes of each shard stays in RUN/stages/, so that a stopped or changed run does again only what it must.
RUN/data/ holds the result alone, and is replaced only once the new one is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.console import say, size
from groundup.data.execute.executor import cores, executor
from groundup.data.execute.task import Done, drop_damaged, sweep
from groundup.data.explain import look
from groundup.data.read.slices import Slice, slice_files
from groundup.data.read.sources import SourceFile, resolve, source_name
from groundup.data.stages import decide, duplicates, evaluations, filter, near, passages, read, tokenize
from groundup.data.stages.decide import SPLITS
from groundup.data.stages.read import MALFORMED
from groundup.data.stages.run import Stages, share_out, table
from groundup.data.tokens.shards import check_room, token_dtype
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.errors import UserError
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.rundir import RunDir, fingerprint, read_json, write_atomically

PROCESS_BYTES = 400 << 20  # what a process of this step takes at least, with its libraries


def cache_folder() -> Path:
    """Where fetched archives are kept: $GROUNDUP_CACHE, or ~/.cache/groundup."""
    return Path(os.environ.get("GROUNDUP_CACHE") or Path.home() / ".cache" / "groundup")


def _recipe(loaded: LoadedRecipe) -> LanguageRecipe:
    assert isinstance(loaded.recipe, LanguageRecipe)
    return loaded.recipe


def find_files(loaded: LoadedRecipe) -> list[list[SourceFile]]:
    """The files of each source; archives are fetched now. Raises UserError where there is nothing."""
    sources = _recipe(loaded).data.sources
    if not sources:
        raise UserError(
            "the recipe names no source of text",
            where="data.sources",
            expected='at least one, for example sources = [{ path = "corpus/*.jsonl" }]',
        )
    return [resolve(source, loaded.base, cache_folder()) for source in sources]


def inputs(loaded: LoadedRecipe, files: list[list[SourceFile]]) -> str:
    """Fingerprint of all that the step's result depends on. A file counts by name, size and time of change."""
    recipe = _recipe(loaded)
    tokenizer = Tokenizer(Path(recipe.tokenizer.path)).sha256 if recipe.tokenizer.path else None
    stats = [[(f.name, *f.state()) for f in group] for group in files]
    data = recipe.data.model_dump(exclude={"memory", "workers"})
    return fingerprint([__version__, data, recipe.tokenizer.model_dump(), recipe.seed, tokenizer, stats])


def prepare(
    loaded: LoadedRecipe, run: RunDir, files: list[list[SourceFile]], inputs: str, kind: str = "auto"
) -> dict[str, Any]:
    """Do what is to be done of all stages, on the executor named. Returns the manifest."""
    data = _recipe(loaded).data
    slices = [
        (number, piece)
        for number, (source, group) in enumerate(zip(data.sources, files, strict=True))
        for piece in slice_files(group, source, data.slice_size.bytes)
    ]
    workers = max(1, min(data.workers or cores(), data.memory.bytes // PROCESS_BYTES))
    root = run.stages
    root.mkdir(exist_ok=True)
    if (read_json(run.data / "manifest.json") or {}).get("inputs") == inputs:
        drop_damaged(root)  # what is made again although it is there is so because something of it is damaged
    with executor(kind, root, workers, sum(piece.bytes for _, piece in slices)) as execute:
        stages = Stages(execute)
        tokenizer, tokens, split = _stages(loaded, stages, slices, data.memory.bytes // workers, root)
    manifest = _manifest(loaded, files, stages, tokenizer, tokens, split)
    manifest["inputs"] = inputs
    check_length(_recipe(loaded).train.sequence_length, manifest)
    _put_into_place(run, _recipe(loaded), manifest, tokenizer, tokens)
    sweep(root, stages.tasks)
    say(table(list(stages.by_name.values())))
    return manifest


def _stages(
    loaded: LoadedRecipe, stages: Stages, slices: Sequence[tuple[int, Slice]], memory: int, root: Path
) -> tuple[Done, list[Done], list[Done]]:
    """All stages in their order. `memory`: bytes that a task may take. What training the tokenizer, tokenizing and
    splitting made."""
    recipe = _recipe(loaded)
    data = recipe.data
    for name in ("read", "clean"):
        _ = stages[name]
    done = stages.run(read.tasks(data, slices), "read")
    share_out(stages, "read", "clean", done)
    read.account(stages, done)
    read.check_malformed(data, root, done)
    dropping, made = [], [[task.output] for task in done]

    def add(stage: str, outputs: Sequence[str]) -> None:
        dropping.append(stage)
        for before, output in zip(made, outputs, strict=True):
            before.append(output)

    if filter.wanted(data):
        tagged = stages.run(filter.tag_tasks(data, loaded.base, done), "filter")
        filtered = stages.run(filter.filter_tasks(data, tagged), "filter")
        add("filter", [task.output for task in filtered])
    if data.deduplicate:
        found = duplicates.exact(stages, "filter" in dropping, done, made, memory)
        add("exact_dedup", [found] * len(done))
    if data.near_duplicates is not None:
        found = near.run(stages, data.near_duplicates, dropping, done, made, memory, recipe.seed)
        add("near_dedup", [found] * len(done))
    if data.decontaminate is not None:
        hits = evaluations.run(stages, data.decontaminate, loaded.base, done)
        add("decontaminate", [task.output for task in hits])
    share = data.decontaminate.share if data.decontaminate is not None else None
    tasks = decide.tasks(
        dropping, share, recipe.seed, data.validation_fraction, done, [fingerprint(before) for before in made]
    )
    split = stages.run(tasks, "split")
    decide.account(stages, dropping, split)
    _check_parts(stages, split)
    repeats = tokenize.Repeats()
    if data.duplicate_paragraphs is not None:
        found = passages.run(stages, data.duplicate_paragraphs, split, memory)
        repeats = tokenize.Repeats(found, data.duplicate_paragraphs)
    task = tokenize.tokenizer_task(recipe.tokenizer, recipe.seed, split, repeats)
    tokenizer = stages.run([task], "train_tokenizer")[0]
    if recipe.tokenizer.path is not None:
        del stages.by_name["train_tokenizer"]
    vocabulary = tokenizer.result["vocab_size"]
    _check_vocabulary(recipe, vocabulary)
    total = {key: sum(_parts(task, key) for task in split) for key in ("documents", "bytes")}
    # At least one byte of text makes a token, and each document has up to two more.
    check_room(root, (total["bytes"] + 2 * total["documents"]) * token_dtype(vocabulary).itemsize)
    sources = [number for number, _ in slices]
    tokens = stages.run(tokenize.tasks(recipe.tokenizer.encoder, tokenizer, sources, split, repeats), "tokenize")
    encoded = {"documents": total["documents"], "bytes": sum(task.result["bytes"] for task in tokens)}
    if data.duplicate_paragraphs is not None:
        stages["paragraph_dedup"].count(total, encoded, {})
    stages["tokenize"].count(encoded, encoded, {})
    return tokenizer, tokens, split


def _parts(split: Done, key: str) -> int:
    return sum(part[key] for part in split.result["splits"].values())


def _check_vocabulary(recipe: LanguageRecipe, entries: int) -> None:
    rows = recipe.model.vocab_size
    if rows is not None and rows < entries:
        raise UserError(
            f"the tokenizer has {entries} entries, the model's embedding only {rows} rows",
            where="model.vocab_size",
            expected=f"at least {entries}, or nothing",
        )


def _check_parts(stages: Stages, split: Sequence[Done]) -> None:
    """Raise UserError where nothing is left, or a part is empty."""
    if not stages["split"].documents_out:
        dropped = {reason: n for stage in stages.by_name.values() for reason, n in stage.dropped.items()}
        raise UserError(
            "no document is left to train on",
            where="data.sources",
            advice=f"The sources are empty, or every document was dropped: {dropped}",
        )
    for part in SPLITS:
        if not any(task.result["splits"][part]["documents"] for task in split):
            raise UserError(
                f"the {part} part is empty: {stages['split'].documents_out} document(s) were split by hash",
                where="data.validation_fraction",
                expected="at least one document on either side",
                advice="Change data.validation_fraction or seed, or cut long files into documents "
                'with split_on = "\\n\\n"',
            )


def _put_into_place(
    run: RunDir, recipe: LanguageRecipe, manifest: dict[str, Any], tokenizer: Done, tokens: Sequence[Done]
) -> None:
    """Make `data/` anew beside the old one, and put it in its place."""
    root = run.stages
    partial, old = run.path / "data.partial", run.path / "data.old"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    manifest["files"] = tokenize.gather(tokens, partial / "tokens")
    # What the batch stream depends on, not which versions of libraries made it.
    tokens_made = [[file[key] for key in ("name", "tokens", "xxh3_128")] for file in manifest["files"]]
    manifest["fingerprint"] = fingerprint([tokens_made, manifest["tokenizer"]["sha256"], manifest["dtype"]])
    Tokenizer(tokenizer.folder).save(partial / "tokenizer")
    if (root / MALFORMED).exists():
        shutil.copyfile(root / MALFORMED, partial / MALFORMED)
    write_atomically(partial / "look.json", json.dumps(look.look(root, recipe)))
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
    tokenizer: Done,
    tokens: Sequence[Done],
    split: Sequence[Done],
) -> dict[str, Any]:
    recipe = _recipe(loaded)

    def total(key: str, part: str | None = None, source: int | None = None) -> int:
        entries = [task.result for task in tokens]
        return sum(e[key] for e in entries if part in (None, e["split"]) and source in (None, e["source"]))

    splits = {
        part: {
            "documents": sum(task.result["splits"][part]["documents"] for task in split),
            "bytes": total("bytes", part=part),
            "tokens": total("tokens", part=part),
        }
        for part in SPLITS
    }
    sources = [
        {
            "name": source_name(source),
            "path": source.path,
            "sha256": source.sha256,
            "files": len(files[n]),
            "documents": total("documents", source=n),
            "bytes": total("bytes", source=n),
            "tokens": total("tokens", source=n),
            "weight": source.weight,
            "epochs": source.epochs,
        }
        for n, source in enumerate(recipe.data.sources)
    ]
    return {
        "groundup": __version__,
        "tokens": total("tokens"),
        "dtype": token_dtype(tokenizer.result["vocab_size"]).str,
        "splits": splits,
        "sources": sources,
        "tokenizer": {
            **tokenizer.result,
            "path": recipe.tokenizer.path,
            "bytes_per_token": round(total("bytes") / total("tokens"), 4),
        },
        "stages": [stage.as_dict() for stage in stages.by_name.values()],
        "peak_memory_mb": stages.peak_memory_mb(),
    }


def check_length(length: int, manifest: dict[str, Any]) -> None:
    """Raise UserError where the training part is shorter than one sample."""
    tokens = manifest["splits"]["train"]["tokens"]
    if tokens < length + 1:
        raise UserError(
            f"a sample is {length} tokens long, but the train part has only {tokens}",
            where="train.sequence_length",
            expected=f"less than {tokens}",
            advice="Shorten it or add text",
        )


def summary(manifest: dict[str, Any]) -> str:
    splits, tokenizer = manifest["splits"], manifest["tokenizer"]
    return (
        f"prepared: {size(splits['train']['tokens'])} training tokens, "
        f"{size(splits['validation']['tokens'])} for validation, "
        f"{tokenizer['bytes_per_token']:.2f} bytes per token, vocabulary {tokenizer['vocab_size']:,}"
    )
