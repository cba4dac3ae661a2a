"""The recipe's part of the page: every value, and where it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import tomli_w

from groundup.report.markup import Html, absent, section
from groundup.report.sections import Report


def recipe(report: Report) -> Html:
    found = report["recipe"]
    if not found:
        return section("recipe", "Recipe", absent("There is no readable recipe.toml in this folder."))
    origins = found["origins"] or {}
    lead = "Every value of the run" + (", and where it came from." if origins else ".")
    lines = "".join(_lines(found["values"], origins, ""))
    return section("recipe", "Recipe", f'<pre class="recipe" tabindex="0">{lines}</pre>', lead=lead)


def _lines(table: dict[str, Any], origins: dict[str, Any], path: str) -> Iterator[str]:
    """TOML, a key a line, plain values before inner tables. A key that has an origin only was left unset."""
    if path:
        head = re.sub(r"\[\d+\]$", "", path)
        brackets = f"[[{head}]]" if head != path else f"[{head}]"
        yield f'<span></span><span class="start">{escape(brackets)}</span>'
    inner: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            inner[below] = value
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            inner |= {f"{below}[{k}]": one for k, one in enumerate(value)}
        else:
            yield _line(f"{key} = {_toml(value)}", origins.get(below))
    for below, origin in origins.items():
        parent, _, key = below.rpartition(".")
        if parent == path and key not in table:
            yield _line(f"# {key} is not set", origin)
    for below, one in inner.items():
        yield from _lines(one, origins, below)


def _toml(value: Any) -> str:
    """A value on one line; the library would spread a list over several."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


def _line(words: str, origin: Any) -> str:
    kind = " default" if origin == "default" else ""
    beside = f'<i class="origin{kind}">{escape(str(origin))}</i>' if origin is not None else ""
    unset = ' class="unset"' if words.startswith("#") else ""
    return f"<span{unset}>{escape(words)}{beside}</span>"
