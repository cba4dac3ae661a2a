"""What can't be read is told by place: bytes, records, fields, files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.data.read.malformed import Malformed
from groundup.errors import UserError
from tests.reading import csv_bytes, documents_of, jsonl, parquet_bytes, refusal, store, texts_of

# --- what can't be decoded


def test_a_wrong_encoding_is_told_by_place_with_the_likely_one(tmp_path: Path) -> None:
    # More than one chunk, with a character across the chunks' border.
    filler = ("x" * 99 + "\n") * 10485 + "x" * 75 + "€"
    path = store(tmp_path / "a.txt.gz", filler.encode() + b"caf\xe9 and more")
    text = refusal(path)
    assert text.startswith(f"{path}:10486: byte 0xe9 at offset {len(filler.encode()) + 3} is not utf-8")
    assert "mend this place" in text
    text = refusal(store(path, filler[:-1].encode() + b"\xe9"))
    assert text.startswith(f"{path}:10486: byte 0xe9 at offset {len(filler) - 1} is not utf-8")
    assert text.endswith('If the file is written in that, set encoding = "latin-1" for this source')


@pytest.mark.parametrize(
    ("content", "encoding", "likely"),
    [
        (b"\x93quoted\x94 caf\xe9", "utf-8", "cp1252"),
        (b"caf\xe9 \x81", "utf-8", "latin-1"),
        ("text".encode("utf-16"), "utf-8", "utf-16"),
        ("text".encode("utf-32"), "utf-8", "utf-32"),
        ("caf\xe9".encode(), "ascii", "utf-8"),
        (b"caf\x81", "cp1252", "latin-1"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_the_likely_encoding(tmp_path: Path, name: str, content: bytes, encoding: str, likely: str) -> None:
    assert f'encoding = "{likely}"' in refusal(store(tmp_path / name, content), encoding=encoding)


def test_an_encoding_that_does_not_exist(tmp_path: Path) -> None:
    for encoding in ("utf-9", "hex"):
        assert f"no text encoding '{encoding}'" in refusal(store(tmp_path / "a.jsonl", b"{}"), encoding=encoding)


# --- malformed records


def test_malformed_lines_are_counted_by_place(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}', b"", b"{", b"[1]", b'{"text": 3}', b'{"other": ""}', b'{"text": "caf\xe9"}']
    lines += [rb'{"text": "\ud800"}', b'{"text": "two"}']
    path = store(tmp_path / "a.jsonl", b"\n".join(lines))
    log = tmp_path / "logs" / "malformed.jsonl"
    with Malformed(log) as malformed:
        assert [(d.record, d.text) for d in documents_of(path, malformed)] == [(0, "one"), (7, "two")]
    assert (malformed.count, malformed.total) == (6, 8)
    reasons = [
        "not JSON",
        "a list, not an object",
        "'text' is a number",
        "'text' isn't there",
        "not JSON",
        "not JSON",
    ]
    for place, message, reason in zip(range(3, 9), malformed.first, reasons, strict=True):
        assert message.startswith(f"{path}:{place}: ")
        assert reason in message
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(e["source"], e["file"], e["line"]) for e in entries] == [("src", "a.jsonl", n) for n in range(3, 9)]
    assert "isn't there" in entries[3]["reason"]


def test_too_many_malformed_records_stop_the_work(tmp_path: Path) -> None:
    path = store(tmp_path / "a.jsonl", jsonl(["good"] * 70) + b"oops\n" * 30)
    log = tmp_path / "malformed.jsonl"
    with Malformed(log) as malformed:
        documents_of(path, malformed)
        malformed.check(0.3)
        with pytest.raises(UserError) as caught:
            malformed.check(0.29)
        assert len(log.read_text().splitlines()) == 30
    text = str(caught.value)
    assert text.startswith(f"{path}:71: 30 of 100 records")
    for part in ("0.29", "0.3", f"{path}:72: not JSON", "25 more", str(log)):
        assert part in text
    assert len(malformed.first) == 20


def test_without_malformed_records_there_is_no_file(tmp_path: Path) -> None:
    with Malformed(tmp_path / "malformed.jsonl") as malformed:
        malformed.check(0.0)
        documents_of(store(tmp_path / "a.jsonl", jsonl(["one"])), malformed)
        malformed.check(0.0)
    assert not (tmp_path / "malformed.jsonl").exists()


def test_ragged_and_broken_rows_are_counted_where_they_begin(tmp_path: Path) -> None:
    table = b'id,text\n0,"two\nlines"\n1\n\n2,a,b\n3,"x"y\n4,fine\n5,"never closed\n6,lost\n'
    path = store(tmp_path / "a.csv", table)
    malformed = Malformed()
    assert [(d.record, d.text) for d in documents_of(path, malformed)] == [(0, "two\nlines"), (4, "fine")]
    assert [m.split(": ")[0] for m in malformed.first] == [f"{path}:{n}" for n in (4, 6, 7, 9)]
    assert "1 fields, but the header has 2" in malformed.first[0]


def test_a_text_longer_than_python_s_limit_for_csv(tmp_path: Path) -> None:
    text = "long " * 100_000
    assert texts_of(store(tmp_path / "a.csv", csv_bytes([text, "short"]))) == [text, "short"]


def test_nulls_and_broken_strings_in_parquet_are_counted_by_row(tmp_path: Path) -> None:
    bad = pa.array([b"one", None, b"\xff\xfe", b"two"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    malformed = Malformed()
    documents = documents_of(tmp_path / "a.parquet", malformed)
    assert [(d.record, d.text) for d in documents] == [(0, "one"), (3, "two")]
    assert [m.split(": ")[0] for m in malformed.first] == [f"{tmp_path}/a.parquet:{n}" for n in (2, 3)]


# --- the text field


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_a_text_field_that_is_not_there(tmp_path: Path, name: str) -> None:
    encoded = {"jsonl": jsonl, "csv": csv_bytes, "parquet": parquet_bytes}[name.split(".")[1]]
    text = refusal(store(tmp_path / name, encoded(["one", "two"])), text_field="txt")
    assert "'txt' isn't there; found: 'id', 'text'" in text
    assert "text_field = 'text'" in text


def test_a_field_missing_from_the_first_hundred_objects_stops_early(tmp_path: Path) -> None:
    wrong = b'{"body": "x"}\n'
    late = store(tmp_path / "late.jsonl", wrong * 100 + jsonl(["one"]))
    assert "'body'" in refusal(late)
    mixed = store(tmp_path / "mixed.jsonl", wrong * 99 + jsonl(["one"]) + wrong * 100)
    malformed = Malformed()
    assert texts_of(mixed, malformed) == ["one"]
    assert malformed.count == 199


def test_a_column_that_holds_no_strings(tmp_path: Path) -> None:
    path = store(tmp_path / "a.parquet", parquet_bytes(["one"]))
    assert "'id' holds int64" in refusal(path, text_field="id")


# --- damage


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_cut_short_is_told(tmp_path: Path, name: str) -> None:
    texts = [f"number {i * i}" for i in range(2000)]
    path = store(tmp_path / name, parquet_bytes(texts) if name == "a.parquet" else jsonl(texts))
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    assert refusal(path).startswith(f"{path}: can't be read")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_damaged_archive_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"no archive at all")
    assert refusal(path).startswith(f"{path}: can't be read")
    content = bytearray(store(path, jsonl([f"number {i * i}" for i in range(2000)])).read_bytes())
    if name.endswith(".gz"):
        content[-6] ^= 1  # within the checksum
        path.write_bytes(content)
        assert "check" in refusal(path)


def test_a_damaged_page_of_parquet_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"number {i * i}" for i in range(5000)]}), path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[2000:2200] = bytes(200)
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: can't be read")


def test_a_file_that_went_away_is_told(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "a.txt")
    assert "No such file" in refusal(tmp_path / "a.parquet")
