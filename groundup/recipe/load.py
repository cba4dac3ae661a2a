"""From a TOML file and `--set` to a Recipe, or to all that is wrong with it: file, line, column, key, what to do."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from groundup.errors import RecipeError, UserError
from groundup.recipe.checks import impossible
from groundup.recipe.kinds import recipe_type
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.positions import Path, Position, first_key, scan
from groundup.recipe.presets import PRESETS
from groundup.recipe.sections import Recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, the file it came from and where each value that was given came from."""

    recipe: Recipe
    file: FilePath
    origins: dict[Path, str]  # "FILE:LINE", "--set" or "preset NAME"; a path that is missing is a default

    @property
    def base(self) -> FilePath:
        """The folder relative paths in the recipe start from."""
        return self.file.parent

    def origin(self, path: Path) -> str:
        return self.origins.get(path, "default")

    def fingerprint(self) -> str:
        """SHA-256 over every value."""
        return hashlib.sha256(self.recipe.model_dump_json().encode()).hexdigest()


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.replace("-", "").replace("_", "").isalnum() else f'"{part}"')
    return text


def parse_set(expressions: tuple[str, ...]) -> dict[Path, Any]:
    """`key.path=TOML value` expressions, in order. Raises UserError for one that is no such thing."""
    values: dict[Path, Any] = {}
    for expression in expressions:
        key, equals, value = expression.partition("=")
        wanted = "one key.path=value, for example train.micro_batch=4"
        if not equals or not key.strip() or key.lstrip()[0] in "#[" or "\n" in key.strip():
            raise UserError(f"--set {expression}", expected=wanted)
        try:
            document = tomllib.loads(expression)
        except tomllib.TOMLDecodeError:
            quoted = f"--set '{key.strip()}=\"{value.strip()}\"'"
            raise UserError(
                f"--set {expression}: {value.strip()!r} is no TOML value",
                expected="a TOML value: 3, 1e-3, true, [1, 2] or a quoted string",
                advice=f"For a string, quote it for the shell too: {quoted}",
            ) from None
        path = first_key(expression)
        node: Any = document
        for part in path:
            if len(node) > 1:
                raise UserError(f"--set {expression}", expected=wanted)
            node = node[part]
        values[path] = node
    return values


def _assign(document: dict[str, Any], path: Path, value: Any) -> None:
    node: Any = document
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"--set {_dotted(path)}: {part} is not a table")
    node[path[-1]] = value


def _merge_preset(document: dict[str, Any], origins: dict[Path, str]) -> UserError | None:
    """Put a preset's values under those given; tell an unknown name."""
    model = document.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("preset"), str):
        return None
    if recipe_type(document) is not LanguageRecipe:
        return None
    name = model["preset"]
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1, 0.5)
        return UserError(
            f"model.preset: there is no preset {name!r}",
            expected="one of " + ", ".join(PRESETS),
            advice=f"Did you mean {near[0]!r}?" if near else "",
        )

    def fill(given: dict[str, Any], preset: dict[str, Any], path: Path) -> None:
        for key, value in preset.items():
            if isinstance(value, dict) and isinstance(given.setdefault(key, {}), dict):
                fill(given[key], value, (*path, key))
            elif key not in given:
                given[key] = value
                origins[(*path, key)] = f"preset {name}"

    fill(model, PRESETS[name], ("model",))
    return None


def _section_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The section a path leads into, to offer its names."""
    section = root
    for part in path:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        if field is None:
            return None
        inner = inner_model(field.annotation)
        if inner is None:
            return None
        section = inner
    return section


def inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = inner_model(argument)
        if inner is not None:
            return inner
    return None


def _meant(root: type[BaseModel], path: Path) -> str | None:
    """The nearest name to an unknown key in its section."""
    section = _section_at(root, path[:-1])
    near = difflib.get_close_matches(str(path[-1]), section.model_fields if section else (), 1, 0.6)
    return near[0] if near else None


def _nearest(root: type[BaseModel], name: str, path: Path) -> str:
    """Advice for an unknown key: the nearest name in that section, or the section that has a key of this name."""
    sections = {other: inner_model(field.annotation) for other, field in root.model_fields.items()}
    others = [(other, key) for other, inner in sections.items() if inner is not None for key in inner.model_fields]
    for other, key in others:
        if name == f"{other}_{key}":
            return f"There is {other}.{key}"
    meant = _meant(root, (*path, name))
    if meant is not None:
        return f"Did you mean {meant!r}?"
    section = _section_at(root, path)
    names = list(section.model_fields) if section else []
    for other, key in others:
        if name == key:
            return f"There is {other}.{key}"
    return "Known here: " + ", ".join(names) if names else ""


def _explain(root: type[BaseModel], error: ErrorDetails) -> tuple[str, str, str]:
    """(what, expected, advice) of one pydantic error."""
    path, kind, given = tuple(error["loc"]), error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown key {path[-1]!r}", "", _nearest(root, str(path[-1]), path[:-1])
    if kind == "missing":
        return f"{path[-1]!r} is missing", "a value for it", ""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for start in ("Input should be ", "Input should have ", "String should ", "List should "):
        message = message.removeprefix(start)
    advice = ""
    if kind == "literal_error" and isinstance(given, str):
        names = [n.strip("' ") for n in message.replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(given, names, 1, 0.6)
        advice = f"Did you mean {near[0]!r}?" if near else ""
    return f"{given!r}", message, advice


class _Source:
    """The recipe's text with the positions of its keys, and what `--set` has put over it."""

    def __init__(self, file: FilePath, text: str, given: dict[Path, Any]) -> None:
        self.file, self.given = file, given
        self.positions: dict[Path, Position] = scan(text)

    def where(self, path: Path, *, of_key: bool) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.given:
                return "--set"
            if path[:length] in self.positions:
                at = self.positions[path[:length]]
                if of_key or length < len(path):
                    return f"{self.file}:{at.line}:{at.column}"
                return f"{self.file}:{at.value_line}:{at.value_column}"
        return f"{self.file}:1:1"

    def origins(self) -> dict[Path, str]:
        origins = {path: f"{self.file}:{at.line}" for path, at in self.positions.items()}
        return origins | dict.fromkeys(self.given, "--set")


def _without(document: dict[str, Any], paths: list[Path]) -> dict[str, Any]:
    """A copy without the values at `paths`, so that defaults stand in for what is wrong."""

    def copy(node: Any, at: Path) -> Any:
        if isinstance(node, dict):
            return {k: copy(v, (*at, k)) for k, v in node.items() if (*at, k) not in paths}
        if isinstance(node, list):
            return [copy(v, (*at, n)) for n, v in enumerate(node)]
        return node

    copied: dict[str, Any] = copy(document, ())
    return copied


def _problems(document: dict[str, Any], source: _Source) -> tuple[Recipe | None, list[UserError]]:
    problems: list[UserError] = []
    kind = recipe_type(document)
    try:
        recipe: Recipe | None = kind.model_validate(document)
        wrong: list[Path] = []
    except ValidationError as error:
        recipe, wrong = None, []
        for detail in error.errors(include_url=False):
            path = tuple(detail["loc"])
            what, expected, advice = _explain(kind, detail)
            of_key = detail["type"] in ("extra_forbidden", "missing")
            where = source.where(path, of_key=of_key)
            shown = _dotted(path[:-1] if detail["type"] == "missing" else path) or "recipe"
            problems.append(UserError(f"{shown}: {what}", where=where, expected=expected, advice=advice))
            wrong.append(path)
            meant = _meant(kind, path) if detail["type"] == "extra_forbidden" else None
            if meant is not None:
                wrong.append((*path[:-1], meant))
    partial = recipe
    if partial is None:
        try:
            partial = kind.model_validate(_without(document, wrong))
        except ValidationError:
            return None, problems
    for found in impossible(partial):
        rests_on = (found.path, *found.rests_on)
        # Where a key it rests on is wrong itself, a default stood in for it and the verdict means nothing.
        if any(w[: len(r)] == r or r[: len(w)] == w for w in wrong for r in rests_on):
            continue
        where = source.where(found.path, of_key=False)
        problems.append(UserError(f"{_dotted(found.path)}: {found.what}", where=where, expected=found.expected))
    return recipe, problems


def _absolute(text: str, base: FilePath) -> str:
    """A local path against the recipe's folder, or the working folder if it is only there; others stay as they are."""
    if text.startswith(("pypi:", "package:")) or "://" in text:
        return text
    fixed = re.split(r"[*?\[]", text, maxsplit=1)[0]
    for folder in (base, FilePath()):
        if (folder / fixed).exists():
            return str((folder / text).absolute())
    return str((base / text).absolute())


def load(file: FilePath, expressions: tuple[str, ...] = ()) -> LoadedRecipe:
    """Read, merge and check. Raises RecipeError with all problems, or UserError where the file can't be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = file.parent if file.parent.is_dir() else FilePath()
        near = difflib.get_close_matches(file.name, [p.name for p in folder.glob("*.toml")], 1, 0.5)
        advice = f"Did you mean {folder / near[0]}?" if near else "`groundup init` writes one"
        raise UserError("there is no such recipe", where=str(file), advice=advice) from None
    except IsADirectoryError:
        raise UserError("this is a folder, and no run folder: it holds no recipe.toml", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't be read: {error}", where=str(file), expected="a TOML file in UTF-8") from None
    given = parse_set(expressions)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        numbers = [int(word) for word in place.replace(",", " ").replace(")", " ").split() if word.isdigit()]
        lines = text.count("\n") + 1
        line, column = (numbers[0], numbers[1]) if len(numbers) == 2 else (lines, len(text.split("\n")[-1]) + 1)
        problem = UserError(f"not valid TOML: {message}", where=f"{file}:{line}:{column}")
        raise RecipeError([problem]) from None
    for path, value in given.items():
        _assign(document, path, value)
    source = _Source(file, text, given)
    origins = source.origins()
    preset_problem = _merge_preset(document, origins)
    recipe, problems = _problems(document, source)
    if preset_problem is not None:
        preset_problem.where = source.where(("model", "preset"), of_key=False)
        problems.insert(0, preset_problem)
    if problems or recipe is None:
        raise RecipeError(problems)
    # So that the copy in a run folder means the same files.
    absolute = recipe.with_paths(lambda path: _absolute(path, file.parent))
    return LoadedRecipe(absolute, file, origins)
