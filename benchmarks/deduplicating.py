"""Exact and near deduplication of a Parquet file to a Parquet file, beside DuckDB, Polars and datatrove.

Every side runs in a process of its own with one thread, and writes the documents that stay with zstd at level 1.
datatrove gets a smaller sample, being slow. The exact duplicates are counted for each source by a plain set of texts,
and Groundup must drop as many. Near duplicates are held against all pairs of a sample of the corpus, one of its
documents in two with planted copies (`pairs.py`). Prints one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from corpus import SOURCES, corpus, parquet
from environments import BENCHMARKS, DATAFRAMES, DATATROVE, environment
from numpy.typing import NDArray

SHARD_GROUPS = 4  # row groups of a shard, about 32 MB of text as in `prepare`
MEMORY = 100 << 20  # bytes that sorting may take
THRESHOLD, PERMUTATIONS, NGRAM = 0.7, 128, 5


def texts(file: Path, columns: list[str] | None = None) -> Iterator[tuple[int, int, pa.Table]]:
    """(shard, its row where the group begins, group) for each row group."""
    with pq.ParquetFile(file, pre_buffer=False) as source:
        row = 0
        for group in range(source.num_row_groups):
            row = 0 if group % SHARD_GROUPS == 0 else row
            table = source.read_row_group(group, columns, use_threads=False)
            yield group // SHARD_GROUPS, row, table
            row += len(table)


def rewrite(file: Path, out: Path, dropped: NDArray[np.uint64]) -> None:
    """The documents that aren't in the sorted numbers."""
    from groundup.data.dedup.arrays import document_numbers

    with pq.ParquetWriter(out, pq.read_schema(file), compression="zstd", compression_level=1) as writer:
        for shard, row, table in texts(file):
            numbers = document_numbers(shard, row + len(table))[row:]
            first, last = np.searchsorted(dropped, (numbers[0], numbers[-1] + np.uint64(1)))
            if first < last:
                table = table.filter(pa.array(~np.isin(numbers, dropped[first:last])))
            writer.write_table(table)


def exact(file: Path, out: Path) -> None:
    """The work of the stage exact_dedup, and the documents left."""
    from groundup.data.dedup.arrays import document_numbers, partitions_for
    from groundup.data.dedup.exact import BYTES_PER_ENTRY, duplicates, scatter
    from groundup.data.dedup.hashes import content_hashes

    files: dict[int, Path] = {}
    hashes: list[NDArray[np.uint64]] = []
    total = 0

    def finish(shard: int) -> None:
        nonlocal total
        files[shard] = out.with_name(f"{out.stem}-{shard}.npy")
        found = np.concatenate(hashes)
        scatter(found, document_numbers(shard, len(found)), files[shard])
        total += len(found)
        hashes.clear()

    shard = 0
    for here, _, table in texts(file, ["text"]):
        if here != shard:
            finish(shard)
            shard = here
        hashes.append(content_hashes(table["text"].combine_chunks()))
    finish(shard)
    partitions = partitions_for(total, BYTES_PER_ENTRY, MEMORY)
    pairs = [duplicates(list(files.values()), part, partitions)[:, 0] for part in range(partitions)]
    rewrite(file, out, np.sort(np.concatenate(pairs)))


def near(file: Path, out: Path) -> None:
    """The work of the stage near_dedup, and the documents left."""
    from groundup.data.dedup import keep
    from groundup.data.dedup.arrays import document_numbers, partitions_for, save
    from groundup.data.dedup.bands import choose_bands, scatter_bands
    from groundup.data.dedup.candidates import BYTES_PER_ENTRY, band_edges
    from groundup.data.dedup.components import components
    from groundup.data.dedup.signatures import signatures

    banding = choose_bands(THRESHOLD, PERMUTATIONS)
    signed: list[NDArray[np.uint32]] = []
    counts: list[int] = []
    lengths: list[NDArray[np.int64]] = []

    def place(kind: str, number: int) -> Path:
        return out.with_name(f"{out.stem}-{kind}-{number}.npy")

    def finish() -> None:
        found, shard = np.concatenate(signed), len(counts)
        save(place("signatures", shard), found)
        chosen, bands = np.ones(len(found), bool), (banding.bands, banding.rows)
        scatter_bands(found, chosen, document_numbers(shard, len(found)), bands, place("bands", shard))
        counts.append(len(found))
        signed.clear()

    for here, _, table in texts(file, ["text"]):
        if here != len(counts):
            finish()
        text = table["text"].combine_chunks()
        signed.append(signatures(text, PERMUTATIONS, NGRAM, 0))
        lengths.append(np.asarray(pc.binary_length(text)))
    finish()
    shards = range(len(counts))
    partitions = partitions_for(sum(counts), BYTES_PER_ENTRY, MEMORY)
    names = []
    for band in range(banding.bands):
        for part in range(partitions):
            names.append(place("edges", band * partitions + part))
            bands, all_signatures = ([place(kind, shard) for shard in shards] for kind in ("bands", "signatures"))
            save(names[-1], band_edges(bands, all_signatures, banding, band, part, partitions))
    roots, kept = place("roots", 0), place("kept", 0)
    components(names, counts, roots)
    sizes = np.split(np.concatenate(lengths), np.cumsum(counts)[:-1])
    keep.choose_kept(roots, sizes, kept)
    dropped = [keep.dropped(roots, kept, counts, shard)[:, 0] for shard in shards]
    rewrite(file, out, np.concatenate(dropped))


def measure(job: str, side: str, file: Path, work: Path) -> tuple[processes.Use, int]:
    """What it took, and how many documents are left."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        out = Path(temporary) / "out.parquet"
        if side == "datatrove":
            script = BENCHMARKS / "peers" / "datatrove_pipeline.py"
            use = processes.run([environment(*DATATROVE), script, job, file, temporary])
            (out,) = Path(temporary, "documents").glob("*.parquet")
        elif side == "groundup":
            use = processes.run([sys.executable, __file__, "--job", job, "--file", file, "--out", out])
        else:
            script = BENCHMARKS / "peers" / "dataframe_dedup.py"
            use = processes.run([environment(*DATAFRAMES), script, side, file, out], {"POLARS_MAX_THREADS": "1"})
        return use, pq.read_metadata(out).num_rows


def counted(path: Path) -> dict[str, int]:
    """Exact duplicates within each source, and over all of them, by a plain set."""
    seen: set[str | tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    with path.open("rb") as lines:
        for line in lines:
            record = json.loads(line)
            for name, key in ((record["source"], (record["source"], record["text"])), ("all", record["text"])):
                counts[name] += key in seen
                seen.add(key)
    return {name: counts[name] for name in (*SOURCES, "all")}


def sample(path: Path, documents: int) -> list[str]:
    """Texts of the corpus's beginning, as many of each source."""
    wanted = dict.fromkeys(SOURCES, documents // len(SOURCES))
    found = []
    with path.open("rb") as lines:
        for line in lines:
            record = json.loads(line)
            if wanted[record["source"]]:
                wanted[record["source"]] -= 1
                found.append(record["text"])
    return found


def compare(job: str, sides: dict[str, Path], sizes: dict[Path, float], work: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    measure(job, "groundup", next(reversed(sides.values())), work)  # kernels are compiled
    for side, file in sides.items():
        use, left = measure(job, side, file, work)
        found[side] = {**use.figures(sizes[file]), "documents_left": left}
        print(
            f"{job:<6}{side:<12}{found[side]['megabytes_per_cpu_second']:10.2f} MB per CPU second, peak "
            f"{use.peak_memory_mb:8,.0f} MB, {left:,} documents left",
            flush=True,
        )
    ours = found["groundup"]["megabytes_per_cpu_second"]
    ratios = {side: round(ours / found[side]["megabytes_per_cpu_second"], 2) for side in sides if side != "groundup"}
    return {**found, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--sample", type=int, default=10, help="megabytes of datatrove's MinHash")
    parser.add_argument("--exact-sample", type=int, default=100, help="megabytes of datatrove's exact deduplication")
    parser.add_argument("--documents", type=int, default=3000, help="documents of the exhaustive check, before copies")
    parser.add_argument("--job", choices=("exact", "near"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        {"exact": exact, "near": near}[options.job](options.file, options.out)
        return
    from pairs import check, plant

    path = corpus(options.megabytes)
    result: dict[str, Any] = {"exact_duplicates": counted(path)}
    with tempfile.TemporaryDirectory(prefix="deduplicating-") as temporary:
        work = Path(temporary)
        whole, part, small = (work / f"{name}.parquet" for name in ("whole", "part", "small"))
        sizes = {
            whole: parquet(path, whole),
            part: parquet(corpus(options.exact_sample), part),
            small: parquet(corpus(options.sample), small),
        }
        sides = {"groundup": whole, "duckdb": whole, "polars": whole, "datatrove": part}
        result["exact"] = compare("exact", sides, sizes, work)
        result["near"] = compare("near", {"groundup": whole, "datatrove": small}, sizes, work)
        dropped = pq.read_metadata(whole).num_rows - result["exact"]["groundup"]["documents_left"]
    print(f"exact duplicates by a set: {result['exact_duplicates']}; dropped: {dropped}")
    if dropped != result["exact_duplicates"]["all"]:
        sys.exit("Groundup dropped another number of exact duplicates than there are")
    planted = plant(sample(path, options.documents), options.documents // 2)
    result["pairs"] = [check(planted, threshold) for threshold in (0.7, 0.8)]
    for row in result["pairs"]:
        print(row)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
