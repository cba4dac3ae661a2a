"""Quality statistics and filters: Groundup beside datatrove and beside Polars' expressions, per CPU second.

Every side reads the same kind of Parquet file and writes what it found of each document, in one thread. Groundup
computes all its statistics and asks all rules of Gopher, C4 and FineWeb of every document, as the stages tag and filter
do, with and without the language that CLD2 tells; without it every document is judged as English, as datatrove judges
it. Polars has one side with n-grams and one without, as regular expressions can't count them. datatrove and Polars with
n-grams get a smaller sample, being slow. `start` is what a side takes for one document; ratios are of everything, and
again without the start. With several repeats the sides take turns, and each figure is that of the median repeat. Prints
one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import processes
import pyarrow as pa
import pyarrow.parquet as pq
from corpus import corpus, parquet
from environments import BENCHMARKS, DATAFRAMES, DATATROVE, environment

ROWS_AT_ONCE = 1 << 16  # documents whose tags are judged together, as by the stage filter
SIDES = ("groundup", "groundup with language", "polars", "polars without n-grams", "datatrove")


def groundup(file: Path, out: Path, detect: bool) -> None:
    """The work of the stages tag and filter."""
    from groundup.data.filters.presets import all_rules
    from groundup.data.filters.rules import decide
    from groundup.data.tags.language import languages
    from groundup.data.tags.statistics import statistics

    rules = all_rules(["gopher-repetition", "gopher-quality", "c4", "fineweb"])
    waiting: list[pa.Table] = []
    with pq.ParquetFile(file) as source, ExitStack() as stack:
        writer = None
        for group in range(source.num_row_groups):
            text = source.read_row_group(group, ["text"], use_threads=False)["text"].combine_chunks()
            language = languages(text)["language"] if detect else pa.array(["en"] * len(text))
            waiting.append(statistics(text).append_column("language", language.cast(pa.string())))
            if sum(map(len, waiting)) < ROWS_AT_ONCE and group < source.num_row_groups - 1:
                continue
            tags = pa.concat_tables(waiting)
            waiting.clear()
            tags = tags.append_column("reason", decide(rules, tags))
            writer = writer or stack.enter_context(
                pq.ParquetWriter(out, tags.schema, compression="zstd", use_dictionary=["language", "reason"])
            )
            writer.write_table(tags)


def measure(side: str, file: Path, work: Path) -> processes.Use:
    out = work / f"{side}-{file.stem}"
    if side == "datatrove":
        return processes.run(
            [environment(*DATATROVE), BENCHMARKS / "peers" / "datatrove_pipeline.py", "filter", file, out]
        )
    if side.startswith("polars"):
        extra = ["n-grams"] if side == "polars" else []
        script = BENCHMARKS / "peers" / "polars_filter.py"
        return processes.run([environment(*DATAFRAMES), script, file, out, *extra], {"POLARS_MAX_THREADS": "1"})
    detect = ["--language"] if "language" in side else []
    return processes.run([sys.executable, __file__, "--file", file, "--out", out, *detect])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500, help="of Groundup and Polars")
    parser.add_argument("--sample", type=int, default=10, help="megabytes of datatrove")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--language", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        groundup(options.file, options.out, options.language)
        return
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="filtering-") as temporary:
        work = Path(temporary)
        one, whole, sample = (work / f"{name}.parquet" for name in ("one", "whole", "sample"))
        parquet(corpus(1), one, rows=1)
        sizes = {whole: parquet(corpus(options.megabytes), whole), sample: parquet(corpus(options.sample), sample)}
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for repeat, side in product(range(options.repeats), SIDES):
            if repeat == 0:
                measure(side, one, work)  # compiles and fills caches
            start = measure(side, one, work).cpu_seconds
            file = sample if side in ("polars", "datatrove") else whole
            use = measure(side, file, work)
            figures = use.figures(sizes[file])
            figures["start_cpu_seconds"] = round(start, 2)
            figures["without_start"] = round(sizes[file] / (use.cpu_seconds - start), 3)
            runs[side].append(figures)
            print(
                f"{side:<24}{figures['megabytes_per_cpu_second']:10.2f} MB per CPU second, "
                f"{figures['without_start']:10.2f} without the start of {start:.1f} s",
                flush=True,
            )
        result |= {side: {key: median(run[key] for run in of) for key in of[0]} for side, of in runs.items()}
    for peer in SIDES[2:]:
        for key in ("megabytes_per_cpu_second", "without_start"):
            result[f"{peer}_ratio_{key}"] = round(result["groundup"][key] / result[peer][key], 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
