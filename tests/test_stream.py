"""The batch stream: a pure function of data, seed and sample number."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.batches.mixture import Mixture
from groundup.data.batches.permutation import permute
from groundup.data.batches.stream import TokenStream
from groundup.data.tokens.shards import TokenSource


def source(
    tokens: int, name: str = "s", weight: float | None = None, *, shards: int = 1, first: int = 0
) -> TokenSource:
    """Tokens first, first + 1, ... over a number of shards: every token tells its place."""
    whole = np.arange(first, first + tokens, dtype="<u4")
    return TokenSource(name, weight, list(np.array_split(whole, shards)))


def stream(
    *sources: TokenSource, length: int = 8, seed: int = 3, start_id: int = 10**8, joined: bool = True
) -> TokenStream:
    return TokenStream(list(sources), length, seed, start_id, joined)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permutation_hits_every_place_once(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_permutation_depends_on_the_key_and_is_no_shift() -> None:
    n = 1000
    one, other = permute(np.arange(n), n, 1), permute(np.arange(n), n, 2)
    assert (one == other).sum() < 20
    steps = np.diff(one)
    assert len(np.unique(steps)) > 500


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 5))
def test_an_epoch_is_every_token_once_as_a_label(tokens: int, length: int, seed: int) -> None:
    one = stream(source(tokens + 1, shards=min(3, tokens)), length=length, seed=seed)
    for epoch in (0, 1):
        per = one.samples_per_epoch
        batch = one.samples(epoch * per, (epoch + 1) * per)
        labels = batch.labels_BL[batch.weights_BL > 0]
        assert sorted(labels.tolist()) == list(range(1, tokens + 1))
        inputs = batch.tokens_BL[batch.weights_BL > 0]
        assert torch.equal(inputs + 1, labels)


def test_any_slicing_gives_the_same_samples() -> None:
    one = stream(source(999), source(555, "t", first=5000))
    whole = one.samples(100, 164)
    parts = [one.samples(n, n + 4) for n in range(100, 164, 4)]
    assert torch.equal(whole.tokens_BL, torch.cat([p.tokens_BL for p in parts]))
    assert torch.equal(whole.weights_BL, torch.cat([p.weights_BL for p in parts]))


def test_epochs_and_seeds_differ() -> None:
    one = stream(source(4001))
    per = one.samples_per_epoch
    first, second = one.samples(0, per).tokens_BL[:, 0], one.samples(per, 2 * per).tokens_BL[:, 0]
    other = stream(source(4001), seed=4).samples(0, per).tokens_BL[:, 0]
    assert (first == second).sum() < 10
    assert (first == other).sum() < 10


def test_seeking_far_is_instant_and_consistent() -> None:
    one = stream(source(4001))
    far = 10**12
    start = time.perf_counter()
    one.samples(far, far + 4)
    assert time.perf_counter() - start < 0.2, "no walk through what lies before"
    assert torch.equal(one.samples(far, far + 4).tokens_BL[2:], one.samples(far + 2, far + 4).tokens_BL)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(0, 10**9))
def test_mixture_keeps_proportions_over_any_window(weights: list[float], start: int) -> None:
    mixture = Mixture.of_weights(weights)
    share = np.array(weights) / sum(weights)
    span = 3 * 4096
    chosen, index = mixture.locate(np.arange(start, start + span))
    counts = np.bincount(chosen, minlength=len(weights))
    assert np.abs(counts / span - share).max() < 2 * len(weights) / 4096
    for s in range(len(weights)):
        mine = index[chosen == s]
        assert (np.diff(mine) == 1).all(), "each source is read in its own order, nothing skipped, nothing twice"


def test_weighted_sources_repeat_the_small_one_in_fresh_order() -> None:
    big, small = source(8001, "big", 1.0), source(81, "small", 1.0, first=10**6)
    one = stream(big, small)
    batch = one.samples(0, 400)
    from_small = batch.tokens_BL[batch.tokens_BL[:, 0] >= 10**6, 0]
    assert len(from_small) == 200
    rounds = from_small.reshape(20, 10)
    assert all(len(set(r.tolist())) == 10 for r in rounds)
    assert len({tuple(r.tolist()) for r in rounds}) > 15


def test_documents_are_numbered_and_starts_counted_only_where_they_end_a_text() -> None:
    tokens = np.array([0, 5, 6, 0, 7, 0, 8, 9, 0], "<u2")
    joined = TokenStream([TokenSource("s", None, [tokens])], 8, 0, 0, joined=True).in_order(0, 1)
    assert joined.documents_BL is not None
    assert joined.documents_BL.tolist() == [[1, 1, 1, 2, 2, 3, 3, 3]]
    assert joined.labels_BL.tolist() == [[5, 6, 0, 7, 0, 8, 9, 0]]
    assert joined.weights_BL.sum() == 8
    apart = TokenStream([TokenSource("s", None, [tokens])], 8, 0, 0, joined=False).in_order(0, 1)
    assert apart.weights_BL.tolist() == [[1, 1, 0, 1, 0, 1, 1, 0]]
    one_document = TokenStream([TokenSource("s", None, [tokens])], 2, 0, 0, joined=True).in_order(0, 1)
    assert one_document.documents_BL is None


def test_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        stream(source(1))


@settings(deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_any_prefix_has_the_exact_proportions(counts: list[int]) -> None:
    mixture = Mixture(np.array(counts))
    chosen, index = mixture.locate(np.arange(2 * sum(counts)))
    passed = np.cumsum(chosen[:, None] == np.arange(len(counts)), axis=0)
    share = np.arange(1, len(chosen) + 1)[:, None] * np.array(counts) / sum(counts)
    assert np.abs(passed - share).max() < len(counts) / 2 + 1
    for s, count in enumerate(counts):
        assert index[chosen == s].tolist() == list(range(2 * count))


def test_a_small_share_is_no_larger_than_asked() -> None:
    chosen, _ = Mixture.of_weights([1.0, 1e-5]).locate(np.arange(10**6))
    assert int((chosen == 1).sum()) == 10


def test_epochs_of_a_source_are_passed_in_one_epoch_of_the_stream() -> None:
    big = source(801, "big")
    small = TokenSource("small", None, [np.arange(10**6, 10**6 + 81, dtype="<u4")], epochs=2.5)
    tiny = TokenSource("tiny", None, [np.arange(10**7, 10**7 + 9, dtype="<u4")], epochs=4)
    one = stream(big, small, tiny)
    assert one.samples_per_epoch == 100 + 25 + 4
    first = one.samples(0, one.samples_per_epoch).tokens_BL[:, 0]
    assert sorted(first[first < 10**6].tolist()) == list(range(0, 800, 8))
    from_small = first[(first >= 10**6) & (first < 10**7)].tolist()
    assert len(set(from_small[:10])) == len(set(from_small[10:20])) == 10
    assert from_small[:10] != from_small[10:20]
    assert len(from_small) == 25
    assert (first == 10**7).sum() == 4
    half = one.samples(0, one.samples_per_epoch // 2).tokens_BL[:, 0]
    assert 10 <= ((half >= 10**6) & (half < 10**7)).sum() <= 15
