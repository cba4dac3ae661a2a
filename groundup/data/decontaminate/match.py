"""Which n-grams of the index stand in which documents, and what that says of each document.

`matches` reads the texts and makes a small table. What is common in the corpus, which documents are contaminated and by
what is then told from such tables alone, so that another share needs no second reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from groundup.data.decontaminate.index import Array, Index, finish, may_hold, run_key
from groundup.data.dedup.shingles import Tokens, power, roll, tokenize
from groundup.data.jit import kernel

MATCHES = pa.schema([("row", pa.int64()), ("ngram", pa.int64())])
ITEM_HITS = pa.schema([("row", pa.int64()), ("item", pa.int64()), ("ngrams", pa.int64()), ("fraction", pa.float64())])
HITS = pa.schema(
    [("ngrams", pa.int64()), ("evaluation_set", pa.string()), ("item", pa.string()), ("fraction", pa.float64())]
)


def matches(texts: pa.LargeStringArray, index: Index) -> pa.Table:
    """MATCHES: each n-gram of the index in each text, once, by row and n-gram."""
    return token_matches(tokenize(texts), index)


def token_matches(tokens: Tokens, index: Index) -> pa.Table:
    """As `matches`, of texts already cut into tokens."""
    # A token begins at most one run of each length. Pages that aren't written take no memory.
    room = len(tokens.hashes) * (1 + len(index.lengths))
    rows, ngrams = np.empty(room, np.int64), np.empty(room, np.int64)
    count = 0
    if len(index.keys):
        count = _match(
            tokens.hashes,
            tokens.offsets,
            index.n,
            power(index.n),
            index.shortest,
            power(index.shortest),
            index.lengths,
            index.filter,
            index.beginnings,
            index.slots,
            index.keys,
            rows,
            ngrams,
        )
    pairs = np.unique(rows[:count] * len(index.keys) + ngrams[:count])
    found = np.divmod(pairs, max(1, len(index.keys)))
    return pa.Table.from_arrays([pa.array(column) for column in found], schema=MATCHES)


@kernel
def _match(
    tokens: Any,
    offsets: Any,
    n: int,
    highest: Any,
    shortest: int,
    shortest_highest: Any,
    lengths: Any,
    words: Any,
    beginnings: Any,
    slots: Any,
    keys: Any,
    rows: Any,
    ngrams: Any,
) -> int:
    count = 0
    for d in range(len(offsets) - 1):
        start, end = offsets[d], offsets[d + 1]
        state = short_state = np.uint64(0)
        for i in range(start, end):
            state = roll(state, tokens, i, start, n, highest)
            if i - start >= n - 1:
                key = finish(state, n)
                if may_hold(words, key):
                    place = _find(slots, keys, key)
                    if place >= 0:
                        rows[count], ngrams[count] = d, place
                        count += 1
            if len(lengths) > 0:
                # Whole items are looked for only where the first tokens of one stand.
                short_state = roll(short_state, tokens, i, start, shortest, shortest_highest)
                first = i - shortest + 1
                if first >= start and may_hold(beginnings, finish(short_state, shortest)):
                    for length in lengths:
                        if first + length > end:
                            break
                        key = run_key(tokens, first, length)
                        place = _find(slots, keys, key) if may_hold(words, key) else -1
                        if place >= 0:
                            rows[count], ngrams[count] = d, place
                            count += 1
    return count


@kernel
def _find(slots: Any, keys: Any, key: Any) -> int:
    mask = np.uint64(len(slots) - 1)
    place = (key >> np.uint64(20)) & mask
    while slots[place] >= 0:
        if keys[slots[place]] == key:
            return int(slots[place])
        place = (place + np.uint64(1)) & mask
    return -1


def item_hits(found: pa.Table, index: Index, common: Array | None = None) -> pa.Table:
    """ITEM_HITS: how many of an item's n-grams stand in a document, and what fraction of them that is, by row and
    item. n-grams marked in `common`, bool [G], don't count, neither in MATCHES nor of the item."""
    found = _counted(found, common)
    rows, ngrams = found["row"].to_numpy(), found["ngram"].to_numpy()
    sizes = np.diff(index.offsets)[ngrams]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = index.postings[np.repeat(index.offsets[ngrams], sizes) + within]
    size = max(1, len(index.items))
    pairs, counts = np.unique(np.repeat(rows, sizes) * size + items, return_counts=True)
    pair_rows, pair_items = np.divmod(pairs, size)
    fractions = counts / index.item_ngrams(common)[pair_items]
    columns = (pair_rows, pair_items, counts, fractions)
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=ITEM_HITS)


def _counted(found: pa.Table, common: Array | None) -> pa.Table:
    return found if common is None else found.filter(pa.array(~common[found["ngram"].to_numpy()]))


def hits(found: pa.Table, of_items: pa.Table, rows: int, index: Index, common: Array | None = None) -> pa.Table:
    """HITS, from MATCHES and ITEM_HITS, a row for each of `rows` documents: how many n-grams of the index it has, and
    the item of which it has the largest fraction (of equal ones, that of which it has the most, then the first), null
    where it has none. `common`: as for `item_hits`."""
    found = _counted(found, common)
    ngrams = np.bincount(found["row"].to_numpy(), minlength=rows)
    row, item, count, fraction = (of_items[name].to_numpy() for name in ITEM_HITS.names)
    order = np.lexsort((item, -count, -fraction, row))
    best = order[np.concatenate([[True], np.diff(row[order]) > 0])] if len(order) else order
    where = np.full(rows, -1)
    where[row[best]] = best
    chosen = pa.array(where, pa.int64(), mask=where < 0)
    items = pa.array(item).take(chosen)
    sets = pa.array(index.sets, pa.string()).take(pa.array(index.item_sets).take(items))
    columns = [pa.array(ngrams), sets, pa.array(index.items, pa.string()).take(items), pa.array(fraction).take(chosen)]
    return pa.Table.from_arrays(columns, schema=HITS)


def report(shards: Iterable[pa.Table], index: Index, fraction: float = 0.0) -> pa.Table:
    """By evaluation set and item, of the ITEM_HITS of all shards: in how many documents at least `fraction` of the
    item's n-grams stand, and the largest fraction in one document. Items in no document are left out."""
    documents, highest = np.zeros(len(index.items), np.int64), np.zeros(len(index.items))
    for table in shards:
        items, fractions = table["item"].to_numpy(), table["fraction"].to_numpy()
        enough = fractions >= fraction
        documents += np.bincount(items[enough], minlength=len(index.items))
        np.maximum.at(highest, items[enough], fractions[enough])
    found = np.flatnonzero(documents)
    return pa.table(
        {
            "evaluation_set": pa.array(index.sets, pa.string()).take(pa.array(index.item_sets[found])),
            "item": pa.array(index.items, pa.string()).take(pa.array(found)),
            "documents": documents[found],
            "fraction": highest[found],
        }
    )
