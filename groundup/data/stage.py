"""The account of one stage of preparing data, of texts or of a table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stage:
    """Counts and time of one stage; `dropped` by reason."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu

    def passed(self, size_in: int, size_out: int) -> None:
        self.documents_in += 1
        self.documents_out += 1
        self.bytes_in += size_in
        self.bytes_out += size_out

    def drop(self, reason: str, size_in: int) -> None:
        self.documents_in += 1
        self.bytes_in += size_in
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def count(self, before: dict[str, int], after: dict[str, int], dropped: dict[str, int]) -> None:
        """Add what entered, what left, and why the others did not."""
        self.documents_in += before["documents"]
        self.bytes_in += before["bytes"]
        self.documents_out += after["documents"]
        self.bytes_out += after["bytes"]
        for reason, number in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + number

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "seconds": round(self.seconds, 4), "cpu_seconds": round(self.cpu_seconds, 4)}
