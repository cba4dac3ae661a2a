"""Pieces of Markdown for model cards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as one, with dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A section with a table of two columns; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [f"| {cell(key)} | {cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])


def cell(value: Any) -> str:
    """Text that stays within its table cell and is shown as it is."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    for mark in "\\|`*_[]<>#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
