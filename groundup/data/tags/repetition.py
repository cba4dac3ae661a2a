"""How much of a document repeats itself: Gopher's measures (Rae et al. 2021, table A1) over hashes of its tokens.

An n-gram can only repeat where the (n-1)-grams at its start and one further both repeat. So each length looks only
at the places that the length before left over. A place is known by the first place with the same n-gram. Mostly that
stays the same from one length to the next: it does where the token behind both n-grams is the same, which takes one
comparison and no look into a table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from groundup.data.kernels import HASH_FACTOR
from groundup.data.texts import Bytes

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]

SHORTEST_TOP, LONGEST_TOP = 2, 4
SHORTEST_DUPLICATE, LONGEST_DUPLICATE = 5, 10

_ONE, _SHIFT_32 = np.uint64(1), np.uint64(32)


@njit(cache=True, nogil=True)
def table_size(items: int) -> int:
    """Slots of a hash table that stays at most half full: a power of two."""
    size = 16
    while size < 2 * items:
        size *= 2
    return size


@njit(cache=True, nogil=True, inline="always")
def _bits(size: int) -> int:
    bits = 0
    while size > 1:
        size >>= 1
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def _pairs(hashes: Hashes, count: int, keys: Hashes, places: Places, marks: Bytes) -> int:
    """The keys of `count` pairs of neighbours, and the places, in order, of those that may occur twice; returns how
    many. What is left out occurs once. No branch depends on the keys, which is why this comes first.
    """
    size = 2 * table_size(count)
    shift = np.uint64(64 - _bits(size))
    for slot in range(size):
        marks[slot] = 0
    for index in range(count):
        key = hashes[index] * HASH_FACTOR + hashes[index + 1]
        keys[index] = key
        at = (key * HASH_FACTOR) >> shift
        marks[at] = marks[at] << 1 | 1
    kept = 0
    for index in range(count):
        places[kept] = index
        kept += marks[(keys[index] * HASH_FACTOR) >> shift] >> 1 & 1
    return kept


@njit(cache=True, nogil=True)
def _clear(slots: Places, items: int) -> int:
    """Empty a table for so many items; the bits of its size."""
    size = table_size(items)
    for slot in range(size):
        slots[slot] = 0
    return int(_bits(size))


@njit(cache=True, nogil=True)
def _first(place: int, keys: Hashes, slots: Places, bits: int) -> int:
    """The first place with this place's key; itself, where there was none. Equal hashes are taken for equal items."""
    key = keys[place]
    at = (key * HASH_FACTOR) >> np.uint64(64 - bits)
    while True:
        found = slots[at]
        if found == 0:
            slots[at] = place + 1
            return place
        if keys[found - 1] == key:
            return int(found - 1)
        at = (at + _ONE) & ((_ONE << np.uint64(bits)) - _ONE)


@njit(cache=True, nogil=True)
def repeated(keys: Hashes, sizes: Ints, count: int, slots: Places) -> tuple[int, int]:
    """(items that occurred before, their characters). keys, sizes (characters) [count]; slots: scratch of
    `table_size(count)`."""
    bits = _clear(slots, count)
    items, characters = 0, 0
    for index in range(count):
        if _first(index, keys, slots, bits) != index:
            items += 1
            characters += sizes[index]
    return items, characters


@njit(cache=True, nogil=True)
def repeated_ngrams(
    hashes: Hashes,
    ends: Ints,
    spans: Ints,
    count: int,
    slots: Places,
    keys: Hashes,
    places: Places,
    firsts: Places,
    occurrences: Places,
    seen: Bytes,
    marks: Bytes,
    top: Counts,
    duplicate: Counts,
) -> None:
    """The characters of repeated n-grams of tokens, into `top` [3] for n = 2..4 and `duplicate` [6] for n = 5..10.

    hashes [count] of the tokens; ends [count + 1]: characters of all tokens before each; spans [count + 1]: the same
    with one more for each token after white space. slots to marks: scratch [count], but slots of `table_size(count)`
    and marks of twice that.

    top: occurrences x characters of the most frequent n-gram (the first of equals), white space between its tokens
    counted as one character; 0 where none occurs twice. duplicate: characters, white space left out, of the n-grams
    that occurred before, each token counted once: after such an n-gram the search goes on behind it (datatrove's way).
    """
    for index in range(len(top)):
        top[index] = 0
    for index in range(len(duplicate)):
        duplicate[index] = 0
    left = _pairs(hashes, max(count - 1, 0), keys, places, marks)
    for n in range(SHORTEST_TOP, LONGEST_DUPLICATE + 1):
        if left < 2:
            return
        _find_firsts(n, hashes, left, slots, keys, places, firsts, occurrences, seen)
        if n <= LONGEST_TOP:
            top[n - SHORTEST_TOP] = _most_frequent(n, ends, spans, left, places, firsts, occurrences)
        else:
            duplicate[n - SHORTEST_DUPLICATE] = _covered(n, ends, left, places, firsts, occurrences, seen)
        kept, before = 0, -2
        for index in range(left):
            place = int(places[index])
            if occurrences[firsts[place]] > 1:
                places[kept] = before
                kept += before + 1 == place
                before = place
        left = kept


@njit(cache=True, nogil=True)
def _find_firsts(
    n: int,
    hashes: Hashes,
    left: int,
    slots: Places,
    keys: Hashes,
    places: Places,
    firsts: Places,
    occurrences: Places,
    seen: Bytes,
) -> None:
    """Turn `firsts` from that of each place's (n-1)-gram into that of its n-gram, and count those."""
    bits = _clear(slots, left)
    for index in range(left):
        place = int(places[index])
        first = place
        if n == SHORTEST_TOP:
            first = _first(place, keys, slots, bits)
        elif firsts[place] != place:
            first = int(firsts[place])
            if hashes[first + n - 1] != hashes[place + n - 1]:
                keys[place] = np.uint64(first) << _SHIFT_32 | np.uint64(firsts[place + 1])
                first = _first(place, keys, slots, bits)
        firsts[place] = first
        if first == place:
            occurrences[place], seen[place] = 1, 0
        else:
            occurrences[first] += 1


@njit(cache=True, nogil=True)
def _most_frequent(
    n: int, ends: Ints, spans: Ints, left: int, places: Places, firsts: Places, occurrences: Places
) -> int:
    first, times = -1, 1
    for index in range(left):
        here = int(occurrences[firsts[places[index]]])
        if here > times:
            first, times = int(places[index]), here
    if first < 0:
        return 0
    # The white space before the first token isn't part of the n-gram.
    gap = (spans[first + 1] - spans[first]) - (ends[first + 1] - ends[first])
    return int(times * (spans[first + n] - spans[first] - gap))


@njit(cache=True, nogil=True)
def _covered(n: int, ends: Ints, left: int, places: Places, firsts: Places, occurrences: Places, seen: Bytes) -> int:
    characters, free = 0, 0
    for index in range(left):
        place = int(places[index])
        first = firsts[place]
        if place < free or occurrences[first] < 2:
            continue
        if seen[first]:
            characters += ends[place + n] - ends[place]
            free = place + n
        seen[first] = 1
    return characters
