"""Tokens, hashes, exact duplicates and repeated passages, each held against a slow and obvious definition."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.data.dedup import arrays, exact, hashes, paragraphs
from groundup.data.dedup.shingles import tokenize

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


ASCII = st.text("aAbZ09 _-.\n", max_size=200)


@COMPILING
@given(st.lists(COMMON | ASCII | st.lists(COMMON | ASCII, max_size=4).map("".join), max_size=6))
@example(["a" * 63, "b" * 64 + " " + "c" * 65, "K \u212a k", "x" * 8 + "é", "word " * 12 + "abcé f"])
def test_tokens_are_words_and_single_characters(texts: list[str]) -> None:
    tokens = tokenize(sliced(texts))
    # Where the memory of the text goes on, words of ASCII are found many at once; where it ends, one by one.
    longer = tokenize(large([*texts, "x" * 100]).slice(0, len(texts)))
    assert (longer.hashes == tokens.hashes).all()
    assert (longer.offsets == tokens.offsets).all()
    seen: dict[int, str] = {}
    for i, text in enumerate(texts):
        got = tokens.hashes[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        want = slow_tokens(text)
        assert len(got) == len(want)
        for token, name in zip(got, want, strict=True):
            assert seen.setdefault(token, name) == name
    assert len(set(seen.values())) == len(seen)


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
    first: dict[int, int] = {}
    want = []
    for document, value in documents:
        twin = first.setdefault(value, document)
        want += [(document, twin)] if twin != document else []
    random.shuffle(files)
    got = [exact.duplicates(files, p, partitions) for p in range(partitions)]
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
    found, sizes, counts = paragraphs.passage_hashes(sliced(texts), unit, shortest)
    pieces = [slow_passages(t, unit) for t in texts]
    counted = [[p for p in piece if len(p.strip(" \n")) >= shortest] for piece in pieces]
    assert counts.tolist() == [len(c) for c in counted]
    assert sizes.tolist() == [len(p.encode()) for c in counted for p in c]
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
        found, _, _ = paragraphs.passage_hashes(large(texts), paragraphs.PARAGRAPH, 5)
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
