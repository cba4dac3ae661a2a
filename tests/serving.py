"""Small models, a tokenizer and a server for the tests of the engine and the server."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.data.tokens.train import train_tokenizer
from groundup.deploy.engine import BatchingEngine
from groundup.deploy.interface import Event, Handle, Request
from groundup.models.decoder import Decoder, build_decoder
from groundup.models.huggingface import published_tensors, save_weights, to_config
from groundup.recipe.model import Model

CONTEXT = 4096
SLOTS, MAX_WAITING = 2, 3
PROGRAM = """
import sys
from pathlib import Path
from groundup.deploy.server import serve
serve(Path(sys.argv[1]), port=0, slots=int(sys.argv[2]), max_waiting=int(sys.argv[3]), device="cpu")
"""
TEXT = "The quick brown fox jumps over the lazy dog. Größe, naïve, 日本語の文字, 😀 and 🎉!\n"
VOCABULARY = 320
# A large range, so that a model without training has its preferences and repeats no single token.
SHAPE = Model(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_size=64, context_length=96, initializer_range=0.2)


def tokenizer_in(folder: Path) -> Tokenizer:
    return train_tokenizer([TEXT] * 3, VOCABULARY, 10_000, folder)


def decoder(seed: int = 0, shape: Model = SHAPE) -> Decoder:
    return build_decoder(shape, VOCABULARY, seed, "cpu").eval()


def write_folder(folder: Path, shape: Model = SHAPE, end: int | list[int] | None = None) -> Decoder:
    """An export as it is served, of a decoder with random weights, which is returned.

    end: the tokens that end a text; default: none, so that its texts are as long as they may be.
    """
    tokenizer, model = tokenizer_in(folder), decoder(shape=shape)
    start = tokenizer.start_id
    config = to_config(shape, VOCABULARY, dtype=torch.float32, bos=start, eos=start)
    save_weights(published_tensors(dict(model.named_parameters()), shape), folder)
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"bos_token_id": start, "eos_token_id": [] if end is None else end}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    facts = {"lineage": {"recipe": "tiny", "parameters": 33_000}}
    (folder / "groundup.json").write_text(json.dumps(facts))
    return model


class Running:
    """A request in an engine, and its events."""

    def __init__(self, engine: BatchingEngine, request: Request) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.handle: Handle = engine.submit(request, self.events.put)
        self.seen: list[Event] = []

    def next(self) -> Event:
        self.seen.append(self.events.get(timeout=20))
        return self.seen[-1]

    def wait(self) -> Event:
        """The last event."""
        while not (event := self.next()).finish:
            pass
        return event

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.seen if event.token is not None]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.seen)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other take longer than these small products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own, and its address as it says it on standard error."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(SLOTS), str(MAX_WAITING)]
    root = str(Path(__file__).parents[1])
    # One thread: on a busy machine, threads that wait for each other take longer than these small products.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stderr is not None
        try:
            line = server.stderr.readline()
            found = re.fullmatch(r"Serving tiny at (http://127\.0\.0\.1:\d+)/ \(Ctrl-C to stop\)\n", line)
            assert found, line + server.stderr.read()
            yield server, found[1]
        finally:
            server.kill()
