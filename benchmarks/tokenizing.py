"""Tokenizing: groundup's shard encoder against Hugging Face tokenizers, both in one run, in one thread.

Trains a tokenizer on a sample of the corpus, then encodes it: groundup whole, from Arrow batches to token files and
their index, with its own checks and checksums; tokenizers, in batches, a sample of the documents, to lists of ids and
no further. The ids of every document of the sample are compared, and the numbers of those that differ are printed.
Speeds are of this process's CPU seconds, on all its threads; no other process works. Prints one JSON object on the last
line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus import corpus, texts

from groundup.data.tokens.encode import ShardWriter
from groundup.data.tokens.encoder import Encoder
from groundup.data.tokens.split import PATTERNS
from groundup.data.tokens.train import train_tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"
BATCH_BYTES = 4 << 20


def batches(documents: list[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    start, size = 0, 0
    for stop, (_, text) in enumerate(documents, 1):
        size += len(text)
        if size >= BATCH_BYTES or stop == len(documents):
            names, bodies = zip(*documents[start:stop], strict=True)
            columns = {"id": pa.array(names), "file": pa.array(names), "offset": pa.array([0] * len(names))}
            yield pa.record_batch({**columns, "text": pa.array(bodies, pa.large_string())})
            start, size = stop, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="of the corpus")
    parser.add_argument("--sample", type=int, default=10_000_000, help="bytes that tokenizers encodes, for comparison")
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--train", type=int, default=10_000_000, help="bytes to train on")
    parser.add_argument("--split", default="gpt4", help=f"one of {', '.join(PATTERNS)}, or a regular expression")
    options = parser.parse_args()
    documents = [(str(number), text) for number, text in enumerate(texts(corpus(options.megabytes))) if text]
    total = sum(len(text.encode()) for _, text in documents)
    print(f"{len(documents):,} documents, {total / 1e6:,.1f} MB", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begin = time.process_time()
        tokenizer = train_tokenizer(
            (text for _, text in documents), options.vocabulary, options.train, folder / "tokenizer", options.split
        )
        training = time.process_time() - begin
        arrow = list(batches(documents))
        begin = time.process_time()
        encoder = Encoder(tokenizer)
        loading = time.process_time() - begin
        with ShardWriter(folder, encoder, "train", 0, 0) as writer:
            for part in arrow:
                writer.add(part)
            entry = writer.finish(closes=True)
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
        ends = np.cumsum([0, *(len(ids) + 1 for ids in reference)]).tolist()
        different = [
            documents[row][0]
            for row, (ids, (start, stop)) in enumerate(zip(reference, pairwise(ends), strict=True))
            if written[start:stop].tolist() != [tokenizer.start_id, *ids]
        ]
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
        "different_documents": different,
    }
    for name, value in result.items():
        print(f"{name:40} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
