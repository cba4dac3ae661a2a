"""Ends a job that hangs, and says which rank is in which collective.

Each worker has one thread for it. A heartbeat after each step winds it up; where none comes for the time allowed,
every rank writes where its main thread is into the store, the lowest rank that answers makes one table of it, and all
end.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from groundup import heartbeat

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

ANSWER_SECONDS = 5.0  # how long ranks have to say where they are


class Watchdog(threading.Thread):
    """Watches this process's main thread. `ended` is called with the table on the rank that tells it, with "" on the
    others, and must not return. `store` must be a connection of the watchdog's own."""

    def __init__(self, store: Store, rank: int, world: int, timeout: float, ended: Callable[[str], None]) -> None:
        super().__init__(name="groundup-watchdog", daemon=True)
        self.store, self.rank, self.world, self.timeout, self.ended = store, rank, world, timeout, ended
        self.main = threading.main_thread().ident

    def start(self) -> None:
        heartbeat.start()
        super().start()

    def run(self) -> None:
        interval = min(5.0, self.timeout / 10)
        # Without the store the agent ends this process, and tells why.
        with suppress(RuntimeError):
            while not self.store.check(["hang"]):
                last = heartbeat.last_beat
                if last is None:
                    return
                if time.monotonic() - last > self.timeout:
                    self.store.set("hang", "")
                    break
                time.sleep(interval)
            self._tell(interval)

    def _tell(self, interval: float) -> None:
        """Write where this rank is; end with the table if no lower rank does. `interval`: how late others notice."""
        self.store.set(f"where/{self.rank}", where(self.main))
        deadline = time.monotonic() + ANSWER_SECONDS + interval
        found: dict[int, str] = {}
        while len(found) < self.world and time.monotonic() < deadline:
            time.sleep(0.1)
            for rank in range(self.world):
                if rank not in found and self.store.check([f"where/{rank}"]):
                    found[rank] = self.store.get(f"where/{rank}").decode()
        if min(found) == self.rank:
            self.ended(table(found, self.world, self.timeout))
        # The lowest rank's end is the end of all; this rank ends by itself where that rank could not.
        time.sleep(2 * ANSWER_SECONDS + interval)
        self.ended("")


def table(found: dict[int, str], world: int, timeout: float) -> str:
    """One line per place, with the ranks that are there."""
    ranks: dict[str, list[int]] = {}
    for rank in range(world):
        ranks.setdefault(found.get(rank, "gives no answer: its host or process is stuck or gone"), []).append(rank)
    lines = [f"  rank {_ranges(members)} {place}" for place, members in ranks.items()]
    return f"no step finished for {timeout:g} s:\n" + "\n".join(lines)


def _ranges(ranks: list[int]) -> str:
    """0-2, 5 for [0, 1, 2, 5]."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][-1] == rank - 1:
            parts[-1] = [parts[-1][0], rank]
        else:
            parts.append([rank])
    return ", ".join("-".join(map(str, part)) for part in parts)


def where(thread: int | None) -> str:
    """Where a thread is: "in all_reduce at parallel/x.py:12", or "not in a collective: data/stream.py:40".

    A backward pass on a GPU runs its collectives in threads of its own, so that the others are looked at too.
    """
    frames = sys._current_frames()
    main = frames.pop(thread or 0)
    frames.pop(threading.get_ident(), None)
    for frame in (main, *frames.values()):
        found = _collective(frame)
        if found is not None:
            name, caller = found
            return f"in {name} at {_place(caller)}"
    return f"not in a collective: {_place(_own(main))}"


_DISTRIBUTED = os.path.join("torch", "distributed") + os.sep
_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def _collective(frame: FrameType) -> tuple[str, FrameType] | None:
    """Name of the innermost function of torch.distributed that runs in this stack, and the frame that called it."""
    at: FrameType | None = frame
    while at is not None:
        code = at.f_code
        wrapper = code.co_filename.endswith(("c10d_logger.py", "_contextlib.py"))
        if _DISTRIBUTED in code.co_filename and not wrapper and f"{os.sep}elastic{os.sep}" not in code.co_filename:
            return code.co_name, _own(at)
        at = at.f_back
    return None


def _own(frame: FrameType) -> FrameType:
    """The innermost frame outside libraries; the frame itself where there is none."""
    at: FrameType | None = frame
    while at is not None:
        if _is_own(at.f_code.co_filename):
            return at
        at = at.f_back
    return frame


def _is_own(file: str) -> bool:
    return file.startswith(str(_PACKAGE)) or not (file.startswith(("<", *_LIBRARIES)) or "site-packages" in file)


def _place(frame: FrameType) -> str:
    """data/stream.py:40; of files outside this package the last two parts."""
    file = Path(frame.f_code.co_filename)
    short = file.relative_to(_PACKAGE) if file.is_relative_to(_PACKAGE) else Path(*file.parts[-2:])
    return f"{short}:{frame.f_lineno}"
