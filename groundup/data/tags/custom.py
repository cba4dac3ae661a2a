"""A user's own tags: a Python function, a fastText model or an ONNX model.

- `FILE.py:FUNCTION` or `MODULE:FUNCTION`: takes a list of texts, returns {tag: one value per text}.
- `MODEL.bin` or `MODEL.ftz`: a supervised fastText model (package `fasttext-predict`, or another that is imported as
  `fasttext`). Line breaks are given to it as spaces. Tags: MODEL_label, without `__label__`, and MODEL_score.
- `MODEL.onnx`: one input, a tensor of strings of shape [n] or [n, 1]. Each output of shape [n] or [n, 1] is a tag of
  its name; an output of shape [n, k] gives the tags NAME_0 to NAME_(k-1).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from groundup.data.tags.columns import COLUMNS
from groundup.errors import UserError

_KINDS = "FILE.py:FUNCTION, MODULE:FUNCTION, a fastText model (.bin, .ftz) or an ONNX model (.onnx)"


class Tagger(NamedTuple):
    """`tag(texts)` gives {tag: one value per text}. `file`: the user's file; an exception is placed in it."""

    name: str
    tag: Callable[[list[str]], Mapping[str, Sequence[Any]]]
    file: str


def load(name: str, base: Path) -> Tagger:
    """The tagger of this name; a file is looked for in the folder `base`. Raises UserError where it can't be had."""
    if name.endswith(".onnx"):
        path = _file(name, base)
        return Tagger(name, _onnx(path), str(path))
    if name.endswith((".bin", ".ftz")):
        path = _file(name, base)
        return Tagger(name, _fasttext(path), str(path))
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise UserError(f"no tagger {name!r}", expected=_KINDS)
    module = _python_file(_file(place, base)) if place.endswith(".py") else _module(place)
    found = getattr(module, function, None)
    if not callable(found):
        near = difflib.get_close_matches(function, [n for n in dir(module) if callable(getattr(module, n))], 1, 0.5)
        raise UserError(
            f"has no function {function!r}", where=place, advice=f"Did you mean {near[0]!r}?" if near else ""
        )
    return Tagger(name, found, str(module.__file__))


def file_of(name: str, base: Path) -> Path:
    """The file that the tagger of this name is in, without loading it. Raises UserError where there is none."""
    place, colon, _ = name.rpartition(":")
    if not colon or place.endswith(".py"):
        return _file(place if colon else name, base)
    try:
        found = importlib.util.find_spec(place)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise UserError(f"no module {place!r}", where=name, expected=_KINDS)
    return Path(found.origin)


def custom_tags(tagger: Tagger, texts: pa.LargeStringArray) -> pa.Table:
    """The tagger's tags of each text, one row each in the same order.

    Raises UserError where the user's code raises, and where what it returns isn't one value per text under names that
    are free. A column is of kind float64, string or bool by its values, or null where all are None.
    """
    try:
        found = tagger.tag(texts.to_pylist())
    except Exception as error:
        raise _raised(error, f"the tagger {tagger.name}", tagger.file) from error
    if not isinstance(found, Mapping):
        raise UserError(
            f"returned {type(found).__name__}", where=tagger.name, expected="a dict of tags, each with a list of values"
        )
    return pa.table({str(tag): _column(tagger, tag, values, len(texts)) for tag, values in found.items()})


def _column(tagger: Tagger, tag: Any, values: Any, rows: int) -> pa.Array:
    if not isinstance(tag, str) or tag in {name for name, _ in COLUMNS}:
        raise UserError(f"the tag {tag!r} can't be used", where=tagger.name, expected="a name that is no statistic's")
    try:
        count = len(values)
        column = pa.array(values)
    except (TypeError, pa.ArrowException) as error:
        raise UserError(
            f"the values of {tag!r} don't make a column: {error}", where=tagger.name, expected="values of one kind"
        ) from None
    if isinstance(values, str | bytes) or count != rows:
        raise UserError(f"{count} value(s) of {tag!r} for {rows} texts", where=tagger.name, expected="one per text")
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        # One kind for all numbers, since a text more may turn a column of whole numbers into one of fractions.
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_null(kind):
        return column
    raise UserError(
        f"the values of {tag!r} are of kind {kind}", where=tagger.name, expected="numbers, strings, booleans or None"
    )


def _file(name: str, base: Path) -> Path:
    path = base / Path(name).expanduser()
    if not path.is_file():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, 1)
        raise UserError("there is no such file", where=str(path), advice=f"Did you mean {near[0]!r}?" if near else "")
    return path.resolve()


def _python_file(path: Path) -> ModuleType:
    name = "groundup_tagger_" + re.sub(r"\W", "_", str(path))
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _raised(error, "this file", str(path)) from error
    return module


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name!r}", where=name, expected=_KINDS) from error
    except Exception as error:
        raise _raised(error, f"the module {name}", name) from error


def _raised(error: Exception, what: str, file: str) -> UserError:
    """Where in the user's file an exception came from, or at its origin where it didn't pass there."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename == file] or frames[-1:]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else theirs[-1].lineno
    place = file if isinstance(error, SyntaxError) else theirs[-1].filename
    return UserError(f"{what} raised {type(error).__name__}: {error}", where=f"{place}:{line}")


def _fasttext(path: Path) -> Callable[[list[str]], dict[str, list[Any]]]:
    try:
        import fasttext
    except ImportError:
        raise UserError(
            "a fastText model needs the package fasttext-predict",
            where=str(path),
            advice="Install it: pip install fasttext-predict",
        ) from None
    try:
        model = fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UserError(f"can't be read as a fastText model: {error}", where=str(path)) from None
    stem = re.sub(r"\W", "_", path.stem)

    def tag(texts: list[str]) -> dict[str, list[Any]]:
        # What the packages' own `predict` calls: fasttext's calls numpy in a way that numpy 2 refuses, and
        # fasttext-predict's takes no list.
        lines = [text.replace("\n", " ") + "\n" for text in texts]
        found = [next(iter(model.f.predict(line, 1, 0.0, "strict")), (None, None)) for line in lines]
        labels = [None if label is None else label.removeprefix("__label__") for _, label in found]
        return {f"{stem}_label": labels, f"{stem}_score": [score for score, _ in found]}

    return tag


def _onnx(path: Path) -> Callable[[list[str]], dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"can't be read as an ONNX model: {error}", where=str(path)) from None
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(string)" or len(inputs[0].shape) not in (1, 2):
        shown = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        raise UserError(
            f"takes {shown or 'nothing'}", where=str(path), expected="one tensor of strings of shape [n] or [n, 1]"
        )
    shape = (-1,) if len(inputs[0].shape) == 1 else (-1, 1)

    def tag(texts: list[str]) -> dict[str, Any]:
        # The outputs' names come from a run, and no text has the same tags as one.
        outputs = session.run(None, {inputs[0].name: np.array(texts or [""], object).reshape(shape)})
        tags: dict[str, Any] = {}
        for output, values in zip(session.get_outputs(), outputs, strict=True):
            if not isinstance(values, np.ndarray) or values.ndim not in (1, 2):
                raise ValueError(f"the output {output.name} is no tensor of shape [n] or [n, k]")
            if len(values) == max(len(texts), 1):
                values = values[: len(texts)]
            if values.ndim == 1 or values.shape[1] == 1:
                tags[output.name] = values.reshape(-1).tolist()
            else:
                tags.update({f"{output.name}_{k}": values[:, k].tolist() for k in range(values.shape[1])})
        return tags

    return tag
