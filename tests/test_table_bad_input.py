"""Bad tables: each is told with what was wrong, where, and what to do, and nothing is left half made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.data.table.inputs import find_files
from groundup.data.table.read import BLOCK_BYTES
from groundup.errors import UserError
from groundup.recipe.load import load
from tests.conftest import groundup
from tests.tables import prepare_file, prepare_text

GOOD = [f"{n},{n * n % 17},{n % 2}" for n in range(40)]
REALS = [f"{n},{n},{n * 0.37}" for n in range(40)]
NAMES = [f"{n},{n},user{n}" for n in range(12_000)]
QUOTED = ['1,"two\nlines",0', '2,"b",1', "3,c", "4,d,1"]
OPEN = [f'{n},"open,{n % 2}' if n in (10, 30) else f"{n},t{n % 5},{n % 2}" for n in range(60)]
MIXED = [f"{n},{'n/k' if n == 30 else n % 7},{n % 2}" for n in range(40)]


def text_of(rows: list[str], header: str = "a,b,y") -> str:
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        (text_of(GOOD), {"target": "yy"}, ["no column 'yy'", "Did you mean 'y'"]),
        (text_of(GOOD), {"ignore": ["aa"]}, ["no column 'aa'", "data.ignore"]),
        (text_of(GOOD), {"categories": ["zzz"]}, ["no column 'zzz'", "data.categories"]),
        (text_of(GOOD), {"columns": ["a", "y"]}, ["2 names", "3 columns"]),
        (text_of(GOOD, "a,a,y"), {}, ["same name", "'a'"]),
        (text_of([f"{n},,{n % 2}" for n in range(40)]), {}, ["no value", "'b'", "ignore"]),
        (text_of([*GOOD[:20], "1,inf,0", *GOOD[20:]]), {}, ["'b'", "infinite", "t.csv:22"]),
        (text_of([*GOOD[:5], "1,2", *GOOD[5:]]), {}, ["2 field(s)", "3 columns", "t.csv:7"]),
        (text_of([*QUOTED, *GOOD]), {}, ["2 field(s)", "t.csv:5"]),
        (text_of(OPEN), {}, ["t.csv:12"]),
        (text_of(NAMES), {}, ["more than 1,000 distinct", "regression"]),
        (text_of(REALS), {}, ["regression"]),
        (text_of([f"{n},{n},1" for n in range(9)]), {}, ["only one value", "1"]),
        (text_of(GOOD).replace(",", ";"), {"target": "y"}, ["only one column", "delimiter"]),
        (
            text_of([f"{n};{n},5;{n % 2}" for n in range(40)], "a;b;y"),
            {"delimiter": ";"},
            ["'b'", "'0,5'", "t.csv:2", 'data.decimal = ","'],
        ),
        (text_of(MIXED), {}, ["'b'", "'n/k'", "t.csv:32", "missing_values"]),
        (text_of([f"?,{n},{n % 2}" if n % 2 else f"{n},?,0" for n in range(20)]), {}, ["no row is left", "20"]),
        (text_of([f"{n},{n},NA" for n in range(20)]), {}, ["no row is left of 20", "choose another data.target"]),
        (text_of(GOOD), {"target": "Y"}, ["no column 'Y'", "Did you mean 'y'"]),
        ("a,b,y\n", {}, ["no rows"]),
        ("", {}, ["empty"]),
    ],
)
def test_it_is_told_in_words(tmp_path: Path, text: str, settings: dict[str, Any], words: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        prepare_file(path, tmp_path / "run", **settings)
    told = str(caught.value)
    for word in words:
        assert word in told, told
    assert not (tmp_path / "run" / "run" / "data").exists()


def test_what_mends_it(tmp_path: Path) -> None:
    infinite = text_of([*GOOD[:20], "1,inf,0", *GOOD[20:]])
    assert prepare_text(infinite, tmp_path / "1", infinite="missing").dropped()["missing_value"] == 1
    assert prepare_text(text_of(MIXED), tmp_path / "2", missing_values=["n/k"]).dropped()["missing_value"] == 1
    assert prepare_text(text_of(NAMES[:500]), tmp_path / "3", max_classes=500, stratify=False).manifest["classes"]
    empty = text_of([f"{n},,{n % 2}" for n in range(40)])
    assert prepare_text(empty, tmp_path / "4", ignore=["b"]).manifest["features"] == 1


def test_numbers_taken_for_categories_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{'-' if n % 10 == 3 else n % 7},{n % 2}" for n in range(100)]
    (warning,) = prepare_text(text_of(rows), tmp_path / "1").manifest["warnings"]
    assert "'b' is taken for categories, though 90 of its 100 values" in warning
    assert "'-'" in warning
    assert warning in capsys.readouterr().err
    assert not prepare_text(text_of(rows), tmp_path / "2", categories=["b"]).manifest["warnings"]
    mended = prepare_text(text_of(rows), tmp_path / "3", missing_values=["-"])
    assert mended.column("b")["kind"] == "number"
    assert mended.dropped()["missing_value"] == 10


def test_a_truth_value_of_another_spelling_far_in(tmp_path: Path) -> None:
    rows = [f"{n},{'x' * 1000},{n % 3 > 0},{n % 2}" for n in range(BLOCK_BYTES // 1000 + 500)]
    rows[-3] = f"9,{'x' * 1000},tRuE,1"
    done = prepare_text(text_of(rows, "a,pad,t,y"), tmp_path, cleaned="none")
    assert done.column("t")["kind"] == "category"
    assert done.manifest["rows"] == len(rows)


def test_a_class_with_one_row_goes_to_training_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = prepare_text(text_of([*GOOD, "5,5,rare"]), tmp_path)
    assert done.manifest["splits"]["train"]["classes"]["rare"] == 1
    assert any("rare" in warning for warning in done.manifest["warnings"])
    assert "rare" in capsys.readouterr().err


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text_of([f"{n},M\xfcller{n % 3},{n % 2}" for n in range(30)]).encode("latin-1"))
    with pytest.raises(UserError) as caught:
        prepare_file(path, tmp_path / "run")
    assert "utf-8" in str(caught.value).lower()
    assert prepare_file(path, tmp_path / "other", encoding="latin-1").manifest["rows"] == 30


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (['data.path="nowhere.csv"'], "nowhere.csv"),
        (['data.path="package:groundup/nothing.csv"'], "no such file"),
        (['data.path="package:no_such_package/x.csv"'], "no_such_package"),
        (["data.test_fraction=0.9", "data.validation_fraction=0.1"], "leave none to train on"),
        (["data.test_fracton=0.9"], "Did you mean 'test_fraction'"),
        (["model.layers=3"], "unknown key 'layers'"),
        (['train.duration="5 tokens"'], "a table has no tokens"),
        (["train.batch_rows=100"], "no multiple of micro_batch"),
        (['tune.search."optim.lrr"={low=1, high=2}'], "optim.lr"),
    ],
)
def test_the_command_line_tells_it_too(tmp_path: Path, settings: list[str], words: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text_of(GOOD))
    recipe = tmp_path / "t.toml"
    recipe.write_text('name = "t"\ntask = "classification"\n[data]\npath = "t.csv"\ntarget = "y"\n')
    done = groundup("prepare", recipe, "--run-dir", tmp_path / "run", *(w for s in settings for w in ("--set", s)))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_byte_order_that_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="utf-16-le") as error:
        prepare_text(text_of(GOOD).encode("utf-16-le"), tmp_path, encoding="utf-16")
    assert error.value.where == str(tmp_path / "table.csv")


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"ab", b"\xff\xfe", b"c"] * 20, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"c": bad, "x": list(range(60)), "y": [n % 2 for n in range(60)]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="UTF8") as error:
        prepare_file(tmp_path / "t.parquet", tmp_path / "run")
    assert str(tmp_path / "t.parquet") in str(error.value.where)


def test_a_url_is_no_place_for_a_table(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('task = "classification"\n[data]\npath = "memory://tables/t.csv"\ntarget = "y"\n')
    with fsspec.filesystem("memory").open("/tables/t.csv", "wb") as file:
        file.write(text_of(GOOD).encode())
    with pytest.raises(UserError, match="is no place for a table"):
        find_files(load(recipe))


def test_a_lost_data_file_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text_of(GOOD))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'name = "t"\ntask = "classification"\n[data]\npath = "{tmp_path / "t.csv"}"\ntarget = "y"\n')
    run = tmp_path / "run"
    for number in range(2):
        done = groundup("prepare", recipe, "--run-dir", run)
        assert done.returncode == 0, done.stderr
        assert (run / "data" / "train" / "features.npy").is_file(), number
        (run / "data" / "train" / "features.npy").unlink()
