"""Where personal data may begin: one pass over the bytes, so that patterns run at a few places only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from groundup.data.clean.personal_rules import KINDS
from groundup.data.intrinsics import WINDOW, bytes_between, bytes_equal, lowest_bit, peek, poke_uint64
from groundup.data.jit import inlined, kernel
from groundup.data.texts import Bytes, Offsets

_EMAIL, _IBAN, _RESIDENT_ID, _CARD, _SSN, _IP, _PHONE = range(7)
assert KINDS == ("email", "iban", "resident_id", "card", "ssn", "ip", "phone")
_LONGEST_LOCAL_PART = 64
_LONGEST_TOKEN = 64
_FIRST_ROOM = 1024


def places(offsets: Offsets, data: Bytes) -> npt.NDArray[np.int64]:
    """(row, byte from the start of `data`, kind) of each place where the pattern of a kind may match, ordered by row;
    a superset of the places where it does. int64, places x 3."""
    room = _FIRST_ROOM
    while True:
        found = np.empty((room, 3), np.int64)
        count = _places(offsets, data, found)
        if count <= room:
            return found[:count]
        room = count


@inlined
def _digit(byte: int) -> bool:
    return byte >= 0x30 and byte <= 0x39


@inlined
def _letter(byte: int) -> bool:
    return (byte | 0x20) >= 0x61 and (byte | 0x20) <= 0x7A


@inlined
def _word(byte: int) -> bool:
    return _digit(byte) or _letter(byte) or byte == 0x5F


@inlined
def _hex(byte: int) -> bool:
    return _digit(byte) or ((byte | 0x20) >= 0x61 and (byte | 0x20) <= 0x66)


@inlined
def _upper(byte: int) -> bool:
    return byte >= 0x41 and byte <= 0x5A


@kernel
def _digits_end(text: int, i: int, end: int) -> int:
    while i < end and _digit(peek(text, i)):
        i += 1
    return i


@kernel
def _note(found: int, room: int, count: int, row: int, at: int, kind: int) -> int:
    if count < room:
        poke_uint64(found, 3 * count, np.uint64(row))
        poke_uint64(found, 3 * count + 1, np.uint64(at))
        poke_uint64(found, 3 * count + 2, np.uint64(kind))
    return count + 1


@kernel
def _addresses(text: int, start: int, at: int, row: int, found: int, room: int, count: int) -> int:
    """The letters and digits after none, at most 64 bytes before the @ at `at`, with only such bytes between as an
    address may have."""
    i = at
    while i > start and at - i < _LONGEST_LOCAL_PART:
        before = peek(text, i - 1)
        if not (_letter(before) or _digit(before)) and before not in (0x2E, 0x5F, 0x25, 0x2B, 0x2D):
            break
        i -= 1
    inner = i > start and (_letter(peek(text, i - 1)) or _digit(peek(text, i - 1)))
    while i < at:
        was_inner, inner = inner, _letter(peek(text, i)) or _digit(peek(text, i))
        if inner and not was_inner:
            count = _note(found, room, count, row, i, _EMAIL)
        i += 1
    return count


@kernel
def _long_address(text: int, start: int, colon: int, end: int) -> int:
    """Where an IPv6 address may begin whose first colon is at `colon`; -1 if there is none."""
    at = colon
    while at > start and _hex(peek(text, at - 1)) and colon - at < 5:
        at -= 1
    if at > start and (_word(peek(text, at - 1)) or peek(text, at - 1) in (0x2E, 0x3A)):
        return -1
    colons, doubled, i = 0, False, at
    while i < end and i - at < _LONGEST_TOKEN and (_hex(peek(text, i)) or peek(text, i) == 0x3A):
        if peek(text, i) == 0x3A:
            colons += 1
            doubled = doubled or (i > at and peek(text, i - 1) == 0x3A)
        i += 1
    return at if colons >= 2 and (doubled or colons == 7) else -1


@inlined
def _speaks(byte: int) -> bool:
    """A digit, a colon or an @."""
    return (byte >= 0x30 and byte <= 0x3A) or byte == 0x40


@kernel
def _places(offsets: Offsets, data: Bytes, out: npt.NDArray[np.int64]) -> int:
    text, readable, found, room = data.ctypes.data, len(data), out.ctypes.data, len(out)
    count = 0
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        i = start
        while i < end:
            while i < end and i + WINDOW <= readable:
                passed = lowest_bit(bytes_between(text, i, 0, 0x30, 0x3A) | bytes_equal(text, i, 0x40))
                i += passed
                if passed < WINDOW:
                    break
            while i < end and not _speaks(peek(text, i)):
                i += 1
            if i >= end:
                break
            byte = peek(text, i)
            if byte == 0x40:
                count = _addresses(text, start, i, row, found, room, count)
                i += 1
            elif byte == 0x3A:
                at = _long_address(text, start, i, end)
                if at >= 0:
                    count = _note(found, room, count, row, at, _IP)
                i += 1
            else:
                count = _number(text, start, i, end, row, found, room, count)
                i = _digits_end(text, i, end)
    return count


@kernel
def _number(text: int, start: int, i: int, end: int, row: int, found: int, room: int, count: int) -> int:
    """The places for which the run of digits that begins at `i` speaks."""
    one = _digits_end(text, i, end)
    before = peek(text, i - 1) if i > start else 0
    if _word(before):
        first = i - 2
        country = one - i >= 2 and first >= start and _upper(before) and _upper(peek(text, first))
        if country and (first == start or not (_letter(peek(text, first - 1)) or _digit(peek(text, first - 1)))):
            count = _note(found, room, count, row, first, _IBAN)
        return count
    if before == 0x2B:
        count = _note(found, room, count, row, i - 1, _PHONE)
        # Of all else only addresses may stand behind a plus sign.
        address = one - i <= 3 and one < end and peek(text, one) == 0x2E
        return _note(found, room, count, row, i, _IP) if address else count
    length_1, length_2, length_3 = one - i, 0, 0
    gap_1 = peek(text, one) if one < end else 0
    gap_2 = 0
    if before == 0x28 and length_1 == 3 and gap_1 == 0x29:
        count = _note(found, room, count, row, i - 1, _PHONE)
    if length_1 == 1 and peek(text, i) == 0x31 and one + 1 < end and peek(text, one + 1) == 0x28:
        count = _note(found, room, count, row, i, _PHONE)
    if length_1 in (17, 18):
        count = _note(found, room, count, row, i, _RESIDENT_ID)
    if length_1 >= 13:
        return _note(found, room, count, row, i, _CARD) if length_1 <= 19 else count
    if length_1 == 11:
        return _note(found, room, count, row, i, _PHONE) if peek(text, i) == 0x31 else count
    if length_1 > 5 or gap_1 not in (0x20, 0x2D, 0x2E):
        return count
    two = _digits_end(text, one + 1, end)
    length_2 = two - one - 1
    if two < end:
        gap_2 = peek(text, two)
        length_3 = _digits_end(text, two + 1, end) - two - 1
    if length_1 == 4 and (length_2 == 4 or length_2 == 6) and gap_1 == gap_2:
        count = _note(found, room, count, row, i, _CARD)
    if length_1 == 3 and length_2 == 2 and length_3 == 4:
        count = _note(found, room, count, row, i, _SSN)
    if gap_1 == 0x2E and gap_2 == 0x2E and length_1 <= 3 and length_2 <= 3 and length_3 <= 3:
        count = _note(found, room, count, row, i, _IP)
    if peek(text, i) == 0x30:
        phone = length_2 >= 7 or (length_2 >= 3 and length_3 >= 3)
    elif length_1 == 1:
        phone = peek(text, i) == 0x31 and length_2 == 3 and length_3 == 3
    else:
        phone = length_1 == 3 and ((length_2 == 3 and length_3 == 4) or (length_2 == 4 and length_3 == 4))
    return _note(found, room, count, row, i, _PHONE) if phone else count
