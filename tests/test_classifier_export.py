"""The export of a classifier: what it holds, that it checks itself, and that only what was exported is loaded."""

from __future__ import annotations

import csv
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

from groundup.data.table.preprocess import Preprocessor
from groundup.deploy import classifier_onnx
from groundup.deploy.classifier_card import classifier_card
from groundup.deploy.classifier_export import CheckRows
from groundup.deploy.classifier_load import load_classifier
from groundup.deploy.classifier_rows import raw_rows
from groundup.deploy.folder import ExportMismatch
from groundup.errors import UserError
from groundup.models.perceptron import Perceptron
from groundup.recipe.table import Classifier
from tests.classifiers import SHAPE, SPECIES, perceptron, preprocessor, table, write
from tests.conftest import groundup_json

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
        part="test",
        lineage={"recipe": "trees", "data": {"fingerprint": "abc"}},
    )
    for words in ("# trees", "1,234", "maple", "élm", "16, 8", "0.9877", "model.onnx", "height, m", "data.fingerprint"):
        assert words in card
    assert "<b>" not in card.replace("\\<b\\>", "")
    assert card.startswith("---\npipeline_tag: tabular-classification\n")


# --- the whole course


RECIPE = """
name = "trees"
task = "classification"

[data]
path = "trees.csv"
target = "species"
ignore = ["id"]
missing = "impute"

[model]
widths = [32]
dropout = 0.5

[optim]
lr = 0.01
precision = "fp32"

[train]
duration = "15 epochs"
batch_rows = 16
micro_batch = 16
threads = 1
trackers = []
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run over a table with missing values, and what `groundup run` printed. Don't change it."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "trees.toml").write_text(RECIPE)
    random = np.random.default_rng(4)
    with (folder / "trees.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "height, m", "evergreen", "colour", "species"])
        for n in range(400):
            height, colour, green = random.normal(n % 3 * 4, 1.5), random.choice(["red", "green"]), n % 5 < 2
            cells = [f"{height:.3f}", str(green).lower(), colour]
            writer.writerow([n, *("" if random.random() < 0.1 else cell for cell in cells), SPECIES[n % 3]])
    return folder / "run", groundup_json("run", folder / "trees.toml", "--run-dir", folder / "run")


def test_the_course_exports_what_it_evaluated(course: tuple[Path, dict[str, Any]]) -> None:
    """The raw rows of the test part, through the exported folder alone, give the accuracy that was evaluated."""
    run, printed = course
    assert Path(printed["export"]["path"]) == run / "export"
    told = json.loads((run / "export.json").read_text())
    assert told["checked"] == "raw rows"
    assert told["max_logit_difference"] == printed["export"]["max_logit_difference"]
    model, made = load_classifier(run / "export")
    with (run.parent / "trees.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    records = [records[row] for row in np.load(run / "data" / "test" / "rows.npy")]
    columns: dict[str, Any] = {name: np.array([r[name] or None for r in records], object) for name in records[0]}
    columns["height, m"] = columns["height, m"].astype(float)
    predicted = [made.classes[c] for c in model(torch.from_numpy(made.encode(columns))).argmax(1).tolist()]
    right = np.mean([label == record["species"] for label, record in zip(predicted, records, strict=True)])
    assert right == pytest.approx(printed["evaluate"]["accuracy"])
    assert 0.6 < right < 1
    assert printed["evaluate"]["rows"] == len(records) == told["rows"]


def test_the_export_says_what_it_was_made_from(course: tuple[Path, dict[str, Any]]) -> None:
    run, printed = course
    lineage = json.loads((run / "export" / "groundup.json").read_text())["lineage"]
    assert lineage["recipe"] == "trees"
    assert lineage["metrics"]["accuracy"] == printed["evaluate"]["accuracy"]
    assert lineage["data"]["target"] == "species"
    assert lineage["data"]["rows"]["test"] == printed["evaluate"]["rows"]
    assert [stage["name"] for stage in lineage["data"]["stages"]] == ["read", "clean", "exact_dedup", "split", "scale"]
    height = next(column for column in lineage["data"]["columns"] if column["name"] == "height, m")
    assert height["min"] < height["mean"] < height["max"]
    assert "# trees" in (run / "export" / "README.md").read_text()


def test_without_a_cleaned_table_there_are_no_raw_rows(course: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(course[0] / "data", data)
    made = Preprocessor.load(data / "preprocess.json")
    wanted = np.load(data / "test" / "rows.npy")[:5]
    rows = raw_rows(data, wanted, made)
    assert rows is not None
    np.testing.assert_allclose(made.encode(rows), np.load(data / "test" / "features.npy")[:5], rtol=1e-6)
    (data / "cleaned.csv").write_text((data / "cleaned.csv").read_text().replace(".", ":"))
    assert raw_rows(data, wanted, made) is None
    (data / "cleaned.csv").unlink()
    assert raw_rows(data, wanted, made) is None
