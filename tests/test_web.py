"""Web pages: HTML files and WARC archives give the text of the page."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from groundup.data.read.malformed import Malformed
from groundup.data.read.slices import read_slice, slice_files
from groundup.data.read.sources import SourceFile
from groundup.recipe.language import Source
from tests.reading import documents_of, refusal, store

ARTICLE = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep for a long while. " * 5
PAGE = f"""<!DOCTYPE html><html><head><title>T</title><script>var x = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<main><h1>Caf\xe9</h1><p>{ARTICLE}</p><p>Second paragraph.</p></main><footer>Imprint</footer></body></html>"""


def test_the_main_content_of_a_page(tmp_path: Path) -> None:
    for name in ("a.html", "a.htm", "a.html.gz"):
        (document,) = documents_of(store(tmp_path / name, PAGE.encode()))
        assert (document.record, document.offset) == (0, 0)
        assert document.text.splitlines()[0] == "Caf\xe9"
        assert "Second paragraph." in document.text
        assert "var x" not in document.text
        assert "About us" not in document.text
    (document,) = documents_of(tmp_path / "a.html", main_content=False)
    assert "About us" in document.text


def test_the_encoding_is_the_one_that_the_page_declares(tmp_path: Path) -> None:
    declared = PAGE.replace("<title>", '<meta charset="iso-8859-1"><title>').encode("latin-1")
    assert documents_of(store(tmp_path / "a.html", declared))[0].text.startswith("Caf\xe9")
    plain = store(tmp_path / "b.html", PAGE.encode("latin-1"))
    assert documents_of(plain, encoding="latin-1")[0].text.startswith("Caf\xe9")
    malformed = Malformed()
    assert documents_of(plain, malformed) == []
    assert documents_of(store(tmp_path / "c.html", declared.replace(b"iso-8859-1", b"nonsense")), malformed) == []
    assert (malformed.count, malformed.total) == (2, 2)
    assert malformed.first[0].startswith(f"{plain}:3: byte 0xe9")
    assert "'nonsense'" in malformed.first[1]


def record(kind: str, content: bytes, uri: str = "http://example.com/") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nContent-Length: {len(content)}\r\n"
    kinds = {"response": "application/http; msgtype=response", "warcinfo": "application/warc-fields"}
    return head.encode() + f"Content-Type: {kinds.get(kind, 'text/plain')}\r\n\r\n".encode() + content + b"\r\n\r\n"


def response(body: bytes, status: str = "200 OK", kind: str = "text/html; charset=utf-8", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


RECORDS = [
    record("warcinfo", b"software: test\r\n"),
    record("request", b"GET / HTTP/1.1\r\n\r\n"),
    record("response", response(PAGE.encode())),
    record("response", response(b"missing", status="404 Not Found")),
    record("response", response(b"\x89PNG", kind="image/png")),
    record("response", response(PAGE.encode("cp1252"), kind="text/html; charset=windows-1252")),
    record("response", response(gzip.compress(PAGE.encode()), more="Content-Encoding: gzip\r\n")),
]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "b.warc.gz", "a.warc.zst"])
def test_the_pages_of_an_archive(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / name, b"".join(RECORDS))
    if name == "b.warc.gz":
        path.write_bytes(b"".join(map(gzip.compress, RECORDS)))
    malformed = Malformed()
    documents = documents_of(path, malformed)
    assert [document.record for document in documents] == [2, 5, 6]
    assert {document.text.splitlines()[0] for document in documents} == {"Caf\xe9"}
    stored = b"".join(RECORDS)
    assert [document.offset for document in documents] == [len(b"".join(RECORDS[:n])) for n in (2, 5, 6)]
    assert all(stored[document.offset :].startswith(b"WARC/1.0") for document in documents)
    assert (malformed.count, malformed.total) == (0, 3)
    source = Source(path=str(path), main_content=False)
    (one,) = slice_files([SourceFile(path, name, "src")], source, 100)
    (batch,) = read_slice(one, source, Malformed())
    assert batch.column("id").to_pylist() == [f"src/{name}#{n}" for n in (2, 5, 6)]
    assert "About us" in batch.column("text")[0].as_py()


def test_responses_that_can_not_be_read_are_counted(tmp_path: Path) -> None:
    bad = record("response", response(b"no gzip", more="Content-Encoding: gzip\r\n"))
    malformed = Malformed()
    path = store(tmp_path / "a.warc", RECORDS[0] + bad + RECORDS[2])
    assert [document.record for document in documents_of(path, malformed)] == [2]
    assert (malformed.count, malformed.total) == (1, 2)
    assert malformed.first[0].startswith(f"{path}:2: ")


def test_damaged_archives_are_told(tmp_path: Path) -> None:
    stream = io.BytesIO(store(tmp_path / "a.warc.gz", b"".join(RECORDS)).read_bytes())
    (tmp_path / "a.warc.gz").write_bytes(stream.getvalue()[:-30])
    assert "cut short" in refusal(tmp_path / "a.warc.gz")
    assert "can't be read" in refusal(store(tmp_path / "b.warc", b"this is no archive\r\n" * 10))
    whole = b"".join(RECORDS[:3])
    assert "can't be read" in refusal(store(tmp_path / "c.warc", whole[:-200]))
