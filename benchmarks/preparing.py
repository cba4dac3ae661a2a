"""The whole of `groundup prepare` with every stage on, from raw JSON lines to token shards, at three sizes.

Half the megabytes are twice a quarter, and so on: the seconds of the whole process tell whether time grows as the data
does. CPU seconds and peak memory are those of the whole process tree. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import processes
from corpus import corpus

RECIPE = Path(__file__).resolve().parent.parent / "examples" / "corpus.toml"


def command(file: Path, run: Path, *words: str) -> list[str | Path]:
    source = f'data.sources=[{{path="{file}"}}]'
    return [sys.executable, "-m", "groundup", "prepare", RECIPE, "--run-dir", run, "--set", source, *words, "--json"]


def measure(file: Path, run: Path, words: list[str]) -> dict[str, Any]:
    megabytes = file.stat().st_size / 1e6
    use = processes.run(command(file, run, *words))
    found = json.loads(use.output)
    shutil.rmtree(run)
    return {
        **use.figures(megabytes),
        "megabytes_per_second": round(megabytes / use.seconds, 2),
        "peak_memory_told_mb": found["peak_memory_mb"],
        "stages": {
            stage["name"]: {key: stage[key] for key in ("seconds", "cpu_seconds", "dropped")}
            for stage in found["stages"]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], help="more for the recipe")
    options = parser.parse_args()
    words = [word for setting in options.set for word in ("--set", setting)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="preparing-") as temporary:
        files = [corpus(options.megabytes // share) for share in (4, 2, 1)]
        measure(corpus(10), Path(temporary) / "first", words)  # kernels are compiled
        for file in files:
            row = measure(file, Path(temporary) / file.stem, words)
            rows.append(row)
            stages = ", ".join(f"{name} {stage['cpu_seconds']:.1f}" for name, stage in row["stages"].items())
            print(
                f"{row['megabytes']:7.0f} MB {row['seconds']:7.1f} s {row['megabytes_per_second']:6.1f} MB/s, "
                f"CPU {row['cpu_seconds']:.1f} s, peak {row['peak_memory_mb']:,.0f} MB; CPU s of tasks: {stages}",
                flush=True,
            )
    growth = [round(later["seconds"] / earlier["seconds"], 2) for earlier, later in pairwise(rows)]
    print(f"twice the data takes {' and '.join(map(str, growth))} times as long")
    print(json.dumps({"rows": rows, "growth": growth}))


if __name__ == "__main__":
    main()
