"""Best-fit packing: windows of whole documents, in closed form from the documents' lengths."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.batches.stream import TokenStream
from groundup.data.tokens.pack import best_fit, pack
from groundup.data.tokens.packed import PackedWindows, packed_windows
from groundup.data.tokens.shards import TokenFiles, TokenSource

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=80)


def obvious(lengths: list[int], window: int) -> list[list[int]]:
    """Best fit by its definition: the longest piece first, into the window with the least room that holds it; of
    several, the one that got so little last."""
    windows: list[list[int]] = []
    rooms: list[tuple[int, int, int]] = []
    for turn, piece in enumerate(sorted(range(len(lengths)), key=lambda p: -lengths[p])):
        at = bisect_left(rooms, (lengths[piece], -len(lengths), 0))
        if at == len(rooms):
            windows.append([])
            room, chosen = window, len(windows) - 1
        else:
            room, _, chosen = rooms.pop(at)
        windows[chosen].append(piece)
        insort(rooms, (room - lengths[piece], -turn, chosen))
    return [sorted(pieces) for pieces in windows]


@settings(deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=120))
def test_windows_are_those_of_the_definition(lengths: list[int]) -> None:
    order, offsets = best_fit(np.array(lengths), 16)
    windows = [order[a:b].tolist() for a, b in pairwise(offsets)]
    assert windows == obvious(lengths, 16)


def windows_of(documents: list[np.ndarray], window: int, joined: bool, block: int = 1 << 20) -> PackedWindows:
    blocks = list(pack(documents, window, joined, block))
    counts = np.concatenate([c for _, c in blocks])
    return PackedWindows(np.concatenate([[0], np.cumsum(counts)]), np.concatenate([p for p, _ in blocks]))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 9), st.booleans())
def test_every_token_is_in_one_piece_and_what_fits_is_whole(lengths: list[int], block: int, joined: bool) -> None:
    tokens = np.array(lengths, np.int64)
    packed = windows_of(np.array_split(tokens, 3), 16, joined, block)
    last = 0 if joined else 1
    starts = np.cumsum(tokens) - tokens
    expected = [t for s, n in zip(starts.tolist(), lengths, strict=True) for t in range(s, s + n - last)]
    covered = [t for s, n in packed.pieces.tolist() for t in range(s, s + n)]
    assert sorted(covered) == expected
    for w in range(len(packed)):
        assert 0 < packed.pieces[packed.offsets[w] : packed.offsets[w + 1], 1].sum() <= 16
    pieces = {tuple(p) for p in packed.pieces.tolist()}
    for s, n in zip(starts.tolist(), lengths, strict=True):
        assert n - last > 16 or (s, n - last) in pieces


def made(lengths: list[int], joined: bool, seed: int = 0) -> tuple[TokenSource, list[np.ndarray]]:
    """A source of documents with start token 0, and end token 1 unless `joined`."""
    generator = np.random.default_rng(seed)
    documents = [generator.integers(2, 1000, n).astype("<u2") for n in lengths]
    for document in documents:
        document[0] = 0
        if not joined:
            document[-1] = 1
    return TokenSource("s", None, [np.concatenate([*documents, np.zeros(1, "<u2")])]), documents


@settings(deadline=None)
@given(LENGTHS, st.booleans())
def test_the_stream_has_every_label_once_an_epoch(lengths: list[int], joined: bool) -> None:
    source, documents = made(lengths, joined)
    packed = windows_of([np.array(lengths, np.int64)], 16, joined)
    stream = TokenStream([source], 16, 5, 0, joined, [packed])
    whole = stream.samples(0, stream.samples_per_epoch)
    counted = whole.weights_BL > 0
    found = sorted(zip(whole.tokens_BL[counted].tolist(), whole.labels_BL[counted].tolist(), strict=True))
    labels = [[*d.tolist()[1:], 0] if joined else d.tolist()[1:] for d in documents]
    expected = sorted(pair for d, after in zip(documents, labels, strict=True) for pair in zip(d.tolist(), after))  # noqa: B905
    assert found == expected
    halves = [stream.samples(n, n + 1) for n in range(stream.samples_per_epoch)]
    assert np.concatenate([h.tokens_BL for h in halves]).tolist() == whole.tokens_BL.tolist()


def test_pieces_are_documents_and_the_rest_weighs_nothing() -> None:
    source, documents = made([10, 5, 30], joined=True)
    stream = TokenStream([source], 16, 5, 0, True, [windows_of([np.array([10, 5, 30])], 16, True)])
    batch = stream.in_order(0, 3)
    assert batch.documents_BL is not None
    rows = {tuple(r[:10].tolist()): n for n, r in enumerate(batch.tokens_BL)}
    row = rows[tuple(documents[0].tolist())]
    assert batch.tokens_BL[row].tolist() == [*documents[0].tolist(), *documents[1].tolist(), 0]
    assert batch.labels_BL[row, 9] == batch.labels_BL[row, 14] == 0
    assert batch.documents_BL[row].tolist() == [1] * 10 + [2] * 5 + [3]
    assert batch.weights_BL[row].tolist() == [1] * 15 + [0]
    assert int(batch.weights_BL.sum()) == 45
    cut = rows[tuple(documents[2][16:26].tolist())]
    assert batch.labels_BL[cut, 0] == int(documents[2][17])
    assert batch.documents_BL[cut].tolist() == [1] * 14 + [2] * 2


def test_few_documents_are_cut_and_little_is_empty() -> None:
    lengths = np.maximum(2, np.random.default_rng(1).lognormal(6, 1, 20_000)).astype(np.int64)
    packed = windows_of([lengths], 2048, True)
    assert len(packed.pieces) == int(-(-lengths // 2048).sum()), "only documents longer than a window are cut"
    assert lengths.sum() / (len(packed) * 2048) > 0.995


def test_windows_are_kept_beside_the_tokens(tmp_path: Path) -> None:
    lengths = np.array([10, 5, 30, 7])
    pq.write_table(pa.table({"tokens": lengths[:2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"tokens": lengths[2:]}), tmp_path / "b.parquet")
    source = TokenSource("s", None, TokenFiles(tmp_path, ["a", "b"], np.array([15, 38]), np.dtype("<u2")))
    first = packed_windows(tmp_path / "packed", "key", source, 16, True)
    expected = windows_of([lengths], 16, True)
    assert first.pieces.tolist() == expected.pieces.tolist()
    assert first.offsets.tolist() == expected.offsets.tolist()
    files = sorted((tmp_path / "packed").iterdir())
    assert [f.name for f in files] == ["key-16.pieces", "key-16.windows"]
    (tmp_path / "a.parquet").unlink()
    assert packed_windows(tmp_path / "packed", "key", source, 16, True).pieces.tolist() == expected.pieces.tolist()
    with pytest.raises(FileNotFoundError):
        packed_windows(tmp_path / "packed", "key", source, 8, True)
    assert sorted((tmp_path / "packed").iterdir()) == files
