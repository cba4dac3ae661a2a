"""Small pieces of HTML. Text that comes from files is escaped here, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from groundup.report.figures import UNKNOWN

_SPECIAL_TOKEN = re.compile(r"(<\|[^<>|\s]{1,40}\|>)")


class Html(str):
    """Markup: already escaped, and never escaped again."""

    __slots__ = ()


def text(value: Any) -> str:
    """`value` for use between tags or in a quoted attribute."""
    return value if isinstance(value, Html) else escape(str(value))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, align: str = "lr") -> Html:
    """A table. `align`: a letter per column, l for words and r for numbers; the last goes for the rest."""

    def cells(tag: str, row: Sequence[Any]) -> str:
        sides = align.ljust(len(row), align[-1])
        return "".join(
            f"<{tag}>{text(cell)}</{tag}>" if side == "l" else f'<{tag} class="n">{text(cell)}</{tag}>'
            for cell, side in zip(row, sides, strict=False)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>"
    return Html(f'<div class="table"><table>{top}<tbody>{body}</tbody></table></div>')


def long_table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], *, what: str, align: str = "lr", first: int = 25
) -> Html:
    """A table of `what` (in the plural); what comes after the `first` rows can be opened, and scrolls."""
    shown = table(head, rows[:first], align=align)
    rest = rows[first:]
    if not rest:
        return shown
    below = f'<div class="scroll" tabindex="0">{table(head, rest, align=align)}</div>'
    return Html(shown + fold(f"{len(rest):,} more {what}", below))


def facts(rows: Sequence[tuple[Any, Any]]) -> Html:
    """Names and what they are, one a line."""
    lines = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows)
    return Html(f'<dl class="facts">{lines}</dl>')


def section(name: str, title: str, body: str, *, lead: Any = "") -> Html:
    """A part of the page, reachable as `#name`; `lead` is a sentence under its title."""
    below = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return Html(f'<section id="{name}"><h2>{text(title)}</h2>{below}{body}</section>')


def fold(title: str, body: str) -> Html:
    """Something to open."""
    return Html(f"<details><summary>{text(title)}</summary>{body}</details>")


def pill(words: str, kind: str) -> Html:
    """A verdict; `kind` is good, bad or open."""
    return Html(f'<span class="pill {kind}">{text(words)}</span>')


def absent(words: Any) -> Html:
    """A line in place of a part that is not there."""
    return Html(f'<p class="none">{text(words)}</p>')


def code(value: Any) -> Html:
    return Html(f"<code>{text(value)}</code>")


def written(value: str) -> Html:
    """A model's text, its special tokens set apart."""
    pieces = [escape(piece) for piece in _SPECIAL_TOKEN.split(value)]
    return Html("".join(f'<span class="special">{p}</span>' if k % 2 else p for k, p in enumerate(pieces)))


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as rows of dotted path and value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for k, inner in enumerate(value):
            yield from flat(inner, f"{path}[{k}]")
    elif isinstance(value, list):
        yield path, ", ".join(map(_leaf, value)) or UNKNOWN
    else:
        yield path, _leaf(value)


def _leaf(value: Any) -> str:
    if value is None or value == {}:
        return UNKNOWN
    return str(value).lower() if isinstance(value, bool) else str(value)
