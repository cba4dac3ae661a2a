"""Records that can't be read: counted, kept by place and reason, and too many of them refused."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import orjson

from groundup.data.read.sources import SourceFile
from groundup.errors import UserError

KEPT_MESSAGES = 20
KEPT_LENGTH = 4000  # of a record, in the log, bytes
_SHOWN_IN_ERROR = 5


class Malformed:
    """Counts of the records seen, and what was wrong with those that can't be read.

    `total` counts all records, good ones too; `count` the malformed ones; `first` holds the first 20 messages
    as "FILE:LINE: reason" (for .parquet the row, from 1, in place of the line). With `log`, each malformed
    record is also written there as a JSON object {"source", "file", "line", "reason", "record"} on one line,
    `record` being what can be shown of its beginning. The file is made only if there is a malformed record, and
    complete once this object (a context manager) is closed.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.total = 0
        self.count = 0
        self.first: list[str] = []
        self.log = log
        self._first_place = ""
        self._out: BinaryIO | None = None

    def add(self, file: SourceFile, line: int, reason: str, record: bytes | str = "") -> None:
        """Count one malformed record, which begins at `line` of `file`; `record`: what it is, as far as it is known."""
        self.total += 1
        self.count += 1
        self._first_place = self._first_place or f"{file.place}:{line}"
        if len(self.first) < KEPT_MESSAGES:
            self.first.append(f"{file.place}:{line}: {reason}")
        if self.log is not None:
            if self._out is None:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                self._out = self.log.open("wb")
            shown = record[:KEPT_LENGTH].encode(errors="surrogatepass") if isinstance(record, str) else record
            text = shown[:KEPT_LENGTH].decode(errors="backslashreplace")
            entry = {"source": file.source, "file": file.name, "line": line, "reason": reason, "record": text}
            self._out.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def check(self, max_fraction: float) -> None:
        """UserError if more than `max_fraction` (0 to 1) of the records so far are malformed."""
        if self.count <= max_fraction * self.total:
            return
        if self._out is not None:
            self._out.flush()
        shown = "; ".join(self.first[:_SHOWN_IN_ERROR])
        more = f"; and {self.count - _SHOWN_IN_ERROR} more" if self.count > _SHOWN_IN_ERROR else ""
        listed = f"All of them are listed in {self.log}. " if self.log is not None else ""
        raise UserError(
            f"{self.count} of {self.total} records can't be read: {shown}{more}",
            where=self._first_place,
            expected=f"at most {max_fraction:.4g} of the records, not {self.count / self.total:.4g}",
            advice=f"{listed}Mend them, or raise data.max_malformed_fraction to go on without them",
        )

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None

    def __enter__(self) -> Malformed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
