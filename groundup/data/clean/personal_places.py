"""Where personal data may begin: one pass over the bytes, so that patterns run at a few places only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from groundup.data.clean.personal_rules import KINDS
from groundup.data.jit import kernel

_EMAIL, _IBAN, _RESIDENT_ID, _CARD, _SSN, _IP, _PHONE = range(7)
assert KINDS == ("email", "iban", "resident_id", "card", "ssn", "ip", "phone")
_BLOCK = 16
_LONGEST_LOCAL_PART = 64
_LONGEST_TOKEN = 64
_FIRST_ROOM = 1024


def places(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(row, byte from the start of `data`, kind) of each place where the pattern of a kind may match, ordered by row;
    a superset of the places where it does. int64, places x 3."""
    room = _FIRST_ROOM
    while True:
        found = np.empty((room, 3), np.int64)
        count = _places(offsets, data, found)
        if count <= room:
            return found[:count]
        room = count


@kernel
def _digit(byte):  # type: ignore[no-untyped-def]
    return byte >= 0x30 and byte <= 0x39


@kernel
def _letter(byte):  # type: ignore[no-untyped-def]
    return (byte | 0x20) >= 0x61 and (byte | 0x20) <= 0x7A


@kernel
def _word(byte):  # type: ignore[no-untyped-def]
    return _digit(byte) or _letter(byte) or byte == 0x5F


@kernel
def _hex(byte):  # type: ignore[no-untyped-def]
    return _digit(byte) or ((byte | 0x20) >= 0x61 and (byte | 0x20) <= 0x66)


@kernel
def _upper(byte):  # type: ignore[no-untyped-def]
    return byte >= 0x41 and byte <= 0x5A


@kernel
def _digits_end(data, i, end):  # type: ignore[no-untyped-def]
    while i < end and _digit(data[i]):
        i += 1
    return i


@kernel
def _note(found, count, row, at, kind):  # type: ignore[no-untyped-def]
    if count < len(found):
        found[count, 0], found[count, 1], found[count, 2] = row, at, kind
    return count + 1


@kernel
def _addresses(data, start, at, row, found, count):  # type: ignore[no-untyped-def]
    """The letters and digits after none, at most 64 bytes before the @ at `at`, with only such bytes between as an
    address may have."""
    i = at
    while i > start and at - i < _LONGEST_LOCAL_PART:
        before = data[i - 1]
        if not (_letter(before) or _digit(before)) and before not in (0x2E, 0x5F, 0x25, 0x2B, 0x2D):
            break
        i -= 1
    inner = i > start and (_letter(data[i - 1]) or _digit(data[i - 1]))
    while i < at:
        was_inner, inner = inner, _letter(data[i]) or _digit(data[i])
        if inner and not was_inner:
            count = _note(found, count, row, i, _EMAIL)
        i += 1
    return count


@kernel
def _long_address(data, start, colon, end):  # type: ignore[no-untyped-def]
    """Where an IPv6 address may begin whose first colon is at `colon`; -1 if there is none."""
    at = colon
    while at > start and _hex(data[at - 1]) and colon - at < 5:
        at -= 1
    if at > start and (_word(data[at - 1]) or data[at - 1] in (0x2E, 0x3A)):
        return -1
    colons, doubled, i = 0, False, at
    while i < end and i - at < _LONGEST_TOKEN and (_hex(data[i]) or data[i] == 0x3A):
        if data[i] == 0x3A:
            colons += 1
            doubled = doubled or (data[i - 1] == 0x3A and i > at)
        i += 1
    return at if colons >= 2 and (doubled or colons == 7) else -1


@kernel
def _places(offsets, data, found):  # type: ignore[no-untyped-def]
    count = 0
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        i = start
        while i < end:
            while i + _BLOCK <= end:
                special = np.uint8(0)
                for k in range(np.uintp(i), np.uintp(i + _BLOCK)):
                    special |= (np.uint8(data[k] - np.uint8(0x30)) <= 0x0A) | (data[k] == 0x40)
                if special:
                    break
                i += _BLOCK
            while i < end and not (data[i] >= 0x30 and data[i] <= 0x3A) and data[i] != 0x40:
                i += 1
            if i >= end:
                break
            byte = data[i]
            if byte == 0x40:
                count = _addresses(data, start, i, row, found, count)
                i += 1
            elif byte == 0x3A:
                at = _long_address(data, start, i, end)
                if at >= 0:
                    count = _note(found, count, row, at, _IP)
                i += 1
            else:
                count = _number(data, start, i, end, row, found, count)
                i = _digits_end(data, i, end)
    return count


@kernel
def _number(data, start, i, end, row, found, count):  # type: ignore[no-untyped-def]
    """The places for which the run of digits that begins at `i` speaks."""
    one = _digits_end(data, i, end)
    before = data[i - 1] if i > start else np.uint8(0)
    if _word(before):
        first = i - 2
        country = one - i >= 2 and first >= start and _upper(before) and _upper(data[first])
        if country and (first == start or not (_letter(data[first - 1]) or _digit(data[first - 1]))):
            count = _note(found, count, row, first, _IBAN)
        return count
    if before == 0x2B:
        count = _note(found, count, row, i - 1, _PHONE)
        # Of all else only addresses may stand behind a plus sign.
        return _note(found, count, row, i, _IP) if one - i <= 3 and one < end and data[one] == 0x2E else count
    length_1, length_2, length_3 = one - i, 0, 0
    gap_1 = data[one] if one < end else np.uint8(0)
    gap_2 = np.uint8(0)
    if before == 0x28 and length_1 == 3 and gap_1 == 0x29:
        count = _note(found, count, row, i - 1, _PHONE)
    if length_1 == 1 and data[i] == 0x31 and one + 1 < end and data[one + 1] == 0x28:
        count = _note(found, count, row, i, _PHONE)
    if length_1 in (17, 18):
        count = _note(found, count, row, i, _RESIDENT_ID)
    if length_1 >= 13:
        return _note(found, count, row, i, _CARD) if length_1 <= 19 else count
    if length_1 == 11:
        return _note(found, count, row, i, _PHONE) if data[i] == 0x31 else count
    if length_1 > 5 or gap_1 not in (0x20, 0x2D, 0x2E):
        return count
    two = _digits_end(data, one + 1, end)
    length_2 = two - one - 1
    if two < end:
        gap_2 = data[two]
        length_3 = _digits_end(data, two + 1, end) - two - 1
    if length_1 == 4 and (length_2 == 4 or length_2 == 6) and gap_1 == gap_2:
        count = _note(found, count, row, i, _CARD)
    if length_1 == 3 and length_2 == 2 and length_3 == 4:
        count = _note(found, count, row, i, _SSN)
    if gap_1 == 0x2E and gap_2 == 0x2E and length_1 <= 3 and length_2 <= 3 and length_3 <= 3:
        count = _note(found, count, row, i, _IP)
    if data[i] == 0x30:
        phone = length_2 >= 7 or (length_2 >= 3 and length_3 >= 3)
    elif length_1 == 1:
        phone = data[i] == 0x31 and length_2 == 3 and length_3 == 3
    else:
        phone = length_1 == 3 and ((length_2 == 3 and length_3 == 4) or (length_2 == 4 and length_3 == 4))
    return _note(found, count, row, i, _PHONE) if phone else count
