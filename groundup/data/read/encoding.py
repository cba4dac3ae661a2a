"""Text decoded as the recipe says, and what to tell the user when the bytes don't fit."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from pathlib import Path

from groundup.data.read.compression import open_stream
from groundup.errors import UserError

_CHUNK = 1 << 20
# Python's codecs of these names take a mark for text; those that don't name the order of the bytes take it away.
_MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def check_encoding(encoding: str, path: Path | str) -> None:
    """UserError unless Python has a text encoding of this name."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding).close()
    except LookupError:
        raise UserError(
            f"there is no text encoding {encoding!r}",
            where=str(path),
            expected='a name such as "utf-8", "latin-1", "cp1252" or "utf-16"',
        ) from None


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def pass_mark(stream: io.BufferedReader, encoding: str) -> io.BufferedReader:
    """The stream, at its beginning, without a byte order mark that decoding would leave in the text."""
    mark = _MARKS.get(codecs.lookup(encoding).name)
    if mark is not None and stream.peek(4)[:4].startswith(mark):
        stream.read(len(mark))
    return stream


def open_text(
    path: Path | str, encoding: str, newline: str | None, on_bytes: Callable[[int], None] | None
) -> io.TextIOWrapper:
    """The decompressed, decoded content of `path` without a byte order mark.

    `newline` as for the built-in open(). Reading raises UnicodeDecodeError where the bytes don't fit,
    and what `open_stream` raises.
    """
    stream = pass_mark(open_stream(path, on_bytes), encoding)
    return io.TextIOWrapper(stream, encoding="utf-8-sig" if is_utf8(encoding) else encoding, newline=newline)


def byte_sizes(path: Path | str, encoding: str) -> tuple[int, Callable[[str], int]]:
    """What places in the decompressed file are counted by: the bytes of its byte order mark, and how many bytes a text
    takes in it (for an encoding with shift states a text by itself, so that places in such files are near only)."""
    name = codecs.lookup(encoding).name
    marks: tuple[bytes, ...] = ()
    if is_utf8(encoding):
        marks, name = (codecs.BOM_UTF8,), "utf-8"
    elif name.startswith(("utf-16", "utf-32")):
        marks = tuple(mark for known, mark in _MARKS.items() if known.startswith(name))
        name = name if name in _MARKS else f"{name}-le"
    with open_stream(path) as stream:
        first = stream.peek(4)[:4]
    mark = next((len(mark) for mark in marks if first.startswith(mark)), 0)
    ascii_alike = len("a".encode(name)) == 1

    def size(text: str) -> int:
        return len(text) if ascii_alike and text.isascii() else len(text.encode(name, "replace"))

    return mark, size


def decoding_error(path: Path | str, encoding: str) -> UserError:
    """What to say of a file that doesn't decode; see `undecodable`."""
    return undecodable(path, encoding)[1]


def undecodable(path: Path | str, encoding: str) -> tuple[int, UserError]:
    """The line where a file doesn't decode, and what to say of it: byte offset (after decompression), likely encoding.

    Reads the file again up to the place, since a reader that reads ahead can't tell it.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if is_utf8(encoding) else encoding)()
    offset, line, ascii_only = 0, 1, True
    with open_stream(path) as stream:
        while True:
            chunk = stream.read(_CHUNK)
            offset += len(chunk)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder's bytes end where the chunk ends, but may begin in the chunk before it.
                offset += error.start - len(error.object)
                before = error.object[: error.start]
                line += before.count(b"\n")
                setting = f'set encoding = "{_likely(error.object, encoding)}" for this source'
                damaged = is_utf8(encoding) and not (ascii_only and before.isascii())
                return line, UserError(
                    f"byte 0x{error.object[error.start]:02x} at offset {offset} is not {encoding}",
                    where=f"{path}:{line}",
                    advice=f"Up to there it is UTF-8, so mend this place; or else {setting}"
                    if damaged
                    else f"If the file is written in that, {setting}",
                )
            line += text.count("\n")
            ascii_only = ascii_only and text.isascii()
            if not chunk:
                return line, UserError(f"is not {encoding}", where=str(path), advice="Set encoding for this source")


def _likely(bad: bytes, encoding: str) -> str:
    """The likely encoding of the bytes `bad`, which are not `encoding`."""
    # No UTF-8 begins with one of these marks, so the first chunk of such a file is what doesn't decode.
    if bad.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if bad.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Incremental, since `bad` may end within a character.
    if not is_utf8(encoding) and _decodes(codecs.getincrementaldecoder("utf-8")().decode, bad):
        return "utf-8"
    # The bytes 0x80 to 0x9f are quotes and dashes in cp1252, and control characters in latin-1.
    if any(0x80 <= byte <= 0x9F for byte in bad) and _decodes(codecs.getdecoder("cp1252"), bad):
        return "cp1252"
    return "latin-1"


def _decodes(decode: Callable[[bytes], object], data: bytes) -> bool:
    try:
        decode(data)
    except UnicodeDecodeError:
        return False
    return True
