"""How values are written: numbers in every notation, names that spell numbers, what stands for a missing value."""

from __future__ import annotations

import json
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.data.table.preprocess import Column, Preprocessor
from groundup.data.table.read import BLOCK_BYTES
from groundup.deploy.classifier_api import parse_predict
from groundup.deploy.classifier_rows import raw_rows
from groundup.errors import UserError
from tests.tables import PARTS, prepare_file, prepare_text, table


def test_numbers_that_are_names(tmp_path: Path) -> None:
    rows = [f"{n % 3},{n},{n % 2}" for n in range(30)]
    done = prepare_text(table(rows, "code,x,y"), tmp_path, categories=["code"])
    assert done.preprocessor.feature_names == ["code=0", "code=1", "code=2", "x"]
    encoded = done.preprocessor.encode({"code": np.array([1, 2.0], object), "x": np.array([0.0, 0.0])})
    assert encoded[:, :3].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_categories_that_spell_numbers_or_truths(tmp_path: Path) -> None:
    words = ["3.0", "True", "maybe", "007", "1e2"]
    rows = [f"{words[n % 5]},{n},{n % 2}" for n in range(50)]
    pre = prepare_text(table(rows, "c,x,y"), tmp_path).preprocessor
    for value, name in [(3, "3.0"), (3.0, "3.0"), ("3.0", "3.0"), (True, "True"), ("True", "True"), (100, "1e2")]:
        encoded = pre.encode({"c": np.array([value], object), "x": np.zeros(1)})
        assert [n for n, f in zip(pre.feature_names, encoded[0], strict=True) if f == 1.0] == [f"c={name}"], value
    for value in (7, "7", False, "true", 4):
        assert not pre.encode({"c": np.array([value], object), "x": np.zeros(1)})[0, :5].any(), value
    both = Preprocessor([Column("c", "category", categories=["3", "3.0"])], "y", [0, 1])
    assert both.encode({"c": np.array(["3", "3.0"], object)}).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(UserError, match="column 'c', row 1: 3 may be any of"):
        both.encode({"c": np.array(["3", 3], object)})


def test_missing_values_of_parquet_do_not_hang_on_their_neighbours(tmp_path: Path) -> None:
    texts = ["NA" if n < 12 else "pq"[n % 2] for n in range(60)]
    for name, first in (("plain", "p"), ("blank", " p")):
        content = {"c": [*texts[:-1], first], "x": list(range(60)), "y": ["ab"[n % 2] for n in range(60)]}
        pq.write_table(pa.table(content), tmp_path / f"{name}.parquet")
        done = prepare_file(tmp_path / f"{name}.parquet", tmp_path / name)
        assert done.manifest["rows"] == 48
        assert done.preprocessor.columns[0].categories == ["p", "q"]


def test_missing_targets_are_no_classes(tmp_path: Path) -> None:
    rows = [f"{n},{'ab'[n % 2]}" for n in range(40)]
    done = prepare_text(table([*rows, "1,   ", "2, NA ", "3,"], "x,y"), tmp_path)
    assert (done.manifest["classes"], done.dropped()) == (["a", "b"], {"no_target": 3})
    content = {"x": list(range(40)), "y": ["", "NA", *("ab"[n % 2] for n in range(38))]}
    pq.write_table(pa.table(content), tmp_path / "t.parquet")
    done = prepare_file(tmp_path / "t.parquet", tmp_path / "parquet")
    assert (done.manifest["classes"], done.dropped()) == (["a", "b"], {"no_target": 2})


def test_whole_numbers_are_told_apart_beyond_53_bits(tmp_path: Path) -> None:
    big = 2**60
    rows = [f"{big + n // 2},{n % 2}" for n in range(40)]
    done = prepare_text(table([*rows, rows[0]], "id,y"), tmp_path)
    assert done.dropped() == {"exact_duplicate": 1}
    assert done.cleaned[1:] == rows


def test_whole_numbers_are_told_apart_beyond_64_bits(tmp_path: Path) -> None:
    rows = [f"{10**25 + n},{n % 2}" for n in range(66)]
    done = prepare_text(table([*rows, rows[0]], "id,y"), tmp_path)
    assert done.dropped() == {"exact_duplicate": 1}
    assert done.cleaned[1:] == rows
    assert done.column("id")["kind"] == "number"


def test_decimal_commas(tmp_path: Path) -> None:
    rows = [f"{n},{n % 7};1,5e3;{n};{n % 2}" for n in range(40)]
    done = prepare_text(table([*rows, "7.5;1;2;1"], "a;b;c;y"), tmp_path, delimiter=";", decimal=",", categories=["a"])
    assert done.column("a")["kind"] == "category"
    done = prepare_text(table(rows, "a;b;c;y"), tmp_path / "n", delimiter=";", decimal=",")
    assert {e["name"]: e["kind"] for e in done.manifest["columns"]} == dict.fromkeys("abc", "number")
    assert done.column("b")["mean"] == 1500
    assert done.preprocessor.decimal == ","
    wide = [f"{n},5;{'x' * 1000};{n % 2}" for n in range(BLOCK_BYTES // 1000 + 100)]
    wide[-1] = f"7,25;{'x' * 1000};1"
    mixed = [row.replace(",5", "", 1) if n < len(wide) - 50 else row for n, row in enumerate(wide)]
    done = prepare_text(table(mixed, "a;pad;y"), tmp_path / "m", delimiter=";", decimal=",", cleaned="none")
    assert done.column("a")["kind"] == "number"


def test_dates_times_and_hexadecimal_numbers_are_served_from_their_text(tmp_path: Path) -> None:
    """The texts of a CSV file, as they stand there, make the features that training saw."""
    lines = [
        f"2020-{1 + n % 12:02}-05,{n % 24:02}:{n % 60:02},{n:#x},2021-01-01T{n % 24:02}:30:00Z,{'ab'[n % 2]}"
        for n in range(120)
    ]
    done = prepare_text("day,hour,mask,seen,y\n" + "\n".join(lines) + "\n", tmp_path)
    pre = done.preprocessor
    assert [column.notation for column in pre.columns] == ["date", "time", "whole", "zoned"]
    for name in PARTS:
        part = done.part(name)
        rows = [lines[n].split(",")[:-1] for n in part.source_rows]
        sent = parse_predict(json.dumps({"data": rows}).encode(), pre)
        assert pre.encode(sent).tobytes() == part.features.tobytes()
        read = raw_rows(done.run.data, part.source_rows, pre)
        assert read is not None
        assert pre.encode(read).tobytes() == part.features.tobytes()


def test_numbers_that_stand_for_a_missing_value(tmp_path: Path) -> None:
    """In text, in Parquet, and in a request."""
    numbers = [-999 if n % 10 == 3 else n % 13 for n in range(200)]
    rows = [f"{x},{n},{n % 2}" for n, x in enumerate(numbers)]
    settings: dict[str, Any] = {"missing_values": ["", "-999"], "missing": "impute"}
    text = prepare_text(table(rows, "x,z,y"), tmp_path / "csv", **settings)
    content = {"x": numbers, "z": list(range(200)), "y": [n % 2 for n in range(200)]}
    pq.write_table(pa.table(content), tmp_path / "t.parquet")
    parquet = prepare_file(tmp_path / "t.parquet", tmp_path / "parquet", **settings)
    for done in (text, parquet):
        assert done.column("x")["missing"] == 20
        bodies = [json.dumps({"data": [[x, 3]]}).encode() for x in (-999, None)]
        one, other = (done.preprocessor.encode(parse_predict(body, done.preprocessor)) for body in bodies)
        assert one.tolist() == other.tolist()
    assert text.preprocessor.columns[0].mean == parquet.preprocessor.columns[0].mean


def test_dates_of_all_centuries(tmp_path: Path) -> None:
    dates = ["0001-01-01", "9999-12-31", "2026-11-29", "1600-02-29"]
    rows = [f"{dates[n % 4]},{n},{n % 2}" for n in range(80)]
    done = prepare_text(table(rows, "until,x,y"), tmp_path)
    column = done.preprocessor.columns[0]
    assert (column.kind, column.notation) == ("number", "date")
    assert np.ptp(np.concatenate([done.part(part).features[:, 0] for part in PARTS])) > 1


@pytest.mark.parametrize("missing", ["NA ", "  NA", "   ", " NA "])
def test_blanks_around_what_is_missing(tmp_path: Path, missing: str) -> None:
    rows = [f"{n / 7:.3f},{n % 2}" for n in range(300)]
    rows[10] = f"{missing},1"
    done = prepare_text(table(rows, "x,y"), tmp_path)
    assert (done.preprocessor.columns[0].kind, done.column("x")["missing"]) == ("number", 1)


def test_float32_is_served_as_it_was_trained(tmp_path: Path) -> None:
    values = (1.7e9 + np.linspace(-3000, 3000, 200)).astype(np.float32)
    content = {"x": values, "z": np.arange(200), "y": np.arange(200) % 2}
    pq.write_table(pa.table(content), tmp_path / "t.parquet")
    done = prepare_file(tmp_path / "t.parquet", tmp_path / "run")
    places = np.sort(done.part("test").source_rows)
    raw = raw_rows(done.run.data, places, done.preprocessor)
    assert raw is not None
    assert raw["x"].tolist() == values[places].astype(float).tolist()


def test_classes_of_decimals_are_told_apart(tmp_path: Path) -> None:
    labels = [Decimal(5), Decimal(2**53), Decimal(2**53 + 1)]
    column = pa.array([labels[n % 3] for n in range(90)], pa.decimal128(20, 0))
    pq.write_table(pa.table({"x": list(range(90)), "y": column}), tmp_path / "t.parquet")
    done = prepare_file(tmp_path / "t.parquet", tmp_path / "run")
    assert done.manifest["classes"] == [5, 2**53, 2**53 + 1]


def test_a_category_that_looks_like_a_vast_number(tmp_path: Path) -> None:
    names = ["4e12345678901234567890", "ab12", "77aa"]
    done = prepare_text(table([f"{names[n % 3]},{n},{n % 2}" for n in range(90)], "c,x,y"), tmp_path)
    assert done.preprocessor.columns[0].categories == sorted(names)


def test_an_empty_text_that_is_a_value_is_compared_as_features(tmp_path: Path) -> None:
    rows = [f"{['red', '', 'blue'][n % 3]},{n},{n % 2}" for n in range(90)]
    done = prepare_text(table(rows, "c,x,y"), tmp_path, missing_values=["NA"])
    assert raw_rows(done.run.data, done.part("test").source_rows, done.preprocessor) is None


def test_many_categories_take_little_memory_at_once(tmp_path: Path) -> None:
    """A block of narrow rows is encoded in portions: what is held at once does not grow with the number of features."""
    rows = [f"c{n % 300},{n},{n % 2}" for n in range(60_000)]
    tracemalloc.start()
    try:
        done = prepare_text(table(rows, "c,x,y"), tmp_path, max_categories=300, cleaned="none")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.preprocessor.width == 301
    assert peak < 100e6  # in one piece it would be 60,000 x 301 x 8 bytes, three times over
