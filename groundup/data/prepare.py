"""The step `prepare`: from sources to token shards, with a manifest that says what happened on the way."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from groundup import __version__
from groundup.console import Bar, say, size
from groundup.data.documents import SPLITS, DocumentPass, Stage, iterate_texts
from groundup.data.read.sources import SourceFile, resolve, source_name
from groundup.data.tokens.encode import encode_shard
from groundup.data.tokens.encoder import Encoder
from groundup.data.tokens.sample import TrainingSample
from groundup.data.tokens.shards import check_room, token_dtype
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.data.tokens.train import train_tokenizer
from groundup.errors import UserError
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.rundir import RunDir, fingerprint, write_atomically


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
    stats = [[(f.name, (s := f.path.stat()).st_size, s.st_mtime_ns) for f in group] for group in files]
    return fingerprint(
        [__version__, recipe.data.model_dump(), recipe.tokenizer.model_dump(), recipe.seed, tokenizer, stats]
    )


def prepare(loaded: LoadedRecipe, run: RunDir, files: list[list[SourceFile]], inputs: str) -> dict[str, Any]:
    """Make `data/` anew; the old one is replaced only once the new one is whole. Returns the manifest."""
    partial = run.path / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    recipe = _recipe(loaded)
    documents = DocumentPass(recipe.data, recipe.seed, partial)
    documents.run(files)
    say(_funnel(documents))

    training, tokenize = Stage("train_tokenizer"), Stage("tokenize")
    with training.timed():
        tokenizer = _tokenizer(loaded, partial, documents.counts["train"]["bytes"])
    text_bytes = sum(c["bytes"] for c in documents.counts.values())
    # At least one byte of text makes a token, and each document has up to two more.
    check_room(partial, (text_bytes + 2 * documents.split.documents_out) * token_dtype(tokenizer.vocab_size).itemsize)
    with tokenize.timed():
        shards = _write_shards(loaded, partial, tokenizer, text_bytes)
    tokenize.documents_in = tokenize.documents_out = documents.split.documents_out
    tokenize.bytes_in = tokenize.bytes_out = text_bytes

    manifest = _manifest(loaded, files, documents, tokenizer, shards)
    stages = [*documents.stages, *([] if recipe.tokenizer.path else [training]), tokenize]
    manifest["stages"] = [stage.as_dict() for stage in stages]
    manifest["fingerprint"] = fingerprint([shards, manifest["tokenizer"]["sha256"], manifest["dtype"]])
    manifest["inputs"] = inputs
    manifest["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    write_atomically(partial / "manifest.json", json.dumps(manifest, indent=1))
    check_length(recipe.train.sequence_length, manifest)
    old = run.path / "data.old"
    shutil.rmtree(old, ignore_errors=True)
    if run.data.exists():
        run.data.rename(old)
    partial.rename(run.data)
    shutil.rmtree(old, ignore_errors=True)
    return manifest


def _funnel(documents: DocumentPass) -> str:
    counts = documents.counts
    dropped = {reason: n for stage in documents.stages for reason, n in stage.dropped.items()}
    return (
        f"documents: {documents.read.documents_in:,} read, {documents.split.documents_out:,} kept "
        f"({counts['train']['documents']:,} train, {counts['validation']['documents']:,} validation)"
        + (f"; dropped {dropped}" if dropped else "")
    )


def _tokenizer(loaded: LoadedRecipe, folder: Path, train_bytes: int) -> Tokenizer:
    section = _recipe(loaded).tokenizer
    if section.path is not None:
        tokenizer = Tokenizer(Path(section.path))
        tokenizer.save(folder / "tokenizer")
    else:
        limit = section.max_training_bytes
        sample = TrainingSample(train_bytes, limit, _recipe(loaded).seed)
        with Bar("tokenizer", min(train_bytes, limit)) as bar:

            def texts() -> Any:
                for number, (_, text) in enumerate(iterate_texts(folder, "train")):
                    if sample.rows(number >> 32, number, number + 1)[0]:
                        bar.advance(len(text.encode()), "reading")
                        yield text

            tokenizer = train_tokenizer(texts(), section.vocab_size, limit, folder / "tokenizer", section.split)
    rows = _recipe(loaded).model.vocab_size
    if rows is not None and rows < tokenizer.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model's embedding only {rows} rows",
            where="model.vocab_size",
            expected=f"at least {tokenizer.vocab_size}, or nothing",
        )
    return tokenizer


def _write_shards(loaded: LoadedRecipe, folder: Path, tokenizer: Tokenizer, total: int) -> list[dict[str, Any]]:
    (folder / "tokens").mkdir()
    encoder = Encoder(tokenizer, _recipe(loaded).tokenizer.encoder)
    if encoder.fallback:
        say(f"tokens are made by {encoder.reference}, which takes longer: {encoder.fallback}")
    shards: list[dict[str, Any]] = []
    with Bar("tokenize", total) as bar:
        for split in SPLITS:
            for source in range(len(_recipe(loaded).data.sources)):
                path = folder / "documents" / f"{split}-{source:03d}.parquet"

                def documents(path: Path = path, split: str = split) -> Any:
                    for batch in pq.ParquetFile(path).iter_batches(batch_size=512) if path.exists() else ():
                        yield batch.rename_columns(["id", "file", "offset", "text"])
                        bar.advance(batch.column("text").nbytes, split)

                entry = encode_shard(documents(), encoder, folder / "tokens", split, source, 0, closes=True)
                shards += [] if entry is None else [entry]
    return shards


def _manifest(
    loaded: LoadedRecipe,
    files: list[list[SourceFile]],
    documents: DocumentPass,
    tokenizer: Tokenizer,
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    recipe = _recipe(loaded)

    def total(key: str, split: str | None = None, source: int | None = None) -> int:
        return sum(s[key] for s in shards if split in (None, s["split"]) and source in (None, s["source"]))

    splits = {s: {**documents.counts[s], "tokens": total("tokens", split=s)} for s in SPLITS}
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
        "dtype": token_dtype(tokenizer.vocab_size).str,
        "splits": splits,
        "sources": sources,
        "tokenizer": {
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "path": _recipe(loaded).tokenizer.path,
            "start_id": tokenizer.start_id,
            "end_id": tokenizer.end_id,
            "bytes_per_token": round(total("bytes") / total("tokens"), 4),
        },
        "files": shards,
    }


def check_length(length: int, manifest: dict[str, Any]) -> None:
    """Raise UserError where the training part is shorter than one sample."""
    for split in SPLITS:
        tokens = manifest["splits"][split]["tokens"]
        if tokens < length + 1 and split == "train":
            raise UserError(
                f"a sample is {length} tokens long, but the {split} part has only {tokens}",
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
