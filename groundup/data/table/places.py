"""Where in a CSV file something is: lines counted right where quoted fields hold line ends.

The fast reader doesn't tell. So a file is read again, by Python's csv module, up to the place; only for an error.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from groundup.data.read.encoding import open_text
from groundup.errors import UserError
from groundup.recipe.table import TableData

_MAX_FIELD = 1 << 26  # characters; an unclosed quote makes one field of all that follows


def numbered_rows(path: Path, data: TableData, skip: int) -> Iterator[tuple[int, list[str]]]:
    """(line, from 1, on which a row begins; its fields) after `skip` lines, blank lines passed over.

    Raises UserError at a row that is no CSV, and UnicodeDecodeError.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    with open_text(path, data.encoding, "", None) as lines:
        for _ in range(skip):
            lines.readline()
        rows = csv.reader(lines, delimiter=data.delimiter, strict=True)
        while True:
            line = skip + rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(
                    f"this row is no CSV: {error}",
                    where=f"{path}:{line}",
                    advice="A quote that is never closed swallows the rows after it",
                ) from None
            if row:
                yield line, row


def place_of_row(path: Path, data: TableData, skip: int, row: int) -> str:
    """FILE:LINE of a data row (from 0)."""
    for number, (line, _) in enumerate(numbered_rows(path, data, skip)):
        if number == row:
            return f"{path}:{line}"
    return str(path)


def ragged(path: Path, data: TableData, skip: int, names: list[str]) -> UserError | None:
    """What is wrong with the first row that has not as many fields as there are columns."""
    for line, row in numbered_rows(path, data, skip):
        if len(row) != len(names):
            return UserError(
                f"this row has {len(row)} field(s), but there are {len(names)} columns",
                where=f"{path}:{line}",
                expected=f"{len(names)} fields",
                advice="Mend or take out the row; a field that holds the delimiter must be in quotes",
            )
    return None


def check_quotes(path: Path, data: TableData, skip: int) -> None:
    """UserError where a quote is never closed, so that rows would be swallowed unseen."""
    for _ in numbered_rows(path, data, skip):
        pass
