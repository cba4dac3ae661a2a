"""The texts of web pages: HTML files, and WARC archives of a crawl.

Text is taken out of a page by Resiliparse, by default the main content only (Bevendorff et al. 2018, "Elastic
ChatNoir"; its rules for main content are its own).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from groundup.data.read.compression import open_stream
from groundup.data.read.malformed import Malformed
from groundup.data.read.part import Part
from groundup.recipe.language import Source

_PRESCAN = 1024
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_PAGES = ("text/html", "application/xhtml+xml")
_OK = 200


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
        malformed.add(part.file, line, f"byte 0x{data[error.start]:02x} at offset {error.start} is not {encoding}")
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
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    with open_stream(part.file.place, on_bytes) as stream:
        records: Any = ArchiveIterator(stream, parse_http=False, stream_detect=False)
        for number, record in enumerate(records):
            if record.record_type != WarcRecordType.response:
                continue
            try:
                record.parse_http(auto_decode="all")
                if not record.is_http_parsed or record.http_headers.status_code != _OK:
                    continue
                if (record.http_content_type or "").lower() not in _PAGES:
                    continue
                data = record.reader.read()
                encoding = record.http_charset or detect_encoding(data, from_html_meta=True) or "utf-8"
                page = bytes_to_str(data, encoding, "replace")
            except (ValueError, LookupError, OSError) as error:
                malformed.add(part.file, number + 1, f"no readable response: {error}")
                continue
            yield number, record.stream_pos, page_text(page, source.main_content)


def page_text(page: str, main_content: bool) -> str:
    """The text that a reader of the page sees, with line breaks between its blocks."""
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(page, preserve_formatting=True, main_content=main_content)
    return text
