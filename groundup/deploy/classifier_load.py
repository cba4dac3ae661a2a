"""Loading an exported classifier: weights as safetensors, everything else as JSON, each file held to its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from groundup.data.table.preprocess import Preprocessor
from groundup.deploy.folder import CLASSIFIER, LINEAGE
from groundup.errors import UserError
from groundup.models.perceptron import Perceptron
from groundup.recipe.table import Classifier
from groundup.rundir import read_json

VERSION = 1
CONFIG, WEIGHTS, PREPROCESS = "config.json", "model.safetensors", "preprocess.json"
_EXPORT_AGAIN = "Export it again"


def load_classifier(folder: Path) -> tuple[Perceptron, Preprocessor]:
    """The model, on the CPU with dropout off, and what turns raw rows into its features.

    Raises UserError where the folder is no export of a classifier, or a file isn't the one that was exported.
    """
    facts = read_json(folder / LINEAGE)
    files = facts.get("files") if isinstance(facts, dict) else None
    if not isinstance(files, dict):
        raise UserError("this is no export of a classifier", where=str(folder), expected=f"a {LINEAGE} with checksums")
    contents = read_contents(folder)
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files.get(name):
            raise UserError(
                f"this file is not the one that was exported: its checksum is not that in {LINEAGE}",
                where=str(folder / name),
                advice=_EXPORT_AGAIN,
            )
    return from_contents(contents, folder)


def read_contents(folder: Path) -> dict[str, bytes]:
    """The files that serving needs. Raises UserError where one can't be read."""
    contents = {}
    for name in (CONFIG, WEIGHTS, PREPROCESS):
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            what = f"this file can't be read: {error.strerror}"
            raise UserError(what, where=str(folder / name), advice=_EXPORT_AGAIN) from None
    return contents


def from_contents(contents: Mapping[str, bytes], folder: Path) -> tuple[Perceptron, Preprocessor]:
    """Model and preprocessor of the files' contents; `folder` is for the words of a UserError."""
    try:
        config = json.loads(contents[CONFIG])
        if (config["format"], config["version"]) != (CLASSIFIER, VERSION):
            raise UserError(
                f"its format is {config['format']!r}, version {config['version']!r}",
                where=str(folder / CONFIG),
                expected=f"{CLASSIFIER!r}, version {VERSION}",
            )
        section = Classifier.model_validate(config["model"])
        features, classes = config["features"], config["classes"]
        preprocessor = Preprocessor.from_json(json.loads(contents[PREPROCESS]))
        tensors = load_tensors(contents[WEIGHTS])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError, SafetensorError) as error:
        what = f"damaged: {type(error).__name__}: {error}"
        raise UserError(what, where=str(folder), expected="an export of a classifier", advice=_EXPORT_AGAIN) from None
    if (preprocessor.width, len(preprocessor.classes)) != (features, classes):
        raise UserError(
            f"the preprocessing makes {preprocessor.width} features for {len(preprocessor.classes)} classes, the "
            f"model takes {features} for {classes}",
            where=str(folder),
            advice=_EXPORT_AGAIN,
        )
    with torch.device("meta"):  # shapes without memory: those of the file may be anything
        _check_shapes(Perceptron(section, features, classes), tensors, folder)
    model = Perceptron(section, features, classes)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), preprocessor


def _check_shapes(model: Perceptron, tensors: Mapping[str, Tensor], folder: Path) -> None:
    expected = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        what = f"{wrong[0]} is {_words(found.get(wrong[0]))}"
        where = str(folder / WEIGHTS)
        raise UserError(what, where=where, expected=_words(expected.get(wrong[0])), advice=_EXPORT_AGAIN)


def _words(tensor: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "not there" if tensor is None else f"{tensor[1]} {list(tensor[0])}"


def describe(model: Perceptron) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "format": CLASSIFIER,
        "version": VERSION,
        "model": model.model.model_dump(mode="json"),
        "features": model.features,
        "classes": model.classes,
        "dtype": "float32",
    }
