"""What is printed of a recipe: every value with its origin, the JSON Schema, and the reference page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomli_w
from pydantic import BaseModel

from groundup.recipe.load import LoadedRecipe, inner_model
from groundup.recipe.positions import Path
from groundup.recipe.sections import Recipe


def values(recipe: Recipe) -> dict[str, Any]:
    """Every value as TOML can write it; what is None is left out."""
    return recipe.model_dump(mode="json", exclude_none=True)


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as a recipe file."""
    return tomli_w.dumps(values(recipe))


def _leaves(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for index, item in enumerate(node):
            yield from _leaves(item, (*path, index))
    else:
        yield path, node


def origins(loaded: LoadedRecipe) -> dict[str, str]:
    """Dotted key -> where its value came from, for every value of the recipe, unset ones included."""
    found = {}
    for path, _ in _leaves(loaded.recipe.model_dump(mode="json"), ()):
        origin = "default"
        for length in range(len(path), 0, -1):
            if path[:length] in loaded.origins and (length == len(path) or loaded.origins[path[:length]] == "--set"):
                origin = loaded.origins[path[:length]]
                break
        found[dotted(path)] = origin
    return found


def dotted(path: Path) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def lines(loaded: LoadedRecipe) -> list[tuple[str, str, str]]:
    """(dotted key, value as TOML, origin) of every value."""
    origin = origins(loaded)
    rows = []
    for path, value in _leaves(loaded.recipe.model_dump(mode="json"), ()):
        text = "(none)" if value is None else tomli_w.dumps({"v": value}).removeprefix("v = ").strip()
        rows.append((dotted(path), " ".join(text.split()), origin[dotted(path)]))
    return rows


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors that complete keys."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _type_name(annotation: dict[str, Any]) -> str:
    if "$ref" in annotation:
        return "table"
    if "enum" in annotation:
        return " \\| ".join(f"`{v}`" for v in annotation["enum"])
    if "const" in annotation:
        return f"`{annotation['const']}`"
    if "anyOf" in annotation:
        return " or ".join(_type_name(a) for a in annotation["anyOf"] if a.get("type") != "null")
    if annotation.get("type") == "array":
        inner = _type_name(annotation["items"])
        return "list of tables" if inner == "table" else f"list of {inner}"
    if "steps" in annotation.get("pattern", ""):
        return "duration"
    return {"integer": "integer", "number": "number", "boolean": "boolean"}.get(annotation.get("type", ""), "string")


def _default(value: Any) -> str:
    if value is None:
        return ""
    return f"`{tomli_w.dumps({'v': value}).removeprefix('v = ').strip()}`".replace("\n", " ")


def reference() -> str:
    """`docs/recipe.md`: every key with type, default and meaning."""
    parts = [
        "# The recipe",
        "",
        "Generated from `groundup/recipe/` by `groundup recipe reference`; do not edit.",
        "",
        'A duration is a string such as `"200 steps"`, `"300M tokens"` or `"1.5 epochs"`.',
        "Any key can be set on the command line: `--set train.micro_batch=4`, `--set 'train.duration=\"20 steps\"'`.",
        "",
    ]

    def section(kind: type[BaseModel], path: str) -> None:
        inner: list[tuple[type[BaseModel], str]] = []
        document = kind.model_json_schema()
        parts.extend([f"## `{path}`" if path else "## Top level", "", (kind.__doc__ or "").replace("\n", " ").strip()])
        parts.extend(["", "| key | type | default | meaning |", "|---|---|---|---|"])
        defaults = {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
        for name, annotation in document["properties"].items():
            below = inner_model(kind.model_fields[name].annotation)
            default = "" if below else _default(_plain(defaults[name]))
            required = "**needed**" if name in document.get("required", ()) else default
            meaning = " ".join((kind.model_fields[name].description or "").split())
            parts.append(f"| `{name}` | {_type_name(annotation)} | {required} | {meaning} |")
            if below is not None:
                is_list = annotation.get("type") == "array"
                inner.append((below, f"{path}.{name}".lstrip(".") + ("[]" if is_list else "")))
        parts.append("")
        for below, where in inner:
            section(below, where)

    section(Recipe, "")
    return "\n".join(parts)


def _plain(value: Any) -> Any:
    """A default as TOML can write it."""
    return value if value is None or isinstance(value, bool | int | float | str | list) else str(value)
