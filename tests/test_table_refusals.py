"""Tables that can't be used, where the place is hard to find or the trouble comes late: large files, quotes, Parquet,
compression, a full disk."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.data.table.read import BLOCK_BYTES
from groundup.errors import UserError
from tests.tables import csv_rows, prepare_file, prepare_text, table

GOOD = csv_rows(30)


def refused(text: str | bytes, folder: Path, **settings: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        prepare_text(text, folder, **settings)
    return caught.value


def test_no_target_because_the_first_line_is_data(tmp_path: Path) -> None:
    assert "data.header = false" in refused("\n".join(GOOD) + "\n", tmp_path).advice


def test_wrong_delimiter_offers_the_likely_one(tmp_path: Path) -> None:
    assert "data.delimiter = ';'" in refused(table(GOOD).replace(",", ";"), tmp_path).advice


def test_files_of_another_name_or_kind(tmp_path: Path) -> None:
    (tmp_path / "iris.csv").write_text(table(GOOD))
    with pytest.raises(UserError, match=r"Did you mean .*iris\.csv"):
        prepare_file(tmp_path / "irs.csv", tmp_path)
    assert "no table" in str(refused("text", tmp_path, name="notes.txt"))


@pytest.mark.parametrize("text", ["a,b,y\n", "a,b,y", "\n\n"])
def test_no_rows(tmp_path: Path, text: str) -> None:
    assert "no rows" in str(refused(text, tmp_path))


def test_parquet_without_rows_or_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}), path)
    with pytest.raises(UserError, match="no rows"):
        prepare_file(path, tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="can't be read as Parquet"):
        prepare_file(path, tmp_path)


def test_parquet_columns_that_are_no_features(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [[1], [2]], "y": [0, 1]}), path)
    with pytest.raises(UserError, match="column 'a' holds list") as caught:
        prepare_file(path, tmp_path)
    assert "data.ignore" in caught.value.advice


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0, float("inf")], "y": [0, 1]}), path)
    with pytest.raises(UserError, match=r"t\.parquet, row 2"):
        prepare_file(path, tmp_path)
    pq.write_table(pa.table({"x": [1, 2, 3], "y": [0.0, 0.25, 1.0]}), path)
    with pytest.raises(UserError, match=r"fractions such as 0\.25"):
        prepare_file(path, tmp_path)


def test_a_ragged_row_after_quoted_line_ends(tmp_path: Path) -> None:
    rows = ['1,"two\nlines",0', '2,"three\n\nlines",1', "", "3,fine,0", "4,5", "5,fine,1"]
    error = refused(table(rows, "a,t,y"), tmp_path)
    assert "2 field(s), but there are 3 columns" in str(error)
    assert error.where == f"{tmp_path / 'table.csv'}:9"


def test_a_ragged_row_far_in(tmp_path: Path) -> None:
    rows = [f"{n},{'x' * 1000},{n % 2}" for n in range(BLOCK_BYTES // 1000 + 500)]
    rows.insert(-10, "1,2,3,4")
    assert refused(table(rows), tmp_path).where.endswith(f":{len(rows) - 10 + 1}")


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    rows = [f"{n},t{n},{n % 2}" for n in range(30)]
    rows[20] = '20,"open,1'
    assert refused(table(rows), tmp_path).where == f"{tmp_path / 'table.csv'}:22"


def test_a_quote_that_is_never_closed_before_a_block_of_rows(tmp_path: Path) -> None:
    rows = [f"{n},{'x' * 1000},{n % 2}" for n in range(3 * BLOCK_BYTES // 1000)]
    rows[20] = '20,"open,1'
    assert refused(table(rows), tmp_path).where == f"{tmp_path / 'table.csv'}:22"


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    rows = [*(f"{n},caf,{n % 2}" for n in range(20)), "20,café,1"]
    error = refused(table(rows, "a,c,y").encode("latin-1"), tmp_path)
    assert "0xe9" in str(error)
    assert error.where == f"{tmp_path / 'table.csv'}:22"
    assert "latin-1" in error.advice
    assert "not utf-8" in str(refused("a,größe,y\n1,2,3\n".encode("latin-1"), tmp_path / "header"))
    assert "no text encoding" in str(refused(table(GOOD), tmp_path / "name", encoding="latin-one"))


def test_damaged_compression(tmp_path: Path) -> None:
    whole = gzip.compress(table(csv_rows(5000)).encode())
    assert "damaged" in str(refused(whole[: len(whole) // 2], tmp_path, name="t.csv.gz"))


def test_text_in_a_column_of_numbers_far_in(tmp_path: Path) -> None:
    rows = [f"{n},{'x' * 1000},{n % 2}" for n in range(BLOCK_BYTES // 1000 + 500)]
    rows[-3] = f"oops,{'x' * 1000},1"
    error = refused(table(rows), tmp_path)
    assert "column 'a' holds the text 'oops'" in str(error)
    assert error.where.endswith(f":{len(rows) - 1}")
    assert "data.missing_values" in error.advice
    assert "data.categories" in error.advice


def test_infinite_value_after_a_blank_line(tmp_path: Path) -> None:
    error = refused(table([*GOOD[:10], "", "1,-inf,0", *GOOD[10:]]), tmp_path)
    assert error.where == f"{tmp_path / 'table.csv'}:13"
    assert 'data.infinite = "missing"' in error.advice


def test_files_that_disagree(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text(table(GOOD))
    (folder / "2.csv").write_text(table(GOOD, "a,c,y"))
    with pytest.raises(UserError, match=r"its column 2 is 'c', in 1\.csv it is 'b'"):
        prepare_file(folder, tmp_path)
    pq.write_table(pa.table({"a": [1]}), folder / "2.parquet")
    with pytest.raises(UserError, match="mixed"):
        prepare_file(folder, tmp_path)


def test_a_fractional_target_of_few_values(tmp_path: Path) -> None:
    error = refused(table([f"{n},{n % 3}.5" for n in range(30)], "x,y"), tmp_path)
    assert "fractions such as 0.5. Is this a regression?" in str(error)


def test_too_few_rows_for_the_parts(tmp_path: Path) -> None:
    assert "validation part is empty" in str(refused(table(["1,0", "2,1"], "x,y"), tmp_path))


def test_values_too_large(tmp_path: Path) -> None:
    rows = [f"{n}e300,{n % 2}" for n in range(1, 31)]
    assert "too large to scale" in str(refused(table(rows, "x,y"), tmp_path))
    large = [row.replace("e300", "e100") for row in rows]
    assert "32 bits can't hold" in str(refused(table(large, "x,y"), tmp_path / "n", scale="none"))


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: the system refuses the write in the same way."""
    rows = [f"{n},{n * 7},{n % 2}" for n in range(100_000)]
    (tmp_path / "t.csv").write_text(table(rows))
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "t"\ntask = "classification"\n[data]\npath = "t.csv"\ntarget = "y"\n')

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "groundup", "prepare", recipe, "--run-dir", tmp_path / "run"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "COLUMNS": "500"},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "no room" in done.stderr
    assert not (tmp_path / "run" / "data.partial").exists()
    assert not (tmp_path / "run" / "data").exists()


def test_a_failure_leaves_the_old_data(tmp_path: Path) -> None:
    done = prepare_text(table(GOOD), tmp_path)
    before = (done.run.data / "manifest.json").read_bytes()
    refused(table([*GOOD, "1,2"]), tmp_path)
    assert (done.run.data / "manifest.json").read_bytes() == before
    assert len(done.part("train")) == 21
    assert not (done.run.path / "data.partial").exists()
