"""UTF-8 that was once read as cp1252 or latin-1 ("cafÃ©" for "café"), undone.

The rule, which is meant to leave right text alone: a run of characters beyond ASCII is mended if all of it stands for
bytes of cp1252 or latin-1 and those bytes are UTF-8. Runs of three characters or more are hardly ever right text, so
each is mended by itself. A run of two ("Â»") may be, so it is mended only where no other run of the text speaks
against it: all of them are such bytes. This is the most frequent of the cases that ftfy mends; ftfy itself looks at
every text character by character, at a few MB per second.
"""

from __future__ import annotations

import re
from functools import partial

from groundup.data.jit import kernel

_ROUNDS = 3
# Bytes that cp1252 leaves undefined stand for themselves, as browsers read them.
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)}
_BYTES |= {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}
_RUN = re.compile(r"[^\x00-\x7f]+")
_TABLE = str.maketrans({character: chr(byte) for character, byte in _BYTES.items()})


def mend(text: str) -> str:
    """`text` with mojibake undone, where it was made several times over too."""
    for _ in range(_ROUNDS):
        runs = {run: _mended(run) for run in set(_RUN.findall(text))}
        whole = None not in runs.values()
        mended = {run: new for run, new in runs.items() if new is not None and (whole or len(run) > 2)}
        if not mended:
            break
        text = _RUN.sub(partial(_replacement, mended), text)
    return text


def _replacement(mended: dict[str, str], match: re.Match[str]) -> str:
    return mended.get(match[0], match[0])


def _mended(run: str) -> str | None:
    try:
        return run.translate(_TABLE).encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None


@kernel
def may_be_mojibake(data, i, end):  # type: ignore[no-untyped-def]
    """Does a character from U+00C2 to U+00F4 (bytes that begin a character of UTF-8) at `i` stand before one that
    stands for a byte from 0x80 to 0xBF?"""
    second = data[i + 1]
    if second < 0x82 or second > 0xB4 or i + 2 >= end:
        return False
    after = data[i + 2]
    # First bytes in UTF-8 of U+0080 to U+00BF, and of the letters, accents, dashes and signs that cp1252 adds.
    return after == 0xC2 or after == 0xC5 or after == 0xC6 or after == 0xCB or after == 0xE2
