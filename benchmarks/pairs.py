"""Near duplicates held against an exhaustive check: the Jaccard similarity of all pairs of a sample."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from groundup.data.dedup.arrays import document_numbers, save
from groundup.data.dedup.bands import MARGIN, choose_bands, scatter_bands
from groundup.data.dedup.candidates import band_edges
from groundup.data.dedup.components import components
from groundup.data.dedup.shingles import tokenize
from groundup.data.dedup.signatures import token_signatures

_LONGEST = 6_000  # characters of a document of the sample
_HARD = 0.2  # pairs less than this below the threshold are the hard ones


def plant(texts: Sequence[str], copies: int) -> list[str]:
    """The texts cut short, and so many copies of some, in which from none to a third of the words are others."""
    generator = random.Random(1)
    short = [text[:_LONGEST] for text in texts]
    planted = []
    for text in generator.choices(short, k=copies):
        parts, glue = (text.split(" "), " ") if " " in text else (list(text), "")
        others = generator.choice(short).split(" ") if glue else list(generator.choice(short))
        share = generator.random() / 3
        planted.append(glue.join(generator.choice(others) if generator.random() < share else part for part in parts))
    return [*short, *planted]


def check(texts: Sequence[str], threshold: float, permutations: int = 128, ngram: int = 5) -> dict[str, Any]:
    """What the near-duplicate stage joins of all pairs of texts, by how alike they are.

    recall: of pairs at least MARGIN above the threshold, the share in one cluster. apart: pairs that the exhaustive
    check puts into different clusters; joined: their share in one cluster. hard: the same of those of them less than
    0.2 below the threshold.
    """
    tokens = tokenize(pa.array(texts, pa.large_string()))
    sets = [_ngrams(tokens.hashes[a:b], ngram) for a, b in pairwise(tokens.offsets)]
    ends = np.cumsum([0, *map(len, sets)])
    first, second, similarity = _similarities(np.concatenate(sets), ends)
    exact = _clusters(len(texts), first[similarity >= threshold], second[similarity >= threshold])
    found = _found(token_signatures(tokens, permutations, ngram, 0), threshold)
    together = found[first] == found[second]
    above = similarity >= threshold + MARGIN
    hard = (exact[first] != exact[second]) & (similarity >= threshold - _HARD)
    both = np.unique(np.stack([found, exact]), axis=1, return_inverse=True)[1]
    apart = len(texts) * (len(texts) - 1) // 2 - _pairs(exact)
    return {
        "threshold": threshold,
        "documents": len(texts),
        "pairs_above": int(above.sum()),
        "recall": round(float(together[above].mean()), 5),
        "pairs_apart": apart,
        "joined": round((_pairs(found) - _pairs(both)) / apart, 8),
        "hard_pairs_apart": int(hard.sum()),
        "hard_joined": round(float(together[hard].mean()), 5),
    }


def _ngrams(tokens: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """The distinct runs of n tokens, hashed apart from how the product does it; none of a shorter text."""
    if len(tokens) < n:
        return np.empty(0, np.uint64)
    factors = np.random.default_rng(7).integers(1, 1 << 63, n, np.uint64) * np.uint64(2) + np.uint64(1)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, n)
    return np.unique((windows * factors).sum(1, dtype=np.uint64))


def _found(signatures: NDArray[np.uint32], threshold: float) -> NDArray[np.int64]:
    """The root of each document, by the functions of the stage near_dedup."""
    banding = choose_bands(threshold, signatures.shape[1])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder / "signatures.npy", signatures)
        chosen = np.ones(len(signatures), bool)
        numbers = document_numbers(0, len(signatures))
        scatter_bands(signatures, chosen, numbers, (banding.bands, banding.rows), folder / "bands.npy")
        for band in range(banding.bands):
            edges = band_edges([folder / "bands.npy"], [folder / "signatures.npy"], banding, band, 0, 1)
            save(folder / f"edges-{band}.npy", edges)
        components(sorted(folder.glob("edges-*.npy")), [len(signatures)], folder / "roots.npy")
        return np.asarray(np.load(folder / "roots.npy"), np.int64)


def _clusters(documents: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder / "edges.npy", np.stack([first, second], axis=1).astype(np.uint64))
        components([folder / "edges.npy"], [documents], folder / "roots.npy")
        return np.asarray(np.load(folder / "roots.npy"), np.int64)


def _pairs(clusters: NDArray[np.int64]) -> int:
    """How many pairs are in one cluster, given each document's."""
    sizes = np.bincount(clusters.ravel())
    return int((sizes * (sizes - 1) // 2).sum())


def _similarities(
    hashes: NDArray[np.uint64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """All pairs with a common n-gram: the two, and their Jaccard similarity."""
    common = np.zeros((len(ends) - 1, len(ends) - 1), np.int32)
    order = np.argsort(hashes, kind="stable")
    owners = np.searchsorted(ends, order, side="right") - 1
    _count_common(hashes[order], owners, common)
    first, second = np.nonzero(common)
    sizes = np.diff(ends)
    shared = common[first, second]
    return first, second, shared / (sizes[first] + sizes[second] - shared)


@njit
def _count_common(hashes: Any, owners: Any, common: Any) -> None:
    """For every hash, one more for each pair of its documents, the smaller first."""
    start = 0
    for i in range(1, len(hashes) + 1):
        if i == len(hashes) or hashes[i] != hashes[start]:
            for a in range(start, i):
                for b in range(a + 1, i):
                    common[owners[a], owners[b]] += 1
            start = i
