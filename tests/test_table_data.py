"""Tables: what comes out of prepare, against plain computations on the same rows."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.table.hashing import Seen
from groundup.data.table.layout import Layout, TableFile
from groundup.data.table.preprocess import Column, Preprocessor
from groundup.data.table.read import BLOCK_BYTES, blocks
from groundup.data.table.split import split_rows
from groundup.data.table.statistics import Moments
from groundup.data.table.stream import TableStream
from groundup.errors import UserError
from groundup.recipe.table import TableData
from tests.tables import PARTS, csv_rows, prepare_file, prepare_text, table


def test_features_are_scaled_by_the_training_rows(tmp_path: Path) -> None:
    rows = csv_rows(200)
    done = prepare_text(table(rows), tmp_path)
    source = np.array([[float(x) for x in row.split(",")[:2]] for row in rows])
    train = done.part("train")
    mean, std = source[train.source_rows].mean(0), source[train.source_rows].std(0)
    for name in PARTS:
        part = done.part(name)
        expected = (source[part.source_rows] - mean) / std
        assert part.features.dtype == np.float32
        np.testing.assert_allclose(part.features, expected, rtol=1e-4, atol=1e-5)
        assert [int(rows[n].split(",")[2]) for n in part.source_rows] == part.labels.tolist()
    assert done.column("a")["min"] == source[train.source_rows, 0].min()
    assert {name: done.manifest["splits"][name]["rows"] for name in PARTS} == {
        "train": 140,
        "validation": 20,
        "test": 40,
    }
    assert sorted(done.parts_of_rows()) == list(range(200))


def test_encode_gives_what_is_in_the_files(tmp_path: Path) -> None:
    rows = [f"{n},{'abc'[n % 3]},{'true' if n % 5 else 'false'},{'yes' if n % 2 else 'no'}" for n in range(60)]
    done = prepare_text(table(rows, "n,c,t,y"), tmp_path)
    values = [row.split(",") for row in rows]
    columns: dict[str, Any] = {
        "n": np.array([float(v[0]) for v in values]),
        "c": np.array([v[1] for v in values], object),
        "t": np.array([v[2] for v in values], object),
    }
    pre = done.preprocessor
    encoded = pre.encode(columns)
    raw = pre.raw_features(columns)
    assert encoded.tobytes() == ((raw - pre.mean_F) / pre.scale_F).astype(np.float32).tobytes()
    for name in PARTS:
        part = done.part(name)
        assert part.features.tobytes() == encoded[part.source_rows].tobytes()
    assert pre.feature_names == ["n", "c=a", "c=b", "c=c", "t"]
    assert encoded[1, 1:4].tolist() == [0, 1, 0]
    assert done.manifest["classes"] == ["no", "yes"]
    assert Preprocessor.from_json(pre.to_json()).encode(columns).tobytes() == encoded.tobytes()


def test_unseen_categories(tmp_path: Path) -> None:
    rows = [f"{c},{n},{n % 2}" for n, c in enumerate("aaaabbbbcccc" * 10 + "de")]
    text = table(rows, "c,x,y")
    kept = prepare_text(text, tmp_path / "all", missing="impute").preprocessor
    assert not kept.columns[0].other
    assert not kept.encode({"c": np.array(["zzz"], object), "x": np.array([0.0])})[0, :-1].any()
    few = prepare_text(text, tmp_path / "few", max_categories=3, test_fraction=0, validation_fraction=0).preprocessor
    assert few.columns[0].categories == ["a", "b"]
    assert few.feature_names == ["c=a", "c=b", "c=(other)", "x"]
    encoded = few.encode({"c": np.array(["zzz", "d", "b"], object), "x": np.zeros(3)})
    assert encoded[:, :3].tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]


def test_blocks_of_parquet_are_bounded_by_bytes(tmp_path: Path) -> None:
    data = TableData(path="", target="y")
    long = [chr(97 + n % 26) * 2000 for n in range(20_000)]  # repeats: small in the file
    uneven = ["x" * (10 if n < 19_000 else 20_000) for n in range(20_000)]
    for name, texts in (("long", long), ("uneven", uneven)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"t": texts, "y": [n % 2 for n in range(20_000)]}), path)
        layout = Layout([TableFile(path, path.name, "parquet")], ["t", "y"], "y", [], ["t"])
        sizes = [(b.batch.num_rows, b.batch.nbytes) for b in blocks(layout, data, {}, ["t", "y"])]
        assert sum(rows for rows, _ in sizes) == 20_000
        assert max(size for _, size in sizes) <= BLOCK_BYTES


def test_missing_values_dropped(tmp_path: Path) -> None:
    rows = [*csv_rows(40), "NA,1,0", "1, ?,1", "2,3,", ",4,0"]
    done = prepare_text(table(rows), tmp_path)
    assert done.manifest["rows"] == 40
    assert done.dropped() == {"missing_value": 3, "no_target": 1}
    assert done.column("a")["missing"] == 2
    with pytest.raises(UserError, match="missing"):
        done.preprocessor.encode({"a": np.array([np.nan]), "b": np.array([1.0])})


def test_missing_values_imputed(tmp_path: Path) -> None:
    values = [(float(n), "pq"[n % 3 == 0], n % 2) for n in range(60)]
    rows = [f"{'' if n % 7 == 0 else x},{'' if n % 11 == 0 else c},{y}" for n, (x, c, y) in enumerate(values)]
    done = prepare_text(table([*rows, "1,p,"], "x,c,y"), tmp_path, missing="impute", deduplicate=False)
    assert done.dropped() == {"no_target": 1}
    train = done.part("train")
    known = np.array([values[n][0] for n in train.source_rows if n % 7])
    mean = known.mean()
    std = np.sqrt(((known - mean) ** 2).sum() / len(train))
    column = done.preprocessor.columns[0]
    assert column.mean == pytest.approx(mean)
    assert column.scale == pytest.approx(std)
    assert done.preprocessor.columns[1].fill == "p"
    at = {int(row): k for k, row in enumerate(train.source_rows)}
    gap = next(n for n in at if n % 7 == 0)
    assert train.features[at[gap], 0] == pytest.approx(0.0, abs=1e-6)
    assert train.features[:, 0].std() == pytest.approx(1.0, abs=1e-5)
    encoded = done.preprocessor.encode({"x": np.array([np.nan]), "c": np.array([None], object)})
    assert encoded[0, 1:].tolist() == [1.0, 0.0]


def test_infinite_values_as_missing(tmp_path: Path) -> None:
    rows = [*csv_rows(30), "inf,1,0", "1,-Infinity,1"]
    done = prepare_text(table(rows), tmp_path, infinite="missing")
    assert done.dropped() == {"missing_value": 2}
    filled = prepare_text(table(rows), tmp_path / "filled", infinite="missing", missing="impute")
    assert filled.manifest["rows"] == 32
    assert filled.cleaned[-2:] == [",1,0", "1,,1"]
    encoded = filled.preprocessor.encode({"a": np.array([np.inf]), "b": np.array([0.0])})
    assert encoded[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_duplicates(tmp_path: Path) -> None:
    rows = csv_rows(30)
    # The same features with another target are no duplicate; -0 is 0.
    more = [rows[3], rows[3], rows[4].rsplit(",", 1)[0] + ",1", "0,1,0", "-0.0,1.0,0"]
    assert more[2] != rows[4]
    done = prepare_text(table(rows + more), tmp_path)
    assert done.dropped() == {"exact_duplicate": 3}
    assert sorted(done.parts_of_rows()) == [*range(30), 32, 33]
    assert len(done.cleaned) == 33
    everything = prepare_text(table(rows + more), tmp_path / "all", deduplicate=False)
    parts = everything.parts_of_rows()
    assert len(parts) == 35
    assert parts[3] == parts[30] == parts[31]
    assert parts[33] == parts[34]


def test_ignored_columns_count_for_nothing_but_stay_in_the_cleaned_table(tmp_path: Path) -> None:
    rows = [f"{n},00{n},{'x' if n else ''},{n % 2}" for n in range(20)]
    done = prepare_text(table([*rows, "3,other,,1"], "a,id,note,y"), tmp_path, ignore=["id", "note"])
    assert done.preprocessor.feature_names == ["a"]
    assert done.preprocessor.ignored == ["id", "note"]
    assert done.dropped() == {"exact_duplicate": 1}
    assert done.cleaned == ["a,id,note,y", *rows]


def test_cleaned_table_reads_back_with_quotes_and_line_ends(tmp_path: Path) -> None:
    texts = ["plain", 'a "quoted" word', "two\nlines", "comma, inside", "ünï"]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["x", "text", "y"])
    for n in range(40):
        writer.writerow([n + 0.5, texts[n % 5], "no, never" if n % 2 else "yes"])
    done = prepare_text(out.getvalue(), tmp_path)
    with (done.run.data / "cleaned.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[1:] == [[str(n + 0.5), texts[n % 5], "no, never" if n % 2 else "yes"] for n in range(40)]
    assert done.manifest["classes"] == ["no, never", "yes"]
    assert prepare_text(table(csv_rows(30)), tmp_path / "none", cleaned="none").manifest["rows"] == 30
    assert not (tmp_path / "none" / "run" / "data" / "cleaned.csv").exists()


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["2", "10"], [2, 10]),
        (["True", "false"], [False, True]),
        (["1.0", "2.0"], [1.0, 2.0]),
        (["1.0", "1", "2"], [1.0, 2.0]),
        (["01", "2"], ["01", "2"]),
        ([" a", "b "], ["a", "b"]),
        (["1", "x"], ["1", "x"]),
    ],
)
def test_labels_keep_their_type(tmp_path: Path, texts: list[str], labels: list[Any]) -> None:
    done = prepare_text(table([f"{n},{texts[n % len(texts)]}" for n in range(40)], "x,y"), tmp_path)
    assert done.manifest["classes"] == labels
    assert [type(label) for label in done.preprocessor.classes] == [type(label) for label in labels]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    n = 60
    day = datetime.datetime(2024, 1, 1)
    content = {
        "i": pa.array([None if k == 5 else k for k in range(n)]),
        "f": pa.array([k / 7 for k in range(n)], pa.float32()),
        "b": pa.array([k % 3 == 0 for k in range(n)]),
        "when": pa.array([day + datetime.timedelta(hours=k) for k in range(n)], pa.timestamp("us")),
        "c": pa.array([f"c{k % 4}" for k in range(n)]).dictionary_encode(),
        "list": pa.array([[k] for k in range(n)]),
        "y": pa.array([f"{k % 2}" for k in range(n)]),
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(content), path, row_group_size=7)
    done = prepare_file(path, tmp_path, ignore=["list"])
    assert done.manifest["classes"] == ["0", "1"]
    assert done.manifest["rows"] == n - 1
    kinds = {entry["name"]: entry["kind"] for entry in done.manifest["columns"]}
    assert kinds == {"i": "number", "f": "number", "b": "boolean", "when": "number", "c": "category"}
    rows = done.part("train").source_rows
    start = day.replace(tzinfo=datetime.UTC).timestamp()
    assert done.column("when")["min"] == start + 3600 * rows.min()
    # Null rows are dropped, and the numbers of the rows that follow are still the source's.
    assert sorted(done.parts_of_rows()) == [k for k in range(n) if k != 5]
    integers = pa.table(content | {"y": pa.array([k % 3 for k in range(n)])})
    pq.write_table(integers, path)
    assert prepare_file(path, tmp_path, ignore=["list"]).manifest["classes"] == [0, 1, 2]


def test_files_without_header_compressed_and_several(tmp_path: Path) -> None:
    rows = csv_rows(60)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text("about this file\n" + "\n".join(rows[:30]) + "\n")
    (folder / "2.csv.gz").write_bytes(gzip.compress(("about\n" + "\n".join(rows[30:]) + "\n").encode()))
    done = prepare_file(folder, tmp_path, target="column_2", header=False, skip_lines=1)
    assert done.manifest["rows"] == 60
    whole = prepare_text(table(rows), tmp_path / "whole")
    assert done.parts_of_rows() == whole.parts_of_rows()
    # Blocks of other rows round the mean of values around 1e9 otherwise.
    np.testing.assert_allclose(done.part("train").features, whole.part("train").features, atol=1e-5)
    named = prepare_file(folder, tmp_path / "n", target="z", header=False, skip_lines=1, columns=["p", "q", "z"])
    assert named.preprocessor.feature_names == ["p", "q"]


def test_delimiter_encoding_and_byte_order_mark(tmp_path: Path) -> None:
    rows = [f"{n};{'größe' if n % 3 else 'maß'};{n % 2}" for n in range(40)]
    done = prepare_text(table(rows, "a;c;y").encode("cp1252"), tmp_path, delimiter=";", encoding="cp1252")
    assert done.preprocessor.columns[1].categories == ["größe", "maß"]
    marked = prepare_text(b"\xef\xbb\xbf" + table(csv_rows(30)).encode(), tmp_path / "bom")
    assert marked.preprocessor.feature_names == ["a", "b"]
    content = "\ufeff" + table(csv_rows(30)).partition("\n")[2]
    for encoding in ("utf-16-le", "utf-16-be"):
        named = prepare_text(("\ufeff" + table(csv_rows(30))).encode(encoding), tmp_path / encoding, encoding=encoding)
        assert named.preprocessor.feature_names == ["a", "b"]
        options = {"encoding": encoding, "header": False, "columns": ["a", "b", "y"]}
        bare = prepare_text(content.encode(encoding), tmp_path / f"{encoding}-bare", **options)
        assert bare.manifest["columns"] == named.manifest["columns"]


def test_a_column_that_changes_its_kind_after_the_first_block(tmp_path: Path) -> None:
    pad = "x" * 200
    count = BLOCK_BYTES // 200 + 1000
    rows = [f"{n},{n % 97},true,{pad},{n % 2}" for n in range(count)]
    rows += [f"{n}.5,{n % 97},red,{pad},{n % 2}" for n in range(count, count + 200)]
    # The numbers are all different, so that the rows are; the padding is a constant category.
    done = prepare_text(table(rows, "f,i,c,pad,y"), tmp_path)
    kinds = {entry["name"]: entry["kind"] for entry in done.manifest["columns"]}
    assert kinds == {"f": "number", "i": "number", "c": "category", "pad": "category"}
    assert done.manifest["rows"] == len(rows)
    assert done.cleaned[1:] == rows
    assert done.preprocessor.columns[2].categories == ["red", "true"]


def test_same_input_same_files(tmp_path: Path) -> None:
    text = table(csv_rows(300, classes=3))
    first, second = (prepare_text(text, tmp_path / d) for d in "ab")
    assert first.manifest["fingerprint"] == second.manifest["fingerprint"]
    assert first.manifest["files"] == second.manifest["files"]
    for name, entry in first.manifest["files"].items():
        content = (first.run.data / name).read_bytes()
        assert content == (second.run.data / name).read_bytes()
        assert len(content) == entry["bytes"]
    other = prepare_text(text, tmp_path / "c", seed=43)
    assert other.parts_of_rows() != first.parts_of_rows()


def test_the_split_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = csv_rows(200, classes=3)
    forward, backward = prepare_text(table(rows), tmp_path), prepare_text(table(rows[::-1]), tmp_path / "b")
    turned = {199 - row: part for row, part in backward.parts_of_rows().items()}
    assert turned == forward.parts_of_rows()


def test_stratified_by_class_and_scarce_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{'common' if n % 10 else 'rare'}" for n in range(200)] + ["-1,single", "-2,pair", "-3,pair"]
    done = prepare_text(table(rows, "x,y"), tmp_path)
    splits = done.manifest["splits"]
    assert {name: splits[name]["classes"]["rare"] for name in PARTS} == {"train": 14, "validation": 2, "test": 4}
    assert splits["train"]["classes"]["single"] == 1
    assert splits["train"]["classes"]["pair"] == 2
    assert "'single' (1)" in done.manifest["warnings"][0]
    assert "'single' (1)" in capsys.readouterr().err
    assert splits["test"]["rows"] == 41


def test_constant_and_twin_columns(tmp_path: Path) -> None:
    rows = [f"{n / 10},{n / 10},0.1,s{n % 3},s{n % 3},{n % 2}" for n in range(500)]
    done = prepare_text(table(rows, "a,copy,same,c,d,y"), tmp_path)
    assert done.column("same")["constant"]
    assert done.column("same")["std"] == 0
    assert (done.preprocessor.columns[2].scale, done.preprocessor.columns[2].mean) == (1.0, 0.1)
    assert not done.part("train").features[:, 2].any()
    warnings = "\n".join(done.manifest["warnings"])
    assert "same value in all training rows: 'same'" in warnings
    assert "equal content: 'a', 'copy'" in warnings
    assert "equal content: 'c', 'd'" in warnings


def test_no_scaling(tmp_path: Path) -> None:
    rows = [f"{n},{n % 2}" for n in range(30)]
    done = prepare_text(table(rows, "x,y"), tmp_path, scale="none", validation_fraction=0)
    train = done.part("train")
    assert train.features[:, 0].tolist() == train.source_rows.tolist()
    assert not len(done.part("validation"))


def test_stream_is_every_row_once_an_epoch_whatever_the_batches(tmp_path: Path) -> None:
    done = prepare_text(table(csv_rows(100)), tmp_path)
    split = done.part("train")
    stream, other = TableStream(split, 1), TableStream(split, 1)
    whole = stream.samples(0, 210)
    pieces = [other.samples(a, min(a + 32, 210)) for a in range(0, 210, 32)]
    assert torch.equal(whole.features_BF, torch.cat([p.features_BF for p in pieces]))
    assert torch.equal(whole.positions_B, torch.arange(210))
    order = stream.locate(0, 140)
    assert sorted(order[:70].tolist()) == sorted(order[70:].tolist()) == list(range(70))
    assert order[:70].tolist() != order[70:].tolist()
    assert torch.equal(whole.features_BF, torch.from_numpy(split.features[stream.locate(0, 210)]))
    assert torch.equal(whole.labels_B, torch.from_numpy(split.labels[stream.locate(0, 210)]))
    assert TableStream(split, 2).locate(0, 70).tolist() != order[:70].tolist()
    in_order = stream.in_order(60, 80)
    assert len(in_order) == 10
    assert in_order.counted == 10
    assert torch.equal(in_order.features_BF, torch.from_numpy(split.features[60:70].copy()))
    rows = whole.rows(5, 9)
    assert torch.equal(rows.positions_B, torch.arange(5, 9))
    assert torch.equal(rows.features_BF, whole.features_BF[5:9])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    done = prepare_text(table(csv_rows(30)), tmp_path)
    labels = done.run.data / "train" / "labels.npy"
    np.save(labels, np.load(labels)[:-1])
    with pytest.raises(UserError, match="differ in length"):
        done.part("train")
    labels.unlink()
    with pytest.raises(UserError, match=r"labels\.npy"):
        done.part("train")
    (done.run.data / "preprocess.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        done.preprocessor  # noqa: B018


def test_encoding_names_column_and_row() -> None:
    pre = Preprocessor([Column("x", "number"), Column("t", "boolean")], "y", [0, 1])
    good = {"x": np.array([1.0, 2.0]), "t": np.array(["true", False], object)}
    assert pre.encode(good).tolist() == [[1, 1], [2, 0]]
    with pytest.raises(UserError, match="column 'x', row 1: the value is infinite"):
        pre.encode(good | {"x": np.array([1.0, np.inf])})
    with pytest.raises(UserError, match="column 't', row 0: 'maybe' is no truth value"):
        pre.encode(good | {"t": np.array(["maybe", "true"], object)})
    with pytest.raises(UserError, match="column 't', row 1: the value is missing"):
        pre.encode(good | {"t": np.array(["true", None], object)})


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), min_size=1, max_size=20), min_size=1, max_size=8),
    st.sampled_from([0.0, 1e9]),
)
def test_moments_merge_to_those_of_all_values(blocks: list[list[float]], offset: float) -> None:
    moments = Moments(1)
    for block in blocks:
        moments.add(np.array(block)[:, None] + offset)
    values = np.concatenate([np.array(b) for b in blocks]) + offset
    known = values[~np.isnan(values)]
    assert moments.count_N[0] == len(known)
    if len(known):
        mean, std = moments.finish(filled=False)
        assert mean[0] == pytest.approx(known.mean(), rel=1e-12, abs=1e-9)
        # The two-pass deviations of the same doubles.
        assert std[0] == pytest.approx(known.std(), rel=1e-6, abs=1e-6)
        assert (moments.min_N[0], moments.max_N[0]) == (known.min(), known.max())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30), max_size=12))
def test_seen_rows_as_a_set_would_tell(batches: list[list[tuple[int, int]]]) -> None:
    seen, known = Seen(), set()
    for batch in batches:
        expected = [row not in known and not known.add(row) for row in batch]  # type: ignore[func-returns-value]
        pairs = np.array(batch, np.uint64).reshape(-1, 2)
        assert seen.new(pairs[:, 0].copy(), pairs[:, 1].copy()).tolist() == expected


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1, max_size=200),
    st.sampled_from([0.0, 0.1, 0.25, 0.4]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.booleans(),
)
def test_split_properties(rows: list[tuple[int, int]], test: float, validation: float, stratify: bool) -> None:
    data = TableData(path="", target="", test_fraction=test, validation_fraction=validation, stratify=stratify)
    classes = np.array([c for c, _ in rows], np.int32)
    keys = np.array([k * 8 + c for c, k in rows], np.uint64)
    split = split_rows(classes, keys, 5, data)
    for key in np.unique(keys):
        assert len(np.unique(split.part[keys == key])) == 1
    wanted = [n for n, fraction in ((1, validation), (2, test)) if fraction]
    enough = [c for c in np.unique(classes) if c not in split.scarce]
    plentiful = all(int(len(rows) * fraction + 0.5) >= len(enough) for fraction in (test, validation) if fraction)
    for c in np.unique(classes) if stratify else []:
        parts = set(split.part[classes == c].tolist())
        assert parts == ({0} if c in split.scarce else {0, *wanted}) or (0 in parts and not plentiful)
    distinct = len(np.unique(keys)) == len(keys)
    plenty = np.bincount(classes, minlength=5)[np.unique(classes)].min() >= 20
    if distinct and (plenty or (not stratify and len(rows) >= 20)):
        assert (split.part == 2).sum() == int(len(rows) * test + 0.5)
        assert (split.part == 1).sum() == int(len(rows) * validation + 0.5)


def test_many_small_classes_keep_the_parts_sizes(tmp_path: Path) -> None:
    done = prepare_text(table([f"{n},{n // 3}" for n in range(900)], "x,y"), tmp_path)
    splits = done.manifest["splits"]
    assert [splits[name]["rows"] for name in PARTS] == [630, 90, 180]
    assert min(splits["train"]["classes"].values()) >= 1
    assert [w.split(":")[0] for w in done.manifest["warnings"]] == [
        "classes without a validation row",
        "classes without a test row",
    ]


def test_split_is_exact_at_size() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(7, 10_007, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.04, 0.01]).astype(np.int32)
    keys = rng.integers(0, 2**63, len(classes)).astype(np.uint64)
    split = split_rows(classes, keys, 7, TableData(path="", target=""))
    assert np.bincount(split.part).tolist() == [7005, 1001, 2001]
    for c in range(7):
        of = np.bincount(split.part[classes == c]) / (classes == c).sum()
        np.testing.assert_allclose(of, [0.7, 0.1, 0.2], atol=2 / (classes == c).sum() + 1e-9)
