"""Documents out of files of every format: what was written is read, and read as a stream."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.data.read.malformed import Malformed
from groundup.data.read.pieces import split_text
from groundup.data.read.sources import SourceFile
from groundup.recipe.language import Source
from tests.reading import (
    Document,
    csv_bytes,
    documents_of,
    jsonl,
    parquet_bytes,
    read_documents,
    refusal,
    store,
    texts_of,
)

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8)
TRICKY = ["", 'a "quoted"\nline, and\r\nmore\r', "\x00", "é\u2028\U0001f600", "\ufeff", " ", '"', "\n"]


# --- what is written is read


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("suffix", "encoded"), [(".jsonl", jsonl), (".csv", csv_bytes)])
@settings(deadline=None, max_examples=40)
@example(texts=TRICKY)
@given(texts=TEXTS)
def test_records_come_back_equal(
    suffix: str, encoded: Callable[[list[str]], bytes], compression: str, texts: list[str]
) -> None:
    with TemporaryDirectory() as folder:
        path = store(Path(folder) / f"a{suffix}{compression}", encoded(texts))
        malformed = Malformed()
        documents = documents_of(path, malformed)
        assert documents == [Document("src", path.name, i, text) for i, text in enumerate(texts)]
        assert (malformed.total, malformed.count) == (len(texts), 0)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@settings(deadline=None, max_examples=30)
@example(texts=TRICKY)
@given(texts=TEXTS)
def test_parquet_comes_back_equal(kind: pa.DataType, texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = store(Path(folder) / "a.parquet", parquet_bytes(texts, kind))
        assert texts_of(path) == texts


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
@settings(deadline=None, max_examples=25)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")))
def test_a_text_comes_back_equal(compression: str, encoding: str, text: str) -> None:
    with TemporaryDirectory() as folder:
        path = store(Path(folder) / f"a.txt{compression}", text.encode(encoding))
        assert texts_of(path, encoding=encoding) == [text]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp932"])
def test_records_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    text = "caf\xe9, na\xefve" if encoding != "cp932" else "日本語\nテキスト"
    lines = f'{{"text": "first"}}\n{json.dumps({"text": text}, ensure_ascii=False)}\n'
    assert texts_of(store(tmp_path / "a.jsonl", lines.encode(encoding)), encoding=encoding) == ["first", text]
    table = f'text\nfirst\n"{text}"\n'
    assert texts_of(store(tmp_path / "a.csv", table.encode(encoding)), encoding=encoding) == ["first", text]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert texts_of(store(tmp_path / "a.txt", mark + b"one")) == ["one"]
    assert texts_of(store(tmp_path / "a.txt", mark + b"one;two"), split_on=";") == ["one", "two"]
    assert texts_of(store(tmp_path / "a.jsonl", mark + jsonl(["one"]))) == ["one"]
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        text = "\ufeffone".encode(encoding)
        assert texts_of(store(tmp_path / "a.txt", text), encoding=encoding) == ["one"]
        assert texts_of(store(tmp_path / "a.txt.gz", text), encoding=encoding) == ["one"]
    assert texts_of(store(tmp_path / "a.csv", mark + b"text\none\n")) == ["one"]


def test_several_members_are_one_stream(tmp_path: Path) -> None:
    one, two = jsonl(["one"]), jsonl(["two"])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(one) + gzip.compress(two))
    skippable = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"skip"
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + compress(one) + compress(two) + skippable)
    assert texts_of(tmp_path / "a.jsonl.gz") == texts_of(tmp_path / "a.jsonl.zst") == ["one", "two"]


# --- cutting texts into documents


@given(chunks=st.lists(st.text("ab\n")), separator=st.text("ab\n", min_size=1, max_size=4))
def test_split_text_is_str_split(chunks: list[str], separator: str) -> None:
    assert list(split_text(chunks, separator)) == "".join(chunks).split(separator)


def test_split_on_drops_empty_pieces_and_fits_all_line_ends(tmp_path: Path) -> None:
    path = store(tmp_path / "a.txt.gz", b"one\r\n---\r\n\r\n---\r\ntwo\r\nlines\r\n---\r\n")
    documents = documents_of(path, split_on="---\n")
    assert [(d.record, d.text) for d in documents] == [(0, "one\n"), (1, "two\nlines\n")]
    assert "split_on is empty" in refusal(path, split_on="")


# --- streaming and progress


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.parquet"])
def test_the_bytes_told_are_those_on_disk(tmp_path: Path, name: str) -> None:
    texts = [f"number {i * i}" for i in range(1000)]
    encoded = {"csv": csv_bytes, "parquet": parquet_bytes}.get(name.split(".")[1], jsonl)
    path = store(tmp_path / name, encoded(texts))
    file = SourceFile(path, name, "src")
    told: list[int] = []
    list(read_documents(file, Source(path=str(path)), Malformed(), told.append))
    assert sum(told) == file.state()[0] == path.stat().st_size


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.txt"])
def test_documents_come_before_the_file_is_read(tmp_path: Path, name: str) -> None:
    # Random hex, which compresses to no less than half: every format holds several megabytes.
    texts = [random_hex(i) for i in range(20)]
    encoded = {"csv": csv_bytes, "parquet": parquet_bytes}.get(name.split(".")[1], jsonl)
    path = store(tmp_path / name, encoded(texts))
    file = SourceFile(path, name, "src")
    told = [0]
    source = Source(path=str(path), split_on="\n" if name == "a.txt" else None)
    documents = read_documents(file, source, Malformed(), told.append)
    next(documents)
    assert sum(told) < file.state()[0] / 2


def random_hex(seed: int) -> str:
    return random.Random(seed).randbytes(250_000).hex()
