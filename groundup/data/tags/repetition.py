"""How much of a document repeats itself: Gopher's measures (Rae et al. 2021, table A1) over hashes of its tokens.

An n-gram can only repeat where the (n-1)-grams at its start and one further both repeat. So each length looks only
at the places that the length before left over, and an n-gram is the pair of the numbers of those two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from groundup.data.kernels import HASH_FACTOR, Bytes

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

SHORTEST_TOP, LONGEST_TOP = 2, 4
SHORTEST_DUPLICATE, LONGEST_DUPLICATE = 5, 10

_SHIFT_32 = np.uint64(32)


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
def sift(keys: Hashes, places: Ints, count: int, marks: Bytes) -> int:
    """Keep the keys that may occur twice, with their places, in order; returns how many. What is left out occurs once.

    marks: scratch of at least `2 * table_size(count)`. No branch depends on the keys, which is why this comes first.
    """
    size = 2 * table_size(count)
    shift = np.uint64(64 - _bits(size))
    for slot in range(size):
        marks[slot] = 0
    for index in range(count):
        at = np.int64((keys[index] * HASH_FACTOR) >> shift)
        marks[at] = marks[at] << 1 | 1
    kept = 0
    for index in range(count):
        key, place = keys[index], places[index]
        keys[kept], places[kept] = key, place
        kept += marks[np.int64((key * HASH_FACTOR) >> shift)] >> 1 & 1
    return kept


@njit(cache=True, nogil=True)
def number(keys: Hashes, count: int, slots: Ints, numbers: Ints, occurrences: Ints) -> int:
    """Give equal keys the same number, in the order of their first occurrence; returns how many differ.

    keys [count]; slots: scratch of at least `table_size(count)`; numbers [count]: the number of each key;
    occurrences [number]: how often it occurs. Equal hashes are taken for equal items.
    """
    size = table_size(count)
    mask = np.uint64(size - 1)
    shift = np.uint64(64 - _bits(size))
    for slot in range(size):
        slots[slot] = -1
    distinct = 0
    for index in range(count):
        key = keys[index]
        at = (key * HASH_FACTOR) >> shift
        while True:
            first = slots[np.int64(at)]
            if first < 0:
                slots[np.int64(at)] = index
                numbers[index] = distinct
                occurrences[distinct] = 1
                distinct += 1
                break
            if keys[first] == key:
                numbers[index] = numbers[first]
                occurrences[numbers[first]] += 1
                break
            at = (at + np.uint64(1)) & mask
    return distinct


@njit(cache=True, nogil=True)
def repeated(
    keys: Hashes, sizes: Ints, count: int, slots: Ints, numbers: Ints, occurrences: Ints, seen: Ints
) -> tuple[int, int]:
    """(items that occurred before, their characters). keys, sizes (characters) [count]; the rest is scratch."""
    distinct = number(keys, count, slots, numbers, occurrences)
    if distinct == count:
        return 0, 0
    for index in range(distinct):
        seen[index] = 0
    items, characters = 0, 0
    for index in range(count):
        if seen[numbers[index]]:
            items += 1
            characters += sizes[index]
        seen[numbers[index]] = 1
    return items, characters


@njit(cache=True, nogil=True)
def repeated_ngrams(
    hashes: Hashes,
    ends: Ints,
    spans: Ints,
    count: int,
    slots: Ints,
    keys: Hashes,
    places: Ints,
    numbers: Ints,
    occurrences: Ints,
    seen: Ints,
    marks: Bytes,
    top: Counts,
    duplicate: Counts,
) -> None:
    """The characters of repeated n-grams of tokens, into `top` [3] for n = 2..4 and `duplicate` [6] for n = 5..10.

    hashes [count] of the tokens; ends [count + 1]: characters of all tokens before each; spans [count + 1]: the same
    with one more for each token after white space. slots to marks: scratch, slots of `table_size(count)`, marks of
    twice that.

    top: occurrences x characters of the most frequent n-gram (the first of equals), white space between its tokens
    counted as one character; 0 where none occurs twice. duplicate: characters, white space left out, of the n-grams
    that occurred before, each token counted once: after such an n-gram the search goes on behind it (datatrove's way).
    """
    for index in range(len(top)):
        top[index] = 0
    for index in range(len(duplicate)):
        duplicate[index] = 0
    left = max(count - 1, 0)
    for index in range(left):
        keys[index] = hashes[index] * HASH_FACTOR + hashes[index + 1]
        places[index] = index
    for n in range(SHORTEST_TOP, LONGEST_DUPLICATE + 1):
        left = sift(keys, places, left, marks)
        if left < 2:
            return
        distinct = number(keys, left, slots, numbers, occurrences)
        if distinct == left:
            return
        if n <= LONGEST_TOP:
            top[n - SHORTEST_TOP] = _most_frequent(n, ends, spans, left, places, numbers, occurrences)
        else:
            duplicate[n - SHORTEST_DUPLICATE] = _covered(n, ends, left, places, numbers, occurrences, distinct, seen)
        kept = 0
        for index in range(left - 1):
            if (
                places[index + 1] == places[index] + 1
                and occurrences[numbers[index]] > 1
                and occurrences[numbers[index + 1]] > 1
            ):
                keys[kept] = np.uint64(numbers[index]) << _SHIFT_32 | np.uint64(numbers[index + 1])
                places[kept] = places[index]
                kept += 1
        left = kept


@njit(cache=True, nogil=True)
def _most_frequent(n: int, ends: Ints, spans: Ints, left: int, places: Ints, numbers: Ints, occurrences: Ints) -> int:
    best, times = -1, 1
    for index in range(left):
        if occurrences[numbers[index]] > times:
            best, times = index, occurrences[numbers[index]]
    if best < 0:
        return 0
    first = places[best]
    # The white space before the first token isn't part of the n-gram.
    gap = (spans[first + 1] - spans[first]) - (ends[first + 1] - ends[first])
    return int(times * (spans[first + n] - spans[first] - gap))


@njit(cache=True, nogil=True)
def _covered(
    n: int, ends: Ints, left: int, places: Ints, numbers: Ints, occurrences: Ints, distinct: int, seen: Ints
) -> int:
    for index in range(distinct):
        seen[index] = 0
    characters, free = 0, 0
    for index in range(left):
        first = places[index]
        which = numbers[index]
        if first < free or occurrences[which] < 2:
            continue
        if seen[which]:
            characters += ends[first + n] - ends[first]
            free = first + n
        seen[which] = 1
    return characters
