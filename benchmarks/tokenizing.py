"""Tokenizing: groundup's shard encoder against Hugging Face tokenizers, both in one run, in one thread.

Trains a tokenizer on a sample of the text, then encodes it: groundup whole, from Arrow batches to token files and their
index, with its own checks and checksums; tokenizers, in batches, a sample of the documents, to lists of ids and no
further. The ids of every document of the sample are compared. Speeds are of CPU seconds of the process and its
children. The text is that of FOLDER's files, or the Python installation's own sources. Prints one JSON object on the
last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from groundup.data.tokens.encode import encode_shard
from groundup.data.tokens.encoder import Encoder
from groundup.data.tokens.split import PATTERNS
from groundup.data.tokens.train import train_tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"
BATCH_BYTES = 4 << 20


def read(folder: Path, limit: int) -> list[tuple[str, str]]:
    """(name, text) of the folder's UTF-8 files, up to `limit` bytes."""
    documents, size = [], 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if "\0" not in text and text:
            documents.append((str(path.relative_to(folder)), text))
            size += len(text.encode())
        if size > limit:
            break
    return documents


def batches(documents: list[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    start, size = 0, 0
    for stop, (_, text) in enumerate(documents, 1):
        size += len(text)
        if size >= BATCH_BYTES or stop == len(documents):
            names, texts = zip(*documents[start:stop], strict=True)
            columns = {"id": pa.array(names), "file": pa.array(names), "offset": pa.array([0] * len(names))}
            yield pa.record_batch({**columns, "text": pa.array(texts, pa.large_string())})
            start, size = stop, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--limit", type=int, default=500_000_000, help="bytes of text at most")
    parser.add_argument("--sample", type=int, default=10_000_000, help="bytes that tokenizers encodes, for comparison")
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--train", type=int, default=10_000_000, help="bytes to train on")
    parser.add_argument("--split", default="gpt4", help=f"one of {', '.join(PATTERNS)}, or a regular expression")
    options = parser.parse_args()
    documents = read(options.folder, options.limit)
    random.Random(1).shuffle(documents)
    total = sum(len(text.encode()) for _, text in documents)
    print(f"{len(documents):,} documents, {total / 1e6:,.1f} MB", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begin = time.process_time()
        texts = (text for _, text in documents)
        tokenizer = train_tokenizer(texts, options.vocabulary, options.train, folder / "tokenizer", options.split)
        training = time.process_time() - begin
        arrow = list(batches(documents))
        begin = time.process_time()
        encoder = Encoder(tokenizer)
        loading = time.process_time() - begin
        entry = encode_shard(arrow, encoder, folder, "train", 0, 0, closes=True)
        ours = time.process_time() - begin
        assert entry is not None

        size, sample = 0, []
        for _, text in documents:
            sample.append(text)
            size += len(text.encode())
            if size >= options.sample:
                break
        begin = time.process_time()
        reference = []
        for start in range(0, len(sample), 256):
            encoded = tokenizer.inner.encode_batch_fast(sample[start : start + 256], add_special_tokens=False)
            reference += [e.ids for e in encoded]
        theirs = time.process_time() - begin
        written = np.fromfile(folder / f"{entry['name']}.bin", "<u2" if options.vocabulary <= 65_536 else "<u4")
        expected = [i for ids in reference for i in (tokenizer.start_id, *ids)]
        identical = written[: len(expected)].tolist() == expected
    result = {
        "megabytes": round(total / 1e6, 1),
        "encoder": entry["encoder"],
        "reference": entry["reference"],
        "train_megabytes_per_cpu_second": round(min(total, options.train) / 1e6 / training, 2),
        "load_cpu_seconds": round(loading, 3),
        "groundup_megabytes_per_cpu_second": round(total / 1e6 / ours, 2),
        "tokenizers_megabytes_per_cpu_second": round(size / 1e6 / theirs, 3),
        "ratio": round(total / ours / (size / theirs), 1),
        "compared_documents": len(sample),
        "identical": identical,
    }
    for name, value in result.items():
        print(f"{name:40} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
