"""The texts of web pages: HTML files, and WARC archives of a crawl.

Text is taken out of a page by Resiliparse, by default the main content only (Bevendorff et al. 2018, "Elastic
ChatNoir"; its rules for main content are its own).
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import IO

from groundup.data.read.compression import open_stream
from groundup.data.read.malformed import Malformed
from groundup.data.read.part import Part
from groundup.recipe.language import Source

_PRESCAN = 1024
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_PAGES = ("text/html", "application/xhtml+xml")
_OK = 200
_LINE = 1 << 16  # bytes of a header line at most


def html_texts(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, int, str]]:
    """The one page of an HTML file, in the encoding that it declares, else in the source's."""
    with open_stream(part.file.place, on_bytes) as stream:
        data = stream.read()
    declared = _CHARSET.search(data[:_PRESCAN])
    encoding = declared[1].decode("ascii") if declared else source.encoding
    try:
        page = data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        malformed.add(
            part.file, line, f"byte 0x{data[error.start]:02x} at offset {error.start} is not {encoding}", data
        )
    except LookupError:
        malformed.add(part.file, 1, f"there is no text encoding {encoding!r}")
    else:
        yield 0, 0, page_text(page, source.main_content)


def warc_texts(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, int, str]]:
    """The pages among the responses with status 200. Records of every type count, from 0; offsets are those of the
    records in the uncompressed archive.

    The encoding is the one that the response or the page declares, else one detected; bytes that don't fit it become
    U+FFFD. A response whose headers or content can't be read is malformed, told by its record (from 1), not its line.
    Raises OSError where the archive is damaged.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    with open_stream(part.file.place, on_bytes) as stream:
        for number, (offset, kind, content) in enumerate(_records(stream)):
            if kind != "response":
                continue
            try:
                response = _response(content)
                if response.status != _OK or response.headers.get_content_type() not in _PAGES:
                    continue
                data = _decoded(response)
                declared = response.headers.get_content_charset()
                encoding = declared or detect_encoding(data, from_html_meta=True) or "utf-8"
                page = bytes_to_str(data, encoding, "replace")
            except (ValueError, LookupError, OSError, EOFError, HTTPException, zlib.error) as error:
                malformed.add(part.file, number + 1, f"no readable response: {error}", content)
                continue
            yield number, offset, page_text(page, source.main_content)


def _records(stream: IO[bytes]) -> Iterator[tuple[int, str, bytes]]:
    """(offset, WARC-Type, content) of each record of an archive (WARC 1.1, ISO 28500:2017). Raises OSError."""
    offset = 0
    while line := stream.readline(_LINE):
        if not line.strip():
            offset += len(line)
            continue
        if not line.startswith(b"WARC/"):
            raise OSError(f"no WARC record at byte {offset}")
        begin, offset = offset, offset + len(line)
        headers: dict[bytes, bytes] = {}
        while (line := stream.readline(_LINE)).strip():
            offset += len(line)
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        offset += len(line)
        length = int(headers.get(b"content-length", b"-1")) if headers.get(b"content-length", b"").isdigit() else -1
        content = stream.read(max(0, length))
        if length < 0 or len(content) < length:
            raise OSError(f"the WARC record at byte {begin} is cut short")
        offset += length
        yield begin, headers.get(b"warc-type", b"").decode("latin-1"), content


class _Stored:
    """A response as http.client takes it: something that gives a file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def makefile(self, mode: str) -> IO[bytes]:
        return io.BytesIO(self.content)


def _response(content: bytes) -> HTTPResponse:
    """The status and headers are read. Raises HTTPException."""
    response = HTTPResponse(_Stored(content))  # type: ignore[arg-type]
    response.begin()
    return response


def _decoded(response: HTTPResponse) -> bytes:
    """The body, without its transfer's and content's encodings. Raises OSError, EOFError or zlib.error."""
    try:
        data = response.read()
    except IncompleteRead as error:  # archives cut long pages
        data = error.partial
    coding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    if coding in ("gzip", "x-gzip"):
        return gzip.decompress(data)
    if coding == "deflate":
        # Many servers leave out zlib's header.
        return zlib.decompress(data) if data[:1] == b"\x78" else zlib.decompress(data, -zlib.MAX_WBITS)
    if coding not in ("identity", ""):
        raise OSError(f"content encoding {coding!r} is not known")
    return data


def page_text(page: str, main_content: bool) -> str:
    """The text that a reader of the page sees, with line breaks between its blocks."""
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(page, preserve_formatting=True, main_content=main_content)
    return text
