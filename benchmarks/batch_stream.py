"""The batch stream: tokens per CPU second, and how long a prepared set of 10^12 tokens takes to open.

The set is simulated: sparse files of the true sizes (they take no room on the disk), with a manifest of the true kind.
Batches are of micro-batch x length tokens, int64, with labels, weights and document ids, shuffled over a set that is
really there. The file pages are in memory, so no disk is measured. One process; CPU seconds are of the whole process.
Prints one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from groundup.data.batches.stream import TokenStream
from groundup.data.tokens.index import document_lengths
from groundup.data.tokens.packed import packed_windows
from groundup.data.tokens.shards import checksum, open_sources

SHARD_TOKENS = 32_000_000


def simulated(folder: Path, tokens: int, sources: int) -> dict[str, Any]:
    """Sparse token files and their manifest."""
    (folder / "tokens").mkdir(parents=True)
    files = []
    for number in range(tokens // SHARD_TOKENS):
        name = f"train-{number % sources:03d}-{number // sources:05d}"
        with (folder / "tokens" / f"{name}.bin").open("wb") as file:
            file.truncate(SHARD_TOKENS * 2)
        entry = {"name": name, "split": "train", "source": number % sources, "documents": 30_000}
        files.append({**entry, "tokens": SHARD_TOKENS, "bytes": 4 * SHARD_TOKENS, "xxh3_128": "0" * 32})
    described = [{"name": f"source-{n}", "weight": float(n + 1)} for n in range(sources)]
    return {"dtype": "<u2", "files": files, "sources": described}


def opening(folder: Path, tokens: int, length: int) -> dict[str, Any]:
    """Seconds from the manifest's text to the first batch."""
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(simulated(folder, tokens, 8), indent=1))
    torch.zeros(1)
    begin = time.perf_counter()
    stream = TokenStream(open_sources(folder, json.loads(manifest.read_text()), "train"), length, 1, 0, True)
    opened = time.perf_counter()
    stream.samples(0, 64)
    return {
        "tokens": sum(s.tokens for s in stream.sources),
        "files": sum(len(s.maps) for s in stream.sources),
        "seconds": round(opened - begin, 3),
        "first_batch_seconds": round(time.perf_counter() - opened, 3),
    }


def real(folder: Path, tokens: int, mean: int) -> dict[str, Any]:
    """Documents of random ids with lengths as the web's are spread (log-normal), 32-bit starts marked by id 0."""
    (folder / "tokens").mkdir(parents=True)
    generator = np.random.default_rng(1)
    lengths = np.maximum(2, generator.lognormal(np.log(mean) - 0.5, 1.0, tokens // mean).astype(np.int64))
    ids = generator.integers(1, 50_000, int(lengths.sum()) + 1).astype("<u2")
    starts = np.cumsum(lengths) - lengths
    ids[starts] = ids[-1] = 0
    ids.tofile(folder / "tokens" / "train-000-00000.bin")
    index = {"id": [str(n) for n in range(len(starts))], "start": starts, "tokens": lengths}
    pq.write_table(pa.table(index), folder / "tokens" / "train-000-00000.parquet")
    entry = {"name": "train-000-00000", "split": "train", "source": 0, "tokens": len(ids), "xxh3_128": ""}
    return {"dtype": "<u2", "files": [entry], "sources": [{"name": "s", "weight": None}]}


def rate(stream: TokenStream, rows: int, batches: int) -> float:
    """Tokens per CPU second."""
    stream.samples(0, rows)
    begin = time.process_time()
    for n in range(batches):
        stream.samples(n * rows, (n + 1) * rows)
    return batches * rows * stream.length / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sample")
    parser.add_argument("--rows", type=int, default=64, help="samples of a micro-batch")
    parser.add_argument("--tokens", type=int, default=200_000_000, help="tokens of the set that is there")
    parser.add_argument("--batches", type=int, default=300, help="micro-batches that are timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        opened = opening(folder / "simulated", 10**12, options.length)
        manifest = real(folder / "real", options.tokens, 1000)
        path = folder / "real" / "tokens" / "train-000-00000.bin"
        manifest["files"][0]["xxh3_128"] = checksum(path)
        sources = open_sources(folder / "real", manifest, "train")
        result: dict[str, Any] = {"opening": opened}
        plain = TokenStream(sources, options.length, 1, 0, True)
        result["concatenate"] = round(rate(plain, options.rows, options.batches))
        begin = time.process_time()
        packed = packed_windows(folder / "packed", "bench", sources[0], options.length, True)
        result["packing_seconds_per_million_documents"] = round(
            (time.process_time() - begin) / sum(map(len, document_lengths(sources[0]))) * 1e6, 3
        )
        best = TokenStream(sources, options.length, 1, 0, True, [packed])
        result["best_fit"] = round(rate(best, options.rows, options.batches))
        result["best_fit_share_of_padding"] = round(1 - (sources[0].tokens - 1) / (len(packed) * options.length), 6)
    for name, value in result.items():
        print(f"{name:40} {value:,}" if isinstance(value, int) else f"{name:40} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
