"""MinHash signatures: the share of equal entries in two signatures estimates the Jaccard similarity of the two texts'
sets of n-grams.

The sketch is Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup, FOCS 2017, arXiv:1704.04370): in round i each
shingle is hashed anew and thrown into one of P buckets, each of which keeps its smallest hash; rounds go on until no
bucket is empty, and from round P on each fills one given bucket. Like MinHash with P permutations it is unbiased, and
its variance is no larger; but a long text needs one round, one hash a shingle instead of P.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from groundup.data.dedup.shingles import Tokens, power, roll, tokenize
from groundup.data.jit import kernel
from groundup.data.kernels import mix

# The signature of a text with fewer tokens than the n-gram has consists of this number. It never joins another.
NO_SHINGLE = np.uint32(0xFFFFFFFF)

# Shingles held for the next rounds, in multiples of P. With half so many distinct ones, the chance that one of the P
# buckets is empty after the first round is P * exp(-256).
_HELD = 512


def signatures(texts: pa.LargeStringArray, permutations: int, ngram: int, seed: int) -> np.ndarray[Any, Any]:
    """The signature of each text, uint32 [N, permutations], from the set of its runs of `ngram` tokens."""
    return token_signatures(tokenize(texts), permutations, ngram, seed)


def token_signatures(tokens: Tokens, permutations: int, ngram: int, seed: int) -> np.ndarray[Any, Any]:
    """As `signatures`, of texts already cut into tokens."""
    out = np.empty((len(tokens), permutations), np.uint32)
    held = np.empty(_HELD * permutations, np.uint64)
    first = np.uint64(mix(np.uint64(seed % (1 << 64))))
    _sign(tokens.hashes, tokens.offsets, ngram, power(ngram), first, held, out)
    return out


@kernel
def _bucket(value: np.uint64, buckets: int) -> np.int64:
    return np.int64(((value >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32))


@kernel
def _sign(tokens: Any, offsets: Any, n: int, highest: Any, seed: Any, held: Any, out: Any) -> None:
    size = out.shape[1]
    largest = np.uint64(0xFFFFFFFFFFFFFFFF)
    minima = np.empty(size, np.uint64)
    for d in range(len(offsets) - 1):
        start, end = offsets[d], offsets[d + 1]
        if end - start < n:
            out[d, :] = NO_SHINGLE
            continue
        minima[:] = largest
        empty, count = size, 0
        state = np.uint64(0)
        for i in range(start, end):
            state = roll(state, tokens, i, start, n, highest)
            if i - start < n - 1:
                continue
            shingle = mix(state) ^ seed
            value = mix(shingle)
            bucket = _bucket(value, size)
            if empty > 0:
                if minima[bucket] == largest:
                    empty -= 1
                if count == len(held):
                    distinct = np.unique(held)
                    count = len(distinct)
                    held[:count] = distinct
                if count < len(held):
                    held[count] = shingle
                    count += 1
            if value < minima[bucket]:
                minima[bucket] = value
        if empty > 0:
            _densify(held[:count], minima, empty)
        for p in range(size):
            out[d, p] = np.uint32(mix(minima[p]) >> np.uint64(32))


@kernel
def _densify(shingles: Any, minima: Any, empty: int) -> None:
    """Rounds 1 to 2P - 1: fill the empty buckets. A bucket filled in an earlier round stays as it is."""
    size = len(minima)
    largest = np.uint64(0xFFFFFFFFFFFFFFFF)
    closed = minima != largest
    for turn in range(1, 2 * size):
        salt = mix(np.uint64(turn))
        for k in range(len(shingles)):
            value = mix(shingles[k] ^ salt)
            bucket = _bucket(value, size) if turn < size else turn - size
            if not closed[bucket] and value < minima[bucket]:
                minima[bucket] = value
        for p in range(size):
            if not closed[p] and minima[p] != largest:
                closed[p] = True
                empty -= 1
        if empty == 0:
            return


@kernel
def equal_entries(first: Any, second: Any) -> int:
    """How many entries two signatures share."""
    count = 0
    for p in range(len(first)):
        count += first[p] == second[p]
    return count
