"""The export of a classifier: what it holds, that it checks itself, and that only what was exported is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.deploy import classifier_onnx
from groundup.deploy.classifier_card import classifier_card
from groundup.deploy.classifier_export import CheckRows
from groundup.deploy.classifier_load import load_classifier
from groundup.deploy.folder import ExportMismatch
from groundup.errors import UserError
from groundup.models.perceptron import Perceptron
from groundup.recipe.table import Classifier
from tests.classifiers import SHAPE, SPECIES, perceptron, preprocessor, table, write

MADE = preprocessor()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    write(tmp_path / "export", MADE, perceptron(MADE))
    return tmp_path / "export"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_an_export_holds(tmp_path: Path) -> None:
    model = perceptron(MADE)
    result = write(tmp_path / "runs" / "export", MADE, model)
    folder = Path(result["path"])
    assert set(content(folder)) == {
        "README.md",
        "config.json",
        "groundup.json",
        "model.onnx",
        "model.safetensors",
        "preprocess.json",
    }
    assert result["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in content(folder).items()}
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "format": "groundup-classifier",
        "version": 1,
        "model": SHAPE.model_dump(),
        "features": 7,
        "classes": 3,
        "dtype": "float32",
    }
    told = json.loads((folder / "groundup.json").read_text())
    assert told["lineage"]["recipe"] == "trees"
    assert told["check"]["max_logit_difference"] == result["max_logit_difference"]
    assert told["check"]["checked"] == "raw rows"
    assert 0 < result["relative_difference"] <= result["tolerance"] == 1e-4
    assert model.training, "exporting leaves the model as it was"


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
@pytest.mark.parametrize(("norm", "widths"), [("none", [16, 8]), ("layer", [9]), ("none", [])])
def test_every_shape_computes_the_same_as_onnx(activation: Any, norm: Any, widths: list[int], tmp_path: Path) -> None:
    model = perceptron(MADE, Classifier(widths=widths, activation=activation, norm=norm, dropout=0.5))
    result = write(tmp_path / "export", MADE, model, tolerance=1e-5)
    raw = table(300, seed=5)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(MADE.encode(raw))).numpy()
    session = onnxruntime.InferenceSession(Path(result["path"]) / "model.onnx")
    logits, probabilities = session.run(None, {"features": MADE.raw_features(raw)})
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    exponents = np.exp(expected - expected.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponents / exponents.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)
    loaded, _ = load_classifier(Path(result["path"]))
    np.testing.assert_array_equal(loaded(torch.from_numpy(MADE.encode(raw))).numpy(), expected)


def test_the_onnx_file_names_features_and_classes(exported: Path) -> None:
    facts = onnxruntime.InferenceSession(exported / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == SPECIES
    assert json.loads(facts["features"])[3:] == ["colour=red", "colour=green", "colour=3", "colour=(other)"]
    assert facts["target"] == '"species"'


def test_loading_gives_the_model_with_dropout_off_and_the_preprocessing(tmp_path: Path) -> None:
    made = preprocessor(imputes=True, classes=[7, 2.5, "x", True])
    write(tmp_path / "export", made, perceptron(made), onnx=False)
    model, loaded = load_classifier(tmp_path / "export")
    assert not model.training
    assert loaded.to_json() == made.to_json()
    assert [type(label) for label in loaded.classes] == [int, float, str, bool]
    assert not (tmp_path / "export" / "model.onnx").exists()


def test_without_raw_rows_the_features_are_compared(tmp_path: Path) -> None:
    features = torch.from_numpy(MADE.encode(table()))
    result = write(tmp_path / "export", MADE, perceptron(MADE), rows=CheckRows(features, None))
    assert result["checked"] == "features"
    assert 0 < result["relative_difference"] <= 1e-4


# --- mismatches are refused, and an older export stays


def _forget_the_scaling(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The features were made otherwise than the exported preprocessing makes them."""
    raw = table()
    return {"rows": CheckRows(torch.from_numpy(MADE.raw_features(raw).astype(np.float32)), raw)}


def _wrong_operator(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(classifier_onnx._ACTIVATIONS, "relu", "Tanh")
    return {}


def _no_tolerance(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"tolerance": 1e-12}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_forget_the_scaling, "logits of the written folder differ"),
        (_wrong_operator, "logits of onnxruntime differ"),
        (_no_tolerance, "the tolerance is 1e-12 of it"),
    ],
)
def test_a_mismatch_is_refused_and_the_older_export_stays(
    damage: Callable[[pytest.MonkeyPatch], dict[str, Any]], words: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(exported)
    changes = damage(monkeypatch)
    with pytest.raises(ExportMismatch, match=words):
        write(exported, MADE, perceptron(MADE), **changes)
    assert content(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["export"]


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = perceptron(MADE)
    with torch.no_grad():
        model.output.bias[0] = torch.nan
    with pytest.raises(ExportMismatch):
        write(tmp_path / "export", MADE, model)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_export_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no export of ours"):
        write(tmp_path, MADE, perceptron(MADE))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


# --- only what was exported is loaded


def _rewrite(change: Callable[[dict[str, Any]], Any], name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return damage


def _other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "output.bias": tensors["output.bias"] + 1}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_other_weights, r"model\.safetensors: this file is not the one that was exported"),
        (_rewrite(lambda d: d["columns"].reverse(), "preprocess.json"), r"preprocess\.json: this file is not the one"),
        (_rewrite(lambda d: d.update(version=2), "config.json"), r"config\.json: this file is not the one"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: this file can't be read: No such file"),
        (lambda f: (f / "groundup.json").unlink(), "this is no export of a classifier"),
        (lambda f: (f / "groundup.json").write_text("{"), r"groundup\.json: damaged"),
    ],
)
def test_a_damaged_folder_is_not_loaded(damage: Callable[[Path], None], words: str, exported: Path) -> None:
    damage(exported)
    with pytest.raises(UserError, match=words):
        load_classifier(exported)


def _widths(document: dict[str, Any]) -> None:
    document["model"]["widths"] = [10**9, 10**9]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            _rewrite(lambda d: d.update(version=2), "config.json"),
            "expected 'groundup-classifier', version 1",
        ),
        (_rewrite(lambda d: d.update(features=8), "config.json"), "makes 7 features for 3 classes, the model takes 8"),
        (_rewrite(_widths, "config.json"), r"layers\.0\.linear\.bias is torch\.float32 \[16\]"),
        (_rewrite(lambda d: d["model"].update(width=3), "config.json"), "damaged: ValidationError"),
        (_rewrite(lambda d: d.pop("columns"), "preprocess.json"), "damaged: KeyError"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04K\x01."), "damaged: SafetensorError"),
        (lambda f: (f / "config.json").write_text("[]"), "damaged: TypeError"),
    ],
)
def test_a_folder_with_fitting_checksums_is_still_checked(
    damage: Callable[[Path], None], words: str, exported: Path
) -> None:
    damage(exported)
    files = {name: hashlib.sha256(data).hexdigest() for name, data in content(exported).items()}
    _rewrite(lambda d: d.update(files=files), "groundup.json")(exported)
    with pytest.raises(UserError, match=words):
        load_classifier(exported)


def test_no_pickle_is_read(exported: Path) -> None:
    (exported / "model.safetensors").unlink()
    torch.save(perceptron(MADE).state_dict(), exported / "model.pt")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_classifier(exported)


def test_an_export_can_be_moved(exported: Path, tmp_path: Path) -> None:
    elsewhere = shutil.move(exported, tmp_path / "else where")
    assert isinstance(load_classifier(Path(elsewhere))[0], Perceptron)


def test_loading_needs_neither_onnx_nor_the_tables_readers(exported: Path) -> None:
    program = (
        "import sys, pathlib; from groundup.deploy.classifier_load import load_classifier; "
        f"load_classifier(pathlib.Path({str(exported)!r})); "
        "assert not {'onnx', 'onnxruntime', 'pyarrow', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_card_says_what_the_model_is() -> None:
    card = classifier_card(
        "trees",
        SHAPE,
        MADE,
        parameters=1234,
        onnx=True,
        metrics={"accuracy": 0.98765},
        lineage={"recipe": "trees", "data": {"fingerprint": "abc"}},
    )
    for words in ("# trees", "1,234", "maple", "élm", "16, 8", "0.9877", "model.onnx", "height, m", "data.fingerprint"):
        assert words in card
    assert "<b>" not in card.replace("\\<b\\>", "")
    assert card.startswith("---\npipeline_tag: tabular-classification\n")
