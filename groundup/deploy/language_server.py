"""A language model's export as an application: its weights, its tokenizer, an engine over both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.deploy.app import create_app
from groundup.deploy.engine import BatchingEngine
from groundup.errors import UserError
from groundup.models.decoder import Decoder
from groundup.models.huggingface import load_decoder
from groundup.rundir import read_json


def open_language_model(
    folder: Path,
    facts: dict[str, Any],
    *,
    name: str,
    local_names: frozenset[str] | None,
    device: str,
    slots: int,
    max_waiting: int,
) -> tuple[FastAPI, Callable[[], None]]:
    """The application, and what ends its engine. Weights are fp32 on a CPU, bf16 on a GPU.

    Raises UserError for a folder that can't be served, or where there is no memory for the caches.
    """
    tokenizer = Tokenizer(folder)
    decoder = _load(folder, tokenizer, device)
    start_id, stop_ids = _ends(folder, tokenizer)
    try:
        engine = BatchingEngine(decoder, tokenizer.inner, slots=slots, max_waiting=max_waiting, stop_ids=stop_ids)
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"there is no memory for the caches of {slots} requests: {error}",
            where=str(folder),
            advice="Serve with fewer slots",
        ) from error
    app = create_app(engine, tokenizer.inner, facts, name=name, start_id=start_id, local_names=local_names)
    return app, engine.close


def _load(folder: Path, tokenizer: Tokenizer, device: str) -> Decoder:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    decoder = load_decoder(folder, device, dtype)
    if tokenizer.vocab_size > decoder.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {decoder.vocab_size} rows",
            where=str(folder),
            expected="the tokenizer that the model was trained with",
        )
    return decoder


def _ends(folder: Path, tokenizer: Tokenizer) -> tuple[int | None, list[int]]:
    """The token documents begin with, and those that end a text."""
    config = read_json(folder / "generation_config.json")
    if config is None:
        return tokenizer.start_id, tokenizer.stop_ids
    start, stops = config.get("bos_token_id"), config.get("eos_token_id")
    if stops is None:
        stops = [] if start is None else [start]
    return start, stops if isinstance(stops, list) else [stops]
