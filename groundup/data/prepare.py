"""The step `prepare`: from sources to token shards, with a manifest that says what happened on the way.

What each stage makes of each shard stays in RUN/stages/, so that a stopped or changed run does again only what it must.
RUN/data/ holds the result alone, and is replaced only once the new one is whole.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from groundup.console import say, size
from groundup.data.execute.executor import choose, cores, executor
from groundup.data.execute.task import drop_damaged, sweep
from groundup.data.inputs import check_length
from groundup.data.read.sources import SourceFile
from groundup.data.stages.run import Stages, table
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.rundir import RunDir, fingerprint, read_json, write_atomically

if TYPE_CHECKING:
    from groundup.data.all_stages import Made

PROCESS_BYTES = 600 << 20  # what a process of this step takes, with its libraries


def prepare(
    loaded: LoadedRecipe, run: RunDir, files: list[list[SourceFile]], inputs: str, kind: str = "auto"
) -> dict[str, Any]:
    """Do what is to be done of all stages, on the executor named. Returns the manifest."""
    recipe = loaded.recipe
    assert isinstance(recipe, LanguageRecipe)
    data, root = recipe.data, run.stages
    root.mkdir(exist_ok=True)
    if (read_json(run.data / "manifest.json") or {}).get("inputs") == inputs:
        drop_damaged(root)  # what is made again although it is there is so because something of it is damaged
    # This process is one too.
    workers = max(1, min(data.workers or cores(), data.memory.bytes // PROCESS_BYTES - 1))
    states = [[file.state() for file in group] for group in files]
    kind = choose(kind, workers, sum(size for group in states for size, _ in group))
    with executor(kind, root, workers) as execute:
        # This takes a second, in which the process whose forks a pool's are loads the same.
        from groundup.data import all_stages

        slices = all_stages.sliced(data, files, states, root)
        stages = Stages(execute, root, 1 if kind == "process" else workers)
        made = all_stages.run(recipe, loaded.base, stages, slices)
    manifest = {**all_stages.account(recipe, files, stages, made), "inputs": inputs}
    check_length(recipe.train.sequence_length, manifest)
    sweep(root, stages.tasks)
    _put_into_place(run, manifest, made)
    say(table(list(stages.by_name.values())))
    if manifest["peak_memory_mb"] > data.memory.bytes / (1 << 20):
        say(
            f"this took {manifest['peak_memory_mb']:,.0f} MB of memory at the most, more than data.memory allows "
            f"({data.memory}); fewer data.workers or a smaller data.slice_size take less"
        )
    return manifest


def _put_into_place(run: RunDir, manifest: dict[str, Any], made: Made) -> None:
    """Make `data/` anew beside the old one, and put it in its place."""
    from groundup.data.stages import tokenize
    from groundup.data.stages.read import MALFORMED

    root = run.stages
    partial, old = run.path / "data.partial", run.path / "data.old"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tokenize.gather(made.tokens, partial / "tokens")
    manifest["files"] = tokenize.files_of(made.tokens)
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


def summary(manifest: dict[str, Any]) -> str:
    splits, tokenizer = manifest["splits"], manifest["tokenizer"]
    return (
        f"prepared: {size(splits['train']['tokens'])} training tokens, "
        f"{size(splits['validation']['tokens'])} for validation, "
        f"{tokenizer['bytes_per_token']:.2f} bytes per token, vocabulary {tokenizer['vocab_size']:,}"
    )
