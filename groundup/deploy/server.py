"""Serving an export, a language model's or a classifier's: the socket, and uvicorn until Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from groundup.console import say
from groundup.deploy.folder import CLASSIFIER, LINEAGE
from groundup.errors import UserError
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

    port 0: any free one. slots, max_waiting: of a language model's engine. device: "auto" takes a GPU if there is one.
    name: of the model; default: as its lineage has it, else the folder's. Raises UserError for a folder that can't be
    served or an address that can't be had.
    """
    # The port first: nobody should wait for a model to load to hear that the port is taken.
    with listen(host, port) as listener:
        facts = read_json(folder / LINEAGE) or {}
        name = name or _name(folder, facts)
        local_names = _local_names(listener, host)
        app: FastAPI
        close: Callable[[], None]
        # Only one kind's libraries are imported.
        if _is_classifier(folder):
            from groundup.deploy.classifier_app import open_classifier

            app, close = open_classifier(folder, facts, name=name, local_names=local_names, device=device)
        else:
            from groundup.deploy.language_server import open_language_model

            app, close = open_language_model(
                folder, facts, name=name, local_names=local_names, device=device, slots=slots, max_waiting=max_waiting
            )
        try:
            config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
            _Server(config, close, f"Serving {name} at {_address(listener)} (Ctrl-C to stop)").run([listener])
        except KeyboardInterrupt:  # uvicorn raises it again once all is shut down; here it's the way to stop
            pass
        finally:
            close()


def _is_classifier(folder: Path) -> bool:
    config = read_json(folder / "config.json")
    return isinstance(config, dict) and config.get("format") == CLASSIFIER


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

    def __init__(self, config: uvicorn.Config, close: Callable[[], None], ready: str) -> None:
        super().__init__(config)
        self._close, self._ready = close, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._close()
        await super().shutdown(sockets)


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
