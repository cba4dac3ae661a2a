"""Training, validation and test rows: exact counts, by class, in an order that hangs on the rows' content only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.recipe.table import TableData

PARTS = ("train", "validation", "test")
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """`part`: int8 per row, the place in `PARTS`. `scarce`: the classes, where they were told apart, that had too few
    rows for every part."""

    part: NDArray[np.int8]
    scarce: list[int]


def split_rows(classes: NDArray[np.int32], keys: NDArray[np.uint64], count: int, data: TableData) -> Split:
    """Divide the rows. `classes`: ids 0 .. `count`-1; `keys`: 64 bits of (seed, content) per row.

    Test and validation get round(fraction x rows) rows, at least one. With `data.stratify` they are shared out over
    the classes by largest remainders, at least one row for each class where there are as many rows as classes. Rows
    of equal keys stay together, so where rows are not deduplicated a count may be off by the copies of one row. A
    class with fewer distinct rows than parts goes to training.
    """
    if not data.stratify:
        classes, count = np.zeros_like(classes), 1
    fractions = {2: data.test_fraction, 1: data.validation_fraction}
    wanted = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    order = np.lexsort((keys, classes))
    sorted_classes, sorted_keys = classes[order], keys[order]
    bounds = np.searchsorted(sorted_classes, np.arange(count + 1))
    # A group is a run of rows with the same content.
    starts = np.ones(len(order), bool)
    starts[1:] = (sorted_keys[1:] != sorted_keys[:-1]) | (sorted_classes[1:] != sorted_classes[:-1])
    sizes = np.diff(bounds)
    groups = np.add.reduceat(np.append(starts, False), bounds[:-1]) * (sizes > 0)
    enough = groups > len(wanted)
    scarce = [int(c) for c in np.nonzero(~enough & (sizes > 0))[0]] if data.stratify else []

    part = np.zeros(len(order), np.int8)
    taken = np.zeros(count, np.int64)
    for number, fraction in wanted.items():
        later = sum(1 for p in wanted if p < number) + 1
        room = np.maximum(sizes - taken - later, 0) * enough
        total = max(1, math.floor(len(order) * fraction + 0.5))
        shares = _shares(sizes * enough, total, room)
        for c in np.nonzero(shares)[0]:
            first = int(bounds[c] + taken[c])
            inside = starts[first : bounds[c + 1]]
            length = _whole_groups(inside, int(shares[c]), later)
            part[first : first + length] = number
            taken[c] += length
    result = np.empty(len(order), np.int8)
    result[order] = part
    return Split(result, scarce)


def _shares(sizes: Counts, total: int, room: Counts) -> Counts:
    """`total` rows shared out in proportion to `sizes`, at most `room` for each class; and at least 1 for each that has
    any, if there are so many."""
    if not sizes.any():
        return np.zeros_like(sizes)
    quota = sizes * (min(total, int(room.sum())) / sizes.sum())
    least = np.minimum(1, room)
    if least.sum() > total:
        least = np.zeros_like(room)
    share: Counts = np.clip(np.floor(quota).astype(np.int64), least, room)
    while (lack := total - int(share.sum())) != 0:
        # The class farthest from its quota gives or takes a row first; the first of equals.
        can = share < room if lack > 0 else share > least
        if not can.any():
            break
        distance = np.where(can, (quota - share) * np.sign(lack), -np.inf)
        chosen = np.argsort(-distance, kind="stable")[: min(abs(lack), int(can.sum()))]
        share[chosen] += np.sign(lack)
    return share


def _whole_groups(starts: NDArray[np.bool_], wanted: int, leave: int) -> int:
    """The length nearest to `wanted` that cuts no group, takes at least one and leaves at least `leave` of them."""
    cuts = np.append(np.nonzero(starts)[0], len(starts))[1:]
    cuts = cuts[: len(cuts) - leave]
    return int(cuts[np.argmin(np.abs(cuts - wanted))])
