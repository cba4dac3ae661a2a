"""Tokenizers of our own training, and token files made by the fast encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastokens
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rustbpe
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer

from groundup.data.tokens.encode import ShardWriter
from groundup.data.tokens.encoder import Encoder, Engine, unicode_version
from groundup.data.tokens.index import DocumentIndex
from groundup.data.tokens.sample import TrainingSample
from groundup.data.tokens.shards import checksum, open_sources
from groundup.data.tokens.split import PATTERNS
from groundup.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer
from groundup.data.tokens.train import merges_of, train_tokenizer
from groundup.errors import UserError

TEXTS = [
    Path(__file__).read_text(),
    "It's 12345 o'clock;  DON'T stop!\r\n\r\n\tcamelCase = snake_case[0]  # 50%\n\n   indented\n" * 4,
    "Größe, naïve, e\u0301galité, Привет мир, 日本語の文字。中文字符和数字2024年,今天天气很好 😀👩\u200d👧 🎉!\n" * 4,
    "<|endoftext|> is text here, and so is <|im_start|>user",
    "a",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS, 700, 10**6, tmp_path_factory.mktemp("tokenizer"))


def batch(texts: list[str], first: int = 0) -> pa.RecordBatch:
    numbers = range(first, first + len(texts))
    return pa.record_batch(
        {
            "id": pa.array([f"s/f#{n}" for n in numbers]),
            "file": pa.array(["f"] * len(texts)),
            "offset": pa.array([10 * n for n in numbers], pa.int64()),
            "text": pa.array(texts, pa.large_string()),
        }
    )


@pytest.mark.parametrize("split", [*PATTERNS, r"\p{L}+|[^\p{L}]+"])
def test_all_readers_agree_on_a_trained_tokenizer(split: str, tmp_path: Path) -> None:
    ours = train_tokenizer(TEXTS, 600, 10**6, tmp_path, split)
    assert ours.vocab_size == 600
    encoder = Encoder(ours)
    assert encoder.name.startswith("fastokens"), encoder.fallback
    ids, offsets = encoder.encode(TEXTS)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert loaded.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2]
    for n, text in enumerate(TEXTS):
        row = ids[offsets[n] : offsets[n + 1]].tolist()
        assert row == ours.encode(text)
        assert ours.decode(row) == text
        if "<|" not in text:
            assert row == loaded(text)["input_ids"]


def test_merges_are_those_of_the_training(tokenizer: Tokenizer) -> None:
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(TEXTS), 697, 512, PATTERNS["gpt4"])
    ranks = [(bytes(token), rank) for token, rank in trainer.get_mergeable_ranks()]
    assert len(merges_of(ranks)) == 697 - 256
    for text in TEXTS:
        assert tokenizer.encode(text) == [i + 3 for i in trainer.encode(text)]


def test_training_is_the_same_each_time(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert train_tokenizer(TEXTS, 700, 10**6, tmp_path).sha256 == tokenizer.sha256


def test_too_large_a_vocabulary_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 260 <= train_tokenizer(["abcdefg"], 5000, 10**6, tmp_path).vocab_size < 270
    assert "the training text gives only 26" in capsys.readouterr().err


def test_a_bad_expression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train_tokenizer(["abcdefg"], 260, 10**6, tmp_path, "(oops")
    assert caught.value.where == "tokenizer.split"


def test_a_long_line_does_not_stop_training(tmp_path: Path) -> None:
    assert train_tokenizer([" " * 2_000_000 + "x"], 300 - 30, 10**7, tmp_path).vocab_size == 270


def test_sample_is_spread_and_the_same_whoever_asks() -> None:
    sample = TrainingSample(10**9, 10**8, 7)
    rows = sample.rows(3, 0, 20_000)
    assert abs(rows.mean() - 0.11) < 0.01
    assert abs(rows[-5000:].mean() - 0.11) < 0.02
    parts = [sample.rows(3, n, n + 100) for n in range(0, 20_000, 100)]
    assert (np.concatenate(parts) == rows).all()
    assert (TrainingSample(10**9, 10**8, 8).rows(3, 0, 20_000) != rows).any()
    assert TrainingSample(100, 1000, 1).rows(0, 0, 50).all()


def test_sample_of_a_huge_corpus_leaves_most_shards_closed() -> None:
    sample = TrainingSample(10**13, 10**8, 1)
    shards = [n for n in range(20_000) if sample.has_shard(n)]
    assert 0 < len(shards) < 15
    chosen = sum(int(sample.rows(n, 0, 100_000).sum()) for n in shards)
    assert chosen == pytest.approx(20_000 * 100_000 * 1.1e-5, rel=0.5)
    assert not sample.rows(next(n for n in range(100) if n not in shards), 0, 1000).any()


def write(tokenizer: Tokenizer, folder: Path, batches: list[pa.RecordBatch], **changes: Any) -> dict[str, Any]:
    encoder = changes.pop("encoder", None) or Encoder(tokenizer)
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, encoder, "train", 0, changes.pop("shard", 0)) as writer:
        for documents in batches:
            writer.add(documents)
        entry = writer.finish(changes.pop("closes", True))
    assert entry is not None
    return entry


def test_a_shard_holds_the_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    entry = write(tokenizer, tmp_path, [batch(TEXTS)])
    ids = np.fromfile(tmp_path / "train-000-00000.bin", "<u2").tolist()
    start = tokenizer.start_id
    assert ids == [i for text in TEXTS for i in (start, *tokenizer.encode(text))] + [start]
    assert entry["tokens"] == len(ids)
    assert (entry["documents"], entry["bytes"]) == (len(TEXTS), sum(len(t.encode()) for t in TEXTS))
    assert entry["xxh3_128"] == checksum(tmp_path / "train-000-00000.bin")
    assert (entry["checked"], entry["encoder"]) == (len(TEXTS), "fastokens " + fastokens_version())
    for row, text in zip(pq.read_table(tmp_path / "train-000-00000.parquet").to_pylist(), TEXTS, strict=True):
        assert ids[row["start"] : row["start"] + row["tokens"]] == [start, *tokenizer.encode(text)]
        assert row["bytes"] == len(text.encode())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train-000-00000.bin", "train-000-00000.parquet"]


def fastokens_version() -> str:
    from importlib.metadata import version

    return version("fastokens")


def test_how_documents_arrive_changes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    many = TEXTS * 30 + ["x" * 5_000_000, "y"]
    one = write(tokenizer, tmp_path / "one", [batch(many)])
    parts = [batch(many[n : n + 7], n) for n in range(0, len(many), 7)]
    other = write(tokenizer, tmp_path / "other", [batch(many).slice(0, 0), *parts])
    assert one == other
    assert one["checked"] >= 10


def test_only_the_last_shard_closes_and_both_are_one_run(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    first = write(tokenizer, tokens, [batch(TEXTS[:2])], closes=False)
    second = write(tokenizer, tokens, [batch(TEXTS[2:], 2)], shard=1)
    whole = write(tokenizer, tmp_path / "whole", [batch(TEXTS)])
    assert first["tokens"] + second["tokens"] == whole["tokens"]
    manifest = {"dtype": "<u2", "files": [first, second], "sources": [{"name": "s", "weight": None}]}
    (source,) = open_sources(tmp_path, manifest, "train")
    expected = np.fromfile(tmp_path / "whole" / "train-000-00000.bin", "<u2")
    assert source.read(0, 10**6).tolist() == expected.tolist()
    middle = first["tokens"]
    assert source.read(middle - 3, 7).tolist() == expected[middle - 3 : middle + 4].tolist()
    index = DocumentIndex(source)
    assert index.between(middle - 1, middle + 1) == ["s/f#1", "s/f#2"]
    assert [row["offset"] for row in index.rows(0, 10**6)] == [0, 10, 20, 30, 40]
    (tokens / "train-000-00001.bin").write_bytes(b"cut")
    with pytest.raises(UserError, match="cut short"):
        open_sources(tmp_path, manifest, "train")


def test_nothing_to_write_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with ShardWriter(tmp_path, Encoder(tokenizer), "train", 0, 0) as writer:
        assert writer.finish(True) is None
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_with_an_end_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    config = tmp_path / "t" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "<|im_end|>"}))
    apart = Tokenizer(tmp_path / "t")
    write(apart, tmp_path / "tokens", [batch(TEXTS)], closes=False)
    ids = np.fromfile(tmp_path / "tokens" / "train-000-00000.bin", "<u2").tolist()
    assert ids == [i for text in TEXTS for i in (0, *apart.encode(text), 2)]
    for row in pq.read_table(tmp_path / "tokens" / "train-000-00000.parquet").to_pylist():
        assert (ids[row["start"]], ids[row["start"] + row["tokens"] - 1]) == (0, 2)


def test_a_difference_from_the_reference_names_the_document(tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoder = Encoder(tokenizer)
    other = train_tokenizer(TEXTS, 700, 10**6, tmp_path / "other", "gpt2")
    encoder.fast = fastokens.Tokenizer.from_json_str(other.content.decode())
    folder = tmp_path / "tokens"
    with pytest.raises(UserError, match="encodes this document otherwise") as caught:
        write(tokenizer, folder, [batch(["a", "don't 12345 !!\n\n\n  x", "b"])], encoder=encoder)
    assert caught.value.where == "s/f#1"
    assert list(folder.iterdir()) == []


def test_what_the_fast_encoder_does_not_know_is_left_to_the_reference(tmp_path: Path) -> None:
    words = HfTokenizer(models.WordLevel({"<s>": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    encoder = Encoder(Tokenizer(tmp_path))
    assert encoder.fallback is not None
    assert encoder.name.startswith("tokenizers")
    ids, offsets = encoder.encode(["a b", "", "b c"])
    assert (ids.tolist(), offsets.tolist()) == ([2, 3, 3, 1], [0, 2, 2, 4])
    assert Encoder(Tokenizer(tmp_path), "tokenizers").fallback is None


def test_encoding_takes_one_thread(tokenizer: Tokenizer) -> None:
    code = """
import os, sys
from pathlib import Path
from groundup.data.tokens.encoder import Encoder, Engine, unicode_version
from groundup.data.tokens.tokenizer import Tokenizer
tokenizer = Tokenizer(Path(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
encoder = Encoder(tokenizer)
encoder.encode(["It's one text of many words.\\n" * 20000] * 20)
assert len(os.listdir("/proc/self/task")) == before, os.listdir("/proc/self/task")
"""
    subprocess.run([sys.executable, "-c", code, str(tokenizer.folder)], check=True)


@pytest.mark.parametrize(("content", "what"), [('{"bos_token": ', "not valid JSON"), ("[1]", "holds no JSON object")])
def test_a_damaged_tokenizer_config_is_named(tokenizer: Tokenizer, tmp_path: Path, content: str, what: str) -> None:
    folder = tmp_path / "t"
    tokenizer.save(folder)
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=what) as refused:
        Tokenizer(folder)
    assert refused.value.where == str(folder / "tokenizer_config.json")


@pytest.mark.parametrize("engine", ["fastokens", "tokenizers"])
def test_the_encoder_s_unicode_is_told_by_its_letters(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    unicode_version.cache_clear()
    found = unicode_version(engine)
    assert 13 <= float(found) < 20
    # What no version has as a letter is none for the encoder, so that it is not told by chance.
    monkeypatch.setattr("groundup.data.tokens.encoder._FIRST_OF", {"99.0": "\U0001f600", "13.0": "\U00030000"})
    unicode_version.cache_clear()
    assert unicode_version(engine) == "13.0"
    unicode_version.cache_clear()
