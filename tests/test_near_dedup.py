"""Near duplicates: signatures, bands, edges and clusters, held against exhaustive checks."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from groundup.data.dedup import arrays, bands, candidates, components, keep
from groundup.data.dedup.shingles import Tokens
from groundup.data.dedup.signatures import NO_SHINGLE, signatures, token_signatures
from groundup.errors import UserError

# The first example of a test may wait for the kernel to be compiled.
COMPILING = settings(deadline=None, max_examples=60)


def large(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


# Signatures


def set_signature(shingles: NDArray[np.uint64], seed: int) -> NDArray[np.uint32]:
    """Of one set of shingles, given by their hashes."""
    found: NDArray[np.uint32] = token_signatures(Tokens(shingles, np.array([0, len(shingles)])), 128, 1, seed)[0]
    return found


@pytest.mark.parametrize("size", [1, 3, 40, 128, 2000, 40_000])
@pytest.mark.parametrize("similarity", [0.3, 0.8])
def test_signatures_estimate_the_jaccard_similarity(size: int, similarity: float) -> None:
    random = np.random.default_rng(size)
    common = round(size * similarity)
    trials = 20 if size > 10_000 else 150
    errors = []
    for trial in range(trials):
        pool = random.integers(0, 2**64, 2 * size - common, np.uint64)
        exactly = common / len(pool)
        first = set_signature(pool[:size], trial)
        second = set_signature(np.concatenate([pool[:common], pool[size:]]), trial)
        errors.append(float((first == second).mean()) - exactly)
    spread = (exactly * (1 - exactly) / 128) ** 0.5
    assert abs(np.mean(errors)) <= 4 * spread / trials**0.5 + 1e-9
    # The variance of MinHash, which this sketch's must not exceed but by chance.
    assert np.var(errors) <= spread**2 * (1 + 4 * (2 / trials) ** 0.5) + 1e-9


def test_a_signature_is_of_the_set() -> None:
    once = large(["one two three four five six", "one two three four five six " * 30_000])
    twice = large(["One, two! three\nfour five  SIX", "six one two three four five " * 4])
    for first, second in [(once[:1], twice[:1]), (once[1:], twice[1:])]:
        left, right = (signatures(t, 128, 5, 3) for t in (first, second))
        assert (left == right).all()
    assert (signatures(once, 128, 5, 3) != signatures(once, 128, 5, 4)).any()


def test_texts_without_a_shingle_never_join() -> None:
    signed = signatures(large(["", "one two three four", "...", "一二三四", "一二三四五"]), 64, 5, 0)
    assert (signed[:4] == NO_SHINGLE).all()
    for band in range(8):
        keys = bands.band_keys(signed, band, 8)
        assert (keys[:4] == bands.NO_KEY).all()
        assert keys[4] != bands.NO_KEY


# Bands, edges and clusters


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.75, 0.8, 0.85])
def test_bands_find_what_is_above_the_threshold(threshold: float) -> None:
    banding = bands.choose_bands(threshold, 128)
    assert banding.bands * banding.rows <= 128
    assert banding.joined(threshold + 0.1) >= 0.95
    uniform = [banding.joined(j) for j in np.linspace(0, threshold, 200)]
    assert np.mean(uniform) <= 0.02


def test_too_few_permutations_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="too few"):
        bands.choose_bands(0.05, 4)
    with pytest.raises(UserError, match="no similarity"):
        bands.choose_bands(1.0, 128)


WORDS = np.array([f"w{i}" for i in range(5000)])


def planted(random: np.random.Generator, families: int) -> list[str]:
    """Texts in pairs, the second with a share of its words replaced, so that similarities spread over 0.3 to 1."""
    texts = []
    for _ in range(families):
        words = random.choice(WORDS, random.integers(60, 400))
        changed = np.where(random.random(len(words)) < random.uniform(0, 0.13), random.choice(WORDS, len(words)), words)
        texts += [" ".join(words), " ".join(changed)]
    return texts


def exact_similarities(texts: list[str], n: int) -> dict[tuple[int, int], float]:
    """The Jaccard similarity of every pair that shares a shingle."""
    sets = [{tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in (t.split() for t in texts)]
    holders: dict[tuple[str, ...], list[int]] = {}
    common: Counter[tuple[int, int]] = Counter()
    for i, shingles in enumerate(sets):
        for shingle in shingles:
            others = holders.setdefault(shingle, [])
            common.update((j, i) for j in others)
            others.append(i)
    return {(i, j): n / (len(sets[i]) + len(sets[j]) - n) for (i, j), n in common.items()}


def scatter(signed: NDArray[np.uint32], banding: bands.Banding, path: Path, shard: int = 0) -> None:
    everything = np.ones(len(signed), bool)
    numbers = arrays.document_numbers(shard, len(signed))
    bands.scatter_bands(signed, everything, numbers, (banding.bands, banding.rows), path)


def run_near(
    texts: list[str], folder: Path, threshold: float, shards: int, partitions: int
) -> tuple[list[Path], list[int]]:
    """The edge files of all bands, and the shards' rows."""
    banding = bands.choose_bands(threshold, 128)
    counts, band_files, signature_files = [], [], []
    for shard in range(shards):
        part = texts[len(texts) * shard // shards : len(texts) * (shard + 1) // shards]
        signed = signatures(large(part), 128, 5, 0)
        band_files.append(folder / f"bands-{shard}.npy")
        signature_files.append(folder / f"signatures-{shard}.npy")
        arrays.save(signature_files[-1], signed)
        scatter(signed, banding, band_files[-1], shard)
        counts.append(len(part))
    edges = []
    for band in range(banding.bands):
        for partition in range(partitions):
            found = candidates.band_edges(band_files, signature_files, banding, band, partition, partitions)
            edges.append(folder / f"edges-{band}-{partition}.npy")
            arrays.save(edges[-1], found)
    return edges, counts


def test_near_duplicates_against_an_exhaustive_check(tmp_path: Path) -> None:
    threshold = 0.75
    texts = planted(np.random.default_rng(7), 1500)
    similarities = exact_similarities(texts, 5)
    edges, counts = run_near(texts, tmp_path, threshold, shards=3, partitions=2)
    components.components(edges, counts, tmp_path / "roots.npy")
    roots = arrays.open_array(tmp_path / "roots.npy")
    above = [pair for pair, j in similarities.items() if j >= threshold + 0.1]
    below = [pair for pair, j in similarities.items() if j < threshold]
    assert len(above) > 200
    assert len(below) > 1000
    assert np.mean([roots[a] == roots[b] for a, b in above]) >= 0.95
    assert np.mean([roots[a] == roots[b] for a, b in below]) <= 0.02


def test_signatures_of_some_rows_give_the_edges_between_them(tmp_path: Path) -> None:
    texts = planted(np.random.default_rng(3), 200)
    signed, banding = signatures(large(texts), 128, 5, 0), bands.choose_bands(0.7, 128)
    chosen = np.random.default_rng(4).random(len(texts)) < 0.7
    numbers, shape = arrays.document_numbers(5, len(texts)), (banding.bands, banding.rows)
    bands.scatter_bands(signed, chosen, numbers, shape, tmp_path / "bands.npy")
    everything = np.ones(int(chosen.sum()), bool)
    bands.scatter_bands(signed[chosen], everything, numbers[chosen], shape, tmp_path / "some.npy")
    assert (tmp_path / "some.npy").read_bytes() == (tmp_path / "bands.npy").read_bytes()
    missing = tmp_path / "missing.npy"
    arrays.save(tmp_path / "whole.npy", signed)
    arrays.save(tmp_path / "signatures.npy", signed[chosen])
    arrays.save(tmp_path / "rows.npy", np.flatnonzero(chosen))
    found = 0
    for band in range(banding.bands):
        whole = candidates.band_edges(
            [tmp_path / "bands.npy"], [missing] * 5 + [tmp_path / "whole.npy"], banding, band, 0, 1
        )
        some = candidates.band_edges(
            [tmp_path / "some.npy"],
            [missing] * 5 + [tmp_path / "signatures.npy"],
            banding,
            band,
            0,
            1,
            [missing] * 5 + [tmp_path / "rows.npy"],
        )
        np.testing.assert_array_equal(some, whole)
        found += len(some)
    assert found > 50


def test_bands_take_memory_for_one_band_at_a_time(tmp_path: Path) -> None:
    documents = 20_000
    signed = np.random.default_rng(1).integers(0, 2**32, (documents, 128), np.uint32)
    banding = bands.choose_bands(0.7, 128)
    tracemalloc.start()
    scatter(signed, banding, tmp_path / "bands.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What is written has 16 bytes for each document and band.
    assert (tmp_path / "bands.npy").stat().st_size > 16 * banding.bands * documents > 200 * documents
    assert peak < 60 * documents


def test_members_unlike_the_first_are_linked_to_each_other(tmp_path: Path) -> None:
    # Documents 0..n share the band of rows 0 and 1; in kinds of three, only the same kind is alike.
    for count in (9, 3000):
        signed = np.tile(np.arange(8, dtype=np.uint32), (count, 1))
        kinds = np.arange(count) % 3
        signed[:, 2:] += (100 * kinds).astype(np.uint32)[:, None]
        banding = bands.Banding(permutations=8, bands=1, rows=2, matches=6)
        arrays.save(tmp_path / "signatures.npy", signed)
        scatter(signed, banding, tmp_path / "bands.npy")
        edges = candidates.band_edges(
            [tmp_path / "bands.npy"], [tmp_path / "signatures.npy"], banding, 0, 0, 1, gather_bytes=32 * 500
        )
        arrays.save(tmp_path / "edges.npy", edges)
        components.components([tmp_path / "edges.npy"], [count], tmp_path / "roots.npy")
        assert components.cluster_roots(tmp_path / "roots.npy", [count], 0).tolist() == kinds.tolist()


@COMPILING
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=30),
    st.randoms(),
)
def test_clusters_and_what_stays(tmp_path_factory, counts, links, random) -> None:  # type: ignore[no-untyped-def]
    folder, total = tmp_path_factory.mktemp("clusters"), sum(counts)
    offsets = components.shard_offsets(counts)
    pairs = [(a % total, b % total) for a, b in links] if total else []
    random.shuffle(pairs)
    files = []
    for i in range(3):
        files.append(folder / f"{i}.npy")
        dense = np.array(pairs[i::3], np.int64).reshape(-1, 2)
        arrays.save(files[-1], components.to_documents(dense, offsets).reshape(-1, 2))
    roots, kept = folder / "roots.npy", folder / "kept.npy"
    components.components(files, counts, roots)

    label = list(range(total))
    for _ in range(total):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    assert arrays.open_array(roots).tolist() == label
    numbers = components.to_documents(np.arange(total), offsets).tolist()
    for shard in range(len(counts)):
        want = [numbers[r] for r in label[offsets[shard] : offsets[shard + 1]]]
        assert components.cluster_roots(roots, counts, shard).tolist() == want

    values = [random.choice([0.0, 1.0, 2.0, float("nan")]) for _ in range(total)]
    by_shard = [np.array(values[offsets[s] : offsets[s + 1]]) for s in range(len(counts))]
    keep.choose_kept(roots, by_shard, kept)
    rank = [-1.0 if v != v else v for v in values]
    for path, best in ((None, lambda i: -i), (kept, lambda i: (rank[i], -i))):
        want = []
        for i in range(total):
            winner = max((k for k in range(total) if label[k] == label[i]), key=best)
            want += [(numbers[i], numbers[winner])] if winner != i else []
        got = [tuple(row) for s in range(len(counts)) for row in keep.dropped(roots, path, counts, s).tolist()]
        assert got == want


def test_an_edge_to_nowhere_is_refused(tmp_path: Path) -> None:
    arrays.save(tmp_path / "e.npy", np.array([[0, 5]], np.uint64))
    with pytest.raises(ValueError, match="beyond a shard's last document"):
        components.components([tmp_path / "e.npy"], [5], tmp_path / "roots.npy")
    assert not list(tmp_path.glob(".*"))


def test_tokens_know_their_number() -> None:
    assert len(Tokens(np.empty(0, np.uint64), np.zeros(4, np.int64))) == 3
