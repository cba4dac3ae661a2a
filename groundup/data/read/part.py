"""A part of a file that is read by itself."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.data.read.sources import SourceFile


@dataclass(frozen=True)
class Part:
    """All of `file`, or of a plain .jsonl file the lines that begin at the bytes from `start` up to `end`, or of a
    Parquet file its row groups from `start` up to `end`.

    `record` and `line` are the numbers of the part's first record (from 0) and line (from 1) in the file.
    """

    file: SourceFile
    start: int = 0
    end: int | None = None
    record: int = 0
    line: int = 1
