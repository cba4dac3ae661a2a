"""Node 0 tells the other nodes what to do, once its data is prepared.

A node leaves a token of its own at `here/RANK` and waits at `answer/TOKEN`. Node 0 answers each token it finds, until
each node has taken its token back and said `heard/TOKEN`. So no answer can be taken for that of an earlier run,
whichever node was killed when.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from groundup.console import say
from groundup.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

POLL_SECONDS = 0.2
REMIND_SECONDS = 60.0


class _Reminder:
    """Says now and then what is waited for; nothing where the wait is short."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.next = self.start + 2

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now > self.next:
            self.next = now + REMIND_SECONDS
            say(f"{text} ({now - self.start:.0f} s)")


def tell(store: Store, nodes: int, answer: dict[str, Any]) -> None:
    """As node 0: give every other node the answer, and wait until each has heard it.

    Raises UserError where one refuses.
    """
    missing, tokens = set(range(1, nodes)), dict[int, str]()
    remind = _Reminder()
    while missing:
        for rank in sorted(missing):
            if store.check([f"here/{rank}"]):
                token = store.get(f"here/{rank}").decode()
                if token and tokens.get(rank) != token:
                    tokens[rank] = token
                    store.set(f"answer/{token}", json.dumps(answer))
            if rank in tokens and store.check([f"heard/{tokens[rank]}"]):
                refusal = store.get(f"heard/{tokens[rank]}").decode()
                if refusal:
                    raise UserError(f"node {rank} can't take part: {refusal}")
                missing.remove(rank)
        if missing:
            remind(f"waiting for node {', '.join(map(str, sorted(missing)))} of {nodes}")
            time.sleep(POLL_SECONDS)


def dismiss(store: Store, nodes: int, reason: str) -> None:
    """As node 0 that can't go on: tell those who wait already."""
    for rank in range(1, nodes):
        if store.check([f"here/{rank}"]):
            store.set(f"answer/{store.get(f'here/{rank}').decode()}", json.dumps({"failed": reason}))


def hear(store: Store, rank: int, agree: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """As any other node: wait for node 0's answer. `agree` raises UserError where it doesn't fit what is here.

    Raises UserError where node 0 can't go on.
    """
    token = uuid.uuid4().hex
    store.set(f"here/{rank}", token)
    remind = _Reminder()
    while not store.check([f"answer/{token}"]):
        remind("waiting for node 0, which prepares the data")
        time.sleep(POLL_SECONDS)
    answer: dict[str, Any] = json.loads(store.get(f"answer/{token}"))
    store.set(f"here/{rank}", "")  # before the answer is said to be heard, so that no later run answers it again
    if "failed" in answer:
        raise UserError(f"node 0 stopped: {answer['failed']}")
    try:
        agree(answer)
    except UserError as error:
        store.set(f"heard/{token}", str(error))
        raise
    store.set(f"heard/{token}", "")
    return answer
