"""An index of the evaluation items' n-grams, in a folder, for tasks to map into memory.

An n-gram is a run of `n` tokens, cut as for near duplicates (`groundup.data.dedup.shingles`): 13 words as in Brown et
al. 2020 (arXiv:2005.14165, appendix C), or 13 characters of Chinese. n-grams don't reach from one field of an item into
the next. An item none of whose fields has n tokens is matched as a whole, if all its fields together have `shortest`
tokens at least; else it would be found everywhere.

n-grams that many different questions have in common say nothing of any of them ("Answer the following question with one
of the letters A to D"), and are left out: see `build_index`. A passage that many questions are about is no such thing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groundup.data.dedup.arrays import open_array, save
from groundup.data.dedup.shingles import MULTIPLIER, tokenize
from groundup.data.jit import kernel
from groundup.data.kernels import mix

Array = np.ndarray[Any, Any]

# Bits of the filter and slots of the hash table for each key, rounded up to a power of two.
_FILTER_BITS, _SLOTS = 16, 2
_ARRAYS = ("keys", "filter", "beginnings", "slots", "offsets", "postings", "item_sets", "lengths")


@dataclass(frozen=True)
class Index:
    """G distinct n-grams of I items.

    `keys` uint64 [G], sorted; n-gram g stands in the items `postings[offsets[g]:offsets[g + 1]]`. `filter` uint64, a
    Bloom filter of the keys (see `may_hold`); `slots` int64, an open hash table of positions in `keys`, -1 where free.
    `lengths` int64, the lengths of the items matched as a whole; `beginnings` uint64, a filter of their first
    `shortest` tokens. `item_sets` int32 [I]. `common`: how many n-grams are left out because items have them in
    common.
    """

    n: int
    shortest: int
    sets: list[str]
    items: list[str]
    common: int
    keys: Array
    filter: Array
    beginnings: Array
    slots: Array
    offsets: Array
    postings: Array
    item_sets: Array
    lengths: Array

    def item_ngrams(self, common: Array | None = None) -> Array:
        """How many distinct n-grams each item has, int64 [I], without those marked in `common`, bool [G]."""
        postings = self.postings if common is None else self.postings[np.repeat(~common, np.diff(self.offsets))]
        return np.bincount(postings, minlength=len(self.item_sets))


def build_index(
    sets: Iterable[tuple[str, Iterable[tuple[str, list[str]]]]], n: int = 13, shortest: int = 5, allowance: int = 0
) -> Index:
    """The index of evaluation sets, each a name and its items (id, texts of its fields).

    n-grams don't count that stand in more than `allowance` different texts, or in more than so many and more than half
    of the items of a set (0: all count). Fields of the same tokens are one text, such as the passage that several items
    ask about.
    """
    names: list[str] = []
    items: list[str] = []
    item_sets: list[int] = []
    texts: list[str] = []
    owners: list[int] = []
    for set_number, (name, members) in enumerate(sets):
        names.append(name)
        for item, fields in members:
            owners += [len(items)] * len(fields)
            texts += fields
            items.append(item)
            item_sets.append(set_number)
    shortest = min(shortest, n)
    keys, holders, of_texts, lengths, prefixes = _item_keys(texts, np.array(owners, np.int64), len(items), n, shortest)
    common = np.empty(0, np.uint64)
    if allowance:
        common = _common(keys, holders, of_texts, np.array(item_sets, np.int64), allowance)
        rare = ~np.isin(keys, common)
        keys, holders = keys[rare], holders[rare]
    return replace(
        ngram_index(keys, holders, len(items), n),
        shortest=shortest,
        sets=names,
        items=items,
        common=len(common),
        beginnings=_filter(prefixes),
        item_sets=np.array(item_sets, np.int32),
        lengths=lengths,
    )


def _common(keys: Array, holders: Array, of_texts: Array, item_sets: Array, allowance: int) -> Array:
    """The keys that don't count; uint64, sorted. `of_texts`: the text that each is of."""
    distinct, counts = _frequencies(keys, of_texts)
    found = [distinct[counts > allowance]]
    sets = item_sets[holders]
    for number, items in enumerate(np.bincount(item_sets).tolist()):
        distinct, counts = _frequencies(keys[sets == number], holders[sets == number])
        found.append(distinct[counts > max(allowance, items / 2)])
    return np.unique(np.concatenate(found))


def _frequencies(keys: Array, others: Array) -> tuple[Array, Array]:
    """The distinct keys, and with how many different `others` each stands."""
    pairs = np.unique(np.stack([keys, others.astype(np.uint64)], axis=1), axis=0)
    return np.unique(pairs[:, 0], return_counts=True)


def ngram_index(keys: Array, holders: Array, items: int, n: int) -> Index:
    """The index of the n-grams `keys` (uint64 [M], see `run_keys`) of the items `holders` (int64 [M]), with repeats, of
    one set without a name."""
    pairs = np.unique(np.stack([keys, holders.astype(np.uint64)], axis=1), axis=0)
    keys, sizes = np.unique(pairs[:, 0], return_counts=True)
    return Index(
        n=n,
        shortest=n,
        sets=[],
        items=[],
        common=0,
        keys=keys,
        filter=_filter(keys),
        beginnings=_filter(np.empty(0, np.uint64)),
        slots=_slots(keys),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(np.int64),
        postings=pairs[:, 1].astype(np.int64),
        item_sets=np.zeros(items, np.int32),
        lengths=np.empty(0, np.int64),
    )


def save_index(index: Index, folder: Path) -> None:
    """Write the index into `folder`. `index.json` comes last: where it is, all is."""
    about = folder / "index.json"
    about.unlink(missing_ok=True)
    for name in _ARRAYS:
        save(folder / f"{name}.npy", getattr(index, name))
    facts = {name: getattr(index, name) for name in ("n", "shortest", "sets", "items", "common")}
    temporary = folder / f".index.json.{os.getpid()}"
    temporary.write_text(json.dumps(facts, ensure_ascii=False))
    os.replace(temporary, about)


def load_index(folder: Path) -> Index:
    """The index in `folder`, its arrays mapped."""
    facts = json.loads((folder / "index.json").read_text())
    arrays: dict[str, Any] = {name: open_array(folder / f"{name}.npy") for name in _ARRAYS}
    return Index(**facts, **arrays)


def _item_keys(texts: list[str], owners: Array, items: int, n: int, shortest: int) -> tuple[Array, ...]:
    """Keys, the items that have them and hashes of the texts that they are of, with repeats; the lengths of whole
    items; the keys of their first tokens."""
    tokens = tokenize(pa.array(texts, pa.large_string()))
    lengths = np.diff(tokens.offsets)
    long_items = np.zeros(items, bool)
    long_items[owners[lengths >= n]] = True
    keys, holders, of_texts, wholes, prefixes = [], [], [], [], []
    for field in np.flatnonzero(lengths >= n):
        own = tokens.hashes[tokens.offsets[field] : tokens.offsets[field + 1]]
        keys.append(run_keys(own, n))
        holders.append(np.full(len(keys[-1]), owners[field]))
        of_texts.append(np.full(len(keys[-1]), run_key(own, 0, len(own)), np.uint64))
    starts = np.searchsorted(owners, np.arange(items + 1))
    for item in np.flatnonzero(~long_items):
        own = tokens.hashes[tokens.offsets[starts[item]] : tokens.offsets[starts[item + 1]]]
        # Fields that are short alone may be long together; then the first n tokens stand for the whole.
        own = own[:n]
        if len(own) >= shortest:
            keys.append(np.array([run_key(own, 0, len(own))], np.uint64))
            holders.append(np.array([item]))
            of_texts.append(keys[-1])
            if len(own) < n:
                wholes.append(len(own))
                prefixes.append(run_key(own, 0, shortest))
    none = np.empty(0, np.uint64)
    return (
        np.concatenate([none, *keys]),
        np.concatenate([np.empty(0, np.int64), *holders]),
        np.concatenate([none, *of_texts]),
        np.unique(np.array(wholes, np.int64)),
        np.array(prefixes, np.uint64),
    )


@kernel
def finish(state: np.uint64, length: int) -> np.uint64:
    """The key of a run of tokens, from its polynomial hash and its length."""
    return mix(state ^ mix(np.uint64(length)))


@kernel
def run_key(tokens: Any, start: int, length: int) -> np.uint64:
    """The key of tokens[start : start + length]."""
    state = np.uint64(0)
    for i in range(start, start + length):
        state = state * MULTIPLIER + tokens[i]
    return finish(state, length)


@kernel
def run_keys(tokens: Any, length: int) -> Any:
    """The keys of all runs of so many tokens."""
    keys = np.empty(len(tokens) - length + 1, np.uint64)
    for start in range(len(keys)):
        keys[start] = run_key(tokens, start, length)
    return keys


def _power_of_two(least: int) -> int:
    return 1 << max(6, (least - 1).bit_length())


def _filter(keys: Array) -> Array:
    bits = _power_of_two(_FILTER_BITS * len(keys))
    words = np.zeros(bits // 64, np.uint64)
    _mark(words, keys)
    return words


@kernel
def _two_bits(key: np.uint64) -> np.uint64:
    one = np.uint64(1)
    return (one << (key & np.uint64(63))) | (one << ((key >> np.uint64(6)) & np.uint64(63)))


@kernel
def _mark(words: Any, keys: Any) -> None:
    for key in keys:
        words[(key >> np.uint64(12)) & np.uint64(len(words) - 1)] |= _two_bits(key)


@kernel
def may_hold(words: Any, key: Any) -> bool:
    """Whether the filter has the key; one of 50 others passes too. Both bits stand in one word: one memory access."""
    bits = _two_bits(key)
    return bool((words[(key >> np.uint64(12)) & np.uint64(len(words) - 1)] & bits) == bits)


def _slots(keys: Array) -> Array:
    slots = np.full(_power_of_two(_SLOTS * len(keys)), -1, np.int64)
    _fill(slots, keys)
    return slots


@kernel
def _fill(slots: Any, keys: Any) -> None:
    mask = np.uint64(len(slots) - 1)
    for k in range(len(keys)):
        place = (keys[k] >> np.uint64(20)) & mask
        while slots[place] >= 0:
            place = (place + np.uint64(1)) & mask
        slots[place] = k
