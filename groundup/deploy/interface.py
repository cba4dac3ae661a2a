"""What a server and an engine say to each other: submit a request, receive its events, cancel it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request:
    """One text to continue.

    `prompt_ids` holds at least one token, and together with `max_tokens` it fits the context.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    choice: int = 0  # tells apart several continuations of one prompt under one seed
    stop: tuple[str, ...] = ()


class Event(NamedTuple):
    """What a request gets, in order; the last one has `finish`."""

    text: str  # what became certain of the text; often nothing
    token: int | None = None  # the token chosen; None where the event brings none
    finish: Finish | None = None
    error: str = ""  # a sentence, with finish "error"


class BusyError(Exception):
    """As many requests are being decoded and are waiting as may."""


class ClosedError(Exception):
    """The engine takes no more requests."""


class Handle(Protocol):
    def cancel(self) -> None:
        """End the request soon, wherever it is; does nothing once it has ended."""


class Engine(Protocol):
    """What the server needs of an engine."""

    @property
    def context_length(self) -> int:
        """Tokens of a prompt and its continuation together, at most."""

    @property
    def capacity(self) -> int:
        """Requests that fit in, those that wait included."""

    @property
    def running(self) -> bool:
        """Whether requests are taken and computed."""

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> Handle:
        """Queue a request; `deliver`, called from another thread, gets its events in order and must not
        block.

        Raises BusyError or ClosedError, and ValueError where the request can't be carried out.
        """

    def stats(self) -> dict[str, float]:
        """Requests and tokens since the start, requests active and waiting, tokens per second of late."""

    def close(self) -> None:
        """End all requests with an error that says so, and stop; a second call does nothing."""
