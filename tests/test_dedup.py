"""Deduplication, each part held against a slow and obvious definition."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.dedup import arrays, bands, candidates, components, exact, hashes, keep, paragraphs
from groundup.data.dedup.shingles import Tokens, ngram_hashes, tokenize
from groundup.data.dedup.signatures import NO_SHINGLE, set_signature, signatures
from groundup.errors import UserError

# The first example of a test may wait for the kernel to be compiled.
COMPILING = settings(deadline=None, max_examples=60)
CHARACTERS = st.one_of(
    st.sampled_from("aAbZ09 _-.,'\n\t\u00e9\u00c9\u0301ßİ中文字。ひカﾊ한글กำខ្មែរ\U00020000\U0001f600\u0416\u0436"),
    st.characters(exclude_categories=["Cs"]),
)
TEXTS = st.lists(st.one_of(st.text(CHARACTERS, max_size=60), st.text("ab \n", max_size=200)), max_size=8)


def large(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def sliced(texts: list[str]) -> pa.LargeStringArray:
    """The same texts as a slice of a longer array."""
    return large(["before é", *texts, "after"]).slice(1, len(texts))


def slow_tokens(text: str) -> list[str]:
    unspaced = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
    tokens, word = [], ""
    for c in text:
        lower = c.lower() if len(c.lower()) == 1 else c
        if unicodedata.category(c)[0] not in "LMN":
            tokens.append(word)
            word = ""
        elif unicodedata.name(c, "").replace("HALFWIDTH ", "").startswith(unspaced):
            tokens += [word, lower]
            word = ""
        else:
            word += lower
    return [t for t in [*tokens, word] if t]


COMMON = st.text("aAbZ09 _-.,'\n\té\u0301ßИи中文字。ひカﾊ한글กำខ្មែរ\U00020000\U0001f600", max_size=80)


@COMPILING
@given(st.lists(COMMON, max_size=6))
def test_tokens_are_words_and_single_characters(texts: list[str]) -> None:
    tokens = tokenize(sliced(texts))
    seen: dict[int, str] = {}
    for i, text in enumerate(texts):
        got = tokens.hashes[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        want = slow_tokens(text)
        assert len(got) == len(want)
        for token, name in zip(got, want, strict=True):
            assert seen.setdefault(token, name) == name
    assert len(set(seen.values())) == len(seen)


@COMPILING
@given(TEXTS, st.integers(1, 6))
def test_ngrams_are_equal_where_their_tokens_are(texts: list[str], n: int) -> None:
    tokens = tokenize(sliced(texts))
    got = ngram_hashes(tokens, n)
    want: list[tuple[int, ...]] = []
    for i in range(len(texts)):
        own = tokens.hashes[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        runs = [tuple(own[k : k + n]) for k in range(len(own) - n + 1)]
        assert got.offsets[i + 1] - got.offsets[i] == len(runs)
        want += runs
    assert len({*zip(got.hashes.tolist(), want, strict=True)}) == len({*want}) == len({*got.hashes.tolist()})


@COMPILING
@given(TEXTS)
def test_content_hashes_are_xxh3_of_the_bytes(texts: list[str]) -> None:
    got = hashes.content_hashes(sliced(texts))
    want = [xxhash.xxh3_128_intdigest(t.encode()) for t in texts]
    assert [(int(h) << 64) | int(low) for h, low in got] == want


# Exact


def _shards(folder: Path, keys: list[list[int]]) -> list[Path]:
    """Files of shards whose documents have these hashes: 4 values of each half."""
    paths = []
    for shard, values in enumerate(keys):
        pairs = np.array([[(v % 4) << 62, v // 4] for v in values], np.uint64).reshape(-1, 2)
        exact.scatter(pairs, arrays.document_numbers(shard, len(values)), folder / f"{shard:05d}.npy")
        paths.append(folder / f"{shard:05d}.npy")
    return paths


@COMPILING
@given(st.lists(st.lists(st.integers(0, 15), max_size=12), min_size=1, max_size=4), st.integers(1, 5), st.randoms())
def test_duplicates_keep_the_first(tmp_path_factory, keys, partitions, random) -> None:  # type: ignore[no-untyped-def]
    files = _shards(tmp_path_factory.mktemp("hashes"), keys)
    documents = [((s << 32) | r, v) for s, values in enumerate(keys) for r, v in enumerate(values)]
    kept = sorted(random.sample([d for d, _ in documents], len(documents) // 2)) if documents else []
    for subset in (None, kept):
        first: dict[int, int] = {}
        want = []
        for document, value in documents:
            if subset is None or document in subset:
                twin = first.setdefault(value, document)
                want += [(document, twin)] if twin != document else []
        numbers = None if subset is None else np.array(subset, np.uint64)
        random.shuffle(files)
        got = [exact.duplicates(files, p, partitions, numbers) for p in range(partitions)]
        assert sorted(map(tuple, np.concatenate(got).tolist())) == want
        assert all((np.diff(g[:, 0].astype(np.int64)) > 0).all() for g in got)


def test_partitions_are_chosen_by_memory() -> None:
    assert arrays.partitions_for(1000, exact.BYTES_PER_ENTRY, 1 << 20) == 1
    assert arrays.partitions_for(10**9, exact.BYTES_PER_ENTRY, 1 << 30) == 99


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    arrays.save(path, np.arange(3))
    code = (
        "import sys, os, signal, numpy as np; from pathlib import Path; from groundup.data.dedup import arrays\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "arrays.save(Path(sys.argv[1]), np.arange(9))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert arrays.open_array(path).tolist() == [0, 1, 2]


# Passages


def slow_passages(text: str, unit: int) -> list[str]:
    """Passages with the line ends behind them."""
    passages, current = [], ""
    for line in text.splitlines(keepends=True) if unit == 1 else text.split("\n"):
        if unit == 1:
            if passages and line == "\n":
                passages[-1] += line
            else:
                passages.append(line)
        else:
            current += line + "\n"
    if unit == 2:
        current = current[:-1]
        start = 0
        for i in range(1, len(current)):
            if current[i - 1] == "\n" and current[i] != "\n" and current[max(start, i - 2) : i] == "\n\n":
                passages.append(current[start:i])
                start = i
        passages.append(current[start:])
    return [p for p in passages if p]


@COMPILING
@given(st.lists(st.text("ab中é \n", max_size=60), max_size=6), st.sampled_from([1, 2]), st.integers(1, 4), st.randoms())
def test_passages_are_found_and_dropped(texts, unit, shortest, random) -> None:  # type: ignore[no-untyped-def]
    found, counts = paragraphs.passage_hashes(sliced(texts), unit, shortest)
    pieces = [slow_passages(t, unit) for t in texts]
    counted = [[p for p in piece if len(p.strip(" \n")) >= shortest] for piece in pieces]
    assert counts.tolist() == [len(c) for c in counted]
    stripped = [p.strip(" \n") for c in counted for p in c]
    keys = list(map(tuple, found.tolist()))
    assert len({*zip(keys, stripped, strict=True)}) == len({*stripped}) == len({*keys})

    marks = np.array([random.random() < 0.5 for _ in stripped], bool)
    kept, lost = paragraphs.drop_passages(sliced(texts), unit, shortest, marks)
    remaining = iter(marks.tolist())
    want = [
        "".join(p for p in piece if not (p in c and next(remaining))) for piece, c in zip(pieces, counted, strict=True)
    ]
    assert kept.to_pylist() == want
    assert lost.tolist() == [len(t.encode()) - len(w.encode()) for t, w in zip(texts, want, strict=True)]


def test_repeated_paragraphs_go_from_the_whole_corpus(tmp_path: Path) -> None:
    shards = [["A long first line\n\nshared boilerplate", "other\n\nshared boilerplate\n\nend"], ["shared boilerplate"]]
    files, counts = [], []
    for shard, texts in enumerate(shards):
        found, _ = paragraphs.passage_hashes(large(texts), paragraphs.PARAGRAPH, 5)
        files.append(tmp_path / f"{shard}.npy")
        counts.append(len(found))
        exact.scatter(found, arrays.document_numbers(shard, len(found)), files[-1])
    dropped = exact.duplicates(files, 0, 1)[:, 0]
    out = []
    for shard, texts in enumerate(shards):
        marks = np.zeros(counts[shard], bool)
        marks[(dropped[arrays.shard_slice(dropped, shard)] & arrays.ROW_MASK).astype(int)] = True
        out.append(paragraphs.drop_passages(large(texts), paragraphs.PARAGRAPH, 5, marks)[0].to_pylist())
    assert out == [["A long first line\n\nshared boilerplate", "other\n\nend"], [""]]


# Signatures


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
        first = set_signature(pool[:size], 128, trial)
        second = set_signature(np.concatenate([pool[:common], pool[size:]]), 128, trial)
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
    keys = bands.band_keys(signed, 8, 8)
    assert (keys[:4] == bands.NO_KEY).all()
    assert (keys[4] != bands.NO_KEY).all()


# Bands, edges and clusters


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.75, 0.8, 0.85])
def test_bands_find_what_is_above_the_threshold(threshold: float) -> None:
    banding = bands.choose_bands(threshold, 128)
    assert banding.bands * banding.rows <= 128
    assert banding.joined(threshold + 0.1) >= 0.95
    uniform = [banding.joined(j) for j in np.linspace(0, threshold, 200)]
    assert np.mean(uniform) <= 0.02
    assert [p["similarity"] for p in banding.curve()][:3] == [0.0, 0.05, 0.1]


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
        keys = bands.band_keys(signed, banding.bands, banding.rows)
        bands.scatter_bands(keys, arrays.document_numbers(shard, len(part)), band_files[-1])
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


def test_members_unlike_the_first_are_linked_to_each_other(tmp_path: Path) -> None:
    # Documents 0..n share the band of rows 0 and 1; in kinds of three, only the same kind is alike.
    for count in (9, 3000):
        signed = np.tile(np.arange(8, dtype=np.uint32), (count, 1))
        kinds = np.arange(count) % 3
        signed[:, 2:] += (100 * kinds).astype(np.uint32)[:, None]
        banding = bands.Banding(permutations=8, bands=1, rows=2, matches=6)
        arrays.save(tmp_path / "signatures.npy", signed)
        bands.scatter_bands(bands.band_keys(signed, 1, 2), arrays.document_numbers(0, count), tmp_path / "bands.npy")
        edges = candidates.band_edges(
            [tmp_path / "bands.npy"], [tmp_path / "signatures.npy"], banding, 0, 0, 1, gather_bytes=32 * 500
        )
        arrays.save(tmp_path / "edges.npy", edges)
        components.components([tmp_path / "edges.npy"], [count], tmp_path / "roots.npy")
        assert components.cluster_roots(tmp_path / "roots.npy", [count], 0).tolist() == kinds.tolist()
        alike = candidates.similarities([tmp_path / "signatures.npy"], np.array([[0, 3], [1, 3]], np.uint64), 8)
        assert alike.tolist() == [1.0, 0.25]
        kept = np.arange(0, count, 4, dtype=np.uint64)
        files = ([tmp_path / "bands.npy"], [tmp_path / "signatures.npy"])
        assert np.isin(candidates.band_edges(*files, banding, 0, 0, 1, kept), kept).all()


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
