"""What is printed of a recipe: every value with its origin, the JSON Schema, and the reference page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import tomli_w
from pydantic import BaseModel

from groundup.recipe.kinds import RECIPES
from groundup.recipe.load import LoadedRecipe, inner_model
from groundup.recipe.positions import Path
from groundup.recipe.sections import Recipe

ORIGINS = "recipe.origins.json"  # beside the recipe.toml of a run folder: where its values came from


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
    """Dotted key -> where its value came from, for every value of the recipe, unset ones included. Of a run's recipe:
    where it came from before the run folder kept it."""
    found, kept = {}, _kept_origins(loaded.file)
    for path, _ in _leaves(loaded.recipe.model_dump(mode="json"), ()):
        origin = "default"
        for length in range(len(path), 0, -1):
            if path[:length] in loaded.origins and (length == len(path) or loaded.origins[path[:length]] == "--set"):
                origin = loaded.origins[path[:length]]
                break
        mine = origin.startswith(f"{loaded.file}:")
        found[dotted(path)] = kept.get(dotted(path), origin) if mine else origin
    return found


def _kept_origins(file: FilePath) -> dict[str, str]:
    """What a run folder tells of its recipe's values; nothing where someone has changed the recipe since."""
    try:
        if file.name != "recipe.toml" or file.stat().st_mtime_ns > file.with_name(ORIGINS).stat().st_mtime_ns:
            return {}
        found: dict[str, str] = json.loads(file.with_name(ORIGINS).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def changes(old: LoadedRecipe, new: LoadedRecipe) -> dict[str, tuple[str, str]]:
    """Dotted key -> its two values as TOML, for every key in which two recipes differ."""
    before, after = ({key: value for key, value, _ in lines(loaded)} for loaded in (old, new))
    pairs = {key: (before.get(key, "(none)"), after.get(key, "(none)")) for key in before | after}
    return {key: (first, second) for key, (first, second) in pairs.items() if first != second}


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
    """JSON Schema of a recipe, for editors that complete keys: every key of every task, and by the task which of them
    are its own."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for kind in RECIPES.values():
        found = kind.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= found.pop("$defs") | {kind.__name__: found}
        for name, value in found["properties"].items():
            known = properties.setdefault(name, value)
            if known != value:
                properties[name] = {"description": "depends on the task", "anyOf": [known, value]}
    first, second = (f"#/$defs/{kind.__name__}" for kind in RECIPES.values())
    second_task = {"properties": {"task": {"const": list(RECIPES)[1]}}, "required": ["task"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Groundup recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "if": second_task,
        "then": {"$ref": second},
        "else": {"$ref": first},
        "$defs": definitions,
    }


def _type_name(annotation: dict[str, Any]) -> str:
    if "$ref" in annotation:
        return "table"
    if "enum" in annotation:
        return " \\| ".join(f"`{v}`" for v in annotation["enum"])
    if "const" in annotation:
        return f"`{annotation['const']}`"
    if "anyOf" in annotation:
        return " or ".join(_type_name(a) for a in annotation["anyOf"] if a.get("type") != "null")
    if "additionalProperties" in annotation and isinstance(annotation["additionalProperties"], dict):
        return "table of tables"
    if annotation.get("type") == "array" and not annotation["items"]:
        return "list"
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

    printed: set[type[BaseModel]] = set()

    def section(kind: type[BaseModel], path: str) -> None:
        printed.add(kind)
        inner: list[tuple[type[BaseModel], str]] = []
        document = kind.model_json_schema()
        parts.extend([f"### `{path}`" if path else "### Top level", ""])
        parts.append((kind.__doc__ or "").replace("\n", " ").strip())
        parts.extend(["", "| key | type | default | meaning |", "|---|---|---|---|"])
        for name, annotation in document["properties"].items():
            field = kind.model_fields[name]
            below = inner_model(field.annotation)
            default = "" if below else _default(_plain(field.get_default(call_default_factory=True)))
            required = "**needed**" if name in document.get("required", ()) else default
            meaning = " ".join((field.description or "").split())
            parts.append(f"| `{name}` | {_type_name(annotation)} | {required} | {meaning} |")
            if below is not None:
                mark = {"array": "[]", "object": ".KEY"}.get(annotation.get("type", ""), "")
                inner.append((below, f"{path}.{name}".lstrip(".") + mark))
        parts.append("")
        for below, where in inner:
            if below not in printed:
                section(below, where)

    for task, kind in RECIPES.items():
        parts.extend([f'## A recipe with `task = "{task}"`', ""])
        if printed:
            parts.extend(["Sections that stand above already are the same for this task.", ""])
        section(kind, "")
    return "\n".join(parts)


def _plain(value: Any) -> Any:
    """A default as TOML can write it."""
    return value if value is None or isinstance(value, bool | int | float | str | list) else str(value)
