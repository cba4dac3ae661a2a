"""Text files: whole, or cut into documents at a string."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from groundup.data.read.encoding import byte_sizes, open_text
from groundup.data.read.malformed import Malformed
from groundup.data.read.part import Part
from groundup.errors import UserError
from groundup.recipe.language import Source

_CHUNK_CHARS = 1 << 20


def text_pieces(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, int, str]]:
    """(record, offset, text) of the whole text, or of its pieces that hold more than white space."""
    place, separator = part.file.place, source.split_on
    if separator is None:
        with open_text(place, source.encoding, "", on_bytes) as lines:
            yield 0, 0, lines.read()
        return
    if not separator:
        raise UserError("split_on is empty", where=str(place), expected="the string between two documents")
    offset, size = byte_sizes(place, source.encoding)
    record = at = 0
    returns: deque[int] = deque()
    with open_text(place, source.encoding, "", on_bytes) as lines:
        # Line ends become \n here, so that a split_on with line breaks fits files from every system.
        chunks = _plain_line_ends(iter(lambda: lines.read(_CHUNK_CHARS), ""), returns)
        for piece in split_text(chunks, separator):
            if piece.strip():
                yield record, offset, piece
                record += 1
            at += len(piece) + len(separator)
            offset += size(piece) + size(separator)
            while returns and returns[0] < at:
                returns.popleft()
                offset += size("\r")


def _plain_line_ends(chunks: Iterable[str], returns: deque[int]) -> Iterator[str]:
    """The chunks with \\r\\n and \\r as \\n. `returns` is told where in the result, in characters, \\r\\n stood."""
    done, held = 0, ""
    for chunk in chunks:
        text, held = held + chunk, ""
        if text.endswith("\r"):
            text, held = text[:-1], "\r"
        if "\r" in text:
            lines = text.split("\r\n")
            at = done - 1
            for line in lines[:-1]:
                at += len(line) + 1
                returns.append(at)
            text = "\n".join(lines).replace("\r", "\n")
        done += len(text)
        yield text
    if held:
        yield "\n"


def split_text(chunks: Iterable[str], separator: str) -> Iterator[str]:
    """What `"".join(chunks).split(separator)` gives, holding no more than one piece and one chunk."""
    held: list[str] = []
    rest = ""
    # A separator may begin in one chunk and end in the next: so many characters are looked at again.
    overlap = len(separator) - 1
    for chunk in chunks:
        *whole, last = (rest + chunk).split(separator)
        for piece in whole:
            yield "".join([*held, piece])
            held.clear()
        cut = max(0, len(last) - overlap)
        held.append(last[:cut])
        rest = last[cut:]
    yield "".join([*held, rest])
