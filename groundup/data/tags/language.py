"""The language of each document, by CLD2 (pycld2) over its beginning."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pycld2

from groundup.data.texts import buffers

# Bytes. CLD2 takes about 50 ns per byte, and 512 bytes are some 80 English words or 170 Chinese characters.
LOOKED_AT = 512
UNDETERMINED = "und"
SCHEMA = pa.schema([("language", pa.dictionary(pa.int32(), pa.string())), ("language_score", pa.float32())])

# CLD2's codes that BCP 47 writes otherwise.
_CODES = {"iw": "he", "jw": "jv", "in": "id", "mo": "ro", "un": UNDETERMINED}


def languages(texts: pa.LargeStringArray, looked_at: int = LOOKED_AT) -> pa.Table:
    """language (dictionary of strings) and language_score (float32) of each text, one row each in the same order.

    CLD2 sees the first `looked_at` bytes, cut at a character; what it refuses (control characters, noncharacters,
    bytes that are no UTF-8) is taken out first. A text it isn't sure about is `und` with score 0. Chinese is `zh`, in
    traditional characters `zh-Hant`.
    """
    offsets, data = buffers(texts)
    view = data.data
    found = [
        _language(bytes(view[start : min(stop, start + looked_at)]), stop - start > looked_at)
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    codes, scores = [code for code, _ in found], [score for _, score in found]
    names = sorted(set(codes))
    numbers = {name: number for number, name in enumerate(names)}
    indices = pa.array([numbers[code] for code in codes], pa.int32())
    return pa.table(
        [pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())), pa.array(scores, pa.float32())], SCHEMA
    )


def _language(text: bytes, cut: bool) -> tuple[str, float]:
    if cut:
        text = _whole_characters(text)
    try:
        reliable, _, details = pycld2.detect(text, isPlainText=True)
    except pycld2.error:
        try:
            reliable, _, details = pycld2.detect(_plain(text), isPlainText=True)
        except pycld2.error:
            return UNDETERMINED, 0.0
    _, code, percent, _ = details[0]
    code = _CODES.get(code, code)
    if not reliable or code == UNDETERMINED or code.startswith("xx"):
        return UNDETERMINED, 0.0
    return code, percent / 100


def _whole_characters(text: bytes) -> bytes:
    """Without the beginning of a character at the end."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 != 0x80:
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text if size <= back else text[:-back]
    return text


def _plain(text: bytes) -> bytes:
    kept = [c if not _refused(c) else " " for c in text.decode("utf-8", "ignore")]
    return "".join(kept).encode()


def _refused(char: str) -> bool:
    """Control characters but white space, and noncharacters."""
    return unicodedata.category(char) in ("Cc", "Cn", "Cs") and char not in "\t\n\r"
