"""How much of a document repeats itself: Gopher's measures (Rae et al. 2021, table A1) over hashes of its tokens.

An n-gram can only repeat where the (n-1)-grams at its start and one further both repeat. So each length looks only
at the places that the length before left over. A place is known by the first place with the same n-gram. Mostly that
stays the same from one length to the next: it does where the token behind both n-grams is the same, which takes one
comparison and no look into a table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from groundup.data.intrinsics import peek_8, peek_uint32, poke_uint32, poke_uint64
from groundup.data.jit import inlined, kernel
from groundup.data.kernels import HASH_FACTOR
from groundup.data.texts import Bytes

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]

SHORTEST_TOP, LONGEST_TOP = 2, 4
SHORTEST_DUPLICATE, LONGEST_DUPLICATE = 5, 10

_SHIFT_32 = np.uint64(32)

# A place in a slot, below the length of n-gram that it was written for.
_PLACE_BITS = 20
_PLACE_MASK = (1 << _PLACE_BITS) - 1
MOST_TOKENS = 1 << _PLACE_BITS  # that n-grams are found among


@kernel
def table_size(items: int) -> int:
    """Slots of a hash table that stays at most half full: a power of two."""
    size = 16
    while size < 2 * items:
        size *= 2
    return size


@inlined
def _bits(size: int) -> int:
    bits = 0
    while size > 1:
        size >>= 1
        bits += 1
    return bits


@kernel
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


@inlined
def _bits_for(items: int) -> int:
    return int(_bits(table_size(items)))


@kernel
def _first(place: int, keys: int, slots: int, bits: int, stamp: int) -> int:
    """The first place with this place's key; itself, where there was none. Equal hashes are taken for equal items.

    keys, slots: the arrays' addresses. A slot holds a place and who wrote it: what another stamp wrote is empty, so
    that one table serves all lengths. No branch depends on whether the key is new.
    """
    key = peek_8(keys, 8 * place)
    at = int(np.int64((key * HASH_FACTOR) >> np.uint64(64 - bits)))
    while True:
        found = peek_uint32(slots, at)
        first = found & _PLACE_MASK if found >> _PLACE_BITS == stamp else place
        poke_uint32(slots, at, stamp << _PLACE_BITS | first)
        if peek_8(keys, 8 * first) == key:
            return first
        at = (at + 1) & ((1 << bits) - 1)


@kernel
def repeated(keys: Hashes, sizes: Ints, count: int, slots: Places) -> tuple[int, int]:
    """(items that occurred before, their characters). keys, sizes (characters) [count]; slots: scratch of
    `table_size(count)`."""
    slots[: table_size(count)] = 0
    bits = _bits_for(count)
    items, characters = 0, 0
    for index in range(count):
        if _first(index, keys.ctypes.data, slots.ctypes.data, bits, 1) != index:
            items += 1
            characters += sizes[index]
    return items, characters


@kernel
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
    if left < 2:
        return
    slots[: table_size(left)] = 0
    seen[:count] = 0
    for n in range(SHORTEST_TOP, LONGEST_DUPLICATE + 1):
        if n <= LONGEST_TOP:
            top[n - SHORTEST_TOP] = _most_frequent(
                n, hashes, ends, spans, left, slots, keys, places, firsts, occurrences
            )
        else:
            duplicate[n - SHORTEST_DUPLICATE] = _covered(
                n, hashes, ends, left, slots, keys, places, firsts, occurrences, seen
            )
        left = _prune(left, places, firsts, occurrences)
        if left < 2:
            return


@kernel
def _prune(left: int, places: Places, firsts: Places, occurrences: Places) -> int:
    """Leave the places where this n-gram and that at the next place occur twice; how many. No branch."""
    kept, before = 0, -2
    pa, fa, oa = places.ctypes.data, firsts.ctypes.data, occurrences.ctypes.data
    for index in range(left):
        place = peek_uint32(pa, index)
        again = peek_uint32(oa, peek_uint32(fa, place)) > 1
        poke_uint32(pa, kept, before)
        kept += again and before + 1 == place
        before = place if again else -2
    return kept


@kernel
def _lengthen(place: int, n: int, hashes: int, keys: int, firsts: int, slots: int, bits: int) -> int:
    """Turn the first place of this place's (n-1)-gram into that of its n-gram. All arrays by address."""
    first = peek_uint32(firsts, place)
    if peek_8(hashes, 8 * (first + n - 1)) != peek_8(hashes, 8 * (place + n - 1)):
        poke_uint64(keys, place, np.uint64(first) << _SHIFT_32 | np.uint64(peek_uint32(firsts, place + 1)))
        first = _first(place, keys, slots, bits, n)
        poke_uint32(firsts, place, first)
    return first


@kernel
def _most_frequent(
    n: int,
    hashes: Hashes,
    ends: Ints,
    spans: Ints,
    left: int,
    slots: Places,
    keys: Hashes,
    places: Places,
    firsts: Places,
    occurrences: Places,
) -> int:
    """Find the first places of the n-grams and count those; occurrences x characters of the most frequent one."""
    bits = _bits_for(left)
    pa, fa, oa, ha = places.ctypes.data, firsts.ctypes.data, occurrences.ctypes.data, hashes.ctypes.data
    ka, sa = keys.ctypes.data, slots.ctypes.data
    most, times = -1, 1
    for index in range(left):
        place = peek_uint32(pa, index)
        if n == SHORTEST_TOP:
            first = _first(place, ka, sa, bits, n)
            poke_uint32(fa, place, first)
        else:
            first = _lengthen(place, n, ha, ka, fa, sa, bits)
        here = peek_uint32(oa, first) * (first != place) + 1
        poke_uint32(oa, first, here)
        if here >= times and here > 1 and (here > times or first < most):
            most, times = first, here
    if most < 0:
        return 0
    # The white space before the first token isn't part of the n-gram.
    gap = (spans[most + 1] - spans[most]) - (ends[most + 1] - ends[most])
    return int(times * (spans[most + n] - spans[most] - gap))


@kernel
def _covered(
    n: int,
    hashes: Hashes,
    ends: Ints,
    left: int,
    slots: Places,
    keys: Hashes,
    places: Places,
    firsts: Places,
    occurrences: Places,
    seen: Bytes,
) -> int:
    """Find the first places of the n-grams and which occur twice; the characters of those that occurred before."""
    bits = _bits_for(left)
    pa, fa, oa, ha = places.ctypes.data, firsts.ctypes.data, occurrences.ctypes.data, hashes.ctypes.data
    ka, sa = keys.ctypes.data, slots.ctypes.data
    characters, free = 0, 0
    for index in range(left):
        place = peek_uint32(pa, index)
        first = _lengthen(place, n, ha, ka, fa, sa, bits)
        poke_uint32(oa, first, 1 + (first != place))
        if place >= free:
            if seen[first] == n:
                characters += ends[place + n] - ends[place]
                free = place + n
            seen[first] = n
    return characters
