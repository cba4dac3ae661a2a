"""Serving an export: the socket, the model, and uvicorn until Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import torch
import uvicorn

from groundup.console import say
from groundup.data.tokenizer import Tokenizer
from groundup.deploy.app import create_app
from groundup.deploy.engine import BatchingEngine
from groundup.deploy.export import LINEAGE
from groundup.errors import UserError
from groundup.models.decoder import Decoder
from groundup.models.huggingface import load_decoder
from groundup.rundir import read_json


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    slots: int = 8,
    max_waiting: int = 64,
    device: str = "auto",
    name: str | None = None,
) -> None:
    """Serve the export in `folder` until Ctrl-C or SIGTERM. Says on standard error where, once it answers.

    port 0: any free one. device: "auto" takes a GPU if there is one; weights are fp32 on a CPU, bf16 on a
    GPU. name: of the model; default: as its lineage has it, else the folder's. Raises UserError for a folder
    that can't be served or an address that can't be had.
    """
    # The port first: nobody should wait for a model to load to hear that the port is taken.
    with listen(host, port) as listener:
        facts = read_json(folder / LINEAGE) or {}
        name = name or _name(folder, facts)
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
        try:
            app = create_app(
                engine,
                tokenizer.inner,
                facts,
                name=name,
                start_id=start_id,
                local_names=_local_names(listener, host),
            )
            config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
            _Server(config, engine, f"Serving {name} at {_address(listener)} (Ctrl-C to stop)").run([listener])
        except KeyboardInterrupt:  # uvicorn raises it again once all is shut down; here it's the way to stop
            pass
        finally:
            engine.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; port 0 takes any free one. Raises UserError where it can't be
    had.

    Whoever connects before the model is loaded waits.
    """
    where = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise UserError("this is no port", where=where, expected="a number from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"the host is unknown: {error.strerror}", where=where) from None
    try:
        if os.name == "posix":
            # Without it a port can't be had again for a minute after its last connection.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use",
                where=where,
                expected="a free port",
                advice="Stop what listens there, or choose another with --port (0: any free one)",
            ) from None
        raise UserError(f"can't listen here: {error.strerror}", where=where) from None
    return listener


class _Server(uvicorn.Server):
    """Says when it is ready, and ends the running requests first when it is stopped."""

    def __init__(self, config: uvicorn.Config, engine: BatchingEngine, ready: str) -> None:
        super().__init__(config)
        self._engine, self._ready = engine, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)


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


def _name(folder: Path, facts: dict[str, Any]) -> str:
    name = facts.get("lineage", {}).get("recipe")
    if isinstance(name, str):
        return name
    folder = folder.resolve()
    return folder.parent.name if folder.name == "export" else folder.name


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # all addresses; this one works from here
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _local_names(listener: socket.socket, host: str) -> frozenset[str] | None:
    """What a server on the loopback interface may be called; None for one that other machines reach."""
    address = listener.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        return None
    own = f"[{address}]" if ":" in address else address
    return frozenset({"localhost", "127.0.0.1", "[::1]", own, host.lower()})
