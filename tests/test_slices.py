"""Slices: whatever their size, the same documents with the same numbers and places."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.data.read.malformed import Malformed
from groundup.data.read.slices import DOCUMENTS, Slice, read_slice, slice_files
from groundup.data.read.sources import SourceFile
from groundup.errors import UserError
from groundup.recipe.language import Source
from tests.reading import csv_bytes, documents_of, jsonl, parquet_bytes, read_documents, store

TEXTS = [f"text {i} " + "é\n\r\n中" * (i % 7) for i in range(60)]


def rows_of(slices: list[Slice], source: Source, malformed: Malformed | None = None) -> list[dict[str, Any]]:
    """All rows, with each slice sent through JSON first."""
    rows = []
    for one in slices:
        again = Slice.from_dict(json.loads(json.dumps(one.as_dict())))
        assert again == one
        told: list[int] = []
        for batch in read_slice(again, source, malformed if malformed is not None else Malformed(), told.append):
            assert batch.schema == DOCUMENTS
            batch.validate(full=True)
            rows += batch.to_pylist()
        assert sum(told) == one.bytes
    return rows


def files_in(folder: Path) -> list[SourceFile]:
    return [SourceFile(path, path.name, "src") for path in sorted(folder.iterdir())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in [
        ("a.jsonl", b"\n  \n" + jsonl(TEXTS).replace(b"\n", b"\n\n", 3) + b"not JSON\n" + jsonl(["last"]).rstrip()),
        ("b.jsonl.gz", jsonl(TEXTS)),
        ("c.jsonl", b"\xef\xbb\xbf" + jsonl(TEXTS)),
        ("d.csv", csv_bytes(TEXTS)),
        ("e.parquet", parquet_bytes(TEXTS)),
        ("f.txt", "one\r\n--\r\ntwo é\r\n--\r\n--\r\nthree".encode()),
        ("g.jsonl.zst", jsonl(TEXTS)),
        ("h.jsonl", b""),
    ]:
        store(tmp_path / name, content)
    return tmp_path


def test_the_same_documents_whatever_the_size(folder: Path) -> None:
    source, files = Source(path=str(folder), split_on="--\n"), files_in(folder)
    malformed = Malformed()
    whole = [d for file in files for d in read_documents(file, source, malformed)]
    expected = [(f"src/{d.file}#{d.record}", "src", d.file, d.record, d.offset, d.text) for d in whole]
    assert (malformed.count, malformed.total) == (1, 60 * 6 + 5)
    counts = []
    for size in (1, 50, 333, 1000, 5000, 10**9):
        slices = slice_files(files, source, size)
        counts.append(len(slices))
        seen = Malformed()
        assert [tuple(row.values()) for row in rows_of(slices, source, seen)] == expected
        assert (seen.count, seen.total, seen.first) == (malformed.count, malformed.total, malformed.first)
    assert counts[-1] == 1
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 100


def test_slices_are_of_about_the_size(tmp_path: Path) -> None:
    store(tmp_path / "a.jsonl", jsonl(["x" * 80] * 10_000))
    for n in range(30):
        store(tmp_path / f"b{n}.txt", b"x" * 10_000)
    pq.write_table(pa.table({"text": ["x" * 100] * 10_000}), tmp_path / "c.parquet", row_group_size=500)
    slices = slice_files(files_in(tmp_path), Source(path=str(tmp_path)), 100_000)
    # A slice of Parquet weighs what its text does, which here compresses well.
    sizes = [one.bytes for one in slices if one.parts[0].part.file.name != "c.parquet"]
    assert all(60_000 <= size <= 150_000 for size in sizes[:-1])
    assert 11 <= len(sizes) <= 14


@settings(deadline=None, max_examples=200)
@example(lines=["\n", "  \n", '{"text": "a"}\n', "\x0b\n", '{"text": "b"}'], size=1)
@given(
    lines=st.lists(
        st.one_of(
            st.sampled_from(["\n", " \t\n", "\r\n", "{}\n", "oops\n"]),
            st.text(max_size=90).map(lambda text: json.dumps({"text": text}) + "\n"),
        ),
        max_size=20,
    ),
    size=st.integers(1, 400),
)
def test_lines_are_cut_anywhere(lines: list[str], size: int) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "a.jsonl"
        path.write_bytes(b'{"text": "first"}\n' + "".join(lines).encode())
        source, file = Source(path=name), SourceFile(path, path.name, "src")
        expected, seen = Malformed(), Malformed()
        whole = [(d.record, d.offset, d.text) for d in read_documents(file, source, expected)]
        rows = rows_of(slice_files([file], source, size), source, seen)
        assert [(row["record"], row["offset"], row["text"]) for row in rows] == whole
        assert (seen.count, seen.total, seen.first) == (expected.count, expected.total, expected.first)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "cp932"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_offsets_tell_where_records_begin(tmp_path: Path, encoding: str, suffix: str) -> None:
    text = "caf\xe9" if encoding == "latin-1" else "日本" if encoding == "cp932" else "é中\U0001f600"
    lines = "".join(json.dumps({"text": text * n}, ensure_ascii=False) + "\n" * (1 + n % 2) for n in range(9))
    encoded = lines.encode(encoding)
    mark = {"utf-8-sig": 3, "utf-16": 2}.get(encoding, 0)
    name = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(encoding, encoding)
    option = {"encoding": "utf-8" if encoding == "utf-8-sig" else encoding}
    for n, document in enumerate(documents_of(store(tmp_path / f"a.jsonl{suffix}", encoded), **option)):
        assert encoded[document.offset :].decode(name).startswith(f'{{"text": "{text * n}"}}')
    table = (
        f'text,n\n"{text}\r\nmore",1\n\nx\xe9,2\n' if encoding != "cp932" else f'text,n\n"{text}\r\nmore",1\n\nx,2\n'
    )
    encoded = table.encode(encoding)
    starts = [
        encoded[d.offset :].decode(name)[:2]
        for d in documents_of(store(tmp_path / f"a.csv{suffix}", encoded), **option)
    ]
    assert starts == [f'"{text[0]}', table[table.index("x,") if encoding == "cp932" else table.index("x\xe9") :][:2]]
    pieces = f"{text}\r\n--\r\n\r\nsecond\r--\nthird{text}--\n--\nend"
    encoded = pieces.encode(encoding)
    found = documents_of(store(tmp_path / f"a.txt{suffix}", encoded), split_on="--\n", **option)
    assert [d.text for d in found] == [f"{text}\n", "\nsecond\n", f"third{text}", "end"]
    places = [
        mark + len(pieces[:at].encode(name))
        for at in (0, pieces.index("\r\n\r\ns") + 2, pieces.index("third"), pieces.index("end"))
    ]
    assert [d.offset for d in found] == places


def test_carriage_returns_at_the_border_of_chunks(tmp_path: Path) -> None:
    text = "a" * ((1 << 20) - 1) + "\r\n--\r\nb\r\n" * 3
    path = store(tmp_path / "a.txt", text.encode())
    found = documents_of(path, split_on="--\n")
    assert [d.text for d in found] == [text[: (1 << 20) - 1] + "\n", "b\n\n", "b\n\n", "b\n"]
    assert all(text[d.offset :].startswith(d.text[:1]) for d in found)
    assert [d.offset for d in found[1:]] == [(1 << 20) + 5, (1 << 20) + 14, (1 << 20) + 23]


def test_nulls_and_broken_strings_in_parquet(tmp_path: Path) -> None:
    bad = pa.array([b"one", None, b"\xff\xfe", "zwölf".encode()] * 5).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet", row_group_size=7)
    malformed = Malformed()
    source = Source(path=str(tmp_path))
    slices = slice_files(files_in(tmp_path), source, 1)
    assert len(slices) == 3
    rows = rows_of(slices, source, malformed)
    assert [(row["record"], row["offset"]) for row in rows] == [(n, n) for n in range(20) if n % 4 in (0, 3)]
    assert {row["text"] for row in rows} == {"one", "zwölf"}
    assert (malformed.count, malformed.total) == (10, 20)


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    path = store(tmp_path / "a.jsonl", jsonl(TEXTS))
    source = Source(path=str(path))
    slices = slice_files(files_in(tmp_path), source, 500)
    path.write_bytes(jsonl(TEXTS) + b"\n")
    with pytest.raises(UserError, match="has changed"):
        list(read_slice(slices[0], source, Malformed()))
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        list(read_slice(slices[0], source, Malformed()))


def test_a_missing_field_is_told_of_a_cut_file(tmp_path: Path) -> None:
    path = store(tmp_path / "a.jsonl", jsonl(TEXTS))
    source = Source(path=str(path), text_field="body")
    with pytest.raises(UserError, match="'body' isn't there"):
        rows_of(slice_files(files_in(tmp_path), source, 500), source)


def test_batches_are_of_a_few_megabytes(tmp_path: Path) -> None:
    path = store(tmp_path / "a.jsonl", jsonl(["x" * 100_000] * 200))
    source = Source(path=str(path))
    (one,) = slice_files(files_in(tmp_path), source, 10**9)
    batches = list(read_slice(one, source, Malformed()))
    assert len(batches) == 5
    assert max(batch.nbytes for batch in batches) < 6 << 20


def damaged_files(folder: Path) -> dict[str, int]:
    """Files whose rest can't be read, and the line (of Parquet, the row) where that begins."""
    texts = [f"number {n * n}" for n in range(4000)]
    (folder / "a.txt").write_bytes(b"one\ntwo caf\xe9\n")
    (folder / "b.csv").write_bytes(b"text,n\n" + b"sound and long,1\n" * 3000 + b"caf\xe9,2\n")
    store(folder / "c.jsonl.gz", jsonl(texts))
    cut = (folder / "c.jsonl.gz").read_bytes()
    (folder / "c.jsonl.gz").write_bytes(cut[: len(cut) // 2])
    pq.write_table(pa.table({"text": texts}), folder / "d.parquet", compression="gzip", row_group_size=1000)
    content = bytearray((folder / "d.parquet").read_bytes())
    place = len(content) * 7 // 12  # in the third row group
    content[place : place + 200] = bytes(200)
    (folder / "d.parquet").write_bytes(content)
    (folder / "e.parquet").write_bytes(b"PAR1 and nothing else")
    return {"a.txt": 2, "b.csv": 3002, "c.jsonl.gz": 0, "d.parquet": 1793, "e.parquet": 1}


def test_the_rest_of_a_damaged_file_is_one_malformed_record(tmp_path: Path) -> None:
    lines = damaged_files(tmp_path)
    source = Source(path=str(tmp_path))
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with Malformed(log) as malformed:
        rows = rows_of(slice_files(files_in(tmp_path), source, 10**9), source, malformed)
    entries = {entry["file"]: entry for entry in map(json.loads, log.read_text().splitlines())}
    assert list(entries) == list(lines)
    kept = {name: sum(row["file"] == name for row in rows) for name in lines}
    # Of 2000 sound rows those that were not decoded together with a damaged one.
    assert (kept["a.txt"], kept["d.parquet"], kept["e.parquet"]) == (0, 7 * 256, 0)
    assert 3000 - 8192 // len("sound and long,1\n") <= kept["b.csv"] <= 3000
    assert 1000 < kept["c.jsonl.gz"] < 3000
    for name, line in lines.items():
        wanted = kept[name] + 1 if name == "c.jsonl.gz" else line
        assert entries[name]["line"] == wanted, name
        assert "the rest of the file is left out" in entries[name]["reason"]
    with pytest.raises(UserError, match=r"5 of \d+ records can't be read"):
        malformed.check(0.0004)


def test_malformed_records_are_kept(tmp_path: Path) -> None:
    store(tmp_path / "a.jsonl", b'{"text": "one"}\n{"text": caf\xe9\n')
    store(tmp_path / "b.csv", b"text,n\nx,1,2\n")
    log = tmp_path / "log"
    source = Source(path=str(tmp_path))
    with Malformed(log) as malformed:
        rows_of(slice_files(files_in(tmp_path)[:2], source, 10**9), source, malformed)
    records = [json.loads(line)["record"] for line in log.read_text().splitlines()]
    assert records == ['{"text": caf\\xe9\n', "x,1,2"]
